//! Reads the inboxes of users, and makes the changes that users ask for.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::PgConnection;
use uuid::Uuid;

use super::append::{self, AppendFailure};
use super::log_watermark::WatermarkEnd;
use super::read::LogRowColumns;
use super::repeated_read::again_if_lost;
use super::time_limit::{ASK_LIMIT, limited};
use super::{Reader, StoreError};
use crate::domain::{
    AskedChange, Changed, CommitOrigin, InboxChange, InboxCounts, InboxFacts, InboxSince, InboxState, InstanceId, MutePattern,
    Notification, Principal, Seq, UserId,
};
use crate::metrics::INBOX_COUNT_SECONDS;

/// Most items of one page.
pub const PAGE_MAX: i64 = 200;

/// Which items a page lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InboxFilter {
    /// What the count of unread items counts.
    Unread,
    /// What is not archived.
    All,
    Archived,
}

impl InboxFilter {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Unread => "unread",
            Self::All => "all",
            Self::Archived => "archived",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        [Self::Unread, Self::All, Self::Archived].into_iter().find(|filter| filter.as_str() == text)
    }
}

/// An item with its state.
#[derive(Debug)]
pub struct InboxItem {
    pub notification: Notification,
    pub is_read: bool,
    pub is_archived: bool,
    pub is_muted: bool,
}

/// Begins to count for this principal where it comes for the first time, and counts.
///
/// # Errors
/// When the database is unavailable or slow.
pub async fn open(reader: &Reader, who: &Principal) -> Result<InboxState, StoreError> {
    let accounts = accounts(who);
    again_if_lost(reader, || async {
        let mut checkout = reader.checkout().await?;
        let opened = sqlx::query!("SELECT recado.inbox_open($1, $2)", who.user.as_str(), &accounts);
        limited(ASK_LIMIT, opened.execute(checkout.connection())).await?;
        let state = state(checkout.connection(), who, &accounts, reader.reads_members()).await?;
        checkout.done();
        Ok(state)
    })
    .await
}

/// Counts for this principal.
///
/// # Errors
/// When the database is unavailable or slow.
pub async fn counts(reader: &Reader, who: &Principal) -> Result<InboxState, StoreError> {
    let accounts = accounts(who);
    again_if_lost(reader, || async {
        let mut checkout = reader.checkout().await?;
        let state = state(checkout.connection(), who, &accounts, reader.reads_members()).await?;
        checkout.done();
        Ok(state)
    })
    .await
}

async fn state(connection: &mut PgConnection, who: &Principal, accounts: &[String], reads_members: bool) -> Result<InboxState, StoreError> {
    let asked = sqlx::query!(
        r#"SELECT unread AS "unread!", unseen AS "unseen!", as_of AS "as_of!", oldest, muted AS "muted!"
             FROM recado.inbox_counts($1, $2, $3)"#,
        who.user.as_str(),
        accounts,
        reads_members,
    );
    let began = Instant::now();
    let row = limited(ASK_LIMIT, asked.fetch_one(connection)).await;
    INBOX_COUNT_SECONDS.time(began.elapsed());
    let row = row?;
    let counts = counts_of(row.unread, row.unseen, row.as_of);
    // Written by the hub and by SQL alike; what is no pattern mutes nothing.
    let muted = row.muted.iter().filter_map(|text| MutePattern::parse(text)).collect();
    Ok(InboxState { counts, oldest: row.oldest.map(Seq::from_db), muted })
}

/// A page of items, and the counts in the same snapshot.
#[derive(Debug)]
pub struct InboxPage {
    pub items: Vec<InboxItem>,
    pub counts: InboxCounts,
}

/// A row of [`page`]: the counts, and an item if there is one.
struct PageRow {
    unread: i32,
    unseen: i32,
    as_of: i64,
    seq: Option<i64>,
    is_read: Option<bool>,
    is_archived: Option<bool>,
    is_muted: Option<bool>,
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

/// A page of items below `before`, newest first, at most `most`; `most` is a little above [`PAGE_MAX`] at most.
///
/// # Errors
/// When the database is unavailable or slow.
pub async fn page(reader: &Reader, who: &Principal, filter: InboxFilter, before: Option<Seq>, most: i64) -> Result<InboxPage, StoreError> {
    let accounts = accounts(who);
    let turn = reader.page_turn(&who.user).await;
    let rows: Vec<PageRow> = again_if_lost(reader, || async {
        let mut checkout = reader.checkout().await?;
        let rows = sqlx::query_as!(
            PageRow,
            r#"SELECT c.unread AS "unread!", c.unseen AS "unseen!", c.as_of AS "as_of!",
                      p.seq AS "seq?", p.is_read AS "is_read?", p.is_archived AS "is_archived?", p.is_muted AS "is_muted?",
                      p.id AS "id?", p.created_at AS "created_at?", p.type AS "kind?", p.title AS "title?", p.message AS "message?",
                      p.data::text AS "data?", p.topic AS "topic?", p.user_id AS "user_id?", p.account_id AS "account_id?",
                      p.user_ids AS "user_ids?"
                 FROM recado.inbox_counts($1, $2, $3) c
                 LEFT JOIN recado.inbox_rows($1, $2, $3, $4, $5, $6) p ON true
                ORDER BY p.seq DESC"#,
            who.user.as_str(),
            &accounts,
            reader.reads_members(),
            filter.as_str(),
            before.map_or(i64::MAX, Seq::get),
            i32::try_from(most).unwrap_or(i32::MAX),
        );
        let rows = limited(ASK_LIMIT * 3, rows.fetch_all(checkout.connection())).await?;
        checkout.done();
        Ok(rows)
    })
    .await?;
    let length = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    turn.charge(rows.len(), rows.iter().map(|row| length(&row.title) + length(&row.message) + length(&row.data)).sum());
    let first = rows.first().ok_or(StoreError::Broken(sqlx::Error::RowNotFound))?;
    let counts = counts_of(first.unread, first.unseen, first.as_of);
    Ok(InboxPage { items: rows.into_iter().filter_map(PageRow::item).collect(), counts })
}

impl PageRow {
    fn item(self) -> Option<InboxItem> {
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
        let notification = columns.readable()?;
        Some(InboxItem { notification, is_read: self.is_read?, is_archived: self.is_archived?, is_muted: self.is_muted? })
    }
}

/// Most accounts that are listed.
const SINCE_MAX: i64 = 1000;

/// Reads a user's inbox; `None` if the user has never opened one.
///
/// # Errors
/// When the database is unavailable or slow.
pub async fn facts(connection: &mut PgConnection, user: &UserId) -> Result<Option<InboxFacts>, StoreError> {
    let since =
        sqlx::query!("SELECT topic, seq FROM recado.inbox_since WHERE user_id = $1 ORDER BY topic LIMIT $2", user.as_str(), SINCE_MAX);
    let since = limited(ASK_LIMIT, since.fetch_all(&mut *connection)).await?;
    if since.is_empty() {
        return Ok(None);
    }
    let asked = sqlx::query!(
        r#"SELECT c.unread AS "unread!", c.unseen AS "unseen!", c.as_of AS "as_of!", c.muted AS "muted!",
                  coalesce(i.seen_seq, 0) AS "seen_seq!", coalesce(i.read_seq, 0) AS "read_seq!", coalesce(i.archived_seq, 0) AS "archived_seq!",
                  (SELECT count(*) FROM recado.inbox_item e WHERE e.user_id = $1) AS "marked!"
             FROM recado.inbox_counts($1, recado.inbox_accounts($1), true) c
             LEFT JOIN recado.inbox i ON i.user_id = $1"#,
        user.as_str(),
    );
    let row = limited(ASK_LIMIT, asked.fetch_one(connection)).await?;
    Ok(Some(InboxFacts {
        counts: counts_of(row.unread, row.unseen, row.as_of),
        seen_seq: Seq::from_db(row.seen_seq),
        read_seq: Seq::from_db(row.read_seq),
        archived_seq: Seq::from_db(row.archived_seq),
        marked: row.marked,
        muted: row.muted,
        since: since.into_iter().map(|row| InboxSince { topic: row.topic, seq: Seq::from_db(row.seq) }).collect(),
    }))
}

/// A change as `recado.change_inboxes` takes it.
#[derive(Serialize)]
struct ChangeRow<'a> {
    user: &'a str,
    accounts: Vec<&'a str>,
    members: bool,
    op: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    seqs: Option<Vec<i64>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    up_to: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    muted: Option<Vec<&'a str>>,
}

impl<'a> ChangeRow<'a> {
    fn of(asked: &'a AskedChange, reads_members: bool) -> Self {
        let (op, seqs, up_to, muted) = match &asked.change {
            InboxChange::Items { op, seqs } => (op.as_str(), Some(seqs.iter().map(|seq| seq.get()).collect()), None, None),
            InboxChange::UpTo { op, up_to } => (op.as_str(), None, Some(up_to.get()), None),
            InboxChange::Mute(muted) => ("mute", None, None, Some(muted.iter().map(MutePattern::as_str).collect())),
        };
        let accounts = asked.accounts.iter().map(|account| account.as_str()).collect();
        Self { user: asked.user.as_str(), accounts, members: reads_members, op, seqs, up_to, muted }
    }
}

/// Makes changes in one commit. Returns their outcomes in the same order.
///
/// # Errors
/// As [`append::append`]. After [`AppendFailure::Unknown`] the connection must not be used again. The same changes may
/// be made again: what is changed already has no effect.
pub async fn change(
    connection: &mut PgConnection,
    seen: WatermarkEnd,
    instance: InstanceId,
    asked: &[&AskedChange],
    reads_members: bool,
    limit: Duration,
) -> Result<Vec<Changed>, AppendFailure> {
    let changes: Vec<ChangeRow<'_>> = asked.iter().map(|asked| ChangeRow::of(asked, reads_members)).collect();
    let changes =
        serde_json::to_value(changes).map_err(|error| AppendFailure::Refused(StoreError::Broken(sqlx::Error::Encode(error.into()))))?;
    let answer = sqlx::query!(
        "SELECT seq, problem, places FROM recado.change_inboxes($1, $2, $3, $4)",
        seen.seq.get(),
        seen.id.map(|id| id.0),
        CommitOrigin::Inboxes(instance).to_string(),
        changes,
    );
    let rows = limited(limit, answer.fetch_all(connection)).await.map_err(append::failure)?;
    let outcome = |problem: Option<&str>, seq: Option<i64>, places: Option<Vec<i32>>| match problem {
        Some("no_item") => Changed::NoItems(places.unwrap_or_default().into_iter().filter_map(|at| usize::try_from(at).ok()).collect()),
        Some("beyond") => Changed::BeyondHead,
        Some(_) => Changed::Full,
        None => Changed::Done(seq.map(Seq::from_db)),
    };
    Ok(rows.into_iter().map(|row| outcome(row.problem.as_deref(), row.seq, row.places)).collect())
}

fn counts_of(unread: i32, unseen: i32, as_of: i64) -> InboxCounts {
    let count = |count: i32| u32::try_from(count).unwrap_or(0);
    InboxCounts { unread: count(unread), unseen: count(unseen), as_of: Seq::from_db(as_of) }
}

fn accounts(who: &Principal) -> Vec<String> {
    who.accounts.iter().map(ToString::to_string).collect()
}
