//! Opens a WebSocket that listens, with small buffers so that thousands fit into memory.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use recado::cli::error::CliFailure;
use recado_testkit::ws::{WsRequest, WsSocket};
use serde_json::Value;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

/// Longest wait for the handshake and the first frame: a thousand clients may be served before this one.
const CONNECT_LIMIT: Duration = Duration::from_secs(30);
/// Size of the read buffer and of the buffer that pongs are written from.
const BUFFER_BYTES: usize = 2 << 10;

/// Connections from one address: less than half of its ports (`net.ipv4.ip_local_port_range`), because Linux searches
/// long for one of the last.
const OF_ONE_ADDRESS: usize = 10_000;
/// Connections of this process so far.
static CONNECTED: AtomicUsize = AtomicUsize::new(0);

/// Close codes after which a client reconnects.
const COME_BACK: RangeInclusive<u16> = 4000..=4399;
const CAUGHT_UP: &str = "{\"type\":\"caught_up\"";

/// A text frame, as far as the bench reads it.
pub enum Next {
    /// A notification that the bench has marked, with its length in bytes.
    Marked {
        n: usize,
        bytes: usize,
    },
    CaughtUp,
    Other,
}

/// One open WebSocket.
pub struct WsClient {
    socket: WsSocket,
}

impl WsClient {
    /// Connects; returns the first frame as well. `query` says where the stream begins.
    pub async fn connect(address: SocketAddr, token: &str, query: &str) -> Result<(Self, Value), CliFailure> {
        let connected = timeout(CONNECT_LIMIT, Self::handshake(address, token, query)).await;
        connected.map_err(|_| CliFailure::unavailable("a client was not accepted within 30 s"))?
    }

    async fn handshake(address: SocketAddr, token: &str, query: &str) -> Result<(Self, Value), CliFailure> {
        let failed = |error: &dyn std::fmt::Display| CliFailure::unavailable(format!("a client could not connect: {error}"));
        let config = WebSocketConfig::default().read_buffer_size(BUFFER_BYTES).write_buffer_size(0);
        let request = WsRequest::to(&format!("/ws?{query}")).bearer(token).config(config).source(source(address));
        let mut client = Self { socket: request.open(address).await.map_err(|error| failed(&error))? };
        let hello: Value = serde_json::from_str(&client.text().await?).map_err(|error| failed(&error))?;
        if hello["type"] != "connection_established" {
            return Err(failed(&hello));
        }
        Ok((client, hello))
    }

    /// The next text frame. Pings are answered on the way.
    pub async fn text(&mut self) -> Result<Utf8Bytes, CliFailure> {
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Text(text))) => return Ok(text),
                Some(Ok(Message::Close(frame))) => {
                    let code = frame.as_ref().map_or(0, |frame| u16::from(frame.code));
                    let said = format!("the hub closed a client: {frame:?}");
                    return Err(if COME_BACK.contains(&code) { CliFailure::unavailable(said) } else { CliFailure::other(said) });
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(CliFailure::unavailable(format!("a client's connection broke: {error}"))),
                None => return Err(CliFailure::unavailable("a client's connection ended")),
            }
        }
    }

    /// The next text frame, as far as the bench reads it.
    pub async fn next(&mut self) -> Result<Next, CliFailure> {
        let text = self.text().await?;
        Ok(match mark(&text) {
            Some(n) => Next::Marked { n, bytes: text.len() },
            None if text.starts_with(CAUGHT_UP) => Next::CaughtUp,
            None => Next::Other,
        })
    }

    /// The mark of the next notification that has one.
    pub async fn mark(&mut self) -> Result<usize, CliFailure> {
        loop {
            if let Next::Marked { n, .. } = self.next().await? {
                return Ok(n);
            }
        }
    }

    /// Drops the connection at once, without a close frame, as when a machine on the path dies.
    pub fn cut(self) -> Result<(), CliFailure> {
        let failed = |error: std::io::Error| CliFailure::other(format!("could not drop a client's connection: {error}"));
        self.socket.get_ref().set_zero_linger().map_err(failed)
    }

    /// Reads until the client has caught up; returns the number of notifications.
    pub async fn until_caught_up(&mut self) -> Result<usize, CliFailure> {
        let mut notifications = 0;
        loop {
            let text = self.text().await?;
            if text.starts_with(CAUGHT_UP) {
                return Ok(notifications);
            }
            notifications += usize::from(text.starts_with("{\"seq\":"));
        }
    }
}

/// The address of the next connection to a server on loopback, if the first address may have no port left.
fn source(server: SocketAddr) -> Option<IpAddr> {
    let group = CONNECTED.fetch_add(1, Ordering::Relaxed) / OF_ONE_ADDRESS;
    let is_needed = group > 0 && server.is_ipv4() && server.ip().is_loopback();
    let [third, fourth] = [1 + group / 200 % 200, 1 + group % 200].map(|part| u8::try_from(part).unwrap_or(1));
    is_needed.then(|| Ipv4Addr::new(127, 0, third, fourth).into())
}

/// The number that the bench wrote into a notification's data.
pub fn mark(frame: &str) -> Option<usize> {
    let (_, rest) = frame.split_once("\"bench_n\":")?;
    // jsonb puts a space there.
    let rest = rest.trim_start();
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    rest[..digits].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_is_found_in_a_frame() {
        assert_eq!(mark(r#"{"seq":9,"prev":8,"type":"bench","data":{"bench_n":42,"filler":"x"},"id":"…"}"#), Some(42));
        assert_eq!(mark(r#"{"type":"heartbeat","seq":10600,"prev":10513}"#), None);
    }
}
