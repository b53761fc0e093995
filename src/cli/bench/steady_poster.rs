//! A service that posts at a modest rate while the bench is busy with something else, as a process of its own: what a
//! post waits for is then the hub, not the bench.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::hub_process::{Ready, this_program};
use super::joined;
use super::post::Post;
use super::post_client::PostClient;
use super::times::Times;
use crate::cli::error::Failure;
use crate::cli::output;

/// Connections that post in turn, so that a slow answer does not hold up the next post.
const CONNECTIONS: usize = 16;
/// The process's life is bounded, should the bench be killed.
const LIFE: Duration = Duration::from_secs(600);
/// Longest wait for what it found: a post that is on its way is waited for.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);
const SIZE: usize = 300;

/// The process, as the bench sees it.
pub struct SteadyPoster(Ready);

/// It is posting, until it is told to stop.
pub struct Posting(BufReader<TcpStream>);

/// What it found, in microseconds.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Found {
    answers: Vec<u64>,
    late: Vec<u64>,
    failed: usize,
}

/// What it found.
pub struct Posted {
    pub answers: Times,
    /// How late the posts were, which is not the hub's doing.
    pub late: Times,
    /// Posts that were not answered with 201.
    pub failed: usize,
}

impl SteadyPoster {
    pub async fn start(hub: SocketAddr, rate: u32) -> Result<Self, Failure> {
        let mut command = this_program()?;
        command.args(["bench", "steady-poster", "--hub", &hub.to_string(), "--rate", &rate.to_string()]);
        Ok(Self(Ready::spawn(command).await?))
    }

    /// Begins to post to a user, as the service of this token. A command line would show the token to everyone.
    pub async fn post(&self, token: &str, user: &str) -> Result<Posting, Failure> {
        let mut control = TcpStream::connect(self.0.address).await.map_err(failed)?;
        control.write_all(format!("{token} {user}\n").as_bytes()).await.map_err(failed)?;
        let mut control = BufReader::new(control);
        // It says a line when its connections stand.
        control.read_line(&mut String::new()).await.map_err(failed)?;
        Ok(Posting(control))
    }

    pub async fn stop(self) -> Result<(), Failure> {
        self.0.stop().await
    }
}

impl Posting {
    pub async fn stop(mut self) -> Result<Posted, Failure> {
        self.0.write_all(b"\n").await.map_err(failed)?;
        let mut text = String::new();
        let read = timeout(ANSWER_LIMIT, self.0.read_line(&mut text)).await;
        read.map_err(|_| Failure::other("the posting process does not say what it found"))?.map_err(failed)?;
        let found: Found = serde_json::from_str(&text).map_err(|error| Failure::other(format!("the posting process: {error}")))?;
        let times = |micros: Vec<u64>| Times::new(micros.into_iter().map(Duration::from_micros).collect());
        Ok(Posted { answers: times(found.answers), late: times(found.late), failed: found.failed })
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn failed(error: std::io::Error) -> Failure {
    Failure::other(format!("the posting process: {error}"))
}

/// The process: each connection to it is one time of posting.
pub async fn serve(hub: SocketAddr, rate: u32) -> Result<(), Failure> {
    let listener = TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).await.map_err(failed)?;
    output::line(&format!("ready {}", listener.local_addr().map_err(failed)?))?;
    let serving = async {
        loop {
            let (control, _) = listener.accept().await.map_err(failed)?;
            one_time(BufReader::new(control), hub, rate).await?;
        }
    };
    timeout(LIFE, serving).await.unwrap_or(Ok(()))
}

async fn one_time(mut control: BufReader<TcpStream>, hub: SocketAddr, rate: u32) -> Result<(), Failure> {
    let mut line = String::new();
    control.read_line(&mut line).await.map_err(failed)?;
    let (token, user) = line.trim().split_once(' ').ok_or_else(|| Failure::other("no token was given"))?;
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        clients.push(PostClient::connect(hub, token).await?);
    }
    control.write_all(b"posting\n").await.map_err(failed)?;
    let stopped = Arc::new(AtomicBool::new(false));
    let mut posting = JoinSet::new();
    let (begin, between) = (Instant::now(), Duration::from_secs(1) / rate);
    for (first, client) in clients.into_iter().enumerate() {
        let turn = Turn { client, hub, token: token.to_owned(), audience: format!("\"user_id\":\"{user}\""), begin, between };
        posting.spawn(turn.post(first, Arc::clone(&stopped)));
    }
    // A byte, or the end of the bench.
    let _ = control.read_u8().await;
    stopped.store(true, Ordering::Relaxed);
    let mut found = Found::default();
    for part in joined(posting).await? {
        found.answers.extend(part.answers);
        found.late.extend(part.late);
        found.failed += part.failed;
    }
    let text = serde_json::to_string(&found).map_err(|error| Failure::other(error.to_string()))? + "\n";
    control.write_all(text.as_bytes()).await.map_err(failed)
}

/// One of the connections.
struct Turn {
    client: PostClient,
    hub: SocketAddr,
    token: String,
    audience: String,
    begin: Instant,
    between: Duration,
}

impl Turn {
    async fn post(mut self, first: usize, stopped: Arc<AtomicBool>) -> Result<Found, Failure> {
        let mut found = Found::default();
        for n in (first..).step_by(CONNECTIONS) {
            let due = self.begin + self.between * u32::try_from(n).unwrap_or(u32::MAX);
            tokio::time::sleep_until(due).await;
            if stopped.load(Ordering::Relaxed) {
                break;
            }
            found.late.push(micros(due));
            let body = Post { n, size: SIZE }.body(&self.audience);
            let start = Instant::now();
            let answered = self.client.post(&body, None).await;
            found.answers.push(micros(start));
            if answered.is_err() {
                found.failed += 1;
                self.client = PostClient::connect(self.hub, &self.token).await?;
            }
        }
        Ok(found)
    }
}

fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}
