//! Carries the hub's messages to one session, and limits how long it may act.
//!
//! The supervisor, the session writer and the message appender write to it; only the session reads it. It stores facts
//! instead of a queue, so a repeated fact is stored once. Only commands form a queue. It is bounded: no command is
//! taken from the database for a session that has some waiting here.

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};

use crate::domain::CommandId;
use crate::metrics::{Gauge, UPSTREAM_SESSIONS};
use crate::outgoing::{ClockReading, LeaseTrust};
use crate::store::providers::{AdminRequest, Lease, TakenCommand, UpstreamState};

/// Most messages of one session on their way into the log. When full, its socket is not read.
pub const MESSAGES_UNDER_WAY: usize = 64;

/// A message to a session, most urgent first.
#[derive(Debug)]
pub enum SessionMessage {
    LeaseLost,
    Stop,
    Unwanted,
    Asked(AdminRequest),
    Command(TakenCommand),
}

/// The mailbox of one session under one term.
#[derive(Debug)]
pub struct Mailbox {
    pub lease: Lease,
    /// Shared with the connections of the session.
    pub trust: Arc<LeaseTrust>,
    /// Permits for [`MESSAGES_UNDER_WAY`].
    pub room: Arc<Semaphore>,
    letters: Mutex<MailboxQueue>,
    posted: Notify,
    /// Whether the session accepts commands.
    live: AtomicBool,
    last_message: LastTime,
    last_ping: LastTime,
    shown: CountedIn,
}

#[derive(Debug, Default)]
struct MailboxQueue {
    lost: bool,
    stop: bool,
    unwanted: bool,
    asked: Option<AdminRequest>,
    commands: VecDeque<TakenCommand>,
    /// Commands taken from the database for this session and not settled there.
    under_way: HashSet<CommandId>,
    /// The session has ended and reads no more.
    closed: bool,
}

impl Mailbox {
    pub fn new(lease: Lease, trusted_until: ClockReading) -> Self {
        Self {
            lease,
            trust: Arc::new(LeaseTrust::until(trusted_until)),
            room: Arc::new(Semaphore::new(MESSAGES_UNDER_WAY)),
            letters: Mutex::default(),
            posted: Notify::new(),
            live: AtomicBool::new(false),
            last_message: LastTime::default(),
            last_ping: LastTime::default(),
            shown: CountedIn::default(),
        }
    }

    /// Ends the lease: the term has passed, or may have, so not one more byte may be sent under it.
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

    pub fn ask(&self, asked: AdminRequest) {
        self.post(|letters| letters.asked = Some(asked));
    }

    /// Passes a command to the session.
    ///
    /// # Errors
    /// Returns the command if the session has ended.
    pub fn give(&self, command: TakenCommand) -> Result<(), TakenCommand> {
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

    /// Notes that the command's outcome is stored in the database.
    pub fn settled(&self, id: CommandId) {
        self.letters().under_way.remove(&id);
    }

    /// Whether the command was given to this session and its outcome is not stored yet. A command that was taken from
    /// the database and is unknown here was never sent.
    pub fn knows(&self, id: CommandId) -> bool {
        self.letters().under_way.contains(&id)
    }

    /// Whether a command may be taken from the database for this session.
    pub fn wants_commands(&self, least_trust: Duration) -> bool {
        self.live.load(Ordering::Acquire) && self.trust.remaining() > least_trust && self.letters().commands.is_empty()
    }

    pub fn take(&self) -> Option<SessionMessage> {
        let mut letters = self.letters();
        if std::mem::take(&mut letters.lost) {
            return Some(SessionMessage::LeaseLost);
        }
        if std::mem::take(&mut letters.stop) {
            return Some(SessionMessage::Stop);
        }
        if std::mem::take(&mut letters.unwanted) {
            return Some(SessionMessage::Unwanted);
        }
        letters.asked.take().map(SessionMessage::Asked).or_else(|| letters.commands.pop_front().map(SessionMessage::Command))
    }

    /// Notes that the session has ended, and returns its unread commands.
    pub fn close(&self) -> Vec<TakenCommand> {
        self.set_live(false);
        let mut letters = self.letters();
        letters.closed = true;
        letters.commands.drain(..).collect()
    }

    /// Returns once a message was posted since the last call. Safe to drop and call again.
    pub async fn posted(&self) {
        self.posted.notified().await;
    }

    /// Counts the session in this state, until the next state or its end.
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

    /// Time since the last message arrived and since the last keep-alive was sent.
    pub fn ages(&self) -> (Option<Duration>, Option<Duration>) {
        (self.last_message.age(), self.last_ping.age())
    }

    fn post(&self, write: impl FnOnce(&mut MailboxQueue)) {
        write(&mut self.letters());
        self.posted.notify_one();
    }

    fn letters(&self) -> MutexGuard<'_, MailboxQueue> {
        self.letters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The gauge in which a session is counted; an ended session is counted in none.
#[derive(Debug, Default)]
struct CountedIn(Mutex<Option<&'static Gauge>>);

impl CountedIn {
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

impl Drop for CountedIn {
    fn drop(&mut self) {
        self.go(None);
    }
}

/// When an event last happened; zero means never.
#[derive(Debug, Default)]
struct LastTime(AtomicU64);

impl LastTime {
    fn now(&self) {
        self.0.store(ClockReading::now().nanos(), Ordering::Relaxed);
    }

    fn age(&self) -> Option<Duration> {
        let at = self.0.load(Ordering::Relaxed);
        (at > 0).then(|| Duration::from_nanos(ClockReading::now().nanos().saturating_sub(at)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{ProviderName, Term, UserId};

    fn mailbox() -> Mailbox {
        let (provider, user) = (ProviderName::parse("p").unwrap(), UserId::parse("u").unwrap());
        let lease = Lease { provider, user, term: Term::from_db(1) };
        Mailbox::new(lease, ClockReading::now().plus(Duration::from_secs(60)))
    }

    fn command(mailbox: &Mailbox) -> TakenCommand {
        TakenCommand { id: CommandId::new(), lease: mailbox.lease.clone(), kind: "bet".into(), payload: None }
    }

    #[test]
    fn the_loss_of_the_lease_is_read_first_and_ends_the_trust() {
        let mailbox = mailbox();
        mailbox.give(command(&mailbox)).unwrap();
        mailbox.stop();
        mailbox.lose();
        assert!(mailbox.trust.is_over());
        assert!(matches!(mailbox.take(), Some(SessionMessage::LeaseLost)));
        assert!(matches!(mailbox.take(), Some(SessionMessage::Stop)));
        assert!(matches!(mailbox.take(), Some(SessionMessage::Command(_))));
        assert!(mailbox.take().is_none());
    }

    #[test]
    fn a_renewal_that_was_on_its_way_does_not_bring_a_lost_lease_back() {
        let mailbox = mailbox();
        mailbox.lose();
        mailbox.trust.extend(ClockReading::now().plus(Duration::from_secs(60)));
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
