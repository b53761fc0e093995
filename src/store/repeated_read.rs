//! Repeats a read whose connection was lost.

use std::time::Duration;

use tokio::time::Instant;

use super::database::Reader;
use super::error::{ErrorClass, StoreError};

/// A read that failed later than this is not repeated: its caller has waited long enough.
const AGAIN_WITHIN: Duration = Duration::from_secs(2);

/// Runs a read, and once more when its connection was lost. Only for calls that change nothing. The second attempt does
/// not use connections that were idle meanwhile, because they may be lost as well.
///
/// # Errors
/// The error of the last attempt.
pub async fn again_if_lost<T, F: Future<Output = Result<T, StoreError>>>(reader: &Reader, read: impl Fn() -> F) -> Result<T, StoreError> {
    let begun = Instant::now();
    let mut is_first = true;
    loop {
        match read().await {
            Err(StoreError::Unavailable(error)) if is_first && is_lost(&error) && begun.elapsed() < AGAIN_WITHIN => {
                tracing::debug!(%error, "read lost its connection; retrying");
                reader.lost_one();
                is_first = false;
            }
            outcome => return outcome,
        }
    }
}

/// Whether the connection was lost. False for a pool without a free connection and for a server that refuses new ones:
/// a repeat does not help there.
fn is_lost(error: &sqlx::Error) -> bool {
    ErrorClass::of(error) == ErrorClass::Lost && matches!(error, sqlx::Error::Io(_) | sqlx::Error::Database(_) | sqlx::Error::Protocol(_))
}
