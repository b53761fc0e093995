//! Measures the ceiling of fan-out: a process that only writes the same frames.
//!
//! It writes to as many sockets as the hub. Its clients are the hub's: they read a frame and look for its mark.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use recado::cli::error::CliFailure;
use recado::cli::output;
use recado_testkit::http::{accept_key, request, switching};
use recado_testkit::process::ReadyProcess;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::clocks::Clocks;
use super::crowd::{PAUSE, arrival_of, listen};
use super::hub_process::{spawn, stop, this_program};
use super::joined::joined;
use super::plain_sockets::{HELLO, text_frame};
use super::processes;
use super::times::SortedTimes;
use super::ws_client::WsClient;

/// Limits the server's life in case the bench is killed.
const SERVER_LIMIT: Duration = Duration::from_secs(600);
/// Clients that connect at the same time.
const PARALLEL: usize = 128;

/// What the plain server's messages took.
pub struct PlainFanout {
    pub times: SortedTimes,
    /// Processor time of the server while it wrote them.
    pub cpu: Duration,
}

/// Sends `posts` messages of `bytes` through the plain server to as many connections.
pub async fn measure(connections: usize, posts: usize, bytes: usize) -> Result<PlainFanout, CliFailure> {
    let mut command = this_program()?;
    command.args(["plain-server", "--connections", &connections.to_string(), "--bytes", &bytes.to_string()]);
    let server = spawn(command).await?;
    let outcome = drive(&server, connections, posts).await;
    stop(server).await?;
    outcome
}

async fn drive(server: &ReadyProcess, connections: usize, posts: usize) -> Result<PlainFanout, CliFailure> {
    let address = server.address;
    let failed = |error: std::io::Error| CliFailure::other(format!("the plain server: {error}"));
    let mut control = TcpStream::connect(address).await.map_err(failed)?;
    control.set_nodelay(true).map_err(failed)?;
    let clocks = Arc::new(Clocks::new(posts, connections));
    let mut listeners = JoinSet::new();
    let everyone: Vec<usize> = (0..connections).collect();
    for some in everyone.chunks(PARALLEL) {
        let mut coming = JoinSet::new();
        for at in some.iter().copied() {
            coming.spawn(async move { Ok((at, WsClient::connect(address, "none", "client_id=bench").await?.0)) });
        }
        for (at, socket) in joined(coming).await? {
            listeners.spawn(listen(socket, at, Arc::clone(&clocks), Arc::new(AtomicUsize::new(0))));
        }
    }
    // The server writes one byte when all clients are connected.
    control.read_u8().await.map_err(failed)?;
    let pid: Vec<u32> = server.pid().into_iter().collect();
    let before = processes::costs(&pid);
    for n in 0..posts {
        clocks.starts(n);
        control.write_u8(1).await.map_err(failed)?;
        arrival_of(&clocks, (n + 1) * connections, &mut listeners).await?;
        tokio::time::sleep(PAUSE).await;
    }
    let cpu = (processes::costs(&pid) - before).cpu;
    listeners.shutdown().await;
    Ok(PlainFanout { times: clocks.times(), cpu })
}

/// Runs the server. The first connection is the bench's control: one byte on it makes the server write one message to
/// all others.
pub async fn serve(connections: usize, bytes: usize) -> Result<(), CliFailure> {
    let failed = |error: std::io::Error| CliFailure::other(format!("the plain server: {error}"));
    let listener = TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).await.map_err(failed)?;
    output::line(&format!("ready {}", listener.local_addr().map_err(failed)?))?;
    match tokio::time::timeout(SERVER_LIMIT, fan_out(listener, connections, bytes)).await {
        Ok(outcome) => outcome.map_err(failed),
        Err(_) => Ok(()),
    }
}

async fn fan_out(listener: TcpListener, connections: usize, bytes: usize) -> std::io::Result<()> {
    let (mut control, _) = listener.accept().await?;
    let mut coming = JoinSet::new();
    for _ in 0..connections {
        let (socket, _) = listener.accept().await?;
        coming.spawn(let_in(socket));
    }
    let sockets: Vec<TcpStream> = coming.join_all().await.into_iter().flatten().collect();
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let parts: Vec<Arc<Vec<TcpStream>>> = split(sockets, workers).into_iter().map(Arc::new).collect();
    control.write_u8(1).await?;
    let mut n = 0;
    while control.read_u8().await.is_ok() {
        let message: Arc<[u8]> = text_frame(&notification(n, bytes)).into();
        n += 1;
        let mut writing = JoinSet::new();
        for part in &parts {
            let (part, message) = (Arc::clone(part), Arc::clone(&message));
            writing.spawn(async move { part.iter().for_each(|socket| drop(socket.try_write(&message))) });
        }
        writing.join_all().await;
    }
    Ok(())
}

async fn let_in(mut socket: TcpStream) -> Option<TcpStream> {
    socket.set_nodelay(true).ok()?;
    let (head, _) = request(&mut socket).await?;
    socket.write_all(switching(&accept_key(&head)?).as_bytes()).await.ok()?;
    socket.write_all(&text_frame(HELLO)).await.ok()?;
    Some(socket)
}

/// Imitates the hub's frame for a client of the bench: so many bytes with a mark in them.
fn notification(n: usize, bytes: usize) -> String {
    let marked = format!("{{\"seq\":1,\"data\":{{\"bench_n\":{n}}},\"filler\":\"");
    format!("{marked}{:x<1$}\"}}", "", bytes.saturating_sub(marked.len() + 2))
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

#[cfg(test)]
mod tests {
    use super::super::ws_client::mark;
    use super::*;

    #[test]
    fn the_plain_server_writes_as_many_bytes_with_the_same_mark() {
        let text = notification(17, 387);
        assert_eq!((text.len(), mark(&text)), (387, Some(17)));
        assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok());
    }
}
