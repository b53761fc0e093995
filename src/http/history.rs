//! Serves `GET /api/notifications`: a user's notifications, in pages or as an endless NDJSON stream.

use std::sync::Arc;

use axum::Extension;
use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};

use super::body_stream;
use super::header_list::accepts;
use super::problems::RefusedRequest;
use super::query::{QueryPairs, no_store, pairs, token};
use super::server::Hangup;
use super::state::HubState;
use super::stream_request::{StreamRequest, check_origin, check_room, check_user_rate};
use crate::domain::{Notification, Principal, Seq, StartTime};
use crate::store::StoreError;
use crate::store::page_scheduler::HistoryPlace;
use crate::store::read::{self, LogState, PrincipalPage};
use crate::wire::history::{HistoryQuery, PageOrder};
use crate::wire::problem::{Bounds, Problem};
use crate::wire::server_frame::notification_record;
use crate::wire::stream_format::StreamFormat;

/// Maximum pages of the log that one answer reads. With a rare type, an answer may end before its limit, even empty;
/// `next` then tells where to continue.
const READS_MAX: usize = 4;

/// Headers for the fields that an NDJSON page has no room for.
pub const RECADO_NEXT: HeaderName = HeaderName::from_static("recado-next");
pub const RECADO_HEAD: HeaderName = HeaderName::from_static("recado-head");
pub const RECADO_LOG_ID: HeaderName = HeaderName::from_static("recado-log-id");

pub async fn list(
    State(hub): State<Arc<HubState>>,
    Extension(hangup): Extension<Hangup>,
    headers: HeaderMap,
    query: QueryPairs,
) -> Result<Response, RefusedRequest> {
    let as_lines = wants_lines(&headers);
    answer(hub, hangup, headers, query, as_lines).await
}

/// Serves `GET /api/notifications/ndjson`, for generated clients: they make one function of a route, with one type.
pub async fn list_ndjson(
    State(hub): State<Arc<HubState>>,
    Extension(hangup): Extension<Hangup>,
    headers: HeaderMap,
    query: QueryPairs,
) -> Result<Response, RefusedRequest> {
    answer(hub, hangup, headers, query, true).await
}

async fn answer(
    hub: Arc<HubState>,
    hangup: Hangup,
    headers: HeaderMap,
    query: QueryPairs,
    as_lines: bool,
) -> Result<Response, RefusedRequest> {
    check_origin(&hub, &headers)?;
    let pairs = pairs(query)?;
    let claims = hub.auth.listener(&headers, token(&pairs)).await?;
    check_user_rate(&hub, &claims.who)?;
    let query = HistoryQuery::parse(&pairs)?;
    let place = place(&hub, &claims.who)?;
    let turn = place.small_turn().await;
    let state = read::log_state(&hub.reader).await?;
    check_place(&query, &state)?;
    let first = first_after(&hub, &query, &state).await?;
    drop(turn);
    if query.follow {
        drop(place);
        check_room(&hub)?;
        let wish = StreamRequest::after(query.after.unwrap_or(first).max(first), query.log_id, query.types, query.inbox);
        return body_stream::open(hub, hangup, wish, claims, StreamFormat::Lines).await;
    }
    let (notifications, next) = gather(&hub, &claims.who, &query, &state, first).await?;
    Ok(if as_lines { lines(&notifications, next, &state) } else { page(&notifications, next, &state) })
}

pub async fn head(State(hub): State<Arc<HubState>>, headers: HeaderMap, query: QueryPairs) -> Result<Response, RefusedRequest> {
    check_origin(&hub, &headers)?;
    let claims = hub.auth.user(&headers, token(&pairs(query)?)).await?;
    check_user_rate(&hub, &claims.who)?;
    let place = place(&hub, &claims.who)?;
    let _turn = place.small_turn().await;
    Ok((no_store(), Json(bounds(&read::log_state(&hub.reader).await?))).into_response())
}

fn place(hub: &HubState, who: &Principal) -> Result<HistoryPlace, Problem> {
    let detail = "too many requests of this user for the history are being answered; send the next one after the last answer has arrived";
    hub.reader.history_place(&who.user).ok_or_else(|| Problem::new(429, "rate_limited", detail).retry_after(2))
}

pub fn bounds(state: &LogState) -> Bounds {
    Bounds { head: state.head, earliest: state.floor.next(), log_id: state.log_id }
}

fn check_place(query: &HistoryQuery, state: &LogState) -> Result<(), Problem> {
    let Some(after) = query.after else { return Ok(()) };
    if after > state.head || query.log_id.is_some_and(|log_id| log_id != state.log_id) {
        let detail = "the position belongs to another log: the database was restored. Drop local state and start again";
        return Err(Problem::new(409, "reset", detail).with_bounds(bounds(state)));
    }
    // Backwards, the end of the kept rows is simply the end.
    if after < state.floor && query.order == PageOrder::Rising {
        return Err(expired(state));
    }
    Ok(())
}

fn expired(state: &LogState) -> Problem {
    let detail = "the rows after this position are no longer kept; start at earliest";
    Problem::new(410, "expired", detail).with_bounds(bounds(state))
}

/// The number after which all notifications of the answer are.
async fn first_after(hub: &HubState, query: &HistoryQuery, state: &LogState) -> Result<Seq, StoreError> {
    let is_later_page = query.after.is_some() && query.order == PageOrder::Rising;
    match query.since {
        // A duration counts from each request, so by now it may begin after the end of the page before.
        Some(StartTime::Ago(_)) if is_later_page => Ok(state.floor),
        Some(time) => read::last_before(&hub.reader, time, state.floor, state.head).await,
        None => Ok(state.floor),
    }
}

/// Collects a page, and where to continue; `None` if the page is the last.
async fn gather(
    hub: &HubState,
    who: &Principal,
    query: &HistoryQuery,
    state: &LogState,
    first: Seq,
) -> Result<(Vec<Notification>, Option<Seq>), RefusedRequest> {
    let rising = query.order == PageOrder::Rising;
    let (mut at, end) =
        if rising { (query.after.unwrap_or(first).max(first), state.head) } else { (query.after.unwrap_or(state.head.next()), first) };
    let limit = usize::try_from(query.limit).unwrap_or(usize::MAX);
    let on = |at: Seq| (if rising { at < end } else { at > end.next() }).then_some(at);
    let mut found = Vec::new();
    for _ in 0..READS_MAX {
        if on(at).is_none() {
            break;
        }
        let most = if query.filters() { read::PAGE_ROWS } else { i64::try_from(limit - found.len()).unwrap_or(read::PAGE_ROWS) };
        let PrincipalPage { notifications, through, floor } = if rising {
            read::page_of(&hub.reader, who, at, end, most).await?
        } else {
            read::page_before(&hub.reader, who, at, end, most).await?
        };
        // Retention advanced between the two reads. A client that named a position must not be given rows from behind
        // a gap.
        if rising && floor > at && query.after.is_some() {
            return Err(expired(&LogState { floor, ..*state }).into());
        }
        for notification in notifications {
            if query.takes(&notification.kind) {
                at = notification.seq;
                found.push(notification);
                if found.len() == limit {
                    return Ok((found, on(at)));
                }
            }
        }
        at = through;
    }
    Ok((found, on(at)))
}

fn wants_lines(headers: &HeaderMap) -> bool {
    accepts(headers, StreamFormat::Lines.media_type())
}

/// The records are inserted as they are, so that `data` stays byte for byte as it was posted.
fn page(notifications: &[Notification], next: Option<Seq>, state: &LogState) -> Response {
    let records: Vec<String> = notifications.iter().map(notification_record).collect();
    let next = next.map_or_else(|| "null".to_owned(), |next| next.to_string());
    let Bounds { head, earliest, log_id } = bounds(state);
    let body = format!(
        "{{\"notifications\":[{}],\"next\":{next},\"head\":{head},\"earliest\":{earliest},\"log_id\":\"{log_id}\"}}",
        records.join(",")
    );
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], no_store(), body).into_response()
}

/// Lines have no room for the position to continue at; headers have.
fn lines(notifications: &[Notification], next: Option<Seq>, state: &LogState) -> Response {
    let mut body = String::new();
    for notification in notifications {
        StreamFormat::Lines.notification(&mut body, notification.seq, &notification_record(notification));
    }
    let mut response =
        ([(header::CONTENT_TYPE, HeaderValue::from_static(StreamFormat::Lines.media_type()))], no_store(), body).into_response();
    let mut name = |name: HeaderName, value: String| {
        if let Ok(value) = HeaderValue::from_str(&value) {
            response.headers_mut().insert(name, value);
        }
    };
    if let Some(next) = next {
        name(RECADO_NEXT, next.to_string());
    }
    name(RECADO_HEAD, state.head.to_string());
    name(RECADO_LOG_ID, state.log_id.to_string());
    response
}
