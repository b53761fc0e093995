//! One upstream session as a pure machine: what happened goes in, what to do comes out. The room's essay draws its states.
//!
//! It owns no socket, no clock and no database. Time is given with every input; [`Machine::deadline`] says when it wants
//! to hear [`Input::Tick`]. So every rule of the house towards a provider is tried by tables and by random histories.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use super::backoff::Backoff;

/// Most tries of one session in any minute, whatever happens. A try is a sign-in, a dialling, or one after the other.
pub const TRIES_A_MINUTE: usize = 10;
const MINUTE: Duration = Duration::from_secs(60);
/// So many refused sign-ins in a row (401, 403, or the provider's own "no"), and the session is refused.
pub const REFUSALS: u32 = 3;
/// When the tries are used up: until the next single one. Longer than any provider's restart takes, short enough that
/// somebody who leaves the page open is served again.
pub const LONG_WAIT: Duration = Duration::from_secs(300);
/// A provider that asks for more patience than this is waited for without holding the lease.
const LONGEST_HELD_WAIT: Duration = Duration::from_secs(60);
/// The longest wait that a provider may ask for.
const LONGEST_ASKED_WAIT: Duration = Duration::from_secs(3600);

/// What the provider's file says, as far as the machine needs it.
#[derive(Debug, Clone)]
pub struct Rules {
    pub first_wait: Duration,
    pub longest_wait: Duration,
    pub tries: u32,
    /// How long a connection has to stand until what went wrong before is forgotten.
    pub reset_after: Duration,
    pub keep_alive_every: Duration,
    /// Something must come this long after a keep-alive, whatever it is.
    pub answer_within: Duration,
    /// Nothing from the provider nor the user for this long ends the session.
    pub idle_timeout: Duration,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    SignedIn,
    /// The provider knows the user and says no.
    SignInRefused(String),
    Connected,
    /// The sign-in or the dialling came to nothing: no answer, a broken one, or "later".
    Failed {
        why: String,
        after: Option<Duration>,
    },
    /// The provider does not take the session id (any more), said while dialling or by its close code.
    SessionNotTaken(String),
    /// The socket ended: closed by the provider, or lost.
    Lost(String),
    /// A message for the user.
    Message,
    /// An answer to a keep-alive, or anything else that is only a sign of life.
    Answer,
    /// A command that the database has given to this term.
    Command(Uuid),
    /// What became of the bytes of a command.
    Written(Uuid, Outcome),
    /// The provider sends more than is taken, for too long.
    Flooded(String),
    /// Nobody wants the session any more.
    Unwanted,
    /// An admin's wish: sign in anew.
    Reconnect,
    /// An admin's wish: end it.
    Release,
    /// The instance stops; another one is to go on at once.
    Stop,
    /// Another owner, or nobody who knows: nothing may be done under this term any more.
    LeaseLost,
    Tick,
}

/// What becomes of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Written and flushed to the socket.
    Sent,
    /// Not sent, because there is no live session.
    Rejected,
    /// Not sent: no byte of it can have left.
    Failed,
    /// Some of it may have left. Never sent again.
    Unknown,
}

/// The states that are written down while the session is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    SigningIn,
    Connecting,
    Live,
    BackingOff,
}

/// Why it is not held any more; says which state the row gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// Nothing is written: the row belongs to somebody else.
    LeaseLost,
    /// Somebody else is to go on: at once, or after the wait that was begun, as it is written already.
    HandedOver,
    /// Due again after this time, for whoever claims it.
    Waiting {
        after: Duration,
        why: Option<String>,
    },
    Refused {
        why: String,
    },
    Idle,
    Released,
}

/// What to do, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Drop what is being done towards the provider: a sign-in, a dialling, a socket.
    Close,
    Write {
        state: Held,
        failures: u32,
        why: Option<String>,
        next_try: Option<Duration>,
    },
    SignIn,
    /// With the session id at hand.
    Dial,
    /// The session id is of no use any more.
    ForgetSession,
    KeepAlive,
    /// Hand the message of this input to the recorder.
    Append,
    Send(Uuid),
    Settle(Uuid, Outcome),
    /// The last action of a session.
    End(Ending),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
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
pub struct Machine {
    rules: std::sync::Arc<Rules>,
    phase: Phase,
    backoff: Backoff,
    /// Failures in a row, earned away by a connection that stands.
    failures: u32,
    refusals: u32,
    /// There is a session id to dial with.
    has_session: bool,
    /// It came from a sign-in of this machine.
    session_is_fresh: bool,
    /// Something has come over a connection that it opened.
    session_is_proved: bool,
    /// When the tries of the last minute began.
    tries: VecDeque<Instant>,
    /// Given to the writer, and not settled.
    writing: Vec<Uuid>,
}

impl Machine {
    /// `failures` as the last owner left them, `has_session` when there is a session id to try first; `seed` for the jitter.
    pub fn new(rules: std::sync::Arc<Rules>, failures: u32, has_session: bool, seed: u64) -> Self {
        let backoff = Backoff::new(rules.first_wait, rules.longest_wait, seed);
        Self {
            rules,
            phase: Phase::Claimed,
            backoff,
            failures,
            refusals: 0,
            has_session,
            session_is_fresh: false,
            session_is_proved: false,
            tries: VecDeque::new(),
            writing: Vec::new(),
        }
    }

    pub fn is_live(&self) -> bool {
        matches!(self.phase, Phase::Live { .. })
    }

    /// Failures in a row, for the row and for who claims it next.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    pub fn has_ended(&self) -> bool {
        self.phase == Phase::Ended
    }

    /// The first thing after the claim.
    pub fn begin(&mut self, now: Instant) -> Vec<Action> {
        let mut todo = Vec::new();
        if self.phase == Phase::Claimed {
            self.try_now(now, &mut todo);
        }
        todo
    }

    /// When to say [`Input::Tick`], if nothing happens before.
    pub fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::BackingOff { until } => Some(until),
            Phase::Live { since, next_keep_alive, answer_by, active } => {
                let stable = (self.failures > 0).then(|| since + self.rules.reset_after);
                let idle = active + self.rules.idle_timeout;
                [stable, answer_by].into_iter().flatten().chain([idle, next_keep_alive]).min()
            }
            _ => None,
        }
    }

    pub fn step(&mut self, input: Input, now: Instant) -> Vec<Action> {
        let mut todo = Vec::new();
        if self.phase == Phase::Ended {
            return todo;
        }
        match input {
            Input::LeaseLost => {
                // Its commands are the next owner's to settle: as unknown, since it cannot know either.
                self.writing.clear();
                self.end(Ending::LeaseLost, &mut todo);
            }
            Input::Stop => self.end(Ending::HandedOver, &mut todo),
            Input::Unwanted | Input::Release => self.end(Ending::Released, &mut todo),
            Input::Reconnect => {
                (self.failures, self.refusals) = (0, 0);
                self.forget_session(&mut todo);
                self.close(&mut todo);
                self.try_now(now, &mut todo);
            }
            Input::Command(id) => self.command(id, now, &mut todo),
            Input::Written(id, outcome) => self.written(id, outcome, &mut todo),
            Input::Message | Input::Answer => self.heard(input == Input::Message, now, &mut todo),
            Input::Tick => self.tick(now, &mut todo),
            input => self.progress(input, now, &mut todo),
        }
        todo
    }

    /// What the provider answered to a try, or how a connection ended. Out of season (an answer to a try that was given
    /// up) it means nothing.
    fn progress(&mut self, input: Input, now: Instant, todo: &mut Vec<Action>) {
        match (self.phase, input) {
            (Phase::SigningIn, Input::SignedIn) => {
                (self.has_session, self.session_is_fresh, self.session_is_proved) = (true, true, false);
                self.refusals = 0;
                self.dial(todo);
            }
            (Phase::SigningIn, Input::SignInRefused(why)) => {
                self.refusals += 1;
                if self.refusals >= REFUSALS {
                    self.end(Ending::Refused { why }, todo);
                } else {
                    self.failed(Some(why), None, now, todo);
                }
            }
            (Phase::SigningIn | Phase::Connecting, Input::Failed { why, after }) => self.failed(Some(why), after, now, todo),
            (Phase::Connecting, Input::Connected) => self.connected(now, todo),
            (Phase::Connecting | Phase::Live { .. }, Input::SessionNotTaken(why)) => self.not_taken(why, now, todo),
            (Phase::Live { .. }, Input::Lost(why)) => self.lost(why, now, todo),
            // The provider would do the same again at once, so what stood for long does not count.
            (Phase::Live { .. }, Input::Flooded(why)) => self.failed(Some(why), None, now, todo),
            _ => {}
        }
    }

    /// An id that has run out is nobody's failure: sign in at once. One that is not taken although it is new is a failure,
    /// or a provider that gives such ids would be asked for the next one without end.
    fn not_taken(&mut self, why: String, now: Instant, todo: &mut Vec<Action>) {
        let ran_out = !self.session_is_fresh || self.session_is_proved;
        let stood = if let Phase::Live { since, .. } = self.phase { now >= since + self.rules.reset_after } else { true };
        self.forget_session(todo);
        if ran_out && stood {
            self.close(todo);
            self.try_now(now, todo);
        } else {
            self.failed(Some(why), None, now, todo);
        }
    }

    fn connected(&mut self, now: Instant, todo: &mut Vec<Action>) {
        let next_keep_alive = now + self.rules.keep_alive_every;
        self.phase = Phase::Live { since: now, next_keep_alive, answer_by: None, active: now };
        todo.push(Action::Write { state: Held::Live, failures: self.failures, why: None, next_try: None });
    }

    fn heard(&mut self, is_message: bool, now: Instant, todo: &mut Vec<Action>) {
        let Phase::Live { answer_by, active, .. } = &mut self.phase else { return };
        // Whatever comes proves that somebody is there.
        *answer_by = None;
        self.session_is_proved = true;
        if is_message {
            *active = now;
            todo.push(Action::Append);
        }
    }

    fn command(&mut self, id: Uuid, now: Instant, todo: &mut Vec<Action>) {
        if let Phase::Live { active, .. } = &mut self.phase {
            *active = now;
            self.writing.push(id);
            todo.push(Action::Send(id));
        } else {
            todo.push(Action::Settle(id, Outcome::Rejected));
        }
    }

    fn written(&mut self, id: Uuid, outcome: Outcome, todo: &mut Vec<Action>) {
        if let Some(at) = self.writing.iter().position(|writing| *writing == id) {
            self.writing.swap_remove(at);
            todo.push(Action::Settle(id, outcome));
        }
    }

    fn tick(&mut self, now: Instant, todo: &mut Vec<Action>) {
        match self.phase {
            Phase::BackingOff { until } if now >= until => self.try_now(now, todo),
            Phase::Live { answer_by: Some(by), .. } if now >= by => self.lost("no answer to the keep-alive".to_owned(), now, todo),
            Phase::Live { active, .. } if now >= active + self.rules.idle_timeout => self.end(Ending::Idle, todo),
            Phase::Live { since, .. } => {
                if self.failures > 0 && now >= since + self.rules.reset_after {
                    self.failures = 0;
                    todo.push(Action::Write { state: Held::Live, failures: 0, why: None, next_try: None });
                }
                self.keep_alive(now, todo);
            }
            _ => {}
        }
    }

    fn keep_alive(&mut self, now: Instant, todo: &mut Vec<Action>) {
        let Phase::Live { next_keep_alive: next, answer_by, .. } = &mut self.phase else { return };
        let every = self.rules.keep_alive_every;
        if now < *next {
            return;
        }
        todo.push(Action::KeepAlive);
        // In step with the first one; after a pause from now on, not one for each that was missed.
        *next = if now < *next + every { *next + every } else { now + every };
        answer_by.get_or_insert(now + self.rules.answer_within);
    }

    /// A connection that was open is gone.
    fn lost(&mut self, why: String, now: Instant, todo: &mut Vec<Action>) {
        if let Phase::Live { since, .. } = self.phase
            && now >= since + self.rules.reset_after
        {
            self.failures = 0;
        }
        // A session id over which nothing ever came may be the very reason.
        if !self.session_is_proved {
            self.forget_session(todo);
        }
        // A break that mends is told by the status alone; as an error only when nothing mends it.
        let told = (self.failures + 1 >= self.rules.tries).then_some(why);
        self.failed(told, None, now, todo);
    }

    /// One more failure: wait, or give up for long.
    fn failed(&mut self, why: Option<String>, asked: Option<Duration>, now: Instant, todo: &mut Vec<Action>) {
        self.failures = self.failures.saturating_add(1);
        let wait = self.backoff.after(self.failures).max(asked.unwrap_or_default().min(LONGEST_ASKED_WAIT));
        if self.failures >= self.rules.tries {
            return self.end(Ending::Waiting { after: wait.max(LONG_WAIT), why }, todo);
        }
        if wait > LONGEST_HELD_WAIT {
            return self.end(Ending::Waiting { after: wait, why }, todo);
        }
        self.close(todo);
        self.back_off(wait, why, now, todo);
    }

    fn back_off(&mut self, wait: Duration, why: Option<String>, now: Instant, todo: &mut Vec<Action>) {
        self.phase = Phase::BackingOff { until: now + wait };
        todo.push(Action::Write { state: Held::BackingOff, failures: self.failures, why, next_try: Some(wait) });
    }

    /// A try, unless there were too many in the last minute.
    fn try_now(&mut self, now: Instant, todo: &mut Vec<Action>) {
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
            self.phase = Phase::SigningIn;
            todo.push(Action::Write { state: Held::SigningIn, failures: self.failures, why: None, next_try: None });
            todo.push(Action::SignIn);
        }
    }

    fn dial(&mut self, todo: &mut Vec<Action>) {
        self.phase = Phase::Connecting;
        todo.push(Action::Write { state: Held::Connecting, failures: self.failures, why: None, next_try: None });
        todo.push(Action::Dial);
    }

    fn forget_session(&mut self, todo: &mut Vec<Action>) {
        if self.has_session {
            todo.push(Action::ForgetSession);
        }
        (self.has_session, self.session_is_fresh, self.session_is_proved) = (false, false, false);
    }

    fn close(&mut self, todo: &mut Vec<Action>) {
        if matches!(self.phase, Phase::SigningIn | Phase::Connecting | Phase::Live { .. }) {
            todo.push(Action::Close);
        }
    }

    fn end(&mut self, ending: Ending, todo: &mut Vec<Action>) {
        self.close(todo);
        for id in self.writing.drain(..) {
            todo.push(Action::Settle(id, Outcome::Unknown));
        }
        self.phase = Phase::Ended;
        todo.push(Action::End(ending));
    }
}

#[cfg(test)]
mod tests;
