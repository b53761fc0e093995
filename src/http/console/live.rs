//! Serves `GET /api/admin/live`: a stream of samples of all instances.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use tokio::time::timeout;

use crate::http::auth::actor;
use crate::http::body_stream::{LAST_OF_CONNECTION, stream_headers};
use crate::http::problems::RefusedRequest;
use crate::http::query::{QueryPairs, pairs};
use crate::http::state::HubState;
use crate::http::stream_places::StreamPlace;
use crate::wire::console::instances::LiveQuery;
use crate::wire::stream_format::StreamFormat;

/// A comment is sent if no sample comes for this long, so that a proxy keeps the connection and a client sees that it
/// lives. Samples come every five seconds while the database answers.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Most streams of samples on one instance. Each gets some 900 bytes for each instance every five seconds.
pub const LIVE_MAX: usize = 128;
/// Most streams of samples of one key or subject: each open page of the console has one or two.
pub const LIVE_OF_ONE: usize = 32;

/// A stream of samples. The connection's task drives it: the write timeout cuts off a client that reads nothing.
struct LiveStream {
    hub: Arc<HubState>,
    /// Of the request: the credential is checked again and again.
    headers: HeaderMap,
    /// The number of the last sample that was sent.
    at: u64,
    is_begun: bool,
    /// Counts the streams.
    _place: StreamPlace,
}

pub async fn stream(State(hub): State<Arc<HubState>>, headers: HeaderMap, query: QueryPairs) -> Result<Response, RefusedRequest> {
    let caller = hub.auth.reader(&headers).await?;
    let LiveQuery { minutes } = LiveQuery::parse(&pairs(query)?)?;
    let place = hub.live_readers.take(actor(&headers, &caller).who)?;
    let at = hub.instances.before(Duration::from_secs(60 * minutes));
    // With an empty window the newest sample comes first: a page shows something at once.
    let at = if minutes == 0 { at.saturating_sub(1) } else { at };
    let samples = LiveStream { hub, headers, at, is_begun: false, _place: place };
    let body =
        stream::unfold(samples, |mut samples| async move { samples.next().await.map(|piece| (Ok::<_, Infallible>(piece), samples)) });
    Ok((stream_headers(StreamFormat::Events), LAST_OF_CONNECTION, Body::from_stream(body)).into_response())
}

impl LiveStream {
    /// The next piece of the body; `None` when the hub stops or the credential no longer counts.
    async fn next(&mut self) -> Option<Bytes> {
        if !self.is_begun {
            self.is_begun = true;
            // The status and the headers arrive at once, also before the first sample.
            return Some(Bytes::from_static(b": samples of all instances\n\n"));
        }
        let comes = match self.hub.instances.after(self.at) {
            Some(_) => true,
            None => match timeout(KEEP_ALIVE, self.hub.instances.wait_above(self.at)).await {
                Ok(true) => true,
                Ok(false) => return None,
                Err(_) => false,
            },
        };
        // A key may have been revoked, and a token expires.
        self.hub.auth.reader(&self.headers).await.ok()?;
        let next = self.hub.instances.after(self.at).filter(|_| comes);
        let Some(next) = next else { return Some(Bytes::from_static(b":\n\n")) };
        self.at = next.upto;
        Some(next.events)
    }
}
