//! `GET /api/notifications`: what a user was sent, a page at a time, or as lines that go on.

use std::sync::Arc;

use axum::Extension;
use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::ask::{Wish, check_origin, check_room, check_user_rate};
use super::flow;
use super::hub::Hub;
use super::problems::Refused;
use super::server::Hangup;
use crate::domain::{Notification, Principal, Seq};
use crate::store::read::{self, LogState, Page};
use crate::wire::flow::Form;
use crate::wire::history::{HistoryQuery, Order};
use crate::wire::problem::{Bounds, Problem};
use crate::wire::server::notification_record;

/// Most pages of the log that one answer reads. With a type that is rare, an answer may come to its end before its
/// limit, even empty; `next` then says from where to ask on.
const READS_MAX: usize = 4;

pub type Pairs = Result<Query<Vec<(String, String)>>, QueryRejection>;

pub async fn list(
    State(hub): State<Arc<Hub>>,
    Extension(hangup): Extension<Hangup>,
    headers: HeaderMap,
    query: Pairs,
) -> Result<Response, Refused> {
    check_origin(&hub, &headers)?;
    let pairs = pairs(query)?;
    let claims = hub.auth.listener(&headers, token(&pairs))?;
    check_user_rate(&hub, &claims.who)?;
    let query = HistoryQuery::parse(&pairs)?;
    let state = read::log_state(&hub.reader).await?;
    check_place(&query, &state)?;
    if query.follow {
        check_room(&hub)?;
        let wish = Wish::after(query.after.unwrap_or(state.floor), query.log_id);
        return flow::open(hub, hangup, (wish, None), claims, Form::Lines).await;
    }
    let (notifications, next) = gather(&hub, &claims.who, &query, &state).await?;
    Ok(if wants_lines(&headers) { lines(&notifications, next, &state) } else { page(&notifications, next, &state) })
}

pub async fn head(State(hub): State<Arc<Hub>>, headers: HeaderMap, query: Pairs) -> Result<Response, Refused> {
    check_origin(&hub, &headers)?;
    let claims = hub.auth.user(&headers, token(&pairs(query)?))?;
    check_user_rate(&hub, &claims.who)?;
    let Bounds { head, earliest, log_id } = bounds(&read::log_state(&hub.reader).await?);
    Ok((no_store(), Json(json!({ "head": head, "earliest": earliest, "log_id": log_id }))).into_response())
}

pub fn pairs(query: Pairs) -> Result<Vec<(String, String)>, Refused> {
    let Query(pairs) = query.map_err(|_| Problem::new(400, "bad_query", "the query is not a list of names and values"))?;
    Ok(pairs)
}

/// Where no header can be set.
pub fn token(pairs: &[(String, String)]) -> Option<&str> {
    pairs.iter().find(|(name, _)| name == "token").map(|(_, token)| token.as_str())
}

pub fn bounds(state: &LogState) -> Bounds {
    Bounds { head: state.head, earliest: state.floor.next(), log_id: state.log_id }
}

fn check_place(query: &HistoryQuery, state: &LogState) -> Result<(), Problem> {
    let Some(after) = query.after else { return Ok(()) };
    if after > state.head || query.log_id.is_some_and(|log_id| log_id != state.log_id) {
        let detail = "the place is of another history: the database was restored. Drop local state and begin anew";
        return Err(Problem::new(409, "reset", detail).with_bounds(bounds(state)));
    }
    // Backwards, the end of what is kept is simply the end.
    if after < state.floor && query.order == Order::Rising {
        return Err(expired(state));
    }
    Ok(())
}

fn expired(state: &LogState) -> Problem {
    let detail = "what followed this place is not kept any more; begin at earliest";
    Problem::new(410, "expired", detail).with_bounds(bounds(state))
}

/// What is asked for, and where to ask on; `None` when this is all.
async fn gather(hub: &Hub, who: &Principal, query: &HistoryQuery, state: &LogState) -> Result<(Vec<Notification>, Option<Seq>), Refused> {
    let rising = query.order == Order::Rising;
    let (mut at, end) = if rising { (state.floor, state.head) } else { (state.head.next(), state.floor) };
    at = query.after.unwrap_or(at);
    let limit = usize::try_from(query.limit).unwrap_or(usize::MAX);
    let on = |at: Seq| (if rising { at < end } else { at > end.next() }).then_some(at);
    let mut found = Vec::new();
    for _ in 0..READS_MAX {
        if on(at).is_none() {
            break;
        }
        let most = if query.kind.is_some() { read::PAGE_ROWS } else { i64::try_from(limit - found.len()).unwrap_or(read::PAGE_ROWS) };
        let Page { notifications, through, floor } = if rising {
            read::page_of(&hub.reader, who, at, end, most).await?
        } else {
            read::page_before(&hub.reader, who, at, end, most).await?
        };
        // Retention went on between the two looks. Who named a place must not be given what lies behind a hole.
        if rising && floor > at && query.after.is_some() {
            return Err(expired(&LogState { floor, ..*state }).into());
        }
        for notification in notifications {
            if query.kind.as_ref().is_none_or(|kind| *kind == notification.kind) {
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
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepted.flat_map(|value| value.split(',')).any(|kind| {
        let kind = kind.split(';').next().unwrap_or_default().trim();
        kind.eq_ignore_ascii_case(Form::Lines.media_type())
    })
}

pub fn no_store() -> [(HeaderName, HeaderValue); 1] {
    [(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))]
}

/// The records are put in as they are, so that `data` stays byte for byte what was posted.
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

/// A line has no room for where to go on; headers have.
fn lines(notifications: &[Notification], next: Option<Seq>, state: &LogState) -> Response {
    let mut body = String::new();
    for notification in notifications {
        Form::Lines.notification(&mut body, notification.seq, &notification_record(notification));
    }
    let mut response = ([(header::CONTENT_TYPE, HeaderValue::from_static(Form::Lines.media_type()))], no_store(), body).into_response();
    let mut name = |name: &'static str, value: String| {
        if let Ok(value) = HeaderValue::from_str(&value) {
            response.headers_mut().insert(HeaderName::from_static(name), value);
        }
    };
    if let Some(next) = next {
        name("recado-next", next.to_string());
    }
    name("recado-head", state.head.to_string());
    name("recado-log-id", state.log_id.to_string());
    response
}
