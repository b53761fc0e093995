//! Limits a wait that usually does not happen.
//!
//! A write that the kernel accepts at once needs neither a clock nor a timer.

use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::time::error::Elapsed;
use tokio::time::timeout;

/// As [`timeout`], counted from when the future first has to wait.
///
/// # Errors
/// When the future waited for longer.
pub async fn within<F: Future>(limit: Duration, future: F) -> Result<F::Output, Elapsed> {
    let mut future = pin!(future);
    match futures_util::poll!(future.as_mut()) {
        Poll::Ready(output) => Ok(output),
        Poll::Pending => timeout(limit, future).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_ready_is_taken_and_what_waits_waits_no_longer_than_the_limit() {
        assert_eq!(within(Duration::ZERO, async { 7 }).await, Ok(7));
        assert!(within(Duration::from_millis(1), std::future::pending::<()>()).await.is_err());
        assert!(within(Duration::from_secs(60), tokio::task::yield_now()).await.is_ok());
    }
}
