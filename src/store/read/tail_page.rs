//! Reads the rows after a number for the tailer, a page at a time.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use super::PAGE_ROWS;
use super::log_state::LogState;
use super::row::LogRowColumns;
use crate::domain::{InstanceId, LogId, Notification, NotificationId, Seq, TraceContext};
use crate::store::StoreError;
use crate::store::access::AccessRevision;
use crate::store::access_sign::AccessStanding;
use crate::store::time_limit::{ASK_LIMIT, limited};

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

/// A part of the log for the tailer.
#[derive(Debug)]
pub struct Tail {
    /// The check, if one was asked for. It is of the same snapshot as the rows.
    pub checked: Option<TailCheck>,
    /// The id of the row at the starting number, if that row exists.
    pub id_at_from: Option<NotificationId>,
    /// The rows that follow, in order.
    pub rows: Vec<TailRow>,
    /// These rows reached the end of the log as it was at the time of the query.
    pub is_end: bool,
}

/// What the tailer checks once a second.
#[derive(Debug, Clone, Copy)]
pub struct TailCheck {
    pub log: LogState,
    pub access: Option<AccessStanding>,
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
    /// `trace` is the column of that name. A text that is no trace counts as none.
    fn of((row, is_item, trace): (LogRowColumns, bool, Option<String>)) -> Self {
        let (seq, id) = (Seq::from_db(row.seq), NotificationId(row.id));
        match row.notification() {
            Ok(notification) => {
                let trace = trace.as_deref().and_then(TraceContext::parse);
                Self::Readable(Notification { is_item, trace, ..notification })
            }
            Err(error) => Self::Unreadable { seq, id, error },
        }
    }

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
/// `check_for` asks for a check as well, with the newer tokens of this instance; one statement, because an idle hub
/// makes it each second.
///
/// # Errors
/// When the database does not answer in time: within 3 s where a whole page is asked for, else within 3 s and the time
/// that its bytes take over a link of 16 KiB a second.
/// Also when a check is asked for, and the row of `recado.meta` is gone.
pub async fn tail(connection: &mut PgConnection, from: Seq, most: TailSize, check_for: Option<InstanceId>) -> Result<Tail, StoreError> {
    if most == TailSize::WHOLE {
        let rows = limited(ASK_LIMIT, ask_tail(connection, from, most, check_for)).await?;
        return Tail::read(rows, most, check_for.is_some());
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
        limited(limit, ask_tail(connection, from, most, check_for)).await?
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
            let rows = ask_tail(&mut transaction, from, most, check_for).await?;
            transaction.commit().await?;
            Ok(rows)
        };
        limited(limit, slowly).await?
    };
    Tail::read(rows, most, check_for.is_some())
}

/// A row of the tailer's page. The columns of the check are absent when none was asked for; those of a row are absent
/// when no row follows.
struct TailPageRow {
    log_id: Option<Uuid>,
    floor_seq: Option<i64>,
    head: Option<i64>,
    is_standby: bool,
    revision: Option<i64>,
    change_id: Option<Uuid>,
    has_renewals: bool,
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
    is_item: Option<bool>,
    trace: Option<String>,
}

/// `data` is decompressed after the cut; earlier, that would be the data of all rows that were looked at.
async fn ask_tail(
    connection: &mut PgConnection,
    from: Seq,
    most: TailSize,
    check_for: Option<InstanceId>,
) -> Result<Vec<TailPageRow>, sqlx::Error> {
    sqlx::query_as!(
        TailPageRow,
        r#"SELECT m.log_id AS "log_id?", m.floor_seq AS "floor_seq?",
                  CASE WHEN m.one THEN greatest(m.floor_seq, coalesce((SELECT h.seq FROM recado.log h ORDER BY h.seq DESC LIMIT 1), 0))
                  END AS head,
                  pg_is_in_recovery() AS "is_standby!", s.revision AS "revision?", s.change_id AS "change_id?",
                  $4::uuid IS NOT NULL AND EXISTS (SELECT FROM recado.token_renewal t WHERE t.instance_id = $4) AS "has_renewals!",
                  (SELECT a.id FROM recado.log a WHERE a.seq = $1) AS id_at_from, coalesce(r.rows_found, 0) AS "rows_found!",
                  r.seq AS "seq?", r.id AS "id?", r.created_at AS "created_at?", r.type AS "kind?", r.title AS "title?",
                  r.message AS "message?", r.data::text AS "data?", r.topic AS "topic?", r.user_id AS "user_id?",
                  r.account_id AS "account_id?", r.user_ids AS "user_ids?",
                  r.inbox AND r.replay AS "is_item?", r.trace AS "trace?"
             FROM (VALUES (1)) one
             LEFT JOIN recado.meta m ON $4::uuid IS NOT NULL
             LEFT JOIN recado.access_state s ON $4::uuid IS NOT NULL
             LEFT JOIN LATERAL (
                   SELECT l.*, count(*) OVER () AS rows_found, sum(l.weight) OVER (ORDER BY l.seq) AS weight_through
                     FROM (SELECT *, bytes + coalesce(pg_column_size(user_ids), 0) AS weight
                             FROM recado.log WHERE seq > $1 ORDER BY seq LIMIT $2) l) r
               ON r.weight_through <= $3 OR r.weight_through = r.weight
            ORDER BY r.seq"#,
        from.get(),
        most.rows,
        most.bytes,
        check_for.map(|instance| instance.0) as Option<Uuid>,
    )
    .fetch_all(connection)
    .await
}

impl Tail {
    fn read(rows: Vec<TailPageRow>, most: TailSize, is_checked: bool) -> Result<Self, StoreError> {
        let checked = rows.first().and_then(TailPageRow::check);
        if is_checked && checked.is_none() {
            return Err(sqlx::Error::RowNotFound.into());
        }
        let id_at_from = rows.first().and_then(|row| row.id_at_from).map(NotificationId);
        let found = rows.first().map_or(0, |row| row.rows_found);
        let rows: Vec<TailRow> = rows.into_iter().filter_map(TailPageRow::row).map(TailRow::of).collect();
        // Neither limit was reached, so no row was cut off.
        let is_end = found < most.rows && i64::try_from(rows.len()).is_ok_and(|read| read == found);
        Ok(Self { checked, id_at_from, rows, is_end })
    }
}

impl TailPageRow {
    fn check(&self) -> Option<TailCheck> {
        let (log_id, floor, head) = (LogId(self.log_id?), Seq::from_db(self.floor_seq?), Seq::from_db(self.head?));
        let revision = self.revision.zip(self.change_id).map(|(number, change)| AccessRevision::of_row(number, change));
        let access = revision.map(|revision| AccessStanding { revision, has_renewals: self.has_renewals });
        Some(TailCheck { log: LogState { log_id, floor, head, is_standby: self.is_standby }, access })
    }

    fn row(self) -> Option<(LogRowColumns, bool, Option<String>)> {
        let columns = LogRowColumns {
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
        };
        Some((columns, self.is_item?, self.trace))
    }
}
