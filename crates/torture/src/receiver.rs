//! Receives the posts of a webhook: checks every signature, and refuses some posts once.

use std::collections::HashSet;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use aws_lc_rs::hmac;
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use recado_testkit::process::clean_command;
use recado_torture_check::fact::RunFact;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::writers::WriterShared;
use crate::{RunError, secrets};

pub const WEBHOOK: &str = "receiver";
/// The networks that hubs may post to.
pub const NETWORKS: &str = "127.0.0.1";

struct ReceiverState {
    desk: Arc<WriterShared>,
    key: OnceLock<hmac::Key>,
    /// Numbers that were refused once.
    refused: Mutex<HashSet<i64>>,
    random: Mutex<StdRng>,
}

/// The service behind a webhook. Dropping it ends it.
pub struct Receiver {
    state: Arc<ReceiverState>,
    url: String,
    _serving: JoinSet<()>,
}

impl Receiver {
    pub async fn start(desk: Arc<WriterShared>, seed: u64) -> Result<Self, RunError> {
        let random = Mutex::new(StdRng::seed_from_u64(seed.wrapping_mul(17)));
        let state = Arc::new(ReceiverState { desk, key: OnceLock::new(), refused: Mutex::default(), random });
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}/hook", listener.local_addr()?);
        let router = Router::new().route("/hook", post(take)).with_state(Arc::clone(&state));
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self { state, url, _serving: serving })
    }

    /// Creates the webhook by the command line. Returns its secret.
    pub async fn create_webhook(&self, program: &Path, database: &str) -> Result<String, RunError> {
        let mut command = clean_command(program);
        command.args(["webhook", "create", WEBHOOK, &self.url, "--audience", "everyone", "--start", "earliest", "-o", "json"]);
        let settings = [("DATABASE_URL", database), ("RECADO_UPSTREAM_KEY", secrets::UPSTREAM_KEY), ("RECADO_WEBHOOK_NETWORKS", NETWORKS)];
        let output = command.envs(settings).kill_on_drop(true).output().await?;
        if !output.status.success() {
            return Err(format!("recado webhook create: {}", String::from_utf8_lossy(&output.stderr)).into());
        }
        let said: Value = serde_json::from_slice(&output.stdout)?;
        let secret = said["secret"].as_str().ok_or("recado webhook create printed no secret")?.to_owned();
        let key = STANDARD.decode(secret.strip_prefix("whsec_").unwrap_or(&secret))?;
        let _ = self.state.key.set(hmac::Key::new(hmac::HMAC_SHA256, &key));
        Ok(secret)
    }
}

async fn take(State(receiver): State<Arc<ReceiverState>>, headers: HeaderMap, body: Bytes) -> Response {
    let Ok(post) = serde_json::from_slice::<Value>(&body) else { return StatusCode::BAD_REQUEST.into_response() };
    let seq = post["data"]["seq"].as_i64().unwrap_or(0);
    let id = post["data"]["id"].as_str().unwrap_or_default().to_owned();
    let is_signed = receiver.is_signed(&headers, &body);
    let answer = receiver.answer(seq).await;
    receiver.desk.book.note(RunFact::WebhookPost { seq, id, is_signed, answer: answer.as_u16() });
    match answer {
        StatusCode::SERVICE_UNAVAILABLE => (answer, [("retry-after", "1")]).into_response(),
        _ => answer.into_response(),
    }
}

impl ReceiverState {
    /// Standard Webhooks: HMAC-SHA256 over id, time and body.
    fn is_signed(&self, headers: &HeaderMap, body: &[u8]) -> bool {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let signed = [format!("{}.{}.", text("webhook-id"), text("webhook-timestamp")).as_bytes(), body].concat();
        let is_it = |key: &hmac::Key, signature: &str| {
            let tag = signature.strip_prefix("v1,").and_then(|tag| STANDARD.decode(tag).ok());
            tag.is_some_and(|tag| hmac::verify(key, &signed, &tag).is_ok())
        };
        self.key.get().is_some_and(|key| text("webhook-signature").split(' ').any(|signature| is_it(key, signature)))
    }

    /// One post in twelve is refused at first, or takes long. After the last notification all are accepted.
    async fn answer(&self, seq: i64) -> StatusCode {
        let chance = self.random.lock().unwrap_or_else(PoisonError::into_inner).random_range(0..48);
        let may_refuse = chance < 4 && !self.desk.closed.load(Ordering::SeqCst);
        if !may_refuse || !self.refused.lock().unwrap_or_else(PoisonError::into_inner).insert(seq) {
            return StatusCode::NO_CONTENT;
        }
        match chance {
            0 => StatusCode::SERVICE_UNAVAILABLE,
            1 => {
                sleep(Duration::from_secs(2)).await;
                StatusCode::BAD_GATEWAY
            }
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}
