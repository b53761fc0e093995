//! Runs `recado upstream check`: validates a provider file and can test its providers.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use futures_util::{SinkExt, StreamExt};
use serde::Serialize;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

use super::super::error::CliFailure;
use super::super::output::{self, Format};
use crate::config::{Config, parse_duration};
use crate::domain::UserId;
use crate::providers::provider::{PingForm, Provider};
use crate::providers::{self, DialError, Dialer, ProviderSocket, Secret, SignInOutcome};
use crate::startup;

/// Time limit for closing the provider's socket. The provider may not answer the close.
const GOODBYE: Duration = Duration::from_secs(2);

/// Check a provider file. Nothing is dialled without --dial.
#[derive(Debug, Args)]
pub struct CheckCommand {
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

/// One step of a test. No step shows a session id, a credential or a provider's message.
#[derive(Serialize)]
struct CheckStep {
    provider: String,
    step: &'static str,
    outcome: String,
    took_ms: u64,
}

impl CheckCommand {
    pub async fn run(&self, config: &Config, format: Format) -> Result<(), CliFailure> {
        let Some(path) = self.file.as_deref().or(config.upstream_file.as_deref()) else {
            return Err(CliFailure::other("no provider file: give its path, or set RECADO_UPSTREAM_FILE"));
        };
        let all = startup::provider_file(path)?;
        let wanted = |provider: &&std::sync::Arc<Provider>| self.provider.as_ref().is_none_or(|name| provider.name.as_str() == name);
        let chosen: Vec<_> = all.iter().filter(wanted).collect();
        if chosen.is_empty() {
            return Err(CliFailure::other("--provider must be one of the file's providers"));
        }
        let Some(user) = self.user.as_deref().filter(|_| self.dial) else {
            return output::rows(format, &chosen.iter().map(|provider| summary(provider)).collect::<Vec<_>>());
        };
        let user = UserId::parse(user).map_err(|error| CliFailure::other(format!("--user {error}")))?;
        let wait = parse_duration(&self.wait).ok_or_else(|| CliFailure::other("--wait must be a duration such as 500ms, 30s or 5m"))?;
        let dialer = Dialer::new().map_err(|error| CliFailure::other(error.to_string()))?;
        for provider in chosen {
            CheckTry { provider, user: &user, wait, format }.run(&dialer).await?;
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

/// The test of one provider.
struct CheckTry<'a> {
    provider: &'a Provider,
    user: &'a UserId,
    wait: Duration,
    format: Format,
}

impl CheckTry<'_> {
    async fn run(&self, dialer: &Dialer) -> Result<(), CliFailure> {
        let session = self.sign_in(dialer).await?;
        let mut socket = self.open(dialer, &session).await?;
        self.listen(&mut socket, &session).await?;
        // The provider's answer to the close does not matter any more.
        let _ = timeout(GOODBYE, socket.close(None)).await;
        Ok(())
    }

    fn say(&self, step: &'static str, outcome: impl Into<String>, begun: Instant) -> Result<(), CliFailure> {
        let took_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let step = CheckStep { provider: self.provider.name.to_string(), step, outcome: outcome.into(), took_ms };
        match self.format {
            Format::Table => output::line(&format!("{}: {}: {} ({took_ms} ms)", step.provider, step.step, step.outcome)),
            // Each step is a JSON value of its own, printed when it is done.
            Format::Json | Format::Ndjson => output::one(Format::Ndjson, &step),
        }
    }

    async fn sign_in(&self, dialer: &Dialer) -> Result<Secret, CliFailure> {
        let begun = Instant::now();
        match providers::sign_in(dialer, self.provider, self.user).await {
            SignInOutcome::SignedIn { session } => {
                self.say("sign-in", "accepted", begun)?;
                Ok(session)
            }
            SignInOutcome::RefusedForGood { reason } => {
                Err(CliFailure::refused(format!("{}: the provider refused the sign-in: {reason}", self.provider.name)))
            }
            SignInOutcome::TryLater { after, why } => Err(self.later("sign-in", after, &why)),
        }
    }

    async fn open(&self, dialer: &Dialer, session: &Secret) -> Result<ProviderSocket, CliFailure> {
        let begun = Instant::now();
        match dialer.socket(self.provider, self.user, session).await {
            Ok(socket) => {
                self.say("socket", "open", begun)?;
                Ok(socket)
            }
            Err(DialError::Forbidden(why)) => Err(CliFailure::settings(format!("{}: socket: {why}", self.provider.name))),
            Err(DialError::Expired) => {
                Err(CliFailure::refused(format!("{}: socket: the provider refused the session id of its own sign-in", self.provider.name)))
            }
            Err(DialError::TryLater { after, why }) => Err(self.later("socket", after, &why)),
        }
    }

    async fn listen(&self, socket: &mut ProviderSocket, session: &Secret) -> Result<(), CliFailure> {
        let begun = Instant::now();
        let text = self.provider.keepalive.fill(self.user, session, providers::now_ms());
        let ping = match self.provider.keepalive.form {
            PingForm::Text => Message::text(text),
            PingForm::Ping => Message::Ping(text.into_bytes().into()),
        };
        let heard = timeout(self.wait, async {
            socket.send(ping).await?;
            socket.next().await.transpose()
        });
        let outcome = match heard.await {
            Err(_) => return Err(CliFailure::unavailable(format!("{}: no message within {:?}", self.provider.name, self.wait))),
            Ok(Err(error)) => return Err(self.later("message", None, providers::dial::kind(&error))),
            Ok(Ok(None | Some(Message::Close(_)))) => return Err(self.later("message", None, "the provider closed the socket")),
            Ok(Ok(Some(Message::Text(text)))) if self.provider.keepalive.is_answer(&text) => "the ping is answered".to_owned(),
            Ok(Ok(Some(Message::Pong(_)))) => "the ping is answered".to_owned(),
            Ok(Ok(Some(message))) => format!("a message of {} bytes", message.len()),
        };
        self.say("message", outcome, begun)
    }

    fn later(&self, step: &str, after: Option<Duration>, why: &str) -> CliFailure {
        let after = after.map(|after| format!("; the provider asks to retry after {after:?}")).unwrap_or_default();
        CliFailure::unavailable(format!("{}: {step}: {why}{after}", self.provider.name))
    }
}
