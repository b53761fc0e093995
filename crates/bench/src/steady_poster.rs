//! Posts at a modest rate from a separate process while the bench does something else.
//!
//! So the times of the posts measure the hub and not the bench's own load.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use recado::cli::error::CliFailure;
use recado::cli::output;
use recado_testkit::process::ReadyProcess;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::hub_process::{spawn, stop, this_program};
use super::joined::joined;
use super::post::Post;
use super::post_client::PostClient;
use super::times::SortedTimes;

/// Connections that post in turn, so that a slow answer does not delay the next post.
const CONNECTIONS: usize = 16;
/// Limits the process's life in case the bench is killed.
const LIFE: Duration = Duration::from_secs(600);
/// Longest wait for the result: posts in flight are waited for.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);
const SIZE: usize = 300;

/// Handle of the process in the bench.
pub struct SteadyPoster(ReadyProcess);

/// A running series of posts; it posts until it is stopped.
pub struct Posting(BufReader<TcpStream>);

/// The result on the wire, in microseconds.
#[derive(Debug, Default, Serialize, Deserialize)]
struct SteadyLatencies {
    answers: Vec<u64>,
    late: Vec<u64>,
    failed: usize,
}

/// The result.
pub struct SteadyReport {
    pub answers: SortedTimes,
    /// How late the posts were started. The bench causes this, not the hub.
    pub late: SortedTimes,
    /// Posts that were not answered with 201.
    pub failed: usize,
}

impl SteadyPoster {
    pub async fn start(hub: SocketAddr, rate: u32) -> Result<Self, CliFailure> {
        let mut command = this_program()?;
        command.args(["steady-poster", "--hub", &hub.to_string(), "--rate", &rate.to_string()]);
        Ok(Self(spawn(command).await?))
    }

    /// Begins to post to a user with this token. A command line would show the token to every local user.
    pub async fn post(&self, token: &str, user: &str) -> Result<Posting, CliFailure> {
        let mut control = TcpStream::connect(self.0.address).await.map_err(failed)?;
        control.write_all(format!("{token} {user}\n").as_bytes()).await.map_err(failed)?;
        let mut control = BufReader::new(control);
        // The process writes a line when its connections are open.
        control.read_line(&mut String::new()).await.map_err(failed)?;
        Ok(Posting(control))
    }

    pub async fn stop(self) -> Result<(), CliFailure> {
        stop(self.0).await
    }
}

impl Posting {
    pub async fn stop(mut self) -> Result<SteadyReport, CliFailure> {
        self.0.write_all(b"\n").await.map_err(failed)?;
        let mut text = String::new();
        let read = timeout(ANSWER_LIMIT, self.0.read_line(&mut text)).await;
        read.map_err(|_| CliFailure::other("the posting process did not report its result in time"))?.map_err(failed)?;
        let found: SteadyLatencies =
            serde_json::from_str(&text).map_err(|error| CliFailure::other(format!("the posting process: {error}")))?;
        let times = |micros: Vec<u64>| SortedTimes::new(micros.into_iter().map(Duration::from_micros).collect());
        Ok(SteadyReport { answers: times(found.answers), late: times(found.late), failed: found.failed })
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn failed(error: std::io::Error) -> CliFailure {
    CliFailure::other(format!("the posting process: {error}"))
}

/// Runs the process. Each connection to it is one series of posts.
pub async fn serve(hub: SocketAddr, rate: u32) -> Result<(), CliFailure> {
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

async fn one_time(mut control: BufReader<TcpStream>, hub: SocketAddr, rate: u32) -> Result<(), CliFailure> {
    let mut line = String::new();
    control.read_line(&mut line).await.map_err(failed)?;
    let (token, user) = line.trim().split_once(' ').ok_or_else(|| CliFailure::other("no token was given"))?;
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        clients.push(PostClient::connect(hub, token).await?);
    }
    control.write_all(b"posting\n").await.map_err(failed)?;
    let stopped = Arc::new(AtomicBool::new(false));
    let mut posting = JoinSet::new();
    let (begin, between) = (Instant::now(), Duration::from_secs(1) / rate);
    for (first, client) in clients.into_iter().enumerate() {
        let turn = SteadyConnection { client, hub, token: token.to_owned(), audience: format!("\"user_id\":\"{user}\""), begin, between };
        posting.spawn(turn.post(first, Arc::clone(&stopped)));
    }
    // Returns at a byte from the bench, or at its end.
    let _ = control.read_u8().await;
    stopped.store(true, Ordering::Relaxed);
    let mut found = SteadyLatencies::default();
    for part in joined(posting).await? {
        found.answers.extend(part.answers);
        found.late.extend(part.late);
        found.failed += part.failed;
    }
    let text = serde_json::to_string(&found).map_err(|error| CliFailure::other(error.to_string()))? + "\n";
    control.write_all(text.as_bytes()).await.map_err(failed)
}

/// One of the posting connections.
struct SteadyConnection {
    client: PostClient,
    hub: SocketAddr,
    token: String,
    audience: String,
    begin: Instant,
    between: Duration,
}

impl SteadyConnection {
    async fn post(mut self, first: usize, stopped: Arc<AtomicBool>) -> Result<SteadyLatencies, CliFailure> {
        let mut found = SteadyLatencies::default();
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
