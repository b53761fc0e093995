//! Records a device's new connection, reads its kept ones, and stores what is settled.

use sqlx::PgConnection;
use uuid::Uuid;

use super::StoreError;
use super::acked_positions::{DevicePosition, KnownDevice};
use super::append::array_text;
use super::database::Reader;
use super::members;
use super::time_limit::{ASK_LIMIT, limited};
use crate::domain::resume::{KeptPosition, SettledConnection};
use crate::domain::{ClientId, InstanceId, LogId, MemberInterval, Principal, Seq, SessionId, UserId};

/// How much earlier than it was read a client's close may have been sent, in microseconds.
const FAREWELL_MICROS: i64 = 250_000;

/// A new connection.
#[derive(Debug, Clone)]
pub struct ConnectionBegin {
    pub session: SessionId,
    pub instance: InstanceId,
    pub who: Principal,
    pub client: ClientId,
    pub transport: &'static str,
    /// Whether the accounts of the table `recado.member` count.
    pub follows_members: bool,
    /// The position of a device that was never seen.
    pub start: DevicePosition,
}

impl ConnectionBegin {
    /// The device of the connection, by which connections are sorted.
    pub fn device(&self) -> (&UserId, &ClientId) {
        (&self.who.user, &self.client)
    }
}

/// A kept connection of the device, and the instance that holds it.
#[derive(Debug, Clone)]
pub struct KeptConnection {
    pub kept: KeptPosition,
    pub instance: InstanceId,
}

/// What the database knew of a device when its new connection was stored.
#[derive(Debug)]
pub struct StoredBegin {
    pub known: KnownDevice,
    /// The device's other connections in the same log, newest first.
    pub kept: Vec<KeptConnection>,
    /// The user's membership intervals, if they were read in the same call.
    pub intervals: Option<Vec<MemberInterval>>,
}

/// Records a connection. Counts as seeing the device. See `recado.connection_begin` in `migrations/V14__resume.sql` and
/// `migrations/V19__members.sql`.
///
/// # Errors
/// When the database is unavailable or slow. The call can be repeated.
pub async fn begin(reader: &Reader, new: &ConnectionBegin) -> Result<StoredBegin, StoreError> {
    let mut checkout = reader.checkout().await?;
    let rows = sqlx::query_as!(
        BeginRow,
        r#"SELECT 1::bigint AS "entry!", b.log_id AS "log_id!", b.acked_seq AS "acked_seq!", b.is_new AS "is_new!",
                  b.is_forgotten AS "is_forgotten!", b.session_id AS "session_id!", b.instance_id AS "instance_id!",
                  b.session_log_id AS "session_log_id!", b.from_seq AS "from_seq!", b.own_acked_seq, b.device_seq, b.shared_seq,
                  b.has_resumed AS "has_resumed!", b.lowered AS "lowered!", b.end_reason, b.began_age AS "began_age!",
                  b.active_age AS "active_age!", b.ended_age, b.gone_age, b.began_shared AS "began_shared!",
                  NULL::text[] AS member_accounts, NULL::bigint[] AS member_since, NULL::bigint[] AS "member_until: Vec<Option<i64>>"
             FROM recado.connection_begin($1, $2, $3, $4, $5, $6, $7::text[], $8, $9) b"#,
        new.who.user.as_str(),
        new.client.as_str(),
        new.start.log_id.0,
        new.start.acked.get(),
        new.session.0,
        new.instance.0,
        array_text(&new.who.accounts) as _,
        new.transport,
        new.follows_members,
    )
    .fetch_all(checkout.connection());
    let rows = limited(ASK_LIMIT, rows).await?;
    checkout.done();
    let stored = BeginRow::stored(&rows, new).ok_or(StoreError::Unavailable(sqlx::Error::RowNotFound))?;
    Ok(StoredBegin { intervals: None, ..stored })
}

/// Records connections of one instance in one transaction. Returns `None` for each one that [`begin`] must record: its
/// device needs locks. See `recado.connections_begin` in `migrations/V27__connects.sql`.
///
/// `new` must be sorted by user and client, without a device twice: two calls would wait for each other's locks.
/// `after`: which membership intervals are read, those that end above it.
///
/// # Errors
/// When the database is unavailable or slow. The call can be repeated.
pub async fn begin_many(
    connection: &mut PgConnection,
    after: Seq,
    new: &[&ConnectionBegin],
) -> Result<Vec<Option<StoredBegin>>, StoreError> {
    debug_assert!(new.is_sorted_by_key(|new| new.device()), "unsorted connections deadlock two instances");
    let Some(first) = new.first() else { return Ok(Vec::new()) };
    let sessions: Vec<Uuid> = new.iter().map(|new| new.session.0).collect();
    let users: Vec<&str> = new.iter().map(|new| new.who.user.as_str()).collect();
    let clients: Vec<&str> = new.iter().map(|new| new.client.as_str()).collect();
    let logs: Vec<Uuid> = new.iter().map(|new| new.start.log_id.0).collect();
    let starts: Vec<i64> = new.iter().map(|new| new.start.acked.get()).collect();
    let accounts: Vec<String> = new.iter().map(|new| array_text(&new.who.accounts)).collect();
    let transports: Vec<&str> = new.iter().map(|new| new.transport).collect();
    let follows: Vec<bool> = new.iter().map(|new| new.follows_members).collect();
    let rows = sqlx::query_as!(
        BeginRow,
        r#"SELECT b.entry AS "entry!", b.log_id AS "log_id!", b.acked_seq AS "acked_seq!", b.is_new AS "is_new!",
                  b.is_forgotten AS "is_forgotten!", b.session_id AS "session_id!", b.instance_id AS "instance_id!",
                  b.session_log_id AS "session_log_id!", b.from_seq AS "from_seq!", b.own_acked_seq, b.device_seq, b.shared_seq,
                  b.has_resumed AS "has_resumed!", b.lowered AS "lowered!", b.end_reason, b.began_age AS "began_age!",
                  b.active_age AS "active_age!", b.ended_age, b.gone_age, b.began_shared AS "began_shared!",
                  b.member_accounts, b.member_since, b.member_until AS "member_until: Vec<Option<i64>>"
             FROM recado.connections_begin($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) b"#,
        first.instance.0,
        after.get(),
        &sessions,
        &users as _,
        &clients as _,
        &logs,
        &starts,
        &accounts,
        &transports as _,
        &follows,
    )
    .fetch_all(connection);
    let rows = limited(ASK_LIMIT, rows).await?;
    let mut stored: Vec<Option<StoredBegin>> = new.iter().map(|_| None).collect();
    for rows in rows.chunk_by(|a, b| a.entry == b.entry) {
        let Some(at) = rows.first().and_then(|row| usize::try_from(row.entry).ok()?.checked_sub(1)) else { continue };
        if let (Some(slot), Some(new)) = (stored.get_mut(at), new.get(at)) {
            *slot = BeginRow::stored(rows, new);
        }
    }
    Ok(stored)
}

/// A kept connection of a device, with the stored state of the device.
struct BeginRow {
    entry: i64,
    log_id: Uuid,
    acked_seq: i64,
    is_new: bool,
    is_forgotten: bool,
    session_id: Uuid,
    instance_id: Uuid,
    session_log_id: Uuid,
    from_seq: i64,
    own_acked_seq: Option<i64>,
    device_seq: Option<i64>,
    shared_seq: Option<i64>,
    has_resumed: bool,
    lowered: i16,
    end_reason: Option<String>,
    began_age: i64,
    active_age: i64,
    ended_age: Option<i64>,
    gone_age: Option<i64>,
    began_shared: bool,
    member_accounts: Option<Vec<String>>,
    member_since: Option<Vec<i64>>,
    member_until: Option<Vec<Option<i64>>>,
}

impl BeginRow {
    /// Reads the rows of one device. `None` if there is no row.
    fn stored(rows: &[Self], new: &ConnectionBegin) -> Option<StoredBegin> {
        let first = rows.first()?;
        let position = DevicePosition { log_id: LogId(first.log_id), acked: Seq::from_db(first.acked_seq) };
        let known = match (first.is_new, first.is_forgotten) {
            (true, _) => KnownDevice::New(position),
            (false, true) => KnownDevice::Forgotten(position),
            (false, false) => KnownDevice::At(position),
        };
        let kept = rows.iter().filter(|row| row.session_id != new.session.0 && row.session_log_id == new.start.log_id.0);
        let own = rows.iter().find(|row| row.session_id == new.session.0);
        // Intervals of a user that follows no table are not asked for. The others stand in the row of the connection.
        let intervals = own.map(|own| own.intervals());
        Some(StoredBegin { known, kept: kept.map(Self::kept).collect(), intervals })
    }

    fn kept(&self) -> KeptConnection {
        let is_lost = self.end_reason.as_deref() == Some("instance_lost");
        let (end, is_final) = match (self.ended_age, self.end_reason.as_deref()) {
            (Some(ended), Some(reason)) if !is_lost => (Some(end_of(reason, self.active_age, ended)), true),
            // Of a connection of a dead instance only the end is known.
            (ended, _) => {
                let gone = |over| ConnectionEnd { seen: self.active_age, over, left: over };
                (self.gone_age.map(gone), ended.is_some())
            }
        };
        KeptConnection {
            instance: InstanceId(self.instance_id),
            kept: KeptPosition {
                session: SessionId(self.session_id),
                began: self.began_age,
                seen: end.map_or(self.active_age, |end| end.seen),
                over: end.map(|end| end.over),
                left: end.map(|end| end.left),
                is_final,
                from: Seq::from_db(self.from_seq),
                acked: self.own_acked_seq.map(Seq::from_db),
                device: self.device_seq.map(Seq::from_db),
                began_shared: self.began_shared,
                shared: self.shared_seq.map(Seq::from_db),
                has_resumed: self.has_resumed,
                lowered: self.lowered,
            },
        }
    }

    fn intervals(&self) -> Vec<MemberInterval> {
        let (Some(accounts), Some(since), Some(until)) = (&self.member_accounts, &self.member_since, &self.member_until) else {
            return Vec::new();
        };
        let each = accounts.iter().zip(since).zip(until);
        each.filter_map(|((account, since), until)| members::interval(account, *since, *until)).collect()
    }
}

/// What the end of a connection says about it, as ages in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionEnd {
    /// When it was certainly open.
    pub seen: i64,
    /// Since when it was certainly over.
    pub over: i64,
    /// Since when it may have been over: the client's close may have been sent before it was read.
    pub left: i64,
}

/// Reads the end of a connection from its reason, its last sign of life and the time of its end.
pub fn end_of(reason: &str, active: i64, ended: i64) -> ConnectionEnd {
    let (seen, over, left) = match reason {
        // The client was gone at its last sign of life; the hub noticed it only later.
        "no_pong" | "slow_consumer" => (active, active, active),
        // A client that closes and reconnects at once may be admitted before its close is read.
        "closed_by_client" | "lost" => (active, ended, ended.saturating_add(FAREWELL_MICROS).min(active.max(ended))),
        _ => (ended, ended, ended),
    };
    ConnectionEnd { seen, over, left }
}

/// Stores what can no longer change. Anything that is lost is found again by the next connect.
///
/// # Errors
/// When the database is unavailable or slow. The call can be repeated.
pub async fn settle(connection: &mut PgConnection, settled: &[SettledConnection]) -> Result<(), StoreError> {
    let ids: Vec<_> = settled.iter().map(|one| one.session.0).collect();
    let kept: Vec<bool> = settled.iter().map(|one| one.is_kept).collect();
    let resumed: Vec<bool> = settled.iter().map(|one| one.has_resumed).collect();
    let shared: Vec<Option<i64>> = settled.iter().map(|one| one.shared.map(Seq::get)).collect();
    let lowered: Vec<i16> = settled.iter().map(|one| one.lowered).collect();
    let began_shared: Vec<bool> = settled.iter().map(|one| one.began_shared).collect();
    let from: Vec<Option<i64>> = settled.iter().map(|one| one.from.map(Seq::get)).collect();
    let written = sqlx::query!(
        r#"WITH locked AS (
               SELECT session_id FROM recado.session WHERE session_id = ANY($1::uuid[]) ORDER BY session_id FOR UPDATE)
           UPDATE recado.session s
              SET is_kept = s.is_kept AND d.is_kept, has_resumed = s.has_resumed OR d.has_resumed,
                  shared_seq = coalesce(s.shared_seq, d.shared_seq), lowered = greatest(s.lowered, d.lowered),
                  began_shared = s.began_shared OR d.began_shared,
                  from_seq = CASE WHEN s.own_acked_seq IS NULL THEN least(s.from_seq, d.from_seq) ELSE s.from_seq END
             FROM unnest($1::uuid[], $2::boolean[], $3::boolean[], $4::bigint[], $5::smallint[], $6::bigint[],
                         $7::boolean[])
                  AS d (session_id, is_kept, has_resumed, shared_seq, lowered, from_seq, began_shared)
             JOIN locked l ON l.session_id = d.session_id
            WHERE s.session_id = d.session_id"#,
        &ids,
        &kept,
        &resumed,
        &shared as _,
        &lowered,
        &from as _,
        &began_shared,
    )
    .execute(connection);
    limited(ASK_LIMIT, written).await?;
    Ok(())
}
