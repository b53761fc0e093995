//! Records administrative acts, lists them, and checks that no row was changed.
//!
//! `migrations/V23__audit.sql` has the table and its rules. Acts that change a row of a table are recorded by triggers;
//! the others call [`record`] in the transaction of the act. Both name who the session acts for
//! ([`super::Database::acting_as`]), unless the caller names another actor.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sqlx::PgConnection;

use super::StoreError;
use super::database::Reader;
use super::repeated_read::again_if_lost;
use super::time_limit::{ASK_LIMIT, limited};
use crate::domain::audit::{Act, Actor, AuditFilter, AuditRow, Outcome, Pattern, Via};
use crate::domain::{Principal, StartTime};

/// The user of this process, for a command line.
pub fn command_line() -> Actor {
    Actor { who: format!("os:{}", os_user()), via: Via::Cli, address: Some(machine()) }
}

/// A hub that acts on its own.
pub fn hub() -> Actor {
    Actor { who: "hub".to_owned(), via: Via::Hub, address: Some(machine()) }
}

/// The name of the effective user; the number of one without a name.
fn os_user() -> String {
    let uid = rustix::process::geteuid().as_raw();
    let accounts = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = accounts.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    });
    name.unwrap_or_else(|| uid.to_string())
}

fn machine() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// One act to record.
#[derive(Debug, Clone)]
pub struct Entry<'a> {
    pub act: Act,
    /// What the act was applied to, such as the name of a key. Never a user: see `user`.
    pub object: Option<&'a str>,
    /// The user whom the act concerns. An erasure removes the id from the row.
    pub user: Option<&'a str>,
    pub outcome: Outcome,
    pub reason: Option<&'a str>,
    /// An object with further facts: no secret, and no content of a notification.
    pub details: Value,
    /// Attempts that the row stands for.
    pub count: i32,
}

impl<'a> Entry<'a> {
    /// An act that was done.
    pub fn done(act: Act, object: &'a str) -> Self {
        Self { act, object: Some(object), user: None, outcome: Outcome::Done, reason: None, details: json!({}), count: 1 }
    }

    /// An act that failed, and did nothing.
    pub fn failed(act: Act, object: &'a str, reason: &'a str) -> Self {
        Self { outcome: Outcome::Failed, reason: Some(reason), ..Self::done(act, object) }
    }

    #[must_use]
    pub fn with_details(mut self, details: Value) -> Self {
        self.details = details;
        self
    }
}

/// Records an act. Call it in the transaction of the act. Without `actor` the row names who the session acts for.
///
/// # Errors
/// When the database is unavailable or slow.
pub async fn record(connection: &mut PgConnection, actor: Option<&Actor>, entry: &Entry<'_>) -> Result<(), StoreError> {
    let written = sqlx::query!(
        "SELECT recado.audit($1, p_object => $2, p_details => $3, p_outcome => $4, p_reason => $5, p_user_id => $6,
                             p_who => $7, p_via => $8, p_address => $9, p_count => $10)",
        entry.act.as_str(),
        entry.object,
        entry.details,
        entry.outcome.as_str(),
        entry.reason,
        entry.user,
        actor.map(|actor| actor.who.as_str()),
        actor.map(|actor| actor.via.as_str()),
        actor.and_then(|actor| actor.address.as_deref()),
        entry.count,
    )
    .fetch_optional(connection);
    limited(ASK_LIMIT, written).await?;
    Ok(())
}

/// Records that a token of a user was made for the playground, unless the user is revoked. Returns whether it was.
///
/// # Errors
/// When the database is unavailable or slow. The token must not be handed out then.
pub async fn record_minted(reader: &Reader, actor: &Actor, who: &Principal, ttl: Duration) -> Result<bool, StoreError> {
    let mut checkout = reader.checkout().await?;
    let details = json!({ "account_ids": who.accounts, "playground": true, "ttl_seconds": ttl.as_secs() });
    let recorded = sqlx::query_scalar!(
        r#"SELECT recado.audit($1, p_details => $2, p_user_id => $3, p_who => $4, p_via => $5, p_address => $6) AS "audit_id!"
            WHERE NOT EXISTS (SELECT FROM recado.revocation r WHERE r.user_id = $3)"#,
        Act::TokenMint.as_str(),
        details,
        who.user.as_str(),
        actor.who,
        actor.via.as_str(),
        actor.address,
    )
    .fetch_optional(checkout.connection());
    let recorded = limited(ASK_LIMIT, recorded).await?;
    checkout.done();
    Ok(recorded.is_some())
}

/// Records that an act failed. A failure to record it is not the caller's concern: nothing was done.
pub async fn record_failure(connection: &mut PgConnection, act: Act, object: &str, reason: &str) {
    if let Err(error) = record(connection, None, &Entry::failed(act, object, reason)).await {
        tracing::warn!(%error, act = act.as_str(), "a failed act is not in the audit");
    }
}

/// An act that was done while no database could be reached, as a line of a file.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct NotedAct {
    /// Recognises a line that was recorded before, by a hub that ended before it removed the file.
    note_id: uuid::Uuid,
    at: DateTime<Utc>,
    what: String,
    object: String,
    outcome: String,
    who: String,
    address: Option<String>,
}

/// The line that notes an act of a command line.
pub fn note(act: Act, object: &str, outcome: Outcome) -> String {
    let Actor { who, address, .. } = command_line();
    let noted = NotedAct {
        note_id: uuid::Uuid::new_v4(),
        at: Utc::now(),
        what: act.as_str().to_owned(),
        object: object.to_owned(),
        outcome: outcome.as_str().to_owned(),
        who,
        address,
    };
    serde_json::to_string(&noted).expect("texts and a time are always JSON")
}

/// Records noted acts. Returns how many lines could not be read.
///
/// # Errors
/// When the database is unavailable or slow.
pub async fn record_noted(connection: &mut PgConnection, lines: &str) -> Result<usize, StoreError> {
    let mut skipped = 0;
    for line in lines.lines().filter(|line| !line.trim().is_empty()) {
        let Ok(noted) = serde_json::from_str::<NotedAct>(line) else {
            skipped += 1;
            continue;
        };
        let written = sqlx::query!(
            "SELECT recado.audit($1, p_object => $2, p_details => jsonb_build_object('note_id', $3::text, 'acted_at', $4::text),
                                 p_who => $5, p_via => 'cli', p_address => $6, p_outcome => $7)
              WHERE NOT EXISTS (SELECT FROM recado.audit a WHERE a.what = $1 AND a.details ->> 'note_id' = $3)",
            noted.what,
            noted.object,
            noted.note_id.to_string(),
            noted.at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true),
            noted.who,
            noted.address,
            noted.outcome,
        )
        .fetch_optional(&mut *connection);
        limited(ASK_LIMIT, written).await?;
    }
    Ok(skipped)
}

/// Lists acts, the newest first, at most `most`.
///
/// # Errors
/// When the database is unavailable or slow.
pub async fn list(connection: &mut PgConnection, filter: &AuditFilter, most: i64) -> Result<Vec<AuditRow>, StoreError> {
    let (at, ago) = match filter.since {
        Some(StartTime::At(at)) => (Some(at), None),
        Some(StartTime::Ago(ago)) => (None, Some(ago.as_secs_f64())),
        None => (None, None),
    };
    let text = |pattern: &Option<Pattern>, prefix: bool| pattern.as_ref().filter(|p| p.is_prefix == prefix).map(|p| p.text.clone());
    let rows = sqlx::query_as!(
        AuditRow,
        r#"SELECT a.audit_id, a.at, a.who, a.login, a.via, a.address, a.what, a.object, a.user_id, a.outcome, a.reason, a.count,
                  a.details, c.link AS "link?"
             FROM recado.audit a
             LEFT JOIN recado.audit_chain c ON c.audit_id = a.audit_id
            WHERE a.audit_id < coalesce($1, 9223372036854775807)
              AND a.at >= coalesce($2, statement_timestamp() - make_interval(secs => $8), '-infinity')
              AND ($3::text IS NULL OR a.who = $3) AND ($4::text IS NULL OR starts_with(a.who, $4))
              AND ($5::text IS NULL OR a.what = $5) AND ($6::text IS NULL OR starts_with(a.what, $6))
            ORDER BY a.audit_id DESC
            LIMIT $7"#,
        filter.before,
        at,
        text(&filter.who, false),
        text(&filter.who, true),
        text(&filter.what, false),
        text(&filter.what, true),
        most,
        ago,
    )
    .fetch_all(connection);
    limited(ASK_LIMIT, rows).await
}

/// Lists acts by a connection of a pool.
///
/// # Errors
/// As [`list`].
pub async fn page(reader: &Reader, filter: &AuditFilter, most: i64) -> Result<Vec<AuditRow>, StoreError> {
    again_if_lost(reader, || async {
        let mut checkout = reader.checkout().await?;
        let rows = list(checkout.connection(), filter, most).await?;
        checkout.done();
        Ok(rows)
    })
    .await
}

/// The end of the hash chain.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct ChainEnd {
    /// Rows that were chained now.
    pub chained: i64,
    pub link: i64,
    /// In hexadecimal.
    pub hash: String,
}

/// Adds the rows that wait to the hash chain.
///
/// # Errors
/// When the database is unavailable or slow.
pub async fn chain(connection: &mut PgConnection) -> Result<ChainEnd, StoreError> {
    let end = sqlx::query_as!(
        ChainEnd,
        r#"SELECT chained AS "chained!", link AS "link!", encode(hash, 'hex') AS "hash!" FROM recado.chain_audit()"#
    )
    .fetch_one(connection);
    limited(ASK_LIMIT, end).await
}

/// A difference between the rows and the hash chain.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct ChainFault {
    pub problem: String,
    pub link: Option<i64>,
    pub audit_id: Option<i64>,
}

/// Compares all rows with the hash chain, and returns the differences. Reads the whole table, as its owner.
///
/// # Errors
/// When the database is unavailable or slow.
pub async fn verify(connection: &mut PgConnection) -> Result<Vec<ChainFault>, StoreError> {
    limited(ASK_LIMIT, sqlx::raw_sql("SET statement_timeout = '60s'").execute(&mut *connection)).await?;
    let faults = sqlx::query_as!(ChainFault, r#"SELECT problem AS "problem!", link, audit_id FROM recado.verify_audit() LIMIT 1000"#)
        .fetch_all(connection);
    limited(ASK_LIMIT * 20, faults).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_noted_act_is_read_as_it_was_written() {
        let noted: NotedAct = serde_json::from_str(&note(Act::SecretRotate, "jwt", Outcome::Done)).unwrap();
        assert_eq!((noted.what.as_str(), noted.object.as_str()), ("secret.rotate", "jwt"));
        assert!(noted.who.starts_with("os:") && noted.address.is_some());
    }
}
