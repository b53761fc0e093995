//! Runs one provider session: owns its socket and performs the actions of its [`SessionMachine`].
//!
//! The session checks its trust ([`crate::outgoing::lease_clock`]) before each action towards the provider or the
//! database, and a write checks it again each time it is polled, because a process that was frozen in the middle wakes
//! up there. Every wait has a deadline, and the session watches its mailbox during each wait.

mod checkpoints;
mod recording;

use std::collections::VecDeque;
use std::future::{pending, poll_fn};
use std::sync::Arc;
use std::task::Poll;

use chrono::{DateTime, Utc};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::time::{Instant, sleep_until};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use super::cipher::Cipher;
use super::dial::{DialError, Dialer, ProviderSocket};
use super::dial_rate::DialRate;
use super::inbound_rate::{InboundRate, InboundTurn};
use super::mailbox::{Mailbox, SessionMessage};
use super::message_appender::MessageHandle;
use super::now_ms;
use super::pending_writes::PendingWrites;
use super::provider::{PingForm, Provider};
use super::secret::Secret;
use super::session_machine::{self, CommandResult, ReleaseCause, SessionAction, SessionInput, SessionMachine};
use super::session_store::SessionStore;
use super::sign_in::{self, sign_in};
use super::socket_reader::{ProviderFrame, read};
use super::socket_writer::{WriteOutcome, hang_up, write};
use crate::domain::CommandId;
use crate::store::providers::commands::TakenCommand;
use crate::store::providers::{AdminRequest, Claimed};

/// Shared by all sessions of an instance.
pub struct SessionContext {
    pub dialer: Dialer,
    pub cipher: Cipher,
    pub dial_rate: Arc<DialRate>,
    pub pending_writes: Arc<PendingWrites>,
    pub session_store: Arc<SessionStore>,
    pub recorder: MessageHandle,
}

/// The result of a sign-in or of a dial.
enum WorkResult {
    SignedIn(sign_in::SignInOutcome),
    Dialled(Result<Box<ProviderSocket>, DialError>),
}

/// A session, from its claim to its end.
pub struct ProviderSession {
    shared: Arc<SessionContext>,
    provider: Arc<Provider>,
    mailbox: Arc<Mailbox>,
    machine: SessionMachine,
    secret: Option<Secret>,
    /// Whether the session id has changed since the row was last written.
    secret_is_new: bool,
    /// Whether the next dial follows a sign-in that has counted in the dial rate already.
    passed_the_gate: bool,
    work: Option<BoxFuture<'static, WorkResult>>,
    socket: Option<Box<ProviderSocket>>,
    /// The code with which the socket is closed.
    goodbye: CloseCode,
    inbound_rate: InboundRate,
    /// The message of the input that the machine is handling.
    message: Option<Utf8Bytes>,
    /// A message that waits for room in the log's queue; until then the socket is not read.
    placing: Option<BoxFuture<'static, ()>>,
    /// When the last frame arrived over any connection of this session, also of an earlier owner.
    heard_at: Option<DateTime<Utc>>,
    /// Whether the machine was told once that the silence is caused by us not reading.
    excused: bool,
    command: Option<TakenCommand>,
    /// Inputs that performing an action has produced.
    next: VecDeque<SessionInput>,
    /// Number of messages in this term so far.
    counter: u64,
}

impl ProviderSession {
    pub fn new(shared: Arc<SessionContext>, provider: Arc<Provider>, mailbox: Arc<Mailbox>, claimed: &Claimed, seed: u64) -> Self {
        let secret = claimed.secret.as_ref().and_then(|sealed| shared.cipher.open(&claimed.provider, &claimed.user, sealed));
        let machine = SessionMachine::new(Arc::new(rules_of(&provider)), claimed.attempts, secret.is_some(), seed);
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
            inbound_rate: InboundRate::default(),
            message: None,
            placing: None,
            heard_at: claimed.live_until,
            excused: false,
            command: None,
            next: VecDeque::new(),
            counter: 0,
        }
    }

    /// Runs until the session ends for any reason.
    pub async fn run(mut self) {
        #[cfg(feature = "failpoints")]
        crate::failpoints::at("lease.before_connect").await;
        let todo = self.machine.begin(Instant::now());
        self.perform(todo).await;
        while !self.machine.has_ended() {
            let input = self.next_input().await;
            let todo = self.machine.step(input, Instant::now());
            self.perform(todo).await;
        }
    }

    async fn next_input(&mut self) -> SessionInput {
        loop {
            if self.mailbox.trust.is_over() {
                return SessionInput::LeaseLost;
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
                // While we do not read, the provider's silence is not a failure.
                let excused = self.placing.is_some() && !std::mem::replace(&mut self.excused, true);
                return if excused { SessionInput::Answer } else { SessionInput::Tick };
            }
            self.excused = false;
            let (may_read, look_again) = match self.inbound_rate.turn(now) {
                InboundTurn::Flood if self.socket.is_some() => {
                    return SessionInput::Flooded("too many messages from the provider".to_owned());
                }
                InboundTurn::At(later) => (false, Some(later)),
                InboundTurn::Now | InboundTurn::Flood => (self.placing.is_none(), None),
            };
            let wake = deadline.into_iter().chain(look_again).min();
            tokio::select! {
                biased;
                // Checked first at each poll, so that no branch below continues after a frozen process has woken.
                () = over(&self.mailbox) => return SessionInput::LeaseLost,
                () = self.mailbox.posted() => {}
                () = until(wake) => {}
                worked = finished(&mut self.work) => {
                    self.work = None;
                    return self.worked(worked);
                }
                () = finished(&mut self.placing) => self.placing = None,
                frame = receive(&mut self.socket), if may_read => return self.received(frame),
            }
        }
    }

    fn open(&mut self, letter: SessionMessage) -> SessionInput {
        match letter {
            SessionMessage::LeaseLost => SessionInput::LeaseLost,
            SessionMessage::Stop => SessionInput::Stop,
            SessionMessage::Unwanted => SessionInput::Unwanted,
            SessionMessage::Asked(AdminRequest::Reconnect) => SessionInput::Reconnect,
            SessionMessage::Asked(AdminRequest::Release) => SessionInput::Release,
            SessionMessage::Command(command) => {
                let id = command.id.0;
                self.command = Some(command);
                SessionInput::Command(id)
            }
        }
    }

    fn worked(&mut self, worked: WorkResult) -> SessionInput {
        match worked {
            WorkResult::SignedIn(sign_in::SignInOutcome::SignedIn { session }) => {
                self.secret = Some(session);
                (self.secret_is_new, self.passed_the_gate) = (true, true);
                SessionInput::SignedIn
            }
            WorkResult::SignedIn(sign_in::SignInOutcome::RefusedForGood { reason }) => SessionInput::SignInRefused(reason),
            WorkResult::SignedIn(sign_in::SignInOutcome::TryLater { after, why }) => SessionInput::Failed { why, after },
            WorkResult::Dialled(Ok(socket)) => {
                self.socket = Some(socket);
                (self.goodbye, self.inbound_rate) = (CloseCode::Normal, InboundRate::default());
                self.append_gap();
                SessionInput::Connected
            }
            WorkResult::Dialled(Err(DialError::Expired)) => SessionInput::SessionNotTaken("the provider rejected the session".to_owned()),
            WorkResult::Dialled(Err(DialError::Forbidden(why))) => SessionInput::Failed { why, after: None },
            WorkResult::Dialled(Err(DialError::TryLater { after, why })) => SessionInput::Failed { why, after },
        }
    }

    fn received(&mut self, frame: ProviderFrame) -> SessionInput {
        if !matches!(frame, ProviderFrame::Broken { .. }) {
            self.heard_at = Some(Utc::now());
        }
        match frame {
            ProviderFrame::Text(text) => {
                self.inbound_rate.took_one(Instant::now());
                if self.provider.keepalive.is_answer(&text) {
                    return SessionInput::Answer;
                }
                self.message = Some(text);
                SessionInput::Message
            }
            // Binary messages are not delivered to anyone.
            ProviderFrame::Binary(_) | ProviderFrame::Control => {
                self.inbound_rate.took_one(Instant::now());
                SessionInput::Answer
            }
            ProviderFrame::Closed(code) => {
                let why = format!("the provider closed the connection ({code})");
                if self.provider.socket.expired_codes.contains(&code) {
                    SessionInput::SessionNotTaken(why)
                } else {
                    SessionInput::Lost(why)
                }
            }
            ProviderFrame::Broken { why, answer } => {
                self.goodbye = answer;
                SessionInput::Lost(why.to_owned())
            }
        }
    }

    async fn perform(&mut self, todo: Vec<SessionAction>) {
        let silent = todo.contains(&SessionAction::End(ReleaseCause::LeaseLost));
        for action in todo {
            match action {
                SessionAction::Close => self.close(silent).await,
                SessionAction::SignIn => self.work = Some(self.sign_in()),
                SessionAction::Dial => self.work = self.dial(),
                SessionAction::ForgetSession => (self.secret, self.secret_is_new) = (None, true),
                SessionAction::Write { state, failures, why, next_try } => {
                    #[cfg(feature = "failpoints")]
                    if state == session_machine::HeldState::Live {
                        crate::failpoints::at("live.before_checkpoint").await;
                    }
                    self.note_state(state, failures, why, next_try);
                }
                SessionAction::KeepAlive => self.keep_alive().await,
                SessionAction::Append => self.append(),
                SessionAction::Send(id) => self.send(id).await,
                SessionAction::Settle(id, outcome) => self.settle(CommandId(id), outcome),
                SessionAction::End(ending) => self.end(ending).await,
            }
        }
        self.mailbox.set_live(self.machine.is_live());
    }

    fn sign_in(&self) -> BoxFuture<'static, WorkResult> {
        let (shared, provider, user) = (Arc::clone(&self.shared), Arc::clone(&self.provider), self.mailbox.lease.user.clone());
        let dialer = shared.dialer.fenced_by(&self.mailbox);
        async move {
            shared.dial_rate.pass().await;
            WorkResult::SignedIn(sign_in(&dialer, &provider, &user).await)
        }
        .boxed()
    }

    fn dial(&mut self) -> Option<BoxFuture<'static, WorkResult>> {
        let (shared, provider, user) = (Arc::clone(&self.shared), Arc::clone(&self.provider), self.mailbox.lease.user.clone());
        // The machine dials only if there is a session id.
        let secret = self.secret.clone()?;
        let dialer = shared.dialer.fenced_by(&self.mailbox);
        let passed = std::mem::take(&mut self.passed_the_gate);
        let dialling = async move {
            if !passed {
                shared.dial_rate.pass().await;
            }
            WorkResult::Dialled(dialer.socket(&provider, &user, &secret).await.map(Box::new))
        };
        Some(dialling.boxed())
    }

    /// Closes the socket. The machine may request this for a socket that is closed already.
    async fn close(&mut self, silent: bool) {
        self.work = None;
        self.mailbox.set_live(false);
        if let Some(socket) = self.socket.take()
            && !silent
        {
            hang_up(socket, std::mem::replace(&mut self.goodbye, CloseCode::Normal), &self.mailbox).await;
        }
    }

    async fn write(&mut self, message: Message) -> WriteOutcome {
        match &mut self.socket {
            Some(socket) => write(socket, message, &self.mailbox).await,
            None => WriteOutcome::Nothing,
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
        if self.write(message).await != WriteOutcome::All {
            self.next.push_back(SessionInput::Lost("could not send a keep-alive".to_owned()));
        }
    }

    async fn send(&mut self, id: uuid::Uuid) {
        let Some(command) = self.command.take() else { return };
        let Some(secret) = &self.secret else { return };
        let payload = command.payload.as_deref().unwrap_or("null");
        let user = &self.mailbox.lease.user;
        let text = self.provider.commands.fill(user, secret, &command.kind, &id.to_string(), payload, now_ms());
        #[cfg(feature = "failpoints")]
        crate::failpoints::at("command.before_send").await;
        let wrote = self.write(Message::text(text)).await;
        #[cfg(feature = "failpoints")]
        crate::failpoints::at("command.before_result").await;
        let outcome = match wrote {
            WriteOutcome::All => CommandResult::Sent,
            WriteOutcome::Nothing => CommandResult::Failed,
            WriteOutcome::Some => CommandResult::Unknown,
        };
        self.next.push_back(SessionInput::Written(id, outcome));
        if outcome != CommandResult::Sent {
            self.next.push_back(SessionInput::Lost("could not send a command".to_owned()));
        }
    }
}

/// Cleans up a session whose task ended by a panic: another instance, or this one, starts it again.
impl Drop for ProviderSession {
    fn drop(&mut self) {
        if !self.machine.has_ended() {
            self.mailbox.close();
            self.shared.pending_writes.release(&self.mailbox);
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

async fn receive(socket: &mut Option<Box<ProviderSocket>>) -> ProviderFrame {
    match socket {
        Some(socket) => read(socket).await,
        None => pending().await,
    }
}

/// The settings of a provider that the machine needs.
pub fn rules_of(provider: &Provider) -> session_machine::SessionRules {
    session_machine::SessionRules {
        first_wait: provider.backoff.first,
        longest_wait: provider.backoff.most,
        tries: provider.backoff.tries,
        reset_after: provider.backoff.reset_after,
        keep_alive_every: provider.keepalive.interval,
        answer_within: provider.keepalive.deadline,
        idle_timeout: provider.idle_timeout,
    }
}
