//! Limits how long a call to the database may take.

use std::time::Duration;

use super::StoreError;

/// Longest wait for a connection to open.
pub const CONNECT_LIMIT: Duration = Duration::from_secs(3);
/// Longest wait for a small query that a health check or a request depends on.
pub const ASK_LIMIT: Duration = Duration::from_secs(3);

/// Runs a database call for at most `limit`.
///
/// # Errors
/// The call's own error, or [`StoreError::TimedOut`]. After that the connection must not be used again.
pub async fn limited<T>(limit: Duration, call: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, StoreError> {
    match tokio::time::timeout(limit, call).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(StoreError::TimedOut(limit)),
    }
}
