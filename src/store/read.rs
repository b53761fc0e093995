//! Reading the log: the end of it for the tailer, one principal's part of it for a resuming client.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::StoreError;
use super::database::{ASK_LIMIT, Reader, limited};
use super::seen::Seen;
use crate::domain::{AccountId, Audience, EVERYONE_TOPIC, LogId, Notification, NotificationId, Principal, Seq, UserId};

/// Most rows of one page.
pub const PAGE_ROWS: i64 = 500;
/// A page ends before the row with which title, message and data would exceed this many bytes; one row always fits.
pub const PAGE_BYTES: i64 = 256 << 10;
/// The same for the tailer's pages; there is one tailer, so they may be larger. At least two rows have to fit: the
/// first is the one that was published last.
pub const TAIL_BYTES: i64 = 1 << 20;
/// Where the link to the database is so slow that a whole page does not come in time, the tailer asks for less, down to
/// this: the row that was published last and one more, each with the most that a notification may have.
pub const TAIL_LEAST_BYTES: i64 = 96 << 10;
/// Longest wait for such a smaller page.
const SMALL_TAIL_LIMIT: Duration = Duration::from_secs(6);

/// Which history the log holds, and from where to where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogState {
    pub log_id: LogId,
    /// The highest number that retention has dropped.
    pub floor: Seq,
    pub head: Seq,
    /// A standby answered: it may lack the end of the log.
    pub is_standby: bool,
}

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

/// The name of the database that this connection is to.
///
/// # Errors
/// When the database is away.
pub async fn database_name(connection: &mut PgConnection) -> Result<String, StoreError> {
    let name = sqlx::query_scalar!(r#"SELECT current_database() AS "name!""#).fetch_one(connection);
    limited(ASK_LIMIT, name).await
}

/// Gives the history a new name, unless another instance has done so already. Clients that knew the old one are reset.
///
/// # Errors
/// When the database is away.
pub async fn renew_log_id(connection: &mut PgConnection, old: LogId) -> Result<(), StoreError> {
    let renewed =
        sqlx::query!("UPDATE recado.meta SET log_id = gen_random_uuid(), log_started_at = clock_timestamp() WHERE log_id = $1", old.0)
            .execute(connection);
    limited(ASK_LIMIT, renewed).await?;
    Ok(())
}

/// What was known of the log `old` is not so any more. Its history is renamed before anything is appended to it, or every
/// client that was there before would take the next number for the next of the old one. Another task, or another
/// instance, may have done so already.
///
/// # Errors
/// When the database is away.
pub async fn start_over(connection: &mut PgConnection, seen: &Seen, old: LogId) -> Result<(), StoreError> {
    renew_log_id(connection, old).await?;
    seen.start_over(state(connection).await?.log_id);
    Ok(())
}

/// A part of the log for the tailer.
#[derive(Debug)]
pub struct Tail {
    pub rows: Vec<Notification>,
    /// These rows reached the end of the log as it was when it was asked.
    pub is_end: bool,
}

/// The row at `from`, if there is one, and those that follow, for the tailer: every audience, in order, a page of about
/// `most_bytes` at most.
///
/// # Errors
/// When the database does not answer within 3 s, or 6 s where less than [`TAIL_BYTES`] is asked for.
pub async fn tail(connection: &mut PgConnection, from: Seq, most_bytes: i64) -> Result<Tail, StoreError> {
    let rows = sqlx::query_as!(
        Row,
        r#"SELECT r.seq, r.id, r.created_at, r.type AS kind, r.title, r.message, r.data::text AS data, r.topic, r.user_id, r.account_id, r.user_ids
             FROM (SELECT l.*, sum(l.bytes) OVER (ORDER BY l.seq) - l.bytes AS bytes_before
                     FROM (SELECT * FROM recado.log WHERE seq >= $1 ORDER BY seq LIMIT $2) l) r
            WHERE r.bytes_before < $3
            ORDER BY r.seq"#,
        from.get(),
        PAGE_ROWS,
        most_bytes,
    )
    .fetch_all(connection);
    let limit = if most_bytes < TAIL_BYTES { SMALL_TAIL_LIMIT } else { ASK_LIMIT };
    let rows = limited(limit, rows).await?;
    let bytes: usize = rows.iter().map(|r| r.title.len() + r.message.len() + r.data.as_ref().map_or(0, String::len)).sum();
    // Neither limit was reached, so neither has cut anything off.
    let is_end = (rows.len() as i64) < PAGE_ROWS && (bytes as i64) < most_bytes;
    Ok(Tail { rows: rows.into_iter().map(Row::notification).collect::<Result<_, _>>()?, is_end })
}

/// One page of what concerns a principal.
#[derive(Debug)]
pub struct Page {
    pub notifications: Vec<Notification>,
    /// Everything that concerns the principal up to here is on this page or before it.
    pub through: Seq,
    /// The highest number that retention had dropped when the page was read. Above the page's start: rows are lost.
    pub floor: Seq,
}

/// Reads what concerns `who` above `after` and up to `upto`, without what is not replayed or has expired.
///
/// The two inner queries walk an index in order and stop at the page's size, so a page costs the same in a log of any
/// length. The row is fetched by its number, with a LIMIT that keeps the planner from joining the whole log instead.
///
/// # Errors
/// When the database is away or slow.
pub async fn page(reader: &Reader, who: &Principal, after: Seq, upto: Seq) -> Result<Page, StoreError> {
    page_of(reader, who, after, upto, PAGE_ROWS).await
}

/// The same, with at most `most` rows; above [`PAGE_ROWS`] it is those.
///
/// # Errors
/// When the database is away or slow.
pub async fn page_of(reader: &Reader, who: &Principal, after: Seq, upto: Seq, most: i64) -> Result<Page, StoreError> {
    let most = most.clamp(1, PAGE_ROWS);
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
        r#"SELECT m.floor_seq, coalesce(r.rows_found, 0) AS "rows_found!", coalesce(r.expired, false) AS "expired!",
                  r.seq AS "seq?", r.id AS "id?", r.created_at AS "created_at?", r.kind AS "kind?", r.title AS "title?",
                  r.message AS "message?", r.data AS "data?", r.topic AS "topic?", r.user_id AS "user_id?",
                  r.account_id AS "account_id?", r.user_ids AS "user_ids?"
             FROM recado.meta m
             LEFT JOIN LATERAL (
                   SELECT l.seq, l.id, l.created_at, l.type AS kind, l.title, l.message, l.data::text AS data, l.topic,
                          l.user_id, l.account_id, l.user_ids, l.expires_at <= clock_timestamp() AS expired,
                          count(*) OVER () AS rows_found,
                          sum(l.bytes) OVER (ORDER BY l.seq) - l.bytes AS bytes_before
                     FROM (SELECT s.seq
                             FROM unnest($1::text[]) AS t (topic)
                            CROSS JOIN LATERAL (
                                  (SELECT a.seq
                                     FROM recado.log a
                                    WHERE a.topic = t.topic AND a.replay AND a.topic <> 'l' AND a.seq > $2 AND a.seq <= $3
                                    ORDER BY a.seq
                                    LIMIT $4)
                                  UNION ALL
                                  (SELECT b.seq
                                     FROM recado.log_member b
                                    WHERE b.topic = t.topic AND b.seq > $2 AND b.seq <= $3
                                    ORDER BY b.seq
                                    LIMIT $4)) s
                            ORDER BY s.seq
                            LIMIT $4) k
                    CROSS JOIN LATERAL (SELECT * FROM recado.log x WHERE x.seq = k.seq LIMIT 1) l) r
               ON r.bytes_before < $5
            ORDER BY r.seq"#,
        &topics,
        after.get(),
        upto.get(),
        most,
        PAGE_BYTES,
    )
    .fetch_all(checkout.connection());
    let rows = limited(ASK_LIMIT * 3, rows).await?;
    checkout.done();

    Page::read(rows, most, upto)
}

/// The same backwards: what concerns `who` below `before` and above `down_to`, newest first. `through` is the number down to which
/// everything is on the page; `down_to` when that is all.
///
/// # Errors
/// When the database is away or slow.
pub async fn page_before(reader: &Reader, who: &Principal, before: Seq, down_to: Seq, most: i64) -> Result<Page, StoreError> {
    let most = most.clamp(1, PAGE_ROWS);
    let mut checkout = reader.checkout().await?;
    let rows = sqlx::query_as!(
        PageRow,
        r#"SELECT m.floor_seq, coalesce(r.rows_found, 0) AS "rows_found!", coalesce(r.expired, false) AS "expired!",
                  r.seq AS "seq?", r.id AS "id?", r.created_at AS "created_at?", r.kind AS "kind?", r.title AS "title?",
                  r.message AS "message?", r.data AS "data?", r.topic AS "topic?", r.user_id AS "user_id?",
                  r.account_id AS "account_id?", r.user_ids AS "user_ids?"
             FROM recado.meta m
             LEFT JOIN LATERAL (
                   SELECT l.seq, l.id, l.created_at, l.type AS kind, l.title, l.message, l.data::text AS data, l.topic,
                          l.user_id, l.account_id, l.user_ids, l.expires_at <= clock_timestamp() AS expired,
                          count(*) OVER () AS rows_found,
                          sum(l.bytes) OVER (ORDER BY l.seq DESC) - l.bytes AS bytes_before
                     FROM (SELECT s.seq
                             FROM unnest($1::text[]) AS t (topic)
                            CROSS JOIN LATERAL (
                                  (SELECT a.seq
                                     FROM recado.log a
                                    WHERE a.topic = t.topic AND a.replay AND a.topic <> 'l' AND a.seq < $2 AND a.seq > $3
                                    ORDER BY a.seq DESC
                                    LIMIT $4)
                                  UNION ALL
                                  (SELECT b.seq
                                     FROM recado.log_member b
                                    WHERE b.topic = t.topic AND b.seq < $2 AND b.seq > $3
                                    ORDER BY b.seq DESC
                                    LIMIT $4)) s
                            ORDER BY s.seq DESC
                            LIMIT $4) k
                    CROSS JOIN LATERAL (SELECT * FROM recado.log x WHERE x.seq = k.seq LIMIT 1) l) r
               ON r.bytes_before < $5
            ORDER BY r.seq DESC"#,
        &who.topics(),
        before.get(),
        down_to.get(),
        most,
        PAGE_BYTES,
    )
    .fetch_all(checkout.connection());
    let rows = limited(ASK_LIMIT * 3, rows).await?;
    checkout.done();

    Page::read(rows, most, down_to)
}

/// The highest number of the log.
///
/// # Errors
/// When the database is away or slow.
pub async fn head(reader: &Reader) -> Result<Seq, StoreError> {
    Ok(log_state(reader).await?.head)
}

/// Which history the log holds now, and from where to where.
///
/// # Errors
/// When the database is away or slow.
pub async fn log_state(reader: &Reader) -> Result<LogState, StoreError> {
    let mut checkout = reader.checkout().await?;
    let state = state(checkout.connection()).await?;
    checkout.done();
    Ok(state)
}

/// The id of the notification with this number, if it is (still) there: tells a client's history from ours.
///
/// # Errors
/// When the database is away or slow.
pub async fn id_at(reader: &Reader, seq: Seq) -> Result<Option<NotificationId>, StoreError> {
    let mut checkout = reader.checkout().await?;
    let id = sqlx::query_scalar!("SELECT id FROM recado.log WHERE seq = $1", seq.get()).fetch_optional(checkout.connection());
    let id = limited(ASK_LIMIT, id).await?;
    checkout.done();
    Ok(id.map(NotificationId))
}

/// A row of a page; all but the first three are absent when the page is empty.
struct PageRow {
    floor_seq: i64,
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

impl Page {
    /// `most` rows were asked for, towards `end`.
    fn read(rows: Vec<PageRow>, most: i64, end: Seq) -> Result<Self, StoreError> {
        let floor = rows.first().map_or(Seq::ZERO, |r| Seq::from_db(r.floor_seq));
        let found = rows.first().map_or(0, |r| r.rows_found);
        let read = rows.iter().filter(|r| r.seq.is_some()).count();
        // A full page, or one that was cut by size, says nothing about what lies after its last row.
        let complete = found < most && i64::try_from(read).is_ok_and(|read| read == found);
        let last = rows.last().and_then(|r| r.seq).map(Seq::from_db);
        let through = if complete { end } else { last.unwrap_or(end) };
        let current = rows.into_iter().filter(|r| !r.expired).filter_map(PageRow::row);
        Ok(Self { notifications: current.map(Row::notification).collect::<Result<_, _>>()?, through, floor })
    }
}

impl PageRow {
    fn row(self) -> Option<Row> {
        Some(Row {
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

struct Row {
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

impl Row {
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

/// The constraint `topic_agrees_with_audience` leaves exactly these forms.
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
        (Some(user), account) => Ok(Audience::User { user: UserId::parse(user).map_err(broken)?, account }),
        (None, Some(account)) => Ok(Audience::Account(account)),
        (None, None) => Err(StoreError::Broken(sqlx::Error::RowNotFound)),
    }
}
