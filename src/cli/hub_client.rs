//! Sends requests to a hub over HTTP, for the commands that need one.

use std::time::Duration;

use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::Value;

use super::error::CliFailure;
use super::token;
use crate::backoff::Backoff;
use crate::config::Config;
use crate::domain::{Principal, Role};
use crate::identity::COMMAND_LINE_SUBJECT;

/// Time limit for an answer. The hub promises one within five seconds.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// Time limit for a whole stream.
const STREAM_LIMIT: Duration = Duration::from_secs(86_400);
/// Lifetime of a token that a command makes for itself.
const TOKEN_TTL: Duration = Duration::from_secs(300);

/// A hub's address and the credential for it.
pub struct HubClient {
    http: reqwest::Client,
    url: String,
    bearer: Option<String>,
}

/// Entries of one request of a list.
const PAGE: usize = 1000;

/// How often a request with an unknown outcome is sent; the idempotency key makes that safe.
const TRIES: u32 = 5;

/// A page of a user's history.
pub struct HistoryPage {
    /// One notification each, as the hub wrote it.
    pub lines: Vec<String>,
    /// Start of the next page; `None` if this page is the last.
    pub next: Option<u64>,
}

/// An answer of the hub.
pub struct HubAnswer {
    pub status: StatusCode,
    pub body: Value,
}

impl HubClient {
    /// Creates a client. With `role`, it sends the configured key, or a token made from the secret on this machine.
    ///
    /// # Errors
    /// When there is neither key nor secret.
    pub fn new(config: &Config, role: Option<Role>) -> Result<Self, CliFailure> {
        let bearer = match (role, &config.key) {
            (None, _) => None,
            (Some(_), Some(key)) => Some(key.clone()),
            (Some(role), None) => Some(token::mint(config, &token::principal(COMMAND_LINE_SUBJECT, &[])?, Some(role), TOKEN_TTL)?),
        };
        let http = reqwest::Client::builder().timeout(ANSWER_LIMIT).no_proxy().build();
        Ok(Self { http: http.map_err(|error| CliFailure::other(error.to_string()))?, url: config.internal_url.clone(), bearer })
    }

    /// Creates a client with a user's token, made from the secret on this machine.
    ///
    /// # Errors
    /// When there is no secret.
    pub fn of_user(config: &Config, who: &Principal) -> Result<Self, CliFailure> {
        let bearer = token::mint(config, who, None, TOKEN_TTL.min(config.jwt.max_lifetime))?;
        // The routes of users are on the public listener.
        Ok(Self { bearer: Some(bearer), url: config.url.clone(), ..Self::new(config, None)? })
    }

    /// A page of the user's history, each notification as the hub wrote it.
    pub async fn history(
        &self,
        after: Option<u64>,
        limit: usize,
        kind: Option<&str>,
        types: Option<&str>,
    ) -> Result<HistoryPage, CliFailure> {
        let mut query = vec![("limit", limit.to_string())];
        query.extend(after.map(|after| ("after", after.to_string())));
        query.extend(kind.map(|kind| ("type", kind.to_owned())));
        query.extend(types.map(|types| ("types", types.to_owned())));
        let mut url =
            reqwest::Url::parse(&format!("{}/api/notifications", self.url)).map_err(|e| CliFailure::settings(format!("--url: {e}")))?;
        url.query_pairs_mut().extend_pairs(query);
        let response = self.answered(self.http.get(url).header("Accept", "application/x-ndjson")).await?;
        let status = response.status();
        if !status.is_success() {
            let body = response.json().await.unwrap_or(Value::Null);
            return Err(HubAnswer { status, body }.into_success().err().unwrap_or_else(|| CliFailure::other("no page")));
        }
        let next = response.headers().get("recado-next").and_then(|next| next.to_str().ok()?.parse().ok());
        let text =
            response.text().await.map_err(|error| CliFailure::unavailable(format!("the page was not received completely: {error}")))?;
        Ok(HistoryPage { lines: text.lines().map(str::to_owned).collect(), next })
    }

    pub async fn get(&self, path: &str) -> Result<HubAnswer, CliFailure> {
        self.send(self.http.get(format!("{}{path}", self.url))).await
    }

    /// Opens a stream that may stay open for a day. Its first bytes come within the time of any other answer.
    pub async fn stream(&self, path: &str) -> Result<reqwest::Response, CliFailure> {
        let opened = self.answered(self.http.get(format!("{}{path}", self.url)).timeout(STREAM_LIMIT));
        let late = |_| CliFailure::unavailable(format!("{}: no answer; is a hub running (recado serve), and is --url right?", self.url));
        let response = tokio::time::timeout(ANSWER_LIMIT, opened).await.map_err(late)??;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = response.json().await.unwrap_or(Value::Null);
        Err(HubAnswer { status, body }.into_success().err().unwrap_or_else(|| CliFailure::other("no stream")))
    }

    /// Reads a list page by page. `name` is the member of the answer that holds the list.
    pub async fn list(&self, path: &str, name: &str) -> Result<Vec<Value>, CliFailure> {
        let (mut all, mut after): (Vec<Value>, String) = Default::default();
        loop {
            let page = self.get(&format!("{path}?limit={PAGE}{after}")).await?.into_success()?;
            all.extend(page[name].as_array().cloned().unwrap_or_default());
            match page["next"].as_str() {
                Some(next) => after = format!("&after={next}"),
                None => return Ok(all),
            }
        }
    }

    /// Sends a PUT without a body. It is retried as [`HubClient::insist`] retries a post: a repeat has no effect.
    pub async fn put(&self, path: &str) -> Result<HubAnswer, CliFailure> {
        self.repeat(|| self.http.put(format!("{}{path}", self.url))).await
    }

    /// Sends JSON once, and waits at most so long for the answer. Returns its text, so that numbers stay as they are.
    pub async fn send_once(&self, method: Method, path: &str, body: &Value, limit: Duration) -> Result<(StatusCode, String), CliFailure> {
        let request = self.http.request(method, format!("{}{path}", self.url)).json(body).timeout(limit);
        let response = self.answered(request).await?;
        let status = response.status();
        let text = response.text().await;
        Ok((status, text.map_err(|error| CliFailure::unavailable(format!("the answer was not received completely: {error}")))?))
    }

    /// Sends a DELETE, with the retries of [`HubClient::put`].
    pub async fn delete(&self, path: &str) -> Result<HubAnswer, CliFailure> {
        self.repeat(|| self.http.delete(format!("{}{path}", self.url))).await
    }

    /// Posts JSON, with the retries of [`HubClient::put`].
    pub async fn post(&self, path: &str, body: &Value) -> Result<HubAnswer, CliFailure> {
        self.repeat(|| self.http.post(format!("{}{path}", self.url)).json(body)).await
    }

    /// Posts JSON under an idempotency key, and retries while the outcome is unknown or the hub refuses temporarily.
    pub async fn insist(&self, path: &str, idempotency_key: &str, body: &str) -> Result<HubAnswer, CliFailure> {
        self.repeat(|| {
            let request = self.http.post(format!("{}{path}", self.url)).header("Idempotency-Key", idempotency_key);
            request.header("Content-Type", "application/json").body(body.to_owned())
        })
        .await
    }

    /// Sends a request until its outcome is known and final.
    async fn repeat(&self, request: impl Fn() -> RequestBuilder) -> Result<HubAnswer, CliFailure> {
        let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(4));
        for _ in 1..TRIES {
            match self.send(request()).await {
                Ok(answer) if answer.status.is_server_error() || answer.status.as_u16() == 429 => {
                    eprintln!("{}; retrying", answer.status);
                }
                Ok(answer) => return Ok(answer),
                Err(failure) => eprintln!("{}; retrying", failure.message),
            }
            tokio::time::sleep(backoff.failed()).await;
        }
        self.send(request()).await
    }

    async fn send(&self, request: RequestBuilder) -> Result<HubAnswer, CliFailure> {
        let response = self.answered(request).await?;
        let status = response.status();
        let body = response.json().await.unwrap_or(Value::Null);
        Ok(HubAnswer { status, body })
    }

    async fn answered(&self, mut request: RequestBuilder) -> Result<reqwest::Response, CliFailure> {
        if let Some(bearer) = &self.bearer {
            request = request.bearer_auth(bearer);
        }
        request.send().await.map_err(|error| {
            let why = if error.is_connect() { "cannot connect" } else { "no answer" };
            CliFailure::unavailable(format!("{}: {why}; is a hub running (recado serve), and is --url right?", self.url))
        })
    }
}

impl HubAnswer {
    /// Returns the body of a success, or a failure with the hub's own text.
    ///
    /// # Errors
    /// For every other status.
    pub fn into_success(self) -> Result<Value, CliFailure> {
        if self.status.is_success() {
            return Ok(self.body);
        }
        let mut message = format!("{} {}: {}", self.status.as_u16(), text(&self.body["code"]), text(&self.body["detail"]));
        for error in self.body["errors"].as_array().into_iter().flatten() {
            message.push_str(&format!("\n  {} {}", text(&error["pointer"]), text(&error["detail"])));
        }
        Err(match self.status.as_u16() {
            401 | 403 => CliFailure::refused(message),
            500.. => CliFailure::unavailable(message),
            _ => CliFailure::other(message),
        })
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("")
}
