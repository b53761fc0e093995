//! Runs a provider for `recado-bench upstream` in a separate process.
//!
//! It accepts every sign-in and every socket, answers keep-alives, and records them by its own clock.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use recado::cli::error::CliFailure;
use recado::cli::output;
use recado_testkit::http::{accept_key, request, switching};
use recado_testkit::process::ReadyProcess;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::hub_process::{spawn, stop, this_program};

/// Limits the provider's life in case the bench is killed.
const LIFE: Duration = Duration::from_secs(3600);

/// Events since the last `forget`, in milliseconds of the provider's clock.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ProviderCounts {
    pub now_ms: u64,
    /// Sockets that are open now.
    pub open: usize,
    pub signed_in: usize,
    /// When each socket was opened.
    pub opened_ms: Vec<u64>,
    /// How late each keep-alive was. The n-th keep-alive of a socket is due n intervals after its opening.
    pub late_ms: Vec<u64>,
}

/// Handle of the process in the bench.
pub struct PlainProvider(ReadyProcess);

impl PlainProvider {
    pub async fn start(interval: Duration) -> Result<Self, CliFailure> {
        let mut command = this_program()?;
        command.args(["plain-provider", "--interval", &interval.as_secs().to_string()]);
        Ok(Self(spawn(command).await?))
    }

    /// A provider file for this provider.
    pub fn toml(&self, interval: Duration) -> String {
        let (address, interval) = (self.0.address, interval.as_secs());
        format!(
            r#"[[provider]]
name = "bench"
hosts = ["{address}"]
insecure = true
linger = "1h"

[provider.sign_in]
url = "http://{address}/sign-in"
body = '{{"user_id":"{{user_id}}"}}'
success = "/success"
session = "/session"

[provider.socket]
url = "ws://{address}/socket?session={{session}}"

[provider.keepalive]
text = '{{"id":"1","jsonrpc":"2.0","method":"protocol/v1/ping","params":{{"time":"{{timestamp}}"}}}}'
interval = "{interval}s"
answers = ['"pong"']

[provider.messages]
type = "game-data"
"#
        )
    }

    pub async fn record(&self) -> Result<ProviderCounts, CliFailure> {
        self.ask("record").await
    }

    /// Clears the record. Returns the cleared record, with the provider's present time.
    pub async fn forget(&self) -> Result<ProviderCounts, CliFailure> {
        self.ask("forget").await
    }

    async fn ask(&self, what: &str) -> Result<ProviderCounts, CliFailure> {
        let failed = |error: reqwest::Error| CliFailure::other(format!("the bench's provider: {error}"));
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(20)).build().map_err(failed)?;
        let answer = client.get(format!("http://{}/{what}", self.0.address)).send().await.map_err(failed)?;
        answer.json().await.map_err(failed)
    }

    pub async fn stop(self) -> Result<(), CliFailure> {
        stop(self.0).await
    }
}

/// State of the process.
struct ProviderState {
    begun: Instant,
    interval: Duration,
    record: Mutex<ProviderCounts>,
}

impl ProviderState {
    fn record(&self) -> MutexGuard<'_, ProviderCounts> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// Runs the process.
pub async fn serve(interval: Duration) -> Result<(), CliFailure> {
    let failed = |error: std::io::Error| CliFailure::other(format!("the bench's provider: {error}"));
    let listener = TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).await.map_err(failed)?;
    output::line(&format!("ready {}", listener.local_addr().map_err(failed)?))?;
    let book = Arc::new(ProviderState { begun: Instant::now(), interval, record: Mutex::default() });
    let _ = tokio::time::timeout(LIFE, accept(listener, book)).await;
    Ok(())
}

async fn accept(listener: TcpListener, book: Arc<ProviderState>) {
    let mut guests = JoinSet::new();
    loop {
        match listener.accept().await {
            Ok((stream, from)) => {
                guests.spawn(answer(stream, from, Arc::clone(&book)));
            }
            // For example a full file table: waiting clients are accepted a moment later.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
        while guests.try_join_next().is_some() {}
    }
}

/// Serves one request on each connection; a handshake makes it a WebSocket.
async fn answer(mut stream: TcpStream, _from: SocketAddr, book: Arc<ProviderState>) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let (head, body) = request(&mut stream).await?;
    if let Some(key) = accept_key(&head) {
        stream.write_all(switching(&key).as_bytes()).await.ok()?;
        return socket(stream, &book).await;
    }
    let text = match head.split_whitespace().nth(1)? {
        "/sign-in" => {
            let asked: serde_json::Value = serde_json::from_str(&body).ok()?;
            book.record().signed_in += 1;
            serde_json::json!({ "success": true, "session": format!("of-{}", asked["user_id"].as_str()?) }).to_string()
        }
        "/forget" => {
            let mut record = book.record();
            *record = ProviderCounts { open: record.open, now_ms: book.now_ms(), ..ProviderCounts::default() };
            serde_json::to_string(&*record).ok()?
        }
        _ => {
            let mut record = book.record();
            record.now_ms = book.now_ms();
            serde_json::to_string(&*record).ok()?
        }
    };
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", text.len());
    stream.write_all(format!("{head}{text}").as_bytes()).await.ok()
}

async fn socket(stream: TcpStream, book: &ProviderState) -> Option<()> {
    let mut socket = WebSocketStream::from_raw_socket(stream, Role::Server, None).await;
    let opened = Instant::now();
    {
        let mut record = book.record();
        record.open += 1;
        record.opened_ms.push(book.now_ms());
    }
    let mut pings = 0;
    while let Some(Ok(message)) = socket.next().await {
        if !matches!(&message, Message::Text(text) if text.contains("/ping\"")) {
            continue;
        }
        pings += 1;
        let late = opened.elapsed().saturating_sub(book.interval * pings);
        book.record().late_ms.push(u64::try_from(late.as_millis()).unwrap_or(u64::MAX));
        if socket.send(Message::text(r#"{"id":"1","jsonrpc":"2.0","result":"pong"}"#)).await.is_err() {
            break;
        }
    }
    book.record().open -= 1;
    Some(())
}
