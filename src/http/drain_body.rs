//! Reads on the body of a request that was refused.
//!
//! Closing a socket with unread bytes resets it, and the reset discards the response: a client that still sends a
//! body that is too large would never learn why. So a separate task reads and drops the rest for a while, while the
//! response is on its way.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::http::header;
use http_body_util::BodyExt;
use hyper::body::{Frame, SizeHint};
use tokio::time::timeout;

use crate::tasks::{TaskName, Tasks};

/// Time limit for reading the rest. [`MOST_BYTES`] is the limit in bytes.
const LIMIT: Duration = Duration::from_secs(2);
const MOST_BYTES: usize = 16 << 20;

/// A body that is drained when it is dropped before its end.
pub struct DrainBody {
    body: Option<Body>,
    tasks: Tasks,
}

impl DrainBody {
    pub fn over(request: Request, tasks: Tasks) -> Request {
        // This client waits for `100 Continue` before it sends its body, and reading would send that.
        if request.headers().contains_key(header::EXPECT) || request.body().is_end_stream() {
            return request;
        }
        request.map(|body| Body::new(Self { body: Some(body), tasks }))
    }
}

impl HttpBody for DrainBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.body.as_mut().map_or(Poll::Ready(None), |body| Pin::new(body).poll_frame(cx))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map(HttpBody::size_hint).unwrap_or_default()
    }
}

impl Drop for DrainBody {
    fn drop(&mut self) {
        if let Some(body) = self.body.take().filter(|body| !body.is_end_stream()) {
            self.tasks.contained(TaskName::UnreadBody, async move {
                let _ = timeout(LIMIT, read_on(body)).await;
            });
        }
    }
}

async fn read_on(mut body: Body) {
    let mut dropped = 0;
    while dropped < MOST_BYTES {
        let Some(Ok(frame)) = body.frame().await else { return };
        dropped += frame.data_ref().map_or(0, Bytes::len);
    }
}
