//! Lists the open sessions of the other instances, column by column.
//!
//! The console asks every few seconds, and there may be ten thousand sessions. As rows, each would cost the hub a
//! message of the database and several allocations. As columns, an instance is one row.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::domain::{InstanceId, Seq, UserId};
use crate::store::StoreError;
use crate::store::database::Reader;
use crate::store::sessions::{StoredSession, StoredSessionRow};
use crate::store::time_limit::{ASK_LIMIT, limited};

/// Separates the texts of a column. No id and no transport contains it. A row that was written by hand may: the query
/// puts `?` in its place.
const SEPARATOR: char = '\n';

/// The open sessions of one instance, as last stored. All columns have the same length.
#[derive(Debug)]
pub struct InstanceSessions {
    pub instance: Uuid,
    sessions: Vec<Uuid>,
    users: String,
    accounts: String,
    clients: String,
    transports: String,
    types: String,
    connected_at: Vec<DateTime<Utc>>,
    last_activity_at: Vec<DateTime<Utc>>,
    sent: Vec<i64>,
    acked: Vec<i64>,
    playground: Vec<bool>,
}

/// One of these sessions.
#[derive(Debug, Clone, Copy)]
pub struct ListedSession<'a> {
    pub session: Uuid,
    pub user: &'a str,
    /// Separated by commas, which no id contains. Empty: none.
    pub accounts: &'a str,
    pub client: &'a str,
    pub transport: &'a str,
    /// Empty: all.
    pub types: &'a str,
    pub connected_at: DateTime<Utc>,
    pub last_activity_at: DateTime<Utc>,
    pub sent: Seq,
    pub acked: Seq,
    pub is_playground: bool,
}

impl InstanceSessions {
    /// Visits the sessions.
    pub fn rows(&self) -> impl Iterator<Item = ListedSession<'_>> {
        let texts = (self.users.split(SEPARATOR).zip(self.accounts.split(SEPARATOR)))
            .zip(self.clients.split(SEPARATOR).zip(self.transports.split(SEPARATOR).zip(self.types.split(SEPARATOR))));
        let times = self.connected_at.iter().zip(&self.last_activity_at);
        let numbers = self.sent.iter().zip(&self.acked).zip(&self.playground);
        self.sessions.iter().zip(texts).zip(times.zip(numbers)).map(
            |(
                (session, ((user, accounts), (client, (transport, types)))),
                ((connected_at, last_activity_at), ((sent, acked), is_playground)),
            )| {
                ListedSession {
                    session: *session,
                    user,
                    accounts,
                    client,
                    transport,
                    types,
                    connected_at: *connected_at,
                    last_activity_at: *last_activity_at,
                    sent: Seq::from_db(*sent),
                    acked: Seq::from_db(*acked),
                    is_playground: *is_playground,
                }
            },
        )
    }
}

/// Lists the open sessions of all instances but `except`, at most `most`.
///
/// # Errors
/// When the database is unavailable or slow.
pub async fn open_elsewhere(reader: &Reader, except: InstanceId, most: i64) -> Result<Vec<InstanceSessions>, StoreError> {
    let mut checkout = reader.checkout().await?;
    // All aggregates of a statement see the rows in the same order.
    let rows = sqlx::query_as!(
        InstanceSessions,
        r#"SELECT s.instance_id AS instance, array_agg(s.session_id) AS "sessions!", string_agg(replace(s.user_id, E'\n', '?'), E'\n') AS "users!",
                  string_agg(replace(array_to_string(s.account_ids || coalesce(m.account_ids, '{}'), ','), E'\n', '?'), E'\n') AS "accounts!",
                  string_agg(replace(s.client_id, E'\n', '?'), E'\n') AS "clients!",
                  string_agg(replace(s.transport, E'\n', '?'), E'\n') AS "transports!",
                  string_agg(replace(coalesce(s.types, ''), E'\n', '?'), E'\n') AS "types!",
                  array_agg(s.connected_at) AS "connected_at!", array_agg(s.last_activity_at) AS "last_activity_at!",
                  array_agg(s.sent_seq) AS "sent!", array_agg(s.acked_seq) AS "acked!",
                  array_agg(s.is_playground) AS "playground!"
             FROM (SELECT * FROM recado.session WHERE ended_at IS NULL AND instance_id <> $1 LIMIT $2) s
             LEFT JOIN LATERAL (
                   SELECT array_agg(o.account_id ORDER BY o.account_id) AS account_ids
                     FROM recado.member o
                    WHERE s.follows_members AND o.user_id = s.user_id AND o.until_seq IS NULL AND o.account_id <> ALL (s.account_ids)) m
               ON true
            GROUP BY s.instance_id
            ORDER BY s.instance_id"#,
        except.0,
        most,
    )
    .fetch_all(checkout.connection());
    let rows = limited(ASK_LIMIT, rows).await?;
    checkout.done();
    Ok(rows)
}

/// Lists the open sessions of a user on all instances but `except`, oldest first, at most `most`.
///
/// The inner query has no order: with one, the planner would rather walk all sessions that the user ever had in it.
///
/// # Errors
/// When the database is unavailable or slow.
pub async fn of_user_elsewhere(reader: &Reader, user: &UserId, except: InstanceId, most: i64) -> Result<Vec<StoredSession>, StoreError> {
    let mut checkout = reader.checkout().await?;
    let rows = sqlx::query_as!(
        StoredSessionRow,
        r#"SELECT s.session_id, s.instance_id, s.user_id, s.account_ids || coalesce(m.account_ids, '{}') AS "account_ids!", s.client_id,
                  s.transport, s.sent_seq, s.acked_seq, s.connected_at, s.last_activity_at, s.is_playground
             FROM (SELECT * FROM recado.session WHERE ended_at IS NULL AND user_id = $1 AND instance_id <> $2 LIMIT $3) s
             LEFT JOIN LATERAL (
                   SELECT array_agg(o.account_id ORDER BY o.account_id) AS account_ids
                     FROM recado.member o
                    WHERE s.follows_members AND o.user_id = s.user_id AND o.until_seq IS NULL AND o.account_id <> ALL (s.account_ids)) m
               ON true
            ORDER BY s.connected_at"#,
        user.as_str(),
        except.0,
        most,
    )
    .fetch_all(checkout.connection());
    let rows = limited(ASK_LIMIT, rows).await?;
    checkout.done();
    Ok(rows.into_iter().map(StoredSession::from).collect())
}
