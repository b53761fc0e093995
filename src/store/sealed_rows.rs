//! Seals the rows of a small commit, so that its NOTIFY can bring them.
//!
//! Another hub that is told the rows does not have to read them. But every login of the database may LISTEN, and may
//! NOTIFY what it likes. So the rows are encrypted with AES-256-GCM, with a key that only hubs read
//! (`recado.meta.row_key`). They are bound to the log and to the row before them: the payload of an earlier NOTIFY,
//! sent again with other numbers, is not opened, or does not follow what the receiver has.
//!
//! The text is the sealed form ([`sealing`]) in base64; the plain text is JSON. PostgreSQL limits the payload of
//! a NOTIFY to less than its block size: <https://www.postgresql.org/docs/current/sql-notify.html>.

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, Ordering};

use aws_lc_rs::aead::{AES_256_GCM, RandomizedNonceKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use uuid::Uuid;

use super::StoreError;
use super::log_watermark::WatermarkEnd;
use super::time_limit::{ASK_LIMIT, limited};
use crate::domain::{AccountId, Audience, LogId, NewNotification, Notification, NotificationId, Seq, TraceContext, UserId};
use crate::sealing;

/// Room in a payload for the numbers, the time and the instance.
const OTHER_WORDS: usize = 128;
/// What PostgreSQL itself keeps back of a block (`NOTIFY_PAYLOAD_MAX_LENGTH` in `async.c`).
const KEPT_BACK: usize = 192;

/// Rows of another hub that a NOTIFY brought, still sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedRows {
    text: String,
    /// The number of the first row.
    pub first: Seq,
    /// The number of the last row.
    pub last: Seq,
    created_at: DateTime<Utc>,
}

impl SealedRows {
    /// Reads `SEALED FIRST MICROSECONDS`, as `recado.append` writes it after the origin. `last` is the announced head.
    /// Any database client may send one.
    pub fn parse(text: &str, last: Seq) -> Option<Self> {
        let mut words = text.split(' ');
        let sealed = words.next()?.to_owned();
        let first = Seq::new(words.next()?.parse().ok()?)?;
        let created_at = DateTime::from_timestamp_micros(words.next()?.parse().ok()?)?;
        let is_whole = words.next().is_none() && first <= last;
        is_whole.then_some(Self { text: sealed, first, last, created_at })
    }
}

/// Rows that were opened.
#[derive(Debug, Clone)]
pub struct OpenedRows {
    /// The row before them, which the database has compared with its own when they were appended.
    pub after: (Seq, NotificationId),
    /// In order, without a hole.
    pub rows: Vec<Notification>,
}

/// Seals and opens rows. Shared by the tasks of a hub.
pub struct RowSeal {
    key: RandomizedNonceKey,
    /// Most bytes of the plain text.
    plain_max: usize,
    has_readers: AtomicBool,
}

impl std::fmt::Debug for RowSeal {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RowSeal").field("plain_max", &self.plain_max).finish_non_exhaustive()
    }
}

/// The plain text.
#[derive(Serialize, Deserialize)]
struct PlainRows<'a> {
    after: i64,
    after_id: Uuid,
    rows: Vec<PlainRow<'a>>,
    /// The places of rows that are no items of an inbox. Hubs of earlier versions do not tell them.
    no_items: Option<Vec<usize>>,
}

/// A row without what the database adds to it.
#[derive(Serialize, Deserialize)]
struct PlainRow<'a> {
    id: Uuid,
    kind: Cow<'a, str>,
    title: Cow<'a, str>,
    message: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    account: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    users: Option<Vec<Cow<'a, str>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace: Option<Cow<'a, str>>,
}

impl RowSeal {
    /// `block_size`: the server's, in bytes. `None` if the key is not 32 bytes long.
    fn new(key: &[u8], block_size: usize) -> Option<Self> {
        let text_max = block_size.saturating_sub(KEPT_BACK + OTHER_WORDS);
        let plain_max = (text_max / 4 * 3).saturating_sub(sealing::OVERHEAD);
        Some(Self { key: RandomizedNonceKey::new(&AES_256_GCM, key).ok()?, plain_max, has_readers: AtomicBool::new(false) })
    }

    /// Reads the key of the database.
    ///
    /// # Errors
    /// When the database is unavailable or slow, or the key was made unusable.
    pub async fn read(connection: &mut PgConnection) -> Result<Self, StoreError> {
        let asked = sqlx::query!(r#"SELECT m.row_key, current_setting('block_size')::integer AS "block_size!" FROM recado.meta m"#);
        let row = limited(ASK_LIMIT, asked.fetch_one(connection)).await?;
        let block_size = usize::try_from(row.block_size).unwrap_or(0);
        Self::new(&row.row_key, block_size)
            .ok_or_else(|| StoreError::Broken(sqlx::Error::Decode("recado.meta.row_key is not 32 bytes long".into())))
    }

    /// Records whether other hubs live. While there are none, nothing is sealed.
    pub fn has_readers(&self, others: bool) {
        self.has_readers.store(others, Ordering::Relaxed);
    }

    /// Seals the rows of a commit that will follow `after`. `None` while no other hub lives, if they do not fit into a
    /// NOTIFY, and if the row before them is not known. `traces` is empty, or has a place for each row.
    pub fn seal(&self, log_id: LogId, after: WatermarkEnd, rows: &[&NewNotification], traces: &[Option<TraceContext>]) -> Option<String> {
        let after_id = after.id?;
        let least: usize = rows.iter().map(|row| row.title.len() + row.message.len() + row.data.as_ref().map_or(0, String::len)).sum();
        if !self.has_readers.load(Ordering::Relaxed) || least > self.plain_max {
            return None;
        }
        let traces = traces.iter().copied().chain(std::iter::repeat(None));
        let no_items = rows.iter().enumerate().filter_map(|(at, row)| (!row.is_item()).then_some(at)).collect();
        let rows = rows.iter().zip(traces).map(|(row, trace)| PlainRow::of(row, trace)).collect();
        let plain = PlainRows { after: after.seq.get(), after_id: after_id.0, rows, no_items: Some(no_items) };
        let text = serde_json::to_vec(&plain).ok().filter(|text| text.len() <= self.plain_max)?;
        Some(STANDARD_NO_PAD.encode(sealing::seal(&self.key, &bound_to(log_id), text).ok()?))
    }

    /// Opens rows of this log. `None` if another key or log sealed them, if they were changed, and if the commit is not
    /// the rows that were sealed: a known key left one out, or rows of others came in between. Also if a hub of an
    /// earlier version sealed them.
    pub fn open(&self, log_id: LogId, sealed: &SealedRows) -> Option<OpenedRows> {
        let text = sealing::open(&self.key, &bound_to(log_id), &STANDARD_NO_PAD.decode(&sealed.text).ok()?)?;
        let plain: PlainRows<'_> = serde_json::from_slice(&text).ok()?;
        let after = Seq::new(plain.after)?;
        let no_items = plain.no_items?;
        let count = i64::try_from(plain.rows.len()).ok()?;
        if sealed.first != after.next() || sealed.last != after.plus(count) {
            return None;
        }
        let mut seq = after;
        let rows = plain.rows.into_iter().enumerate().map(|(at, row)| {
            seq = seq.next();
            let is_item = no_items.binary_search(&at).is_err();
            row.notification(seq, sealed.created_at).map(|row| Notification { is_item, ..row })
        });
        Some(OpenedRows { after: (after, NotificationId(plain.after_id)), rows: rows.collect::<Option<_>>()? })
    }
}

impl<'a> PlainRow<'a> {
    fn of(row: &'a NewNotification, trace: Option<TraceContext>) -> Self {
        let (user, users) = match &row.audience {
            Audience::Everyone | Audience::Account(_) => (None, None),
            Audience::User { user, .. } => (Some(user.as_str().into()), None),
            Audience::Users { users, .. } => (None, Some(users.iter().map(|user| user.as_str().into()).collect())),
        };
        Self {
            id: row.id.0,
            kind: row.kind.as_str().into(),
            title: row.title.as_str().into(),
            message: row.message.as_str().into(),
            data: row.data.as_deref().map(Cow::from),
            user,
            account: row.audience.account().map(|account| account.as_str().into()),
            users,
            trace: trace.map(|trace| trace.to_string().into()),
        }
    }

    fn notification(self, seq: Seq, created_at: DateTime<Utc>) -> Option<Notification> {
        let account = self.account.as_deref().map(AccountId::parse).transpose().ok()?;
        let audience = match (self.user, self.users, account) {
            (None, Some(users), account) => {
                Audience::Users { users: users.iter().map(|user| UserId::parse(user)).collect::<Result<_, _>>().ok()?, account }
            }
            (Some(user), None, account) => Audience::User { user: UserId::parse_stored(&user).ok()?, account },
            (None, None, Some(account)) => Audience::Account(account),
            (None, None, None) => Audience::Everyone,
            (Some(_), Some(_), _) => return None,
        };
        Some(Notification {
            seq,
            id: NotificationId(self.id),
            created_at,
            kind: self.kind.into_owned(),
            title: self.title.into_owned(),
            message: self.message.into_owned(),
            data: self.data.map(Cow::into_owned),
            audience,
            is_item: false,
            trace: self.trace.as_deref().and_then(TraceContext::parse),
            posted: None,
        })
    }
}

fn bound_to(log_id: LogId) -> Vec<u8> {
    format!("recado rows\0{log_id}").into_bytes()
}

#[cfg(test)]
mod tests;
