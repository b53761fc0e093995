//! Decides when the outbox relay polls, gets ready to sleep, and sleeps. No I/O.
//!
//! ```text
//!            no row and no call for SLEEP_AFTER            all transactions ended that may
//!            the sleep is announced                        have missed the announcement
//!   Awake ───────────────────────────────────▶ Dozing ─────────────────────────────────────▶ Asleep
//!     ▲            polls every DOZE_STEP         │                                             │
//!     └──────────────────────────────────────────┴─── a call, a row, or a lost announcement ───┘
//! ```
//!
//! A caller of `recado.notify` reads the announcement after its transaction has its number. A caller that did not see
//! it has a number below the bound of the announcement, so the relay polls until all of those have ended. Later
//! callers see it, and send a NOTIFY that arrives when they commit (decision 0063).
//!
//! Nothing depends on that NOTIFY: a relay that sleeps looks every two seconds in any case.

use std::time::Duration;

use tokio::time::Instant;

use crate::store::outbox::{AnnouncedSleep, Doze};

/// The relay gets ready to sleep after this time without a row. Longer than the gaps within a burst of calls: each
/// sleep costs some statements and lets the next callers pay for a NOTIFY.
const SLEEP_AFTER: Duration = Duration::from_secs(3);
/// Interval between looks of a relay that gets ready to sleep: as of one that is awake and finds nothing.
pub const DOZE_STEP: Duration = Duration::from_millis(80);
/// The announcement arrives by NOTIFY within this time, or the relay does not sleep: NOTIFY is slow, or lost by a
/// pooler.
const HEARD_WITHIN: Duration = Duration::from_secs(5);
/// A relay that could not sleep tries again after this time.
const AGAIN_AFTER: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    Awake,
    Dozing { announced: AnnouncedSleep, since: Instant },
    Asleep,
}

/// The next action of a relay that gets ready to sleep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DozeStep {
    /// A row waits: move it.
    Look,
    /// Look again after [`DOZE_STEP`].
    Wait,
    /// It sleeps now.
    Sleep,
    /// It must stay awake, because it does not hear NOTIFY.
    Deaf,
}

/// Whether the relay sleeps, and since when it has had nothing to do.
#[derive(Debug)]
pub struct RelaySleep {
    phase: Phase,
    /// The last row or call.
    active_at: Instant,
    /// No sleep before this time.
    not_before: Instant,
    /// The database says that this relay sleeps.
    is_announced: bool,
}

impl RelaySleep {
    pub fn new(now: Instant) -> Self {
        Self { phase: Phase::Awake, active_at: now, not_before: now, is_announced: false }
    }

    /// A row was moved, or a caller sent a NOTIFY.
    pub fn wake(&mut self, now: Instant) {
        self.phase = Phase::Awake;
        self.active_at = now;
    }

    /// Another hub has the lease. The database ends the announcement of this one then.
    pub fn follow(&mut self, now: Instant) {
        self.wake(now);
        self.is_announced = false;
    }

    /// How long there was neither a row nor a call.
    pub fn idle_for(&self, now: Instant) -> Duration {
        now.duration_since(self.active_at)
    }

    pub fn is_asleep(&self) -> bool {
        self.phase == Phase::Asleep
    }

    pub fn is_awake(&self) -> bool {
        self.phase == Phase::Awake
    }

    /// Whether the sleep should be announced now. Only for a relay that is awake and has just found nothing.
    pub fn is_due(&self, now: Instant) -> bool {
        self.is_awake() && self.idle_for(now) >= SLEEP_AFTER && now >= self.not_before
    }

    /// Takes the announcement. `None`: the database does not let this relay sleep.
    pub fn announced(&mut self, announced: Option<AnnouncedSleep>, now: Instant) {
        match announced {
            Some(announced) => {
                self.is_announced = true;
                self.phase = Phase::Dozing { announced, since: now };
            }
            None => self.not_before = now + AGAIN_AFTER,
        }
    }

    /// The announcement of a relay that gets ready to sleep.
    pub fn dozing(&self) -> Option<&AnnouncedSleep> {
        match &self.phase {
            Phase::Dozing { announced, .. } => Some(announced),
            Phase::Awake | Phase::Asleep => None,
        }
    }

    /// Takes a look of a relay that gets ready to sleep. `has_heard`: its announcement has arrived by NOTIFY.
    pub fn dozed(&mut self, seen: Doze, has_heard: bool, now: Instant) -> DozeStep {
        let Phase::Dozing { since, .. } = self.phase else { return DozeStep::Look };
        if seen.is_waiting {
            self.wake(now);
            return DozeStep::Look;
        }
        if has_heard && seen.has_ended {
            self.phase = Phase::Asleep;
            return DozeStep::Sleep;
        }
        if !has_heard && now.duration_since(since) >= HEARD_WITHIN {
            self.phase = Phase::Awake;
            self.not_before = now + AGAIN_AFTER;
            return DozeStep::Deaf;
        }
        DozeStep::Wait
    }

    /// Whether the announcement must be ended: the relay is awake, and the database does not know it.
    pub fn must_end(&self) -> bool {
        self.is_awake() && self.is_announced
    }

    /// The announcement is ended.
    pub fn ended(&mut self) {
        self.is_announced = false;
    }

    /// Compares the state with the flag in the database. A flag that another program has changed ends the sleep.
    pub fn compare(&mut self, is_asleep_there: bool, now: Instant) {
        if self.is_awake() {
            self.is_announced = is_asleep_there;
        } else if !is_asleep_there {
            self.follow(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUIET: Doze = Doze { has_ended: true, is_waiting: false };
    const BUSY: Doze = Doze { has_ended: false, is_waiting: false };

    fn announced() -> Option<AnnouncedSleep> {
        Some(AnnouncedSleep { number: 7, bound: "100".to_owned() })
    }

    /// A relay that has announced its sleep, and the time.
    fn dozing() -> (RelaySleep, Instant) {
        let begun = Instant::now();
        let mut relay = RelaySleep::new(begun);
        assert!(!relay.is_due(begun), "it has just begun");
        let now = begun + SLEEP_AFTER;
        assert!(relay.is_due(now));
        relay.announced(announced(), now);
        assert_eq!(relay.dozing().map(|sleep| sleep.number), Some(7));
        (relay, now)
    }

    #[test]
    fn it_sleeps_when_earlier_transactions_have_ended_and_its_own_notify_was_heard() {
        for (seen, has_heard, step) in [
            (BUSY, true, DozeStep::Wait),
            (QUIET, false, DozeStep::Wait),
            (QUIET, true, DozeStep::Sleep),
            (Doze { has_ended: true, is_waiting: true }, true, DozeStep::Look),
        ] {
            let (mut relay, now) = dozing();
            assert_eq!(relay.dozed(seen, has_heard, now), step, "{seen:?}, heard: {has_heard}");
            assert_eq!(relay.is_asleep(), step == DozeStep::Sleep);
        }
    }

    #[test]
    fn an_old_transaction_keeps_it_polling_for_as_long_as_it_runs() {
        let (mut relay, now) = dozing();
        assert_eq!(relay.dozed(BUSY, true, now + Duration::from_secs(86_400)), DozeStep::Wait);
        assert_eq!(relay.dozed(QUIET, true, now + Duration::from_secs(86_401)), DozeStep::Sleep);
    }

    #[test]
    fn a_relay_that_does_not_hear_its_own_notify_stays_awake_for_a_minute() {
        let (mut relay, now) = dozing();
        let late = now + HEARD_WITHIN;
        assert_eq!(relay.dozed(QUIET, false, late), DozeStep::Deaf);
        assert!(relay.must_end());
        relay.ended();
        assert!(!relay.is_due(late + AGAIN_AFTER - Duration::from_millis(1)));
        assert!(relay.is_due(late + AGAIN_AFTER));
    }

    #[test]
    fn a_call_or_a_row_wakes_it_and_the_announcement_is_ended_once() {
        let (mut relay, now) = dozing();
        relay.dozed(QUIET, true, now);
        assert!(relay.is_asleep() && !relay.must_end());
        relay.wake(now);
        assert!(relay.must_end() && !relay.is_due(now));
        relay.ended();
        assert!(!relay.must_end());
    }

    #[test]
    fn a_flag_that_another_program_cleared_ends_the_sleep() {
        let (mut relay, now) = dozing();
        relay.dozed(QUIET, true, now);
        relay.compare(true, now);
        assert!(relay.is_asleep());
        relay.compare(false, now);
        assert!(relay.is_awake() && !relay.must_end(), "callers send no NOTIFY any more");
    }

    #[test]
    fn an_announcement_of_an_earlier_life_is_ended() {
        let now = Instant::now();
        let mut relay = RelaySleep::new(now);
        relay.compare(true, now);
        assert!(relay.must_end());
    }

    #[test]
    fn where_the_database_refuses_it_tries_again_later() {
        let now = Instant::now() + SLEEP_AFTER;
        let mut relay = RelaySleep::new(now - SLEEP_AFTER);
        relay.announced(None, now);
        assert!(relay.is_awake() && !relay.is_due(now) && relay.is_due(now + AGAIN_AFTER));
    }
}
