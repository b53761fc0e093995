//! Talking to a hub over HTTP, as notify, stats and healthcheck do.

use std::time::Duration;

use reqwest::{RequestBuilder, StatusCode};
use serde_json::Value;

use super::error::Failure;
use super::token;
use crate::backoff::Backoff;
use crate::config::Config;
use crate::domain::Role;

/// Longest wait for an answer; the hub promises one within five seconds.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// A token that a command makes for itself.
const TOKEN_TTL: Duration = Duration::from_secs(300);

/// A hub's address and what opens its doors.
pub struct HubClient {
    http: reqwest::Client,
    url: String,
    bearer: Option<String>,
}

/// How often an answer that leaves the outcome open is asked for again; the key makes that safe.
const TRIES: u32 = 5;

/// An answer of the hub.
pub struct Answer {
    pub status: StatusCode,
    pub body: Value,
}

impl HubClient {
    /// With `role`, it brings the configured key, or a token made from the secret on this machine.
    ///
    /// # Errors
    /// When there is neither key nor secret.
    pub fn new(config: &Config, role: Option<Role>) -> Result<Self, Failure> {
        let bearer = match (role, &config.key) {
            (None, _) => None,
            (Some(_), Some(key)) => Some(key.clone()),
            (Some(role), None) => Some(token::mint(config, &token::principal("local", &[])?, Some(role), TOKEN_TTL)?),
        };
        let http = reqwest::Client::builder().timeout(ANSWER_LIMIT).no_proxy().build();
        Ok(Self { http: http.map_err(|error| Failure::other(error.to_string()))?, url: config.url.clone(), bearer })
    }

    pub async fn get(&self, path: &str) -> Result<Answer, Failure> {
        self.send(self.http.get(format!("{}{path}", self.url))).await
    }

    /// Posts JSON under a key, and repeats it while the outcome is open or the hub asks for patience.
    pub async fn insist(&self, path: &str, idempotency_key: &str, body: &str) -> Result<Answer, Failure> {
        let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(4));
        for _ in 1..TRIES {
            match self.post(path, idempotency_key, body).await {
                Ok(answer) if answer.status.is_server_error() || answer.status.as_u16() == 429 => {
                    eprintln!("{}; trying again", answer.status);
                }
                Ok(answer) => return Ok(answer),
                Err(failure) => eprintln!("{}; trying again", failure.message),
            }
            tokio::time::sleep(backoff.failed()).await;
        }
        self.post(path, idempotency_key, body).await
    }

    async fn post(&self, path: &str, idempotency_key: &str, body: &str) -> Result<Answer, Failure> {
        let request = self.http.post(format!("{}{path}", self.url)).header("Idempotency-Key", idempotency_key);
        self.send(request.header("Content-Type", "application/json").body(body.to_owned())).await
    }

    async fn send(&self, mut request: RequestBuilder) -> Result<Answer, Failure> {
        if let Some(bearer) = &self.bearer {
            request = request.bearer_auth(bearer);
        }
        let response = request.send().await.map_err(|error| {
            let why = if error.is_connect() { "nobody listens there" } else { "no answer" };
            Failure::unavailable(format!("{}: {why}; is a hub running (recado serve), and is --url right?", self.url))
        })?;
        let status = response.status();
        let body = response.json().await.unwrap_or(Value::Null);
        Ok(Answer { status, body })
    }
}

impl Answer {
    /// The body of a success; a refusal in the hub's own words.
    ///
    /// # Errors
    /// For every other status.
    pub fn into_success(self) -> Result<Value, Failure> {
        if self.status.is_success() {
            return Ok(self.body);
        }
        let mut message = format!("{} {}: {}", self.status.as_u16(), text(&self.body["code"]), text(&self.body["detail"]));
        for error in self.body["errors"].as_array().into_iter().flatten() {
            message.push_str(&format!("\n  {} {}", text(&error["pointer"]), text(&error["detail"])));
        }
        Err(match self.status.as_u16() {
            401 | 403 => Failure::refused(message),
            500.. => Failure::unavailable(message),
            _ => Failure::other(message),
        })
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("")
}
