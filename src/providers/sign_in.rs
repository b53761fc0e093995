//! Signs a user in at a provider with one HTTP request and one JSON answer.
//!
//! Time, size and depth of the exchange are bounded. The request uses a connection of the [`Dialer`], so there are no
//! redirects to follow, no proxy of the environment, no cookies and no compression.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderMap, HeaderValue, RETRY_AFTER, USER_AGENT};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::time::timeout;

use super::dial::{DialError, Dialer, filled};
use super::provider::{Provider, SignInRules};
use super::secret::Secret;
use super::template::TemplateValues;
use crate::domain::UserId;
use crate::metrics::UPSTREAM_SIGN_INS;
use crate::outgoing::{DialTarget, retry_after};
use crate::wire::json;

/// Longest answer that is read, in bytes. A session id takes a few hundred.
const MAX_ANSWER: usize = 64 * 1024;
/// Longest session id, in bytes: it goes into a URL, and servers accept URLs of about 8 KiB.
const MAX_SESSION: usize = 4096;
/// How much of the provider's error message is passed on, in characters.
const MAX_REASON: usize = 200;

/// The result of a sign-in, by what the session does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SignInOutcome {
    SignedIn {
        session: Secret,
    },
    /// This user is refused; retrying would not help. `reason` is for the user.
    RefusedForGood {
        reason: String,
    },
    /// Retrying may help, after this time if the provider named one. `why` contains nothing of the answer.
    TryLater {
        after: Option<Duration>,
        why: String,
    },
}

impl SignInOutcome {
    fn later(why: impl Into<String>) -> Self {
        Self::TryLater { after: None, why: why.into() }
    }
}

impl From<DialError> for SignInOutcome {
    fn from(error: DialError) -> Self {
        match error {
            // The provider may correct its address; the user is not to blame for it.
            DialError::Forbidden(why) => Self::later(why),
            DialError::Expired => Self::later("the provider closed the connection"),
            DialError::TryLater { after, why } => Self::TryLater { after, why },
        }
    }
}

/// Requests a session for this user from the provider.
pub async fn sign_in(dialer: &Dialer, provider: &Provider, user: &UserId) -> SignInOutcome {
    let outcome = attempt(dialer, provider, user).await;
    let word = match &outcome {
        SignInOutcome::SignedIn { .. } => "signed_in",
        SignInOutcome::RefusedForGood { .. } => "refused",
        SignInOutcome::TryLater { .. } => "later",
    };
    UPSTREAM_SIGN_INS.add(word, 1);
    outcome
}

async fn attempt(dialer: &Dialer, provider: &Provider, user: &UserId) -> SignInOutcome {
    let rules = &provider.sign_in;
    let values = TemplateValues { user: Some(user), timestamp_ms: super::now_ms(), ..TemplateValues::default() };
    let target = match rules.url.fill(&provider.hosts, &values) {
        Ok(target) => target,
        Err(forbidden) => return SignInOutcome::RefusedForGood { reason: forbidden.0 },
    };
    let request = match request(rules, &target, &values) {
        Ok(request) => request,
        Err(why) => return SignInOutcome::later(why),
    };
    let asked = timeout(rules.deadline, ask(dialer, provider, &target, request)).await;
    asked.unwrap_or_else(|_| SignInOutcome::later(format!("the sign-in was not answered within {:?}", rules.deadline)))
}

fn request(rules: &SignInRules, target: &DialTarget, values: &TemplateValues<'_>) -> Result<Request<Full<Bytes>>, String> {
    let body = rules.body.as_ref().map(|body| Bytes::from(body.fill(values)));
    let mut headers = HeaderMap::new();
    let host = HeaderValue::from_str(&target.authority()).map_err(|_| "the host is not a valid header value".to_owned())?;
    headers.insert(HOST, host);
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    headers.insert(USER_AGENT, HeaderValue::from_static(concat!("recado/", env!("CARGO_PKG_VERSION"))));
    if body.is_some() {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    for (name, value) in filled(&rules.headers, values)? {
        headers.insert(name, value);
    }
    let mut request = Request::new(Full::new(body.unwrap_or_default()));
    *request.method_mut() = rules.method.clone();
    *request.uri_mut() = target.path().parse().map_err(|_| "the sign-in's URL is not valid for a request".to_owned())?;
    *request.headers_mut() = headers;
    Ok(request)
}

async fn ask(dialer: &Dialer, provider: &Provider, target: &DialTarget, request: Request<Full<Bytes>>) -> SignInOutcome {
    let stream = match dialer.stream(target, provider.hosts.insecure).await {
        Ok(stream) => stream,
        Err(error) => return error.into(),
    };
    let begun = http1::Builder::new().max_buf_size(MAX_ANSWER).handshake(TokioIo::new(stream)).await;
    let Ok((mut sender, connection)) = begun else { return SignInOutcome::later("the connection broke") };
    let exchange = async {
        match sender.send_request(request).await {
            Ok(response) => read(provider, response).await,
            Err(_) => SignInOutcome::later("the connection broke, or the answer is not HTTP"),
        }
    };
    tokio::pin!(exchange, connection);
    let mut closed = false;
    loop {
        tokio::select! {
            outcome = &mut exchange => return outcome,
            // The last bytes may still be on their way to us.
            _ = &mut connection, if !closed => closed = true,
        }
    }
}

async fn read(provider: &Provider, response: Response<Incoming>) -> SignInOutcome {
    let status = response.status();
    let after = response.headers().get(RETRY_AFTER).and_then(retry_after);
    if status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error() {
        return SignInOutcome::TryLater { after, why: format!("the sign-in was answered with {}", status.as_u16()) };
    }
    if status.is_redirection() {
        return SignInOutcome::later(format!("the sign-in was answered with {}: redirects are not followed", status.as_u16()));
    }
    told(provider, status.as_u16(), after, body(response).await)
}

/// Interprets an answer that was read, or that could not be read.
pub fn told(provider: &Provider, status: u16, after: Option<Duration>, body: Result<String, String>) -> SignInOutcome {
    let value = body.and_then(|text| parse(&text));
    if provider.sign_in.refused.contains(&status) {
        return SignInOutcome::RefusedForGood { reason: reason(provider, value.as_ref().ok()) };
    }
    if !(200..300).contains(&status) {
        return SignInOutcome::TryLater { after, why: format!("the sign-in was answered with {status}") };
    }
    match value {
        Ok(value) => judge(provider, &value),
        Err(why) => SignInOutcome::later(why),
    }
}

/// Reads the body up to the size limit.
async fn body(response: Response<Incoming>) -> Result<String, String> {
    let too_long = || format!("the sign-in's answer is longer than {MAX_ANSWER} bytes");
    let told: Option<usize> = response.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if told.is_some_and(|length| length > MAX_ANSWER) {
        return Err(too_long());
    }
    let mut body = response.into_body();
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| "the sign-in's answer ended early".to_owned())?;
        let Some(data) = frame.data_ref() else { continue };
        if bytes.len() + data.len() > MAX_ANSWER {
            return Err(too_long());
        }
        bytes.extend_from_slice(data);
    }
    String::from_utf8(bytes).map_err(|_| "the sign-in's answer is not UTF-8".to_owned())
}

/// Parses the answer. The error contains nothing of it, because the answer may contain a session id.
fn parse(text: &str) -> Result<Value, String> {
    let plain = || "the sign-in's answer is not JSON, or nested too deeply".to_owned();
    json::check(text).map_err(|_| plain())?;
    serde_json::from_str(text).map_err(|_| plain())
}

fn judge(provider: &Provider, value: &Value) -> SignInOutcome {
    let rules = &provider.sign_in;
    if let Some(success) = &rules.success {
        match success.find(value) {
            Some(Value::Bool(true)) => {}
            Some(Value::Bool(false)) if rules.failure_is_final => {
                return SignInOutcome::RefusedForGood { reason: reason(provider, Some(value)) };
            }
            Some(Value::Bool(false)) => return SignInOutcome::later(format!("{} is false in the sign-in's answer", success.as_str())),
            _ => return SignInOutcome::later(format!("{} is neither true nor false in the sign-in's answer", success.as_str())),
        }
    }
    let session = match rules.session.find(value) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) => number.to_string(),
        _ => String::new(),
    };
    if session.is_empty() || session.len() > MAX_SESSION || session.chars().any(char::is_control) {
        return SignInOutcome::later(format!("{} of the sign-in's answer is not a valid session id", rules.session.as_str()));
    }
    SignInOutcome::SignedIn { session: Secret::new(session) }
}

/// The provider's error message for the user, or our own text if there is none.
fn reason(provider: &Provider, value: Option<&Value>) -> String {
    let found = provider.sign_in.error.as_ref().zip(value).and_then(|(error, value)| error.find(value)?.as_str());
    let text: String = found.unwrap_or_default().chars().filter(|c| !c.is_control()).take(MAX_REASON).collect();
    if text.trim().is_empty() { provider.texts.refused.clone() } else { text }
}
