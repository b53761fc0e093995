//! Makes the span of a request from its head, and ends it with its response.

use axum::extract::Request;
use axum::http::HeaderMap;
use axum::response::Response;

use super::problems::RefusedRequest;
use crate::domain::TraceContext;
use crate::telemetry::spans::{self, RequestHead, RequestSpan};

/// `route` is the pattern of the path: the path itself may hold a user id, or a token if no route matches.
pub fn begin(request: &Request, route: Option<&str>, id: &str) -> Option<RequestSpan> {
    if !spans::are_on() {
        return None;
    }
    let headers = request.headers();
    let parent = only(headers, "traceparent").and_then(TraceContext::parse);
    let state = only(headers, "tracestate");
    RequestSpan::begin(&RequestHead { method: request.method().as_str(), route, id, parent, state })
}

/// The value of a header that was sent once.
fn only<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next().filter(|_| values.next().is_none())?;
    value.to_str().ok().map(str::trim)
}

pub fn end(span: Option<RequestSpan>, response: &Response) {
    let Some(span) = span else { return };
    let code = response.extensions().get::<RefusedRequest>().map(|RefusedRequest(problem)| problem.code);
    span.end(response.status().as_u16(), code);
}
