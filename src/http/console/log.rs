//! Serves `GET /api/admin/log`: whole rows of the log as NDJSON, a page of them or as they are committed.

use std::sync::Arc;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};

use super::log_stream::{LogStream, LogTask};
use crate::http::auth::actor;
use crate::http::body_stream::stream_headers;
use crate::http::problems::RefusedRequest;
use crate::http::query::{QueryPairs, pairs};
use crate::http::state::HubState;
use crate::http::stream_places::StreamPlace;
use crate::http::stream_request::check_room;
use crate::store::console::log::{self, LogFilter};
use crate::store::read;
use crate::wire::console::log::LogQuery;
use crate::wire::stream_format::StreamFormat;

/// Most followers of the log on one instance. Each reads the log up to four times a second.
pub const FOLLOWERS_MAX: usize = 32;
/// Most followers of one key or subject. All who signed in to the console by a link are one subject.
pub const FOLLOWERS_OF_ONE: usize = 8;
/// How far back the last rows that meet the conditions are looked for.
const LOOK_BACK: i64 = 20_000;

pub async fn rows(State(hub): State<Arc<HubState>>, headers: HeaderMap, query: QueryPairs) -> Result<Response, RefusedRequest> {
    // The texts of all accounts are not for a key with limits.
    let caller = hub.auth.admin(&headers).await?;
    let query = LogQuery::parse(&pairs(query)?)?;
    let follower = if query.follow { Some(room(&hub, actor(&headers, &caller).who)?) } else { None };
    let state = read::log_state(&hub.reader).await?;
    let filter = LogFilter {
        types: query.types.map(|types| types.to_string().split(',').map(str::to_owned).collect()),
        user: query.user,
        account: query.account,
        source: query.source,
    };
    let after = match query.after {
        // A page above the end is empty. The rows of a log that was replaced begin there, too.
        Some(after) => after.min(state.head),
        None => log::before_last(&hub.reader, &state, &filter, query.limit, LOOK_BACK).await?,
    };
    let task = match follower {
        Some(place) => LogTask::Follow { _place: place, log_id: state.log_id },
        None => LogTask::Page { left: query.limit, end: state.head },
    };
    let mut stream = LogStream::new(hub, headers, filter, after, task);
    // The first rows are read before the status is sent.
    stream.begin(&state).await?;
    Ok(answer(stream))
}

fn room(hub: &HubState, who: String) -> Result<StreamPlace, RefusedRequest> {
    check_room(hub)?;
    hub.log_followers.take(who)
}

fn answer(stream: LogStream) -> Response {
    (stream_headers(StreamFormat::Lines), stream.body()).into_response()
}
