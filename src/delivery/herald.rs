//! Says between the users who are connected here and the rows of their upstream sessions: that they are wanted, how they
//! stand, and what became of commands. One task an instance, only where providers are configured.
//!
//! Hints make it quick and are not needed: each second it looks at the states that have changed and at the commands that
//! are followed, and every few seconds at everyone.

use std::collections::HashSet;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::desk::Desk;
use super::registry::{Member, Registry};
use crate::backoff::Backoff;
use crate::domain::UserId;
use crate::store::lane::Lane;
use crate::store::upstream::commands::Device;
use crate::store::upstream::{Hint, SessionView, chores, commands, sessions};
use crate::store::{Database, StoreError};
use crate::tasks::Stop;

/// Between two looks at what has changed.
const POLL: Duration = Duration::from_secs(1);
/// Between two rounds at everyone: they are wanted still, their states are looked at, and chores are done. Below the fifth
/// of any linger that is worth configuring, by which a row is moved.
const ROUND: Duration = Duration::from_secs(5);
/// Users and commands of one statement.
const ROWS: usize = 1000;
/// Most changes of one look; when there are more, the look at everyone finds the rest.
const CHANGES: i64 = 5000;

/// The task.
pub struct Herald {
    lane: Lane,
    registry: Arc<Registry>,
    desk: Arc<Desk>,
    /// The version up to which changed states were looked at; `None` before the first look.
    seen: Option<i64>,
    /// Came, and the database does not know it yet.
    newcomers: Vec<Weak<Member>>,
    /// Their sessions were named by hints.
    named: HashSet<UserId>,
    polled: Instant,
    round_due: Instant,
    backoff: Backoff,
}

impl Herald {
    pub fn new(database: Database, registry: Arc<Registry>, desk: Arc<Desk>) -> Self {
        let now = Instant::now();
        Self {
            lane: Lane::new(database, "herald"),
            registry,
            desk,
            seen: None,
            newcomers: Vec::new(),
            named: HashSet::new(),
            polled: now,
            round_due: now,
            backoff: Backoff::new(Duration::from_millis(100), Duration::from_secs(3)),
        }
    }

    /// Runs until stopped. `hints` is bounded; what finds no room is found by the next look.
    pub async fn run(mut self, mut hints: mpsc::Receiver<Hint>, mut stop: Stop) {
        let desk = Arc::clone(&self.desk);
        loop {
            let mut pause = Duration::ZERO;
            match self.look().await {
                Ok(()) => self.backoff.succeeded(),
                Err(error) => {
                    tracing::warn!(%error, "upstream sessions could not be looked at; it is tried again");
                    self.lane.discard();
                    // What was looked at by halves is looked at whole.
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
                () = desk.wake.notified() => {}
                () = tokio::time::sleep_until((self.polled + POLL).min(self.round_due)) => {}
                () = stop.wait() => return,
            }
            while let Ok(hint) = hints.try_recv() {
                self.note(hint);
            }
        }
    }

    fn note(&mut self, hint: Hint) {
        match hint {
            Hint::State { user, .. } => drop(self.named.insert(user)),
            // Which command it was is not said; those that are followed are few.
            Hint::Command { .. } => self.polled = Instant::now().checked_sub(POLL).unwrap_or(self.polled),
            Hint::Everything => self.round_due = Instant::now(),
            Hint::Want | Hint::Ask => {}
        }
    }

    async fn look(&mut self) -> Result<(), StoreError> {
        self.newcomers.extend(self.desk.newcomers());
        self.greet().await?;
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

    /// Newcomers want their sessions at once, also those that had ended; they are shown how these stand, and told what became of
    /// the commands that they gave over an earlier connection.
    async fn greet(&mut self) -> Result<(), StoreError> {
        let members: Vec<Arc<Member>> = self.newcomers.iter().filter_map(Weak::upgrade).collect();
        let users: Vec<UserId> = members.iter().map(|member| member.who.user.clone()).collect::<HashSet<_>>().into_iter().collect();
        self.want(&users, true).await?;
        self.show(&users).await?;
        for chunk in members.chunks(ROWS) {
            let device = |m: &Arc<Member>| Device { user: m.who.user.clone(), client: m.client.clone(), session: m.session };
            let devices: Vec<Device> = chunk.iter().map(device).collect();
            for (at, outcome) in commands::recent_of_devices(self.lane.get().await?, &devices).await? {
                let Some(member) = chunk.get(at) else { continue };
                self.desk.follow(outcome.id, member);
                if outcome.state.is_settled() {
                    self.desk.settle(&outcome);
                }
            }
        }
        self.newcomers.clear();
        Ok(())
    }

    async fn want(&mut self, users: &[UserId], fresh: bool) -> Result<(), StoreError> {
        for provider in &self.desk.rules.providers {
            for chunk in users.chunks(ROWS) {
                let name = std::slice::from_ref(&provider.name);
                sessions::want(self.lane.get().await?, name, chunk, provider.linger, fresh).await?;
            }
        }
        Ok(())
    }

    /// Shows these users how their sessions stand.
    async fn show(&mut self, users: &[UserId]) -> Result<(), StoreError> {
        for chunk in users.chunks(ROWS) {
            let views = sessions::of_users(self.lane.get().await?, chunk).await?;
            self.tell(&views);
        }
        Ok(())
    }

    fn tell(&self, views: &[SessionView]) {
        let several = self.desk.rules.providers.len() > 1;
        let is_ours = |view: &&SessionView| self.desk.rules.providers.iter().any(|provider| provider.name == view.provider);
        for view in views.iter().filter(is_ours) {
            for member in self.registry.of_user(&view.user) {
                member.outbox.notify(|notices| notices.show(view, several));
            }
        }
    }

    async fn poll(&mut self) -> Result<(), StoreError> {
        match self.seen {
            None => self.seen = Some(sessions::last_version(self.lane.get().await?).await?),
            Some(seen) => {
                let changed = sessions::changed_since(self.lane.get().await?, seen, CHANGES).await?;
                self.tell(&changed);
                self.seen = changed.last().map(|view| view.version).or(self.seen);
            }
        }
        let open = self.desk.open();
        if !open.is_empty() {
            chores::reject_stale(self.lane.get().await?).await?;
        }
        for chunk in open.chunks(ROWS) {
            for outcome in commands::settled_among(self.lane.get().await?, chunk).await? {
                self.desk.settle(&outcome);
            }
        }
        Ok(())
    }

    async fn round(&mut self) -> Result<(), StoreError> {
        let users = self.registry.users();
        self.want(&users, false).await?;
        self.show(&users).await?;
        let ended = chores::round(self.lane.get().await?).await?;
        if ended != chores::Ended::default() {
            tracing::info!(?ended, "commands and sessions that nobody would end were ended");
            self.polled = Instant::now().checked_sub(POLL).unwrap_or(self.polled);
        }
        Ok(())
    }
}
