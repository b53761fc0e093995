//! A request's body that is read on after it was refused.
//!
//! A socket that is closed with bytes unread is reset, and the reset takes the answer with it: whoever is still sending
//! a body that is too large would never learn why. So what a handler leaves unread is read and dropped for a while, by a
//! task of its own, while the answer is on its way.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::http::header;
use http_body_util::BodyExt;
use hyper::body::{Frame, SizeHint};
use tokio::time::timeout;

use crate::tasks::Tasks;

/// So long, and so many bytes, what nobody wants is read.
const LIMIT: Duration = Duration::from_secs(2);
const MOST_BYTES: usize = 16 << 20;

/// A body that is read on when it is dropped before its end.
pub struct ReadOn {
    body: Option<Body>,
    tasks: Tasks,
}

impl ReadOn {
    pub fn over(request: Request, tasks: Tasks) -> Request {
        // This client waits for a word before it sends its body, and reading would be that word.
        if request.headers().contains_key(header::EXPECT) || request.body().is_end_stream() {
            return request;
        }
        request.map(|body| Body::new(Self { body: Some(body), tasks }))
    }
}

impl HttpBody for ReadOn {
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

impl Drop for ReadOn {
    fn drop(&mut self) {
        if let Some(body) = self.body.take().filter(|body| !body.is_end_stream()) {
            self.tasks.contained("unread", async move {
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
