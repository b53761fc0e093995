//! How far each device has acknowledged, and when it was last here.

use sqlx::PgConnection;

use super::StoreError;
use super::database::{ASK_LIMIT, Reader, limited};
use crate::domain::{ClientId, LogId, Seq, UserId};

/// A device's place, and the history that it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub log_id: LogId,
    pub acked: Seq,
}

/// What is known of a device that connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// It has a place.
    At(Place),
    /// It had none, and has this one now, for good: what is sent to it from now on and never acknowledged will come
    /// again, even if the hub dies before the first ack.
    New(Place),
    /// It was idle for so long that its place was forgotten; it had come at least so far. Nothing is stored: it is
    /// forgotten until it acknowledges something.
    Forgotten(Place),
}

impl Known {
    /// The place, whatever it is worth.
    pub fn place(self) -> Place {
        match self {
            Self::At(place) | Self::New(place) | Self::Forgotten(place) => place,
        }
    }
}

/// What is known of a device; one that was never seen gets `start`. Counts as seeing it. See `recado.device_place` in
/// `migrations/V7__devices.sql` for the races.
///
/// # Errors
/// When the database is away or slow.
pub async fn place_or_start(reader: &Reader, user: &UserId, client: &ClientId, start: Place) -> Result<Known, StoreError> {
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
    let place = Place { log_id: LogId(found.log_id), acked: Seq::from_db(found.acked_seq) };
    Ok(match (found.is_new, found.is_forgotten) {
        (true, _) => Known::New(place),
        (false, true) => Known::Forgotten(place),
        (false, false) => Known::At(place),
    })
}

/// Notes that these devices are connected: a write a device and day, whatever the number of calls. Devices without a
/// place have nothing that could be forgotten. Waits for nobody, so the order of `devices` does not matter: a row that
/// somebody holds is being acknowledged or seen by them.
///
/// # Errors
/// When the database is away or slow.
pub async fn seen(connection: &mut PgConnection, devices: &[(UserId, ClientId)]) -> Result<(), StoreError> {
    let users: Vec<&str> = devices.iter().map(|(user, _)| user.as_str()).collect();
    let clients: Vec<&str> = devices.iter().map(|(_, client)| client.as_str()).collect();
    let noted = sqlx::query!(
        r#"WITH due AS (
               SELECT c.user_id, c.client_id
                 FROM unnest($1::text[], $2::text[]) AS d (user_id, client_id)
                 JOIN recado.cursor c ON c.user_id = d.user_id AND c.client_id = d.client_id
                WHERE c.seen_at < clock_timestamp() - interval '1 day'
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

/// Stores acknowledgements of one history. A place never goes back; one of another history than the log's present one
/// is not stored. Says how many moved. `acks` must be sorted: two instances that lock the same rows in two orders would deadlock.
///
/// # Errors
/// When the database is away or slow. Nothing is stored then, and storing again is right.
pub async fn store(connection: &mut PgConnection, log_id: LogId, acks: &[Ack]) -> Result<u64, StoreError> {
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
        return Ok(limited(ASK_LIMIT, stored).await?.rows_affected());
    }
    let stored = sqlx::query!(
        r#"INSERT INTO recado.cursor AS c (user_id, client_id, log_id, acked_seq)
           SELECT a.user_id, a.client_id, m.log_id, a.acked_seq
             FROM unnest($2::text[], $3::text[], $4::bigint[]) AS a (user_id, client_id, acked_seq)
             JOIN recado.meta m ON m.log_id = $1
           ON CONFLICT (user_id, client_id) DO UPDATE
              SET acked_seq = excluded.acked_seq, log_id = excluded.log_id, acked_at = clock_timestamp()
            WHERE c.log_id <> excluded.log_id OR c.acked_seq < excluded.acked_seq"#,
        log_id.0,
        &users as _,
        &clients as _,
        &seqs,
    )
    .execute(connection);
    Ok(limited(ASK_LIMIT, stored).await?.rows_affected())
}

/// Stores one device's acknowledgement, and says what its place is then, and whether this moved it.
///
/// # Errors
/// When the database is away or slow. Storing again is right.
pub async fn store_one(reader: &Reader, log_id: LogId, ack: &Ack) -> Result<(Place, bool), StoreError> {
    let mut checkout = reader.checkout().await?;
    let moved = store(checkout.connection(), log_id, std::slice::from_ref(ack)).await?;
    checkout.done();
    let known = place_or_start(reader, &ack.user, &ack.client, Place { log_id, acked: ack.acked }).await?;
    Ok((known.place(), moved > 0))
}
