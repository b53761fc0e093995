//! Turns refusals into responses: the only file where a failure becomes a status.

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::log::appender::Refusal;
use crate::metrics;
use crate::store::StoreError;
use crate::wire::problem::Problem;

/// The header that carries the request's id. The id is in the log as well.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// A refusal before it has a body. [`finish`] writes the body, where the request's id is known.
#[derive(Clone)]
pub struct RefusedRequest(pub Problem);

impl From<Problem> for RefusedRequest {
    fn from(problem: Problem) -> Self {
        Self(problem)
    }
}

impl IntoResponse for RefusedRequest {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// Writes the problem body of a refusal.
pub fn finish(response: Response, request_id: &str) -> Response {
    let Some(RefusedRequest(problem)) = response.extensions().get().cloned() else { return response };
    metrics::REFUSED.one(problem.code);
    let (mut parts, _) = response.into_parts();
    parts.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    parts.headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(seconds) = problem.retry_after {
        parts.headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    match problem.status {
        401 => {
            parts.headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        // RFC 9110 section 15.5.22 and RFC 6455 section 4.4.
        426 => {
            parts.headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            parts.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            parts.headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        }
        // The rest of the body is not read, so the connection cannot be used again.
        408 | 413 => {
            parts.headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        _ => {}
    }
    Response::from_parts(parts, problem.body(request_id).into())
}

impl From<Refusal> for RefusedRequest {
    fn from(refusal: Refusal) -> Self {
        Self(match refusal {
            Refusal::OtherBody { .. } => Problem::new(
                422,
                "idempotency_conflict",
                "this idempotency key was used before with another body; nothing was appended. Use a new key for a new notification",
            ),
            Refusal::Overloaded => {
                Problem::new(503, "overloaded", "too many notifications are waiting; nothing was appended. Retry later").retry_after(1)
            }
            Refusal::Unavailable => Problem::new(
                503,
                "unavailable",
                "the database did not store the notification in time; nothing was appended. Retry later, best with an idempotency key",
            )
            .retry_after(2),
            Refusal::Unknown => Problem::new(
                503,
                "outcome_unknown",
                "it is not known whether the notification was appended. Retry with the same idempotency key: it is stored once",
            )
            .retry_after(2),
            Refusal::Unacceptable => Problem::new(500, "internal", "the database refused the notification; nothing was appended"),
        })
    }
}

impl From<StoreError> for RefusedRequest {
    fn from(error: StoreError) -> Self {
        tracing::warn!(%error, "request failed: database error");
        Self(match error {
            StoreError::Broken(_) => Problem::new(500, "internal", "internal error; the hub's log has the details"),
            _ => Problem::new(503, "unavailable", "the database is not available. Retry later").retry_after(2),
        })
    }
}
