//! Reads and writes changes of access, and newer tokens for streams.
//!
//! `migrations/V20__access.sql` defines the tables. Each hub applies the changes in the order of their revisions.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::StoreError;
use super::database::Reader;
use super::repeated_read::again_if_lost;
use super::time_limit::{ASK_LIMIT, limited};
use crate::domain::audit::Actor;
use crate::domain::{AccountId, ClientId, InstanceId, KeyTag, SessionFilter, SessionId, TokenOrigin, Transport, UserId};

/// The NOTIFY that tells of a change, or of a newer token.
pub const ACCESS_CHANGED: &str = "access";
/// Most changes that one read returns. The next read returns the next ones.
const CHANGES_AT_ONCE: i64 = 1000;
/// Revocations of one page.
const REVOCATIONS_AT_ONCE: i64 = 10_000;

/// What a hub has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccessChange {
    /// Refuse the user's tokens that were issued before this time, and close their connections.
    RevokeUser(UserId, DateTime<Utc>),
    LiftRevocation(UserId),
    Close(SessionsOf),
    /// Ask for every service key again.
    ChangeKeys,
    /// One instance moves its clients to others, within this time.
    Drain(InstanceId, Duration),
}

/// Which sessions are to be closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionsOf {
    Session(SessionId),
    User(UserId),
    Account(AccountId),
}

impl SessionsOf {
    /// The kind in the database, and the text of the id.
    fn parts(&self) -> (&'static str, String) {
        match self {
            Self::Session(session) => ("session", session.to_string()),
            Self::User(user) => ("user", user.to_string()),
            Self::Account(account) => ("account", account.to_string()),
        }
    }
}

/// A change's number and id. A restored database gives the numbers of lost changes again, with other ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AccessRevision {
    number: i64,
    change: Uuid,
}

impl AccessRevision {
    pub(super) const fn of_row(number: i64, change: Uuid) -> Self {
        Self { number, change }
    }

    #[cfg(test)]
    pub(super) fn of_test(number: i64) -> Self {
        Self { number, change: Uuid::nil() }
    }
}

/// Changes that were read, and the revision of the last one.
#[derive(Debug, PartialEq, Eq)]
pub enum AccessChanges {
    Next(AccessRevision, Vec<AccessChange>),
    /// The changes since the last read are no longer kept, or the database is another one: read [`everything`].
    Lost,
}

/// The result of a read of the changes.
#[derive(Debug, PartialEq, Eq)]
pub struct AccessRead {
    pub changes: AccessChanges,
    /// A newer token waits for a stream of the instance: see [`take_renewals`].
    pub has_renewals: bool,
}

/// Reads the changes above a revision, and whether there is a newer token for a stream of `instance`.
///
/// # Errors
/// When the database is unavailable or slow.
pub async fn changes(connection: &mut PgConnection, after: AccessRevision, instance: InstanceId) -> Result<AccessRead, StoreError> {
    let rows = sqlx::query!(
        r#"SELECT s.revision AS "last!", s.change_id AS "last_change!", c.revision AS "revision?", c.change_id AS "change_id?",
                  c.kind AS "kind?", c.subject AS "subject?", c.not_before, c.window_ms,
                  EXISTS (SELECT FROM recado.token_renewal t WHERE t.instance_id = $3) AS "has_renewals!"
             FROM recado.access_state s
             LEFT JOIN (SELECT * FROM recado.access_change WHERE revision >= $1 ORDER BY revision LIMIT $2) c ON true
            ORDER BY c.revision"#,
        after.number,
        CHANGES_AT_ONCE,
        instance.0,
    )
    .fetch_all(connection);
    let rows = limited(ASK_LIMIT, rows).await?;
    let Some(first) = rows.first() else {
        return Ok(AccessRead { changes: AccessChanges::Lost, has_renewals: false });
    };
    let (last, has_renewals) = (AccessRevision { number: first.last, change: first.last_change }, first.has_renewals);
    if last == after {
        return Ok(AccessRead { changes: AccessChanges::Next(after, Vec::new()), has_renewals });
    }
    let (mut at, mut changes) = (after, Vec::new());
    // Before the first change of all there is no row to compare.
    let mut is_known = after.number == 0;
    for row in rows {
        let (Some(number), Some(id), Some(kind), Some(subject)) = (row.revision, row.change_id, row.kind, row.subject) else { continue };
        if number == after.number {
            is_known = id == after.change;
            continue;
        }
        if !is_known || number != at.number + 1 {
            return Ok(AccessRead { changes: AccessChanges::Lost, has_renewals });
        }
        at = AccessRevision { number, change: id };
        match change(&kind, &subject, row.not_before, row.window_ms) {
            Some(change) => changes.push(change),
            // Of a newer hub, or of a user who was erased. Ids were checked when the change was written.
            None => tracing::debug!(number, kind, "access change passed over"),
        }
    }
    let changes = if at == after { AccessChanges::Lost } else { AccessChanges::Next(at, changes) };
    Ok(AccessRead { changes, has_renewals })
}

fn change(kind: &str, subject: &str, not_before: Option<DateTime<Utc>>, window_ms: Option<i32>) -> Option<AccessChange> {
    let user = || UserId::parse(subject).ok();
    Some(match kind {
        "revoke_user" => AccessChange::RevokeUser(user()?, not_before?),
        "lift_revocation" => AccessChange::LiftRevocation(user()?),
        "close_session" => AccessChange::Close(SessionsOf::Session(SessionId(Uuid::parse_str(subject).ok()?))),
        "close_user" => AccessChange::Close(SessionsOf::User(user()?)),
        "close_account" => AccessChange::Close(SessionsOf::Account(AccountId::parse(subject).ok()?)),
        "change_keys" => AccessChange::ChangeKeys,
        "drain_instance" => {
            let window = Duration::from_millis(u64::try_from(window_ms?).ok()?);
            AccessChange::Drain(InstanceId(Uuid::parse_str(subject).ok()?), window)
        }
        _ => return None,
    })
}

/// All revocations, and the revision up to which they hold.
#[derive(Debug, Default)]
pub struct AllRevocations {
    pub revision: AccessRevision,
    pub users: Vec<(UserId, DateTime<Utc>)>,
}

/// Reads all revocations, page by page. Changes that are made meanwhile are read again as changes, which does no harm.
///
/// # Errors
/// When the database is unavailable or slow.
pub async fn everything(connection: &mut PgConnection) -> Result<AllRevocations, StoreError> {
    let state = sqlx::query!("SELECT revision, change_id FROM recado.access_state").fetch_one(&mut *connection);
    let state = limited(ASK_LIMIT, state).await?;
    let revision = AccessRevision { number: state.revision, change: state.change_id };
    let mut users: Vec<(UserId, DateTime<Utc>)> = Vec::new();
    let mut after = String::new();
    loop {
        let rows = sqlx::query!(
            "SELECT user_id, not_before FROM recado.revocation WHERE user_id > $1 ORDER BY user_id LIMIT $2",
            after,
            REVOCATIONS_AT_ONCE
        )
        .fetch_all(&mut *connection);
        let rows = limited(ASK_LIMIT, rows).await?;
        let Some(last) = rows.last() else { return Ok(AllRevocations { revision, users }) };
        after.clone_from(&last.user_id);
        // An id in a row that was written by hand may be none.
        users.extend(rows.into_iter().filter_map(|row| Some((UserId::parse(&row.user_id).ok()?, row.not_before))));
    }
}

/// Refuses the user's tokens that were issued before a time; `None` means now, by the database's clock. Returns the
/// time that counts: an earlier revocation of the user may refuse more.
///
/// # Errors
/// When the database is unavailable or slow. The call can be repeated.
pub async fn revoke(
    reader: &Reader,
    user: &UserId,
    before: Option<DateTime<Utc>>,
    reason: &str,
    actor: &Actor,
) -> Result<DateTime<Utc>, StoreError> {
    let mut checkout = reader.checkout().await?;
    let revoked = sqlx::query_scalar!(
        r#"SELECT recado.revoke_user($1, $2, $3, $4, $5, $6) AS "not_before!""#,
        user.as_str(),
        before,
        reason,
        actor.who,
        actor.via.as_str(),
        actor.address,
    );
    let not_before = limited(ASK_LIMIT, revoked.fetch_one(checkout.connection())).await?;
    checkout.done();
    Ok(not_before)
}

/// Lifts a revocation. Returns whether there was one.
///
/// # Errors
/// When the database is unavailable or slow. The call can be repeated.
pub async fn lift(reader: &Reader, user: &UserId, actor: &Actor) -> Result<bool, StoreError> {
    let mut checkout = reader.checkout().await?;
    let lifted = sqlx::query_scalar!(
        r#"SELECT recado.lift_revocation($1, $2, $3, $4) AS "lifted!""#,
        user.as_str(),
        actor.who,
        actor.via.as_str(),
        actor.address,
    );
    let lifted = limited(ASK_LIMIT, lifted.fetch_one(checkout.connection())).await?;
    checkout.done();
    Ok(lifted)
}

/// Closes sessions on all hubs. Returns how many were open and not being closed already, as far as the hubs have stored
/// them.
///
/// # Errors
/// When the database is unavailable or slow. The call can be repeated.
pub async fn close(reader: &Reader, sessions: &SessionsOf, actor: &Actor) -> Result<i64, StoreError> {
    let (kind, subject) = sessions.parts();
    let mut checkout = reader.checkout().await?;
    let closed = sqlx::query_scalar!(
        r#"SELECT recado.close_sessions($1, $2, $3, $4, $5) AS "open!""#,
        kind,
        subject,
        actor.who,
        actor.via.as_str(),
        actor.address,
    );
    let open = limited(ASK_LIMIT, closed.fetch_one(checkout.connection())).await?;
    checkout.done();
    Ok(open)
}

/// Orders an instance to drain. Returns how many sessions it has, as far as it has stored them; `None` if no live
/// instance that can drain has this id.
///
/// # Errors
/// When the database is unavailable or slow. The call can be repeated.
pub async fn drain(reader: &Reader, instance: InstanceId, window: Duration, actor: &Actor) -> Result<Option<i64>, StoreError> {
    let mut checkout = reader.checkout().await?;
    let ordered = sqlx::query_scalar!(
        "SELECT recado.drain_instance($1, $2, $3, $4, $5)",
        instance.0,
        i32::try_from(window.as_millis()).unwrap_or(i32::MAX),
        actor.who,
        actor.via.as_str(),
        actor.address,
    );
    let sessions = limited(ASK_LIMIT, ordered.fetch_one(checkout.connection())).await?;
    checkout.done();
    Ok(sessions)
}

/// The result of closing the sessions that match.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClosedSessions {
    /// Open sessions that match, as far as the hubs have stored them.
    pub matching: i64,
    /// Those whose closing was ordered now. The others were being closed already.
    pub closed: i64,
}

/// Closes the sessions that match on all hubs, if they are `expect`. Nothing is closed if another number matches.
///
/// # Errors
/// When the database is unavailable or slow. The call can be repeated.
pub async fn close_matching(reader: &Reader, filter: &SessionFilter, expect: i64, actor: &Actor) -> Result<ClosedSessions, StoreError> {
    let mut checkout = reader.checkout().await?;
    let closed = sqlx::query_as!(
        ClosedSessions,
        r#"SELECT matching AS "matching!", closed AS "closed!"
             FROM recado.close_matching($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)"#,
        filter.user.as_ref().map(UserId::as_str),
        filter.account.as_ref().map(AccountId::as_str),
        filter.client.as_ref().map(ClientId::as_str),
        filter.instance,
        filter.transport.map(Transport::as_str),
        filter.min_lag,
        expect,
        actor.who,
        actor.via.as_str(),
        actor.address,
    );
    let closed = limited(ASK_LIMIT, closed.fetch_one(checkout.connection())).await?;
    checkout.done();
    Ok(closed)
}

/// A revocation in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedRevocation {
    pub user: String,
    pub not_before: DateTime<Utc>,
    pub reason: String,
    pub by: String,
    pub at: DateTime<Utc>,
}

/// Lists revocations in the order of their users, after `after`, at most `most`.
///
/// # Errors
/// When the database is unavailable or slow.
pub async fn list(reader: &Reader, after: Option<&UserId>, most: i64) -> Result<Vec<ListedRevocation>, StoreError> {
    again_if_lost(reader, || async {
        let mut checkout = reader.checkout().await?;
        let rows = sqlx::query_as!(
            ListedRevocation,
            r#"SELECT user_id AS "user", not_before, reason, revoked_by AS by, revoked_at AS at FROM recado.revocation
                WHERE user_id > $1 ORDER BY user_id LIMIT $2"#,
            after.map_or("", |user| user.as_str()),
            most,
        )
        .fetch_all(checkout.connection());
        let rows = limited(ASK_LIMIT, rows).await?;
        checkout.done();
        Ok(rows)
    })
    .await
}

/// A newer token for an open stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRenewal {
    pub session: SessionId,
    pub user: UserId,
    pub expires_at: DateTime<Utc>,
    pub origin: TokenOrigin,
}

/// What became of a newer token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RenewalOutcome {
    /// The hub that serves the session will take it.
    Left,
    /// No open session of this user has this id.
    Unknown,
    /// The session has other accounts by its token.
    OtherAccounts,
}

/// Leaves a newer token for the hub that serves the session. Of several, the last one counts.
///
/// # Errors
/// When the database is unavailable or slow. The call can be repeated.
pub async fn leave_renewal(reader: &Reader, renewal: &TokenRenewal, accounts: &[AccountId]) -> Result<RenewalOutcome, StoreError> {
    let mut checkout = reader.checkout().await?;
    let accounts: Vec<String> = accounts.iter().map(ToString::to_string).collect();
    let row = sqlx::query!(
        r#"WITH found AS (
               SELECT s.instance_id, s.account_ids @> $3 AND s.account_ids <@ $3 AS has_accounts
                 FROM recado.session s WHERE s.session_id = $1 AND s.user_id = $2 AND s.ended_at IS NULL),
           left_there AS (
               INSERT INTO recado.token_renewal AS r (session_id, instance_id, user_id, expires_at, issued_at, key_tag, is_playground)
               SELECT $1, f.instance_id, $2, $4, $5, $6, $8 FROM found f WHERE f.has_accounts
               ON CONFLICT (session_id) DO UPDATE
                  SET instance_id = excluded.instance_id, expires_at = excluded.expires_at, issued_at = excluded.issued_at,
                      key_tag = excluded.key_tag, is_playground = excluded.is_playground, made_at = excluded.made_at
               RETURNING pg_notify('recado', $7))
           SELECT has_accounts AS "has_accounts!" FROM found"#,
        renewal.session.0,
        renewal.user.as_str(),
        &accounts,
        renewal.expires_at,
        renewal.origin.issued_at,
        renewal.origin.key.map(|KeyTag(tag)| i64::from(tag)),
        ACCESS_CHANGED,
        renewal.origin.is_playground,
    )
    .fetch_optional(checkout.connection());
    let row = limited(ASK_LIMIT, row).await?;
    checkout.done();
    Ok(match row.map(|row| row.has_accounts) {
        None => RenewalOutcome::Unknown,
        Some(false) => RenewalOutcome::OtherAccounts,
        Some(true) => RenewalOutcome::Left,
    })
}

/// Takes the newer tokens that were left for this hub.
///
/// # Errors
/// When the database is unavailable or slow. Tokens of a lost answer are lost; their streams end with the older ones.
pub async fn take_renewals(connection: &mut PgConnection, instance: InstanceId) -> Result<Vec<TokenRenewal>, StoreError> {
    let rows = sqlx::query!(
        "DELETE FROM recado.token_renewal WHERE instance_id = $1
         RETURNING session_id, user_id, expires_at, issued_at, key_tag, is_playground",
        instance.0
    )
    .fetch_all(connection);
    let rows = limited(ASK_LIMIT, rows).await?;
    let renewals = rows.into_iter().filter_map(|row| {
        let key = row.key_tag.and_then(|tag| u32::try_from(tag).ok()).map(KeyTag);
        Some(TokenRenewal {
            session: SessionId(row.session_id),
            user: UserId::parse(&row.user_id).ok()?,
            expires_at: row.expires_at,
            origin: TokenOrigin { key, issued_at: row.issued_at, is_playground: row.is_playground },
        })
    });
    Ok(renewals.collect())
}

/// Removes changes that every hub has read, and newer tokens that no hub took.
///
/// # Errors
/// When the database is unavailable or slow.
pub async fn trim(connection: &mut PgConnection) -> Result<(), StoreError> {
    limited(ASK_LIMIT, sqlx::query!("SELECT recado.trim_access_changes()").execute(connection)).await?;
    Ok(())
}
