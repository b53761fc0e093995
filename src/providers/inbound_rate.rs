//! Limits how fast one provider may send messages for one user.
//!
//! A flood from one provider must not slow down the other users. A burst is read at once. Above that, messages are read
//! from the socket at the steady rate, so that the excess waits at the provider (its TCP window fills). A provider that
//! is held back without a pause for [`PATIENCE`] is disconnected.

use std::time::Duration;

use tokio::time::Instant;

/// Steady rate in messages per second. A game table sends one or two.
const STEADY: u32 = 100;
/// Most messages that are read at once after a silence.
const BURST: u32 = 500;
/// How long a provider is held back before its socket is closed.
const PATIENCE: Duration = Duration::from_secs(30);

/// The rate limit of one connection.
#[derive(Debug, Clone, Copy, Default)]
pub struct InboundRate {
    /// When the whole burst is available again; the further ahead, the less of it is left.
    full_at: Option<Instant>,
    held_since: Option<Instant>,
}

/// Whether the next message may be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InboundTurn {
    Now,
    At(Instant),
    /// Held back for too long.
    Flood,
}

impl InboundRate {
    /// Counts a message that was read.
    pub fn took_one(&mut self, now: Instant) {
        let from = self.full_at.map_or(now, |full| full.max(now));
        self.full_at = Some(from + Duration::from_secs(1) / STEADY);
    }

    /// Whether the next message may be read.
    pub fn turn(&mut self, now: Instant) -> InboundTurn {
        let Some(full_at) = self.full_at.filter(|full| *full > now) else {
            // The silence was long enough to restore the whole burst, so the provider counts as calm again.
            self.held_since = None;
            return InboundTurn::Now;
        };
        let burst = Duration::from_secs(1) / STEADY * BURST;
        let ahead = full_at - now;
        if ahead <= burst {
            return InboundTurn::Now;
        }
        let since = *self.held_since.get_or_insert(now);
        if now >= since + PATIENCE { InboundTurn::Flood } else { InboundTurn::At(now + (ahead - burst)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads as fast as allowed from a provider that always has more; returns when each message was read.
    fn flood(inbound_rate: &mut InboundRate, from: Instant, most: usize) -> (Vec<Instant>, bool) {
        let (mut now, mut read) = (from, Vec::new());
        while read.len() < most {
            match inbound_rate.turn(now) {
                InboundTurn::Now => {
                    inbound_rate.took_one(now);
                    read.push(now);
                }
                InboundTurn::At(later) => now = later,
                InboundTurn::Flood => return (read, true),
            }
        }
        (read, false)
    }

    #[test]
    fn a_burst_is_taken_at_once_and_a_flood_at_the_steady_pace_until_patience_ends() {
        let begun = Instant::now();
        let (read, flooded) = flood(&mut InboundRate::default(), begun, 100_000);
        assert!(flooded);
        let at_once = read.iter().filter(|at| **at == begun).count();
        assert!((500..=501).contains(&at_once), "{at_once}");
        let rest = u32::try_from(read.len() - at_once).unwrap();
        assert!((STEADY * 29..=STEADY * 31).contains(&rest), "{rest} in {PATIENCE:?}");
    }

    #[test]
    fn who_calms_down_is_forgiven() {
        let mut inbound_rate = InboundRate::default();
        let begun = Instant::now();
        let (read, flooded) = flood(&mut inbound_rate, begun, 2500);
        assert!(!flooded);
        let later = *read.last().unwrap() + Duration::from_secs(10);
        assert_eq!(inbound_rate.turn(later), InboundTurn::Now);
        let (read, flooded) = flood(&mut inbound_rate, later, 2500);
        assert!(!flooded, "patience is counted anew, {}", read.len());
    }

    #[test]
    fn a_table_that_talks_as_usual_is_never_held_back() {
        let mut inbound_rate = InboundRate::default();
        let mut now = Instant::now();
        for _ in 0..10_000 {
            assert_eq!(inbound_rate.turn(now), InboundTurn::Now);
            inbound_rate.took_one(now);
            now += Duration::from_millis(20);
        }
    }
}
