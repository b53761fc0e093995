//! Resolves a host name once, checks each address, and connects to a checked one.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::time::{error::Elapsed, timeout};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::MaybeTlsStream;

use super::lease_checked_io::LeaseCheckedIo;
use super::lease_clock::LeaseTrust;
use super::target::DialTarget;

/// Deadline for one address, so that a dead address leaves time for the next one within the whole deadline.
const ADDRESS_DEADLINE: Duration = Duration::from_secs(4);
/// Most addresses that are tried.
const ADDRESSES: usize = 4;

/// A connection with or without TLS.
pub type OutgoingStream = MaybeTlsStream<LeaseCheckedIo>;

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

/// A failed attempt to connect. Nothing was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConnectError {
    /// The rules do not allow it.
    Forbidden(String),
    /// A later try may succeed.
    Failed(String),
}

/// Opens connections. Cheap to clone.
#[derive(Clone)]
pub struct Connector {
    names: Arc<dyn Resolver>,
    tls: TlsConnector,
}

impl Connector {
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
        Ok(Self { names, tls: TlsConnector::from(Arc::new(config)) })
    }

    /// Connects to an address of the target that `may_be_dialled` allows, with TLS if the target demands it. Sends
    /// nothing after `trust` has ended.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub async fn stream(
        &self,
        target: &DialTarget,
        may_be_dialled: impl Fn(IpAddr) -> bool,
        trust: Option<Arc<LeaseTrust>>,
    ) -> Result<OutgoingStream, ConnectError> {
        let found = self.names.addresses(&target.host, target.port).await;
        let addresses = found.map_err(|error| ConnectError::Failed(format!("could not resolve the host name {}: {error}", target.host)))?;
        // One internal address among public ones is suspicious as well.
        if let Some(inner) = addresses.iter().find(|address| !may_be_dialled(address.ip())) {
            // The returned reason may be shown to others, so the address is only logged.
            tracing::warn!(host = target.host, address = %inner.ip(), "host resolves to an internal address; not dialled");
            return Err(ConnectError::Forbidden(format!("{} resolves to an internal address, which may not be dialled", target.host)));
        }
        let mut failed = format!("the host name {} has no address", target.host);
        for address in addresses.into_iter().take(ADDRESSES) {
            match connect(address).await {
                Ok(stream) => return self.secured(target, LeaseCheckedIo::new(stream, trust)).await,
                Err(error) => failed = format!("{} cannot be reached: {error}", target.host),
            }
        }
        Err(ConnectError::Failed(failed))
    }

    async fn secured(&self, target: &DialTarget, stream: LeaseCheckedIo) -> Result<OutgoingStream, ConnectError> {
        if !target.secure {
            return Ok(MaybeTlsStream::Plain(stream));
        }
        let name =
            ServerName::try_from(target.host.clone()).map_err(|error| ConnectError::Forbidden(format!("{}: {error}", target.host)))?;
        let secured = self.tls.connect(name, stream).await;
        secured.map(MaybeTlsStream::Rustls).map_err(|error| ConnectError::Failed(format!("TLS with {}: {error}", target.host)))
    }
}

async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let late = |_: Elapsed| io::Error::new(io::ErrorKind::TimedOut, "no answer in time");
    let stream = timeout(ADDRESS_DEADLINE, TcpStream::connect(address)).await.map_err(late)??;
    stream.set_nodelay(true)?;
    Ok(stream)
}
