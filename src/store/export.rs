//! Reads the whole log in pages, for export to other systems.
//!
//! Each page is one statement over a window of numbers. It reads a limited number of rows, whatever the filter, and no
//! transaction is open between two pages. Numbers are dense and in commit order, so everything up to the head is there
//! and does not change: a page below the head misses nothing.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::StoreError;
use super::database::Reader;
use super::past_read::past_read;
use super::standby::PastRead;
use super::time_limit::{ASK_LIMIT, limited};
use crate::domain::{LogId, NotificationId, Seq};

/// Numbers of one window. Twice as many take twice as long, and a page may end by its bytes after the first of them.
const WINDOW: i64 = 2_000;
/// A page ends before the row that would bring its texts above this many bytes. One row always fits.
const PAGE_BYTES: i64 = 1 << 20;

/// Selects rows. A field that is not set selects all.
#[derive(Debug, Clone, Default)]
pub struct ExportFilter {
    pub since: Option<DateTime<Utc>>,
    pub until: Option<DateTime<Utc>>,
    /// Empty selects all types.
    pub types: Vec<String>,
}

/// A notification as it is stored in the log.
#[derive(Debug, Clone, PartialEq)]
pub struct ExportRecord {
    pub seq: i64,
    pub id: Uuid,
    pub created_at: DateTime<Utc>,
    pub kind: String,
    pub title: String,
    pub message: String,
    pub data: Option<String>,
    pub address: String,
    pub user_id: Option<String>,
    pub account_id: Option<String>,
    pub user_ids: Option<Vec<String>>,
    pub expires_at: Option<DateTime<Utc>>,
    pub replay: bool,
    pub source: String,
}

/// One page of the log.
#[derive(Debug)]
pub struct ExportPage {
    pub records: Vec<ExportRecord>,
    /// All selected rows up to this number are on this page or an earlier one.
    pub through: Seq,
    /// The log that it was read from.
    pub log_id: LogId,
    /// The floor when the page was read. If it is above the page's start, rows are lost.
    pub floor: Seq,
}

/// Reads a page of the selected rows above `after` and up to `upto`. `data` is decompressed after the cut; earlier,
/// that would be the data of the whole window. A standby that has the window may read it.
///
/// # Errors
/// When the database is unavailable or slow.
pub async fn page(reader: &Reader, wanted: &ExportFilter, after: Seq, upto: Seq) -> Result<ExportPage, StoreError> {
    let end = Seq::from_db(upto.get().min(after.get() + WINDOW));
    past_read(reader, end, &ExportWindow { wanted, after, end }).await
}

/// A page of an export.
struct ExportWindow<'a> {
    wanted: &'a ExportFilter,
    after: Seq,
    end: Seq,
}

impl PastRead for ExportWindow<'_> {
    type Answer = ExportPage;

    async fn read(&self, connection: &mut PgConnection) -> Result<ExportPage, StoreError> {
        read_window(connection, self).await
    }
}

async fn read_window(connection: &mut PgConnection, window: &ExportWindow<'_>) -> Result<ExportPage, StoreError> {
    let ExportWindow { wanted, after, end } = *window;
    let rows = sqlx::query!(
        r#"SELECT m.log_id, m.floor_seq, coalesce(r.rows_found, 0) AS "rows_found!",
                  r.seq AS "seq?", r.id AS "id?", r.created_at AS "created_at?", r.type AS "kind?", r.title AS "title?",
                  r.message AS "message?", r.data::text AS "data?", r.topic AS "address?", r.user_id AS "user_id?",
                  r.account_id AS "account_id?", r.user_ids AS "user_ids?", r.expires_at AS "expires_at?",
                  r.replay AS "replay?", r.source AS "source?"
             FROM recado.meta m
             LEFT JOIN LATERAL (
                   SELECT l.*, count(*) OVER () AS rows_found, l.bytes + coalesce(pg_column_size(l.user_ids), 0) AS weight,
                          sum(l.bytes + coalesce(pg_column_size(l.user_ids), 0)) OVER (ORDER BY l.seq) AS weight_through
                     FROM recado.log l
                    WHERE l.seq > $1 AND l.seq <= $2
                      AND ($3::timestamptz IS NULL OR l.created_at >= $3)
                      AND ($4::timestamptz IS NULL OR l.created_at < $4)
                      AND ($5::text[] = '{}' OR l.type = ANY ($5))) r
               ON r.weight_through <= $6 OR r.weight_through = r.weight
            ORDER BY r.seq"#,
        after.get(),
        end.get(),
        wanted.since,
        wanted.until,
        &wanted.types,
        PAGE_BYTES,
    )
    .fetch_all(connection);
    let rows = limited(ASK_LIMIT * 3, rows).await?;
    let Some(first) = rows.first() else { return Err(StoreError::Broken(sqlx::Error::RowNotFound)) };
    let (log_id, floor, found) = (LogId(first.log_id), Seq::from_db(first.floor_seq), first.rows_found);
    let records: Vec<ExportRecord> = rows
        .into_iter()
        .filter_map(|r| {
            Some(ExportRecord {
                seq: r.seq?,
                id: r.id?,
                created_at: r.created_at?,
                kind: r.kind?,
                title: r.title?,
                message: r.message?,
                data: r.data,
                address: r.address?,
                user_id: r.user_id,
                account_id: r.account_id,
                user_ids: r.user_ids,
                expires_at: r.expires_at,
                replay: r.replay?,
                source: r.source?,
            })
        })
        .collect();
    // A page that was cut by size covers nothing after its last row.
    let is_whole = i64::try_from(records.len()).is_ok_and(|read| read == found);
    let through = records.last().filter(|_| !is_whole).map_or(end, |last| Seq::from_db(last.seq));
    Ok(ExportPage { records, through, log_id, floor })
}

/// The id of the notification with this number, if the row is (still) there.
///
/// # Errors
/// When the database is unavailable or slow.
pub async fn id_at(connection: &mut PgConnection, seq: Seq) -> Result<Option<NotificationId>, StoreError> {
    let id = sqlx::query_scalar!("SELECT id FROM recado.log WHERE seq = $1", seq.get()).fetch_optional(connection);
    Ok(limited(ASK_LIMIT, id).await?.map(NotificationId))
}
