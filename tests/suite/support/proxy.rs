//! Runs a TCP proxy between a hub and a server, which a test can cut.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How bytes are passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyFlow {
    Pass,
    /// Connections stay open and pass nothing; new connections, too.
    Hole,
    /// Bytes from the hub pass, bytes from PostgreSQL do not.
    NoAnswers,
    /// The other way round.
    NoQuestions,
    /// Bytes from PostgreSQL pass at so many a second on each connection.
    Slow(u32),
}

/// What is done, once, to the connections that are open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    Fin,
    Rst,
    /// No bytes pass on them any more.
    Hole,
}

#[derive(Debug, Clone, Copy)]
struct Orders {
    flow: ProxyFlow,
    cuts: usize,
    cut: Cut,
}

#[derive(Debug, Clone)]
enum ProxyTarget {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

trait ProxyDuplex: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> ProxyDuplex for T {}

/// A proxy on a port of its own.
pub struct TestProxy {
    pub port: u16,
    orders: watch::Sender<Orders>,
    target: Arc<Mutex<ProxyTarget>>,
    opened: Arc<AtomicUsize>,
    accepting: JoinHandle<()>,
}

impl TestProxy {
    /// A proxy in front of the server of this URL.
    pub async fn before(url: &str) -> Self {
        Self::to(target_of(url).await).await
    }

    /// A proxy in front of the server of this URL, on a socket that the test has made.
    pub async fn at(listener: TcpListener, url: &str) -> Self {
        Self::accepting(listener, target_of(url).await)
    }

    /// A proxy in front of a server at this address.
    pub async fn before_address(address: &str) -> Self {
        Self::to(ProxyTarget::Tcp(address.parse().unwrap())).await
    }

    async fn to(target: ProxyTarget) -> Self {
        Self::accepting(TcpListener::bind("127.0.0.1:0").await.unwrap(), target)
    }

    fn accepting(listener: TcpListener, target: ProxyTarget) -> Self {
        let port = listener.local_addr().unwrap().port();
        let (orders, heard) = watch::channel(Orders { flow: ProxyFlow::Pass, cuts: 0, cut: Cut::Fin });
        let opened = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&opened);
        let target = Arc::new(Mutex::new(target));
        let to = Arc::clone(&target);
        let accepting = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let target = to.lock().unwrap().clone();
                connections.spawn(carry(client, target, heard.clone()));
            }
        });
        Self { port, orders, target, opened, accepting }
    }

    /// New connections go to the server of this URL.
    pub async fn point_at(&self, url: &str) {
        let target = target_of(url).await;
        *self.target.lock().unwrap() = target;
    }

    pub fn set(&self, flow: ProxyFlow) {
        self.orders.send_modify(|orders| orders.flow = flow);
    }

    /// Cuts the connections that are open; new ones pass.
    pub fn cut(&self, cut: Cut) {
        self.orders.send_modify(|orders| {
            orders.cuts += 1;
            orders.cut = cut;
        });
    }

    /// How many connections have been opened so far.
    pub fn opened(&self) -> usize {
        self.opened.load(Ordering::SeqCst)
    }
}

impl Drop for TestProxy {
    fn drop(&mut self) {
        self.accepting.abort();
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

/// The most bytes that pass at once. A slow link passes the bytes of a twentieth of a second.
fn piece(flow: ProxyFlow) -> usize {
    match flow {
        ProxyFlow::Slow(rate) => usize::try_from(rate / 20).unwrap().clamp(1, 64 << 10),
        _ => 64 << 10,
    }
}

async fn carry(mut client: TcpStream, target: ProxyTarget, mut orders: watch::Receiver<Orders>) {
    let born = orders.borrow_and_update().cuts;
    let mut server: Option<Box<dyn ProxyDuplex>> = None;
    let (mut up, mut down) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    loop {
        let now = *orders.borrow_and_update();
        let mut flow = now.flow;
        if now.cuts != born {
            match now.cut {
                Cut::Fin => return,
                Cut::Rst => {
                    let _ = socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO));
                    return;
                }
                Cut::Hole => flow = ProxyFlow::Hole,
            }
        }
        if server.is_none() && flow != ProxyFlow::Hole {
            server = match &target {
                ProxyTarget::Unix(path) => UnixStream::connect(path).await.ok().map(|stream| Box::new(stream) as Box<dyn ProxyDuplex>),
                ProxyTarget::Tcp(address) => TcpStream::connect(address).await.ok().map(|stream| Box::new(stream) as Box<dyn ProxyDuplex>),
            };
            if server.is_none() {
                return;
            }
        }
        let Some(server) = server.as_mut().filter(|_| flow != ProxyFlow::Hole) else {
            if orders.changed().await.is_err() {
                return;
            }
            continue;
        };
        tokio::select! {
            changed = orders.changed() => if changed.is_err() { return },
            read = client.read(&mut up), if flow != ProxyFlow::NoQuestions => match read {
                Ok(0) | Err(_) => return,
                Ok(n) => if server.write_all(&up[..n]).await.is_err() { return },
            },
            read = server.read(&mut down[..piece(flow)]), if flow != ProxyFlow::NoAnswers => match read {
                Ok(0) | Err(_) => return,
                Ok(n) => {
                    if client.write_all(&down[..n]).await.is_err() {
                        return;
                    }
                    if let ProxyFlow::Slow(rate) = flow {
                        tokio::time::sleep(Duration::from_secs_f64(n as f64 / f64::from(rate))).await;
                    }
                }
            },
        }
    }
}
