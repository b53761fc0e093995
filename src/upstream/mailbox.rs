//! What the hub has to say to one session, and for how long the session may act.
//!
//! Written by the supervisor, the scribe and the recorder, read by the session alone. It holds facts, not a queue: what
//! was said twice stands once. Only commands are a queue, and they are bounded: none is taken from the database for a
//! session that has some waiting here.

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};

use super::clock::{Moment, Trust};
use crate::domain::CommandId;
use crate::metrics::{Gauge, UPSTREAM_SESSIONS};
use crate::store::upstream::{Asked, Command, Lease, UpstreamState};

/// Messages of one session that are on their way into the log. Full: its socket is not read.
pub const MESSAGES_UNDER_WAY: usize = 64;

/// One thing to do for a session, the most urgent first.
#[derive(Debug)]
pub enum Letter {
    LeaseLost,
    Stop,
    Unwanted,
    Asked(Asked),
    Command(Command),
}

/// The mailbox of one session under one term.
#[derive(Debug)]
pub struct Mailbox {
    pub lease: Lease,
    pub trust: Trust,
    /// For [`MESSAGES_UNDER_WAY`].
    pub room: Arc<Semaphore>,
    letters: Mutex<Letters>,
    posted: Notify,
    /// Takes commands.
    live: AtomicBool,
    last_message: Last,
    last_ping: Last,
    shown: Shown,
}

#[derive(Debug, Default)]
struct Letters {
    lost: bool,
    stop: bool,
    unwanted: bool,
    asked: Option<Asked>,
    commands: VecDeque<Command>,
    /// Taken from the database for it, and not settled there.
    under_way: HashSet<CommandId>,
    /// Nobody reads any more.
    closed: bool,
}

impl Mailbox {
    pub fn new(lease: Lease, trusted_until: Moment) -> Self {
        Self {
            lease,
            trust: Trust::until(trusted_until),
            room: Arc::new(Semaphore::new(MESSAGES_UNDER_WAY)),
            letters: Mutex::default(),
            posted: Notify::new(),
            live: AtomicBool::new(false),
            last_message: Last::default(),
            last_ping: Last::default(),
            shown: Shown::default(),
        }
    }

    /// The term has passed, or may have: not one byte more under it.
    pub fn lose(&self) {
        #[cfg(feature = "mutants")]
        if crate::mutants::is("no-fence") {
            return;
        }
        self.trust.end();
        self.post(|letters| letters.lost = true);
    }

    pub fn stop(&self) {
        self.post(|letters| letters.stop = true);
    }

    pub fn unwanted(&self) {
        self.post(|letters| letters.unwanted = true);
    }

    pub fn ask(&self, asked: Asked) {
        self.post(|letters| letters.asked = Some(asked));
    }

    /// # Errors
    /// Gives it back when the session has ended.
    pub fn give(&self, command: Command) -> Result<(), Command> {
        {
            let mut letters = self.letters();
            letters.under_way.insert(command.id);
            if letters.closed {
                return Err(command);
            }
            letters.commands.push_back(command);
        }
        self.posted.notify_one();
        Ok(())
    }

    /// The command's outcome stands in the database.
    pub fn settled(&self, id: CommandId) {
        self.letters().under_way.remove(&id);
    }

    /// Whether the command was given to this session, and its outcome is not in the database yet. One that was taken and is
    /// not known here was never sent.
    pub fn knows(&self, id: CommandId) -> bool {
        self.letters().under_way.contains(&id)
    }

    /// Whether a command may be taken from the database for it.
    pub fn wants_commands(&self, least_trust: Duration) -> bool {
        self.live.load(Ordering::Acquire) && self.trust.remaining() > least_trust && self.letters().commands.is_empty()
    }

    pub fn take(&self) -> Option<Letter> {
        let mut letters = self.letters();
        if std::mem::take(&mut letters.lost) {
            return Some(Letter::LeaseLost);
        }
        if std::mem::take(&mut letters.stop) {
            return Some(Letter::Stop);
        }
        if std::mem::take(&mut letters.unwanted) {
            return Some(Letter::Unwanted);
        }
        letters.asked.take().map(Letter::Asked).or_else(|| letters.commands.pop_front().map(Letter::Command))
    }

    /// The session has ended; what it did not read of the commands comes back.
    pub fn close(&self) -> Vec<Command> {
        self.set_live(false);
        let mut letters = self.letters();
        letters.closed = true;
        letters.commands.drain(..).collect()
    }

    /// Returns once something was posted since the last call. Safe to drop and call again.
    pub async fn posted(&self) {
        self.posted.notified().await;
    }

    /// Counts it as a session in this state, until the next one or its end.
    pub fn show(&self, state: UpstreamState) {
        self.shown.go(UPSTREAM_SESSIONS.of(state.as_str()));
    }

    pub fn set_live(&self, live: bool) {
        self.live.store(live, Ordering::Release);
    }

    pub fn is_live(&self) -> bool {
        self.live.load(Ordering::Acquire)
    }

    pub fn heard_a_message(&self) {
        self.last_message.now();
    }

    pub fn sent_a_ping(&self) {
        self.last_ping.now();
    }

    /// How long ago the last message came and the last keep-alive left.
    pub fn ages(&self) -> (Option<Duration>, Option<Duration>) {
        (self.last_message.age(), self.last_ping.age())
    }

    fn post(&self, write: impl FnOnce(&mut Letters)) {
        write(&mut self.letters());
        self.posted.notify_one();
    }

    fn letters(&self) -> MutexGuard<'_, Letters> {
        self.letters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where it is counted. What has ended is counted nowhere.
#[derive(Debug, Default)]
struct Shown(Mutex<Option<&'static Gauge>>);

impl Shown {
    fn go(&self, to: Option<&'static Gauge>) {
        let mut at = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(old) = std::mem::replace(&mut *at, to) {
            old.add(-1);
        }
        if let Some(new) = to {
            new.add(1);
        }
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.go(None);
    }
}

/// When something happened last; zero: never.
#[derive(Debug, Default)]
struct Last(AtomicU64);

impl Last {
    fn now(&self) {
        self.0.store(Moment::now().nanos(), Ordering::Relaxed);
    }

    fn age(&self) -> Option<Duration> {
        let at = self.0.load(Ordering::Relaxed);
        (at > 0).then(|| Duration::from_nanos(Moment::now().nanos().saturating_sub(at)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{ProviderName, Term, UserId};

    fn mailbox() -> Mailbox {
        let (provider, user) = (ProviderName::parse("p").unwrap(), UserId::parse("u").unwrap());
        let lease = Lease { provider, user, term: Term::from_db(1) };
        Mailbox::new(lease, Moment::now().plus(Duration::from_secs(60)))
    }

    fn command(mailbox: &Mailbox) -> Command {
        Command { id: CommandId::new(), lease: mailbox.lease.clone(), kind: "bet".into(), payload: None }
    }

    #[test]
    fn the_loss_of_the_lease_is_read_first_and_ends_the_trust() {
        let mailbox = mailbox();
        mailbox.give(command(&mailbox)).unwrap();
        mailbox.stop();
        mailbox.lose();
        assert!(mailbox.trust.is_over());
        assert!(matches!(mailbox.take(), Some(Letter::LeaseLost)));
        assert!(matches!(mailbox.take(), Some(Letter::Stop)));
        assert!(matches!(mailbox.take(), Some(Letter::Command(_))));
        assert!(mailbox.take().is_none());
    }

    #[test]
    fn a_renewal_that_was_on_its_way_does_not_bring_a_lost_lease_back() {
        let mailbox = mailbox();
        mailbox.lose();
        mailbox.trust.extend(Moment::now().plus(Duration::from_secs(60)));
        assert!(mailbox.trust.is_over());
    }

    #[test]
    fn commands_are_taken_only_for_a_live_session_that_has_none_waiting() {
        let mailbox = mailbox();
        assert!(!mailbox.wants_commands(Duration::from_secs(1)));
        mailbox.set_live(true);
        assert!(mailbox.wants_commands(Duration::from_secs(1)));
        assert!(!mailbox.wants_commands(Duration::from_secs(61)), "too little of the lease is left");
        mailbox.give(command(&mailbox)).unwrap();
        assert!(!mailbox.wants_commands(Duration::from_secs(1)));
        assert_eq!(mailbox.close().len(), 1);
        assert!(mailbox.give(command(&mailbox)).is_err(), "who comes too late is told");
    }
}
