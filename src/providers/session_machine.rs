//! Decides, as a pure machine, the actions of one provider session.
//!
//! Inputs are events, outputs are actions; the doc of [`super`] draws the states. The machine owns no socket, no clock
//! and no database. Each input carries the time; [`SessionMachine::deadline`] says when the machine needs
//! [`SessionInput::Tick`]. So tables and random histories can test every rule for our behaviour towards a provider.

mod vocabulary;

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

pub use self::vocabulary::{CommandResult, HeldState, ReleaseCause, SessionAction, SessionInput, SessionRules};
use crate::backoff::Backoff;

/// Most tries of one session in any minute. A try is a sign-in, a dial, or a sign-in followed by a dial.
pub const TRIES_A_MINUTE: usize = 10;
const MINUTE: Duration = Duration::from_secs(60);
/// After this many refused sign-ins in a row (401, 403, or the provider's own refusal), the session is refused.
pub const REFUSALS: u32 = 3;
/// Wait until the next single try once all tries are used up. Longer than any provider's restart, and short enough that
/// a user who leaves the page open is served again.
pub const LONG_WAIT: Duration = Duration::from_secs(300);
/// The same wait for a user who reconnects, for example by reloading the page: one try per minute, however often.
pub const EARLY_WAIT: Duration = Duration::from_secs(60);
/// If a provider asks for a longer wait than this, the session waits without holding the lease.
const LONGEST_HELD_WAIT: Duration = Duration::from_secs(60);
/// The longest wait that a provider may ask for.
const LONGEST_ASKED_WAIT: Duration = Duration::from_secs(3600);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SessionPhase {
    /// Not begun.
    Claimed,
    SigningIn,
    Connecting,
    Live {
        since: Instant,
        next_keep_alive: Instant,
        answer_by: Option<Instant>,
        active: Instant,
    },
    BackingOff {
        until: Instant,
    },
    Ended,
}

/// One session, from its claim to its end.
#[derive(Debug, Clone)]
pub struct SessionMachine {
    rules: std::sync::Arc<SessionRules>,
    phase: SessionPhase,
    /// Also counts the failures in a row; a connection that lasts resets them.
    backoff: Backoff,
    refusals: u32,
    /// Whether there is a session id to dial with.
    has_session: bool,
    /// The session id came from a sign-in of this machine.
    session_is_fresh: bool,
    /// A message has arrived over a connection that was opened with this session id.
    session_is_proved: bool,
    /// Start times of the tries in the last minute.
    tries: VecDeque<Instant>,
    /// Commands that were given to the socket writer and are not settled.
    writing: Vec<Uuid>,
}

impl SessionMachine {
    /// `failures` is the count of the last owner; `has_session` says that there is a session id to try first; `seed` is
    /// for the jitter.
    pub fn new(rules: std::sync::Arc<SessionRules>, failures: u32, has_session: bool, seed: u64) -> Self {
        let backoff = Backoff::resumed(rules.first_wait, rules.longest_wait, failures, seed);
        Self {
            rules,
            phase: SessionPhase::Claimed,
            backoff,
            refusals: 0,
            has_session,
            session_is_fresh: false,
            session_is_proved: false,
            tries: VecDeque::new(),
            writing: Vec::new(),
        }
    }

    pub fn is_live(&self) -> bool {
        matches!(self.phase, SessionPhase::Live { .. })
    }

    /// Failures in a row, stored for the next owner.
    pub fn failures(&self) -> u32 {
        self.backoff.failures()
    }

    pub fn has_ended(&self) -> bool {
        self.phase == SessionPhase::Ended
    }

    /// Starts the machine after the claim.
    pub fn begin(&mut self, now: Instant) -> Vec<SessionAction> {
        let mut todo = Vec::new();
        if self.phase == SessionPhase::Claimed {
            self.try_now(now, &mut todo);
        }
        todo
    }

    /// When to send [`SessionInput::Tick`] if no other input comes first.
    pub fn deadline(&self) -> Option<Instant> {
        match self.phase {
            SessionPhase::BackingOff { until } => Some(until),
            SessionPhase::Live { since, next_keep_alive, answer_by, active } => {
                let stable = (self.failures() > 0).then(|| since + self.rules.reset_after);
                let idle = active + self.rules.idle_timeout;
                [stable, answer_by].into_iter().flatten().chain([idle, next_keep_alive]).min()
            }
            _ => None,
        }
    }

    pub fn step(&mut self, input: SessionInput, now: Instant) -> Vec<SessionAction> {
        let mut todo = Vec::new();
        if self.phase == SessionPhase::Ended {
            return todo;
        }
        match input {
            SessionInput::LeaseLost => {
                // The next owner settles these commands, as unknown, because it cannot know their outcome either.
                self.writing.clear();
                self.end(ReleaseCause::LeaseLost, &mut todo);
            }
            SessionInput::Stop => self.end(ReleaseCause::HandedOver, &mut todo),
            SessionInput::Unwanted | SessionInput::Release => self.end(ReleaseCause::Released, &mut todo),
            SessionInput::Reconnect => {
                self.backoff.succeeded();
                self.refusals = 0;
                self.forget_session(&mut todo);
                self.close(&mut todo);
                self.try_now(now, &mut todo);
            }
            SessionInput::Command(id) => self.command(id, now, &mut todo),
            SessionInput::Written(id, outcome) => self.written(id, outcome, &mut todo),
            SessionInput::Message | SessionInput::Answer => self.received(input == SessionInput::Message, now, &mut todo),
            SessionInput::Tick => self.tick(now, &mut todo),
            input => self.progress(input, now, &mut todo),
        }
        todo
    }

    /// Handles the provider's answer to a try, or the end of a connection. An answer to a try that was aborted has no
    /// effect.
    fn progress(&mut self, input: SessionInput, now: Instant, todo: &mut Vec<SessionAction>) {
        match (self.phase, input) {
            (SessionPhase::SigningIn, SessionInput::SignedIn) => {
                (self.has_session, self.session_is_fresh, self.session_is_proved) = (true, true, false);
                self.refusals = 0;
                self.dial(todo);
            }
            (SessionPhase::SigningIn, SessionInput::SignInRefused(why)) => {
                self.refusals += 1;
                if self.refusals >= REFUSALS {
                    self.end(ReleaseCause::Refused { why }, todo);
                } else {
                    self.failed(Some(why), None, now, todo);
                }
            }
            (SessionPhase::SigningIn | SessionPhase::Connecting, SessionInput::Failed { why, after }) => {
                self.failed(Some(why), after, now, todo)
            }
            (SessionPhase::Connecting, SessionInput::Connected) => self.connected(now, todo),
            (SessionPhase::Connecting | SessionPhase::Live { .. }, SessionInput::SessionNotTaken(why)) => self.not_taken(why, now, todo),
            (SessionPhase::Live { .. }, SessionInput::Lost(why)) => self.lost(why, now, todo),
            // The provider would flood again at once, so the time that the connection lasted does not count.
            (SessionPhase::Live { .. }, SessionInput::Flooded(why)) => self.failed(Some(why), None, now, todo),
            _ => {}
        }
    }

    /// Handles a rejected session id. An expired id is not a failure: sign in at once. A rejected new id is a failure,
    /// because otherwise a provider that issues bad ids would be asked for new ones endlessly.
    fn not_taken(&mut self, why: String, now: Instant, todo: &mut Vec<SessionAction>) {
        let ran_out = !self.session_is_fresh || self.session_is_proved;
        let stood = if let SessionPhase::Live { since, .. } = self.phase { now >= since + self.rules.reset_after } else { true };
        self.forget_session(todo);
        if ran_out && stood {
            self.close(todo);
            self.try_now(now, todo);
        } else {
            self.failed(Some(why), None, now, todo);
        }
    }

    fn connected(&mut self, now: Instant, todo: &mut Vec<SessionAction>) {
        let next_keep_alive = now + self.rules.keep_alive_every;
        self.phase = SessionPhase::Live { since: now, next_keep_alive, answer_by: None, active: now };
        todo.push(SessionAction::Write { state: HeldState::Live, failures: self.failures(), why: None, next_try: None });
    }

    fn received(&mut self, is_message: bool, now: Instant, todo: &mut Vec<SessionAction>) {
        let SessionPhase::Live { answer_by, active, .. } = &mut self.phase else { return };
        // Any frame proves that the provider is alive.
        *answer_by = None;
        self.session_is_proved = true;
        if is_message {
            *active = now;
            todo.push(SessionAction::Append);
        }
    }

    fn command(&mut self, id: Uuid, now: Instant, todo: &mut Vec<SessionAction>) {
        if let SessionPhase::Live { active, .. } = &mut self.phase {
            *active = now;
            self.writing.push(id);
            todo.push(SessionAction::Send(id));
        } else {
            todo.push(SessionAction::Settle(id, CommandResult::Rejected));
        }
    }

    fn written(&mut self, id: Uuid, outcome: CommandResult, todo: &mut Vec<SessionAction>) {
        if let Some(at) = self.writing.iter().position(|writing| *writing == id) {
            self.writing.swap_remove(at);
            todo.push(SessionAction::Settle(id, outcome));
        }
    }

    fn tick(&mut self, now: Instant, todo: &mut Vec<SessionAction>) {
        match self.phase {
            SessionPhase::BackingOff { until } if now >= until => self.try_now(now, todo),
            SessionPhase::Live { answer_by: Some(by), .. } if now >= by => self.lost("no answer to the keep-alive".to_owned(), now, todo),
            SessionPhase::Live { active, .. } if now >= active + self.rules.idle_timeout => self.end(ReleaseCause::Idle, todo),
            SessionPhase::Live { since, .. } => {
                if self.failures() > 0 && now >= since + self.rules.reset_after {
                    self.backoff.succeeded();
                    todo.push(SessionAction::Write { state: HeldState::Live, failures: 0, why: None, next_try: None });
                }
                self.keep_alive(now, todo);
            }
            _ => {}
        }
    }

    fn keep_alive(&mut self, now: Instant, todo: &mut Vec<SessionAction>) {
        let SessionPhase::Live { next_keep_alive: next, answer_by, .. } = &mut self.phase else { return };
        let every = self.rules.keep_alive_every;
        if now < *next {
            return;
        }
        todo.push(SessionAction::KeepAlive);
        // Keeps in step with the first one. After a pause, counts from now on instead of sending one for each that was
        // missed.
        *next = if now < *next + every { *next + every } else { now + every };
        answer_by.get_or_insert(now + self.rules.answer_within);
    }

    /// Handles the loss of an open connection.
    fn lost(&mut self, why: String, now: Instant, todo: &mut Vec<SessionAction>) {
        if let SessionPhase::Live { since, .. } = self.phase
            && now >= since + self.rules.reset_after
        {
            self.backoff.succeeded();
        }
        // A session id over which nothing ever arrived may be the cause of the loss.
        if !self.session_is_proved {
            self.forget_session(todo);
        }
        // A failure that a retry repairs is shown by the status only; it becomes an error when the last try is used up.
        let reported = (self.failures() + 1 >= self.rules.tries).then_some(why);
        self.failed(reported, None, now, todo);
    }

    /// Counts a failure: waits, or gives up for a long time.
    fn failed(&mut self, why: Option<String>, asked: Option<Duration>, now: Instant, todo: &mut Vec<SessionAction>) {
        let wait = self.backoff.failed().max(asked.unwrap_or_default().min(LONGEST_ASKED_WAIT));
        if self.failures() >= self.rules.tries {
            return self.end(ReleaseCause::Waiting { after: wait.max(LONG_WAIT), early: wait.max(EARLY_WAIT), why }, todo);
        }
        if wait > LONGEST_HELD_WAIT {
            return self.end(ReleaseCause::Waiting { after: wait, early: wait, why }, todo);
        }
        self.close(todo);
        self.back_off(wait, why, now, todo);
    }

    fn back_off(&mut self, wait: Duration, why: Option<String>, now: Instant, todo: &mut Vec<SessionAction>) {
        self.phase = SessionPhase::BackingOff { until: now + wait };
        todo.push(SessionAction::Write { state: HeldState::BackingOff, failures: self.failures(), why, next_try: Some(wait) });
    }

    /// Starts a try, unless there were too many in the last minute.
    fn try_now(&mut self, now: Instant, todo: &mut Vec<SessionAction>) {
        while self.tries.front().is_some_and(|begun| *begun + MINUTE <= now) {
            self.tries.pop_front();
        }
        if self.tries.len() >= TRIES_A_MINUTE {
            let wait = self.tries.front().map_or(MINUTE, |first| *first + MINUTE - now);
            return self.back_off(wait, None, now, todo);
        }
        self.tries.push_back(now);
        if self.has_session {
            self.dial(todo);
        } else {
            self.phase = SessionPhase::SigningIn;
            todo.push(SessionAction::Write { state: HeldState::SigningIn, failures: self.failures(), why: None, next_try: None });
            todo.push(SessionAction::SignIn);
        }
    }

    fn dial(&mut self, todo: &mut Vec<SessionAction>) {
        self.phase = SessionPhase::Connecting;
        todo.push(SessionAction::Write { state: HeldState::Connecting, failures: self.failures(), why: None, next_try: None });
        todo.push(SessionAction::Dial);
    }

    fn forget_session(&mut self, todo: &mut Vec<SessionAction>) {
        if self.has_session {
            todo.push(SessionAction::ForgetSession);
        }
        (self.has_session, self.session_is_fresh, self.session_is_proved) = (false, false, false);
    }

    fn close(&mut self, todo: &mut Vec<SessionAction>) {
        if matches!(self.phase, SessionPhase::SigningIn | SessionPhase::Connecting | SessionPhase::Live { .. }) {
            todo.push(SessionAction::Close);
        }
    }

    fn end(&mut self, ending: ReleaseCause, todo: &mut Vec<SessionAction>) {
        self.close(todo);
        for id in self.writing.drain(..) {
            todo.push(SessionAction::Settle(id, CommandResult::Unknown));
        }
        self.phase = SessionPhase::Ended;
        todo.push(SessionAction::End(ending));
    }
}

#[cfg(test)]
mod tests;
