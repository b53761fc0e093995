//! Makes one request to the address of a webhook.
//!
//! Each request has a connection of its own: no proxy of the environment, no redirects, no cookies. The body of the
//! answer is not read.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, HeaderName, HeaderValue, RETRY_AFTER, USER_AGENT};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::time::timeout;

use super::message::Message;
use super::secret::WebhookSecret;
use super::signature::sign;
use super::target::TargetRules;
use crate::outgoing::{ConnectError, Connector, DialTarget, LeaseTrust, OutgoingStream, retry_after};

/// Longest time to resolve, connect and do the TLS handshake.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// Longest wait for the head of the answer, from the first byte of the request.
const ANSWER_DEADLINE: Duration = Duration::from_secs(15);
/// Longest head of an answer, in bytes. It is the least that hyper accepts.
const MAX_ANSWER: usize = 8 * 1024;

/// The outcome of one attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PostOutcome {
    /// 2xx.
    Accepted(u16),
    /// 410: the receiver wants no more posts.
    Gone,
    /// A later attempt may succeed, after this time if the receiver named one. `error` contains nothing of the answer.
    Failed { status: Option<u16>, error: String, after: Option<Duration> },
}

impl PostOutcome {
    fn failed(error: impl Into<String>) -> Self {
        Self::Failed { status: None, error: error.into(), after: None }
    }
}

/// Posts messages. Cheap to clone.
#[derive(Clone)]
pub struct Poster {
    connector: Connector,
    rules: Arc<TargetRules>,
}

impl Poster {
    pub fn new(connector: Connector, rules: Arc<TargetRules>) -> Self {
        Self { connector, rules }
    }

    /// Posts a message, signed with each of the secrets. Sends nothing after `trust` has ended.
    pub async fn post(&self, url: &str, message: &Message, secrets: &[WebhookSecret], trust: Option<Arc<LeaseTrust>>) -> PostOutcome {
        let target = match self.rules.parse(url) {
            Ok(target) => target,
            Err(why) => return PostOutcome::failed(why),
        };
        let connected = self.connector.stream(&target, |address| self.rules.may_be_dialled(&target, address), trust);
        let stream = match timeout(CONNECT_DEADLINE, connected).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(ConnectError::Forbidden(why) | ConnectError::Failed(why))) => return PostOutcome::failed(why),
            Err(_) => return PostOutcome::failed(format!("no connection to {} within {CONNECT_DEADLINE:?}", target.host)),
        };
        #[cfg(feature = "failpoints")]
        crate::failpoints::at("webhook.before_request").await;
        // Signed after the connection is open: receivers refuse times that are some minutes old.
        let Some(request) = request(&target, message, secrets) else {
            return PostOutcome::failed("the URL is not valid for a request");
        };
        let answered = timeout(ANSWER_DEADLINE, ask(stream, request)).await;
        answered.unwrap_or_else(|_| PostOutcome::failed(format!("no answer within {ANSWER_DEADLINE:?}")))
    }
}

fn request(target: &DialTarget, message: &Message, secrets: &[WebhookSecret]) -> Option<Request<Full<Bytes>>> {
    let now = chrono::Utc::now().timestamp();
    let signature = sign(secrets, &message.id, now, &message.body);
    let mut request = Request::new(Full::new(message.body.clone()));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = target.path().parse().ok()?;
    let headers = request.headers_mut();
    headers.insert(HOST, HeaderValue::from_str(&target.authority()).ok()?);
    headers.insert(USER_AGENT, HeaderValue::from_static(concat!("recado/", env!("CARGO_PKG_VERSION"))));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    headers.insert(HeaderName::from_static("webhook-id"), HeaderValue::from_str(&message.id).ok()?);
    headers.insert(HeaderName::from_static("webhook-timestamp"), HeaderValue::from(now));
    headers.insert(HeaderName::from_static("webhook-signature"), HeaderValue::from_str(&signature).ok()?);
    Some(request)
}

async fn ask(stream: OutgoingStream, request: Request<Full<Bytes>>) -> PostOutcome {
    let begun = http1::Builder::new().max_buf_size(MAX_ANSWER).handshake(TokioIo::new(stream)).await;
    let Ok((mut sender, connection)) = begun else { return PostOutcome::failed("the connection broke") };
    let exchange = sender.send_request(request);
    tokio::pin!(exchange, connection);
    let mut closed = false;
    loop {
        tokio::select! {
            answer = &mut exchange => return answer.map_or_else(|_| PostOutcome::failed("the connection broke, or the answer is not HTTP"), |a| judge(&a)),
            // The last bytes may still be on their way to us.
            _ = &mut connection, if !closed => closed = true,
        }
    }
}

fn judge(answer: &Response<Incoming>) -> PostOutcome {
    outcome(answer.status(), answer.headers().get(RETRY_AFTER))
}

/// Interprets the head of an answer.
fn outcome(status: StatusCode, after: Option<&HeaderValue>) -> PostOutcome {
    if status.is_success() {
        return PostOutcome::Accepted(status.as_u16());
    }
    if status == StatusCode::GONE {
        return PostOutcome::Gone;
    }
    let redirect = if status.is_redirection() { ": redirects are not followed" } else { "" };
    // Other answers have no Retry-After, or mean something else by it.
    let may_ask = matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
    PostOutcome::Failed {
        status: Some(status.as_u16()),
        error: format!("answered with {}{redirect}", status.as_u16()),
        after: after.filter(|_| may_ask).and_then(retry_after),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_judged_by_its_status() {
        let after = HeaderValue::from_static("7");
        let of = |status: u16, after: Option<&HeaderValue>| outcome(StatusCode::from_u16(status).unwrap(), after);
        assert_eq!(of(204, None), PostOutcome::Accepted(204));
        assert_eq!(of(410, None), PostOutcome::Gone);
        for (status, waits) in [(429, Some(7)), (503, Some(7)), (500, None), (404, None)] {
            let PostOutcome::Failed { status: told, after, .. } = of(status, Some(&after)) else { panic!("{status}") };
            assert_eq!((told, after), (Some(status), waits.map(Duration::from_secs)));
        }
        let PostOutcome::Failed { error, .. } = of(302, None) else { panic!() };
        assert!(error.contains("not followed"), "{error}");
    }
}
