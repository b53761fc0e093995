//! Defines the inputs of the machine of a session, and its actions.

use std::time::Duration;

use uuid::Uuid;

/// The settings of the provider file that the machine needs.
#[derive(Debug, Clone)]
pub struct SessionRules {
    pub first_wait: Duration,
    pub longest_wait: Duration,
    pub tries: u32,
    /// How long a connection must last until earlier failures are forgotten.
    pub reset_after: Duration,
    pub keep_alive_every: Duration,
    /// Any message must arrive within this time after a keep-alive.
    pub answer_within: Duration,
    /// The session ends if neither the provider nor the user sends anything for this long.
    pub idle_timeout: Duration,
}

/// An event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionInput {
    SignedIn,
    /// The provider knows the user and refuses the sign-in.
    SignInRefused(String),
    Connected,
    /// The sign-in or the dial failed: no answer, a broken one, or "later".
    Failed {
        why: String,
        after: Option<Duration>,
    },
    /// The provider rejects the session id, during the dial or by its close code.
    SessionNotTaken(String),
    /// The socket ended: closed by the provider, or lost.
    Lost(String),
    /// A message for the user.
    Message,
    /// An answer to a keep-alive, or any other frame that only shows that the provider is alive.
    Answer,
    /// A command that the database has assigned to this term.
    Command(Uuid),
    /// The outcome of writing a command.
    Written(Uuid, CommandResult),
    /// The provider sends more than is accepted, for too long.
    Flooded(String),
    /// No user wants the session any more.
    Unwanted,
    /// An admin requests a new sign-in.
    Reconnect,
    /// An admin ends the session.
    Release,
    /// The instance stops; another one is to take over at once.
    Stop,
    /// There is another owner, or the lease is uncertain: no action is allowed under this term any more.
    LeaseLost,
    Tick,
}

/// The outcome of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommandResult {
    /// Written and flushed to the socket.
    Sent,
    /// Not sent, because there is no live session.
    Rejected,
    /// Not sent: no byte of it can have left.
    Failed,
    /// Some of it may have left. Never sent again.
    Unknown,
}

/// The states that are stored while the session is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeldState {
    SigningIn,
    Connecting,
    Live,
    BackingOff,
}

/// Why the session is no longer held; decides the stored state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReleaseCause {
    /// Nothing is stored: the row belongs to another owner.
    LeaseLost,
    /// Another instance takes over: at once, or after the current wait, which is stored already.
    HandedOver,
    /// Due again after this time, for any instance that claims it.
    Waiting {
        after: Duration,
        /// The earlier time if the user reconnects.
        early: Duration,
        why: Option<String>,
    },
    Refused {
        why: String,
    },
    Idle,
    Released,
}

/// An action. Actions are performed in the given order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionAction {
    /// Abort the current activity towards the provider: a sign-in, a dial or a socket.
    Close,
    Write {
        state: HeldState,
        failures: u32,
        why: Option<String>,
        next_try: Option<Duration>,
    },
    SignIn,
    /// Dial with the current session id.
    Dial,
    /// Discard the session id, which is no longer valid.
    ForgetSession,
    KeepAlive,
    /// Pass the message of this input to the message appender.
    Append,
    Send(Uuid),
    Settle(Uuid, CommandResult),
    /// The last action of a session.
    End(ReleaseCause),
}
