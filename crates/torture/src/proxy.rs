//! Runs proxies that can stop, slow down or cut a connection.
//!
//! They are placed between hub and database, and between client and hub.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How bytes are passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WireState {
    Pass,
    /// Connections stay open and pass nothing; new ones, too.
    Hole,
    /// Bytes from the near side pass, bytes from the far side do not.
    NoAnswers,
    /// Each piece, in each direction, is held back for so long.
    Slow(Duration),
}

#[derive(Clone)]
pub enum WireTarget {
    Unix(PathBuf),
    /// `None`: no server listens now.
    Tcp(Arc<Mutex<Option<SocketAddr>>>),
}

/// The proof that an order had an effect.
#[derive(Default)]
pub struct WireCounters {
    pub open: AtomicUsize,
    pub cut: AtomicU64,
    /// How many times a piece was ready and was not passed.
    pub held: AtomicU64,
    pub slowed: AtomicU64,
}

trait WireDuplex: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> WireDuplex for T {}

/// A proxy on a port of its own. Dropping it cuts everything.
pub struct WireProxy {
    pub port: u16,
    pub counters: Arc<WireCounters>,
    flow: watch::Sender<WireState>,
    cuts: watch::Sender<usize>,
    _accepting: JoinSet<()>,
}

impl WireProxy {
    pub async fn before(target: WireTarget) -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let (flow, flow_heard) = watch::channel(WireState::Pass);
        let (cuts, cuts_heard) = watch::channel(0);
        let counters = Arc::<WireCounters>::default();
        let mut accepting = JoinSet::new();
        let counting = Arc::clone(&counters);
        accepting.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                connections.spawn(carry(near, target.clone(), flow_heard.clone(), cuts_heard.clone(), Arc::clone(&counting)));
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { port, counters, flow, cuts, _accepting: accepting })
    }

    pub fn set(&self, flow: WireState) {
        self.flow.send_replace(flow);
    }

    /// Resets the connections that are open; new ones pass.
    pub fn reset(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }
}

async fn carry(
    mut near: TcpStream,
    target: WireTarget,
    flow: watch::Receiver<WireState>,
    mut cuts: watch::Receiver<usize>,
    counters: Arc<WireCounters>,
) {
    cuts.mark_unchanged();
    let _ = near.set_nodelay(true);
    counters.open.fetch_add(1, Ordering::SeqCst);
    let cut = tokio::select! {
        () = pipe(&mut near, &target, flow, &counters) => false,
        changed = cuts.changed() => changed.is_ok(),
    };
    counters.open.fetch_sub(1, Ordering::SeqCst);
    if cut {
        counters.cut.fetch_add(1, Ordering::SeqCst);
        let _ = socket2::SockRef::from(&near).set_linger(Some(Duration::ZERO));
    }
}

async fn connect(target: &WireTarget) -> Option<Box<dyn WireDuplex>> {
    match target {
        WireTarget::Unix(path) => Some(Box::new(UnixStream::connect(path).await.ok()?)),
        WireTarget::Tcp(address) => {
            let address = (*address.lock().unwrap_or_else(PoisonError::into_inner))?;
            let stream = TcpStream::connect(address).await.ok()?;
            stream.set_nodelay(true).ok()?;
            Some(Box::new(stream))
        }
    }
}

/// Passes bytes until one side ends.
async fn pipe(near: &mut TcpStream, target: &WireTarget, mut flow: watch::Receiver<WireState>, counters: &WireCounters) {
    let mut far: Option<Box<dyn WireDuplex>> = None;
    let (mut up, mut down) = (vec![0; 16 << 10], vec![0; 16 << 10]);
    loop {
        let now = *flow.borrow_and_update();
        if now == WireState::Hole {
            // Readiness is checked first; unread bytes stay in the socket.
            tokio::select! {
                ready = near.readable() => {
                    if ready.is_err() { return }
                    counters.held.fetch_add(1, Ordering::SeqCst);
                    if flow.changed().await.is_err() { return }
                }
                changed = flow.changed() => if changed.is_err() { return },
            }
            continue;
        }
        if far.is_none() {
            far = connect(target).await;
        }
        let Some(there) = far.as_mut() else { return };
        let read = tokio::select! {
            changed = flow.changed() => {
                if changed.is_err() { return }
                continue;
            }
            read = near.read(&mut up) => read.map(|n| (n, true)),
            read = there.read(&mut down), if now != WireState::NoAnswers => read.map(|n| (n, false)),
        };
        let Ok((n @ 1.., is_up)) = read else { return };
        if let WireState::Slow(delay) = now {
            counters.slowed.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(delay).await;
        }
        if now == WireState::NoAnswers {
            counters.held.fetch_add(1, Ordering::SeqCst);
        }
        let written = if is_up { there.write_all(&up[..n]).await } else { near.write_all(&down[..n]).await };
        if written.is_err() {
            return;
        }
    }
}
