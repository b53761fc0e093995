//! Checks a running hub through its public address, with the proxies before it.
//!
//! The checks leave nothing behind: the WebSocket and the body are refused by the hub for their missing token, which
//! shows that they reached it.

use std::time::Duration;

use chrono::{DateTime, Utc};
use reqwest::header::{CONTENT_TYPE, DATE};
use serde_json::Value;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::{self, client::IntoClientRequest};

use super::report::Report;
use crate::config::Config;

/// Longest wait for one answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// `Date` has whole seconds, and an answer takes a while.
const CLOCK_APART_SECONDS: i64 = 3;
/// Bytes of the body that a proxy must let through: a batch of notifications may have 8 MiB.
const BATCH_BYTES: usize = 8 << 20;
const PROXY_GUIDE: &str = "see docs/guides/proxies.md";

/// Makes all checks of the hub at the address of `--url` or `RECADO_URL`.
pub async fn check(config: &Config, report: &mut Report) {
    let http = match reqwest::Client::builder().timeout(ANSWER_LIMIT).no_proxy().build() {
        Ok(http) => http,
        Err(error) => return report.fix("hub", error.to_string(), "repair the certificates of this machine"),
    };
    if !ready(&http, &config.url, report).await {
        return;
    }
    websocket(&config.url, report).await;
    body(&http, &config.url, report).await;
    forwarded(config, report);
}

/// Returns whether the hub answers at all.
async fn ready(http: &reqwest::Client, url: &str, report: &mut Report) -> bool {
    let response = match http.get(format!("{url}/readyz?verbose")).send().await {
        Ok(response) => response,
        Err(error) => {
            report.fix("hub", format!("{url} does not answer: {error}"), "start the hub (recado serve), or correct --url");
            return false;
        }
    };
    let now = Utc::now();
    let date = response.headers().get(DATE).and_then(|date| DateTime::parse_from_rfc2822(date.to_str().ok()?).ok());
    let status = response.status();
    let body: Value = response.json().await.unwrap_or_default();
    let Some(checks) = body["checks"].as_object() else {
        if status == 404 && is_hub(http, url).await {
            report.skipped("hub", "a hub answers; whether it is ready is told at its internal listener (RECADO_INTERNAL_BIND)");
            return true;
        }
        report.fix(
            "hub",
            format!("{url}/readyz answers {status}, but not as a hub"),
            "point --url at the hub, and let the proxy pass /readyz to it",
        );
        return false;
    };
    let failing: Vec<&str> = checks.iter().filter(|(_, check)| check["ok"] == false).map(|(name, _)| name.as_str()).collect();
    if failing.is_empty() {
        report.ok("hub", format!("{url} is ready"));
    } else {
        report.fix(
            "hub",
            format!("{url} is not ready: {}", failing.join(", ")),
            "see \"A hub is not ready\" in docs/guides/runbook.md for each name",
        );
    }
    match date.map(|date| (date.to_utc() - now).num_seconds()) {
        Some(ahead) if ahead.abs() > CLOCK_APART_SECONDS => report.fix(
            "hub clock",
            format!("the hub's clock is {} s {} this machine's", ahead.abs(), if ahead < 0 { "behind" } else { "ahead of" }),
            "synchronise both machines by NTP: timedatectl set-ntp true",
        ),
        Some(_) => report.ok("hub clock", format!("within {CLOCK_APART_SECONDS} s of this machine's")),
        None => report.skipped("hub clock", "the answer has no Date"),
    }
    true
}

/// Whether a hub answers where its probes are not served: it refuses a request without a token in its own words.
async fn is_hub(http: &reqwest::Client, url: &str) -> bool {
    let Ok(answer) = http.get(format!("{url}/api/whoami")).send().await else { return false };
    let refused = answer.status() == 401;
    let body: Value = answer.json().await.unwrap_or_default();
    refused && body["code"] == "unauthorized"
}

/// The hub accepts each handshake, and refuses a bad token over the socket.
async fn websocket(url: &str, report: &mut Report) {
    // http becomes ws, and https becomes wss.
    let address = format!("{}/ws?token=doctor", url.replacen("http", "ws", 1));
    let request = match address.as_str().into_client_request() {
        Ok(request) => request,
        Err(error) => return report.fix("websocket", format!("{url}: {error}"), "give --url as https://HOST or http://HOST:PORT"),
    };
    let fix = format!("let the proxy speak HTTP/1.1 to the hub and pass the headers Upgrade and Connection; {PROXY_GUIDE}");
    match timeout(ANSWER_LIMIT, tokio_tungstenite::connect_async(request)).await {
        Ok(Ok((mut socket, _))) => {
            let _ = socket.close(None).await;
            report.ok("websocket", "the upgrade reaches the hub");
        }
        Ok(Err(tungstenite::Error::Http(answer))) => {
            report.fix("websocket", format!("the upgrade is answered with {}", answer.status()), fix);
        }
        Ok(Err(error)) => report.fix("websocket", format!("the upgrade fails: {error}"), fix),
        Err(_) => report.fix("websocket", "the upgrade is not answered within 10 s", fix),
    }
}

/// The hub refuses the body for its missing key, as JSON. A proxy with a lower limit answers 413 with a page of its
/// own.
async fn body(http: &reqwest::Client, url: &str, report: &mut Report) {
    // One byte less than the limit of a batch.
    let body = vec![b' '; BATCH_BYTES - 1];
    let sent = http.post(format!("{url}/api/internal/notify/batch")).header(CONTENT_TYPE, "application/json").body(body).send().await;
    let fix = format!("raise the proxy's limit of a request body to 8 MiB (nginx: client_max_body_size 8m); {PROXY_GUIDE}");
    match sent {
        Ok(answer) if answer.status() == 413 => report.fix("body", "a batch of 8 MiB is refused with 413", fix),
        Ok(answer) if answer.status() == 404 => {
            report.skipped("body", "posts are not served at this address (RECADO_INTERNAL_BIND, or the proxy hides them)");
        }
        Ok(answer) => report.ok("body", format!("a batch of 8 MiB reaches the hub, which asks for a key ({})", answer.status())),
        // The hub may answer, and close, before it has read the whole body.
        Err(error) if error.is_timeout() => report.fix("body", "a batch of 8 MiB is not answered within 10 s", fix),
        Err(_) => report.ok("body", "the hub refused a batch of 8 MiB without a key before it had read all of it"),
    }
}

/// A hub speaks no TLS, so an https address leads through a proxy.
fn forwarded(config: &Config, report: &mut Report) {
    if !config.url.starts_with("https://") {
        return;
    }
    if config.trusted_proxies.is_empty() {
        report.fix(
            "forwarded",
            "a proxy stands before the hub, and RECADO_TRUSTED_PROXIES names none: its clients share one address",
            format!("set RECADO_TRUSTED_PROXIES to the addresses of the proxy, on each hub and here; {PROXY_GUIDE}"),
        );
    } else {
        report.ok("forwarded", "RECADO_TRUSTED_PROXIES names the proxies whose headers count");
    }
}
