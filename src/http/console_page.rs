//! Serves the console's page and its files at `/admin`.
//!
//! The files are built by `web/build.mjs` and kept in `web/dist`, so a build of the hub needs no Node. The page gets
//! the token of a link in the fragment of its address, which a browser sends to no server, and exchanges it for its
//! own token (`console/sign_in.rs`). The headers keep both from other places: no referrer, no foreign host, no frame
//! around the page.

use std::path::Path;
use std::sync::{Arc, LazyLock};

use axum::Extension;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};

use super::header_list::{accepts, elements};
use super::problems::RefusedRequest;
use super::server::TrailingSlash;
use super::state::HubState;
use crate::wire::problem::Problem;

/// The path of the page.
pub const PATH: &str = "/admin";
/// The paths of its files, relative to which the page names them.
pub const SCRIPT_PATH: &str = "/admin/admin.js";
pub const STYLE_PATH: &str = "/admin/admin.css";
pub const ICON_PATH: &str = "/admin/icon.svg";

/// Only files of this hub may be loaded or connected to, no code or style within the page counts, and no page may show
/// this one in a frame.
const POLICY: HeaderValue =
    HeaderValue::from_static("default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'; object-src 'none'");

/// A file of the page.
struct PageFile {
    name: &'static str,
    media: &'static str,
    plain: &'static [u8],
    gzip: &'static [u8],
    plain_tag: HeaderValue,
    gzip_tag: HeaderValue,
}

macro_rules! page_file {
    ($name:literal, $media:literal) => {
        PageFile::new(
            $name,
            $media,
            include_bytes!(concat!("../../web/dist/", $name)),
            include_bytes!(concat!("../../web/dist/", $name, ".gz")),
        )
    };
}

impl PageFile {
    fn new(name: &'static str, media: &'static str, plain: &'static [u8], gzip: &'static [u8]) -> Self {
        Self { name, media, plain, gzip, plain_tag: entity_tag(plain, ""), gzip_tag: entity_tag(plain, "-gzip") }
    }
}

static INDEX: LazyLock<PageFile> = LazyLock::new(|| page_file!("index.html", "text/html; charset=utf-8"));
static SCRIPT: LazyLock<PageFile> = LazyLock::new(|| page_file!("admin.js", "text/javascript; charset=utf-8"));
static STYLE: LazyLock<PageFile> = LazyLock::new(|| page_file!("admin.css", "text/css; charset=utf-8"));
static ICON: LazyLock<PageFile> = LazyLock::new(|| page_file!("icon.svg", "image/svg+xml"));

/// Tags a form of a content. Two forms of one content are two representations (RFC 9110 section 8.8.3.3).
fn entity_tag(content: &[u8], form: &str) -> HeaderValue {
    let digest: String = Sha256::digest(content).iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    HeaderValue::from_str(&format!("\"{digest}{form}\"")).unwrap_or_else(|_| HeaderValue::from_static("\"\""))
}

/// `GET /admin`.
pub async fn page(
    State(hub): State<Arc<HubState>>,
    slash: Option<Extension<TrailingSlash>>,
    headers: HeaderMap,
) -> Result<Response, RefusedRequest> {
    if slash.is_some() && hub.console.is_served(&headers) {
        // The page names its files relative to `/admin`, so that a proxy may put the hub under a path.
        return Ok(redirect(StatusCode::PERMANENT_REDIRECT, "../admin"));
    }
    serve(&hub, &INDEX, &headers).await
}

/// `GET /admin/admin.js`.
pub async fn script(State(hub): State<Arc<HubState>>, headers: HeaderMap) -> Result<Response, RefusedRequest> {
    serve(&hub, &SCRIPT, &headers).await
}

/// `GET /admin/admin.css`.
pub async fn style(State(hub): State<Arc<HubState>>, headers: HeaderMap) -> Result<Response, RefusedRequest> {
    serve(&hub, &STYLE, &headers).await
}

/// `GET /admin/icon.svg`.
pub async fn icon(State(hub): State<Arc<HubState>>, headers: HeaderMap) -> Result<Response, RefusedRequest> {
    serve(&hub, &ICON, &headers).await
}

/// Sends a browser from `/` to the page.
pub fn lead() -> Response {
    redirect(StatusCode::SEE_OTHER, "admin")
}

/// Whether a person opened this address in a browser: only browsers ask for HTML.
pub fn is_browser(headers: &HeaderMap) -> bool {
    accepts(headers, "text/html")
}

fn redirect(status: StatusCode, to: &'static str) -> Response {
    let headers = [
        (header::LOCATION, HeaderValue::from_static(to)),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    ];
    (status, headers).into_response()
}

async fn serve(hub: &HubState, file: &PageFile, headers: &HeaderMap) -> Result<Response, RefusedRequest> {
    hub.console.check_served(headers)?;
    if let Some(folder) = &hub.console.folder {
        let content = from_folder(folder, file.name).await?;
        return Ok(answer(file.media, entity_tag(&content, ""), headers, content));
    }
    if accepts_gzip(headers) {
        let mut response = answer(file.media, file.gzip_tag.clone(), headers, Bytes::from_static(file.gzip));
        if response.status() == StatusCode::OK {
            response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        return Ok(response);
    }
    Ok(answer(file.media, file.plain_tag.clone(), headers, Bytes::from_static(file.plain)))
}

/// Reads a file for work on the page. The name is one of this program, so it leads nowhere else.
async fn from_folder(folder: &Path, name: &'static str) -> Result<Bytes, RefusedRequest> {
    tokio::fs::read(folder.join(name)).await.map(Bytes::from).map_err(|error| {
        tracing::warn!(%error, name, "cannot read a file of RECADO_ADMIN_DIR");
        Problem::new(404, "not_found", "the folder of RECADO_ADMIN_DIR has no such file").into()
    })
}

fn answer(media: &'static str, tag: HeaderValue, headers: &HeaderMap, content: Bytes) -> Response {
    let is_known = is_known(headers, &tag);
    let fixed = [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (HeaderName::from_static("cross-origin-opener-policy"), HeaderValue::from_static("same-origin")),
        (HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        (header::VARY, HeaderValue::from_static("accept-encoding")),
        (header::ETAG, tag),
    ];
    if is_known {
        return (StatusCode::NOT_MODIFIED, fixed).into_response();
    }
    (fixed, [(header::CONTENT_TYPE, HeaderValue::from_static(media))], content).into_response()
}

/// Whether the browser has this representation (RFC 9110 section 13.1.2, weak comparison).
fn is_known(headers: &HeaderMap, tag: &HeaderValue) -> bool {
    elements(headers, header::IF_NONE_MATCH).any(|one| one == "*" || one.strip_prefix("W/").unwrap_or(one).as_bytes() == tag.as_bytes())
}

/// Whether the browser takes gzip (RFC 9110 section 12.5.3).
fn accepts_gzip(headers: &HeaderMap) -> bool {
    elements(headers, header::ACCEPT_ENCODING).map(|coding| coding.split(';').map(str::trim)).any(|mut parts| {
        let is_gzip = parts.next().is_some_and(|name| name.eq_ignore_ascii_case("gzip"));
        is_gzip && !parts.any(|weight| weight.strip_prefix("q=").is_some_and(|weight| weight.parse() == Ok(0.0)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
    }

    #[test]
    fn gzip_is_sent_to_browsers_that_take_it() {
        for (value, takes) in
            [("gzip", true), ("br, GZIP;q=0.5", true), ("gzip;q=0", false), ("gzip; q=0.0", false), ("br", false), ("", false)]
        {
            assert_eq!(accepts_gzip(&headers(header::ACCEPT_ENCODING, value)), takes, "{value}");
        }
    }

    #[test]
    fn only_a_browser_asks_for_html() {
        for (value, browser) in [
            ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", true),
            ("application/json, text/html;q=0.9", true),
            ("*/*", false),
            ("application/json", false),
            ("text/htmlx", false),
        ] {
            assert_eq!(is_browser(&headers(header::ACCEPT, value)), browser, "{value}");
        }
        assert!(!is_browser(&HeaderMap::new()));
    }

    #[test]
    fn a_known_tag_is_recognised_in_each_form() {
        let tag = HeaderValue::from_static("\"a\"");
        for (value, known) in [("\"a\"", true), ("W/\"a\"", true), ("\"b\", \"a\"", true), ("*", true), ("\"ab\"", false), ("a", false)] {
            assert_eq!(is_known(&headers(header::IF_NONE_MATCH, value), &tag), known, "{value}");
        }
    }
}
