//! The ceiling of fan-out: a process that does nothing but write the same bytes to as many plain TCP sockets.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::clocks::Clocks;
use super::hub_process::{Ready, this_program};
use crate::cli::error::Failure;
use crate::cli::output;

/// How long everyone may take to get one message.
const ARRIVAL_LIMIT: Duration = Duration::from_secs(15);
/// Between two messages.
const PAUSE: Duration = Duration::from_millis(200);
/// The server's life is bounded, should the bench be killed.
const SERVER_LIMIT: Duration = Duration::from_secs(600);

/// Sends `posts` messages of `bytes` through the plain server to as many connections.
pub async fn measure(connections: usize, posts: usize, bytes: usize) -> Result<Clocks, Failure> {
    let mut command = this_program()?;
    command.args(["bench", "plain-server", "--connections", &connections.to_string(), "--bytes", &bytes.to_string()]);
    let server = Ready::spawn(command).await?;
    let outcome = drive(server.address, connections, posts, bytes).await;
    server.stop().await?;
    outcome.map_err(|error| Failure::other(format!("the plain server: {error}")))
}

async fn drive(address: SocketAddr, connections: usize, posts: usize, bytes: usize) -> std::io::Result<Clocks> {
    let clocks = Arc::new(Clocks::new(posts, connections));
    let mut control = TcpStream::connect(address).await?;
    control.set_nodelay(true)?;
    let mut listeners = JoinSet::new();
    for at in 0..connections {
        let mut stream = TcpStream::connect(address).await?;
        let clocks = Arc::clone(&clocks);
        listeners.spawn(async move {
            let mut message = vec![0; bytes];
            for n in 0..posts {
                if stream.read_exact(&mut message).await.is_err() {
                    return;
                }
                clocks.arrived(n, at);
            }
        });
    }
    // The server says one byte when it has everyone.
    control.read_u8().await?;
    for n in 0..posts {
        clocks.starts(n);
        control.write_u8(1).await?;
        let end = Instant::now() + ARRIVAL_LIMIT;
        while clocks.count() < (n + 1) * connections && Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tokio::time::sleep(PAUSE).await;
    }
    listeners.shutdown().await;
    Arc::try_unwrap(clocks).map_err(|_| std::io::Error::other("a listener still runs"))
}

/// The server's side: the first connection is the bench's control, one byte on it is one message to all others.
pub async fn serve(connections: usize, bytes: usize) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::other(format!("the plain server: {error}"));
    let listener = TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).await.map_err(failed)?;
    output::line(&format!("ready {}", listener.local_addr().map_err(failed)?))?;
    match tokio::time::timeout(SERVER_LIMIT, fan_out(listener, connections, bytes)).await {
        Ok(outcome) => outcome.map_err(failed),
        Err(_) => Ok(()),
    }
}

async fn fan_out(listener: TcpListener, connections: usize, bytes: usize) -> std::io::Result<()> {
    let (mut control, _) = listener.accept().await?;
    let mut sockets = Vec::with_capacity(connections);
    for _ in 0..connections {
        let (socket, _) = listener.accept().await?;
        socket.set_nodelay(true)?;
        sockets.push(socket);
    }
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let parts: Vec<Arc<Vec<TcpStream>>> = split(sockets, workers).into_iter().map(Arc::new).collect();
    let message: Arc<[u8]> = vec![b'x'; bytes].into();
    control.write_u8(1).await?;
    while control.read_u8().await.is_ok() {
        let mut writing = JoinSet::new();
        for part in &parts {
            let (part, message) = (Arc::clone(part), Arc::clone(&message));
            writing.spawn(async move { part.iter().for_each(|socket| drop(socket.try_write(&message))) });
        }
        writing.join_all().await;
    }
    Ok(())
}

fn split(mut sockets: Vec<TcpStream>, parts: usize) -> Vec<Vec<TcpStream>> {
    let size = sockets.len().div_ceil(parts).max(1);
    let mut split = Vec::new();
    while sockets.len() > size {
        let rest = sockets.split_off(size);
        split.push(std::mem::replace(&mut sockets, rest));
    }
    split.push(sockets);
    split
}
