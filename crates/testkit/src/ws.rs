//! Opens a WebSocket stream of a hub.

use std::net::{IpAddr, SocketAddr};

use futures_util::StreamExt;
use serde_json::Value;
use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::client::Request;
use tokio_tungstenite::tungstenite::http::{HeaderName, HeaderValue};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Message};

/// An open stream. Nothing is read and no ping is answered unless its owner does it.
pub type WsSocket = WebSocketStream<TcpStream>;

/// Why there is no stream.
#[derive(Debug, thiserror::Error)]
pub enum WsFailure {
    #[error("no handshake: {0}")]
    Handshake(#[from] tungstenite::Error),
    #[error("the first frame is not connection_established: {0}")]
    Greeting(String),
}

/// The request of a stream.
#[derive(Debug, Clone)]
pub struct WsRequest {
    path: String,
    query: Vec<(String, String)>,
    headers: Vec<(String, String)>,
    receive_buffer: Option<u32>,
    source: Option<IpAddr>,
    config: Option<WebSocketConfig>,
}

impl WsRequest {
    /// A stream at this path. A query may follow it.
    pub fn to(path: &str) -> Self {
        Self { path: path.to_owned(), query: Vec::new(), headers: Vec::new(), receive_buffer: None, source: None, config: None }
    }

    /// Replaces the path. What [`Self::query`] has added stays.
    #[must_use]
    pub fn path(mut self, path: &str) -> Self {
        path.clone_into(&mut self.path);
        self
    }

    /// Adds to the query. Both texts are written as they are.
    #[must_use]
    pub fn query(mut self, name: &str, value: &str) -> Self {
        self.query.push((name.to_owned(), value.to_owned()));
        self
    }

    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    #[must_use]
    pub fn bearer(self, token: &str) -> Self {
        self.header("authorization", &format!("Bearer {token}"))
    }

    /// A small receive window: bytes that the client does not read stay with the hub.
    #[must_use]
    pub fn receive_buffer(mut self, bytes: u32) -> Self {
        self.receive_buffer = Some(bytes);
        self
    }

    /// Connects from this address of the machine. One address has some 28,000 ports for one server.
    #[must_use]
    pub fn source(mut self, address: Option<IpAddr>) -> Self {
        self.source = address;
        self
    }

    /// Sets the sizes of the library's buffers.
    #[must_use]
    pub fn config(mut self, config: WebSocketConfig) -> Self {
        self.config = Some(config);
        self
    }

    /// Whether [`Self::query`] has added this.
    pub fn asks_for(&self, name: &str, value: &str) -> bool {
        self.query.iter().any(|(known, with)| known == name && with == value)
    }

    fn build(&self, address: SocketAddr) -> Result<Request, tungstenite::Error> {
        let mut url = format!("ws://{address}{}", self.path);
        for (name, value) in &self.query {
            url.push(if url.contains('?') { '&' } else { '?' });
            url.extend([name, "=", value]);
        }
        let mut request = url.into_client_request()?;
        for (name, value) in &self.headers {
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|error| tungstenite::Error::HttpFormat(error.into()))?;
            let value = HeaderValue::from_str(value).map_err(|error| tungstenite::Error::HttpFormat(error.into()))?;
            request.headers_mut().append(name, value);
        }
        Ok(request)
    }

    /// Opens the stream.
    pub async fn open(&self, address: SocketAddr) -> Result<WsSocket, tungstenite::Error> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if let Some(bytes) = self.receive_buffer {
            socket.set_recv_buffer_size(bytes)?;
        }
        if let Some(source) = self.source {
            socket.bind(SocketAddr::new(source, 0))?;
        }
        self.open_over(socket.connect(address).await?, address).await
    }

    /// Opens the stream over a connection that the caller has made.
    pub async fn open_over(&self, stream: TcpStream, address: SocketAddr) -> Result<WsSocket, tungstenite::Error> {
        stream.set_nodelay(true)?;
        Ok(tokio_tungstenite::client_async_with_config(self.build(address)?, stream, self.config).await?.0)
    }

    /// Opens the stream, and reads the first frame.
    pub async fn greeted(&self, address: SocketAddr) -> Result<(WsSocket, Value), WsFailure> {
        let mut socket = self.open(address).await?;
        loop {
            match socket.next().await {
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(Message::Text(text))) => match serde_json::from_str::<Value>(&text) {
                    Ok(hello) if hello["type"] == "connection_established" => return Ok((socket, hello)),
                    _ => return Err(WsFailure::Greeting(text.to_string())),
                },
                other => return Err(WsFailure::Greeting(format!("{other:?}"))),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_added_to_the_path() {
        let request = WsRequest::to("/ws").query("frames", "lines").path("/?since=ack").query("ack", "pong");
        assert!(request.asks_for("frames", "lines") && !request.asks_for("frames", "pong"));
        let built =
            request.bearer("t").header("origin", "http://a").header("origin", "http://b").build("[::1]:7".parse().unwrap()).unwrap();
        assert_eq!(built.uri(), "ws://[::1]:7/?since=ack&frames=lines&ack=pong");
        assert_eq!(built.headers()["authorization"], "Bearer t");
        assert_eq!(built.headers().get_all("origin").iter().count(), 2);
        assert!(WsRequest::to("/ws").header("a b", "c").build("127.0.0.1:7".parse().unwrap()).is_err());
    }
}
