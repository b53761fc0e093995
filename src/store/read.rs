//! Reads the log: its state, its end for the tailer, one principal's rows for a resuming client.

mod log_state;
mod row;
mod tail_page;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

pub use self::log_state::{LogState, database_name, head, log_state, renew_log_id, start_over, state};
pub(super) use self::row::LogRowColumns;
pub use self::tail_page::{Tail, TailCheck, TailRow, TailSize, tail};
use super::StoreError;
use super::database::Reader;
use super::page_scheduler::PageTurn;
use super::past_read::past_read;
use super::repeated_read::again_if_lost;
use super::standby::PastRead;
use super::time_limit::{ASK_LIMIT, limited};
use crate::domain::{Notification, NotificationId, Principal, Seq, StartTime};

/// Most rows of one page.
pub const PAGE_ROWS: i64 = 500;
/// A page ends before the row that would bring title, message, data and list of users above this many bytes. The first
/// row always fits, whatever its size: a row that is larger than a page must not stop a reader.
pub const PAGE_BYTES: i64 = 256 << 10;
/// Most intervals of memberships that begin within a page, or end within a page that is read backwards. A page ends
/// before the next one: each interval costs two looks into each index.
const PAGE_INTERVALS: i64 = 200;

/// One page of a principal's notifications.
#[derive(Debug)]
pub struct PrincipalPage {
    pub notifications: Vec<Notification>,
    /// All notifications of the principal up to this number are on this page or an earlier one.
    pub through: Seq,
    /// The floor when the page was read. If it is above the page's start, rows are lost.
    pub floor: Seq,
}

/// Reads the notifications of `who` above `after` and up to `upto`, except those that are not replayed or have expired.
///
/// The user's intervals of the table `recado.member` are read in the same statement, so the page and the intervals are
/// of one snapshot. An interval has the rows between its two changes. An account that the token names as well has no
/// interval, or its rows would be found twice. A page with more intervals than [`PAGE_INTERVALS`] ends early (`cut`).
///
/// The two inner queries walk an index in order and stop at the page's size, so a page costs the same in a log of any
/// length. The row is fetched by its number, with a LIMIT that keeps the planner from joining the whole log instead.
///
/// # Errors
/// When the database is unavailable or slow.
pub async fn page(reader: &Reader, who: &Principal, after: Seq, upto: Seq) -> Result<PrincipalPage, StoreError> {
    page_of(reader, who, after, upto, PAGE_ROWS).await
}

/// Same, with at most `most` rows, and never more than [`PAGE_ROWS`].
///
/// A standby that has everything up to `upto` may read the page.
///
/// # Errors
/// When the database is unavailable or slow.
pub async fn page_of(reader: &Reader, who: &Principal, after: Seq, upto: Seq, most: i64) -> Result<PrincipalPage, StoreError> {
    let most = most.clamp(1, PAGE_ROWS);
    let turn = reader.page_turn(&who.user).await;
    let page = RisingPage { reads_members: reader.reads_members(), who, after, upto, most };
    let rows = past_read(reader, upto, &page).await?;
    charge(turn, &rows);
    PrincipalPage::read(rows, most, upto)
}

/// The rows of [`page_of`].
struct RisingPage<'a> {
    reads_members: bool,
    who: &'a Principal,
    after: Seq,
    upto: Seq,
    most: i64,
}

impl PastRead for RisingPage<'_> {
    type Answer = Vec<PageRow>;

    async fn read(&self, connection: &mut PgConnection) -> Result<Vec<PageRow>, StoreError> {
        read_page(connection, self).await
    }
}

async fn read_page(connection: &mut PgConnection, page: &RisingPage<'_>) -> Result<Vec<PageRow>, StoreError> {
    let RisingPage { reads_members, who, after, upto, most } = *page;
    let topics = who.topics();
    #[cfg(feature = "mutants")]
    let topics = if crate::mutants::is("no-audience") {
        let all = sqlx::query_scalar("SELECT DISTINCT topic FROM recado.log WHERE topic <> 'l'").fetch_all(&mut *connection);
        limited(ASK_LIMIT, all).await?
    } else {
        topics
    };
    let rows = sqlx::query_as!(
        PageRow,
        r#"SELECT m.floor_seq, cut.at AS "cut!", coalesce(r.rows_found, 0) AS "rows_found!", coalesce(r.expired, false) AS "expired!",
                  r.seq AS "seq?", r.id AS "id?", r.created_at AS "created_at?", r.kind AS "kind?", r.title AS "title?",
                  r.message AS "message?", r.data AS "data?", r.topic AS "topic?", r.user_id AS "user_id?",
                  r.account_id AS "account_id?", r.user_ids AS "user_ids?"
             FROM recado.meta m
            CROSS JOIN LATERAL (
                   SELECT coalesce((SELECT c.since_seq
                                      FROM recado.member c
                                     WHERE $6 AND c.user_id = $7 AND c.since_seq > $2 AND c.since_seq < $3
                                     ORDER BY c.since_seq
                                    OFFSET $8 LIMIT 1), $3::bigint) AS at
                   OFFSET 0) cut
             LEFT JOIN LATERAL (
                   SELECT l.seq, l.id, l.created_at, l.type AS kind, l.title, l.message, l.data::text AS data, l.topic,
                          l.user_id, l.account_id, l.user_ids, l.expires_at <= clock_timestamp() AS expired,
                          count(*) OVER () AS rows_found,
                          l.bytes + coalesce(pg_column_size(l.user_ids), 0) AS weight,
                          sum(l.bytes + coalesce(pg_column_size(l.user_ids), 0)) OVER (ORDER BY l.seq) AS weight_through
                     FROM (SELECT s.seq
                             FROM (SELECT u.topic, $2 AS low, cut.at AS high
                                     FROM unnest($1::text[]) AS u (topic)
                                    UNION ALL
                                   SELECT x.topic, greatest(i.since_seq, $2), least(i.until_seq - 1, cut.at)
                                     FROM recado.member i
                                    CROSS JOIN LATERAL (VALUES ('a/' || i.account_id), ('u/' || i.user_id || '/' || i.account_id)) x (topic)
                                    WHERE $6 AND i.user_id = $7 AND i.since_seq < cut.at AND (i.until_seq IS NULL OR i.until_seq > $2 + 1)
                                      AND x.topic <> ALL ($1)) t
                            CROSS JOIN LATERAL (
                                  (SELECT a.seq
                                     FROM recado.log a
                                    WHERE a.topic = t.topic AND a.replay AND a.topic <> 'l' AND a.seq > $2 AND a.seq <= $3
                                      AND a.seq > t.low AND a.seq <= t.high
                                    ORDER BY a.seq
                                    LIMIT $4)
                                  UNION ALL
                                  (SELECT b.seq
                                     FROM recado.log_member b
                                    WHERE b.topic = t.topic AND b.seq > $2 AND b.seq <= $3 AND b.seq > t.low AND b.seq <= t.high
                                    ORDER BY b.seq
                                    LIMIT $4)) s
                            ORDER BY s.seq
                            LIMIT $4) k
                    CROSS JOIN LATERAL (SELECT * FROM recado.log x WHERE x.seq = k.seq LIMIT 1) l) r
               ON r.weight_through <= $5 OR r.weight_through = r.weight
            ORDER BY r.seq"#,
        &topics,
        after.get(),
        upto.get(),
        most,
        PAGE_BYTES,
        reads_members,
        who.user.as_str(),
        PAGE_INTERVALS,
    )
    .fetch_all(connection);
    limited(ASK_LIMIT * 3, rows).await
}

/// Same, backwards: the notifications of `who` below `before` and above `down_to`, newest first. `through` is the
/// number down to which the page is complete; it is `down_to` when no more follow.
///
/// # Errors
/// When the database is unavailable or slow.
pub async fn page_before(reader: &Reader, who: &Principal, before: Seq, down_to: Seq, most: i64) -> Result<PrincipalPage, StoreError> {
    let most = most.clamp(1, PAGE_ROWS);
    let turn = reader.page_turn(&who.user).await;
    let page = FallingPage { reads_members: reader.reads_members(), who, before, down_to, most };
    let rows = past_read(reader, before.plus(-1), &page).await?;
    charge(turn, &rows);
    PrincipalPage::read(rows, most, down_to)
}

/// The rows of [`page_before`].
struct FallingPage<'a> {
    reads_members: bool,
    who: &'a Principal,
    before: Seq,
    down_to: Seq,
    most: i64,
}

impl PastRead for FallingPage<'_> {
    type Answer = Vec<PageRow>;

    async fn read(&self, connection: &mut PgConnection) -> Result<Vec<PageRow>, StoreError> {
        read_page_before(connection, self).await
    }
}

async fn read_page_before(connection: &mut PgConnection, page: &FallingPage<'_>) -> Result<Vec<PageRow>, StoreError> {
    let FallingPage { reads_members, who, before, down_to, most } = *page;
    let rows = sqlx::query_as!(
        PageRow,
        r#"SELECT m.floor_seq, cut.at AS "cut!", coalesce(r.rows_found, 0) AS "rows_found!", coalesce(r.expired, false) AS "expired!",
                  r.seq AS "seq?", r.id AS "id?", r.created_at AS "created_at?", r.kind AS "kind?", r.title AS "title?",
                  r.message AS "message?", r.data AS "data?", r.topic AS "topic?", r.user_id AS "user_id?",
                  r.account_id AS "account_id?", r.user_ids AS "user_ids?"
             FROM recado.meta m
            CROSS JOIN LATERAL (
                   SELECT coalesce((SELECT c.until_seq
                                      FROM recado.member c
                                     WHERE $6 AND c.user_id = $7 AND c.until_seq < $2 AND c.until_seq > $3
                                     ORDER BY c.until_seq DESC
                                    OFFSET $8 LIMIT 1), $3::bigint) AS at
                   OFFSET 0) cut
             LEFT JOIN LATERAL (
                   SELECT l.seq, l.id, l.created_at, l.type AS kind, l.title, l.message, l.data::text AS data, l.topic,
                          l.user_id, l.account_id, l.user_ids, l.expires_at <= clock_timestamp() AS expired,
                          count(*) OVER () AS rows_found,
                          l.bytes + coalesce(pg_column_size(l.user_ids), 0) AS weight,
                          sum(l.bytes + coalesce(pg_column_size(l.user_ids), 0)) OVER (ORDER BY l.seq DESC) AS weight_through
                     FROM (SELECT s.seq
                             FROM (SELECT u.topic, cut.at AS low, $2 AS high
                                     FROM unnest($1::text[]) AS u (topic)
                                    UNION ALL
                                   SELECT x.topic, greatest(i.since_seq, cut.at), least(i.until_seq, $2)
                                     FROM recado.member i
                                    CROSS JOIN LATERAL (VALUES ('a/' || i.account_id), ('u/' || i.user_id || '/' || i.account_id)) x (topic)
                                    WHERE $6 AND i.user_id = $7 AND i.since_seq + 1 < $2 AND (i.until_seq IS NULL OR i.until_seq > cut.at + 1)
                                      AND x.topic <> ALL ($1)) t
                            CROSS JOIN LATERAL (
                                  (SELECT a.seq
                                     FROM recado.log a
                                    WHERE a.topic = t.topic AND a.replay AND a.topic <> 'l' AND a.seq < $2 AND a.seq > $3
                                      AND a.seq < t.high AND a.seq > t.low
                                    ORDER BY a.seq DESC
                                    LIMIT $4)
                                  UNION ALL
                                  (SELECT b.seq
                                     FROM recado.log_member b
                                    WHERE b.topic = t.topic AND b.seq < $2 AND b.seq > $3 AND b.seq < t.high AND b.seq > t.low
                                    ORDER BY b.seq DESC
                                    LIMIT $4)) s
                            ORDER BY s.seq DESC
                            LIMIT $4) k
                    CROSS JOIN LATERAL (SELECT * FROM recado.log x WHERE x.seq = k.seq LIMIT 1) l) r
               ON r.weight_through <= $5 OR r.weight_through = r.weight
            ORDER BY r.seq DESC"#,
        &who.topics(),
        before.get(),
        down_to.get(),
        most,
        PAGE_BYTES,
        reads_members,
        who.user.as_str(),
        PAGE_INTERVALS,
    )
    .fetch_all(connection);
    limited(ASK_LIMIT * 3, rows).await
}

/// The id of the notification with this number, if the row is (still) there. It tells a client's log from ours.
///
/// # Errors
/// When the database is unavailable or slow.
pub async fn id_at(reader: &Reader, seq: Seq) -> Result<Option<NotificationId>, StoreError> {
    again_if_lost(reader, || async {
        let mut checkout = reader.checkout().await?;
        let id = sqlx::query_scalar!("SELECT id FROM recado.log WHERE seq = $1", seq.get()).fetch_optional(checkout.connection());
        let id = limited(ASK_LIMIT, id).await?;
        checkout.done();
        Ok(id.map(NotificationId))
    })
    .await
}

/// The last number above `floor` and up to `head` whose notification was created before this time; `floor` if there is
/// none.
///
/// The times of the log never fall while the database's clock does not step back, and numbers have no holes. So the
/// place is found by halving the range, with one look at the primary key for each step: 23 for five million rows. The
/// index over `created_at` knows only ranges of blocks, of which it would read the newest ones whole.
///
/// # Errors
/// When the database is unavailable or slow.
pub async fn last_before(reader: &Reader, time: StartTime, floor: Seq, head: Seq) -> Result<Seq, StoreError> {
    let (at, ago) = match time {
        StartTime::At(at) => (Some(at), None),
        StartTime::Ago(ago) => (None, Some(ago.as_secs_f64())),
    };
    again_if_lost(reader, || async {
        let mut checkout = reader.checkout().await?;
        // Retention may drop rows during the search. They were created before all others.
        let place = sqlx::query_scalar!(
            r#"WITH RECURSIVE start (at) AS MATERIALIZED (
                   SELECT coalesce($1::timestamptz, clock_timestamp() - make_interval(secs => $2))),
               search (low, high) AS (
                   SELECT $3::bigint, $4::bigint
                    UNION ALL
                   SELECT CASE WHEN m.is_before THEN m.mid ELSE m.low END, CASE WHEN m.is_before THEN m.high ELSE m.mid - 1 END
                     FROM (SELECT s.low, s.high, s.mid,
                                  coalesce((SELECT l.created_at FROM recado.log l WHERE l.seq = s.mid) < (SELECT at FROM start), true)
                                  AS is_before
                             FROM (SELECT low, high, high - (high - low) / 2 AS mid FROM search WHERE low < high OFFSET 0) s
                           OFFSET 0) m)
               SELECT low AS "low!" FROM search WHERE low >= high"#,
            at,
            ago,
            floor.get(),
            head.get(),
        )
        .fetch_one(checkout.connection());
        let place = limited(ASK_LIMIT, place).await?;
        checkout.done();
        Ok(Seq::from_db(place))
    })
    .await
}

/// A row of a page. All columns but the first four are absent when the page is empty.
struct PageRow {
    floor_seq: i64,
    /// Up to here, or down to here, the page was looked for.
    cut: i64,
    rows_found: i64,
    expired: bool,
    seq: Option<i64>,
    id: Option<Uuid>,
    created_at: Option<DateTime<Utc>>,
    kind: Option<String>,
    title: Option<String>,
    message: Option<String>,
    data: Option<String>,
    topic: Option<String>,
    user_id: Option<String>,
    account_id: Option<String>,
    user_ids: Option<Vec<String>>,
}

/// Charges the user for a page: the rows that the database looked at, and the bytes that it sent.
fn charge(turn: PageTurn, rows: &[PageRow]) {
    let found = rows.first().map_or(0, |row| row.rows_found);
    let length = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    let bytes = rows.iter().map(|row| length(&row.title) + length(&row.message) + length(&row.data)).sum();
    turn.charge(usize::try_from(found).unwrap_or_default(), bytes);
}

impl PrincipalPage {
    /// Makes the page from the rows of a query for `most` rows, towards `end`.
    fn read(rows: Vec<PageRow>, most: i64, end: Seq) -> Result<Self, StoreError> {
        let floor = rows.first().map_or(Seq::ZERO, |r| Seq::from_db(r.floor_seq));
        let found = rows.first().map_or(0, |r| r.rows_found);
        let read = rows.iter().filter(|r| r.seq.is_some()).count();
        // A full page, or one that was cut by size, is not complete after its last row.
        let end = rows.first().map_or(end, |r| Seq::from_db(r.cut));
        let complete = found < most && i64::try_from(read).is_ok_and(|read| read == found);
        let last = rows.last().and_then(|r| r.seq).map(Seq::from_db);
        let through = if complete { end } else { last.unwrap_or(end) };
        let current = rows.into_iter().filter(|r| !r.expired).filter_map(PageRow::row);
        Ok(Self { notifications: current.filter_map(LogRowColumns::readable).collect(), through, floor })
    }
}

impl PageRow {
    fn row(self) -> Option<LogRowColumns> {
        Some(LogRowColumns {
            seq: self.seq?,
            id: self.id?,
            created_at: self.created_at?,
            kind: self.kind?,
            title: self.title?,
            message: self.message?,
            data: self.data,
            topic: self.topic?,
            user_id: self.user_id,
            account_id: self.account_id,
            user_ids: self.user_ids,
        })
    }
}
