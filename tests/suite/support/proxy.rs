//! Runs a TCP proxy in front of a URL, which a test can cut.

use std::net::SocketAddr;
use std::ops::Deref;
use std::str::FromStr;

pub use recado_testkit::proxy::{Cut, ProxyFlow};
use recado_testkit::proxy::{Proxy, ProxyTarget};
use sqlx::postgres::PgConnectOptions;
use tokio::net::TcpListener;

/// A proxy on a port of its own.
pub struct TestProxy(Proxy);

impl Deref for TestProxy {
    type Target = Proxy;

    fn deref(&self) -> &Proxy {
        &self.0
    }
}

impl TestProxy {
    /// A proxy in front of the PostgreSQL server of this URL.
    pub async fn before(url: &str) -> Self {
        Self(Proxy::before(Some(target_of(url).await)).await.unwrap())
    }

    /// The same on a socket that the test has made.
    pub async fn at(listener: TcpListener, url: &str) -> Self {
        Self(Proxy::at(listener, Some(target_of(url).await)).unwrap())
    }

    /// A proxy in front of a server at this address.
    pub async fn before_address(address: &str) -> Self {
        let address: SocketAddr = address.parse().unwrap();
        Self(Proxy::before(Some(ProxyTarget::Tcp(address))).await.unwrap())
    }

    /// New connections go to the server of this URL.
    pub async fn point_at(&self, url: &str) {
        self.0.point_at(Some(target_of(url).await));
    }
}

async fn target_of(url: &str) -> ProxyTarget {
    let options = PgConnectOptions::from_str(url).unwrap();
    match options.get_socket() {
        Some(folder) => ProxyTarget::Unix(folder.join(format!(".s.PGSQL.{}", options.get_port()))),
        None => {
            let host = format!("{}:{}", options.get_host(), options.get_port());
            ProxyTarget::Tcp(tokio::net::lookup_host(host).await.unwrap().next().unwrap())
        }
    }
}
