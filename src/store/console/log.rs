//! Reads whole rows of the log in the order of their numbers, and its partitions.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::domain::{AccountId, Seq, UserId};
use crate::store::StoreError;
use crate::store::database::Reader;
use crate::store::read::{self, LogState};
use crate::store::repeated_read::again_if_lost;
use crate::store::time_limit::{ASK_LIMIT, limited};

/// Most rows that one page returns.
pub const PAGE_ROWS: i64 = 500;
/// Most rows that one page looks at. With a filter, most of them may be of no interest.
pub const PAGE_LOOKS: i64 = 5000;
/// A page ends before the row that would bring its texts and lists of users above this many bytes. One row always fits.
const PAGE_BYTES: i64 = 1 << 20;

/// The conditions that a row must meet, all of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogFilter {
    /// Types, and beginnings of types that end with `*`, as in `types=` of a client. The hub's own rows get no
    /// exception: an admin loses nothing by not seeing them.
    pub types: Option<Vec<String>>,
    /// The row names this user, alone or in a list.
    pub user: Option<UserId>,
    /// The row is addressed to this account, or to a user in this account only.
    pub account: Option<AccountId>,
    pub source: Option<String>,
}

/// A row as it is stored.
#[derive(Debug)]
pub struct LogRow {
    pub seq: i64,
    pub id: Uuid,
    pub kind: String,
    pub title: String,
    pub message: String,
    /// JSON text, as it was posted.
    pub data: Option<String>,
    pub created_at: DateTime<Utc>,
    pub user_ids: Vec<String>,
    pub account_id: Option<String>,
    pub broadcast: bool,
    pub source: String,
    pub expires_at: Option<DateTime<Utc>>,
    pub replay: bool,
    pub bytes: i32,
}

/// Rows of a stretch of the log.
#[derive(Debug)]
pub struct LogPage {
    pub rows: Vec<LogRow>,
    /// Every row up to this number that meets the conditions is on this page or an earlier one.
    pub through: Seq,
}

/// Reads the rows above `after` and up to `upto` that meet the conditions, at most `most`.
///
/// Numbers have no holes, so a stretch of numbers bounds how many rows are looked at, whatever the filter.
///
/// # Errors
/// When the database is unavailable or slow.
pub async fn page(reader: &Reader, after: Seq, upto: Seq, filter: &LogFilter, most: i64) -> Result<LogPage, StoreError> {
    let end = upto.min(after.plus(PAGE_LOOKS));
    let most = most.clamp(1, PAGE_ROWS);
    let rows = again_if_lost(reader, || rows(reader, after, end, filter, most)).await?;
    let read = i64::try_from(rows.len()).unwrap_or(most);
    let bytes: i64 = rows.iter().map(|row| row.weight).sum();
    // A page that may have been cut off is complete up to its last row.
    let is_cut = read == most || rows.first().is_some_and(|row| bytes < row.all_bytes);
    let last = rows.last().map_or(end, |row| Seq::from_db(row.seq));
    Ok(LogPage { through: if is_cut { last } else { end }, rows: rows.into_iter().map(LogColumns::row).collect() })
}

struct LogColumns {
    seq: i64,
    id: Uuid,
    kind: String,
    title: String,
    message: String,
    data: Option<String>,
    created_at: DateTime<Utc>,
    user_ids: Vec<String>,
    account_id: Option<String>,
    broadcast: bool,
    source: String,
    expires_at: Option<DateTime<Utc>>,
    replay: bool,
    bytes: i32,
    weight: i64,
    /// The weight of all rows that were found.
    all_bytes: i64,
}

impl LogColumns {
    fn row(self) -> LogRow {
        LogRow {
            seq: self.seq,
            id: self.id,
            kind: self.kind,
            title: self.title,
            message: self.message,
            data: self.data,
            created_at: self.created_at,
            user_ids: self.user_ids,
            account_id: self.account_id,
            broadcast: self.broadcast,
            source: self.source,
            expires_at: self.expires_at,
            replay: self.replay,
            bytes: self.bytes,
        }
    }
}

/// `data` is decompressed after the cut; earlier, that would be the data of all rows that were looked at.
async fn rows(reader: &Reader, after: Seq, end: Seq, filter: &LogFilter, most: i64) -> Result<Vec<LogColumns>, StoreError> {
    let mut checkout = reader.checkout().await?;
    let rows = sqlx::query_as!(
        LogColumns,
        r#"SELECT r.seq AS "seq!", r.id AS "id!", r.type AS "kind!", r.title AS "title!", r.message AS "message!", r.data::text AS data,
                  r.created_at AS "created_at!",
                  coalesce(r.user_ids, array_remove(ARRAY[nullif(r.user_id, '-')], NULL)) AS "user_ids!", r.account_id,
                  r.topic = '*' AS "broadcast!", r.source AS "source!", r.expires_at, r.replay AS "replay!", r.bytes AS "bytes!",
                  r.weight AS "weight!", r.all_bytes AS "all_bytes!"
             FROM (SELECT l.*, sum(l.weight) OVER (ORDER BY l.seq)::bigint AS weight_through, sum(l.weight) OVER ()::bigint AS all_bytes
                     FROM (SELECT o.*, (o.bytes + coalesce(pg_column_size(o.user_ids), 0))::bigint AS weight
                             FROM recado.log o
                            WHERE o.seq > $1 AND o.seq <= $2
                              AND ($3::text[] IS NULL OR EXISTS (
                                   SELECT FROM unnest($3) AS t (pattern)
                                    WHERE CASE WHEN right(pattern, 1) = '*' THEN starts_with(o.type, left(pattern, -1)) ELSE pattern = o.type END))
                              AND ($4::text IS NULL OR o.user_id = $4 OR $4 = ANY (o.user_ids))
                              AND ($5::text IS NULL OR o.account_id = $5)
                              AND ($6::text IS NULL OR o.source = $6)
                            ORDER BY o.seq
                            LIMIT $7) l) r
            WHERE r.weight_through <= $8 OR r.weight_through = r.weight
            ORDER BY r.seq"#,
        after.get(),
        end.get(),
        filter.types.as_deref(),
        filter.user.as_ref().map(UserId::as_str),
        filter.account.as_ref().map(AccountId::as_str),
        filter.source,
        most,
        PAGE_BYTES,
    )
    .fetch_all(checkout.connection());
    let rows = limited(ASK_LIMIT, rows).await?;
    checkout.done();
    Ok(rows)
}

/// The number after which the last `most` rows that meet the conditions lie, or all of them among the last `looks`.
///
/// # Errors
/// When the database is unavailable or slow.
pub async fn before_last(reader: &Reader, state: &LogState, filter: &LogFilter, most: i64, looks: i64) -> Result<Seq, StoreError> {
    let low = state.floor.max(Seq::from_db(state.head.get().saturating_sub(looks)));
    again_if_lost(reader, || async {
        let mut checkout = reader.checkout().await?;
        let first = sqlx::query_scalar!(
            r#"SELECT min(f.seq)
                 FROM (SELECT o.seq
                         FROM recado.log o
                        WHERE o.seq > $1 AND o.seq <= $2
                          AND ($3::text[] IS NULL OR EXISTS (
                               SELECT FROM unnest($3) AS t (pattern)
                                WHERE CASE WHEN right(pattern, 1) = '*' THEN starts_with(o.type, left(pattern, -1)) ELSE pattern = o.type END))
                          AND ($4::text IS NULL OR o.user_id = $4 OR $4 = ANY (o.user_ids))
                          AND ($5::text IS NULL OR o.account_id = $5)
                          AND ($6::text IS NULL OR o.source = $6)
                        ORDER BY o.seq DESC
                        LIMIT $7) f"#,
            low.get(),
            state.head.get(),
            filter.types.as_deref(),
            filter.user.as_ref().map(UserId::as_str),
            filter.account.as_ref().map(AccountId::as_str),
            filter.source,
            most,
        )
        .fetch_one(checkout.connection());
        let first = limited(ASK_LIMIT, first).await?;
        checkout.done();
        Ok(first.map_or(state.head, |first| Seq::from_db(first - 1)))
    })
    .await
}

/// A partition of the log, for people.
#[derive(Debug)]
pub struct ShownPartition {
    pub lo: i64,
    pub hi: i64,
    pub bytes: i64,
    /// When its oldest row that is kept, and its newest, were appended. `None`: it has none.
    pub oldest_at: Option<DateTime<Utc>>,
    pub newest_at: Option<DateTime<Utc>>,
}

/// The log with its partitions.
#[derive(Debug)]
pub struct ShownLog {
    pub state: LogState,
    pub partitions: Vec<ShownPartition>,
}

/// Lists the partitions, oldest first. Looks at two rows of each.
///
/// # Errors
/// When the database is unavailable or slow.
pub async fn partitions(reader: &Reader) -> Result<ShownLog, StoreError> {
    again_if_lost(reader, || async {
        let mut checkout = reader.checkout().await?;
        let state = read::state(checkout.connection()).await?;
        let partitions = shown(checkout.connection(), state.floor).await?;
        checkout.done();
        Ok(ShownLog { state, partitions })
    })
    .await
}

async fn shown(connection: &mut PgConnection, floor: Seq) -> Result<Vec<ShownPartition>, StoreError> {
    let rows = sqlx::query_as!(
        ShownPartition,
        r#"SELECT p.lo, p.hi, o.created_at AS "oldest_at?", n.created_at AS "newest_at?",
                  coalesce(pg_total_relation_size(to_regclass('recado.log_p' || lpad(p.lo::text, 12, '0'))), 0)
                  + coalesce(pg_total_relation_size(to_regclass('recado.log_member_p' || lpad(p.lo::text, 12, '0'))), 0) AS "bytes!"
             FROM recado.partition p
             LEFT JOIN LATERAL (SELECT l.created_at FROM recado.log l WHERE l.seq >= p.lo AND l.seq < p.hi AND l.seq > $1 ORDER BY l.seq LIMIT 1) o ON true
             LEFT JOIN LATERAL (SELECT l.created_at FROM recado.log l WHERE l.seq >= p.lo AND l.seq < p.hi AND l.seq > $1 ORDER BY l.seq DESC LIMIT 1) n ON true
            ORDER BY p.lo"#,
        floor.get(),
    )
    .fetch_all(connection);
    limited(ASK_LIMIT, rows).await
}
