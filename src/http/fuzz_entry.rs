//! Gives the fuzz targets (`crates/fuzz`) access to this room's private parsers.
//!
//! Exists only with the feature `fuzz`. Each function is a single call.

use axum::extract::Query;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Uri};
use chrono::{DateTime, Utc};

use super::problems::RefusedRequest;
use super::request::Media;
use super::stream_request::{StreamQuery, StreamRequest};
use super::{Origins, ndjson, notify, query, request, ticket, upgrade};
pub use crate::identity::TokenError;
use crate::wire::lines::NumberedLine;
use crate::wire::notify::NotifyBody;
use crate::wire::problem::Problem;

fn problem(RefusedRequest(problem): RefusedRequest) -> Problem {
    problem
}

fn uri(query: &str) -> Option<Uri> {
    format!("/?{query}").parse().ok()
}

/// Header fields, one `name: value` per line. `None` for input that hyper would not accept.
pub fn headers(text: &[u8]) -> Option<HeaderMap> {
    let mut headers = HeaderMap::new();
    for line in text.split(|byte| *byte == b'\n') {
        let at = line.iter().position(|byte| *byte == b':')?;
        let (name, value) = (HeaderName::from_bytes(&line[..at]).ok()?, HeaderValue::from_bytes(line[at + 1..].trim_ascii()).ok()?);
        headers.append(name, value);
    }
    Some(headers)
}

/// The stream request of a query and a `Last-Event-ID`. `None` if they are not a query and a header value.
pub fn wish(query: &str, last_event: Option<&str>) -> Option<Result<StreamRequest, Problem>> {
    let uri = uri(query)?;
    let mut headers = HeaderMap::new();
    if let Some(last_event) = last_event {
        headers.insert("last-event-id", HeaderValue::from_str(last_event).ok()?);
    }
    Some(StreamQuery::read(Query::try_from_uri(&uri)).and_then(|ask| ask.wish_after_event(&headers)).map_err(problem))
}

/// The names and values of a query.
pub fn pairs(query: &str) -> Option<Vec<(String, String)>> {
    query::pairs(Query::try_from_uri(&uri(query)?)).ok()
}

/// Reads one line of an NDJSON batch.
///
/// # Errors
/// As the route's.
pub fn line(bytes: &[u8]) -> Result<Option<NotifyBody>, Problem> {
    let line = NumberedLine { number: 1, bytes: bytes.to_vec().into() };
    Ok(ndjson::read(&line)?.map(|(body, _)| body))
}

/// Reads the `Idempotency-Key` header.
///
/// # Errors
/// As the route's.
pub fn key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    notify::header_key(headers).map_err(problem)
}

/// Reads the `Content-Type` of a post.
///
/// # Errors
/// As the route's.
pub fn media(headers: &HeaderMap) -> Result<Media, Problem> {
    request::media(headers, &[Media::Json, Media::Ndjson, Media::CloudEvent, Media::CloudEvents]).map_err(problem)
}

pub fn socket_token(headers: &HeaderMap) -> Option<&str> {
    upgrade::token(headers)
}

pub fn is_own_page(headers: &HeaderMap) -> bool {
    Origins::loopback().allow(headers)
}

pub fn ticket_end(text: &str) -> Option<DateTime<Utc>> {
    ticket::end(text)
}
