//! The task between the sessions and their rows: takes their commands from the database, writes down their states.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::holdings::Holdings;
use super::ledger::{Dues, Ledger, Settlement};
use super::mailbox::Mailbox;
use crate::backoff::Backoff;
use crate::domain::{CommandId, InstanceId};
use crate::store::lane::Lane;
use crate::store::upstream::commands::{self, Command, Sent};
use crate::store::upstream::{Checkpoint, Hint, Lease, leases};
use crate::store::{Database, StoreError};
use crate::tasks::Stop;

/// Between two looks for commands when nobody hints at one.
const POLL: Duration = Duration::from_secs(1);
/// Most that is written between two looks for commands, so that a bet does not wait for a thousand states.
const STEP: usize = 32;
/// Most commands taken at once.
const COMMANDS: usize = 256;
/// With less left of its lease, no command is taken for a session: it could end before the bytes have left.
const LEAST_TRUST: Duration = Duration::from_secs(1);
/// Between two looks for commands that were taken by a call that failed, so that they wait here with nobody.
const LOOK_FOR_STRAYS: Duration = Duration::from_secs(2);
/// After stopping: how long what was noted is tried to be written.
const LAST_WORDS: Duration = Duration::from_secs(3);

pub struct Scribe {
    lane: Lane,
    instance: InstanceId,
    holdings: Arc<Holdings>,
    ledger: Arc<Ledger>,
    backoff: Backoff,
    strays_due: Instant,
    /// Taken for a session that had ended by then.
    strays: Vec<(Lease, CommandId)>,
}

impl Scribe {
    pub fn new(database: Database, instance: InstanceId, holdings: Arc<Holdings>, ledger: Arc<Ledger>) -> Self {
        let backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
        let lane = Lane::new(database, "upstream scribe");
        Self { lane, instance, holdings, ledger, backoff, strays_due: Instant::now(), strays: Vec::new() }
    }

    /// Runs until stopped, then writes what is left. `hints` is bounded; what finds no room is found by the next look.
    pub async fn run(mut self, mut hints: mpsc::Receiver<Hint>, mut stop: Stop) {
        let mut poll = tokio::time::interval(POLL);
        poll.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let ledger = Arc::clone(&self.ledger);
        while !stop.is_stopped() {
            let look = tokio::select! {
                () = ledger.noted() => false,
                Some(hint) = hints.recv() => self.concerns_us(&hint),
                _ = poll.tick() => true,
                () = stop.wait() => break,
            };
            if let Err(error) = self.round(look, &mut hints).await {
                tracing::warn!(%error, "the rows of upstream sessions could not be written; it is kept and tried again");
                self.lane.discard();
                // No command is taken blindly again: first the database says which were taken by the call that failed.
                self.strays_due = Instant::now();
                tokio::select! {
                    () = tokio::time::sleep(self.backoff.failed()) => {}
                    () = stop.wait() => break,
                }
            }
        }
        let last_words = async { while !self.ledger.is_empty() && self.write(STEP).await.is_ok() {} };
        let _ = tokio::time::timeout(LAST_WORDS, last_words).await;
    }

    /// Whether there may be a command for a session of ours.
    fn concerns_us(&self, hint: &Hint) -> bool {
        match hint {
            Hint::Command { provider, user } => self.holdings.holds(provider, user),
            Hint::Everything => true,
            Hint::Want | Hint::Ask | Hint::State { .. } => false,
        }
    }

    /// Commands first, and again between two steps of writing, as soon as somebody hints at one.
    async fn round(&mut self, mut look: bool, hints: &mut mpsc::Receiver<Hint>) -> Result<(), StoreError> {
        loop {
            if look {
                self.settle_strays().await?;
                self.take_commands().await?;
            }
            if self.ledger.is_empty() {
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
        let ready: Vec<Lease> = self.holdings.leases_of(|mailbox| mailbox.wants_commands(LEAST_TRUST));
        if ready.is_empty() {
            return Ok(());
        }
        let instance = self.instance;
        for command in commands::next_commands(self.lane.get().await?, instance, &ready, COMMANDS).await? {
            self.hand_out(command);
        }
        Ok(())
    }

    /// What was taken under a term of ours and given to no session has not been sent, and never will be: only what is given
    /// is sent. It waits for nothing, so its user is told. A call that failed may be done late, so this is looked for always.
    async fn settle_strays(&mut self) -> Result<(), StoreError> {
        if Instant::now() >= self.strays_due {
            self.strays_due = Instant::now() + LOOK_FOR_STRAYS;
            if self.holdings.count() > 0 {
                let taken = commands::taken(self.lane.get().await?, self.instance).await?;
                // Of a session that is gone from here, the ledger may still know better.
                let is_stray = |(lease, id): &(Lease, CommandId)| self.holdings.get(lease).is_some_and(|mailbox| !mailbox.knows(*id));
                self.strays.extend(taken.into_iter().filter(is_stray));
            }
        }
        while let Some((lease, id)) = self.strays.last() {
            commands::settle(self.lane.get().await?, lease.term, *id, Sent::Failed, Some("not_given")).await?;
            tracing::warn!(command = %id, "a command was taken and never given to its session; it has failed");
            self.strays.pop();
        }
        Ok(())
    }

    fn hand_out(&mut self, command: Command) {
        let Some(mailbox) = self.holdings.get(&command.lease) else {
            return self.strays.push((command.lease, command.id));
        };
        if let Err(late) = mailbox.give(command) {
            self.ledger.settle(&mailbox, not_sent(&late));
        }
    }

    async fn write(&mut self, most: usize) -> Result<(), StoreError> {
        let mut failed = None;
        let mut ended = Vec::new();
        for mut dues in self.ledger.take(most) {
            if failed.is_none() {
                failed = self.write_one(&mut dues).await.err();
            }
            if failed.is_some() {
                self.ledger.put_back(dues);
            } else if dues.release {
                ended.push(dues.mailbox);
            }
        }
        if failed.is_none() && !ended.is_empty() {
            failed = self.give_back(&ended).await.err();
        }
        if failed.is_some() {
            ended.iter().for_each(|mailbox| self.ledger.release(mailbox));
        }
        failed.map_or(Ok(()), Err)
    }

    /// What is written is taken out of the dues.
    async fn write_one(&mut self, dues: &mut Dues) -> Result<(), StoreError> {
        while let Some(settlement) = dues.settled.first() {
            let connection = self.lane.get().await?;
            commands::settle(connection, dues.mailbox.lease.term, settlement.id, settlement.outcome, settlement.detail).await?;
            dues.mailbox.settled(settlement.id);
            dues.settled.remove(0);
        }
        let Some(change) = dues.change.clone() else { return Ok(()) };
        match leases::checkpoint(self.lane.get().await?, self.instance, &dues.mailbox.lease, change).await {
            Ok(()) => {}
            Err(Checkpoint::Fenced(_)) => dues.mailbox.lose(),
            Err(Checkpoint::Store(error)) => return Err(error),
        }
        dues.change = None;
        Ok(())
    }

    async fn give_back(&mut self, ended: &[Arc<Mailbox>]) -> Result<(), StoreError> {
        let leases: Vec<Lease> = ended.iter().map(|mailbox| mailbox.lease.clone()).collect();
        leases::release(self.lane.get().await?, self.instance, &leases).await?;
        leases.iter().for_each(|lease| self.holdings.remove(lease));
        Ok(())
    }
}

/// A command that was taken, and that no session is there to send.
pub fn not_sent(command: &Command) -> Settlement {
    Settlement { id: command.id, outcome: Sent::Failed, detail: Some("not_connected") }
}
