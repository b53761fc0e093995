//! Measures the age of a lease with a clock that runs while the machine sleeps.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// The clock behind the `Instant` of tokio and std stops while a Linux machine is suspended. A lease measured by it
/// would look young after a night's sleep.
#[cfg(target_os = "linux")]
const CLOCK: ClockId = ClockId::Boottime;
/// On other systems the monotonic clock counts sleep.
#[cfg(not(target_os = "linux"))]
const CLOCK: ClockId = ClockId::Monotonic;

/// A time since the machine was started, sleep included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClockReading(Duration);

impl ClockReading {
    pub fn now() -> Self {
        let now = clock_gettime(CLOCK);
        Self(Duration::new(now.tv_sec.try_into().unwrap_or(0), now.tv_nsec.try_into().unwrap_or(0)))
    }

    #[must_use]
    pub fn plus(self, time: Duration) -> Self {
        Self(self.0.saturating_add(time))
    }

    pub fn nanos(self) -> u64 {
        u64::try_from(self.0.as_nanos()).unwrap_or(u64::MAX)
    }

    /// Zero if it has passed.
    pub fn remaining(self) -> Duration {
        self.0.saturating_sub(Self::now().0)
    }
}

/// How long leases last, and for how much of that an owner acts on them.
#[derive(Debug, Clone, Copy)]
pub struct LeaseRule {
    pub lease: Duration,
}

impl LeaseRule {
    /// Leases are renewed three times in their life, so that one lost answer costs nothing.
    pub fn renew_every(self) -> Duration {
        self.lease / 3
    }

    /// Until when an owner acts on a lease that it requested at `asked`. The database counts from a later time, when it
    /// answered. The fifth that is left out covers a write in progress and clocks that run at different speeds.
    pub fn trusted_from(self, asked: ClockReading) -> ClockReading {
        asked.plus(self.lease - self.lease / 5)
    }
}

/// Until when a session may act. The supervisor extends it, and the session reads it before each action.
#[derive(Debug)]
pub struct LeaseTrust(AtomicU64);

/// The value after the trust has ended for good.
const ENDED: u64 = 0;

impl LeaseTrust {
    pub fn until(end: ClockReading) -> Self {
        Self(AtomicU64::new(end.nanos()))
    }

    /// Extends the trust. Never backwards, because an overtaken answer knows less; and never after the end: a lease
    /// that was over for a moment stays over, even if a renewal was in progress.
    pub fn extend(&self, end: ClockReading) {
        let later = |now: u64| (now != ENDED && now > ClockReading::now().nanos()).then(|| now.max(end.nanos()));
        let _ = self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, later);
    }

    pub fn end(&self) {
        self.0.store(ENDED, Ordering::Release);
    }

    pub fn remaining(&self) -> Duration {
        #[cfg(feature = "mutants")]
        if crate::mutants::is("no-fence") {
            return Duration::from_secs(60);
        }
        ClockReading(Duration::from_nanos(self.0.load(Ordering::Acquire))).remaining()
    }

    pub fn is_over(&self) -> bool {
        self.remaining().is_zero()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_trusted_for_less_than_it_lasts_and_from_before_it_was_asked_for() {
        let rule = LeaseRule { lease: Duration::from_secs(15) };
        let asked = ClockReading::now();
        assert_eq!(rule.trusted_from(asked), asked.plus(Duration::from_secs(12)));
        assert!(rule.renew_every() * 2 < Duration::from_secs(12), "two renewals fit into what is trusted");
    }

    #[test]
    fn trust_ends_and_an_overtaken_answer_does_not_shorten_it() {
        let now = ClockReading::now();
        let trust = LeaseTrust::until(now.plus(Duration::from_secs(60)));
        trust.extend(now.plus(Duration::from_secs(30)));
        assert!(trust.remaining() > Duration::from_secs(50));
        let over = LeaseTrust::until(now);
        over.extend(now.plus(Duration::from_secs(60)));
        assert!(over.is_over(), "over is over");
    }

    #[test]
    fn the_clock_goes_forward() {
        let before = ClockReading::now();
        std::hint::spin_loop();
        assert!(ClockReading::now() >= before);
    }
}
