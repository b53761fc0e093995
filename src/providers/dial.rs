//! Opens a connection to a provider.
//!
//! A host name is resolved once, each of its addresses is checked, and exactly the checked address is dialled. A name
//! whose address changes in between (DNS rebinding) has no effect.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use hyper::header::{HeaderName, HeaderValue, RETRY_AFTER};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::time::{error::Elapsed, timeout};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::client::Request;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, http};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, client_async_with_config};

use super::addresses::may_be_dialled;
use super::hosts::DialTarget;
use super::lease_checked_io::LeaseCheckedIo;
use super::mailbox::Mailbox;
use super::provider::{Header, Provider};
use super::retry_after;
use super::secret::Secret;
use super::template::TemplateValues;
use crate::domain::UserId;

/// Deadline for one address, so that a dead address leaves time for the next one within the whole deadline.
const ADDRESS_DEADLINE: Duration = Duration::from_secs(4);
/// Most addresses that are tried.
const ADDRESSES: usize = 4;
/// Read buffer in bytes. Each socket holds it all the time, and there are thousands of sockets.
const READ_BUFFER: usize = 4 * 1024;
/// Most bytes that wait to be written to one socket. When full, the writer waits, under its own deadline.
const WRITE_BUFFER: usize = 128 * 1024;

/// The stream that carries a sign-in or a socket.
pub type ProviderStream = MaybeTlsStream<LeaseCheckedIo>;
/// The open socket of a provider session.
pub type ProviderSocket = WebSocketStream<ProviderStream>;

/// Resolves a host name to addresses.
pub trait Resolver: Send + Sync {
    fn addresses<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>>;
}

/// The resolver of the operating system.
#[derive(Debug, Clone, Copy)]
pub struct SystemResolver;

impl Resolver for SystemResolver {
    fn addresses<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        async move { Ok(tokio::net::lookup_host((host, port)).await?.collect()) }.boxed()
    }
}

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

/// Opens connections. Cheap to clone.
#[derive(Clone)]
pub struct Dialer {
    names: Arc<dyn Resolver>,
    tls: TlsConnector,
    mailbox: Option<Arc<Mailbox>>,
    write_buffer: usize,
}

impl Dialer {
    /// Uses the resolver and the certificate authorities of the operating system. Reads files: create one at start.
    ///
    /// # Errors
    /// When the crypto library supports no usual version of TLS.
    pub fn new() -> Result<Self, rustls::Error> {
        let mut roots = RootCertStore::empty();
        let found = rustls_native_certs::load_native_certs();
        found.errors.iter().for_each(|error| tracing::warn!(%error, "could not read a certificate authority of this machine"));
        roots.add_parsable_certificates(found.certs);
        Self::with(Arc::new(SystemResolver), roots)
    }

    /// # Errors
    /// When the crypto library supports no usual version of TLS.
    pub fn with(names: Arc<dyn Resolver>, roots: RootCertStore) -> Result<Self, rustls::Error> {
        let crypto = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(crypto).with_safe_default_protocol_versions()?;
        let config = config.with_root_certificates(roots).with_no_client_auth();
        Ok(Self { names, tls: TlsConnector::from(Arc::new(config)), mailbox: None, write_buffer: WRITE_BUFFER })
    }

    /// Returns a dialer whose connections send nothing after this session's lease has ended.
    #[must_use]
    pub fn fenced_by(&self, mailbox: &Arc<Mailbox>) -> Self {
        Self { mailbox: Some(Arc::clone(mailbox)), ..self.clone() }
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
    pub(super) async fn stream(&self, target: &DialTarget, insecure: bool) -> Result<ProviderStream, DialError> {
        let found = self.names.addresses(&target.host, target.port).await;
        let addresses = found.map_err(|error| DialError::later(format!("could not resolve the host name {}: {error}", target.host)))?;
        // One internal address among public ones is suspicious as well.
        if let Some(inner) = addresses.iter().find(|address| !may_be_dialled(address.ip(), insecure)) {
            // The returned reason is shown to the user of the session, so the address is only logged.
            tracing::warn!(host = target.host, address = %inner.ip(), "provider host resolves to an internal address; not dialled");
            return Err(DialError::Forbidden(format!("{} resolves to an internal address, which may not be dialled", target.host)));
        }
        let mut failed = format!("the host name {} has no address", target.host);
        for address in addresses.into_iter().take(ADDRESSES) {
            match connect(address).await {
                Ok(stream) => return self.secured(target, LeaseCheckedIo::new(stream, self.mailbox.clone())).await,
                Err(error) => failed = format!("{} cannot be reached: {error}", target.host),
            }
        }
        Err(DialError::later(failed))
    }

    async fn secured(&self, target: &DialTarget, stream: LeaseCheckedIo) -> Result<ProviderStream, DialError> {
        if !target.secure {
            return Ok(MaybeTlsStream::Plain(stream));
        }
        let name = ServerName::try_from(target.host.clone()).map_err(|error| DialError::Forbidden(format!("{}: {error}", target.host)))?;
        let secured = self.tls.connect(name, stream).await;
        secured.map(MaybeTlsStream::Rustls).map_err(|error| DialError::later(format!("TLS with {}: {error}", target.host)))
    }
}

async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let late = |_: Elapsed| io::Error::new(io::ErrorKind::TimedOut, "no answer in time");
    let stream = timeout(ADDRESS_DEADLINE, TcpStream::connect(address)).await.map_err(late)??;
    stream.set_nodelay(true)?;
    Ok(stream)
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
