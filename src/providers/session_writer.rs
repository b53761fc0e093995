//! Takes the sessions' commands from the database and writes their states to it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::mailbox::Mailbox;
use super::pending_writes::{PendingWrites, SessionWrites, Settlement};
use super::session_store::SessionStore;
use crate::backoff::Backoff;
use crate::domain::{CommandId, InstanceId};
use crate::store::dedicated_connection::DedicatedConnection;
use crate::store::providers::commands::{self, MarkedSent, TakenCommand};
use crate::store::providers::{Checkpoint, Lease, ProviderHint, leases};
use crate::store::{Database, StoreError};
use crate::tasks::Stop;

/// Interval between two reads of commands if no hint arrives.
const POLL: Duration = Duration::from_secs(1);
/// Most rows that are written between two reads of commands, so that a bet does not wait for a thousand states.
const STEP: usize = 32;
/// Most commands taken at once.
const COMMANDS: usize = 256;
/// With less of its lease left, a session gets no command: the lease could end before the bytes have left.
const LEAST_TRUST: Duration = Duration::from_secs(1);
/// Interval between two searches for commands that a failed call has taken, so that no session here has them.
const LOOK_FOR_STRAYS: Duration = Duration::from_secs(2);
/// How long the remaining writes are tried after the stop.
const LAST_WORDS: Duration = Duration::from_secs(3);

pub struct SessionWriter {
    dedicated: DedicatedConnection,
    instance: InstanceId,
    session_store: Arc<SessionStore>,
    pending_writes: Arc<PendingWrites>,
    backoff: Backoff,
    strays_due: Instant,
    /// Commands taken for a session that had ended by then.
    strays: Vec<(Lease, CommandId)>,
}

impl SessionWriter {
    pub fn new(database: Database, instance: InstanceId, session_store: Arc<SessionStore>, pending_writes: Arc<PendingWrites>) -> Self {
        let backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
        let dedicated = DedicatedConnection::new(database, "session writer");
        Self { dedicated, instance, session_store, pending_writes, backoff, strays_due: Instant::now(), strays: Vec::new() }
    }

    /// Runs until stopped, then writes what is left. `hints` is a bounded channel; the next poll finds what a dropped
    /// hint would have named.
    pub async fn run(mut self, mut hints: mpsc::Receiver<ProviderHint>, mut stop: Stop) {
        let mut poll = tokio::time::interval(POLL);
        poll.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let pending_writes = Arc::clone(&self.pending_writes);
        while !stop.is_stopped() {
            let look = tokio::select! {
                () = pending_writes.noted() => false,
                Some(hint) = hints.recv() => self.concerns_us(&hint),
                _ = poll.tick() => true,
                () = stop.wait() => break,
            };
            if let Err(error) = self.round(look, &mut hints).await {
                tracing::warn!(%error, "could not write provider sessions; their changes are kept and retried");
                self.dedicated.discard();
                // No command is taken again blindly: first the database says which commands the failed call has taken.
                self.strays_due = Instant::now();
                tokio::select! {
                    () = tokio::time::sleep(self.backoff.failed()) => {}
                    () = stop.wait() => break,
                }
            }
        }
        let last_words = async { while !self.pending_writes.is_empty() && self.write(STEP).await.is_ok() {} };
        let _ = tokio::time::timeout(LAST_WORDS, last_words).await;
    }

    /// Whether the hint may announce a command for a session of this instance.
    fn concerns_us(&self, hint: &ProviderHint) -> bool {
        match hint {
            ProviderHint::Command { provider, user } => self.session_store.holds(provider, user),
            ProviderHint::Everything => true,
            ProviderHint::Want | ProviderHint::Ask | ProviderHint::State { .. } => false,
        }
    }

    /// Takes commands first, and again between two steps of writing when a hint arrives.
    async fn round(&mut self, mut look: bool, hints: &mut mpsc::Receiver<ProviderHint>) -> Result<(), StoreError> {
        loop {
            if look {
                self.settle_strays().await?;
                self.take_commands().await?;
            }
            if self.pending_writes.is_empty() {
                break;
            }
            self.write(STEP).await?;
            look = false;
            while let Ok(hint) = hints.try_recv() {
                look |= self.concerns_us(&hint);
            }
        }
        self.backoff.succeeded();
        Ok(())
    }

    /// Takes commands for the sessions that can send them now.
    async fn take_commands(&mut self) -> Result<(), StoreError> {
        let ready: Vec<Lease> = self.session_store.leases_of(|mailbox| mailbox.wants_commands(LEAST_TRUST));
        if ready.is_empty() {
            return Ok(());
        }
        let instance = self.instance;
        for command in commands::next_commands(self.dedicated.get().await?, instance, &ready, COMMANDS).await? {
            self.hand_out(command);
        }
        Ok(())
    }

    /// Fails the commands that were taken under a term of this instance and given to no session. Only a command that
    /// was given to a session is sent, so these never will be, and their users are told. A failed call may still
    /// complete late, so the search is repeated regularly.
    async fn settle_strays(&mut self) -> Result<(), StoreError> {
        if Instant::now() >= self.strays_due {
            self.strays_due = Instant::now() + LOOK_FOR_STRAYS;
            if self.session_store.count() > 0 {
                let taken = commands::taken(self.dedicated.get().await?, self.instance).await?;
                // If the session is gone from here, the pending writes may still have the command's outcome.
                let is_stray = |(lease, id): &(Lease, CommandId)| self.session_store.get(lease).is_some_and(|mailbox| !mailbox.knows(*id));
                self.strays.extend(taken.into_iter().filter(is_stray));
            }
        }
        while let Some((lease, id)) = self.strays.last() {
            commands::settle(self.dedicated.get().await?, lease.term, *id, MarkedSent::Failed, Some("not_given")).await?;
            tracing::warn!(command = %id, "command was taken but never given to its session; marked as failed");
            self.strays.pop();
        }
        Ok(())
    }

    fn hand_out(&mut self, command: TakenCommand) {
        let Some(mailbox) = self.session_store.get(&command.lease) else {
            return self.strays.push((command.lease, command.id));
        };
        if let Err(late) = mailbox.give(command) {
            self.pending_writes.settle(&mailbox, not_sent(&late));
        }
    }

    async fn write(&mut self, most: usize) -> Result<(), StoreError> {
        let mut failed = None;
        let mut ended = Vec::new();
        for mut dues in self.pending_writes.take(most) {
            if failed.is_none() {
                failed = self.write_one(&mut dues).await.err();
            }
            if failed.is_some() {
                self.pending_writes.put_back(dues);
            } else if dues.release {
                ended.push(dues.mailbox);
            }
        }
        if failed.is_none() && !ended.is_empty() {
            failed = self.give_back(&ended).await.err();
        }
        if failed.is_some() {
            ended.iter().for_each(|mailbox| self.pending_writes.release(mailbox));
        }
        failed.map_or(Ok(()), Err)
    }

    /// Writes the changes of one session and removes what is written from `dues`.
    async fn write_one(&mut self, dues: &mut SessionWrites) -> Result<(), StoreError> {
        while let Some(settlement) = dues.settled.first() {
            let connection = self.dedicated.get().await?;
            commands::settle(connection, dues.mailbox.lease.term, settlement.id, settlement.outcome, settlement.detail).await?;
            dues.mailbox.settled(settlement.id);
            dues.settled.remove(0);
        }
        let Some(change) = dues.change.clone() else { return Ok(()) };
        match leases::checkpoint(self.dedicated.get().await?, self.instance, &dues.mailbox.lease, change).await {
            Ok(()) => {}
            Err(Checkpoint::Fenced(_)) => dues.mailbox.lose(),
            Err(Checkpoint::Store(error)) => return Err(error),
        }
        dues.change = None;
        Ok(())
    }

    async fn give_back(&mut self, ended: &[Arc<Mailbox>]) -> Result<(), StoreError> {
        let leases: Vec<Lease> = ended.iter().map(|mailbox| mailbox.lease.clone()).collect();
        leases::release(self.dedicated.get().await?, self.instance, &leases).await?;
        leases.iter().for_each(|lease| self.session_store.remove(lease));
        Ok(())
    }
}

/// The outcome of a command that was taken when no session could send it.
pub fn not_sent(command: &TakenCommand) -> Settlement {
    Settlement { id: command.id, outcome: MarkedSent::Failed, detail: Some("not_connected") }
}
