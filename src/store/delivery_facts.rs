//! Stores delivery facts: when a connection was sent, and a device acknowledged, which number.

use std::time::Instant;

use sqlx::PgConnection;
use uuid::Uuid;

use super::StoreError;
use super::time_limit::{ASK_LIMIT, limited};
use crate::domain::{ClientId, LogId, Seq, SessionId, UserId};

/// A sequence number, and when it was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FactPosition {
    pub seq: Seq,
    pub at: Instant,
}

/// One fact, of a connection or of a device that acknowledged by POST (then without a session).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryFact {
    pub session: Option<SessionId>,
    pub user: UserId,
    pub client: ClientId,
    pub log_id: LogId,
    pub sent: Option<FactPosition>,
    pub acked: Option<FactPosition>,
}

/// Adds facts. Each carries its age, so that all times are on the database's clock, whichever instance wrote them.
///
/// # Errors
/// When the database is unavailable or slow. The call can be repeated: a duplicate fact says the same.
pub async fn store(connection: &mut PgConnection, facts: &[DeliveryFact]) -> Result<(), StoreError> {
    let now = Instant::now();
    let age =
        |moment: Option<FactPosition>| moment.map(|m| i64::try_from(now.saturating_duration_since(m.at).as_micros()).unwrap_or(i64::MAX));
    let sessions: Vec<Option<Uuid>> = facts.iter().map(|f| f.session.map(|s| s.0)).collect();
    let users: Vec<&str> = facts.iter().map(|f| f.user.as_str()).collect();
    let clients: Vec<&str> = facts.iter().map(|f| f.client.as_str()).collect();
    let logs: Vec<Uuid> = facts.iter().map(|f| f.log_id.0).collect();
    let sent: Vec<Option<i64>> = facts.iter().map(|f| f.sent.map(|m| m.seq.get())).collect();
    let sent_age: Vec<Option<i64>> = facts.iter().map(|f| age(f.sent)).collect();
    let acked: Vec<Option<i64>> = facts.iter().map(|f| f.acked.map(|m| m.seq.get())).collect();
    let acked_age: Vec<Option<i64>> = facts.iter().map(|f| age(f.acked)).collect();
    let stored = sqlx::query!(
        r#"INSERT INTO recado.progress (session_id, user_id, client_id, log_id, sent_seq, sent_at, acked_seq, acked_at)
           SELECT f.session_id, f.user_id, f.client_id, f.log_id,
                  f.sent_seq, statement_timestamp() - f.sent_age * interval '1 microsecond',
                  f.acked_seq, statement_timestamp() - f.acked_age * interval '1 microsecond'
             FROM unnest($1::uuid[], $2::text[], $3::text[], $4::uuid[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[])
                  AS f (session_id, user_id, client_id, log_id, sent_seq, sent_age, acked_seq, acked_age)"#,
        &sessions as _,
        &users as _,
        &clients as _,
        &logs,
        &sent as _,
        &sent_age as _,
        &acked as _,
        &acked_age as _,
    )
    .execute(connection);
    limited(ASK_LIMIT, stored).await?;
    Ok(())
}
