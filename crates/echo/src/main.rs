//! Echoes WebSocket messages at both ends of the hub, as server and as client.
//!
//! `tools/conformance` runs the protocol's test cases against it.
//!   echo server            listens as the hub does; prints `ready ADDRESS` and serves until it is stopped
//!   echo client ADDRESS    dials as provider sessions do; fetches the cases of the test server there and runs them

mod client;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use recado::http::{EchoRules, EchoServer};
use recado::tasks::{Stopper, Tasks};
use tokio::signal::unix::{SignalKind, signal};

/// The cases send up to 16 MiB in one message. Neither clients nor providers may send as much to a hub.
const MOST_BYTES: usize = 16 << 20;
const SEND_DEADLINE: Duration = Duration::from_secs(10);
const CONNECTIONS: usize = 64;

type EchoError = Box<dyn std::error::Error + Send + Sync>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return trouble(&error),
    };
    let done = match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["server"] => runtime.block_on(server()),
        ["client", address] => runtime.block_on(client::run(address, MOST_BYTES)),
        _ => Err("usage: echo server, or echo client ADDRESS".into()),
    };
    done.map_or_else(|error| trouble(&*error), |()| ExitCode::SUCCESS)
}

fn trouble(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("echo: {error}");
    ExitCode::from(3)
}

async fn server() -> Result<(), EchoError> {
    let (stopper, stop) = Stopper::new();
    let (tasks, _failed) = Tasks::new();
    let rules = EchoRules { most: MOST_BYTES, send_deadline: SEND_DEADLINE, connections: CONNECTIONS };
    let echo = EchoServer::bind(SocketAddr::from(([127, 0, 0, 1], 0)), rules, tasks).await?;
    println!("ready {}", echo.address()?);
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        () = echo.run(stop) => {}
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    drop(stopper);
    Ok(())
}
