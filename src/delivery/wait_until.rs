//! Waits for a point in time that may have passed already.

use tokio::time::{Instant, sleep_until};

/// Works like [`sleep_until`], but returns at once if the moment has passed. Tokio rounds a timer up to the next
/// millisecond even if it is due, which would delay rows of other instances by as much as their commit took.
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
