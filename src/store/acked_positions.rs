//! Stores how far each device has acknowledged, and when it was last seen.

use sqlx::PgConnection;

use super::StoreError;
use super::database::Reader;
use super::time_limit::{ASK_LIMIT, limited};
use crate::domain::{ClientId, LogId, Seq, UserId};
use crate::metrics::RETENTION;

/// A device's acknowledged position, and the log that it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DevicePosition {
    pub log_id: LogId,
    pub acked: Seq,
}

/// The stored state of a device that connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KnownDevice {
    /// It has a stored position.
    At(DevicePosition),
    /// It had no position, and this one is now stored for good. Notifications that are sent to it from now on and never
    /// acknowledged are sent again, even if the hub dies before the first ack.
    New(DevicePosition),
    /// Its position was deleted because it was idle for too long; it had acknowledged at least up to this one. Nothing
    /// is stored until it acknowledges again.
    Forgotten(DevicePosition),
}

impl KnownDevice {
    /// The position, in each of the three cases.
    pub fn place(self) -> DevicePosition {
        match self {
            Self::At(position) | Self::New(position) | Self::Forgotten(position) => position,
        }
    }
}

/// Returns the stored state of a device and records that it was seen. A device that was never seen gets `start`.
/// `recado.device_place` in `migrations/V7__devices.sql` describes the races.
///
/// # Errors
/// When the database is unavailable or slow.
pub async fn place_or_start(reader: &Reader, user: &UserId, client: &ClientId, start: DevicePosition) -> Result<KnownDevice, StoreError> {
    let mut checkout = reader.checkout().await?;
    let found = sqlx::query!(
        r#"SELECT log_id AS "log_id!", acked_seq AS "acked_seq!", is_new AS "is_new!", is_forgotten AS "is_forgotten!"
             FROM recado.device_place($1, $2, $3, $4)"#,
        user.as_str(),
        client.as_str(),
        start.log_id.0,
        start.acked.get(),
    )
    .fetch_one(checkout.connection());
    let found = limited(ASK_LIMIT, found).await?;
    checkout.done();
    let position = DevicePosition { log_id: LogId(found.log_id), acked: Seq::from_db(found.acked_seq) };
    Ok(match (found.is_new, found.is_forgotten) {
        (true, _) => KnownDevice::New(position),
        (false, true) => KnownDevice::Forgotten(position),
        (false, false) => KnownDevice::At(position),
    })
}

/// Records that these devices are connected: one write for each device and day, however often it is called. A device
/// without a position has nothing that could expire. Locked rows are skipped, so the order of `devices` does not
/// matter: the holder of the lock is storing an acknowledgement or a sighting of the same device.
///
/// # Errors
/// When the database is unavailable or slow.
pub async fn seen(connection: &mut PgConnection, devices: &[(UserId, ClientId)]) -> Result<(), StoreError> {
    let users: Vec<&str> = devices.iter().map(|(user, _)| user.as_str()).collect();
    let clients: Vec<&str> = devices.iter().map(|(_, client)| client.as_str()).collect();
    let noted = sqlx::query!(
        r#"WITH due AS (
               SELECT c.user_id, c.client_id
                 FROM unnest($1::text[], $2::text[]) AS d (user_id, client_id)
                 JOIN recado.cursor c ON c.user_id = d.user_id AND c.client_id = d.client_id
                WHERE c.seen_at < statement_timestamp() - interval '1 day'
                  FOR UPDATE OF c SKIP LOCKED)
           UPDATE recado.cursor c
              SET seen_at = clock_timestamp()
             FROM due d
            WHERE c.user_id = d.user_id AND c.client_id = d.client_id"#,
        &users as _,
        &clients as _,
    )
    .execute(connection);
    limited(ASK_LIMIT, noted).await?;
    Ok(())
}

/// One device's acknowledgement.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ack {
    pub user: UserId,
    pub client: ClientId,
    pub acked: Seq,
}

/// The result of storing acknowledgements.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoredAck {
    /// Positions that moved, new ones included.
    pub moved: u64,
    /// Users that have one more device than before; see [`trim`].
    pub newcomers: Vec<UserId>,
}

/// Stores acknowledgements of one log. A position never moves backwards. Acknowledgements of a log that is not the
/// present one are not stored. `acks` must be sorted: two instances that lock the same rows in two orders would
/// deadlock.
///
/// # Errors
/// When the database is unavailable or slow. Nothing is stored then; the call can be repeated.
pub async fn store(connection: &mut PgConnection, log_id: LogId, acks: &[Ack]) -> Result<StoredAck, StoreError> {
    debug_assert!(acks.is_sorted(), "unsorted acknowledgements deadlock two instances");
    let users: Vec<&str> = acks.iter().map(|a| a.user.as_str()).collect();
    let clients: Vec<&str> = acks.iter().map(|a| a.client.as_str()).collect();
    let seqs: Vec<i64> = acks.iter().map(|a| a.acked.get()).collect();
    #[cfg(feature = "mutants")]
    if crate::mutants::is("acks-go-back") {
        let last_wins = "INSERT INTO recado.cursor AS c (user_id, client_id, log_id, acked_seq)
            SELECT a.user_id, a.client_id, $1, a.acked_seq FROM unnest($2::text[], $3::text[], $4::bigint[]) AS a (user_id, client_id, acked_seq)
            ON CONFLICT (user_id, client_id) DO UPDATE SET acked_seq = excluded.acked_seq";
        let stored = sqlx::query(last_wins).bind(log_id.0).bind(&users).bind(&clients).bind(&seqs).execute(connection);
        return Ok(StoredAck { moved: limited(ASK_LIMIT, stored).await?.rows_affected(), newcomers: Vec::new() });
    }
    let stored = sqlx::query!(
        r#"WITH stored AS (
               INSERT INTO recado.cursor AS c (user_id, client_id, log_id, acked_seq)
               SELECT a.user_id, a.client_id, m.log_id, a.acked_seq
                 FROM unnest($2::text[], $3::text[], $4::bigint[]) AS a (user_id, client_id, acked_seq)
                 JOIN recado.meta m ON m.log_id = $1
               ON CONFLICT (user_id, client_id) DO UPDATE
                  SET acked_seq = excluded.acked_seq, log_id = excluded.log_id, acked_at = clock_timestamp()
                WHERE c.log_id <> excluded.log_id OR c.acked_seq < excluded.acked_seq
               -- Nobody has ever locked a row that was made just now.
               RETURNING c.user_id, c.xmax = 0 AS is_new)
           SELECT count(*) AS "moved!", coalesce(array_agg(DISTINCT user_id) FILTER (WHERE is_new), '{}') AS "newcomers!"
             FROM stored"#,
        log_id.0,
        &users as _,
        &clients as _,
        &seqs,
    )
    .fetch_one(connection);
    let stored = limited(ASK_LIMIT, stored).await?;
    let newcomers = stored.newcomers.iter().filter_map(|user| UserId::parse(user).ok()).collect();
    Ok(StoredAck { moved: stored.moved.unsigned_abs(), newcomers })
}

/// Keeps at most `most` devices of each of these users, who have a new one. The devices that were unused for longest
/// are deleted and leave a mark, as in [`super::device_expiry`]. Most users have few devices, and cost a look into the
/// index. Returns how many devices were deleted.
///
/// # Errors
/// When the database is unavailable or slow. The rest is deleted when the user has the next new device.
pub async fn trim(connection: &mut PgConnection, users: &[UserId], most: usize) -> Result<u64, StoreError> {
    if users.is_empty() {
        return Ok(0);
    }
    let mut users: Vec<&str> = users.iter().map(UserId::as_str).collect();
    // Each user's mark is locked until the end: two instances must take them in one order.
    users.sort_unstable();
    users.dedup();
    let most = i32::try_from(most).unwrap_or(i32::MAX);
    let gone = sqlx::query_scalar!(
        r#"SELECT coalesce(sum(recado.trim_devices(u.user_id, $2)), 0) AS "gone!"
             FROM unnest($1::text[]) AS u (user_id)
            WHERE (SELECT count(*) FROM (SELECT FROM recado.cursor c WHERE c.user_id = u.user_id LIMIT $2::bigint + 1) d) > $2"#,
        &users as _,
        most,
    )
    .fetch_one(connection);
    let gone = limited(ASK_LIMIT, gone).await?.unsigned_abs();
    RETENTION.add("devices", gone);
    Ok(gone)
}

/// As [`trim`], with a connection of a pool.
///
/// # Errors
/// As [`trim`].
pub async fn trim_one(reader: &Reader, user: &UserId, most: usize) -> Result<u64, StoreError> {
    let mut checkout = reader.checkout().await?;
    let gone = trim(checkout.connection(), std::slice::from_ref(user), most).await?;
    checkout.done();
    Ok(gone)
}

/// Stores one device's acknowledgement and keeps its user at `most` devices. Returns whether the device's position
/// moved.
///
/// # Errors
/// When the database is unavailable or slow. The call can be repeated.
pub async fn store_one(reader: &Reader, log_id: LogId, ack: &Ack, most: usize) -> Result<bool, StoreError> {
    let mut checkout = reader.checkout().await?;
    let stored = store(checkout.connection(), log_id, std::slice::from_ref(ack)).await?;
    trim(checkout.connection(), &stored.newcomers, most).await?;
    checkout.done();
    Ok(stored.moved > 0)
}

/// As [`store_one`]. Returns the device's position after that as well.
///
/// # Errors
/// As [`store_one`].
pub async fn store_and_read(reader: &Reader, log_id: LogId, ack: &Ack, most: usize) -> Result<(DevicePosition, bool), StoreError> {
    let moved = store_one(reader, log_id, ack, most).await?;
    let known = place_or_start(reader, &ack.user, &ack.client, DevicePosition { log_id, acked: ack.acked }).await?;
    Ok((known.place(), moved))
}
