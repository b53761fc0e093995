//! Reads headers that hold lists (RFC 9110 section 5.6.1).

use axum::http::{HeaderMap, HeaderName, header};

/// The elements of a list header, of all its lines, in their order. Lines that are not text are passed over.
pub fn elements(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')).map(str::trim)
}

/// Whether the client names this media type in `Accept`. A range such as `*/*` names none.
pub fn accepts(headers: &HeaderMap, media: &str) -> bool {
    elements(headers, header::ACCEPT).filter_map(|range| range.split(';').next()).any(|range| range.trim().eq_ignore_ascii_case(media))
}
