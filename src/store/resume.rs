//! Records a device's new connection, reads its kept ones, and stores what is settled.

use sqlx::PgConnection;

use super::StoreError;
use super::acked_positions::{DevicePosition, KnownDevice};
use super::append::array_text;
use super::database::Reader;
use super::time_limit::{ASK_LIMIT, limited};
use crate::domain::resume::{KeptPosition, SettledConnection};
use crate::domain::{ClientId, InstanceId, LogId, Principal, Seq, SessionId};

/// How much earlier than it was read a client's close may have been sent, in microseconds.
const FAREWELL_MICROS: i64 = 250_000;

/// A new connection.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionBegin<'a> {
    pub session: SessionId,
    pub instance: InstanceId,
    pub who: &'a Principal,
    pub client: &'a ClientId,
    pub transport: &'static str,
    /// Whether the accounts of the table `recado.member` count.
    pub follows_members: bool,
    /// The position of a device that was never seen.
    pub start: DevicePosition,
}

/// A kept connection of the device, and the instance that holds it.
#[derive(Debug, Clone)]
pub struct KeptConnection {
    pub kept: KeptPosition,
    pub instance: InstanceId,
}

/// Records a connection. Returns the stored state of its device, and the device's other connections in the same log.
/// Counts as seeing the device. See `recado.connection_begin` in `migrations/V14__resume.sql` and
/// `migrations/V19__members.sql`.
///
/// # Errors
/// When the database is unavailable or slow. The call can be repeated.
pub async fn begin(reader: &Reader, new: ConnectionBegin<'_>) -> Result<(KnownDevice, Vec<KeptConnection>), StoreError> {
    let mut checkout = reader.checkout().await?;
    let rows = sqlx::query!(
        r#"SELECT b.log_id AS "log_id!", b.acked_seq AS "acked_seq!", b.is_new AS "is_new!", b.is_forgotten AS "is_forgotten!",
                  b.session_id AS "session_id!", b.instance_id AS "instance_id!", b.session_log_id AS "session_log_id!",
                  b.from_seq AS "from_seq!", b.own_acked_seq, b.device_seq, b.shared_seq, b.has_resumed AS "has_resumed!",
                  b.lowered AS "lowered!", b.end_reason, b.began_age AS "began_age!", b.active_age AS "active_age!", b.ended_age,
                  b.gone_age, b.began_shared AS "began_shared!"
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
    let Some(first) = rows.first() else { return Err(StoreError::Unavailable(sqlx::Error::RowNotFound)) };
    let position = DevicePosition { log_id: LogId(first.log_id), acked: Seq::from_db(first.acked_seq) };
    let known = match (first.is_new, first.is_forgotten) {
        (true, _) => KnownDevice::New(position),
        (false, true) => KnownDevice::Forgotten(position),
        (false, false) => KnownDevice::At(position),
    };
    let others = rows.iter().filter(|row| row.session_id != new.session.0 && row.session_log_id == new.start.log_id.0);
    let listed = others.map(|row| {
        let is_lost = row.end_reason.as_deref() == Some("instance_lost");
        let (end, is_final) = match (row.ended_age, row.end_reason.as_deref()) {
            (Some(ended), Some(reason)) if !is_lost => (Some(end_of(reason, row.active_age, ended)), true),
            // Of a connection of a dead instance only the end is known.
            (ended, _) => {
                let gone = |over| ConnectionEnd { seen: row.active_age, over, left: over };
                (row.gone_age.map(gone), ended.is_some())
            }
        };
        let from = Seq::from_db(row.from_seq);
        KeptConnection {
            instance: InstanceId(row.instance_id),
            kept: KeptPosition {
                session: SessionId(row.session_id),
                began: row.began_age,
                seen: end.map_or(row.active_age, |end| end.seen),
                over: end.map(|end| end.over),
                left: end.map(|end| end.left),
                is_final,
                from,
                acked: row.own_acked_seq.map(Seq::from_db),
                device: row.device_seq.map(Seq::from_db),
                began_shared: row.began_shared,
                shared: row.shared_seq.map(Seq::from_db),
                has_resumed: row.has_resumed,
                lowered: row.lowered,
            },
        }
    });
    Ok((known, listed.collect()))
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
