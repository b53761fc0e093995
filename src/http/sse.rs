//! `GET /api/notifications/stream`: the stream for an `EventSource`, which resumes by itself.

use std::sync::Arc;

use axum::Extension;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::HeaderMap;
use axum::response::Response;

use super::ask::{Ask, check_origin, check_room};
use super::auth::{bearer, refused_token};
use super::flow;
use super::hub::Hub;
use super::problems::Refused;
use super::server::Hangup;
use super::ticket;
use crate::wire::flow::Form;

pub async fn stream(
    State(hub): State<Arc<Hub>>,
    Extension(hangup): Extension<Hangup>,
    headers: HeaderMap,
    query: Result<Query<Ask>, QueryRejection>,
) -> Result<Response, Refused> {
    check_origin(&hub, &headers)?;
    let ask = Ask::read(query)?;
    let wish = ask.wish_after_event(&headers)?;
    check_room(&hub)?;
    let claims = match &ask.ticket {
        // Last of all checks: whoever is sent away for another reason keeps the ticket.
        Some(ticket) if bearer(&headers).is_none() => ticket::redeem(&hub.reader, ticket).await?.map_err(|e| refused_token(&e))?,
        _ => hub.auth.listener(&headers, ask.token.as_deref())?,
    };
    flow::open(hub, hangup, wish, claims, Form::Events).await
}
