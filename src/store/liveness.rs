//! Checks idle connections before use.
//!
//! A server, a pooler or a firewall may end an unused connection. Without a check, the next statement meets the dead
//! connection, and the outcome of an append is unknown. So an idle connection is pinged first: no statement is sent on
//! a connection that died while it was idle.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sqlx::{Connection, PgConnection};
use tokio::time::Instant;

use crate::metrics;

/// A connection that was used within this time is not pinged. After a longer pause a statement costs one more round
/// trip; a busy connection never pays for it.
pub const TRUSTED_FOR: Duration = Duration::from_millis(100);
/// Longest wait for the answer to a ping on a link that was quick so far. Together with the time to open another
/// connection it stays below a request's deadline.
const SIGN_LIMIT: Duration = Duration::from_millis(1200);
/// The same on a slow link. A shorter limit would replace living connections, which takes longer than the answer.
const SLOW_SIGN_LIMIT: Duration = Duration::from_secs(3);
/// How many times slower than the last answer the next one may be.
const SLOWER: u32 = 3;

/// Returns the idle connection if it answers a ping, or a new one. After the limit, both compete: over a slow link the
/// answer may arrive before the new connection is open.
///
/// # Errors
/// Those of `connect`.
pub async fn alive_or<E>(
    mut idle: PgConnection,
    name: &str,
    connect: impl Future<Output = Result<PgConnection, E>>,
) -> Result<PgConnection, E> {
    let mut connect = std::pin::pin!(connect);
    let connect_after_the_limit = async {
        tokio::time::sleep(SIGN_LIMIT).await;
        connect.as_mut().await
    };
    let answer = tokio::select! {
        biased;
        answer = idle.ping() => answer,
        opened = connect_after_the_limit => {
            replaced(name, &format!("no answer within {SIGN_LIMIT:?}, and a new connection opened first"));
            return opened;
        }
    };
    match answer {
        Ok(()) => Ok(idle),
        Err(error) => {
            let opened = connect.await;
            replaced(name, &error.to_string());
            opened
        }
    }
}

fn replaced(name: &str, trouble: &str) {
    metrics::CONNECTIONS_REPLACED.one();
    tracing::info!(connection = name, error = trouble, "replaced a dead idle database connection");
}

/// When a connection of a pool was last found dead, and how long the last answer took. Connections that were idle at
/// that time count as dead, too: a firewall that forgot one has forgotten all of them, and pinging each one would take
/// longer than a request lasts.
#[derive(Debug)]
pub struct LastDeath {
    since: Instant,
    millis: AtomicU64,
    answer_millis: AtomicU64,
}

impl LastDeath {
    pub fn none() -> Self {
        Self { since: Instant::now(), millis: AtomicU64::new(0), answer_millis: AtomicU64::new(0) }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Whether a connection that has been idle for this long may be used.
    pub async fn is_usable(&self, connection: &mut PgConnection, name: &str, idle: Duration) -> bool {
        let used_at = self.now().saturating_sub(u64::try_from(idle.as_millis()).unwrap_or(u64::MAX));
        let died_at = self.millis.load(Ordering::Relaxed);
        if died_at > 0 && used_at <= died_at {
            metrics::CONNECTIONS_REPLACED.one();
            return false;
        }
        if idle < TRUSTED_FOR {
            return true;
        }
        let (asked, limit) = (Instant::now(), self.sign_limit());
        let trouble = match tokio::time::timeout(limit, connection.ping()).await {
            Ok(Ok(())) => {
                self.answered_in(asked.elapsed());
                return true;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {limit:?}"),
        };
        replaced(name, &trouble);
        self.note();
        false
    }

    /// Records how long the server took to answer a ping, or the first statement of a new connection.
    pub fn answered_in(&self, took: Duration) {
        self.answer_millis.store(u64::try_from(took.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// A link that becomes slow costs one connection: the slow first answer of the next connection extends the limit.
    fn sign_limit(&self) -> Duration {
        let last = Duration::from_millis(self.answer_millis.load(Ordering::Relaxed));
        last.saturating_mul(SLOWER).clamp(SIGN_LIMIT, SLOW_SIGN_LIMIT)
    }

    /// Records that a connection was found dead now.
    pub fn note(&self) {
        self.millis.store(self.now().max(1), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_link_is_given_more_time_and_a_quick_one_again_less() {
        let deaths = LastDeath::none();
        assert_eq!(deaths.sign_limit(), SIGN_LIMIT);
        for (took_ms, limit_ms) in [(1, 1200), (400, 1200), (700, 2100), (1000, 3000), (60_000, 3000), (2, 1200)] {
            deaths.answered_in(Duration::from_millis(took_ms));
            assert_eq!(deaths.sign_limit(), Duration::from_millis(limit_ms), "after {took_ms} ms");
        }
    }
}
