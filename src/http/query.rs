//! Reads a query with its token, and keeps the answer out of caches.

use axum::extract::Query;
use axum::extract::rejection::QueryRejection;
use axum::http::{HeaderName, HeaderValue, header};

use super::problems::RefusedRequest;
use crate::wire::problem::Problem;

pub type QueryPairs = Result<Query<Vec<(String, String)>>, QueryRejection>;

pub fn pairs(query: QueryPairs) -> Result<Vec<(String, String)>, RefusedRequest> {
    let Query(pairs) = query.map_err(|_| Problem::new(400, "bad_query", "the query is not a list of names and values"))?;
    // PostgreSQL stores no NUL, and no parameter has a use for one.
    if pairs.iter().any(|(name, value)| name.contains('\0') || value.contains('\0')) {
        return Err(Problem::new(400, "bad_query", "the query holds a NUL character, %00").into());
    }
    Ok(pairs)
}

/// The token of the query, for clients that cannot set a header.
pub fn token(pairs: &[(String, String)]) -> Option<&str> {
    pairs.iter().find(|(name, _)| name == "token").map(|(_, token)| token.as_str())
}

/// Keeps the answer out of every cache: it is of one user, and its address may contain the token.
pub fn no_store() -> [(HeaderName, HeaderValue); 1] {
    [(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))]
}

/// Cuts a page of at most `limit` from what was read. One row more was asked for: it tells whether another page
/// follows. Returns where that begins, by the last row of this one.
pub fn cut_page<T, N>(found: &mut Vec<T>, limit: i64, place: impl Fn(&T) -> N) -> Option<N> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    if found.len() <= limit {
        return None;
    }
    found.truncate(limit);
    found.last().map(place)
}
