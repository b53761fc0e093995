//! Waiting for a moment that may have come already.

use tokio::time::{Instant, sleep_until};

/// As [`sleep_until`], but at once when the moment is there. A timer is rounded up to the next millisecond, also one that
/// is due: what another instance has committed would wait as long as its commit took.
pub async fn until(moment: Instant) {
    if moment > Instant::now() {
        sleep_until(moment).await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn what_is_due_needs_no_timer() {
        let now = Instant::now();
        assert_eq!(until(now).now_or_never(), Some(()));
        until(now + Duration::from_millis(5)).await;
        assert!(now.elapsed() >= Duration::from_millis(5));
    }
}
