//! Holds the leases of webhooks, queues the rows that they post, and stores the results.
//!
//! The functions of `migrations/V33__webhooks.sql` hold the rules. [`admin`] has the calls of an administrator.

pub mod admin;

use std::time::Duration;

use sqlx::PgConnection;

use super::StoreError;
use super::console::log::LogRow;
use super::time_limit::{ASK_LIMIT, limited};
use super::turn_pool::RefusableCall;
use crate::domain::{InstanceId, LogId, Seq};

/// The payload of a NOTIFY that says that webhooks have changed.
pub const WEBHOOKS_CHANGED: &str = "webhooks";

/// Longest wait for a call that may look at many rows.
const NEXT_LIMIT: Duration = Duration::from_secs(9);

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    #[error("no webhook has this name; recado webhook list shows them")]
    Unknown,
    #[error("a webhook with this name exists; use another name, or delete it first (recado webhook delete NAME)")]
    Exists,
    #[error("the position of the webhook belongs to another log: the database was restored; name a new one with --start")]
    Reset,
    #[error("the number is not in the log; use --start earliest, --start now, or a number that is kept")]
    NotKept,
    #[error("the term has ended")]
    StaleTerm,
    #[error("{0}")]
    Refused(String),
    #[error("this user may not do that ({0}): run the command with the DATABASE_URL of the user who migrated, or of a superuser")]
    NotAllowed(String),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<sqlx::Error> for WebhookError {
    /// By SQLSTATE: `recado.refuse_webhook` gives each refusal its own.
    fn from(error: sqlx::Error) -> Self {
        let database = error.as_database_error();
        let message = || database.map(|e| e.message().to_owned()).unwrap_or_default();
        match database.and_then(|e| e.code()).as_deref() {
            Some("RC010") => Self::Refused(message()),
            Some("RC020") => Self::Unknown,
            Some("RC021") => Self::Reset,
            Some("RC023") => Self::StaleTerm,
            Some("RC024") => Self::NotKept,
            Some("RC025") => Self::Exists,
            Some("42501") => Self::NotAllowed(message()),
            _ => Self::Store(error.into()),
        }
    }
}

/// Runs one statement within its limit.
async fn asked<T>(limit: Duration, call: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, WebhookError> {
    Ok(limited(limit, async { Ok(call.await) }).await??)
}

impl RefusableCall for WebhookError {
    fn is_of_store(&self) -> bool {
        matches!(self, Self::Store(_))
    }
}

/// A webhook, as a beat returns it.
#[derive(Debug)]
pub struct BeatenWebhook {
    pub name: String,
    /// `None`: this instance does not own it.
    pub term: Option<i64>,
    pub url: String,
    pub secret: Vec<u8>,
    pub old_secret: Option<Vec<u8>>,
    /// How many seconds the old secret still signs.
    pub old_left: Option<f64>,
    /// `active`, `paused`, `disabled`, or `reset`: the position is of another log.
    pub state: String,
    pub dead: i64,
    /// Seconds for which its oldest notification has been due. `None`: nothing is due, or it is not active.
    pub lag: Option<f64>,
}

/// Renews the leases of an instance, takes those that no instance has, and lists all webhooks. `skip` names those that
/// this instance cannot post for.
///
/// # Errors
/// When the database is unavailable or slow.
pub async fn beat(
    connection: &mut PgConnection,
    owner: InstanceId,
    lease: Duration,
    skip: &[String],
) -> Result<Vec<BeatenWebhook>, StoreError> {
    let seconds = i32::try_from(lease.as_secs()).unwrap_or(i32::MAX);
    let rows = sqlx::query_as!(
        BeatenWebhook,
        r#"SELECT name AS "name!", term, url AS "url!", secret AS "secret!", old_secret, old_left, state AS "state!", dead AS "dead!", lag
             FROM recado.webhook_beat($1, $2, $3)"#,
        owner.0,
        seconds,
        skip,
    )
    .fetch_all(connection);
    limited(ASK_LIMIT, rows).await
}

/// Gives back the leases of an instance that stops.
///
/// # Errors
/// When the database is unavailable or slow.
pub async fn release(connection: &mut PgConnection, owner: InstanceId) -> Result<(), StoreError> {
    let released = sqlx::query!("SELECT recado.release_webhooks($1)", owner.0);
    limited(ASK_LIMIT, released.execute(connection)).await.map(drop)
}

/// The owner of a webhook, and its number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookTerm {
    pub name: String,
    pub term: i64,
}

/// A post that is due.
#[derive(Debug)]
pub struct DuePost {
    pub row: LogRow,
    /// Failed attempts so far.
    pub attempts: i32,
    /// The users who have not acknowledged the row; `None` if the webhook does not ask.
    pub unacked: Option<Vec<String>>,
}

/// The posts that are due, and when to ask again.
#[derive(Debug)]
pub struct NextPosts {
    pub log_id: LogId,
    pub posts: Vec<DuePost>,
    /// The end of the log at this call.
    pub head: Seq,
    /// Ask again now.
    pub has_more: bool,
    /// Something is due after this time, without a new row.
    pub wait: Option<Duration>,
    /// Numbers, and posts, that retention dropped before.
    pub skipped: i64,
}

/// Queues the rows that follow the position, and returns at most `rows` posts that are due and not `busy`.
///
/// # Errors
/// [`WebhookError::StaleTerm`], and when the database is unavailable or slow.
pub async fn next(connection: &mut PgConnection, term: &WebhookTerm, rows: i32, busy: &[i64]) -> Result<NextPosts, WebhookError> {
    let found = sqlx::query!(
        r#"SELECT log_id AS "log_id!", head AS "head!", has_more AS "has_more!", wait_seconds AS "wait_seconds?", skipped AS "skipped!",
                  seq AS "seq?", id AS "id?", created_at AS "created_at?", type AS "kind?", title AS "title?", message AS "message?",
                  data::text AS "data?", user_ids AS "user_ids?", account_id AS "account_id?", broadcast AS "broadcast?",
                  source AS "source?", expires_at AS "expires_at?", replay AS "replay?", attempts AS "attempts?", unacked AS "unacked?"
             FROM recado.webhook_next($1, $2, $3, $4)"#,
        term.name,
        term.term,
        rows,
        busy,
    )
    .fetch_all(connection);
    let found = asked(NEXT_LIMIT, found).await?;
    let Some(first) = found.first() else { return Err(StoreError::Broken(sqlx::Error::RowNotFound).into()) };
    let mut next = NextPosts {
        log_id: LogId(first.log_id),
        posts: Vec::new(),
        head: Seq::from_db(first.head),
        has_more: first.has_more,
        wait: first.wait_seconds.map(|seconds| Duration::from_secs_f64(seconds.clamp(0.0, 86_400.0))),
        skipped: first.skipped,
    };
    let posts = found.into_iter().filter_map(|row| {
        let log_row = LogRow {
            seq: row.seq?,
            id: row.id?,
            kind: row.kind?,
            title: row.title?,
            message: row.message?,
            data: row.data,
            created_at: row.created_at?,
            user_ids: row.user_ids?,
            account_id: row.account_id,
            broadcast: row.broadcast?,
            source: row.source?,
            expires_at: row.expires_at,
            replay: row.replay?,
            bytes: 0,
        };
        Some(DuePost { row: log_row, attempts: row.attempts?, unacked: row.unacked })
    });
    next.posts = posts.collect();
    Ok(next)
}

/// The result of one post.
#[derive(Debug, Clone, PartialEq)]
pub enum PostResult {
    Accepted,
    /// It is tried again after `wait`; `None` makes it a dead letter.
    Failed {
        status: Option<u16>,
        error: String,
        wait: Option<Duration>,
    },
}

/// Stores the results of posts, by their numbers.
///
/// # Errors
/// [`WebhookError::StaleTerm`], and when the database is unavailable or slow. Nothing is stored then.
pub async fn settle(connection: &mut PgConnection, term: &WebhookTerm, results: &[(i64, PostResult)]) -> Result<(), WebhookError> {
    let seqs: Vec<i64> = results.iter().map(|(seq, _)| *seq).collect();
    let done: Vec<bool> = results.iter().map(|(_, result)| *result == PostResult::Accepted).collect();
    let failed = |result: &PostResult| match result {
        PostResult::Accepted => (None, None, None),
        PostResult::Failed { status, error, wait } => (status.map(i32::from), Some(error.clone()), wait.map(|wait| wait.as_secs_f64())),
    };
    let mut columns = (Vec::new(), Vec::new(), Vec::new());
    for (status, error, wait) in results.iter().map(|(_, result)| failed(result)) {
        columns.0.push(status);
        columns.1.push(error);
        columns.2.push(wait);
    }
    let (statuses, errors, waits) = columns;
    let settled = sqlx::query!(
        "SELECT recado.settle_webhook_posts($1, $2, $3, $4, $5, $6, $7)",
        term.name,
        term.term,
        &seqs,
        &done,
        &statuses as _,
        &errors as _,
        &waits as _,
    );
    asked(ASK_LIMIT, settled.execute(connection)).await.map(drop)
}

/// Disables a webhook whose address answered 410.
///
/// # Errors
/// As [`settle`].
pub async fn disable(connection: &mut PgConnection, term: &WebhookTerm) -> Result<(), WebhookError> {
    let disabled = sqlx::query!("SELECT recado.disable_webhook($1, $2)", term.name, term.term);
    asked(ASK_LIMIT, disabled.execute(connection)).await.map(drop)
}

/// Stores secrets that were sealed with a newer key.
///
/// # Errors
/// As [`settle`].
pub async fn reseal(
    connection: &mut PgConnection,
    term: &WebhookTerm,
    secret: &[u8],
    old_secret: Option<&[u8]>,
) -> Result<(), WebhookError> {
    let resealed = sqlx::query!("SELECT recado.reseal_webhook($1, $2, $3, $4)", term.name, term.term, secret, old_secret);
    asked(ASK_LIMIT, resealed.execute(connection)).await.map(drop)
}
