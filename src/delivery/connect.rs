//! Letting a client in: from where its stream goes on, and what it is told about that.

use std::time::Duration;

use tokio::time::Instant;

use super::connection::Connection;
use super::live::Delivery;
use super::registry::{Full, Member, Position, Seat};
use super::subscription::Subscription;
use crate::backoff::Backoff;
use crate::domain::{ClientId, LogId, NotificationId, Principal, Seq};
use crate::metrics;
use crate::store::cursors::{Known, Place};
use crate::store::{StoreError, cursors, read};
use crate::wire::server::Resume;

/// How long a client that knows a higher number than this instance waits for the instance to get there.
const CATCH_UP_LIMIT: Duration = Duration::from_secs(5);
/// How often a device's place is asked for. After the database was away every idle reader still has a connection that went
/// with it, and learns that by using it; whoever connects then should not have to come again for that.
const PLACE_TRIES: u32 = 6;

/// From where a client wants its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Since {
    /// From the stored place of the device; a new device starts at the end of the log.
    Ack,
    /// From now on.
    Live,
    /// All that the log still holds.
    Earliest,
    /// After this number.
    Seq(Seq),
}

/// What a client asks for when it connects.
#[derive(Debug, Clone)]
pub struct Opening {
    pub who: Principal,
    pub client: ClientId,
    pub transport: &'static str,
    pub since: Since,
    /// The history that the client's place belongs to, where it says so.
    pub log_id: Option<LogId>,
    /// The id of the notification at the client's place, where it says so.
    pub last_id: Option<NotificationId>,
}

/// Why a client is not let in.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("the user has too many connections")]
    UserFull,
    #[error("the instance has too many connections")]
    InstanceFull,
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The client knows numbers that this instance has not read yet, and could not read in time.
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

impl Delivery {
    /// Lets a client in and finds its place. From the moment of joining, nothing can be missed.
    ///
    /// # Errors
    /// See [`ConnectError`]; the client may try again.
    pub async fn connect(&self, opening: Opening) -> Result<(Subscription, Resume, Position), ConnectError> {
        let member = Member::new(opening.who.clone(), opening.client.clone(), opening.transport);
        let (seat, position) = self.registry.join(member)?;
        let (resume, position) = self.resume(&opening, &seat, position).await?;
        seat.member().begin(position.log_id, resume.from(), resume.confirmed());
        metrics::CONNECTED.one(opening.transport);
        self.sessions.began(seat.member(), position.log_id);
        if let Some(desk) = &self.desk {
            desk.arrived(seat.member());
        }
        let connection = Connection::new(resume.from(), position.published);
        Ok((Subscription::new(self.clone(), self.reader.clone(), seat, connection, position.log_id), resume, position))
    }

    async fn resume(&self, opening: &Opening, seat: &Seat, at: Position) -> Result<(Resume, Position), ConnectError> {
        let reset = (Resume::Reset { from: at.floor }, at);
        if opening.log_id.is_some_and(|log_id| log_id != at.log_id) {
            return Ok(reset);
        }
        let place = match opening.since {
            Since::Live => return Ok((Resume::Live { from: at.published }, at)),
            Since::Earliest => return Ok((Resume::Ok { from: at.floor }, at)),
            Since::Seq(seq) => seq,
            Since::Ack => match self.stored_place(opening, at).await? {
                Known::New(_) => return Ok((Resume::Live { from: at.published }, at)),
                known if known.place().log_id != at.log_id => return Ok(reset),
                // How far it really was is forgotten, so nothing is replayed: it would have most of it twice.
                Known::Forgotten(place) if place.acked < at.published => {
                    return Ok((Resume::Gap { from: at.published, lost_from: place.acked.next(), lost_to: at.published }, at));
                }
                known => known.place().acked,
            },
        };
        let Some(at) = self.wait_until_read(place, seat, at).await? else { return Ok(reset) };
        if place < at.floor {
            return Ok((Resume::Gap { from: at.floor, lost_from: place.next(), lost_to: at.floor }, at));
        }
        if let Some(last_id) = opening.last_id
            && place > at.floor
            && read::id_at(&self.reader, place).await? != Some(last_id)
        {
            return Ok((Resume::Reset { from: at.floor }, at));
        }
        Ok((Resume::Ok { from: place }, at))
    }

    /// What the database knows of the device, and this instance beyond that.
    async fn stored_place(&self, opening: &Opening, at: Position) -> Result<Known, ConnectError> {
        let start = Place { log_id: at.log_id, acked: at.published };
        let known = self.known_place(opening, start).await?;
        let Some(pending) = self.acks.pending(&opening.who.user, &opening.client, at.log_id) else { return Ok(known) };
        let acked = match known {
            Known::At(place) if place.log_id == at.log_id => place.acked.max(pending),
            Known::At(_) | Known::Forgotten(_) => pending,
            Known::New(_) => return Ok(known),
        };
        Ok(Known::At(Place { log_id: at.log_id, acked }))
    }

    /// Asking again is right: a first place that was stored by a try without an answer is found by the next.
    async fn known_place(&self, opening: &Opening, start: Place) -> Result<Known, StoreError> {
        let ask = || cursors::place_or_start(&self.reader, &opening.who.user, &opening.client, start);
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_millis(500));
        for _ in 1..PLACE_TRIES {
            match ask().await {
                Err(StoreError::Unavailable(error)) => {
                    tracing::debug!(%error, "a device's place is asked for again");
                    tokio::time::sleep(backoff.failed()).await;
                }
                outcome => return outcome,
            }
        }
        ask().await
    }

    /// A place above what this instance has published is either one that another, quicker instance has given, or one
    /// of a history that was cut back. The log itself tells which; `None` is the latter.
    async fn wait_until_read(&self, place: Seq, seat: &Seat, at: Position) -> Result<Option<Position>, ConnectError> {
        if place <= at.published {
            return Ok(Some(at));
        }
        let head = read::head(&self.reader).await?;
        if place > head {
            return Ok(None);
        }
        let end = Instant::now() + CATCH_UP_LIMIT;
        while self.registry.position().published < place {
            if Instant::now() > end {
                return Err(ConnectError::Behind);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(Some(self.registry.retake(seat.member())))
    }
}
