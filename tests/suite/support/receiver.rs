//! Plays the receiver of webhooks: keeps what it is sent, checks signatures, and answers as the test wants.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use axum::http::{HeaderMap, Request, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::{PATIENCE, eventually};

/// A request as the receiver got it.
#[derive(Debug, Clone)]
pub struct GotPost {
    pub method: String,
    pub path: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl GotPost {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("{name} in {:?}", self.headers)).to_str().unwrap()
    }

    pub fn id(&self) -> String {
        self.header("webhook-id").to_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub fn title(&self) -> String {
        self.json()["data"]["title"].as_str().unwrap_or_default().to_owned()
    }

    /// Whether one of its signatures was made with this secret. By RFC 2104 over another library's hash than the hub's.
    pub fn is_signed_with(&self, secret: &str) -> bool {
        let key = STANDARD.decode(secret.strip_prefix("whsec_").expect("a secret begins with whsec_")).unwrap();
        assert!(key.len() <= 64);
        let signed = [self.id().as_bytes(), b".", self.header("webhook-timestamp").as_bytes(), b".", &self.body].concat();
        let pad = |byte: u8| -> Vec<u8> { (0..64).map(|at| key.get(at).copied().unwrap_or(0) ^ byte).collect() };
        let inner = Sha256::new().chain_update(pad(0x36)).chain_update(signed).finalize();
        let expected = format!("v1,{}", STANDARD.encode(Sha256::new().chain_update(pad(0x5c)).chain_update(inner).finalize()));
        self.header("webhook-signature").split(' ').any(|signature| signature == expected)
    }
}

/// How the receiver answers one post.
pub enum ReceiverAnswer {
    /// A status, and headers.
    Status(u16, Vec<(&'static str, String)>),
    /// The status that the test gives later.
    Held(oneshot::Receiver<u16>),
}

#[derive(Default)]
struct Inside {
    got: Vec<GotPost>,
    /// The next answers; then the usual one.
    next: VecDeque<ReceiverAnswer>,
    usual: Option<u16>,
}

/// Listens on loopback until it is dropped.
pub struct Receiver {
    pub url: String,
    inside: Arc<Mutex<Inside>>,
    task: JoinHandle<()>,
}

impl Receiver {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook?of=test", listener.local_addr().unwrap());
        let inside: Arc<Mutex<Inside>> = Arc::default();
        let kept = Arc::clone(&inside);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let inside = Arc::clone(&kept);
                let service = service_fn(move |request| take(Arc::clone(&inside), request));
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        Self { url, inside, task }
    }

    /// Answers each post with this status, unless another answer is next.
    pub fn answer_with(&self, status: u16) {
        self.inside.lock().unwrap().usual = Some(status);
    }

    /// The answer to the next post.
    pub fn next(&self, answer: ReceiverAnswer) {
        self.inside.lock().unwrap().next.push_back(answer);
    }

    /// Holds the answer to the next post until the test gives a status.
    pub fn hold_next(&self) -> oneshot::Sender<u16> {
        let (answer, held) = oneshot::channel();
        self.next(ReceiverAnswer::Held(held));
        answer
    }

    pub fn got(&self) -> Vec<GotPost> {
        self.inside.lock().unwrap().got.clone()
    }

    pub fn titles(&self) -> Vec<String> {
        self.got().iter().map(GotPost::title).collect()
    }

    /// Waits until it got this many posts.
    pub async fn posts(&self, count: usize) -> Vec<GotPost> {
        eventually(&format!("{count} posts"), PATIENCE, async || Some(self.got()).filter(|got| got.len() >= count)).await
    }

    /// Waits for a post of the row with this title.
    pub async fn post_of(&self, title: &str) -> GotPost {
        eventually(title, PATIENCE, async || self.got().into_iter().find(|post| post.title() == title)).await
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn take(inside: Arc<Mutex<Inside>>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let (head, body) = request.into_parts();
    let post = GotPost {
        method: head.method.to_string(),
        path: head.uri.to_string(),
        headers: head.headers,
        body: body.collect().await?.to_bytes(),
    };
    let answer = {
        let mut inside = inside.lock().unwrap();
        inside.got.push(post);
        inside.next.pop_front().unwrap_or_else(|| ReceiverAnswer::Status(inside.usual.unwrap_or(204), Vec::new()))
    };
    let (status, headers) = match answer {
        ReceiverAnswer::Status(status, headers) => (status, headers),
        // A test that has ended answers nothing more.
        ReceiverAnswer::Held(held) => (held.await.unwrap_or(500), Vec::new()),
    };
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(name, value);
    }
    Ok(response.body(Full::new(Bytes::from_static(b"the body of an answer is not read"))).unwrap())
}
