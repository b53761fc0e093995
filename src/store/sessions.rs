//! Stores connections as sessions: a row each, written in batches, ended with a reason.

use std::time::Instant;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::StoreError;
use super::append::array_text;
use super::database::Reader;
use super::time_limit::{ASK_LIMIT, limited};
use crate::domain::{ClientId, InstanceId, LogId, Principal, Seq, SessionId};

/// The state of a connection at one moment.
#[derive(Debug, Clone)]
pub struct SessionFact {
    pub session: SessionId,
    pub who: Principal,
    pub client: ClientId,
    pub transport: &'static str,
    pub log_id: LogId,
    pub from: Seq,
    pub sent: Seq,
    pub acked: Seq,
    /// Acknowledged on the connection itself.
    pub own_acked: Seq,
    /// Whether a returning connection may have to start at its position.
    pub is_kept: bool,
    /// Whether the accounts of the table `recado.member` count.
    pub follows_members: bool,
    /// The types that the client asked for, as in its query; `None` for all.
    pub types: Option<String>,
    /// Whether a token of the session was made for the playground of the console.
    pub is_playground: bool,
    pub connected: Instant,
    pub last_activity: Instant,
    /// When it ended, and why; `None` while it is open.
    pub end: Option<(Instant, &'static str)>,
}

/// Stores facts; a later one of the same session replaces an earlier one. An ended session stays ended, unless it was
/// ended by mistake: an instance that was frozen for long counted as dead.
///
/// What the device of a session had acknowledged when the session began is stored by [`super::resume::begin`]. It is
/// not known of a session that this function inserts.
///
/// Times are sent as ages, so that all times are on the database's clock: a hub's clock may be wrong, and sessions are
/// compared with notifications, and deleted by their age. Two statements may take different times to arrive, so a later
/// one does not move a time below an earlier one.
///
/// # Errors
/// When the database is unavailable or slow. Nothing is stored then; the call can be repeated.
pub async fn store(connection: &mut PgConnection, instance: InstanceId, facts: &[SessionFact]) -> Result<(), StoreError> {
    let ids: Vec<Uuid> = facts.iter().map(|f| f.session.0).collect();
    let users: Vec<&str> = facts.iter().map(|f| f.who.user.as_str()).collect();
    let accounts: Vec<String> = facts.iter().map(|f| array_text(&f.who.accounts)).collect();
    let clients: Vec<&str> = facts.iter().map(|f| f.client.as_str()).collect();
    let transports: Vec<&str> = facts.iter().map(|f| f.transport).collect();
    let logs: Vec<Uuid> = facts.iter().map(|f| f.log_id.0).collect();
    let from: Vec<i64> = facts.iter().map(|f| f.from.get()).collect();
    let sent: Vec<i64> = facts.iter().map(|f| f.sent.get()).collect();
    let acked: Vec<i64> = facts.iter().map(|f| f.acked.get()).collect();
    let own: Vec<i64> = facts.iter().map(|f| f.own_acked.get()).collect();
    let kept: Vec<bool> = facts.iter().map(|f| f.is_kept).collect();
    let follows: Vec<bool> = facts.iter().map(|f| f.follows_members).collect();
    let types: Vec<Option<&str>> = facts.iter().map(|f| f.types.as_deref()).collect();
    let playground: Vec<bool> = facts.iter().map(|f| f.is_playground).collect();
    let now = Instant::now();
    let age = |at: Instant| i64::try_from(now.saturating_duration_since(at).as_micros()).unwrap_or(i64::MAX);
    let connected: Vec<i64> = facts.iter().map(|f| age(f.connected)).collect();
    let active: Vec<i64> = facts.iter().map(|f| age(f.last_activity)).collect();
    let ended: Vec<Option<i64>> = facts.iter().map(|f| f.end.map(|(at, _)| age(at))).collect();
    let reasons: Vec<Option<&str>> = facts.iter().map(|f| f.end.map(|(_, why)| why)).collect();
    let stored = sqlx::query!(
        r#"INSERT INTO recado.session AS s (instance_id, session_id, user_id, account_ids, client_id, transport, log_id,
                                            from_seq, sent_seq, acked_seq, connected_at, last_activity_at, ended_at, end_reason,
                                            own_acked_seq, is_kept, follows_members, types, is_playground)
           SELECT $1, f.session_id, f.user_id, f.account_ids::text[], f.client_id, f.transport, f.log_id,
                  f.from_seq, f.sent_seq, f.acked_seq, statement_timestamp() - f.connected_age * interval '1 microsecond',
                  statement_timestamp() - f.active_age * interval '1 microsecond',
                  statement_timestamp() - f.ended_age * interval '1 microsecond', f.end_reason, f.own_acked_seq, f.is_kept,
                  f.follows_members, f.types, f.is_playground
             FROM unnest($2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], $7::uuid[], $8::bigint[], $9::bigint[],
                         $10::bigint[], $11::bigint[], $12::bigint[], $13::bigint[], $14::text[],
                         $15::bigint[], $16::boolean[], $17::boolean[], $18::text[], $19::boolean[])
                  AS f (session_id, user_id, account_ids, client_id, transport, log_id, from_seq, sent_seq,
                        acked_seq, connected_age, active_age, ended_age, end_reason, own_acked_seq, is_kept,
                        follows_members, types, is_playground)
            ORDER BY f.session_id
           ON CONFLICT (session_id) DO UPDATE
              SET from_seq = excluded.from_seq, sent_seq = excluded.sent_seq, acked_seq = excluded.acked_seq,
                  own_acked_seq = excluded.own_acked_seq, types = excluded.types,
                  is_playground = s.is_playground OR excluded.is_playground,
                  is_kept = excluded.is_kept AND (s.is_kept OR s.end_reason IS NOT DISTINCT FROM 'instance_lost'),
                  last_activity_at = greatest(s.last_activity_at, excluded.last_activity_at),
                  ended_at = CASE WHEN excluded.ended_at IS NOT NULL THEN greatest(excluded.ended_at, s.connected_at) END,
                  end_reason = excluded.end_reason
            WHERE s.ended_at IS NULL OR s.end_reason = 'instance_lost'"#,
        instance.0,
        &ids,
        &users as _,
        &accounts,
        &clients as _,
        &transports as _,
        &logs,
        &from,
        &sent,
        &acked,
        &connected,
        &active,
        &ended as _,
        &reasons as _,
        &own,
        &kept,
        &follows,
        &types as _,
        &playground,
    )
    .execute(connection);
    limited(ASK_LIMIT, stored).await?;
    Ok(())
}

/// A live session of another instance, as it was last stored.
#[derive(Debug, Clone)]
pub struct StoredSession {
    pub session: Uuid,
    pub instance: Uuid,
    pub user: String,
    pub accounts: Vec<String>,
    pub client: String,
    pub transport: String,
    pub sent: Seq,
    pub acked: Seq,
    pub connected_at: DateTime<Utc>,
    pub last_activity_at: DateTime<Utc>,
    pub is_playground: bool,
}

/// Lists the live sessions of all instances but `except`, oldest first, at most `most`.
///
/// # Errors
/// When the database is unavailable or slow.
pub async fn live_elsewhere(reader: &Reader, except: InstanceId, most: i64) -> Result<Vec<StoredSession>, StoreError> {
    let mut checkout = reader.checkout().await?;
    let rows = sqlx::query_as!(
        StoredSessionRow,
        r#"SELECT s.session_id, s.instance_id, s.user_id, s.account_ids || coalesce(m.account_ids, '{}') AS "account_ids!", s.client_id,
                  s.transport, s.sent_seq, s.acked_seq, s.connected_at, s.last_activity_at, s.is_playground
             FROM (SELECT * FROM recado.session
                    WHERE ended_at IS NULL AND instance_id <> $1
                    ORDER BY connected_at
                    LIMIT $2) s
             LEFT JOIN LATERAL (
                   SELECT array_agg(o.account_id ORDER BY o.account_id) AS account_ids
                     FROM recado.member o
                    WHERE s.follows_members AND o.user_id = s.user_id AND o.until_seq IS NULL AND o.account_id <> ALL (s.account_ids)) m
               ON true
            ORDER BY s.connected_at"#,
        except.0,
        most,
    )
    .fetch_all(checkout.connection());
    let rows = limited(ASK_LIMIT, rows).await?;
    checkout.done();
    Ok(rows.into_iter().map(StoredSession::from).collect())
}

/// The same as columns of a query.
pub(super) struct StoredSessionRow {
    pub session_id: Uuid,
    pub instance_id: Uuid,
    pub user_id: String,
    pub account_ids: Vec<String>,
    pub client_id: String,
    pub transport: String,
    pub sent_seq: i64,
    pub acked_seq: i64,
    pub connected_at: DateTime<Utc>,
    pub last_activity_at: DateTime<Utc>,
    pub is_playground: bool,
}

impl From<StoredSessionRow> for StoredSession {
    fn from(row: StoredSessionRow) -> Self {
        Self {
            session: row.session_id,
            instance: row.instance_id,
            user: row.user_id,
            accounts: row.account_ids,
            client: row.client_id,
            transport: row.transport,
            sent: Seq::from_db(row.sent_seq),
            acked: Seq::from_db(row.acked_seq),
            connected_at: row.connected_at,
            last_activity_at: row.last_activity_at,
            is_playground: row.is_playground,
        }
    }
}
