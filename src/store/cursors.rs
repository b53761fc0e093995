//! How far each device has acknowledged.

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

/// The stored place of a device, and whether it was made now. One that has none yet gets `start`, for good: what is sent
/// to it from now on and never acknowledged will come again, even if the hub dies before the first ack.
///
/// # Errors
/// When the database is away or slow.
pub async fn place_or_start(reader: &Reader, user: &UserId, client: &ClientId, start: Place) -> Result<(Place, bool), StoreError> {
    let mut checkout = reader.checkout().await?;
    let known =
        sqlx::query!("SELECT log_id, acked_seq FROM recado.cursor WHERE user_id = $1 AND client_id = $2", user.as_str(), client.as_str())
            .fetch_optional(checkout.connection());
    if let Some(known) = limited(ASK_LIMIT, known).await? {
        checkout.done();
        return Ok((Place { log_id: LogId(known.log_id), acked: Seq::from_db(known.acked_seq) }, false));
    }
    // Two first connections of one device may race: the one that comes second takes the first one's place.
    let made = sqlx::query!(
        r#"INSERT INTO recado.cursor AS c (user_id, client_id, log_id, acked_seq)
           VALUES ($1, $2, $3, $4)
           ON CONFLICT (user_id, client_id) DO UPDATE SET acked_seq = c.acked_seq
           RETURNING log_id, acked_seq"#,
        user.as_str(),
        client.as_str(),
        start.log_id.0,
        start.acked.get(),
    )
    .fetch_one(checkout.connection());
    let made = limited(ASK_LIMIT, made).await?;
    checkout.done();
    let place = Place { log_id: LogId(made.log_id), acked: Seq::from_db(made.acked_seq) };
    Ok((place, place == start))
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
    let (place, _) = place_or_start(reader, &ack.user, &ack.client, Place { log_id, acked: ack.acked }).await?;
    Ok((place, moved > 0))
}
