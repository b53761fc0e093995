//! Reads the inboxes of users, and makes the changes that users ask for.

use std::time::Duration;

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
    AskedChange, Changed, CommitOrigin, InboxChange, InboxCounts, InboxState, InstanceId, MutePattern, Notification, Principal, Seq,
};

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
    let row = limited(ASK_LIMIT, asked.fetch_one(connection)).await?;
    let counts = InboxCounts {
        unread: u32::try_from(row.unread).unwrap_or(0),
        unseen: u32::try_from(row.unseen).unwrap_or(0),
        as_of: Seq::from_db(row.as_of),
    };
    // Written by the hub and by SQL alike; what is no pattern mutes nothing.
    let muted = row.muted.iter().filter_map(|text| MutePattern::parse(text)).collect();
    Ok(InboxState { counts, oldest: row.oldest.map(Seq::from_db), muted })
}

/// A row of [`page`].
struct ItemRow {
    seq: i64,
    is_read: bool,
    is_archived: bool,
    is_muted: bool,
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

/// A page of items below `before`, newest first, at most `most`; `most` is a little above [`PAGE_MAX`] at most.
///
/// # Errors
/// When the database is unavailable or slow.
pub async fn page(
    reader: &Reader,
    who: &Principal,
    filter: InboxFilter,
    before: Option<Seq>,
    most: i64,
) -> Result<Vec<InboxItem>, StoreError> {
    let accounts = accounts(who);
    let turn = reader.page_turn(&who.user).await;
    let rows: Vec<ItemRow> = again_if_lost(reader, || async {
        let mut checkout = reader.checkout().await?;
        let rows = sqlx::query_as!(
            ItemRow,
            r#"SELECT p.seq AS "seq!", p.is_read AS "is_read!", p.is_archived AS "is_archived!", p.is_muted AS "is_muted!",
                      l.id, l.created_at, l.type AS kind, l.title, l.message, l.data::text AS data, l.topic, l.user_id, l.account_id, l.user_ids
                 FROM recado.inbox_page($1, $2, $3, $4, $5, $6) p
                CROSS JOIN LATERAL (SELECT * FROM recado.log x WHERE x.seq = p.seq LIMIT 1) l
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
    turn.charge(rows.len(), rows.iter().map(|row| row.title.len() + row.message.len() + row.data.as_ref().map_or(0, String::len)).sum());
    Ok(rows.into_iter().filter_map(ItemRow::item).collect())
}

impl ItemRow {
    fn item(self) -> Option<InboxItem> {
        let Self { seq, is_read, is_archived, is_muted, id, created_at, kind, title, message, data, topic, user_id, account_id, user_ids } =
            self;
        let columns = LogRowColumns { seq, id, created_at, kind, title, message, data, topic, user_id, account_id, user_ids };
        Some(InboxItem { notification: columns.readable()?, is_read, is_archived, is_muted })
    }
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
/// As [`append::append`]. After [`AppendFailure::Unknown`] the connection must not be used again. The same changes may be
/// made again: what is changed already has no effect.
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

fn accounts(who: &Principal) -> Vec<String> {
    who.accounts.iter().map(ToString::to_string).collect()
}
