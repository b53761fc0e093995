//! Measures the ceiling of a reconnect storm: a process that only answers handshakes.
//!
//! It answers each WebSocket handshake with the same frames as the hub.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use recado::cli::error::CliFailure;
use recado::cli::output;
use recado_testkit::http::{accept_key, request, switching};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::hub_process::{spawn, stop, this_program};
use super::joined::joined;
use super::processes;
use super::ws_client::WsClient;

/// Limits the server's life in case the bench is killed.
const SERVER_LIMIT: Duration = Duration::from_secs(600);
/// Resembles the first frame of a hub.
pub const HELLO: &str = r#"{"type":"connection_established","session_id":"0198f0a0-0000-7000-8000-000000000000","user_id":"bench-1000",
"account_ids":[],"client_id":"bench","log_id":"0198f0a0-0000-7000-8000-000000000000","head":180000,"earliest":1,
"resume":{"status":"ok","from":1},"heartbeat_ms":30000,"token_expires_at":"2026-01-01T00:00:00.000Z"}"#;
const CAUGHT_UP: &str = r#"{"type":"caught_up","seq":180000,"replayed":20}"#;

/// What it took until all clients had everything.
pub struct PlainSockets {
    pub time: Duration,
    /// Processor time of the server.
    pub cpu: Duration,
}

/// Connects so many clients at once, of which each reads so many frames.
pub async fn measure(clients: usize, frames: usize, bytes: usize) -> Result<PlainSockets, CliFailure> {
    let mut command = this_program()?;
    command.args(["plain-sockets", "--frames", &frames.to_string(), "--bytes", &bytes.to_string()]);
    let server = spawn(command).await?;
    let pid: Vec<u32> = server.pid().into_iter().collect();
    let before = processes::costs(&pid);
    let outcome = come(server.address, clients, frames).await;
    let cpu = (processes::costs(&pid) - before).cpu;
    stop(server).await?;
    Ok(PlainSockets { time: outcome?, cpu })
}

async fn come(address: SocketAddr, clients: usize, frames: usize) -> Result<Duration, CliFailure> {
    let start = Instant::now();
    let mut coming = JoinSet::new();
    for _ in 0..clients {
        coming.spawn(async move {
            let (mut socket, _) = WsClient::connect(address, "none", "client_id=bench").await?;
            match socket.until_caught_up().await? {
                got if got == frames => Ok(socket),
                got => Err(CliFailure::other(format!("the plain sockets sent {got} frames instead of {frames}"))),
            }
        });
    }
    let sockets = joined(coming).await?;
    let time = start.elapsed();
    drop(sockets);
    Ok(time)
}

/// Runs the process.
pub async fn serve(frames: usize, bytes: usize) -> Result<(), CliFailure> {
    let failed = |error: std::io::Error| CliFailure::other(format!("the plain sockets: {error}"));
    let listener = TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).await.map_err(failed)?;
    output::line(&format!("ready {}", listener.local_addr().map_err(failed)?))?;
    let _ = tokio::time::timeout(SERVER_LIMIT, accept(listener, said(frames, bytes).into())).await;
    Ok(())
}

async fn accept(listener: TcpListener, said: Arc<[u8]>) {
    let mut guests = JoinSet::new();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(guests.spawn(answer(stream, Arc::clone(&said)))),
            // For example a full file table: waiting clients are accepted a moment later.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
        while guests.try_join_next().is_some() {}
    }
}

async fn answer(mut stream: TcpStream, said: Arc<[u8]>) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let (head, _) = request(&mut stream).await?;
    stream.write_all(switching(&accept_key(&head)?).as_bytes()).await.ok()?;
    stream.write_all(&said).await.ok()?;
    // Reads until the client closes.
    while stream.read(&mut [0; 64]).await.ok()? > 0 {}
    Some(())
}

/// All bytes that a client is sent.
fn said(frames: usize, bytes: usize) -> Vec<u8> {
    let notification = format!("{{\"seq\":{:x<1$}}}", 1, bytes.saturating_sub(8));
    let texts = std::iter::once(HELLO).chain(std::iter::repeat_n(notification.as_str(), frames)).chain([CAUGHT_UP]);
    texts.flat_map(text_frame).collect()
}

/// One unmasked text frame of less than 64 KiB.
pub fn text_frame(text: &str) -> Vec<u8> {
    let mut frame = vec![0x81];
    match u16::try_from(text.len()).unwrap_or(u16::MAX) {
        length @ ..126 => frame.push(length as u8),
        length => {
            frame.push(126);
            frame.extend(length.to_be_bytes());
        }
    }
    frame.extend(text.as_bytes());
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notification_is_of_the_size_that_was_asked_for() {
        let frames = said(2, 400).len() - said(1, 400).len();
        assert_eq!(frames, 400 + 4);
        assert_eq!(text_frame("ok"), b"\x81\x02ok");
    }
}
