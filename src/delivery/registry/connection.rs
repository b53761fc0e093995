//! Holds what the hub knows of one open connection in memory.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};

use crate::delivery::live_socket::FrameBuffer;
use crate::delivery::positions::{PositionChange, Positions};
use crate::delivery::send_queue::SendQueue;
use crate::domain::{AccountId, ClientId, LogId, MemberChange, Principal, Seq, SessionId, TokenOrigin, is_inbox_type};
use crate::store::providers::{CommandOutcome, SessionView};
use crate::wire::type_filter::TypeFilter;

/// One connection in memory. Shared by the registry, the connection's task and the statistics.
#[derive(Debug)]
pub struct Connection {
    pub session: SessionId,
    /// The user, and the accounts of the token.
    pub who: Principal,
    pub client: ClientId,
    pub transport: &'static str,
    /// By this machine's clock, for requests that ask this instance.
    pub connected_at: DateTime<Utc>,
    /// Used for stored times: the database gets the age of each event.
    pub connected: Instant,
    pub send_queue: SendQueue,
    /// Whether another connection of the device may later have to start at this one's position.
    pub is_kept: bool,
    /// The types that the client asked for; `None` for all.
    pub types: Option<TypeFilter>,
    /// Whether the client asked for its inbox.
    pub has_inbox: bool,
    /// Of the client's newest token.
    origin: Mutex<TokenOrigin>,
    /// The accounts of the table `recado.member`. Written under the registry's lock.
    table_accounts: Mutex<TableAccounts>,
    positions: Mutex<Positions>,
    /// Milliseconds since `connected`.
    last_activity_ms: AtomicU64,
}

impl Connection {
    pub fn new(who: Principal, client: ClientId, transport: &'static str) -> Self {
        Self {
            session: SessionId::new(),
            who,
            client,
            transport,
            connected_at: Utc::now(),
            connected: Instant::now(),
            send_queue: SendQueue::default(),
            is_kept: false,
            types: None,
            has_inbox: false,
            origin: Mutex::default(),
            table_accounts: Mutex::new(TableAccounts::Ignored),
            positions: Mutex::default(),
            last_activity_ms: AtomicU64::new(0),
        }
    }

    /// The origin of the client's newest token.
    pub fn origin(&self) -> TokenOrigin {
        *self.origin.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Before the connection joins. Later, see [`super::Registry::renew_token`].
    pub(in crate::delivery) fn set_origin(&self, origin: TokenOrigin) {
        let mut present = self.origin.lock().unwrap_or_else(PoisonError::into_inner);
        // A session of the playground stays one, whatever token comes later.
        *present = TokenOrigin { is_playground: present.is_playground || origin.is_playground, ..origin };
    }

    /// Makes the accounts of the table count, once [`super::Registry::enter`] has told them.
    pub fn follow_members(&mut self) {
        self.table_accounts = Mutex::new(TableAccounts::Reading(Vec::new()));
    }

    /// Whether the accounts of the table count.
    pub fn follows_members(&self) -> bool {
        !matches!(*self.table_accounts(), TableAccounts::Ignored)
    }

    /// Held briefly, never across an await.
    pub(super) fn table_accounts(&self) -> MutexGuard<'_, TableAccounts> {
        self.table_accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The user's accounts as of the dispatched number, sorted.
    pub fn accounts(&self) -> Vec<AccountId> {
        let mut accounts: BTreeSet<AccountId> = self.who.accounts.iter().cloned().collect();
        if let TableAccounts::Known(known) = &*self.table_accounts() {
            accounts.extend(known.iter().cloned());
        }
        accounts.into_iter().collect()
    }

    pub(super) fn is_in(&self, account: &AccountId) -> bool {
        self.who.accounts.contains(account) || matches!(&*self.table_accounts(), TableAccounts::Known(known) if known.contains(account))
    }

    /// Sets the position at which the stream begins, and the position that the device has acknowledged.
    pub fn begin(&self, log_id: LogId, from: Seq, acked: Seq) {
        *self.positions() = Positions::begin(log_id, from, acked);
    }

    /// Held briefly, never across an await.
    fn positions(&self) -> MutexGuard<'_, Positions> {
        self.positions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn from(&self) -> Seq {
        self.positions().from()
    }

    pub fn delivered(&self) -> Seq {
        self.positions().delivered()
    }

    /// Whether the stream has begun.
    pub fn has_begun(&self) -> bool {
        self.positions().has_begun()
    }

    /// The position that was acknowledged on this connection.
    pub fn own_acked(&self) -> Seq {
        self.positions().own_acked()
    }

    pub fn set_delivered(&self, delivered: Seq) {
        self.positions().deliver(delivered);
    }

    pub fn acked(&self) -> Seq {
        self.positions().acked()
    }

    /// Writes the rows that wait in the send queue into the socket, if the connection's task waits, or wakes the task.
    pub(in crate::delivery) fn write_directly(&self, frames: &mut FrameBuffer) {
        self.send_queue.write_directly(frames, |seq| self.set_delivered(seq));
    }

    /// Returns whether the acknowledgement is new.
    pub fn set_acked(&self, acked: Seq) -> bool {
        self.positions().ack(acked)
    }

    /// Applies an acknowledgement made over REST.
    pub(in crate::delivery) fn acked_beside(&self, acked: Seq) {
        self.positions().acked_beside(acked);
    }

    /// Sends the status of a provider session, if the client does not have it yet. `names_provider`: the frame names
    /// its provider, because there are several.
    pub fn show(&self, view: &SessionView, names_provider: bool) {
        self.send_queue.notify(|queue| queue.show(view, names_provider));
    }

    /// Sends the outcome of a command.
    pub fn tell_outcome(&self, outcome: &CommandOutcome) {
        self.send_queue.notify(|queue| queue.result(outcome));
    }

    /// Takes the positions that moved since the last call.
    pub(in crate::delivery) fn take_news(&self) -> Option<PositionChange> {
        self.positions().take_news()
    }

    /// Whether the client receives notifications of this type: it asked for it, and changes of its inbox go only to
    /// clients with an inbox.
    pub(in crate::delivery) fn takes(&self, kind: &str) -> bool {
        self.types.as_ref().is_none_or(|types| types.takes(kind)) && (self.has_inbox || !is_inbox_type(kind))
    }

    /// Notes that the client has sent something.
    pub fn touch(&self) {
        let since = u64::try_from(self.connected.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_activity_ms.store(since, Ordering::Relaxed);
    }

    /// Time from the beginning of the connection to the client's last frame.
    pub fn last_activity(&self) -> Duration {
        Duration::from_millis(self.last_activity_ms.load(Ordering::Relaxed))
    }
}

/// What a connection knows of its user's accounts in the table `recado.member`.
#[derive(Debug)]
pub(super) enum TableAccounts {
    /// The accounts of the token are all.
    Ignored,
    /// The table is being read. Holds the changes that were dispatched since the connection joined.
    Reading(Vec<MemberChange>),
    /// The accounts as of the dispatched number.
    Known(BTreeSet<AccountId>),
}
