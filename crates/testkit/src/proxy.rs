//! Runs a TCP proxy that can hold, slow down or cut its connections.
//!
//! It is placed between a hub and its database or provider, or between clients and a hub. The near side is the one that
//! connects to the proxy; the far side is the server.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// The most bytes that pass at once.
const PIECE: usize = 64 << 10;
/// The same where each piece is late: small, so that a page of the log is late several times.
const LATE_PIECE: usize = 16 << 10;

/// How bytes are passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyFlow {
    Pass,
    /// Connections stay open and pass nothing; new connections, too.
    Hole,
    /// Bytes from the near side pass, bytes from the far side do not.
    NoAnswers,
    /// The other way round.
    NoQuestions,
    /// Bytes from the far side pass at so many a second on each connection.
    Slow(u32),
    /// Each piece, in each direction, is held back for so long.
    Late(Duration),
}

/// What is done, once, to the connections that are open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    Fin,
    Rst,
    /// No bytes pass on them any more.
    Hole,
}

/// The server behind a proxy.
#[derive(Debug, Clone)]
pub enum ProxyTarget {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

/// The proof that an order had an effect.
#[derive(Debug, Default)]
pub struct ProxyCounters {
    /// Connections that are open now.
    pub open: AtomicUsize,
    /// Connections that have been opened so far.
    pub opened: AtomicUsize,
    /// Connections that were cut.
    pub cut: AtomicU64,
    /// How many times a piece was ready and was not passed, or was passed and its answer is not.
    pub held: AtomicU64,
    /// Pieces that were late.
    pub late: AtomicU64,
}

trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

type SharedTarget = Arc<Mutex<Option<ProxyTarget>>>;

/// A proxy on a port of its own. Dropping it cuts everything.
pub struct Proxy {
    pub port: u16,
    pub counters: Arc<ProxyCounters>,
    flow: watch::Sender<ProxyFlow>,
    cuts: watch::Sender<Cut>,
    target: SharedTarget,
    _accepting: JoinSet<()>,
}

impl Proxy {
    /// A proxy in front of this server; `None`: there is none yet, and connections are closed.
    pub async fn before(target: Option<ProxyTarget>) -> std::io::Result<Self> {
        Self::at(TcpListener::bind("127.0.0.1:0").await?, target)
    }

    /// The same on a socket that the caller has made.
    pub fn at(listener: TcpListener, target: Option<ProxyTarget>) -> std::io::Result<Self> {
        let port = listener.local_addr()?.port();
        let (flow, flows) = watch::channel(ProxyFlow::Pass);
        let (cuts, cuts_heard) = watch::channel(Cut::Fin);
        let (target, counters) = (SharedTarget::new(Mutex::new(target)), Arc::<ProxyCounters>::default());
        let (to, counting) = (Arc::clone(&target), Arc::clone(&counters));
        let mut accepting = JoinSet::new();
        accepting.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                counting.opened.fetch_add(1, Ordering::SeqCst);
                let mut cuts = cuts_heard.clone();
                // Only later cuts are meant for this connection.
                cuts.mark_unchanged();
                connections.spawn(carry(near, Arc::clone(&to), flows.clone(), cuts, Arc::clone(&counting)));
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { port, counters, flow, cuts, target, _accepting: accepting })
    }

    /// New connections go to this server.
    pub fn point_at(&self, target: Option<ProxyTarget>) {
        *self.target.lock().unwrap_or_else(PoisonError::into_inner) = target;
    }

    pub fn set(&self, flow: ProxyFlow) {
        self.flow.send_replace(flow);
    }

    /// Cuts the connections that are open; new ones pass.
    pub fn cut(&self, cut: Cut) {
        self.cuts.send_replace(cut);
    }

    /// How many connections have been opened so far.
    pub fn opened(&self) -> usize {
        self.counters.opened.load(Ordering::SeqCst)
    }
}

async fn carry(
    mut near: TcpStream,
    target: SharedTarget,
    flow: watch::Receiver<ProxyFlow>,
    mut cuts: watch::Receiver<Cut>,
    counters: Arc<ProxyCounters>,
) {
    let _ = near.set_nodelay(true);
    counters.open.fetch_add(1, Ordering::SeqCst);
    let cut = {
        let mut passing = pin!(pass(&mut near, &target, flow, &counters));
        let mut is_held = false;
        loop {
            tokio::select! {
                () = &mut passing, if !is_held => break None,
                changed = cuts.changed() => {
                    if changed.is_err() {
                        break None;
                    }
                    match *cuts.borrow_and_update() {
                        Cut::Hole => is_held = true,
                        cut => break Some(cut),
                    }
                }
            }
        }
    };
    counters.open.fetch_sub(1, Ordering::SeqCst);
    if let Some(cut) = cut {
        counters.cut.fetch_add(1, Ordering::SeqCst);
        if cut == Cut::Rst {
            let _ = socket2::SockRef::from(&near).set_linger(Some(Duration::ZERO));
        }
    }
}

async fn connect(target: &SharedTarget) -> Option<Box<dyn Duplex>> {
    let target = target.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
    match target {
        ProxyTarget::Unix(path) => Some(Box::new(UnixStream::connect(path).await.ok()?)),
        ProxyTarget::Tcp(address) => {
            let stream = TcpStream::connect(address).await.ok()?;
            stream.set_nodelay(true).ok()?;
            Some(Box::new(stream))
        }
    }
}

/// The most bytes that are read from the far side at once. A slow link passes the bytes of a twentieth of a second.
fn far_piece(flow: ProxyFlow) -> usize {
    match flow {
        ProxyFlow::Slow(rate) => usize::try_from(rate / 20).unwrap_or(PIECE).clamp(1, PIECE),
        _ => near_piece(flow),
    }
}

fn near_piece(flow: ProxyFlow) -> usize {
    if matches!(flow, ProxyFlow::Late(_)) { LATE_PIECE } else { PIECE }
}

/// Passes bytes until one side ends.
async fn pass(near: &mut TcpStream, target: &SharedTarget, mut flow: watch::Receiver<ProxyFlow>, counters: &ProxyCounters) {
    let mut far: Option<Box<dyn Duplex>> = None;
    let (mut up, mut down) = (vec![0; PIECE], vec![0; PIECE]);
    loop {
        let now = *flow.borrow_and_update();
        if now == ProxyFlow::Hole {
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
            read = near.read(&mut up[..near_piece(now)]), if now != ProxyFlow::NoQuestions => read.map(|n| (n, true)),
            read = there.read(&mut down[..far_piece(now)]), if now != ProxyFlow::NoAnswers => read.map(|n| (n, false)),
        };
        let Ok((n @ 1.., is_up)) = read else { return };
        match now {
            ProxyFlow::Late(delay) => {
                counters.late.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(delay).await;
            }
            ProxyFlow::NoAnswers | ProxyFlow::NoQuestions => drop(counters.held.fetch_add(1, Ordering::SeqCst)),
            _ => {}
        }
        let written = if is_up { there.write_all(&up[..n]).await } else { near.write_all(&down[..n]).await };
        if written.is_err() {
            return;
        }
        if let ProxyFlow::Slow(rate) = now
            && !is_up
        {
            tokio::time::sleep(Duration::from_secs_f64(n as f64 / f64::from(rate.max(1)))).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    const SOON: Duration = Duration::from_millis(150);
    const PATIENCE: Duration = Duration::from_secs(10);

    /// A server that answers each piece with itself, and a proxy in front of it.
    async fn echo() -> (Proxy, JoinSet<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                connections.spawn(async move {
                    let (mut read, mut write) = stream.split();
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                });
            }
        });
        (Proxy::before(Some(ProxyTarget::Tcp(address))).await.unwrap(), serving)
    }

    async fn open(proxy: &Proxy) -> TcpStream {
        TcpStream::connect(("127.0.0.1", proxy.port)).await.unwrap()
    }

    /// The answer to four bytes; `None` when none came soon.
    async fn asked(stream: &mut TcpStream, limit: Duration) -> Option<std::io::Result<[u8; 4]>> {
        if let Err(error) = stream.write_all(b"ping").await {
            return Some(Err(error));
        }
        answer(stream, limit).await
    }

    async fn answer(stream: &mut TcpStream, limit: Duration) -> Option<std::io::Result<[u8; 4]>> {
        let mut answer = [0; 4];
        let read = timeout(limit, stream.read_exact(&mut answer)).await.ok()?;
        Some(read.map(|_| answer))
    }

    #[tokio::test]
    async fn a_hole_holds_what_it_was_sent_and_then_passes_it() {
        let (proxy, _server) = echo().await;
        let mut stream = open(&proxy).await;
        assert_eq!(asked(&mut stream, PATIENCE).await.unwrap().unwrap(), *b"ping");
        proxy.set(ProxyFlow::Hole);
        assert!(asked(&mut stream, SOON).await.is_none());
        assert!(asked(&mut open(&proxy).await, SOON).await.is_none(), "a new connection is in the hole, too");
        assert!(proxy.counters.held.load(Ordering::SeqCst) >= 2);
        proxy.set(ProxyFlow::Pass);
        assert_eq!(answer(&mut stream, PATIENCE).await.unwrap().unwrap(), *b"ping");
        assert_eq!(proxy.opened(), 2);
    }

    #[tokio::test]
    async fn one_direction_can_be_held() {
        for flow in [ProxyFlow::NoAnswers, ProxyFlow::NoQuestions] {
            let (proxy, _server) = echo().await;
            let mut stream = open(&proxy).await;
            asked(&mut stream, PATIENCE).await.unwrap().unwrap();
            proxy.set(flow);
            assert!(asked(&mut stream, SOON).await.is_none(), "{flow:?}");
            proxy.set(ProxyFlow::Pass);
            assert_eq!(answer(&mut stream, PATIENCE).await.unwrap().unwrap(), *b"ping", "{flow:?}");
        }
    }

    #[tokio::test]
    async fn a_cut_ends_what_is_open_and_nothing_later() {
        for cut in [Cut::Fin, Cut::Rst, Cut::Hole] {
            let (proxy, _server) = echo().await;
            let mut stream = open(&proxy).await;
            asked(&mut stream, PATIENCE).await.unwrap().unwrap();
            proxy.cut(cut);
            let said = answer(&mut stream, if cut == Cut::Hole { SOON } else { PATIENCE }).await.map(|read| read.map_err(|e| e.kind()));
            match cut {
                Cut::Fin => assert_eq!(said, Some(Err(std::io::ErrorKind::UnexpectedEof))),
                Cut::Rst => assert_eq!(said, Some(Err(std::io::ErrorKind::ConnectionReset))),
                Cut::Hole => {
                    assert_eq!(said, None);
                    assert!(asked(&mut stream, SOON).await.is_none());
                }
            }
            assert_eq!(asked(&mut open(&proxy).await, PATIENCE).await.unwrap().unwrap(), *b"ping", "{cut:?}");
        }
    }

    #[tokio::test]
    async fn pieces_are_late_or_slow_and_whole() {
        let (proxy, _server) = echo().await;
        let mut stream = open(&proxy).await;
        for flow in [ProxyFlow::Late(Duration::from_millis(60)), ProxyFlow::Slow(40)] {
            proxy.set(flow);
            let begun = std::time::Instant::now();
            assert_eq!(asked(&mut stream, PATIENCE).await.unwrap().unwrap(), *b"ping", "{flow:?}");
            let least = if flow == ProxyFlow::Slow(40) { 50 } else { 120 };
            assert!(begun.elapsed() >= Duration::from_millis(least), "{flow:?} took {:?}", begun.elapsed());
        }
        assert_eq!(proxy.counters.late.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn without_a_server_connections_are_closed() {
        let (proxy, _server) = echo().await;
        let target = proxy.target.lock().unwrap().clone();
        proxy.point_at(None);
        assert!(asked(&mut open(&proxy).await, PATIENCE).await.unwrap().is_err());
        proxy.point_at(target);
        assert_eq!(asked(&mut open(&proxy).await, PATIENCE).await.unwrap().unwrap(), *b"ping");
    }
}
