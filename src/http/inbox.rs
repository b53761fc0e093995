//! Serves `/api/inbox` and `/api/preferences`: a user's items, what is read, archived and seen, and muted types.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};

use super::history::bounds;
use super::problems::RefusedRequest;
use super::query::{QueryPairs, no_store, pairs, token};
use super::request::{BODY_MAX_BYTES, Media, media, whole_body};
use super::state::HubState;
use super::stream_request::{check_origin, check_user_rate};
use crate::domain::{AskedChange, Changed, InboxChange, InboxCounts, InboxState, LogId, MutePattern, Principal, Seq};
use crate::log::inbox_writer::ChangeFailure;
use crate::store::inbox::{self, InboxFilter, InboxItem, InboxPage, PAGE_MAX};
use crate::store::read;
use crate::wire::inbox::{ChangeAnswer, ChangeBody, InboxQuery, PreferencesAnswer, parse_preferences};
use crate::wire::problem::{FieldError, Problem};
use crate::wire::server_frame::notification_tail;

/// Most broken numbers that one answer lists.
const PLACES_MAX: usize = 100;

pub async fn list(State(hub): State<Arc<HubState>>, headers: HeaderMap, query: QueryPairs) -> Result<Response, RefusedRequest> {
    check_origin(&hub, &headers)?;
    let pairs = pairs(query)?;
    let who = hub.auth.user(&headers, token(&pairs)).await?.who;
    check_user_rate(&hub, &who)?;
    let query = InboxQuery::parse(&pairs, InboxFilter::parse, InboxFilter::All, PAGE_MAX)?;
    let log_id = hub.delivery.registry.position().log_id;
    inbox::open(&hub.reader, &who).await?;
    // One more than is asked for tells whether more follow.
    let InboxPage { mut items, counts } = inbox::page(&hub.reader, &who, query.filter, query.before, query.limit + 1).await?;
    let limit = usize::try_from(query.limit).unwrap_or(usize::MAX);
    let has_more = items.len() > limit;
    items.truncate(limit);
    let next = if has_more { items.last().map(|item| item.notification.seq) } else { None };
    Ok(page(&items, next, counts, log_id))
}

/// The items are inserted as they are, so that `data` stays byte for byte as it was posted.
fn page(items: &[InboxItem], next: Option<Seq>, counts: InboxCounts, log_id: LogId) -> Response {
    let records: Vec<String> = items.iter().map(record).collect();
    let next = next.map_or_else(|| "null".to_owned(), |next| next.to_string());
    let InboxCounts { unread, unseen, as_of } = counts;
    let body = format!(
        "{{\"items\":[{}],\"unread\":{unread},\"unseen\":{unseen},\"as_of\":{as_of},\"next\":{next},\"log_id\":\"{log_id}\"}}",
        records.join(",")
    );
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], no_store(), body).into_response()
}

fn record(item: &InboxItem) -> String {
    let InboxItem { notification, is_read, is_archived, is_muted } = item;
    let muted = if *is_muted { "\"muted\":true," } else { "" };
    format!("{{\"seq\":{},\"read\":{is_read},\"archived\":{is_archived},{muted}{}", notification.seq, notification_tail(notification))
}

pub async fn change(
    State(hub): State<Arc<HubState>>,
    headers: HeaderMap,
    query: QueryPairs,
    body: Body,
) -> Result<Response, RefusedRequest> {
    let who = changing(&hub, &headers, query).await?;
    let ChangeBody { change, log_id } = ChangeBody::parse(&whole_body(&headers, body, BODY_MAX_BYTES).await?)?;
    if let Some(log_id) = log_id {
        let state = read::log_state(&hub.reader).await?;
        if state.log_id != log_id {
            let detail = "the numbers belong to another log: the database was restored. Drop local state and read the inbox again";
            return Err(Problem::new(409, "reset", detail).with_bounds(bounds(&state)).into());
        }
    }
    let (seq, InboxState { counts, .. }) = apply(&hub, &who, change).await?;
    Ok((no_store(), Json(ChangeAnswer { seq, counts })).into_response())
}

pub async fn preferences(State(hub): State<Arc<HubState>>, headers: HeaderMap, query: QueryPairs) -> Result<Response, RefusedRequest> {
    check_origin(&hub, &headers)?;
    let who = hub.auth.user(&headers, token(&pairs(query)?)).await?.who;
    check_user_rate(&hub, &who)?;
    let state = inbox::open(&hub.reader, &who).await?;
    Ok((no_store(), Json(answer(&hub, &state))).into_response())
}

pub async fn set_preferences(
    State(hub): State<Arc<HubState>>,
    headers: HeaderMap,
    query: QueryPairs,
    body: Body,
) -> Result<Response, RefusedRequest> {
    let who = changing(&hub, &headers, query).await?;
    let muted = parse_preferences(&whole_body(&headers, body, BODY_MAX_BYTES).await?, &hub.required_types)?;
    let (seq, state) = apply(&hub, &who, InboxChange::Mute(muted)).await?;
    Ok((no_store(), Json(SetAnswer { preferences: answer(&hub, &state), change: ChangeAnswer { seq, counts: state.counts } }))
        .into_response())
}

/// The answer to new preferences.
#[derive(serde::Serialize)]
struct SetAnswer<'a> {
    #[serde(flatten)]
    preferences: PreferencesAnswer<'a>,
    #[serde(flatten)]
    change: ChangeAnswer,
}

fn answer<'a>(hub: &'a HubState, state: &'a InboxState) -> PreferencesAnswer<'a> {
    let texts = |patterns: &'a [MutePattern]| patterns.iter().map(MutePattern::as_str).collect();
    PreferencesAnswer { muted: texts(&state.muted), required: texts(&hub.required_types) }
}

/// Checks a request that changes something, up to its body.
async fn changing(hub: &HubState, headers: &HeaderMap, query: QueryPairs) -> Result<Principal, RefusedRequest> {
    check_origin(hub, headers)?;
    let who = hub.auth.user(headers, token(&pairs(query)?)).await?.who;
    check_user_rate(hub, &who)?;
    media(headers, &[Media::Json])?;
    Ok(who)
}

/// Makes a change, and counts after it.
async fn apply(hub: &HubState, who: &Principal, change: InboxChange) -> Result<(Option<Seq>, InboxState), RefusedRequest> {
    // What the user comes with for the first time counts from here on, also for the change.
    inbox::open(&hub.reader, who).await?;
    let asked = AskedChange { user: who.user.clone(), accounts: who.accounts.clone(), change };
    let seq = match hub.inboxes.change(asked).await {
        Ok(Changed::Done(seq)) => seq,
        Ok(Changed::NoItems(places)) => {
            let detail = "is no item of this user's inbox; nothing was changed";
            let errors = places.iter().take(PLACES_MAX).map(|at| FieldError::new(format!("/seqs/{at}"), detail)).collect();
            let detail = "some numbers are no items of this user's inbox; nothing was changed. GET /api/inbox lists the items";
            return Err(Problem::new(422, "invalid_field", detail).with_errors(errors).into());
        }
        Ok(Changed::BeyondHead) => {
            let errors = vec![FieldError::new("/up_to", "is above the head of the log; the largest number is the as_of of the counts")];
            return Err(Problem::new(422, "invalid_field", "the log ends before this number; nothing was changed")
                .with_errors(errors)
                .into());
        }
        Ok(Changed::Full) => {
            let detail = "more than 1000 items of this inbox would be read or archived one by one; nothing was changed. Use up_to for the older ones";
            return Err(Problem::new(409, "inbox_full", detail).into());
        }
        Err(ChangeFailure::Full) => {
            let detail = "too many changes of inboxes are waiting; nothing was changed. Retry later";
            return Err(Problem::new(503, "overloaded", detail).retry_after(1).into());
        }
        Err(ChangeFailure::Unconfirmed) => {
            let detail = "the database did not confirm the change in time. Send it again: a change that was made has no effect";
            return Err(Problem::new(503, "unavailable", detail).retry_after(2).into());
        }
    };
    Ok((seq, inbox::counts(&hub.reader, who).await?))
}
