//! Creates, lists, pauses, resumes, rotates and deletes webhooks, and retries their dead letters.
//!
//! Only the owner of the schema may call these.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::{WebhookError, asked};
use crate::domain::audit::Act;
use crate::domain::{AccountId, ConsumerStart, Seq, UserId, WebhookAudience, WebhookFilter, WebhookName};
use crate::store::StoreError;
use crate::store::audit;
use crate::store::time_limit::{ASK_LIMIT, limited};

/// A webhook to create.
#[derive(Debug)]
pub struct NewWebhook<'a> {
    pub name: &'a WebhookName,
    pub url: &'a str,
    /// Scheme, host and port of the URL, for the audit.
    pub origin: &'a str,
    pub filter: &'a WebhookFilter,
    /// Sealed.
    pub secret: &'a [u8],
    pub start: ConsumerStart,
}

fn seconds(time: Duration) -> i32 {
    i32::try_from(time.as_secs()).unwrap_or(i32::MAX)
}

/// Creates a webhook.
///
/// # Errors
/// [`WebhookError::Exists`], and as the others.
pub async fn create(connection: &mut PgConnection, new: &NewWebhook<'_>) -> Result<(), WebhookError> {
    let WebhookFilter { rows, audience, unacked_after } = new.filter;
    let created = sqlx::query!(
        "SELECT recado.create_webhook($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        new.name.as_str(),
        new.url,
        new.origin,
        rows.types.as_deref(),
        rows.user.as_ref().map(UserId::as_str),
        rows.account.as_ref().map(AccountId::as_str),
        audience.map(WebhookAudience::as_str),
        unacked_after.map(seconds),
        new.secret,
        new.start.to_string(),
    );
    asked(ASK_LIMIT, created.execute(connection)).await.map(drop)
}

/// Stops a webhook until it is resumed.
///
/// # Errors
/// [`WebhookError::Unknown`], and as the others.
pub async fn pause(connection: &mut PgConnection, name: &WebhookName) -> Result<(), WebhookError> {
    let paused = sqlx::query!("SELECT recado.pause_webhook($1)", name.as_str());
    asked(ASK_LIMIT, paused.execute(connection)).await.map(drop)
}

/// Lets a webhook go on, from `start` if it is given. Returns the position.
///
/// # Errors
/// [`WebhookError::Reset`] without a start after a restore, [`WebhookError::NotKept`], and as the others.
pub async fn resume(connection: &mut PgConnection, name: &WebhookName, start: Option<ConsumerStart>) -> Result<Seq, WebhookError> {
    let start = start.map(|start| start.to_string());
    let resumed = sqlx::query_scalar!(r#"SELECT recado.resume_webhook($1, $2) AS "place!""#, name.as_str(), start);
    asked(ASK_LIMIT, resumed.fetch_one(connection)).await.map(Seq::from_db)
}

/// Replaces the sealed secret. The old one signs as well for `keep`.
///
/// # Errors
/// [`WebhookError::Unknown`], and as the others.
pub async fn rotate(connection: &mut PgConnection, name: &WebhookName, secret: &[u8], keep: Duration) -> Result<(), WebhookError> {
    let rotated = sqlx::query!("SELECT recado.rotate_webhook($1, $2, $3)", name.as_str(), secret, seconds(keep));
    asked(ASK_LIMIT, rotated.execute(connection)).await.map(drop)
}

/// Makes dead letters due: one, or all. Returns how many.
///
/// # Errors
/// [`WebhookError::Unknown`], and as the others.
pub async fn retry(connection: &mut PgConnection, name: &WebhookName, seq: Option<Seq>) -> Result<i64, WebhookError> {
    let retried = sqlx::query_scalar!(r#"SELECT recado.retry_webhook($1, $2) AS "posts!""#, name.as_str(), seq.map(Seq::get));
    asked(ASK_LIMIT, retried.fetch_one(connection)).await
}

/// Deletes a webhook with its posts.
///
/// # Errors
/// [`WebhookError::Unknown`], and as the others.
pub async fn delete(connection: &mut PgConnection, name: &WebhookName) -> Result<(), WebhookError> {
    let deleted = sqlx::query_scalar!(r#"SELECT recado.delete_webhook($1) AS "deleted!""#, name.as_str());
    if asked(ASK_LIMIT, deleted.fetch_one(&mut *connection)).await? {
        return Ok(());
    }
    audit::record_failure(connection, Act::WebhookDelete, name.as_str(), "no webhook has this name").await;
    Err(WebhookError::Unknown)
}

/// The address and the sealed secrets of a webhook.
#[derive(Debug)]
pub struct WebhookAddress {
    pub url: String,
    pub secret: Vec<u8>,
    /// Only while it still signs.
    pub old_secret: Option<Vec<u8>>,
}

/// Reads the address of a webhook.
///
/// # Errors
/// [`WebhookError::Unknown`], and as the others.
pub async fn address(connection: &mut PgConnection, name: &WebhookName) -> Result<WebhookAddress, WebhookError> {
    let address = sqlx::query_as!(
        WebhookAddress,
        r#"SELECT w.url, w.secret, CASE WHEN w.old_secret_until > statement_timestamp() THEN w.old_secret END AS old_secret
             FROM recado.webhook w
            WHERE w.name = $1"#,
        name.as_str()
    )
    .fetch_optional(connection);
    asked(ASK_LIMIT, address).await?.ok_or(WebhookError::Unknown)
}

/// A webhook in a list.
#[derive(Debug, Clone, serde::Serialize)]
pub struct ListedWebhook {
    pub name: String,
    pub url: String,
    pub types: Option<Vec<String>>,
    pub user_id: Option<String>,
    pub account_id: Option<String>,
    pub audience: Option<String>,
    pub unacked_seconds: Option<i32>,
    /// `active`, `paused`, `disabled`, or `reset`: the position is of another log.
    pub state: String,
    /// The position: everything up to it was posted, waits, or is of no interest.
    pub passed: i64,
    /// Numbers between the position and the head, whether or not the webhook wants them.
    pub lag: i64,
    /// Posts that wait for an attempt.
    pub waiting: i64,
    pub dead: i64,
    /// Numbers, and posts, that retention dropped before they were posted.
    pub missed: i64,
    /// `None`: no hub has a lease.
    pub owner: Option<String>,
    pub posted_at: Option<DateTime<Utc>>,
    /// Of the last failed attempt among the posts that wait and the dead letters.
    pub last_error: Option<String>,
    pub old_secret_until: Option<DateTime<Utc>>,
    pub created_at: DateTime<Utc>,
    pub created_by: String,
}

/// Lists the webhooks; with a name, this one only.
///
/// # Errors
/// When the database is unavailable or slow.
pub async fn list(connection: &mut PgConnection, name: Option<&WebhookName>) -> Result<Vec<ListedWebhook>, StoreError> {
    let rows = sqlx::query_as!(
        ListedWebhook,
        r#"WITH log AS (
               SELECT m.log_id, greatest(m.floor_seq, coalesce((SELECT l.seq FROM recado.log l ORDER BY l.seq DESC LIMIT 1), 0)) AS head
                 FROM recado.meta m)
           SELECT w.name, w.url, w.types, w.user_id, w.account_id, w.audience, w.unacked_seconds,
                  CASE WHEN w.log_id <> log.log_id THEN 'reset' ELSE w.state END AS "state!",
                  w.passed_seq AS passed, greatest(log.head - w.passed_seq, 0) AS "lag!",
                  (SELECT count(*) FROM recado.webhook_post p WHERE p.webhook = w.name AND NOT p.is_dead) AS "waiting!",
                  (SELECT count(*) FROM recado.webhook_post p WHERE p.webhook = w.name AND p.is_dead) AS "dead!",
                  w.missed, CASE WHEN w.lease_until > statement_timestamp() AND w.log_id = log.log_id THEN w.owner::text END AS owner, w.posted_at,
                  (SELECT p.error FROM recado.webhook_post p WHERE p.webhook = w.name AND p.tried_at IS NOT NULL
                    ORDER BY p.tried_at DESC LIMIT 1) AS last_error,
                  CASE WHEN w.old_secret_until > statement_timestamp() THEN w.old_secret_until END AS old_secret_until,
                  w.created_at, w.created_by
             FROM log
            CROSS JOIN recado.webhook w
            WHERE $1::text IS NULL OR w.name = $1
            ORDER BY w.name"#,
        name.map(WebhookName::as_str)
    );
    limited(ASK_LIMIT, rows.fetch_all(connection)).await
}

/// A dead letter.
#[derive(Debug, Clone, serde::Serialize)]
pub struct DeadLetter {
    pub seq: i64,
    /// `None`: retention has dropped the row.
    pub r#type: Option<String>,
    pub attempts: i32,
    pub queued_at: DateTime<Utc>,
    pub tried_at: Option<DateTime<Utc>>,
    pub status: Option<i32>,
    pub error: Option<String>,
}

/// Lists dead letters of a webhook, at most 1,000, in the order of their numbers.
///
/// # Errors
/// [`WebhookError::Unknown`], and as the others.
pub async fn dead(connection: &mut PgConnection, name: &WebhookName) -> Result<Vec<DeadLetter>, WebhookError> {
    address(connection, name).await?;
    let rows = sqlx::query_as!(
        DeadLetter,
        r#"SELECT p.seq, l.type AS "type?", p.attempts, p.queued_at, p.tried_at, p.status, p.error
             FROM recado.webhook_post p
             LEFT JOIN recado.log l ON l.seq = p.seq
            WHERE p.webhook = $1 AND p.is_dead
            ORDER BY p.seq
            LIMIT 1000"#,
        name.as_str()
    );
    asked(ASK_LIMIT, rows.fetch_all(connection)).await
}
