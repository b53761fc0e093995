//! Serves `/api/admin/users/{id}`: one user, the user's notifications, and the position of a device.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use chrono::Utc;

use crate::domain::device_lag::{DeviceState, ListedDevice};
use crate::domain::{AccountId, Principal, Seq, UserId};
use crate::http::auth::actor;
use crate::http::history::bounds;
use crate::http::named_user::named_user;
use crate::http::own_session::own_session;
use crate::http::problems::RefusedRequest;
use crate::http::query::{QueryPairs, no_store};
use crate::http::request::{BODY_MAX_BYTES, Media, media, whole_body};
use crate::http::state::HubState;
use crate::store::console::devices::{self, AckOutcome, NewestNumbers};
use crate::store::console::sessions;
use crate::store::console::users::{self, UserFacts};
use crate::store::read;
use crate::store::sessions::StoredSession;
use crate::store::why::facts_of;
use crate::wire::console::devices::why;
use crate::wire::console::users::{
    DeviceAckBody, DeviceAckedBody, DeviceBody, ForgottenBody, JudgedNotification, UNACKED_MAX, UserBody, UserPageQuery, UserSessionBody,
    notifications as page_body, optional_time,
};
use crate::wire::problem::Problem;
use crate::wire::server_frame::timestamp;

/// Most sessions of one user on other instances.
const SESSIONS_MAX: i64 = 1000;

/// `GET /api/admin/users/{id}`.
pub async fn show(
    State(hub): State<Arc<HubState>>,
    Path(id): Path<String>,
    headers: HeaderMap,
    query: QueryPairs,
) -> Result<Response, RefusedRequest> {
    hub.auth.reader(&headers).await?;
    let (user, _) = named_user("id", &id, query)?;
    let _turn = hub.console_reads.acquire().await;
    let facts = users::facts(&hub.reader, &user).await?;
    let newest = newest_numbers(&hub, &user, &facts).await?;
    let elsewhere = sessions::of_user_elsewhere(&hub.reader, &user, hub.instance, SESSIONS_MAX).await?;
    let upstream = facts.upstream.iter().any(|session| session.is_live);
    let here = hub.delivery.registry.of_user(&user);
    let here = here.iter().filter(|connection| connection.has_begun());
    let mut open: Vec<UserSessionBody> = here.map(|connection| stored(own_session(connection, hub.instance), upstream)).collect();
    open.extend(elsewhere.into_iter().map(|session| stored(session, upstream)));
    let body = UserBody {
        as_of: timestamp(Utc::now()),
        head: facts.log.head,
        devices: facts.devices.iter().map(|known| device(known, &facts, &newest, &open)).collect(),
        forgotten: facts.forgotten.map(|mark| ForgottenBody { from_seq: mark.from, devices: mark.devices }),
        sessions: open,
        upstream: facts.upstream,
        members_of: facts.members_of,
        inbox: facts.inbox,
        revoked_before: optional_time(facts.revocation.as_ref().map(|revocation| revocation.not_before)),
        revoked_reason: facts.revocation.map(|revocation| revocation.reason),
        user_id: user,
    };
    Ok((no_store(), Json(body)).into_response())
}

/// The user, with the accounts of the newest stored sessions. The store adds those of the table of members.
fn principal(user: &UserId, accounts: &[String]) -> Principal {
    // Ids were checked when the session began.
    Principal { user: user.clone(), accounts: accounts.iter().filter_map(|account| AccountId::parse(account).ok()).collect() }
}

/// One read for all devices: each counts those above its own position.
async fn newest_numbers(hub: &HubState, user: &UserId, facts: &UserFacts) -> Result<NewestNumbers, RefusedRequest> {
    let Some(lowest) = facts.devices.iter().map(|device| device.acked).min() else { return Ok(NewestNumbers::default()) };
    let most = i64::try_from(UNACKED_MAX + 1).unwrap_or(i64::MAX);
    let who = principal(user, &facts.token_accounts);
    Ok(devices::newest_numbers(&hub.reader, &who, lowest.max(facts.log.floor), facts.log.head, most).await?)
}

fn device(known: &ListedDevice, facts: &UserFacts, newest: &NewestNumbers, open: &[UserSessionBody]) -> DeviceBody {
    let unacked = newest.above(known.acked);
    let client_id = known.client.clone().unwrap_or_default();
    // A session of this instance may not be stored yet, and one that just ended may still be.
    let connected = open.iter().any(|session| session.client_id == client_id);
    let state = if connected { DeviceState::Connected } else { DeviceState::Away };
    let known = ListedDevice { unacked: Some(unacked), state, ..known.clone() };
    DeviceBody {
        acked: known.acked,
        lag: facts.log.head.since(known.acked),
        unacked: unacked.count.min(UNACKED_MAX),
        unacked_more: unacked.more || unacked.count > UNACKED_MAX,
        seen_at: known.seen_at.map(timestamp).unwrap_or_default(),
        why: why(&known, facts.log.head, facts.now),
        client_id,
        connected,
    }
}

fn stored(session: StoredSession, upstream: bool) -> UserSessionBody {
    UserSessionBody {
        session_id: session.session.to_string(),
        user_id: session.user,
        account_ids: session.accounts,
        client_id: session.client,
        instance: session.instance.to_string(),
        transport: session.transport,
        connected_at: timestamp(session.connected_at),
        last_activity_at: timestamp(session.last_activity_at),
        sent: session.sent,
        acked: session.acked,
        upstream,
        playground: session.is_playground,
    }
}

/// `GET /api/admin/users/{id}/notifications`.
pub async fn notifications(
    State(hub): State<Arc<HubState>>,
    Path(id): Path<String>,
    headers: HeaderMap,
    query: QueryPairs,
) -> Result<Response, RefusedRequest> {
    // The texts are not for a key with limits.
    hub.auth.admin(&headers).await?;
    let (user, rest) = named_user("id", &id, query)?;
    let UserPageQuery { before, limit } = UserPageQuery::parse(&rest)?;
    let _turn = hub.console_reads.acquire().await;
    let who = principal(&user, &users::token_accounts(&hub.reader, &user).await?);
    let state = read::log_state(&hub.reader).await?;
    let page = read::page_before(&hub.reader, &who, before.unwrap_or(state.head.next()), state.floor, limit).await?;
    let seqs: Vec<Seq> = page.notifications.iter().map(|notification| notification.seq).collect();
    let facts = facts_of(&hub.reader, &user, &seqs).await?;
    let judged = page.notifications.into_iter().zip(facts).map(|(notification, facts)| JudgedNotification { notification, facts });
    let next = (page.through > state.floor.next()).then_some(page.through);
    let body = page_body(&judged.collect::<Vec<_>>(), next);
    Ok(([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], no_store(), body).into_response())
}

/// `POST /api/admin/users/{id}/ack`.
pub async fn ack(
    State(hub): State<Arc<HubState>>,
    Path(id): Path<String>,
    headers: HeaderMap,
    query: QueryPairs,
    body: Body,
) -> Result<Response, RefusedRequest> {
    let caller = hub.auth.admin(&headers).await?;
    let (user, _) = named_user("id", &id, query)?;
    media(&headers, &[Media::Json])?;
    let DeviceAckBody { client, seq } = DeviceAckBody::parse(&whole_body(&headers, body, BODY_MAX_BYTES).await?)?;
    let state = read::log_state(&hub.reader).await?;
    if seq > state.head {
        let detail = "the log ends before this number; send one up to head";
        return Err(Problem::new(409, "ack_ahead", detail).with_bounds(bounds(&state)).into());
    }
    let acked = match devices::ack(&hub.reader, &user, &client, state.log_id, seq, &actor(&headers, &caller)).await? {
        AckOutcome::Moved(acked) => {
            hub.delivery.acked_beside(&user, &client, state.log_id, acked);
            tracing::info!(by = caller.name, "moved the position of a device");
            acked
        }
        AckOutcome::Stays(acked) => acked,
        AckOutcome::UnknownDevice => {
            let detail = "this user has no device with this client_id and a stored position; GET /api/admin/users/{id} lists the devices";
            return Err(Problem::new(404, "unknown_device", detail).into());
        }
    };
    Ok((no_store(), Json(DeviceAckedBody { success: true, acked })).into_response())
}
