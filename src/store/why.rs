//! Collects what is known about one notification and one user.
//!
//! Every query walks an index from a given position and stops at a limit, so the answer costs the same in a log of any
//! length. All queries see one snapshot, so their results agree.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::StoreError;
use super::database::Reader;
use super::time_limit::{ASK_LIMIT, limited};
use crate::domain::why::{DeviceSeen, Membership, Revocation, SessionSeen, Whom, WhyFacts, WhyRow};
use crate::domain::{EVERYONE_TOPIC, LIST_TOPIC, LogId, Seq, UserId};

/// Most sessions that were open when the notification was appended, and most devices.
const MANY: i64 = 200;
/// Most sessions that began later.
const SESSIONS_SINCE: i64 = 500;
/// The newest sessions, from which the user's accounts are known.
const ACCOUNT_SESSIONS: i64 = 200;
/// The newest intervals of a membership, which the answer names.
const INTERVALS: i64 = 5;
/// Facts of a device above the number, among which the earliest is searched. One is enough, except for several
/// connections of one device that acknowledge at the same time.
const FACTS: i64 = 1000;

/// Collects the facts.
///
/// # Errors
/// When the database is unavailable or slow.
pub async fn facts(reader: &Reader, user: &UserId, seq: Seq) -> Result<WhyFacts, StoreError> {
    let mut found = facts_of(reader, user, &[seq]).await?;
    // There are facts of each number.
    found.pop().ok_or(StoreError::Broken(sqlx::Error::RowNotFound))
}

/// Collects the facts of several numbers, in one snapshot.
///
/// # Errors
/// When the database is unavailable or slow.
pub async fn facts_of(reader: &Reader, user: &UserId, seqs: &[Seq]) -> Result<Vec<WhyFacts>, StoreError> {
    let mut checkout = reader.checkout().await?;
    let connection = checkout.connection();
    limited(ASK_LIMIT, sqlx::raw_sql("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").execute(&mut *connection)).await?;
    let (ever_connected, accounts, follows_members) = accounts(connection, user).await?;
    let mut found = Vec::with_capacity(seqs.len());
    for seq in seqs {
        let facts = WhyFacts { ever_connected, accounts: accounts.clone(), follows_members, ..of_one(connection, user, *seq).await? };
        found.push(facts);
    }
    limited(ASK_LIMIT, sqlx::raw_sql("COMMIT").execute(connection)).await?;
    checkout.done();
    Ok(found)
}

/// Collects the facts of one number, without the user's accounts.
async fn of_one(connection: &mut PgConnection, user: &UserId, seq: Seq) -> Result<WhyFacts, StoreError> {
    let mut facts = log_row(connection, user, seq).await?;
    let (since, kind) = facts.row.as_ref().map_or((facts.now, String::new()), |row| (row.created_at, row.kind.clone()));
    facts.sessions = sessions(connection, user, facts.log_id, since, seq, &kind).await?;
    let clients: BTreeSet<&str> = facts.sessions.iter().map(|s| s.client.as_str()).collect();
    facts.devices = devices(connection, user, facts.log_id, seq, &Vec::from_iter(clients)).await?;
    if let Some(account) = facts.row.as_ref().and_then(|row| row.whom.account()) {
        facts.membership = membership(connection, user, account, seq).await?;
    }
    Ok(facts)
}

/// Reads the log's bounds, the row with the number, and the user's revocation.
async fn log_row(connection: &mut PgConnection, user: &UserId, seq: Seq) -> Result<WhyFacts, StoreError> {
    let row = sqlx::query!(
        r#"SELECT m.log_id, m.floor_seq, clock_timestamp() AS "now!",
                  greatest(m.floor_seq, coalesce((SELECT h.seq FROM recado.log h ORDER BY h.seq DESC LIMIT 1), 0)) AS "head!",
                  l.created_at AS "created_at?", l.kind AS "kind?", l.source AS "source?", l.topic AS "topic?", l.user_id AS "user_id?",
                  l.account_id AS "account_id?", l.is_listed AS "is_listed?", l.replay AS "replay?", l.expires_at AS "expires_at?",
                  r.not_before AS "not_before?", r.reason AS "revoked?", coalesce(recado.is_muted(l.kind, i.muted), false) AS "is_muted!"
             FROM recado.meta m
             LEFT JOIN recado.revocation r ON r.user_id = $2
             LEFT JOIN recado.inbox i ON i.user_id = $2
             LEFT JOIN LATERAL (
                   SELECT o.created_at, o.type AS kind, o.source, o.topic, o.user_id, o.account_id, $2 = ANY (o.user_ids) AS is_listed,
                          o.replay, o.expires_at
                     FROM recado.log o
                    WHERE o.seq = $1
                    LIMIT 1) l
               ON true"#,
        seq.get(),
        user.as_str(),
    )
    .fetch_one(connection);
    let row = limited(ASK_LIMIT, row).await?;
    let named = row.user_id.as_deref() == Some(user.as_str());
    let whom = match row.topic.as_deref() {
        Some(EVERYONE_TOPIC) => Whom::Everyone,
        Some(LIST_TOPIC) if row.is_listed == Some(true) => Whom::User { in_list: true, account: row.account_id },
        Some(topic) if topic != LIST_TOPIC && named => Whom::User { in_list: false, account: row.account_id },
        Some(_) if row.user_id.is_none() && row.is_listed.is_none() => row.account_id.map_or(Whom::Others, Whom::Account),
        _ => Whom::Others,
    };
    let log_row = row.created_at.zip(row.kind).zip(row.source).map(|((created_at, kind), source)| WhyRow {
        created_at,
        kind,
        source,
        whom,
        replay: row.replay.unwrap_or(true),
        expires_at: row.expires_at,
    });
    Ok(WhyFacts {
        user: user.clone(),
        seq,
        log_id: LogId(row.log_id),
        floor: Seq::from_db(row.floor_seq),
        head: Seq::from_db(row.head),
        now: row.now,
        row: log_row,
        sessions: Vec::new(),
        devices: Vec::new(),
        ever_connected: false,
        accounts: Vec::new(),
        follows_members: false,
        membership: Membership::default(),
        is_muted: row.is_muted,
        revocation: row.not_before.zip(row.revoked).map(|(not_before, reason)| Revocation { not_before, reason }),
    })
}

/// Lists the user's sessions that were open at a time or began later, each with the first fact that it was sent `seq`.
/// A hub's clock may be a minute off the database's.
async fn sessions(
    connection: &mut PgConnection,
    user: &UserId,
    log_id: LogId,
    since: DateTime<Utc>,
    seq: Seq,
    kind: &str,
) -> Result<Vec<SessionSeen>, StoreError> {
    let rows = sqlx::query!(
        r#"SELECT s.session_id AS "session_id!", s.instance_id AS "instance_id!", s.client_id AS "client_id!", s.transport AS "transport!",
                  s.account_ids AS "account_ids!", s.follows_members AS "follows_members!",
                  (s.types IS NULL OR starts_with($7, 'upstream_') OR EXISTS (
                      SELECT FROM unnest(string_to_array(s.types, ',')) AS t (pattern)
                       WHERE CASE WHEN right(pattern, 1) = '*' THEN starts_with($7, left(pattern, -1)) ELSE pattern = $7 END)) AS "takes_type!", s.from_seq AS "from_seq!", s.sent_seq AS "sent_seq!", s.connected_at AS "connected_at!",
                  s.ended_at, s.end_reason, f.sent_seq AS "reached_seq?", f.sent_at AS "reached_at?"
             FROM ((SELECT a.*
                      FROM recado.session a
                     WHERE a.user_id = $1 AND a.log_id = $2 AND a.connected_at < $3
                       AND (a.ended_at IS NULL OR a.ended_at >= $3 - interval '1 minute')
                     ORDER BY a.connected_at DESC
                     LIMIT $5)
                   UNION ALL
                   (SELECT b.*
                      FROM recado.session b
                     WHERE b.user_id = $1 AND b.log_id = $2 AND b.connected_at >= $3
                     ORDER BY b.connected_at
                     LIMIT $6)) s
             LEFT JOIN LATERAL (
                   SELECT p.sent_seq, p.sent_at
                     FROM recado.progress p
                    WHERE p.session_id = s.session_id AND p.sent_seq >= $4
                    ORDER BY p.sent_seq
                    LIMIT 1) f
               ON true
            ORDER BY s.connected_at"#,
        user.as_str(),
        log_id.0,
        since,
        seq.get(),
        MANY,
        SESSIONS_SINCE,
        kind,
    )
    .fetch_all(connection);
    let rows = limited(ASK_LIMIT, rows).await?;
    let seen = rows.into_iter().map(|row| SessionSeen {
        session: row.session_id,
        instance: row.instance_id,
        client: row.client_id,
        transport: row.transport,
        accounts: row.account_ids,
        follows_members: row.follows_members,
        takes_type: row.takes_type,
        from: Seq::from_db(row.from_seq),
        sent: Seq::from_db(row.sent_seq),
        connected_at: row.connected_at,
        ended: row.ended_at.zip(row.end_reason),
        reached: row.reached_seq.map(Seq::from_db).zip(row.reached_at),
    });
    Ok(seen.collect())
}

/// Lists the positions of the user's devices, each with the earliest fact that it has acknowledged `seq`. `clients`,
/// the devices of the sessions, are included: a device's position may be deleted before its facts are.
async fn devices(
    connection: &mut PgConnection,
    user: &UserId,
    log_id: LogId,
    seq: Seq,
    clients: &[&str],
) -> Result<Vec<DeviceSeen>, StoreError> {
    let rows = sqlx::query!(
        r#"SELECT c.client_id AS "client_id!", c.created_at AS "created_at!", c.acked AS "acked!",
                  f.acked_at AS "acked_at?", f.is_beside AS "is_beside?"
             FROM ((SELECT p.client_id, p.created_at, CASE WHEN p.log_id = $2 THEN p.acked_seq ELSE 0 END AS acked
                      FROM recado.cursor p
                     WHERE p.user_id = $1
                     ORDER BY p.client_id
                     LIMIT $4)
                   UNION ALL
                   (SELECT u.client_id, clock_timestamp(), 0
                      FROM unnest($6::text[]) AS u (client_id)
                     WHERE NOT EXISTS (SELECT FROM recado.cursor p WHERE p.user_id = $1 AND p.client_id = u.client_id))) c
             LEFT JOIN LATERAL (
                   SELECT k.acked_at, k.is_beside
                     FROM (SELECT p.acked_at, p.session_id IS NULL AS is_beside
                             FROM recado.progress p
                            WHERE p.user_id = $1 AND p.client_id = c.client_id AND p.log_id = $2 AND p.acked_seq >= $3
                            ORDER BY p.acked_seq
                            LIMIT $5) k
                    ORDER BY k.acked_at
                    LIMIT 1) f
               ON true"#,
        user.as_str(),
        log_id.0,
        seq.get(),
        MANY,
        FACTS,
        clients as _,
    )
    .fetch_all(connection);
    let rows = limited(ASK_LIMIT, rows).await?;
    let seen = rows.into_iter().map(|row| DeviceSeen {
        client: row.client_id,
        created_at: row.created_at,
        acked: Seq::from_db(row.acked),
        fact: row.acked_at.zip(row.is_beside),
    });
    Ok(seen.collect())
}

/// Reads the user's membership in an account.
async fn membership(connection: &mut PgConnection, user: &UserId, account: &str, seq: Seq) -> Result<Membership, StoreError> {
    let rows = sqlx::query!(
        r#"SELECT m.since_seq, m.until_seq, EXISTS (
                  SELECT FROM recado.member w
                   WHERE w.user_id = $1 AND w.account_id = $2 AND w.since_seq < $3 AND (w.until_seq IS NULL OR w.until_seq > $3)) AS "was_member!"
             FROM recado.member m
            WHERE m.user_id = $1 AND m.account_id = $2
            ORDER BY m.since_seq DESC
            LIMIT $4"#,
        user.as_str(),
        account,
        seq.get(),
        INTERVALS,
    )
    .fetch_all(connection);
    let rows = limited(ASK_LIMIT, rows).await?;
    let was_member = rows.iter().any(|row| row.was_member);
    let intervals = rows.iter().rev().map(|row| (Seq::from_db(row.since_seq), row.until_seq.map(Seq::from_db)));
    Ok(Membership { was_member, intervals: intervals.collect() })
}

/// Whether any session of the user is stored, and of the newest ones: the accounts, and whether the accounts of the
/// table `recado.member` counted for one.
pub(super) async fn accounts(connection: &mut PgConnection, user: &UserId) -> Result<(bool, Vec<String>, bool), StoreError> {
    let row = sqlx::query!(
        r#"SELECT count(*) > 0 AS "any!", coalesce(array_agg(DISTINCT a.account_id) FILTER (WHERE a.account_id IS NOT NULL), '{}') AS "accounts!",
                  coalesce(bool_or(s.follows_members), false) AS "follows_members!"
             FROM (SELECT account_ids, follows_members FROM recado.session WHERE user_id = $1 ORDER BY connected_at DESC LIMIT $2) s
             LEFT JOIN LATERAL unnest(s.account_ids) AS a (account_id) ON true"#,
        user.as_str(),
        ACCOUNT_SESSIONS,
    )
    .fetch_one(connection);
    let row = limited(ASK_LIMIT, row).await?;
    Ok((row.any, row.accounts, row.follows_members))
}
