//! Tells a service manager such as systemd that the hub is ready, alive or stopping.
//!
//! The protocol is `sd_notify`: one datagram for each message, to the Unix socket in `NOTIFY_SOCKET`. Without that
//! variable nothing is sent. A message that cannot be sent is logged and not repeated.

use std::convert::Infallible;
use std::ffi::OsString;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::net::{SocketAddr as UnixAddress, UnixDatagram as StdDatagram};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixDatagram};
use tokio::time::timeout;

use crate::config::MachineEnvironment;

/// Longest time for one message. The manager may be busy, and the hub must not wait for it.
const SEND_LIMIT: Duration = Duration::from_secs(1);
/// Checks within the time of the watchdog: one that is lost must not kill the hub.
const CHECKS: u32 = 4;

/// The service manager that started the hub, if there is one.
pub(super) struct ServiceManager {
    socket: Option<OsString>,
    watchdog: Option<Duration>,
}

impl ServiceManager {
    pub(super) fn of(machine: &MachineEnvironment) -> Self {
        Self { socket: machine.notify_socket.clone(), watchdog: machine.watchdog }
    }

    /// Sends one message: lines of `NAME=value`.
    pub(super) async fn tell(&self, message: &str) {
        let Some(socket) = &self.socket else { return };
        let sent = timeout(SEND_LIMIT, send(socket, message.as_bytes())).await;
        if let Err(error) = sent.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            tracing::warn!(%error, message, "could not notify the service manager");
        }
    }

    /// Sends `WATCHDOG=1` while the hub answers on its own listener. Never returns if no watchdog is set.
    ///
    /// A hub whose database is away answers: a restart would not help it.
    pub(super) async fn keep_alive(&self, address: SocketAddr) -> Infallible {
        let Some(watchdog) = self.watchdog.filter(|_| self.socket.is_some()) else { return std::future::pending().await };
        let pause = watchdog / CHECKS;
        loop {
            match timeout(pause, answers(reached(address))).await {
                Ok(Ok(())) => self.tell("WATCHDOG=1").await,
                Ok(Err(error)) => tracing::error!(%error, %address, "the hub does not accept connections; watchdog not reset"),
                Err(_) => tracing::error!(%address, "the hub does not answer on its own listener; watchdog not reset"),
            }
            tokio::time::sleep(pause).await;
        }
    }
}

async fn send(socket: &OsString, message: &[u8]) -> io::Result<()> {
    // A new socket for each message, as the manager may have made a new one of its own.
    let datagram = StdDatagram::unbound()?;
    datagram.connect_addr(&unix_address(socket)?)?;
    datagram.set_nonblocking(true)?;
    UnixDatagram::from_std(datagram)?.send(message).await.map(|_| ())
}

/// A path, or after `@` an abstract name, which only Linux has.
fn unix_address(socket: &OsString) -> io::Result<UnixAddress> {
    #[cfg(target_os = "linux")]
    if let Some(name) = std::os::unix::ffi::OsStrExt::as_bytes(socket.as_os_str()).strip_prefix(b"@") {
        return <UnixAddress as std::os::linux::net::SocketAddrExt>::from_abstract_name(name);
    }
    UnixAddress::from_pathname(socket)
}

/// Returns once the hub has answered or refused a request. Only silence means that it is stuck: a hub that is full may
/// close the connection at once.
async fn answers(address: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    // An error of these two: the hub has closed the connection, so it accepts.
    let _ = stream.write_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await;
    let _ = stream.read(&mut [0; 16]).await;
    Ok(())
}

/// The address at which this machine reaches the listener.
fn reached(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use std::os::linux::net::SocketAddrExt;

    use tokio::net::TcpListener;

    use super::*;

    fn heard(socket: &StdDatagram) -> Option<String> {
        let mut message = [0; 256];
        socket.recv(&mut message).ok().map(|length| String::from_utf8_lossy(&message[..length]).into_owned())
    }

    /// A manager that listens at an abstract name, as systemd does in containers.
    fn manager(watchdog: Duration) -> (StdDatagram, ServiceManager) {
        let name = format!("recado-test-{}", uuid::Uuid::new_v4());
        let socket = StdDatagram::bind_addr(&UnixAddress::from_abstract_name(&name).unwrap()).unwrap();
        socket.set_nonblocking(true).unwrap();
        (socket, ServiceManager { socket: Some(format!("@{name}").into()), watchdog: Some(watchdog) })
    }

    #[tokio::test]
    async fn messages_reach_an_abstract_socket_and_a_lost_one_stops_nothing() {
        let (socket, manager) = manager(Duration::ZERO);
        manager.tell("READY=1").await;
        assert_eq!(heard(&socket).as_deref(), Some("READY=1"));
        drop(socket);
        manager.tell("STOPPING=1").await;
        ServiceManager { socket: Some("/no/such/socket".into()), watchdog: None }.tell("READY=1").await;
    }

    /// The kernel accepts connections for a process that hangs, so the hub must also answer a request.
    #[tokio::test]
    async fn the_watchdog_is_reset_by_a_hub_that_answers_and_not_by_one_that_hangs() {
        const WATCHDOG: Duration = Duration::from_millis(200);
        let (socket, manager) = manager(WATCHDOG);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        assert!(timeout(WATCHDOG, manager.keep_alive(address)).await.is_err());
        assert_eq!(heard(&socket), None, "it hangs");
        let serving = async {
            loop {
                drop(listener.accept().await);
            }
        };
        tokio::select! {
            () = serving => {}
            alive = timeout(10 * WATCHDOG, manager.keep_alive(address)) => assert!(alive.is_err()),
        }
        assert_eq!(heard(&socket).as_deref(), Some("WATCHDOG=1"));
    }
}
