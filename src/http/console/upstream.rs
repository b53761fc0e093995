//! Serves `/api/admin/upstream`: lists provider sessions, and asks their owners to act.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};

use crate::http::auth::actor;
use crate::http::named_user::named_provider_and_user;
use crate::http::problems::RefusedRequest;
use crate::http::query::{QueryPairs, no_store, pairs};
use crate::http::request::{BODY_MAX_BYTES, Media, media, whole_body};
use crate::http::state::HubState;
use crate::store::providers::admin::{self, CommandOverview, FoundSessions, SessionOverview, WantedSessions};
use crate::store::providers::leases::AdminRequest;
use crate::wire::console::upstream::{ShownCommand, ShownUpstream, UpstreamAction, UpstreamAsked, UpstreamBody, UpstreamQuery};
use crate::wire::problem::Problem;
use crate::wire::server_frame::timestamp;

/// Most commands that are shown with a user's sessions.
const COMMANDS: i64 = 20;

/// `GET /api/admin/upstream`.
pub async fn list(State(hub): State<Arc<HubState>>, headers: HeaderMap, query: QueryPairs) -> Result<Response, RefusedRequest> {
    hub.auth.reader(&headers).await?;
    let UpstreamQuery { user, state, limit } = UpstreamQuery::parse(&pairs(query)?)?;
    let FoundSessions { sessions, commands } = admin::find(&hub.reader, &WantedSessions { user, state, limit }, COMMANDS).await?;
    let sessions = sessions.into_iter().map(|session| shown(session, commands.as_deref())).collect();
    Ok((no_store(), Json(UpstreamBody { sessions })).into_response())
}

/// `POST /api/admin/upstream/{provider}/{user}`.
pub async fn act(
    State(hub): State<Arc<HubState>>,
    Path((provider, user)): Path<(String, String)>,
    headers: HeaderMap,
    query: QueryPairs,
    body: Body,
) -> Result<Response, RefusedRequest> {
    let caller = hub.auth.admin(&headers).await?;
    media(&headers, &[Media::Json])?;
    let (provider, user) = named_provider_and_user(&provider, &user, query)?;
    let asked = match UpstreamAction::parse(&whole_body(&headers, body, BODY_MAX_BYTES).await?)? {
        UpstreamAction::Reconnect => AdminRequest::Reconnect,
        UpstreamAction::Release => AdminRequest::Release,
    };
    let sessions = admin::ask_as(&hub.reader, &user, &provider, asked, &actor(&headers, &caller)).await?;
    if sessions == 0 {
        let detail = "this user has no session with this provider; GET /api/admin/upstream lists the existing ones";
        return Err(Problem::new(404, "not_found", detail).into());
    }
    tracing::info!(by = caller.name, asked = asked.as_str(), %provider, "asks the owner of a provider session");
    Ok((no_store(), Json(UpstreamAsked { success: true, sessions })).into_response())
}

fn shown(session: SessionOverview, commands: Option<&[CommandOverview]>) -> ShownUpstream {
    let of_provider = |all: &[CommandOverview]| all.iter().filter(|command| command.provider == session.provider).map(command).collect();
    ShownUpstream {
        commands: commands.map(of_provider),
        provider: session.provider,
        user_id: session.user_id,
        state: session.state,
        is_live: session.is_live,
        attempts: session.attempts,
        owner: session.owner,
        term: session.term,
        lease_until: session.lease_until.map(timestamp),
        wanted_until: timestamp(session.wanted_until),
        next_try_at: timestamp(session.next_try_at),
        connected_at: session.connected_at.map(timestamp),
        last_message_at: session.last_message_at.map(timestamp),
        error: session.error,
        asked: session.asked,
    }
}

fn command(command: &CommandOverview) -> ShownCommand {
    ShownCommand {
        command_id: command.command_id,
        client_id: command.client_id.clone(),
        id: command.id.clone(),
        r#type: command.r#type.clone(),
        state: command.state.clone(),
        detail: command.detail.clone(),
        term: command.term,
        accepted_at: timestamp(command.accepted_at),
        settled_at: command.settled_at.map(timestamp),
    }
}
