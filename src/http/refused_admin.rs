//! Counts refused requests to the routes of admins, for the audit.

use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::Response;

use super::auth::audited_address;
use super::problems::RefusedRequest;
use super::refused_attempts::Attempt;
use super::state::HubState;

/// Whether a route is for admins, changes what users receive, or reads what was posted to others.
fn is_admins(route: &str) -> bool {
    route.starts_with("/api/admin/")
        || route.starts_with("/api/internal/accounts/")
        || route.starts_with("/api/internal/consumers/")
        || matches!(route, "/stats" | "/api/internal/ws-stats")
}

/// Counts a refusal of a route for admins. Other routes are passed on.
pub async fn watch(State(hub): State<Arc<HubState>>, request: Request, next: Next) -> Response {
    let Some(route) = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned()).filter(|route| is_admins(route))
    else {
        return next.run(request).await;
    };
    let (method, headers) = (request.method().clone(), request.headers().clone());
    let response = next.run(request).await;
    let refused = response.extensions().get::<RefusedRequest>().filter(|RefusedRequest(problem)| matches!(problem.status, 401 | 403));
    if let Some(RefusedRequest(problem)) = refused {
        // The detail of a missing scope names the user of the request. An erasure could not remove that id.
        let reason =
            if problem.code == "scope_missing" { problem.code.to_owned() } else { format!("{}: {}", problem.code, problem.detail) };
        let (who, user) = hub.auth.refused_caller(&headers).await;
        let attempt = Attempt { route: format!("{method} {route}"), reason, who, user, address: audited_address(&headers) };
        hub.refused_attempts.count(attempt, 1);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_of_users_and_of_posts_are_not_watched() {
        let members = "/api/internal/accounts/{account}/members/{user}";
        for route in ["/api/admin/why", "/stats", members, "/api/internal/consumers/{name}/fetch"] {
            assert!(is_admins(route), "{route}");
        }
        for route in ["/api/internal/notify", "/ws", "/api/notifications", "/metrics"] {
            assert!(!is_admins(route), "{route}");
        }
    }
}
