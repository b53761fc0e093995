//! Keeps users' provider sessions wanted, and sends status changes and command results to their connections.
//!
//! One task per instance, started only if providers are configured. Hints make it fast and are not required: each
//! second it reads the states that changed and the commands that connections follow, and every few seconds all
//! connected users.

use std::collections::HashSet;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::command_intake::CommandIntake;
use crate::backoff::Backoff;
use crate::delivery::registry::{Connection, Registry};
use crate::domain::UserId;
use crate::store::dedicated_connection::DedicatedConnection;
use crate::store::providers::commands::ArrivedDevice;
use crate::store::providers::{ProviderHint, SessionView, chores, commands, sessions};
use crate::store::{Database, StoreError};
use crate::tasks::Stop;

/// Interval between two reads of changed states.
const POLL: Duration = Duration::from_secs(1);
/// Interval between two passes over all connected users. A pass renews their wish for sessions, reads their states and
/// does the chores. It is below a fifth of any useful `linger`, because a row is renewed once a fifth of its `linger`
/// has passed.
const ROUND: Duration = Duration::from_secs(5);
/// Most users or commands of one statement.
const ROWS: usize = 1000;
/// Most changes of one read; if there are more, the pass over all users finds the rest.
const CHANGES: i64 = 5000;

/// The background task.
pub struct ProviderStatus {
    dedicated: DedicatedConnection,
    registry: Arc<Registry>,
    command_intake: Arc<CommandIntake>,
    /// The version up to which changed states were read; `None` before the first read.
    seen: Option<i64>,
    /// Connected users whose wish for a session is not stored yet.
    newcomers: Vec<Weak<Connection>>,
    /// Users whose provider sessions were named by hints.
    named: HashSet<UserId>,
    polled: Instant,
    round_due: Instant,
    backoff: Backoff,
}

impl ProviderStatus {
    pub fn new(database: Database, registry: Arc<Registry>, command_intake: Arc<CommandIntake>) -> Self {
        let now = Instant::now();
        Self {
            dedicated: DedicatedConnection::new(database, "provider status"),
            registry,
            command_intake,
            seen: None,
            newcomers: Vec::new(),
            named: HashSet::new(),
            polled: now,
            round_due: now,
            backoff: Backoff::new(Duration::from_millis(100), Duration::from_secs(3)),
        }
    }

    /// Runs until stopped. `hints` is a bounded channel; the next pass finds what a dropped hint would have named.
    pub async fn run(mut self, mut hints: mpsc::Receiver<ProviderHint>, mut stop: Stop) {
        let command_intake = Arc::clone(&self.command_intake);
        loop {
            let mut pause = Duration::ZERO;
            match self.look().await {
                Ok(()) => self.backoff.succeeded(),
                Err(error) => {
                    tracing::warn!(%error, "could not read provider sessions; retrying");
                    self.dedicated.discard();
                    // The failed read may have been partial, so everything is read again.
                    self.round_due = Instant::now();
                    pause = self.backoff.failed();
                }
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stop.wait() => return,
            }
            tokio::select! {
                Some(hint) = hints.recv() => self.note(hint),
                () = command_intake.wake.notified() => {}
                () = command_intake.arrivals.wait() => {}
                () = tokio::time::sleep_until((self.polled + POLL).min(self.round_due)) => {}
                () = stop.wait() => return,
            }
            while let Ok(hint) = hints.try_recv() {
                self.note(hint);
            }
        }
    }

    fn note(&mut self, hint: ProviderHint) {
        match hint {
            ProviderHint::State { user, .. } => drop(self.named.insert(user)),
            // The hint does not name the command; the followed commands are few.
            ProviderHint::Command { .. } => self.polled = Instant::now().checked_sub(POLL).unwrap_or(self.polled),
            ProviderHint::Everything => self.round_due = Instant::now(),
            ProviderHint::Want | ProviderHint::Ask => {}
        }
    }

    async fn look(&mut self) -> Result<(), StoreError> {
        self.newcomers.extend(self.command_intake.arrivals.take());
        self.handle_newcomers().await?;
        let named: Vec<UserId> = self.named.iter().filter(|user| self.registry.has(user)).cloned().collect();
        self.show(&named).await?;
        self.named.clear();
        if Instant::now() >= self.polled + POLL {
            self.poll().await?;
            self.polled = Instant::now();
        }
        if Instant::now() >= self.round_due {
            self.round().await?;
            self.round_due = Instant::now() + ROUND;
        }
        Ok(())
    }

    /// Stores that newly connected users want their sessions, including sessions that had ended. Sends them the status
    /// of their sessions, and the outcomes of commands that they sent over earlier connections.
    async fn handle_newcomers(&mut self) -> Result<(), StoreError> {
        let connections: Vec<Arc<Connection>> = self.newcomers.iter().filter_map(Weak::upgrade).collect();
        let users: Vec<UserId> =
            connections.iter().map(|connection| connection.who.user.clone()).collect::<HashSet<_>>().into_iter().collect();
        self.want(&users, true).await?;
        self.show(&users).await?;
        for chunk in connections.chunks(ROWS) {
            let device = |m: &Arc<Connection>| ArrivedDevice { user: m.who.user.clone(), client: m.client.clone(), session: m.session };
            let devices: Vec<ArrivedDevice> = chunk.iter().map(device).collect();
            for (at, outcome) in commands::recent_of_devices(self.dedicated.get().await?, &devices).await? {
                let Some(connection) = chunk.get(at) else { continue };
                self.command_intake.follow(outcome.id, connection);
                if outcome.state.is_settled() {
                    self.command_intake.settle(&outcome);
                }
            }
        }
        self.newcomers.clear();
        Ok(())
    }

    async fn want(&mut self, users: &[UserId], fresh: bool) -> Result<(), StoreError> {
        for provider in &self.command_intake.rules.providers {
            for chunk in users.chunks(ROWS) {
                let name = std::slice::from_ref(&provider.name);
                sessions::want(self.dedicated.get().await?, name, chunk, provider.linger, fresh).await?;
            }
        }
        Ok(())
    }

    /// Sends these users the status of their sessions.
    async fn show(&mut self, users: &[UserId]) -> Result<(), StoreError> {
        for chunk in users.chunks(ROWS) {
            let views = sessions::of_users(self.dedicated.get().await?, chunk).await?;
            self.queue_views(&views);
        }
        Ok(())
    }

    fn queue_views(&self, views: &[SessionView]) {
        let several = self.command_intake.rules.providers.len() > 1;
        let is_ours = |view: &&SessionView| self.command_intake.rules.providers.iter().any(|provider| provider.name == view.provider);
        for view in views.iter().filter(is_ours) {
            for connection in self.registry.of_user(&view.user) {
                connection.show(view, several);
            }
        }
    }

    async fn poll(&mut self) -> Result<(), StoreError> {
        match self.seen {
            None => self.seen = Some(sessions::last_version(self.dedicated.get().await?).await?),
            Some(seen) => {
                let changed = sessions::changed_since(self.dedicated.get().await?, seen, CHANGES).await?;
                self.queue_views(&changed);
                self.seen = changed.last().map(|view| view.version).or(self.seen);
            }
        }
        let open = self.command_intake.open();
        if !open.is_empty() {
            chores::reject_stale(self.dedicated.get().await?).await?;
        }
        for chunk in open.chunks(ROWS) {
            for outcome in commands::settled_among(self.dedicated.get().await?, chunk).await? {
                self.command_intake.settle(&outcome);
            }
        }
        Ok(())
    }

    async fn round(&mut self) -> Result<(), StoreError> {
        let users = self.registry.users();
        self.want(&users, false).await?;
        self.show(&users).await?;
        let ended = chores::round(self.dedicated.get().await?).await?;
        if ended != chores::EndedCommands::default() {
            tracing::info!(?ended, "ended abandoned commands and provider sessions");
            self.polled = Instant::now().checked_sub(POLL).unwrap_or(self.polled);
        }
        Ok(())
    }
}
