//! Reads the membership of accounts: a user's intervals and an account's members.
//!
//! The table `recado.member` is written by a trigger of the log alone (`migrations/V19__members.sql`).

use chrono::{DateTime, Utc};

use super::StoreError;
use super::database::Reader;
use super::repeated_read::again_if_lost;
use super::time_limit::{ASK_LIMIT, limited};
use crate::domain::{AccountId, MemberInterval, Seq, UserId};

/// Lists the user's intervals that are open, or that end above `after`.
///
/// # Errors
/// When the database is unavailable or slow.
pub async fn intervals(reader: &Reader, user: &UserId, after: Seq) -> Result<Vec<MemberInterval>, StoreError> {
    again_if_lost(reader, || async {
        let mut checkout = reader.checkout().await?;
        let rows = sqlx::query!(
            "SELECT account_id, since_seq, until_seq FROM recado.member
              WHERE user_id = $1 AND (until_seq IS NULL OR until_seq > $2)
              ORDER BY account_id, since_seq",
            user.as_str(),
            after.get(),
        )
        .fetch_all(checkout.connection());
        let rows = limited(ASK_LIMIT, rows).await?;
        checkout.done();
        Ok(rows.iter().filter_map(|row| interval(&row.account_id, row.since_seq, row.until_seq)).collect())
    })
    .await
}

/// Reads an interval. `None` if its account is not a valid id; ids were checked when the change was written.
pub(super) fn interval(account: &str, since: i64, until: Option<i64>) -> Option<MemberInterval> {
    let account = AccountId::parse(account).ok()?;
    Some(MemberInterval { account, since: Seq::from_db(since), until: until.map(Seq::from_db) })
}

/// A member of an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub user: String,
    /// The number of the change that added the user.
    pub since: Seq,
    /// When the user was added; `None` if retention has dropped the change.
    pub since_at: Option<DateTime<Utc>>,
}

/// Lists the members of an account, in the order of their ids, after `after`, at most `most`.
///
/// # Errors
/// When the database is unavailable or slow.
pub async fn of_account(reader: &Reader, account: &AccountId, after: Option<&UserId>, most: i64) -> Result<Vec<Member>, StoreError> {
    again_if_lost(reader, || async {
        let mut checkout = reader.checkout().await?;
        let rows = sqlx::query!(
            r#"SELECT m.user_id, m.since_seq, l.created_at AS "since_at?"
                 FROM (SELECT user_id, since_seq FROM recado.member
                        WHERE account_id = $1 AND until_seq IS NULL AND user_id > $2
                        ORDER BY user_id
                        LIMIT $3) m
                 LEFT JOIN LATERAL (SELECT created_at FROM recado.log WHERE seq = m.since_seq LIMIT 1) l ON true
                ORDER BY m.user_id"#,
            account.as_str(),
            after.map_or("", |user| user.as_str()),
            most,
        )
        .fetch_all(checkout.connection());
        let rows = limited(ASK_LIMIT, rows).await?;
        checkout.done();
        Ok(rows.into_iter().map(|row| Member { user: row.user_id, since: Seq::from_db(row.since_seq), since_at: row.since_at }).collect())
    })
    .await
}
