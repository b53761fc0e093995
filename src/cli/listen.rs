//! Runs `recado listen`: a client that prints, then acknowledges, and resumes after every break.

use std::collections::BTreeSet;
use std::time::Duration;

use clap::Args;
use futures_util::{FutureExt, SinkExt, StreamExt};
use reqwest::Url;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use super::error::CliFailure;
use super::output::{self, Format};
use super::token;
use crate::backoff::Backoff;
use crate::config::Config;
use crate::domain::BodyHash;
use crate::wire::type_filter::{TYPES_RULE, TypeFilter};

/// Lifetime of a token that listen makes for itself, anew for each connect.
const TOKEN_TTL: Duration = Duration::from_secs(3600);
/// Time limit for the handshake.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// Maximum notifications that are printed before one acknowledgement.
const ACK_EVERY: u32 = 100;

/// Listen as a user, and resume after every break.
#[derive(Debug, Args)]
pub struct ListenCommand {
    /// The user to listen as, with a token made from the secret on this machine (else RECADO_TOKEN)
    #[arg(long)]
    user: Option<String>,
    /// An account of the user; may be given several times
    #[arg(long = "account")]
    accounts: Vec<String>,
    /// The device, which has a position of its own [default: recado-listen; with --types, one for each filter]
    #[arg(long)]
    client_id: Option<String>,
    /// Where to begin: ack (the device's stored position), live, earliest, a sequence number, or a time such as 10m
    #[arg(long, default_value = "ack")]
    since: String,
    /// Only these types, and beginnings of types: order_*,stock.low
    #[arg(long, value_parser = types)]
    types: Option<String>,
    /// End when all missed notifications have arrived
    #[arg(long)]
    until_caught_up: bool,
}

type ListenSocket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Why a connection ended.
enum Break {
    /// Reconnect, after this delay at least.
    Again(Duration),
    /// Do not reconnect.
    Stop(CliFailure),
    /// All requested notifications have arrived.
    Done,
}

/// The client's position in the stream.
#[derive(Default)]
struct ListenPosition {
    log_id: Option<String>,
    seq: Option<i64>,
    last_id: Option<String>,
    given: i64,
    acked: i64,
    goodbye_after: Duration,
}

/// Reads a filter of types as the hub does.
pub fn types(text: &str) -> Result<String, &'static str> {
    TypeFilter::parse(text).map(|_| text.to_owned()).ok_or(TYPES_RULE)
}

/// The device of a listener that names none. An acknowledgement covers what the filter left out, so each filter has a
/// position of its own. The same filter in another order is the same device.
fn default_device(types: Option<&str>) -> String {
    let Some(types) = types else { return "recado-listen".to_owned() };
    let patterns: BTreeSet<&[u8]> = types.split(',').map(str::as_bytes).collect();
    let BodyHash(hash) = BodyHash::of(&Vec::from_iter(patterns));
    format!("recado-listen-{hash:016x}")
}

impl ListenCommand {
    pub async fn run(&self, config: &Config, format: Format) -> Result<(), CliFailure> {
        let mut position = ListenPosition::default();
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
        loop {
            let ended = tokio::select! {
                ended = self.connection(config, format, &mut position, &mut backoff) => ended?,
                _ = tokio::signal::ctrl_c() => return Ok(()),
            };
            let wait = match ended {
                Break::Again(at_least) => at_least + backoff.failed(),
                Break::Stop(failure) => return Err(failure),
                Break::Done => return Ok(()),
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                _ = tokio::signal::ctrl_c() => return Ok(()),
            }
        }
    }

    async fn connection(
        &self,
        config: &Config,
        format: Format,
        position: &mut ListenPosition,
        backoff: &mut Backoff,
    ) -> Result<Break, CliFailure> {
        let request = self.request(config, position)?;
        let mut socket = match timeout(CONNECT_LIMIT, tokio_tungstenite::connect_async(request)).await {
            Ok(Ok((socket, _))) => socket,
            Ok(Err(WsError::Http(response))) if matches!(response.status().as_u16(), 400 | 403 | 404 | 426) => {
                let body = response.body().as_deref().map(String::from_utf8_lossy).unwrap_or_default();
                return Ok(Break::Stop(CliFailure::other(format!(
                    "the hub refuses the connection: {} {}",
                    response.status(),
                    body.trim_end()
                ))));
            }
            Ok(Err(error)) => {
                eprintln!("{}: {error}; trying again", config.url);
                return Ok(Break::Again(Duration::ZERO));
            }
            Err(_) => {
                eprintln!("{}: no answer; trying again", config.url);
                return Ok(Break::Again(Duration::ZERO));
            }
        };
        position.goodbye_after = Duration::ZERO;
        let mut unacked = 0;
        loop {
            let message = match socket.next().now_or_never() {
                Some(message) => message,
                None => {
                    acknowledge(&mut socket, position, &mut unacked).await;
                    socket.next().await
                }
            };
            match message {
                Some(Ok(Message::Text(text))) => {
                    let Ok(frame) = serde_json::from_str::<Value>(&text) else { continue };
                    if frame["type"] == "connection_established" {
                        backoff.succeeded();
                    }
                    if !position.take(&frame, &text, format, &mut unacked)? {
                        return Ok(Break::Again(Duration::ZERO));
                    }
                    if self.until_caught_up && frame["type"] == "caught_up" {
                        acknowledge(&mut socket, position, &mut unacked).await;
                        let _ = timeout(CONNECT_LIMIT, socket.close(None)).await;
                        return Ok(Break::Done);
                    }
                    if unacked >= ACK_EVERY {
                        acknowledge(&mut socket, position, &mut unacked).await;
                    }
                }
                Some(Ok(Message::Close(frame))) => {
                    let (code, reason) = frame.map_or((1005, String::new()), |f| (u16::from(f.code), f.reason.to_string()));
                    return Ok(position.closed(code, &reason));
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => {
                    eprintln!("the connection broke ({error}); resuming after {}", position.given);
                    return Ok(Break::Again(Duration::ZERO));
                }
                None => return Ok(Break::Again(Duration::ZERO)),
            }
        }
    }

    fn request(
        &self,
        config: &Config,
        position: &ListenPosition,
    ) -> Result<tokio_tungstenite::tungstenite::handshake::client::Request, CliFailure> {
        let bad_url = |error: String| CliFailure::settings(format!("--url {:?}: {error}", config.url));
        let mut url = Url::parse(&config.url).map_err(|error| bad_url(error.to_string()))?;
        let scheme = if url.scheme() == "https" { "wss" } else { "ws" };
        url.set_scheme(scheme).map_err(|()| bad_url("must begin with http:// or https://".to_owned()))?;
        // A hub may be served under a path.
        url.set_path(&format!("{}/ws", url.path().trim_end_matches('/')));
        let since = position.seq.map_or_else(|| self.since.clone(), |seq| seq.to_string());
        let client_id = self.client_id.clone().unwrap_or_else(|| default_device(self.types.as_deref()));
        url.query_pairs_mut().append_pair("client_id", &client_id).append_pair("since", &since).append_pair("ack", "client");
        if let (Some(log_id), Some(_)) = (&position.log_id, position.seq) {
            url.query_pairs_mut().append_pair("log_id", log_id);
        }
        if let Some(last_id) = &position.last_id {
            url.query_pairs_mut().append_pair("last_id", last_id);
        }
        if let Some(types) = &self.types {
            url.query_pairs_mut().append_pair("types", types);
        }
        let mut request = url.as_str().into_client_request().map_err(|error| bad_url(error.to_string()))?;
        let bearer = HeaderValue::from_str(&format!("Bearer {}", self.token(config)?))
            .map_err(|_| CliFailure::settings("RECADO_TOKEN is not a valid header value"))?;
        request.headers_mut().insert("authorization", bearer);
        Ok(request)
    }

    fn token(&self, config: &Config) -> Result<String, CliFailure> {
        match (&self.user, &config.token) {
            (Some(user), _) => token::mint(config, &token::principal(user, &self.accounts)?, None, TOKEN_TTL.min(config.jwt.max_lifetime)),
            (None, Some(token)) => Ok(token.clone()),
            (None, None) => Err(CliFailure::other("no user: give --user U on the hub's own machine, or set RECADO_TOKEN")),
        }
    }
}

impl ListenPosition {
    /// Handles a frame and prints it. Returns `false` if a notification before it is missing.
    fn take(&mut self, frame: &Value, text: &str, format: Format, unacked: &mut u32) -> Result<bool, CliFailure> {
        match frame["type"].as_str().unwrap_or_default() {
            "connection_established" => self.begin(frame),
            "caught_up" => {
                self.advance(frame, unacked);
                eprintln!("caught up at {} ({} replayed)", frame["seq"], frame["replayed"]);
            }
            "heartbeat" => {
                self.advance(frame, unacked);
                return Ok(true);
            }
            "goodbye" => self.goodbye_after = Duration::from_millis(frame["after_ms"].as_u64().unwrap_or(0)),
            "error" => eprintln!("error from the hub: {}", shown(&frame["message"])),
            _ if frame["seq"].is_i64() => {
                let seq = frame["seq"].as_i64().unwrap_or(0);
                if seq <= self.given {
                    return Ok(true);
                }
                if frame["prev"].as_i64().is_some_and(|prev| prev > self.given) {
                    eprintln!("a notification is missing before {seq}; resuming after {}", self.given);
                    return Ok(false);
                }
                print(frame, text, format)?;
                self.advance(frame, unacked);
                self.last_id = frame["id"].as_str().map(str::to_owned);
                return Ok(true);
            }
            _ => {}
        }
        if format != Format::Table {
            output::line(&output::one_line(text))?;
        }
        Ok(true)
    }

    fn begin(&mut self, frame: &Value) {
        let resume = &frame["resume"];
        let from = resume["from"].as_i64().unwrap_or(0);
        match resume["status"].as_str() {
            Some("gap") => eprintln!("lost to retention: {} to {}", resume["lost_from"], resume["lost_to"]),
            Some("reset") => eprintln!("the log was replaced; starting at its beginning"),
            _ => {}
        }
        self.log_id = frame["log_id"].as_str().map(str::to_owned);
        if self.seq != Some(from) {
            self.last_id = None;
        }
        self.given = from;
        self.acked = from;
        self.seq = Some(from);
        eprintln!("connected as {}, resuming after {from}", shown(&frame["user_id"]));
    }

    fn advance(&mut self, frame: &Value, unacked: &mut u32) {
        let seq = frame["seq"].as_i64().unwrap_or(self.given);
        if seq > self.given {
            // The id belongs to the number of a notification only.
            self.last_id = None;
            self.given = seq;
            self.seq = Some(seq);
            *unacked += 1;
        }
    }

    fn closed(&self, code: u16, reason: &str) -> Break {
        let reason = output::visible(reason);
        match code {
            4004 => Break::Stop(CliFailure::other("a newer connection of this user replaced this one")),
            4500 => Break::Stop(CliFailure::refused(format!("the token is refused: {reason}"))),
            1002 | 1003 | 1007 | 1009 | 4501 | 4502 | 4504 | 4505 | 4510 => {
                Break::Stop(CliFailure::other(format!("the hub closed the connection: {code} {reason}")))
            }
            code if CloseCode::from(code) == CloseCode::Normal => Break::Again(Duration::ZERO),
            _ => {
                eprintln!("the hub closed the connection: {code} {reason}; resuming after {}", self.given);
                Break::Again(self.goodbye_after)
            }
        }
    }
}

async fn acknowledge(socket: &mut ListenSocket, position: &mut ListenPosition, unacked: &mut u32) {
    *unacked = 0;
    if position.given > position.acked {
        position.acked = position.given;
        // A broken connection fails at the next read. The next connection then resumes at this position, which
        // repeats the acknowledgement.
        let _ = timeout(CONNECT_LIMIT, socket.send(Message::text(format!("{{\"type\":\"ack\",\"seq\":{}}}", position.given)))).await;
    }
}

/// Prints a notification: as its frame, or for people on one line.
pub fn print(frame: &Value, text: &str, format: Format) -> Result<(), CliFailure> {
    if format != Format::Table {
        return output::line(&output::one_line(text));
    }
    let shown = |name: &str| shown(&frame[name]);
    let data = if frame["data"].is_null() { String::new() } else { format!("  {}", frame["data"]) };
    output::line(&format!("#{} {}  {}: {}{data}", frame["seq"], shown("type"), shown("title"), shown("message")))
}

fn shown(text: &Value) -> String {
    output::visible(text.as_str().unwrap_or_default())
}
