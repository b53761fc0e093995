//! Reads the log: its end for the tailer, one principal's rows for a resuming client.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use super::StoreError;
use super::database::Reader;
use super::log_watermark::LogWatermark;
use super::page_scheduler::PageTurn;
use super::repeated_read::again_if_lost;
use super::time_limit::{ASK_LIMIT, limited};
use crate::domain::{AccountId, Audience, EVERYONE_TOPIC, LogId, Notification, NotificationId, Principal, Seq, StartTime, UserId};

/// Most rows of one page.
pub const PAGE_ROWS: i64 = 500;
/// A page ends before the row that would bring title, message, data and list of users above this many bytes. The first
/// row always fits, whatever its size: a row that is larger than a page must not stop a reader.
pub const PAGE_BYTES: i64 = 256 << 10;
/// Most intervals of memberships that begin within a page, or end within a page that is read backwards. A page ends
/// before the next one: each interval costs two looks into each index.
const PAGE_INTERVALS: i64 = 200;
/// The slowest link to the database over which a page of the tailer still arrives in time, in bytes a second.
const SLOWEST_LINK: i64 = 16 << 10;
/// A wait longer than this needs its own `statement_timeout`, or the server would end the statement.
const STATEMENT_LIMIT: Duration = Duration::from_secs(9);

/// The limits of one page of the tailer. The limit that is reached first ends the page; one row always fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TailSize {
    pub rows: i64,
    pub bytes: i64,
}

impl TailSize {
    /// There is one tailer, so its pages may be larger than those of clients.
    pub const WHOLE: Self = Self { rows: PAGE_ROWS, bytes: 1 << 20 };

    /// The size for a link over which a page of the present size did not arrive in time. It shrinks to one row at a
    /// time.
    #[must_use]
    pub fn smaller(self) -> Self {
        Self { rows: (self.rows / 4).max(1), bytes: (self.bytes / 4).max(1) }
    }

    /// The size for a link over which pages arrive quickly.
    #[must_use]
    pub fn larger(self) -> Self {
        Self { rows: (self.rows * 2).min(Self::WHOLE.rows), bytes: (self.bytes * 2).min(Self::WHOLE.bytes) }
    }
}

/// The id of the log, and its bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogState {
    pub log_id: LogId,
    /// The last number that retention has dropped.
    pub floor: Seq,
    pub head: Seq,
    /// A standby answered, which may lack the end of the log.
    pub is_standby: bool,
}

/// Reads the state of the log.
///
/// # Errors
/// When the database does not answer within 3 s.
pub async fn state(connection: &mut PgConnection) -> Result<LogState, StoreError> {
    let row = sqlx::query!(
        r#"SELECT log_id, floor_seq,
                  greatest(floor_seq, coalesce((SELECT seq FROM recado.log ORDER BY seq DESC LIMIT 1), 0)) AS "head!",
                  pg_is_in_recovery() AS "is_standby!"
             FROM recado.meta"#
    )
    .fetch_one(connection);
    let row = limited(ASK_LIMIT, row).await?;
    Ok(LogState { log_id: LogId(row.log_id), floor: Seq::from_db(row.floor_seq), head: Seq::from_db(row.head), is_standby: row.is_standby })
}

/// The name of the connection's database.
///
/// # Errors
/// When the database is unavailable.
pub async fn database_name(connection: &mut PgConnection) -> Result<String, StoreError> {
    let name = sqlx::query_scalar!(r#"SELECT current_database() AS "name!""#).fetch_one(connection);
    limited(ASK_LIMIT, name).await
}

/// Gives the log a new id, unless another instance has done so already. Clients that knew the old one are reset.
///
/// # Errors
/// When the database is unavailable.
pub async fn renew_log_id(connection: &mut PgConnection, old: LogId) -> Result<(), StoreError> {
    let renewed =
        sqlx::query!("UPDATE recado.meta SET log_id = gen_random_uuid(), log_started_at = clock_timestamp() WHERE log_id = $1", old.0)
            .execute(connection);
    limited(ASK_LIMIT, renewed).await?;
    Ok(())
}

/// Starts over after the log `old` was truncated or restored. The log gets a new id before anything is appended to it;
/// otherwise every earlier client would take the next number for the next one of the old log. Another task, or another
/// instance, may have done so already.
///
/// # Errors
/// When the database is unavailable.
pub async fn start_over(connection: &mut PgConnection, seen: &LogWatermark, old: LogId) -> Result<(), StoreError> {
    renew_log_id(connection, old).await?;
    seen.start_over(state(connection).await?.log_id);
    Ok(())
}

/// A part of the log for the tailer.
#[derive(Debug)]
pub struct Tail {
    /// The id of the row at the starting number, if that row exists.
    pub id_at_from: Option<NotificationId>,
    /// The rows that follow, in order.
    pub rows: Vec<TailRow>,
    /// These rows reached the end of the log as it was at the time of the query.
    pub is_end: bool,
}

/// A row of the log, for the tailer.
#[derive(Debug)]
pub enum TailRow {
    Readable(Notification),
    /// The row breaks one of our rules, such as an id with a space: the functions of the schema did not write it.
    Unreadable {
        seq: Seq,
        id: NotificationId,
        error: StoreError,
    },
}

impl TailRow {
    pub fn seq(&self) -> Seq {
        match self {
            Self::Readable(notification) => notification.seq,
            Self::Unreadable { seq, .. } => *seq,
        }
    }
}

/// Reads the rows after `from` for the tailer: every audience, in order, a page of at most `most`. Of the row at `from`
/// only the id is read, because that row may be as large as a page.
///
/// # Errors
/// When the database does not answer in time: within 3 s where a whole page is asked for, else within 3 s and the time
/// that its bytes take over a link of 16 KiB a second.
pub async fn tail(connection: &mut PgConnection, from: Seq, most: TailSize) -> Result<Tail, StoreError> {
    if most == TailSize::WHOLE {
        return limited(ASK_LIMIT, ask_tail(connection, from, most)).await.map(|rows| Tail::read(rows, most));
    }
    // The page has at least the first row. Its size is queried, so that the page gets the time that it needs.
    let first = sqlx::query_scalar!(
        r#"SELECT l.bytes + coalesce(octet_length(l.user_ids::text), 0) AS "bytes!" FROM recado.log l WHERE l.seq > $1 ORDER BY l.seq LIMIT 1"#,
        from.get()
    )
    .fetch_optional(&mut *connection);
    let first = limited(ASK_LIMIT, first).await?.map_or(0, i64::from);
    let seconds = first.max(most.bytes).saturating_add(SLOWEST_LINK - 1) / SLOWEST_LINK;
    let limit = ASK_LIMIT + Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    let rows = if limit <= STATEMENT_LIMIT {
        limited(limit, ask_tail(connection, from, most)).await?
    } else {
        let slowly = async {
            let mut transaction = connection.begin().await?;
            let in_ms = limit.as_millis().to_string();
            // The server has handed the page to its kernel and waits for the commit, which is sent when the page has
            // arrived. To the server the transaction is idle for as long.
            sqlx::query!(
                "SELECT set_config('statement_timeout', $1, true) AS statement, set_config('idle_in_transaction_session_timeout', $1, true) AS idle",
                in_ms
            )
            .fetch_one(&mut *transaction)
            .await?;
            let rows = ask_tail(&mut transaction, from, most).await?;
            transaction.commit().await?;
            Ok(rows)
        };
        limited(limit, slowly).await?
    };
    Ok(Tail::read(rows, most))
}

/// A row of the tailer's page. All columns but the first two are absent when no row follows.
struct TailPageRow {
    id_at_from: Option<Uuid>,
    rows_found: i64,
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

/// `data` is decompressed after the cut; earlier, that would be the data of all rows that were looked at.
async fn ask_tail(connection: &mut PgConnection, from: Seq, most: TailSize) -> Result<Vec<TailPageRow>, sqlx::Error> {
    sqlx::query_as!(
        TailPageRow,
        r#"SELECT (SELECT a.id FROM recado.log a WHERE a.seq = $1) AS id_at_from, coalesce(r.rows_found, 0) AS "rows_found!",
                  r.seq AS "seq?", r.id AS "id?", r.created_at AS "created_at?", r.type AS "kind?", r.title AS "title?",
                  r.message AS "message?", r.data::text AS "data?", r.topic AS "topic?", r.user_id AS "user_id?",
                  r.account_id AS "account_id?", r.user_ids AS "user_ids?"
             FROM (VALUES (1)) one
             LEFT JOIN LATERAL (
                   SELECT l.*, count(*) OVER () AS rows_found, sum(l.weight) OVER (ORDER BY l.seq) AS weight_through
                     FROM (SELECT *, bytes + coalesce(pg_column_size(user_ids), 0) AS weight
                             FROM recado.log WHERE seq > $1 ORDER BY seq LIMIT $2) l) r
               ON r.weight_through <= $3 OR r.weight_through = r.weight
            ORDER BY r.seq"#,
        from.get(),
        most.rows,
        most.bytes,
    )
    .fetch_all(connection)
    .await
}

impl Tail {
    fn read(rows: Vec<TailPageRow>, most: TailSize) -> Self {
        let id_at_from = rows.first().and_then(|row| row.id_at_from).map(NotificationId);
        let found = rows.first().map_or(0, |row| row.rows_found);
        let rows: Vec<TailRow> = rows.into_iter().filter_map(TailPageRow::row).map(LogRowColumns::for_tail).collect();
        // Neither limit was reached, so no row was cut off.
        let is_end = found < most.rows && i64::try_from(rows.len()).is_ok_and(|read| read == found);
        Self { id_at_from, rows, is_end }
    }
}

impl TailPageRow {
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
/// # Errors
/// When the database is unavailable or slow.
pub async fn page_of(reader: &Reader, who: &Principal, after: Seq, upto: Seq, most: i64) -> Result<PrincipalPage, StoreError> {
    again_if_lost(reader, || read_page(reader, who, after, upto, most)).await
}

async fn read_page(reader: &Reader, who: &Principal, after: Seq, upto: Seq, most: i64) -> Result<PrincipalPage, StoreError> {
    let most = most.clamp(1, PAGE_ROWS);
    let turn = reader.page_turn(&who.user).await;
    let mut checkout = reader.checkout().await?;
    let topics = who.topics();
    #[cfg(feature = "mutants")]
    let topics = if crate::mutants::is("no-audience") {
        let all = sqlx::query_scalar("SELECT DISTINCT topic FROM recado.log WHERE topic <> 'l'").fetch_all(checkout.connection());
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
        reader.reads_members(),
        who.user.as_str(),
        PAGE_INTERVALS,
    )
    .fetch_all(checkout.connection());
    let rows = limited(ASK_LIMIT * 3, rows).await?;
    checkout.done();
    charge(turn, &rows);
    PrincipalPage::read(rows, most, upto)
}

/// Same, backwards: the notifications of `who` below `before` and above `down_to`, newest first. `through` is the
/// number down to which the page is complete; it is `down_to` when no more follow.
///
/// # Errors
/// When the database is unavailable or slow.
pub async fn page_before(reader: &Reader, who: &Principal, before: Seq, down_to: Seq, most: i64) -> Result<PrincipalPage, StoreError> {
    again_if_lost(reader, || read_page_before(reader, who, before, down_to, most)).await
}

async fn read_page_before(reader: &Reader, who: &Principal, before: Seq, down_to: Seq, most: i64) -> Result<PrincipalPage, StoreError> {
    let most = most.clamp(1, PAGE_ROWS);
    let turn = reader.page_turn(&who.user).await;
    let mut checkout = reader.checkout().await?;
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
        reader.reads_members(),
        who.user.as_str(),
        PAGE_INTERVALS,
    )
    .fetch_all(checkout.connection());
    let rows = limited(ASK_LIMIT * 3, rows).await?;
    checkout.done();
    charge(turn, &rows);
    PrincipalPage::read(rows, most, down_to)
}

/// The head of the log.
///
/// # Errors
/// When the database is unavailable or slow.
pub async fn head(reader: &Reader) -> Result<Seq, StoreError> {
    Ok(log_state(reader).await?.head)
}

/// The state of the log now.
///
/// # Errors
/// When the database is unavailable or slow.
pub async fn log_state(reader: &Reader) -> Result<LogState, StoreError> {
    again_if_lost(reader, || async {
        let mut checkout = reader.checkout().await?;
        let state = state(checkout.connection()).await?;
        checkout.done();
        Ok(state)
    })
    .await
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

struct LogRowColumns {
    seq: i64,
    id: Uuid,
    created_at: DateTime<Utc>,
    kind: String,
    title: String,
    message: String,
    data: Option<String>,
    topic: String,
    user_id: Option<String>,
    account_id: Option<String>,
    user_ids: Option<Vec<String>>,
}

impl LogRowColumns {
    fn for_tail(self) -> TailRow {
        let (seq, id) = (Seq::from_db(self.seq), NotificationId(self.id));
        self.notification().map_or_else(|error| TailRow::Unreadable { seq, id, error }, TailRow::Readable)
    }

    /// Leaves out a row that breaks our rules, as the tailer does, which also logs it.
    fn readable(self) -> Option<Notification> {
        let seq = self.seq;
        self.notification().inspect_err(|error| tracing::debug!(seq, %error, "unreadable row left out of a page")).ok()
    }

    fn notification(self) -> Result<Notification, StoreError> {
        let audience = audience(&self.topic, self.user_id.as_deref(), self.account_id.as_deref(), self.user_ids)?;
        Ok(Notification {
            seq: Seq::from_db(self.seq),
            id: NotificationId(self.id),
            created_at: self.created_at,
            kind: self.kind,
            title: self.title,
            message: self.message,
            data: self.data,
            audience,
        })
    }
}

/// Rebuilds the audience. The constraint `topic_agrees_with_audience` allows exactly these forms.
fn audience(topic: &str, user: Option<&str>, account: Option<&str>, users: Option<Vec<String>>) -> Result<Audience, StoreError> {
    let broken = |error| StoreError::Broken(sqlx::Error::Decode(Box::new(error)));
    let account = account.map(AccountId::parse).transpose().map_err(broken)?;
    if topic == EVERYONE_TOPIC {
        return Ok(Audience::Everyone);
    }
    if let Some(users) = users {
        let users = users.iter().map(|u| UserId::parse(u)).collect::<Result<_, _>>().map_err(broken)?;
        return Ok(Audience::Users { users, account });
    }
    match (user, account) {
        (Some(user), account) => Ok(Audience::User { user: UserId::parse_stored(user).map_err(broken)?, account }),
        (None, Some(account)) => Ok(Audience::Account(account)),
        (None, None) => Err(StoreError::Broken(sqlx::Error::RowNotFound)),
    }
}
