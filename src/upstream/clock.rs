//! The age of a lease: a clock that goes on while the machine sleeps, and how long a lease is trusted.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// The clock that tokio's and std's `Instant` read stands still while a Linux machine is suspended. A lease that is
/// counted by it looks young after a night's sleep.
#[cfg(target_os = "linux")]
const CLOCK: ClockId = ClockId::Boottime;
/// Elsewhere the monotonic clock counts sleep.
#[cfg(not(target_os = "linux"))]
const CLOCK: ClockId = ClockId::Monotonic;

/// A moment, since the machine was started, sleep included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(Duration);

impl Moment {
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

    /// Zero when it has passed.
    pub fn remaining(self) -> Duration {
        self.0.saturating_sub(Self::now().0)
    }
}

/// How long leases last, and how much of that an owner trusts.
#[derive(Debug, Clone, Copy)]
pub struct LeaseRule {
    pub lease: Duration,
}

impl LeaseRule {
    /// Renewed three times in its life, so that one lost answer costs nothing.
    pub fn renew_every(self) -> Duration {
        self.lease / 3
    }

    /// Until when an owner acts on a lease that it asked for at `asked`. The database counts from later, the moment it
    /// answered; the fifth that is left away is for a write that is under way and for clocks that differ in pace.
    pub fn trusted_from(self, asked: Moment) -> Moment {
        asked.plus(self.lease - self.lease / 5)
    }
}

/// Until when a session may act. The supervisor moves it, the session reads it before it does anything.
#[derive(Debug)]
pub struct Trust(AtomicU64);

/// No moment: the trust has ended for good.
const ENDED: u64 = 0;

impl Trust {
    pub fn until(end: Moment) -> Self {
        Self(AtomicU64::new(end.nanos()))
    }

    /// Never backwards, since an answer that was overtaken says less than what is known; and not after the end: what was
    /// over for a moment is over, whatever a renewal says that was on its way.
    pub fn extend(&self, end: Moment) {
        let later = |now: u64| (now != ENDED && now > Moment::now().nanos()).then(|| now.max(end.nanos()));
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
        Moment(Duration::from_nanos(self.0.load(Ordering::Acquire))).remaining()
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
        let asked = Moment::now();
        assert_eq!(rule.trusted_from(asked), asked.plus(Duration::from_secs(12)));
        assert!(rule.renew_every() * 2 < Duration::from_secs(12), "two renewals fit into what is trusted");
    }

    #[test]
    fn trust_ends_and_an_overtaken_answer_does_not_shorten_it() {
        let now = Moment::now();
        let trust = Trust::until(now.plus(Duration::from_secs(60)));
        trust.extend(now.plus(Duration::from_secs(30)));
        assert!(trust.remaining() > Duration::from_secs(50));
        let over = Trust::until(now);
        over.extend(now.plus(Duration::from_secs(60)));
        assert!(over.is_over(), "over is over");
    }

    #[test]
    fn the_clock_goes_forward() {
        let before = Moment::now();
        std::hint::spin_loop();
        assert!(Moment::now() >= before);
    }
}
