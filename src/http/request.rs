//! What every request must keep before anything reads it, and what every answer carries.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, Version, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http_body_util::{BodyExt, Limited};

use super::body::ReadOn;
use super::problems::{REQUEST_ID, Refused, finish};
use crate::domain::id_by_time;
use crate::tasks::Tasks;
use crate::wire::problem::Problem;

/// Longest path and query, in bytes.
const URI_MAX_BYTES: usize = 8 << 10;
/// Most bytes of all header names and values.
const HEADERS_MAX_BYTES: usize = 16 << 10;
/// Most header fields.
const HEADERS_MAX: usize = 100;
/// Longest body of a single notification, in bytes.
pub const BODY_MAX_BYTES: usize = 64 << 10;
/// A body must have arrived within this time.
const BODY_LIMIT: Duration = Duration::from_secs(10);

/// The request's name, for handlers that write it into an answer themselves.
#[derive(Debug, Clone)]
pub struct RequestId(pub String);

/// Names the request, refuses what is out of bounds, writes the body of every refusal, and notes the outcome. The query
/// is not noted: it may hold a token.
pub async fn frame(State(tasks): State<Tasks>, mut request: Request, next: Next) -> Response {
    let id = id_by_time().to_string();
    let method = request.method().clone();
    let path: String = request.uri().path().chars().take(128).collect();
    request.extensions_mut().insert(RequestId(id.clone()));
    let response = match check(&request) {
        Ok(()) => next.run(ReadOn::over(request, tasks)).await,
        Err(problem) => Refused(problem).into_response(),
    };
    let mut response = finish(response, &id);
    tracing::debug!(%method, ?path, status = response.status().as_u16(), request_id = id, "request");
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response
}

fn check(request: &Request) -> Result<(), Problem> {
    let headers = request.headers();
    let uri_bytes = request.uri().path_and_query().map_or(0, |p| p.as_str().len());
    if uri_bytes > URI_MAX_BYTES {
        return Err(Problem::new(414, "uri_too_long", format!("path and query may have {URI_MAX_BYTES} bytes")));
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
    if request.method() == Method::TRACE || request.method() == Method::CONNECT {
        return Err(Problem::new(405, "method_not_allowed", "this method is not served here"));
    }
    Ok(())
}

/// What a body is said to be.
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

/// Reads a body of at most `most` bytes whole.
///
/// # Errors
/// 413 above the limit, 408 when it comes too slowly, 400 when it breaks off.
pub async fn whole_body(headers: &HeaderMap, body: Body, most: usize) -> Result<Bytes, Refused> {
    let declared = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()).and_then(|v| v.parse::<u64>().ok());
    if declared.is_some_and(|length| length > most as u64) {
        return Err(too_large(most));
    }
    match tokio::time::timeout(BODY_LIMIT, Limited::new(body, most).collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => Err(too_large(most)),
        Ok(Err(_)) => Err(Problem::new(400, "broken_body", "the body broke off; nothing was appended").into()),
        Err(_) => {
            Err(Problem::new(408, "body_too_slow", format!("the body must arrive within {} s; nothing was appended", BODY_LIMIT.as_secs()))
                .into())
        }
    }
}

fn too_large(most: usize) -> Refused {
    Problem::new(413, "body_too_large", format!("a body may have {most} bytes; nothing was appended")).into()
}

/// Which of the types that are `taken` here a body has.
///
/// # Errors
/// 415 for another type, another charset, or a compressed body.
pub fn media(headers: &HeaderMap, taken: &[Media]) -> Result<Media, Refused> {
    let refuse = |detail: &str| Err(Problem::new(415, "unsupported_media_type", detail).into());
    // A field may stand in several lines; the first alone does not tell.
    if headers.get_all(header::CONTENT_ENCODING).iter().any(|encoding| encoding != "identity") {
        return refuse("a compressed body is not taken; send it as it is");
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
    // RFC 8259 section 8.1: JSON is UTF-8.
    let is_utf8 = |parameter: &str| {
        parameter
            .split_once('=')
            .is_none_or(|(name, value)| !name.eq_ignore_ascii_case("charset") || value.trim_matches('"').eq_ignore_ascii_case("utf-8"))
    };
    if parts.all(is_utf8) { Ok(media) } else { refuse("the charset of JSON is utf-8") }
}

fn wanted(taken: &[Media]) -> String {
    let names: Vec<&str> = taken.iter().map(|media| media.name()).collect();
    format!("send Content-Type, once: {}", names.join(" or "))
}
