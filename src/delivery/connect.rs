//! Admits a client: decides where its stream starts and what the client is told about it.

mod siblings;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use self::siblings::{Begun, Siblings};
use super::inbox_counter::InboxCounter;
use super::registry::{Connection, Full, Position, Registration};
use super::shared_handles::Delivery;
use super::stream_state::StreamState;
use super::subscription::Subscription;
use crate::domain::{ClientId, LogId, MemberInterval, NotificationId, Principal, Seq, StartTime, TokenOrigin};
use crate::metrics;
use crate::store::acked_positions::KnownDevice;
use crate::store::{StoreError, inbox, members, read};
use crate::wire::server_frame::ResumeOutcome;
use crate::wire::type_filter::TypeFilter;

/// How long to wait for this instance to reach a sequence number that the client knows and this instance has not read.
const CATCH_UP_LIMIT: Duration = Duration::from_secs(5);
/// Longest wait for the database until a connection is stored: in a group, and by itself if its group fails. A client
/// gives up after some seconds and asks another hub. An entry that is stored later looks like a second client of the
/// device.
const STORE_LIMIT: Duration = Duration::from_millis(4500);

/// The requested start of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResumeFrom {
    /// The stored position of the device; a new device starts at the head of the log.
    Ack,
    /// New rows only.
    Live,
    /// All rows that the log still holds.
    Earliest,
    /// After this sequence number.
    Seq(Seq),
    /// At the first row that was created at this time or later.
    Time(StartTime),
}

/// The parameters of a connect.
#[derive(Debug, Clone)]
pub struct ConnectRequest {
    pub who: Principal,
    pub origin: TokenOrigin,
    pub client: ClientId,
    pub transport: &'static str,
    pub since: ResumeFrom,
    /// The log id that the client's position belongs to, if the client sent one.
    pub log_id: Option<LogId>,
    /// The id of the notification at the client's position, if the client sent one.
    pub last_id: Option<NotificationId>,
    /// The types that the client asked for; `None` for all.
    pub types: Option<TypeFilter>,
    /// Whether the client asked for its inbox.
    pub has_inbox: bool,
    /// The stream belongs to the device. A program that only reads by sequence number does not move the device's
    /// position.
    pub is_of_device: bool,
}

/// Why a client is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("the user has too many connections")]
    UserFull,
    #[error("the instance has too many connections")]
    InstanceFull,
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The client knows sequence numbers that this instance could not read within the limit.
    #[error("this instance is behind the client")]
    Behind,
}

impl From<Full> for ConnectError {
    fn from(full: Full) -> Self {
        match full {
            Full::User => Self::UserFull,
            Full::Instance => Self::InstanceFull,
        }
    }
}

/// A client that is admitted.
pub struct Admitted {
    pub subscription: Subscription,
    pub resume: ResumeOutcome,
    /// The position of this instance when the client was registered.
    pub position: Position,
}

/// Where a stream starts.
struct StreamStart {
    resume: ResumeOutcome,
    at: Position,
    siblings: Siblings,
}

impl StreamStart {
    /// A start that no other connection of the device changes.
    fn of(resume: ResumeOutcome, at: Position) -> Self {
        Self { resume, at, siblings: Siblings::default() }
    }
}

/// A connection that is stored in the database and may end before its stream begins.
struct EnteredConnection<'a> {
    delivery: &'a Delivery,
    connection: Arc<Connection>,
    log_id: LogId,
    has_begun: bool,
}

impl EnteredConnection<'_> {
    fn begun(mut self) {
        self.has_begun = true;
    }
}

impl Drop for EnteredConnection<'_> {
    fn drop(&mut self) {
        if !self.has_begun && self.connection.is_kept {
            self.delivery.sessions.never_began(&self.connection, self.log_id);
        }
    }
}

impl Delivery {
    /// Registers a client and finds the start of its stream. Every row that is dispatched after the registration
    /// reaches the client.
    ///
    /// # Errors
    /// See [`ConnectError`]; the client may try again.
    pub async fn connect(&self, mut request: ConnectRequest) -> Result<Admitted, ConnectError> {
        if !self.reads_token_accounts {
            // A ticket may have been made by a hub with another setting.
            request.who.accounts.clear();
        }
        let mut connection = Connection::new(request.who.clone(), request.client.clone(), request.transport);
        connection.set_origin(request.origin);
        connection.types.clone_from(&request.types);
        connection.has_inbox = request.has_inbox;
        // A client that wants live rows only has no position that could be lost.
        connection.is_kept = request.is_of_device && request.since != ResumeFrom::Live;
        if self.reader.reads_members() {
            connection.follow_members();
        }
        let (registration, position) = self.registry.join(connection)?;
        let entered = EnteredConnection {
            delivery: self,
            connection: Arc::clone(registration.connection()),
            log_id: position.log_id,
            has_begun: false,
        };
        let stored = timeout(STORE_LIMIT, self.store(&mut request, &registration, position)).await;
        let (begun, position) = stored.map_err(|_| StoreError::TimedOut(STORE_LIMIT))??;
        let StreamStart { resume, at: position, siblings } = self.resume(&request, &registration, position, begun).await?;
        // After the connection has joined: what follows these counts in the log enters the send queue.
        let inbox = if request.has_inbox { Some(self.inbox_counter(registration.connection()).await?) } else { None };
        entered.begun();
        registration.connection().begin(position.log_id, resume.from(), resume.confirmed());
        metrics::CONNECTED.one(request.transport);
        self.sessions.began(registration.connection(), position.log_id);
        self.sessions.settle(siblings.settled);
        self.ask_siblings(registration.connection());
        if let Some(arrivals) = &self.arrivals {
            arrivals.add(registration.connection());
        }
        let stream_state = StreamState::new(resume.from(), position.dispatched);
        let subscription =
            Subscription::new(self.clone(), self.reader.clone(), registration, stream_state, position.log_id, siblings.is_shared, inbox);
        Ok(Admitted { subscription, resume, position })
    }

    async fn inbox_counter(&self, connection: &Connection) -> Result<Box<InboxCounter>, StoreError> {
        let recounts = self.registry.recounts();
        // Before it is opened: an erasure that comes meanwhile may take away what was opened.
        let opened = recounts.borrow().inboxes_seq;
        let state = inbox::open(&self.reader, &connection.who).await?;
        let turns = Arc::clone(&self.inbox_counts);
        Ok(Box::new(InboxCounter::new(self.reader.clone(), connection.who.clone(), state, opened, recounts, turns)))
    }

    /// Asks the database for all that it knows of a client. Returns the stored connection, if it is stored, and the
    /// position from which the send queue fills.
    async fn store(
        &self,
        request: &mut ConnectRequest,
        registration: &Registration,
        at: Position,
    ) -> Result<(Option<(KnownDevice, Siblings)>, Position), ConnectError> {
        if let ResumeFrom::Time(time) = request.since {
            self.start_at(time, request, at).await?;
        }
        let begun = self.store_kept(request, registration, at).await?;
        let (begun, intervals) = begun.map_or((None, None), |begun| (Some((begun.known, begun.siblings)), begun.intervals));
        let at = self.enter_accounts(registration, at, intervals).await?;
        Ok((begun, at))
    }

    /// Stores a connection whose position counts, unless its client knows another log.
    ///
    /// A client that names its own start is refused too if its connection cannot be stored: without a row, what it
    /// acknowledges would count as acknowledged by the device's other clients.
    async fn store_kept(&self, request: &ConnectRequest, registration: &Registration, at: Position) -> Result<Option<Begun>, ConnectError> {
        if !registration.connection().is_kept || request.log_id.is_some_and(|log_id| log_id != at.log_id) {
            return Ok(None);
        }
        self.begin(request, registration.connection(), at).await.map(Some)
    }

    /// Takes the user's accounts from the table, read after the connection has joined, so that no change falls
    /// between: a change is in the table, or it was dispatched since and collected. Returns the position from which
    /// the send queue fills again, with the accounts as of that position.
    async fn enter_accounts(
        &self,
        registration: &Registration,
        joined: Position,
        intervals: Option<Vec<MemberInterval>>,
    ) -> Result<Position, StoreError> {
        if !self.reader.reads_members() {
            return Ok(joined);
        }
        let intervals = match intervals {
            Some(intervals) => intervals,
            None => members::intervals(&self.reader, &registration.connection().who.user, joined.dispatched).await?,
        };
        Ok(self.registry.enter(registration, &intervals))
    }

    /// Sets the start of a client that named a time. Rows that this instance has not dispatched reach the client in any
    /// case.
    async fn start_at(&self, time: StartTime, request: &mut ConnectRequest, at: Position) -> Result<(), StoreError> {
        let place = read::last_before(&self.reader, time, at.floor, at.dispatched).await?;
        request.since = if place < at.dispatched { ResumeFrom::Seq(place) } else { ResumeFrom::Live };
        // It names the notification at a number.
        request.last_id = None;
        Ok(())
    }

    /// Finds the start of a stream. `begun`: the stored connection, if it is stored.
    async fn resume(
        &self,
        request: &ConnectRequest,
        registration: &Registration,
        at: Position,
        begun: Option<(KnownDevice, Siblings)>,
    ) -> Result<StreamStart, ConnectError> {
        let reset = ResumeOutcome::Reset { from: at.floor };
        if request.log_id.is_some_and(|log_id| log_id != at.log_id) {
            return Ok(StreamStart::of(reset, at));
        }
        let Some((known, siblings)) = begun else {
            let resume = match request.since {
                ResumeFrom::Seq(seq) => return self.resume_at(seq, request, registration, at).await,
                ResumeFrom::Earliest => ResumeOutcome::Ok { from: at.floor },
                ResumeFrom::Live | ResumeFrom::Ack | ResumeFrom::Time(_) => ResumeOutcome::Live { from: at.dispatched },
            };
            return Ok(StreamStart::of(resume, at));
        };
        let start = match request.since {
            ResumeFrom::Seq(seq) => self.resume_at(seq, request, registration, at).await?,
            ResumeFrom::Earliest => StreamStart::of(ResumeOutcome::Ok { from: at.floor }, at),
            ResumeFrom::Live | ResumeFrom::Time(_) => StreamStart::of(ResumeOutcome::Live { from: at.dispatched }, at),
            ResumeFrom::Ack => match known {
                KnownDevice::New(_) => StreamStart::of(ResumeOutcome::Live { from: at.dispatched }, at),
                known if known.place().log_id != at.log_id => StreamStart::of(reset, at),
                // The device's real position is forgotten. A replay would repeat most of what it already has, so
                // nothing is replayed.
                KnownDevice::Forgotten(place) if place.acked < at.dispatched => {
                    StreamStart::of(ResumeOutcome::Gap { from: at.dispatched, lost_from: place.acked.next(), lost_to: at.dispatched }, at)
                }
                known => {
                    let from = siblings.from.unwrap_or(known.place().acked);
                    self.resume_at(from, request, registration, at).await?
                }
            },
        };
        Ok(StreamStart { siblings, ..start })
    }

    /// Starts the stream after `place` if the log still holds the rows that follow.
    async fn resume_at(
        &self,
        place: Seq,
        request: &ConnectRequest,
        registration: &Registration,
        at: Position,
    ) -> Result<StreamStart, ConnectError> {
        let reset = ResumeOutcome::Reset { from: at.floor };
        let Some(at) = self.wait_until_read(place, registration, at).await? else {
            return Ok(StreamStart::of(reset, at));
        };
        if place < at.floor {
            return Ok(StreamStart::of(ResumeOutcome::Gap { from: at.floor, lost_from: place.next(), lost_to: at.floor }, at));
        }
        if let Some(last_id) = request.last_id
            && place > at.floor
            && read::id_at(&self.reader, place).await? != Some(last_id)
        {
            return Ok(StreamStart::of(ResumeOutcome::Reset { from: at.floor }, at));
        }
        Ok(StreamStart::of(ResumeOutcome::Ok { from: place }, at))
    }

    /// Waits until this instance has dispatched `place`. A position above its head was dispatched by a faster instance,
    /// or belongs to a log that was truncated. The log's own head tells which; `None` means truncated.
    async fn wait_until_read(&self, place: Seq, registration: &Registration, at: Position) -> Result<Option<Position>, ConnectError> {
        if place <= at.dispatched {
            return Ok(Some(at));
        }
        let head = read::head(&self.reader).await?;
        if place > head {
            return Ok(None);
        }
        timeout(CATCH_UP_LIMIT, self.registry.dispatched(place)).await.map_err(|_| ConnectError::Behind)?;
        Ok(Some(self.registry.retake(registration.connection())))
    }
}
