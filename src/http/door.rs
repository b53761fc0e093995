//! Ways in for the fuzz targets (`crate::fuzz`), to what this room keeps to itself: only in tests and with the feature
//! `fuzz`, and nothing that is not one call.

use axum::extract::Query;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Uri};
use chrono::{DateTime, Utc};

use super::ask::{Ask, Wish};
use super::problems::Refused;
use super::request::Media;
pub use super::token::TokenError;
use super::{Origins, history, ndjson, notify, request, ticket, upgrade};
use crate::domain::Seq;
use crate::wire::lines::Line;
use crate::wire::notify::NotifyBody;
use crate::wire::problem::Problem;

fn problem(Refused(problem): Refused) -> Problem {
    problem
}

fn uri(query: &str) -> Option<Uri> {
    format!("/?{query}").parse().ok()
}

/// Header fields, a line each as `name: value`; `None` for what does not come so far.
pub fn headers(text: &[u8]) -> Option<HeaderMap> {
    let mut headers = HeaderMap::new();
    for line in text.split(|byte| *byte == b'\n') {
        let at = line.iter().position(|byte| *byte == b':')?;
        let (name, value) = (HeaderName::from_bytes(&line[..at]).ok()?, HeaderValue::from_bytes(line[at + 1..].trim_ascii()).ok()?);
        headers.append(name, value);
    }
    Some(headers)
}

/// What a stream's query and `Last-Event-ID` ask for; `None` where they are none.
pub fn wish(query: &str, last_event: Option<&str>) -> Option<Result<(Wish, Option<Seq>), Problem>> {
    let uri = uri(query)?;
    let mut headers = HeaderMap::new();
    if let Some(last_event) = last_event {
        headers.insert("last-event-id", HeaderValue::from_str(last_event).ok()?);
    }
    Some(Ask::read(Query::try_from_uri(&uri)).and_then(|ask| ask.wish_after_event(&headers)).map_err(problem))
}

/// The names and values of a query.
pub fn pairs(query: &str) -> Option<Vec<(String, String)>> {
    history::pairs(Query::try_from_uri(&uri(query)?)).ok()
}

/// # Errors
/// As the route's.
pub fn line(bytes: &[u8]) -> Result<Option<NotifyBody>, Problem> {
    let line = Line { number: 1, bytes: bytes.to_vec().into() };
    Ok(ndjson::read(&line)?.map(|(body, _)| body))
}

/// # Errors
/// As the route's.
pub fn key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    notify::header_key(headers).map_err(problem)
}

/// # Errors
/// As the route's.
pub fn media(headers: &HeaderMap) -> Result<Media, Problem> {
    request::media(headers, &[Media::Json, Media::Ndjson, Media::CloudEvent, Media::CloudEvents]).map_err(problem)
}

pub fn socket_token(headers: &HeaderMap) -> Option<&str> {
    upgrade::token(headers)
}

pub fn is_own_page(headers: &HeaderMap) -> bool {
    Origins::Loopback.allow(headers)
}

pub fn ticket_end(text: &str) -> Option<DateTime<Utc>> {
    ticket::end(text)
}
