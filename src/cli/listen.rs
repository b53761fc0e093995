//! `recado listen`: what a good client does. Prints, then acknowledges; after every break it goes on where it was.

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

use super::error::Failure;
use super::output::{self, Format};
use super::token;
use crate::backoff::Backoff;
use crate::config::Config;

/// A token that listen makes for itself; a new one is made at each connect.
const TOKEN_TTL: Duration = Duration::from_secs(3600);
/// Longest wait for the handshake.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// Most notifications that are printed before one acknowledgement.
const ACK_EVERY: u32 = 100;

/// Listen as a user, and resume after every break.
#[derive(Debug, Args)]
pub struct Listen {
    /// The user to listen as, with a token made from the secret on this machine (else RECADO_TOKEN)
    #[arg(long)]
    user: Option<String>,
    /// An account of the user; may be given several times
    #[arg(long = "account")]
    accounts: Vec<String>,
    /// The device, which has a place of its own
    #[arg(long, default_value = "recado-listen")]
    client_id: String,
    /// Where to begin: ack (the device's stored place), live, earliest, or a sequence number
    #[arg(long, default_value = "ack")]
    since: String,
    /// End when everything that was missed has come
    #[arg(long)]
    until_caught_up: bool,
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Why a connection ended.
enum Break {
    /// Come back, after this time at least.
    Again(Duration),
    /// Do not come back.
    Stop(Failure),
    /// All that was asked for has come.
    Done,
}

/// Where the client is in the stream.
#[derive(Default)]
struct Place {
    log_id: Option<String>,
    seq: Option<i64>,
    last_id: Option<String>,
    given: i64,
    acked: i64,
    goodbye_after: Duration,
}

impl Listen {
    pub async fn run(&self, config: &Config, format: Format) -> Result<(), Failure> {
        let mut place = Place::default();
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
        loop {
            let ended = tokio::select! {
                ended = self.connection(config, format, &mut place, &mut backoff) => ended?,
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

    async fn connection(&self, config: &Config, format: Format, place: &mut Place, backoff: &mut Backoff) -> Result<Break, Failure> {
        let request = self.request(config, place)?;
        let mut socket = match timeout(CONNECT_LIMIT, tokio_tungstenite::connect_async(request)).await {
            Ok(Ok((socket, _))) => socket,
            Ok(Err(WsError::Http(response))) if matches!(response.status().as_u16(), 400 | 403 | 404 | 426) => {
                let body = response.body().as_deref().map(String::from_utf8_lossy).unwrap_or_default().into_owned();
                return Ok(Break::Stop(Failure::other(format!("the hub refuses the connection: {} {body}", response.status()))));
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
        place.goodbye_after = Duration::ZERO;
        let mut unacked = 0;
        loop {
            let message = match socket.next().now_or_never() {
                Some(message) => message,
                None => {
                    acknowledge(&mut socket, place, &mut unacked).await;
                    socket.next().await
                }
            };
            match message {
                Some(Ok(Message::Text(text))) => {
                    let Ok(frame) = serde_json::from_str::<Value>(&text) else { continue };
                    if frame["type"] == "connection_established" {
                        backoff.succeeded();
                    }
                    if !place.take(&frame, &text, format, &mut unacked)? {
                        return Ok(Break::Again(Duration::ZERO));
                    }
                    if self.until_caught_up && frame["type"] == "caught_up" {
                        acknowledge(&mut socket, place, &mut unacked).await;
                        let _ = timeout(CONNECT_LIMIT, socket.close(None)).await;
                        return Ok(Break::Done);
                    }
                    if unacked >= ACK_EVERY {
                        acknowledge(&mut socket, place, &mut unacked).await;
                    }
                }
                Some(Ok(Message::Close(frame))) => {
                    let (code, reason) = frame.map_or((1005, String::new()), |f| (u16::from(f.code), f.reason.to_string()));
                    return Ok(place.closed(code, &reason));
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => {
                    eprintln!("the connection broke ({error}); going on after {}", place.given);
                    return Ok(Break::Again(Duration::ZERO));
                }
                None => return Ok(Break::Again(Duration::ZERO)),
            }
        }
    }

    fn request(&self, config: &Config, place: &Place) -> Result<tokio_tungstenite::tungstenite::handshake::client::Request, Failure> {
        let bad_url = |error: String| Failure::settings(format!("--url {:?}: {error}", config.url));
        let mut url = Url::parse(&config.url).map_err(|error| bad_url(error.to_string()))?;
        let scheme = if url.scheme() == "https" { "wss" } else { "ws" };
        url.set_scheme(scheme).map_err(|()| bad_url("must begin with http:// or https://".to_owned()))?;
        url.set_path("/ws");
        let since = place.seq.map_or_else(|| self.since.clone(), |seq| seq.to_string());
        url.query_pairs_mut().append_pair("client_id", &self.client_id).append_pair("since", &since).append_pair("ack", "client");
        if let (Some(log_id), Some(_)) = (&place.log_id, place.seq) {
            url.query_pairs_mut().append_pair("log_id", log_id);
        }
        if let Some(last_id) = &place.last_id {
            url.query_pairs_mut().append_pair("last_id", last_id);
        }
        let mut request = url.as_str().into_client_request().map_err(|error| bad_url(error.to_string()))?;
        let bearer =
            HeaderValue::from_str(&format!("Bearer {}", self.token(config)?)).map_err(|_| Failure::settings("RECADO_TOKEN is no token"))?;
        request.headers_mut().insert("authorization", bearer);
        Ok(request)
    }

    fn token(&self, config: &Config) -> Result<String, Failure> {
        match (&self.user, &config.token) {
            (Some(user), _) => token::mint(config, &token::principal(user, &self.accounts)?, None, TOKEN_TTL.min(config.jwt.max_lifetime)),
            (None, Some(token)) => Ok(token.clone()),
            (None, None) => Err(Failure::other("say who listens: --user U on the hub's own machine, or RECADO_TOKEN")),
        }
    }
}

impl Place {
    /// Looks at a frame and prints it; `false` when a notification is missing before it.
    fn take(&mut self, frame: &Value, text: &str, format: Format, unacked: &mut u32) -> Result<bool, Failure> {
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
            "error" => eprintln!("the hub says: {}", frame["message"].as_str().unwrap_or_default()),
            _ if frame["seq"].is_i64() => {
                let seq = frame["seq"].as_i64().unwrap_or(0);
                if seq <= self.given {
                    return Ok(true);
                }
                if frame["prev"].as_i64().is_some_and(|prev| prev > self.given) {
                    eprintln!("a notification is missing before {seq}; asking again from {}", self.given);
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
            output::line(text)?;
        }
        Ok(true)
    }

    fn begin(&mut self, frame: &Value) {
        let resume = &frame["resume"];
        let from = resume["from"].as_i64().unwrap_or(0);
        match resume["status"].as_str() {
            Some("gap") => eprintln!("lost to retention: {} to {}", resume["lost_from"], resume["lost_to"]),
            Some("reset") => eprintln!("the log is another one than before; beginning at its start"),
            _ => {}
        }
        self.log_id = frame["log_id"].as_str().map(str::to_owned);
        if self.seq != Some(from) {
            self.last_id = None;
        }
        self.given = from;
        self.acked = from;
        self.seq = Some(from);
        eprintln!("connected as {}, going on after {from}", frame["user_id"].as_str().unwrap_or_default());
    }

    fn advance(&mut self, frame: &Value, unacked: &mut u32) {
        let seq = frame["seq"].as_i64().unwrap_or(self.given);
        if seq > self.given {
            // The id belongs to a notification's own number.
            self.last_id = None;
            self.given = seq;
            self.seq = Some(seq);
            *unacked += 1;
        }
    }

    fn closed(&self, code: u16, reason: &str) -> Break {
        match code {
            4004 => Break::Stop(Failure::other("a newer connection of this user has taken over")),
            4500 => Break::Stop(Failure::refused("the token is refused")),
            1002 | 1003 | 1007 | 1009 | 4501 | 4502 | 4504 | 4505 => {
                Break::Stop(Failure::other(format!("the hub ended the connection: {code} {reason}")))
            }
            code if CloseCode::from(code) == CloseCode::Normal => Break::Again(Duration::ZERO),
            _ => {
                eprintln!("the hub ended the connection: {code} {reason}; going on after {}", self.given);
                Break::Again(self.goodbye_after)
            }
        }
    }
}

async fn acknowledge(socket: &mut Socket, place: &mut Place, unacked: &mut u32) {
    *unacked = 0;
    if place.given > place.acked {
        place.acked = place.given;
        // A connection that is broken says so at the next read; the acknowledgement is then repeated by the place itself.
        let _ = timeout(CONNECT_LIMIT, socket.send(Message::text(format!("{{\"type\":\"ack\",\"seq\":{}}}", place.given)))).await;
    }
}

fn print(frame: &Value, text: &str, format: Format) -> Result<(), Failure> {
    if format != Format::Table {
        return output::line(text);
    }
    let shown = |name: &str| frame[name].as_str().unwrap_or_default().escape_debug().to_string();
    let data = if frame["data"].is_null() { String::new() } else { format!("  {}", frame["data"]) };
    output::line(&format!("#{} {}  {}: {}{data}", frame["seq"], shown("type"), shown("title"), shown("message")))
}
