//! Promise: under a service manager, a hub says when it is ready, that it is alive, and when it stops.

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use super::support::*;

/// A service manager: the socket that `NOTIFY_SOCKET` names.
struct Manager {
    socket: UnixDatagram,
    folder: tempfile::TempDir,
}

impl Manager {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self { socket, folder }
    }

    fn address(&self) -> String {
        self.folder.path().join("notify").display().to_string()
    }

    fn heard(&self) -> Option<String> {
        let mut message = [0; 512];
        let length = self.socket.recv(&mut message).ok()?;
        Some(String::from_utf8(message[..length].to_vec()).unwrap())
    }

    async fn next(&self) -> String {
        eventually("the hub notifies its service manager", PATIENCE, async || self.heard()).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_says_that_it_is_ready_alive_and_stopping() {
    let db = TestDb::new().await;
    let manager = Manager::new();
    let builder = TestHub::on(&db).with("NOTIFY_SOCKET", &manager.address()).with("RECADO_DRAIN_WINDOW", "0s");
    let mut hub = builder.with("WATCHDOG_USEC", "2000000").start().await;
    let ready = manager.next().await;
    assert!(ready.starts_with("READY=1\n") && ready.contains(&hub.address), "{ready}");
    for _ in 0..3 {
        assert_eq!(manager.next().await, "WATCHDOG=1");
    }
    hub.signal("-TERM").await;
    let mut last = manager.next().await;
    while last == "WATCHDOG=1" {
        last = manager.next().await;
    }
    assert!(last.starts_with("STOPPING=1\n"), "{last}");
    assert_eq!(hub.ended(Duration::from_secs(10)).await.code(), Some(0));
    assert_eq!(manager.heard(), None);
}

/// Fails if the watchdog follows readiness: a restart does not bring a database back, and cuts off every client.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_without_its_database_is_alive() {
    let db = TestDb::new().await;
    let manager = Manager::new();
    let proxy = TestProxy::before(&db.url()).await;
    let builder = TestHub::on(&db).with("DATABASE_URL", &db.url_at(proxy.port)).with("NOTIFY_SOCKET", &manager.address());
    let hub = builder.with("WATCHDOG_USEC", "1000000").start().await;
    proxy.cut(Cut::Rst);
    proxy.set(ProxyFlow::Hole);
    eventually("not ready", Duration::from_secs(8), async || (!hub.is_ready().await).then_some(())).await;
    while manager.heard().is_some() {}
    assert_eq!(manager.next().await, "WATCHDOG=1");
}
