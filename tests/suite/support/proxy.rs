//! What stands between a hub and PostgreSQL, and can be cut.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use sqlx::postgres::PgConnectOptions;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What happens to bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    Pass,
    /// Stays open and passes nothing; new connections, too.
    Hole,
    /// What the hub says arrives, what PostgreSQL answers does not.
    NoAnswers,
    /// The other way round.
    NoQuestions,
}

/// What happens, once, to the connections that are open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    Fin,
    Rst,
    /// Nothing passes on them any more.
    Hole,
}

#[derive(Debug, Clone, Copy)]
struct Orders {
    flow: Flow,
    cuts: usize,
    cut: Cut,
}

#[derive(Debug, Clone)]
enum Target {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

/// A proxy on a port of its own.
pub struct Proxy {
    pub port: u16,
    orders: watch::Sender<Orders>,
    target: Arc<Mutex<Target>>,
    opened: Arc<AtomicUsize>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// Before the server of this URL.
    pub async fn before(url: &str) -> Self {
        Self::to(target_of(url).await).await
    }

    /// Before the server of this URL, on a socket that the test has made.
    pub async fn at(listener: TcpListener, url: &str) -> Self {
        Self::accepting(listener, target_of(url).await)
    }

    /// Before a server at this address.
    pub async fn before_address(address: &str) -> Self {
        Self::to(Target::Tcp(address.parse().unwrap())).await
    }

    async fn to(target: Target) -> Self {
        Self::accepting(TcpListener::bind("127.0.0.1:0").await.unwrap(), target)
    }

    fn accepting(listener: TcpListener, target: Target) -> Self {
        let port = listener.local_addr().unwrap().port();
        let (orders, heard) = watch::channel(Orders { flow: Flow::Pass, cuts: 0, cut: Cut::Fin });
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

    pub fn set(&self, flow: Flow) {
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

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn target_of(url: &str) -> Target {
    let options = PgConnectOptions::from_str(url).unwrap();
    match options.get_socket() {
        Some(folder) => Target::Unix(folder.join(format!(".s.PGSQL.{}", options.get_port()))),
        None => {
            let host = format!("{}:{}", options.get_host(), options.get_port());
            Target::Tcp(tokio::net::lookup_host(host).await.unwrap().next().unwrap())
        }
    }
}

async fn carry(mut client: TcpStream, target: Target, mut orders: watch::Receiver<Orders>) {
    let born = orders.borrow_and_update().cuts;
    let mut server: Option<Box<dyn Duplex>> = None;
    let (mut up, mut down) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    loop {
        let now = *orders.borrow_and_update();
        let mut flow = now.flow;
        if now.cuts != born {
            match now.cut {
                Cut::Fin => return,
                Cut::Rst => {
                    let _ = socket2::SockRef::from(&client).set_linger(Some(std::time::Duration::ZERO));
                    return;
                }
                Cut::Hole => flow = Flow::Hole,
            }
        }
        if server.is_none() && flow != Flow::Hole {
            server = match &target {
                Target::Unix(path) => UnixStream::connect(path).await.ok().map(|stream| Box::new(stream) as Box<dyn Duplex>),
                Target::Tcp(address) => TcpStream::connect(address).await.ok().map(|stream| Box::new(stream) as Box<dyn Duplex>),
            };
            if server.is_none() {
                return;
            }
        }
        let Some(server) = server.as_mut().filter(|_| flow != Flow::Hole) else {
            if orders.changed().await.is_err() {
                return;
            }
            continue;
        };
        tokio::select! {
            changed = orders.changed() => if changed.is_err() { return },
            read = client.read(&mut up), if flow != Flow::NoQuestions => match read {
                Ok(0) | Err(_) => return,
                Ok(n) => if server.write_all(&up[..n]).await.is_err() { return },
            },
            read = server.read(&mut down), if flow != Flow::NoAnswers => match read {
                Ok(0) | Err(_) => return,
                Ok(n) => if client.write_all(&down[..n]).await.is_err() { return },
            },
        }
    }
}
