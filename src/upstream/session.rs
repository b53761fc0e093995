//! One task that owns one session's socket and performs what its [`Machine`] decides.
//!
//! Before each thing that it does towards the provider or the database it looks at its trust ([`super::clock`]), and a
//! write looks again each time it is polled: a process that was frozen in the middle wakes up there. Whatever it waits
//! for has a deadline, and it waits for its mailbox at the same time.

use std::collections::VecDeque;
use std::future::{pending, poll_fn};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use super::cipher::Cipher;
use super::dial::{DialError, Dialer, Socket};
use super::gate::Gate;
use super::holdings::Holdings;
use super::ledger::{Ledger, Settlement};
use super::machine::{self, Action, Ending, Held, Input, Machine, Outcome};
use super::mailbox::{Letter, MESSAGES_UNDER_WAY, Mailbox};
use super::now_ms;
use super::pace::{Pace, Turn};
use super::provider::{PingForm, Provider};
use super::read::{Heard, read};
use super::recorder::RecorderHandle;
use super::scribe::not_sent;
use super::secret::Secret;
use super::sign_in::{self, sign_in};
use super::write::{Wrote, hang_up, write};
use crate::domain::{CommandId, IdempotencyKey, NewNotification};
use crate::store::upstream::commands::{Command, Sent};
use crate::store::upstream::{Asked, Change, Claimed, UpstreamState};

/// A refused session is not tried again earlier than this, however often its user reloads the page.
const AFTER_REFUSAL: Duration = Duration::from_secs(60);

/// How long the end of a session waits for its last messages to be in the log.
const LAST_MESSAGES: Duration = Duration::from_secs(2);

/// What all sessions of an instance share.
pub struct Outward {
    pub dialer: Dialer,
    pub cipher: Cipher,
    pub gate: Arc<Gate>,
    pub ledger: Arc<Ledger>,
    pub holdings: Arc<Holdings>,
    pub recorder: RecorderHandle,
}

/// The end of a sign-in or of a dialling.
enum Worked {
    SignedIn(sign_in::Outcome),
    Dialled(Result<Box<Socket>, DialError>),
}

/// A session, from its claim to its end.
pub struct Session {
    shared: Arc<Outward>,
    provider: Arc<Provider>,
    mailbox: Arc<Mailbox>,
    machine: Machine,
    secret: Option<Secret>,
    /// The session id has changed since the row was written last.
    secret_is_new: bool,
    /// The next dialling belongs to a sign-in that has passed the gate.
    passed_the_gate: bool,
    work: Option<BoxFuture<'static, Worked>>,
    socket: Option<Box<Socket>>,
    /// The code that the socket is hung up with.
    goodbye: CloseCode,
    pace: Pace,
    /// The message that the machine is being told of.
    message: Option<Utf8Bytes>,
    /// A message that waits for room on its way into the log; until then the socket is not read.
    placing: Option<BoxFuture<'static, ()>>,
    /// When something was heard last over any connection of this session, here or at an earlier owner.
    heard_at: Option<DateTime<Utc>>,
    /// The machine was told that nothing is heard because nothing is read.
    excused: bool,
    command: Option<Command>,
    /// What performing an action has brought about.
    next: VecDeque<Input>,
    /// Messages of this term so far.
    counter: u64,
}

impl Session {
    pub fn new(shared: Arc<Outward>, provider: Arc<Provider>, mailbox: Arc<Mailbox>, claimed: &Claimed, seed: u64) -> Self {
        let secret = claimed.secret.as_ref().and_then(|sealed| shared.cipher.open(&claimed.provider, &claimed.user, sealed));
        let machine = Machine::new(Arc::new(rules_of(&provider)), claimed.attempts, secret.is_some(), seed);
        Self {
            shared,
            provider,
            mailbox,
            machine,
            secret,
            secret_is_new: false,
            passed_the_gate: false,
            work: None,
            socket: None,
            goodbye: CloseCode::Normal,
            pace: Pace::default(),
            message: None,
            placing: None,
            heard_at: claimed.live_until,
            excused: false,
            command: None,
            next: VecDeque::new(),
            counter: 0,
        }
    }

    /// Runs until the session ends, for one reason or another.
    pub async fn run(mut self) {
        #[cfg(feature = "points")]
        crate::points::at("lease.before_connect").await;
        let todo = self.machine.begin(Instant::now());
        self.perform(todo).await;
        while !self.machine.has_ended() {
            let input = self.next_input().await;
            let todo = self.machine.step(input, Instant::now());
            self.perform(todo).await;
        }
    }

    async fn next_input(&mut self) -> Input {
        loop {
            if self.mailbox.trust.is_over() {
                return Input::LeaseLost;
            }
            if let Some(input) = self.next.pop_front() {
                return input;
            }
            if let Some(letter) = self.mailbox.take() {
                return self.open(letter);
            }
            let now = Instant::now();
            let deadline = self.machine.deadline();
            if deadline.is_some_and(|at| at <= now) {
                // What we do not read, the provider cannot have failed to say.
                let excused = self.placing.is_some() && !std::mem::replace(&mut self.excused, true);
                return if excused { Input::Answer } else { Input::Tick };
            }
            self.excused = false;
            let (may_read, look_again) = match self.pace.turn(now) {
                Turn::Flood if self.socket.is_some() => return Input::Flooded("too many messages from the provider".to_owned()),
                Turn::At(later) => (false, Some(later)),
                Turn::Now | Turn::Flood => (self.placing.is_none(), None),
            };
            let wake = deadline.into_iter().chain(look_again).min();
            tokio::select! {
                biased;
                // First at each poll, so that nothing below goes one step further after a frozen process has woken.
                () = over(&self.mailbox) => return Input::LeaseLost,
                () = self.mailbox.posted() => {}
                () = until(wake) => {}
                worked = finished(&mut self.work) => {
                    self.work = None;
                    return self.worked(worked);
                }
                () = finished(&mut self.placing) => self.placing = None,
                heard = hear(&mut self.socket), if may_read => return self.heard(heard),
            }
        }
    }

    fn open(&mut self, letter: Letter) -> Input {
        match letter {
            Letter::LeaseLost => Input::LeaseLost,
            Letter::Stop => Input::Stop,
            Letter::Unwanted => Input::Unwanted,
            Letter::Asked(Asked::Reconnect) => Input::Reconnect,
            Letter::Asked(Asked::Release) => Input::Release,
            Letter::Command(command) => {
                let id = command.id.0;
                self.command = Some(command);
                Input::Command(id)
            }
        }
    }

    fn worked(&mut self, worked: Worked) -> Input {
        match worked {
            Worked::SignedIn(sign_in::Outcome::SignedIn { session }) => {
                self.secret = Some(session);
                (self.secret_is_new, self.passed_the_gate) = (true, true);
                Input::SignedIn
            }
            Worked::SignedIn(sign_in::Outcome::RefusedForGood { reason }) => Input::SignInRefused(reason),
            Worked::SignedIn(sign_in::Outcome::TryLater { after, why }) => Input::Failed { why, after },
            Worked::Dialled(Ok(socket)) => {
                self.socket = Some(socket);
                (self.goodbye, self.pace) = (CloseCode::Normal, Pace::default());
                self.tell_the_gap();
                Input::Connected
            }
            Worked::Dialled(Err(DialError::Expired)) => Input::SessionNotTaken("the provider does not take the session".to_owned()),
            Worked::Dialled(Err(DialError::Forbidden(why))) => Input::Failed { why, after: None },
            Worked::Dialled(Err(DialError::TryLater { after, why })) => Input::Failed { why, after },
        }
    }

    fn heard(&mut self, heard: Heard) -> Input {
        if !matches!(heard, Heard::Broken { .. }) {
            self.heard_at = Some(Utc::now());
        }
        match heard {
            Heard::Text(text) => {
                self.pace.took_one(Instant::now());
                if self.provider.keepalive.is_answer(&text) {
                    return Input::Answer;
                }
                self.message = Some(text);
                Input::Message
            }
            // What is binary is for nobody.
            Heard::Binary(_) | Heard::Control => {
                self.pace.took_one(Instant::now());
                Input::Answer
            }
            Heard::Closed(code) => {
                let why = format!("the provider closed the connection ({code})");
                if self.provider.socket.expired_codes.contains(&code) { Input::SessionNotTaken(why) } else { Input::Lost(why) }
            }
            Heard::Broken { why, answer } => {
                self.goodbye = answer;
                Input::Lost(why.to_owned())
            }
        }
    }

    async fn perform(&mut self, todo: Vec<Action>) {
        let silent = todo.contains(&Action::End(Ending::LeaseLost));
        for action in todo {
            match action {
                Action::Close => self.close(silent).await,
                Action::SignIn => self.work = Some(self.sign_in()),
                Action::Dial => self.work = self.dial(),
                Action::ForgetSession => (self.secret, self.secret_is_new) = (None, true),
                Action::Write { state, failures, why, next_try } => {
                    #[cfg(feature = "points")]
                    if state == Held::Live {
                        crate::points::at("live.before_checkpoint").await;
                    }
                    self.write_down(state, failures, why, next_try);
                }
                Action::KeepAlive => self.keep_alive().await,
                Action::Append => self.append(),
                Action::Send(id) => self.send(id).await,
                Action::Settle(id, outcome) => self.settle(CommandId(id), outcome),
                Action::End(ending) => self.end(ending).await,
            }
        }
        self.mailbox.set_live(self.machine.is_live());
    }

    fn sign_in(&self) -> BoxFuture<'static, Worked> {
        let (shared, provider, user) = (Arc::clone(&self.shared), Arc::clone(&self.provider), self.mailbox.lease.user.clone());
        let dialer = shared.dialer.fenced_by(&self.mailbox);
        async move {
            shared.gate.pass().await;
            Worked::SignedIn(sign_in(&dialer, &provider, &user).await)
        }
        .boxed()
    }

    fn dial(&mut self) -> Option<BoxFuture<'static, Worked>> {
        let (shared, provider, user) = (Arc::clone(&self.shared), Arc::clone(&self.provider), self.mailbox.lease.user.clone());
        // The machine dials only with a session id.
        let secret = self.secret.clone()?;
        let dialer = shared.dialer.fenced_by(&self.mailbox);
        let passed = std::mem::take(&mut self.passed_the_gate);
        let dialling = async move {
            if !passed {
                shared.gate.pass().await;
            }
            Worked::Dialled(dialer.socket(&provider, &user, &secret).await.map(Box::new))
        };
        Some(dialling.boxed())
    }

    /// The machine may say this of a socket that is gone, too.
    async fn close(&mut self, silent: bool) {
        self.work = None;
        self.mailbox.set_live(false);
        if let Some(socket) = self.socket.take()
            && !silent
        {
            hang_up(socket, std::mem::replace(&mut self.goodbye, CloseCode::Normal), &self.mailbox).await;
        }
    }

    async fn write(&mut self, message: Message) -> Wrote {
        match &mut self.socket {
            Some(socket) => write(socket, message, &self.mailbox).await,
            None => Wrote::Nothing,
        }
    }

    async fn keep_alive(&mut self) {
        let (keepalive, Some(secret)) = (&self.provider.keepalive, &self.secret) else { return };
        let text = keepalive.fill(&self.mailbox.lease.user, secret, now_ms());
        let message = match keepalive.form {
            PingForm::Text => Message::text(text),
            PingForm::Ping => Message::Ping(text.into_bytes().into()),
        };
        self.mailbox.sent_a_ping();
        if self.write(message).await != Wrote::All {
            self.next.push_back(Input::Lost("a keep-alive could not be sent".to_owned()));
        }
    }

    async fn send(&mut self, id: uuid::Uuid) {
        let Some(command) = self.command.take() else { return };
        let Some(secret) = &self.secret else { return };
        let payload = command.payload.as_deref().unwrap_or("null");
        let user = &self.mailbox.lease.user;
        let text = self.provider.commands.fill(user, secret, &command.kind, &id.to_string(), payload, now_ms());
        #[cfg(feature = "points")]
        crate::points::at("command.before_send").await;
        let wrote = self.write(Message::text(text)).await;
        #[cfg(feature = "points")]
        crate::points::at("command.before_result").await;
        let outcome = match wrote {
            Wrote::All => Outcome::Sent,
            Wrote::Nothing => Outcome::Failed,
            Wrote::Some => Outcome::Unknown,
        };
        self.next.push_back(Input::Written(id, outcome));
        if outcome != Outcome::Sent {
            self.next.push_back(Input::Lost("a command could not be sent".to_owned()));
        }
    }

    fn append(&mut self) {
        let Some(text) = self.message.take() else { return };
        let lease = &self.mailbox.lease;
        let notification = self.provider.messages.notification(&lease.provider, &lease.user, &text);
        self.mailbox.heard_a_message();
        self.record(notification);
    }

    /// There was a connection before this one. What the provider said in between, nobody has heard: the user is told so, in
    /// the log, before anything that this connection brings.
    fn tell_the_gap(&mut self) {
        let now = Utc::now();
        let Some(since) = self.heard_at.replace(now) else { return };
        let lease = &self.mailbox.lease;
        let gap = self.provider.gap(&lease.user, since, now);
        self.record(gap);
    }

    /// In order, whatever waits for room.
    fn record(&mut self, mut notification: NewNotification) {
        let lease = &self.mailbox.lease;
        self.counter += 1;
        notification.key = Some(IdempotencyKey::of_message(&lease.provider, &lease.user, lease.term, self.counter));
        let recorder = &self.shared.recorder;
        if let Some(earlier) = self.placing.take() {
            let (recorder, waiting) = (recorder.clone(), RecorderHandle::waiting(notification, &self.mailbox));
            let after = earlier.then(move |()| recorder.record_when_there_is_room(waiting));
            self.placing = Some(after.boxed());
        } else if let Err(waiting) = recorder.record(notification, &self.mailbox) {
            self.placing = Some(recorder.clone().record_when_there_is_room(waiting).boxed());
        }
    }

    fn settle(&self, id: CommandId, outcome: Outcome) {
        let (outcome, detail) = match outcome {
            Outcome::Sent => (Sent::Sent, None),
            Outcome::Rejected => (Sent::Failed, Some("not_connected")),
            Outcome::Failed => (Sent::Failed, Some("not_written")),
            Outcome::Unknown => (Sent::Unknown, Some("partly_written")),
        };
        self.shared.ledger.settle(&self.mailbox, Settlement { id, outcome, detail });
    }

    fn write_down(&mut self, state: Held, failures: u32, why: Option<String>, next_try: Option<Duration>) {
        let texts = &self.provider.texts;
        let (state, message) = match state {
            Held::SigningIn => (UpstreamState::SigningIn, None),
            Held::Connecting => (UpstreamState::Connecting, None),
            Held::Live => (UpstreamState::Live, Some(texts.connected.clone())),
            Held::BackingOff => (UpstreamState::BackingOff, Some(texts.disconnected.clone())),
        };
        tracing::debug!(session = ?self.mailbox.lease, state = state.as_str(), failures, why, "an upstream session");
        let error = why.map(|why| texts.error_for(&why));
        let next_try_in = next_try.unwrap_or_default();
        self.change(Change { attempts: failures, next_try_in, message, error, ..Change::to(state) });
    }

    fn change(&mut self, mut change: Change) {
        if std::mem::take(&mut self.secret_is_new) {
            let lease = &self.mailbox.lease;
            let seal = |secret| self.shared.cipher.seal(&lease.provider, &lease.user, secret);
            // What cannot be sealed is not kept: the next owner signs in.
            change.secret = Some(self.secret.as_ref().and_then(|secret| seal(secret).ok()));
        }
        self.shared.ledger.change(&self.mailbox, change);
    }

    /// The socket is closed by now. What was read from it goes into the log first: after the lease is given back it could not.
    async fn end(&mut self, ending: Ending) {
        tracing::info!(session = ?self.mailbox.lease, ?ending, "an upstream session is not held any more");
        for command in self.mailbox.close() {
            self.shared.ledger.settle(&self.mailbox, not_sent(&command));
        }
        if ending == Ending::LeaseLost {
            // What is known of bytes that have left, or not, stays true; the next owner may have called it unknown.
            for input in std::mem::take(&mut self.next) {
                if let Input::Written(id, outcome) = input {
                    self.settle(CommandId(id), outcome);
                }
            }
            self.shared.holdings.remove(&self.mailbox.lease);
        }
        self.until_recorded().await;
        let ended = |state| Change { message: Some(self.provider.texts.disconnected.clone()), ..Change::to(state) };
        let error = |why: String| Some(self.provider.texts.error_for(&why));
        let change = match ending {
            Ending::LeaseLost | Ending::HandedOver => None,
            Ending::Waiting { after, early, why } => {
                let (attempts, error) = (self.machine.failures(), why.and_then(&error));
                let ended = ended(UpstreamState::BackingOff);
                Some(Change { attempts, next_try_in: after, early_try_in: Some(early), error, ..ended })
            }
            Ending::Refused { why } => Some(Change { next_try_in: AFTER_REFUSAL, error: error(why), ..ended(UpstreamState::Refused) }),
            Ending::Idle => Some(ended(UpstreamState::Idle)),
            Ending::Released => Some(ended(UpstreamState::Released)),
        };
        if let Some(change) = change {
            self.change(change);
        }
        // A lease that was lost by our own clock alone may still stand in the row: nobody needs to wait for its end.
        self.shared.ledger.release(&self.mailbox);
    }

    async fn until_recorded(&mut self) {
        let all = u32::try_from(MESSAGES_UNDER_WAY).unwrap_or(u32::MAX);
        let recorded = async {
            finished_if_any(&mut self.placing).await;
            drop(self.mailbox.room.acquire_many(all).await);
        };
        if timeout(LAST_MESSAGES, recorded).await.is_err() {
            tracing::warn!(session = ?self.mailbox.lease, "an upstream session ends before its last messages are in the log");
        }
    }
}

/// A session whose task ended without its machine's word, by a panic: another instance, or this one, begins it again.
impl Drop for Session {
    fn drop(&mut self) {
        if !self.machine.has_ended() {
            self.mailbox.close();
            self.shared.ledger.release(&self.mailbox);
        }
    }
}

async fn over(mailbox: &Mailbox) {
    poll_fn(|_| if mailbox.trust.is_over() { Poll::Ready(()) } else { Poll::Pending }).await;
}

async fn until(wake: Option<Instant>) {
    match wake {
        Some(wake) => sleep_until(wake).await,
        None => pending().await,
    }
}

async fn finished<T>(work: &mut Option<BoxFuture<'static, T>>) -> T {
    match work {
        Some(work) => work.await,
        None => pending().await,
    }
}

async fn finished_if_any(work: &mut Option<BoxFuture<'static, ()>>) {
    if let Some(work) = work {
        work.await;
    }
}

async fn hear(socket: &mut Option<Box<Socket>>) -> Heard {
    match socket {
        Some(socket) => read(socket).await,
        None => pending().await,
    }
}

/// The machine's part of a provider.
pub fn rules_of(provider: &Provider) -> machine::Rules {
    machine::Rules {
        first_wait: provider.backoff.first,
        longest_wait: provider.backoff.most,
        tries: provider.backoff.tries,
        reset_after: provider.backoff.reset_after,
        keep_alive_every: provider.keepalive.interval,
        answer_within: provider.keepalive.deadline,
        idle_timeout: provider.idle_timeout,
    }
}
