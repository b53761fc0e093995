//! Opens the connections of a provider: sign-ins and sockets.

use std::sync::Arc;
use std::time::Duration;

use hyper::header::{HeaderName, HeaderValue, RETRY_AFTER};
use rustls::RootCertStore;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::client::Request;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, http};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use super::mailbox::Mailbox;
use super::provider::{Header, Provider};
use super::secret::Secret;
use super::template::TemplateValues;
use crate::domain::UserId;
use crate::outgoing::addresses::may_be_dialled;
use crate::outgoing::{ConnectError, Connector, DialTarget, LeaseTrust, OutgoingStream, retry_after};
pub use crate::outgoing::{Resolver, SystemResolver};

/// Read buffer in bytes. Each socket holds it all the time, and there are thousands of sockets.
const READ_BUFFER: usize = 4 * 1024;
/// Most bytes that wait to be written to one socket. When full, the writer waits, under its own deadline.
const WRITE_BUFFER: usize = 128 * 1024;

/// The open socket of a provider session.
pub type ProviderSocket = WebSocketStream<OutgoingStream>;

/// Why there is no socket, by what the session can do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DialError {
    /// The provider file does not allow it; nothing was sent.
    Forbidden(String),
    /// The provider does not accept this session id any more: sign in again.
    Expired,
    /// Retrying may help, after this time if the provider named one.
    TryLater { after: Option<Duration>, why: String },
}

impl DialError {
    pub(super) fn later(why: impl Into<String>) -> Self {
        Self::TryLater { after: None, why: why.into() }
    }
}

impl From<ConnectError> for DialError {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::Forbidden(why) => Self::Forbidden(why),
            ConnectError::Failed(why) => Self::later(why),
        }
    }
}

/// Opens connections. Cheap to clone.
#[derive(Clone)]
pub struct Dialer {
    connector: Connector,
    trust: Option<Arc<LeaseTrust>>,
    write_buffer: usize,
}

impl Dialer {
    /// Uses the resolver and the certificate authorities of the operating system. Reads files: create one at start.
    ///
    /// # Errors
    /// When the crypto library supports no usual version of TLS.
    pub fn new() -> Result<Self, rustls::Error> {
        Ok(Self::of(Connector::new()?))
    }

    /// # Errors
    /// When the crypto library supports no usual version of TLS.
    pub fn with(names: Arc<dyn Resolver>, roots: RootCertStore) -> Result<Self, rustls::Error> {
        Ok(Self::of(Connector::with(names, roots)?))
    }

    fn of(connector: Connector) -> Self {
        Self { connector, trust: None, write_buffer: WRITE_BUFFER }
    }

    /// Returns a dialer whose connections send nothing after this session's lease has ended.
    #[must_use]
    pub fn fenced_by(&self, mailbox: &Arc<Mailbox>) -> Self {
        Self { trust: Some(Arc::clone(&mailbox.trust)), ..self.clone() }
    }

    /// Returns a dialer whose sockets accept longer messages to write, in bytes; a session's messages are short.
    #[must_use]
    pub fn with_write_buffer(self, write_buffer: usize) -> Self {
        Self { write_buffer, ..self }
    }

    /// Opens the socket of a session.
    ///
    /// # Errors
    /// See [`DialError`].
    pub async fn socket(&self, provider: &Provider, user: &UserId, session: &Secret) -> Result<ProviderSocket, DialError> {
        let rules = &provider.socket;
        let values =
            TemplateValues { user: Some(user), session: Some(session), timestamp_ms: super::now_ms(), ..TemplateValues::default() };
        let target = rules.url.fill(&provider.hosts, &values).map_err(|forbidden| DialError::Forbidden(forbidden.0))?;
        let request = handshake(provider, &target, &values)?;
        let config = WebSocketConfig::default()
            .max_message_size(Some(rules.max_message))
            .max_frame_size(Some(rules.max_message))
            .read_buffer_size(READ_BUFFER)
            .write_buffer_size(0)
            .max_write_buffer_size(self.write_buffer);
        let open = async {
            let stream = self.stream(&target, provider.hosts.insecure).await?;
            let opened = client_async_with_config(request, stream, Some(config)).await;
            opened.map(|(socket, _)| socket).map_err(|error| refused(&error, &rules.expired_statuses))
        };
        timeout(rules.connect_deadline, open)
            .await
            .unwrap_or_else(|_| Err(DialError::later(format!("the provider's socket did not open within {:?}", rules.connect_deadline))))
    }

    /// Connects to a checked address of the target, with TLS if the target demands it.
    ///
    /// # Errors
    /// See [`DialError`].
    pub(super) async fn stream(&self, target: &DialTarget, insecure: bool) -> Result<OutgoingStream, DialError> {
        Ok(self.connector.stream(target, |address| may_be_dialled(address, insecure), self.trust.clone()).await?)
    }
}

fn handshake(provider: &Provider, target: &DialTarget, values: &TemplateValues<'_>) -> Result<Request, DialError> {
    let unfit = |_| DialError::Forbidden("the socket's URL is not valid for a request".to_owned());
    let mut request = target.url.as_str().into_client_request().map_err(unfit)?;
    for (name, value) in filled(&provider.socket.headers, values).map_err(DialError::Forbidden)? {
        request.headers_mut().append(name, value);
    }
    if let Some(subprotocol) = &provider.socket.subprotocol {
        let value = HeaderValue::from_str(subprotocol)
            .map_err(|_| DialError::Forbidden("the subprotocol is not a valid header value".to_owned()))?;
        request.headers_mut().insert(http::header::SEC_WEBSOCKET_PROTOCOL, value);
    }
    Ok(request)
}

/// Fills in the values of headers.
///
/// # Errors
/// When a value contains a character that headers do not allow, such as a line break.
pub(super) fn filled(headers: &[Header], values: &TemplateValues<'_>) -> Result<Vec<(HeaderName, HeaderValue)>, String> {
    let fill = |header: &Header| {
        let value = HeaderValue::from_str(&header.value.fill(values));
        let mut value =
            value.map_err(|_| format!("the value for the header {} contains a character that headers do not allow", header.name))?;
        value.set_sensitive(true);
        Ok((header.name.clone(), value))
    };
    headers.iter().map(fill).collect()
}

/// Maps a failed handshake to a decision. The library's own text may contain what the provider wrote, so it is not
/// passed on.
fn refused(error: &tungstenite::Error, expired: &[u16]) -> DialError {
    let tungstenite::Error::Http(response) = error else {
        return DialError::later(format!("the provider's WebSocket handshake is broken: {}", kind(error)));
    };
    let status = response.status().as_u16();
    if expired.contains(&status) {
        return DialError::Expired;
    }
    let after = response.headers().get(RETRY_AFTER).and_then(retry_after);
    DialError::TryLater { after, why: format!("the provider refused the socket with {status}") }
}

/// A library error in our own words.
pub fn kind(error: &tungstenite::Error) -> &'static str {
    use tungstenite::Error;
    match error {
        Error::ConnectionClosed | Error::AlreadyClosed => "the connection was closed",
        Error::Io(_) => "the connection broke",
        Error::Tls(_) => "TLS failed",
        Error::Capacity(_) => "a message is too big",
        Error::Protocol(_) | Error::AttackAttempt => "WebSocket protocol error",
        Error::WriteBufferFull(_) => "the write buffer is full",
        Error::Utf8(_) => "a text is not UTF-8",
        Error::Url(_) | Error::HttpFormat(_) | Error::Http(_) => "the handshake was not accepted",
    }
}
