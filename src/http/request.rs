//! Checks every request before its handler, and completes every response.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, Version, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http_body_util::{BodyExt, Limited};

use super::anonymous_budget;
use super::connection_slots::ConnectionSlot;
use super::drain_body::DrainBody;
use super::hosts::Hosts;
use super::problems::{REQUEST_ID, RefusedRequest, finish};
use super::request_span;
use crate::domain::id_by_time;
use crate::metrics::{NO_ROUTE, REQUESTS};
use crate::tasks::Tasks;
use crate::telemetry::spans::{self, RequestSpan};
use crate::wire::problem::Problem;

/// Maximum length of path and query, in bytes.
const URI_MAX_BYTES: usize = 8 << 10;
/// Maximum bytes of all header names and values.
const HEADERS_MAX_BYTES: usize = 16 << 10;
/// Maximum number of header fields.
const HEADERS_MAX: usize = 100;
/// Maximum length of a single notification's body, in bytes.
pub const BODY_MAX_BYTES: usize = 64 << 10;
/// Maximum length of a request's id that the hub keeps.
const REQUEST_ID_MAX_BYTES: usize = 128;
/// Time limit for a body to arrive.
const BODY_LIMIT: Duration = Duration::from_secs(10);

/// The request's id, for handlers that write it into an answer themselves.
#[derive(Debug, Clone)]
pub struct RequestId(pub String);

/// Gives the request an id, refuses it if it is out of bounds, writes the body of every refusal, and logs the
/// outcome. The query is not logged: it may contain a token.
pub async fn frame(State((tasks, hosts)): State<(Tasks, Hosts)>, mut request: Request, next: Next) -> Response {
    let id = request_id(request.headers()).unwrap_or_else(|| id_by_time().to_string());
    let method = request.method().clone();
    // Not the path itself if no route matches: a client may have put its token there.
    let path = request.extensions().get::<MatchedPath>().map_or_else(|| NO_ROUTE.to_owned(), |path| path.as_str().to_owned());
    let span = request_span::begin(&request, Some(path.as_str()).filter(|path| *path != NO_ROUTE), &id);
    request.extensions_mut().insert(RequestId(id.clone()));
    let slot = request.extensions().get::<Arc<ConnectionSlot>>().cloned();
    let response = match anonymous_budget::admit(&request) {
        Ok(passage) => {
            let mut response = match check(&request).and_then(|()| hosts.check(&request)) {
                Ok(()) => {
                    let context = span.as_ref().and_then(RequestSpan::context);
                    spans::within(context, next.run(DrainBody::over(request, tasks))).await
                }
                Err(problem) => RefusedRequest(problem).into_response(),
            };
            if let Some(passage) = passage {
                passage.settle(&mut response);
            }
            finish(response, &id)
        }
        Err(problem) => {
            let mut response = finish(RefusedRequest(problem).into_response(), &id);
            if let Some(slot) = slot {
                anonymous_budget::close(&slot, &mut response);
            }
            response
        }
    };
    let mut response = end_line(response).await;
    request_span::end(span, &response);
    REQUESTS.one(&path, response.status().as_u16());
    tracing::debug!(%method, ?path, status = response.status().as_u16(), request_id = id, "request");
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response
}

/// The id that a caller or a proxy has given the request, if it is plain: it is repeated in headers, JSON and logs.
fn request_id(headers: &HeaderMap) -> Option<String> {
    let mut ids = headers.get_all(REQUEST_ID).iter();
    let (Some(id), None) = (ids.next(), ids.next()) else { return None };
    let id = id.to_str().ok()?;
    let is_plain = id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:/+=@".contains(&b));
    (is_plain && (1..=REQUEST_ID_MAX_BYTES).contains(&id.len())).then(|| id.to_owned())
}

/// Ends a JSON response with a line feed, so that a shell's prompt is on a line of its own. No stream is JSON, so the
/// body is in memory already.
async fn end_line(response: Response) -> Response {
    let media = response.headers().get(header::CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    if !matches!(media, b"application/json" | b"application/problem+json") {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let whole = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    if whole.is_empty() || whole.ends_with(b"\n") {
        return Response::from_parts(parts, whole.into());
    }
    let ended = [&whole[..], b"\n"].concat();
    parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(ended.len()));
    Response::from_parts(parts, ended.into())
}

fn check(request: &Request) -> Result<(), Problem> {
    let headers = request.headers();
    let uri_bytes = request.uri().path_and_query().map_or(0, |p| p.as_str().len());
    if uri_bytes > URI_MAX_BYTES {
        return Err(Problem::new(414, "uri_too_long", format!("path and query may have at most {URI_MAX_BYTES} bytes")));
    }
    let header_bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if header_bytes > HEADERS_MAX_BYTES || headers.len() > HEADERS_MAX {
        return Err(Problem::new(
            431,
            "headers_too_large",
            format!("at most {HEADERS_MAX} header fields with {HEADERS_MAX_BYTES} bytes in all"),
        ));
    }
    // RFC 9112 section 3.2.
    if request.version() == Version::HTTP_11 && headers.get_all(header::HOST).iter().count() != 1 {
        return Err(Problem::new(400, "bad_request", "an HTTP/1.1 request has exactly one Host header"));
    }
    // Each of these authenticates the client or belongs to the handshake. If two differ, a proxy may have checked the
    // other one.
    for once in [header::AUTHORIZATION, header::SEC_WEBSOCKET_KEY, header::SEC_WEBSOCKET_VERSION] {
        if headers.get_all(&once).iter().count() > 1 {
            return Err(Problem::new(400, "bad_request", format!("the header {once} may be sent only once")));
        }
    }
    let (mut tokens, mut tickets) = (0, 0);
    for (name, _) in url::form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes()) {
        tokens += u32::from(name == "token");
        tickets += u32::from(name == "ticket");
    }
    for (once, count) in [("token", tokens), ("ticket", tickets)] {
        if count > 1 {
            return Err(Problem::new(400, "bad_query", format!("the query may contain {once} only once")));
        }
    }
    if request.method() == Method::TRACE || request.method() == Method::CONNECT {
        return Err(Problem::new(405, "method_not_allowed", "this method is not supported"));
    }
    Ok(())
}

/// The media type that a request declares for its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Media {
    Json,
    Ndjson,
    CloudEvent,
    CloudEvents,
}

impl Media {
    const fn name(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Ndjson => "application/x-ndjson",
            Self::CloudEvent => "application/cloudevents+json",
            Self::CloudEvents => "application/cloudevents-batch+json",
        }
    }
}

/// Reads a whole body of at most `most` bytes.
///
/// # Errors
/// 413 above the limit, 408 when it arrives too slowly, 400 when it ends early.
pub async fn whole_body(headers: &HeaderMap, body: Body, most: usize) -> Result<Bytes, RefusedRequest> {
    let declared = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()).and_then(|v| v.parse::<u64>().ok());
    if declared.is_some_and(|length| length > most as u64) {
        return Err(too_large(most));
    }
    match tokio::time::timeout(BODY_LIMIT, Limited::new(body, most).collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => Err(too_large(most)),
        Ok(Err(_)) => Err(Problem::new(400, "broken_body", "the body ended early; nothing was appended").into()),
        Err(_) => {
            Err(Problem::new(408, "body_too_slow", format!("the body must arrive within {} s; nothing was appended", BODY_LIMIT.as_secs()))
                .into())
        }
    }
}

fn too_large(most: usize) -> RefusedRequest {
    Problem::new(413, "body_too_large", format!("a body may have at most {most} bytes; nothing was appended")).into()
}

/// The media type of a body, one of `taken`.
///
/// # Errors
/// 415 for another type, another charset, or a compressed body.
pub fn media(headers: &HeaderMap, taken: &[Media]) -> Result<Media, RefusedRequest> {
    let refuse = |detail: &str| Err(Problem::new(415, "unsupported_media_type", detail).into());
    // A header may be sent as several lines, so checking the first is not enough.
    if headers.get_all(header::CONTENT_ENCODING).iter().any(|encoding| encoding != "identity") {
        return refuse("compressed bodies are not supported; send it uncompressed");
    }
    let mut types = headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(given), None) = (types.next(), types.next()) else {
        return refuse(&wanted(taken));
    };
    let given = given.to_str().unwrap_or_default();
    let mut parts = given.split(';').map(str::trim);
    let essence = parts.next().unwrap_or_default();
    let Some(media) = taken.iter().copied().find(|media| essence.eq_ignore_ascii_case(media.name())) else {
        return refuse(&wanted(taken));
    };
    // RFC 8259 section 8.1: JSON is UTF-8. Many libraries omit the hyphen.
    let is_utf8 = |parameter: &str| {
        let Some((name, value)) = parameter.split_once('=') else { return true };
        let value = value.trim_matches('"');
        !name.eq_ignore_ascii_case("charset") || value.eq_ignore_ascii_case("utf-8") || value.eq_ignore_ascii_case("utf8")
    };
    if parts.all(is_utf8) { Ok(media) } else { refuse("the charset of JSON must be utf-8") }
}

fn wanted(taken: &[Media]) -> String {
    let names: Vec<&str> = taken.iter().map(|media| media.name()).collect();
    format!("send Content-Type, once: {}", names.join(" or "))
}
