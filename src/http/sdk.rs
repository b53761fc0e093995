//! Serves `GET /sdk/recado.js`: the TypeScript client as one module, for pages without a bundler.

use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};

/// The path, which pages of every origin may load.
pub const PATH: &str = "/sdk/recado.js";

/// Built by `npm run build` in `clients/typescript`. CI repeats that and compares, so a build of the hub needs no Node.
const CLIENT: &str = include_str!("recado.js");

/// How long browsers may use their copy. It is short, because a hub is updated in place.
const CACHE: HeaderValue = HeaderValue::from_static("public, max-age=3600");

pub async fn recado_js() -> Response {
    let media = (header::CONTENT_TYPE, HeaderValue::from_static("text/javascript; charset=utf-8"));
    // A page that isolates itself (`Cross-Origin-Embedder-Policy`) loads only what says so.
    let policy = (HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("cross-origin"));
    ([media, policy, (header::CACHE_CONTROL, CACHE)], CLIENT).into_response()
}
