//! Uses links that sign in to the console: each once, on whichever hub.

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::json;

use super::StoreError;
use super::database::Reader;
use super::time_limit::{ASK_LIMIT, limited};
use crate::domain::audit::Actor;

/// What became of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkUse {
    /// It was used now, and the audit says so.
    Done,
    UsedBefore,
    /// The tokens that its subject got before it was made or later are refused.
    Revoked,
}

/// A link to use.
#[derive(Debug, Clone, Copy)]
pub struct UsedLink<'a> {
    /// Of its token.
    pub hash: &'a [u8; 32],
    /// The subject of the token that it is exchanged for.
    pub subject: &'a str,
    pub issued_at: DateTime<Utc>,
    /// The end of that token.
    pub expires_at: DateTime<Utc>,
}

/// Uses a link, with its row in the audit. The token must not be handed out before this returns.
///
/// # Errors
/// When the database is unavailable or slow. Whether the link was used is then unknown.
pub async fn take(reader: &Reader, link: UsedLink<'_>, actor: &Actor) -> Result<LinkUse, StoreError> {
    let text = |at: DateTime<Utc>| at.to_rfc3339_opts(SecondsFormat::Millis, true);
    let mut checkout = reader.checkout().await?;
    let used = sqlx::query_scalar!(
        r#"SELECT recado.use_sign_in_link($1, $2, $3, $4, $5, $6, $7) AS "outcome!""#,
        &link.hash[..],
        link.subject,
        link.issued_at,
        json!({ "link_made_at": text(link.issued_at), "expires_at": text(link.expires_at) }),
        actor.who,
        actor.via.as_str(),
        actor.address,
    );
    let outcome = limited(ASK_LIMIT, used.fetch_one(checkout.connection())).await?;
    checkout.done();
    Ok(match outcome.as_str() {
        "done" => LinkUse::Done,
        "revoked" => LinkUse::Revoked,
        _ => LinkUse::UsedBefore,
    })
}
