//! `recado upstream check`: is the provider file right, and does the provider answer as it says?

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use futures_util::{SinkExt, StreamExt};
use serde::Serialize;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

use super::super::error::Failure;
use super::super::output::{self, Format};
use crate::backing;
use crate::config::{Config, parse_duration};
use crate::domain::UserId;
use crate::upstream::provider::{PingForm, Provider};
use crate::upstream::{self, DialError, Dialer, Outcome, Secret, Socket};

/// For the goodbye to the provider, which may not answer it.
const GOODBYE: Duration = Duration::from_secs(2);

/// Check a provider file. Nothing is dialled without --dial.
#[derive(Debug, Args)]
pub struct Check {
    /// The file (default: RECADO_UPSTREAM_FILE)
    file: Option<PathBuf>,
    /// Sign the user in, open the socket, send one ping and wait for a message
    #[arg(long, requires = "user")]
    dial: bool,
    /// The user to sign in
    #[arg(long, requires = "dial")]
    user: Option<String>,
    /// Only this provider
    #[arg(long)]
    provider: Option<String>,
    /// How long to wait for the first message
    #[arg(long, default_value = "10s")]
    wait: String,
}

#[derive(Serialize)]
struct Summary {
    provider: String,
    sign_in: String,
    socket: String,
    messages: String,
    commands: Vec<String>,
    ping_every: String,
    tries: u32,
}

/// One step of a try. No step shows a session id, a credential or what the provider sends.
#[derive(Serialize)]
struct Step {
    provider: String,
    step: &'static str,
    outcome: String,
    took_ms: u64,
}

impl Check {
    pub async fn run(&self, config: &Config, format: Format) -> Result<(), Failure> {
        let Some(path) = self.file.as_deref().or(config.upstream_file.as_deref()) else {
            return Err(Failure::other("give the provider file, or set RECADO_UPSTREAM_FILE"));
        };
        let all = backing::provider_file(path)?;
        let wanted = |provider: &&std::sync::Arc<Provider>| self.provider.as_ref().is_none_or(|name| provider.name.as_str() == name);
        let chosen: Vec<_> = all.iter().filter(wanted).collect();
        if chosen.is_empty() {
            return Err(Failure::other("--provider names none of the file's providers"));
        }
        let Some(user) = self.user.as_deref().filter(|_| self.dial) else {
            return output::rows(format, &chosen.iter().map(|provider| summary(provider)).collect::<Vec<_>>());
        };
        let user = UserId::parse(user).map_err(|error| Failure::other(format!("--user {error}")))?;
        let wait = parse_duration(&self.wait).ok_or_else(|| Failure::other("--wait is a time such as 500ms, 30s or 5m"))?;
        let dialer = Dialer::new().map_err(|error| Failure::other(error.to_string()))?;
        for provider in chosen {
            Try { provider, user: &user, wait, format }.run(&dialer).await?;
        }
        Ok(())
    }
}

fn summary(provider: &Provider) -> Summary {
    Summary {
        provider: provider.name.to_string(),
        sign_in: provider.sign_in.url.shown().to_owned(),
        socket: provider.socket.url.shown().to_owned(),
        messages: provider.messages.kind.clone(),
        commands: provider.commands.types.clone(),
        ping_every: format!("{:?}", provider.keepalive.interval),
        tries: provider.backoff.tries,
    }
}

/// One provider, tried out.
struct Try<'a> {
    provider: &'a Provider,
    user: &'a UserId,
    wait: Duration,
    format: Format,
}

impl Try<'_> {
    async fn run(&self, dialer: &Dialer) -> Result<(), Failure> {
        let session = self.sign_in(dialer).await?;
        let mut socket = self.open(dialer, &session).await?;
        self.listen(&mut socket, &session).await?;
        // What it answers no longer matters.
        let _ = timeout(GOODBYE, socket.close(None)).await;
        Ok(())
    }

    fn say(&self, step: &'static str, outcome: impl Into<String>, begun: Instant) -> Result<(), Failure> {
        let took_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let step = Step { provider: self.provider.name.to_string(), step, outcome: outcome.into(), took_ms };
        match self.format {
            Format::Table => output::line(&format!("{}: {}: {} ({took_ms} ms)", step.provider, step.step, step.outcome)),
            // A step is a value of its own, told when it is done.
            Format::Json | Format::Ndjson => output::one(Format::Ndjson, &step),
        }
    }

    async fn sign_in(&self, dialer: &Dialer) -> Result<Secret, Failure> {
        let begun = Instant::now();
        match upstream::sign_in(dialer, self.provider, self.user).await {
            Outcome::SignedIn { session } => {
                self.say("sign-in", "accepted", begun)?;
                Ok(session)
            }
            Outcome::RefusedForGood { reason } => {
                Err(Failure::refused(format!("{}: the sign-in is refused: {reason}", self.provider.name)))
            }
            Outcome::TryLater { after, why } => Err(self.later("sign-in", after, &why)),
        }
    }

    async fn open(&self, dialer: &Dialer, session: &Secret) -> Result<Socket, Failure> {
        let begun = Instant::now();
        match dialer.socket(self.provider, self.user, session).await {
            Ok(socket) => {
                self.say("socket", "open", begun)?;
                Ok(socket)
            }
            Err(DialError::Forbidden(why)) => Err(Failure::settings(format!("{}: socket: {why}", self.provider.name))),
            Err(DialError::Expired) => {
                Err(Failure::refused(format!("{}: socket: the provider does not take the session id that it gave", self.provider.name)))
            }
            Err(DialError::TryLater { after, why }) => Err(self.later("socket", after, &why)),
        }
    }

    async fn listen(&self, socket: &mut Socket, session: &Secret) -> Result<(), Failure> {
        let begun = Instant::now();
        let text = self.provider.keepalive.fill(self.user, session, upstream::now_ms());
        let ping = match self.provider.keepalive.form {
            PingForm::Text => Message::text(text),
            PingForm::Ping => Message::Ping(text.into_bytes().into()),
        };
        let heard = timeout(self.wait, async {
            socket.send(ping).await?;
            socket.next().await.transpose()
        });
        let outcome = match heard.await {
            Err(_) => return Err(Failure::unavailable(format!("{}: nothing came within {:?}", self.provider.name, self.wait))),
            Ok(Err(error)) => return Err(self.later("message", None, upstream::dial::kind(&error))),
            Ok(Ok(None | Some(Message::Close(_)))) => return Err(self.later("message", None, "the provider closed the socket")),
            Ok(Ok(Some(Message::Text(text)))) if self.provider.keepalive.is_answer(&text) => "the ping is answered".to_owned(),
            Ok(Ok(Some(Message::Pong(_)))) => "the ping is answered".to_owned(),
            Ok(Ok(Some(message))) => format!("a message of {} bytes", message.len()),
        };
        self.say("message", outcome, begun)
    }

    fn later(&self, step: &str, after: Option<Duration>, why: &str) -> Failure {
        let after = after.map(|after| format!("; it asks for {after:?} of patience")).unwrap_or_default();
        Failure::unavailable(format!("{}: {step}: {why}{after}", self.provider.name))
    }
}
