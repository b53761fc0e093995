//! Runs `recado consume`: follows the log as a service, and acknowledges what was handled.

use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use clap::{Args, ValueEnum};
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use uuid::Uuid;

use super::consumer::{ConsumerArgs, name};
use super::error::CliFailure;
use super::hub_client::HubClient;
use super::output;
use crate::backoff::Backoff;
use crate::config::{Config, parse_duration};
use crate::domain::{ConsumerName, Role};
use crate::wire::consumer::{BATCH_MAX, LEASE_MAX};

/// How long a fetch waits in the hub for rows.
const WAIT_S: u64 = 20;
/// Time limit for an answer, in addition to the wait.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// How long a token that the command makes for itself is used. Below its lifetime.
const CLIENT_LIFE: Duration = Duration::from_secs(120);

/// Follow the log as a service: print or hand on what a consumer receives, then acknowledge.
#[derive(Debug, Args)]
#[command(
    after_help = "Of several processes with one name, one receives rows and the others wait. They take over when it ends, or when its \
lease ends because it was killed. Rows that were not acknowledged come again: handle each so that a repeat does no harm.\n\n\
With --type, --user, --account or --start, the consumer is created if there is none. One that exists must have these conditions."
)]
pub struct ConsumeCommand {
    /// The name of the consumer
    #[arg(long, value_parser = name)]
    name: ConsumerName,
    #[command(flatten)]
    definition: ConsumerArgs,
    /// Run this shell command for each batch, with the rows as lines on its stdin; exit code 0 acknowledges the batch.
    /// Without it the lines are printed
    #[arg(long, value_name = "COMMAND")]
    exec: Option<String>,
    /// Most rows of a batch
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(i32).range(1..=i64::from(BATCH_MAX)))]
    batch: i32,
    /// How long others wait after this process was killed; it is renewed while this process runs
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = lease)]
    lease: Duration,
    /// What to do if retention dropped rows that were not acknowledged, or the database was restored
    #[arg(long, value_enum, default_value_t = OnGap::Stop)]
    on_gap: OnGap,
    /// End when everything up to the end of the log is acknowledged
    #[arg(long)]
    until_caught_up: bool,
}

/// What follows a gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum OnGap {
    /// End with an error
    Stop,
    /// Go on with the first row that is kept
    Earliest,
}

fn lease(text: &str) -> Result<Duration, String> {
    let most = Duration::from_secs(u64::from(LEASE_MAX.unsigned_abs()));
    let time = parse_duration(text).filter(|time| (Duration::from_secs(1)..=most).contains(time));
    time.ok_or_else(|| "must be a time from 1s to 1h, such as 30s".to_owned())
}

/// The answer to a fetch. Records stay as the hub wrote them.
#[derive(Debug, Deserialize)]
struct FetchedBatch {
    term: Option<i64>,
    records: Vec<Box<RawValue>>,
    through: Option<i64>,
    head: i64,
}

/// Why a request has no useful answer.
enum Trouble {
    /// It may succeed later.
    Passing(String),
    /// Another owner has the lease.
    LeaseLost,
    /// Rows are missing before the next one.
    Gap(String),
    Final(CliFailure),
}

/// How a batch was handled.
enum Handled {
    Yes,
    /// It comes again.
    No,
    /// Another owner has the lease, and receives it.
    LeaseLost,
}

/// The signals that ask the command to end.
struct EndSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl EndSignals {
    fn new() -> Result<Self, CliFailure> {
        let receive = |kind| signal(kind).map_err(|error| CliFailure::other(format!("could not install signal handlers: {error}")));
        Ok(Self { terminate: receive(SignalKind::terminate())?, interrupt: receive(SignalKind::interrupt())? })
    }

    /// Safe to drop.
    async fn wait(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// A process that consumes.
struct Consumption<'a> {
    command: &'a ConsumeCommand,
    config: &'a Config,
    client: HubClient,
    client_made: Instant,
    /// Names this process, whatever else runs.
    owner: String,
}

impl ConsumeCommand {
    pub async fn run(&self, config: &Config) -> Result<(), CliFailure> {
        let mut end = EndSignals::new()?;
        let client = HubClient::new(config, Some(Role::Admin))?;
        let owner = Uuid::new_v4().to_string();
        let mut consumption = Consumption { command: self, config, client, client_made: Instant::now(), owner };
        let outcome = consumption.work(&mut end).await;
        consumption.release().await;
        outcome
    }
}

impl Consumption<'_> {
    /// Runs until a signal, the end of the log with `--until-caught-up`, or a failure that would not pass.
    async fn work(&mut self, end: &mut EndSignals) -> Result<(), CliFailure> {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30).min(self.command.lease / 2));
        let mut is_created = !self.command.definition.is_given();
        loop {
            let step = async {
                if !is_created {
                    self.create().await?;
                    is_created = true;
                }
                self.fetch().await
            };
            let fetched = tokio::select! {
                fetched = step => fetched,
                () = end.wait() => return Ok(()),
            };
            let outcome = match fetched {
                Ok(FetchedBatch { term: Some(term), records, through: Some(through), head }) => {
                    if records.is_empty() && self.command.until_caught_up && through >= head {
                        return Ok(());
                    }
                    self.take(term, &records, through).await
                }
                // Another process has the lease. The hub has waited already, unless it was asked not to.
                Ok(_) if self.command.until_caught_up => Err(Trouble::Passing("another process has the lease".to_owned())),
                Ok(_) => Ok(Handled::Yes),
                Err(trouble) => Err(trouble),
            };
            let wait = match outcome {
                Ok(Handled::Yes) => {
                    backoff.succeeded();
                    continue;
                }
                Ok(Handled::No) => backoff.failed(),
                Ok(Handled::LeaseLost) | Err(Trouble::LeaseLost) => {
                    eprintln!("another process has taken the lease; its rows come again there");
                    continue;
                }
                Err(Trouble::Gap(detail)) => {
                    self.pass_gap(detail).await?;
                    continue;
                }
                Err(Trouble::Passing(detail)) => {
                    eprintln!("{detail}; trying again");
                    backoff.failed()
                }
                Err(Trouble::Final(failure)) => return Err(failure),
            };
            tokio::select! {
                () = sleep(wait) => {}
                () = end.wait() => return Ok(()),
            }
        }
    }

    async fn create(&mut self) -> Result<(), Trouble> {
        let definition = &self.command.definition;
        let filter = definition.filter().map_err(Trouble::Final)?;
        let start = definition.start().to_string();
        let body = json!({ "types": filter.types, "user_id": filter.user, "account_id": filter.account, "start": start });
        self.ask(Method::PUT, "", &body, ANSWER_LIMIT).await.map(drop)
    }

    async fn fetch(&mut self) -> Result<FetchedBatch, Trouble> {
        let wait = if self.command.until_caught_up { 0 } else { WAIT_S };
        let body = json!({ "owner": self.owner, "limit": self.command.batch, "wait": wait, "lease": self.command.lease.as_secs() });
        let text = self.ask(Method::POST, "/fetch", &body, ANSWER_LIMIT + Duration::from_secs(wait)).await?;
        serde_json::from_str(&text).map_err(|error| Trouble::Final(CliFailure::other(format!("unexpected answer of the hub: {error}"))))
    }

    /// Handles a batch, then acknowledges it.
    async fn take(&mut self, term: i64, records: &[Box<RawValue>], through: i64) -> Result<Handled, Trouble> {
        if records.is_empty() {
            return Ok(Handled::Yes);
        }
        let lines: Vec<String> = records.iter().map(|record| output::one_line(record.get())).collect();
        let lines = lines.join("\n");
        match self.command.exec.as_deref() {
            None => output::line(&lines).map_err(Trouble::Final)?,
            Some(command) => match self.run(command, term, lines + "\n").await? {
                Handled::Yes => {}
                other => return Ok(other),
            },
        }
        let body = json!({ "term": term, "seq": through });
        let mut backoff = Backoff::new(Duration::from_millis(100), self.command.lease / 4);
        let until = Instant::now() + self.command.lease;
        loop {
            match self.ask(Method::POST, "/ack", &body, ANSWER_LIMIT).await {
                // Nothing is lost without the acknowledgement, and the next fetch repeats the batch.
                Err(Trouble::Passing(detail)) if Instant::now() < until => {
                    eprintln!("{detail}; acknowledging again");
                    sleep(backoff.failed()).await;
                }
                outcome => return outcome.map(|_| Handled::Yes),
            }
        }
    }

    /// Runs the command with the lines, and renews the lease meanwhile.
    async fn run(&mut self, command: &str, term: i64, lines: String) -> Result<Handled, Trouble> {
        let mut child = spawn(command, &self.command.name).map_err(Trouble::Final)?;
        let mut renewals = interval((self.command.lease / 3).max(Duration::from_millis(300)));
        renewals.set_missed_tick_behavior(MissedTickBehavior::Delay);
        renewals.tick().await;
        let ended = {
            let mut ended = std::pin::pin!(feed(&mut child, lines));
            loop {
                tokio::select! {
                    ended = &mut ended => break Some(ended),
                    _ = renewals.tick() => {
                        if matches!(self.ask(Method::POST, "/renew", &json!({ "term": term }), ANSWER_LIMIT).await, Err(Trouble::LeaseLost)) {
                            break None;
                        }
                    }
                }
            }
        };
        match ended {
            Some(Ok(status)) if status.success() => Ok(Handled::Yes),
            Some(Ok(status)) => {
                eprintln!("the command ended with {status}; its rows come again");
                Ok(Handled::No)
            }
            Some(Err(error)) => Err(Trouble::Final(CliFailure::other(format!("the command could not be waited for: {error}")))),
            None => {
                // Its rows are handled elsewhere now.
                let _ = child.kill().await;
                Ok(Handled::LeaseLost)
            }
        }
    }

    async fn pass_gap(&mut self, detail: String) -> Result<(), CliFailure> {
        if self.command.on_gap == OnGap::Stop {
            return Err(CliFailure::other(detail));
        }
        eprintln!("{detail}; going on with the first row that is kept");
        match self.ask(Method::POST, "/seek", &json!({ "start": "earliest" }), ANSWER_LIMIT).await {
            Ok(_) | Err(Trouble::LeaseLost) => Ok(()),
            Err(Trouble::Passing(detail)) => {
                eprintln!("{detail}; trying again");
                sleep(Duration::from_secs(1)).await;
                Ok(())
            }
            Err(Trouble::Gap(detail)) => Err(CliFailure::other(detail)),
            Err(Trouble::Final(failure)) => Err(failure),
        }
    }

    /// Lets another process take over at once. Without an answer it does so when the lease ends.
    async fn release(&mut self) {
        let _ = self.ask(Method::POST, "/release", &json!({ "owner": self.owner }), ANSWER_LIMIT).await;
    }

    /// Sends a request about the consumer. Returns the body of a success.
    async fn ask(&mut self, method: Method, path: &str, body: &Value, limit: Duration) -> Result<String, Trouble> {
        if self.client_made.elapsed() > CLIENT_LIFE {
            self.client = HubClient::new(self.config, Some(Role::Admin)).map_err(Trouble::Final)?;
            self.client_made = Instant::now();
        }
        let path = format!("/api/internal/consumers/{}{path}", self.command.name);
        let (status, text) = match self.client.send_once(method, &path, body, limit).await {
            Ok(answer) => answer,
            Err(failure) => return Err(Trouble::Passing(failure.message)),
        };
        if status.is_success() { Ok(text) } else { Err(trouble(status, &text)) }
    }
}

fn trouble(status: StatusCode, text: &str) -> Trouble {
    let problem: Value = serde_json::from_str(text).unwrap_or_default();
    let word = |name: &str| problem[name].as_str().unwrap_or_default().to_owned();
    let message = format!("{} {}: {}", status.as_u16(), word("code"), word("detail"));
    match (status.as_u16(), word("code").as_str()) {
        (409, "stale_term") => Trouble::LeaseLost,
        (409, "reset") | (410, _) => Trouble::Gap(message),
        (401 | 403, _) => Trouble::Final(CliFailure::refused(message)),
        (429 | 500.., _) => Trouble::Passing(message),
        _ => Trouble::Final(CliFailure::other(message)),
    }
}

fn spawn(command: &str, name: &ConsumerName) -> Result<Child, CliFailure> {
    let mut shell = Command::new("sh");
    shell.args(["-c", command]).env("RECADO_CONSUMER", name.as_str()).stdin(Stdio::piped()).kill_on_drop(true);
    shell.spawn().map_err(|error| CliFailure::other(format!("sh could not be started: {error}")))
}

/// Writes the lines to a command and waits for its end. A command need not read all of them.
async fn feed(child: &mut Child, lines: String) -> std::io::Result<ExitStatus> {
    let stdin = child.stdin.take();
    let writing = async {
        if let Some(mut stdin) = stdin {
            let _ = stdin.write_all(lines.as_bytes()).await;
        }
    };
    let ((), status) = tokio::join!(writing, child.wait());
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_between_a_second_and_an_hour() {
        assert_eq!(lease("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(lease("1h"), Ok(Duration::from_secs(3600)));
        for bad in ["500ms", "0", "2h", "soon"] {
            assert!(lease(bad).is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn a_command_gets_its_lines_and_need_not_read_them() {
        let name = ConsumerName::parse("billing").unwrap();
        let many = "line\n".repeat(100_000);
        for (command, code) in [("test \"$RECADO_CONSUMER\" = billing", 0), ("test $(wc -l) = 100000", 0), ("exit 3", 3)] {
            let mut child = spawn(command, &name).unwrap();
            assert_eq!(feed(&mut child, many.clone()).await.unwrap().code(), Some(code), "{command}");
        }
    }
}
