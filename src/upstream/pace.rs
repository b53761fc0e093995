//! How much one provider may say to one user: a pure measure, so that a flood of one is not everybody's.
//!
//! A burst is taken at once. Above that, messages are read from the socket at the steady pace and no faster, so that what
//! is too much waits at the provider (its TCP window fills). A provider that is held back without a pause for
//! [`PATIENCE`] is told to go.

use std::time::Duration;

use tokio::time::Instant;

/// Messages a second, for long. A game table sends one or two.
const STEADY: u32 = 100;
/// Messages at once, after a silence.
const BURST: u32 = 500;
/// So long is it held back before the socket is closed.
const PATIENCE: Duration = Duration::from_secs(30);

/// The measure of one connection.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pace {
    /// When the burst is free again; the further ahead, the less is left of it.
    full_at: Option<Instant>,
    held_since: Option<Instant>,
}

/// What to do before the next message is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    Now,
    At(Instant),
    /// Held back for too long.
    Flood,
}

impl Pace {
    /// A message was read.
    pub fn took_one(&mut self, now: Instant) {
        let from = self.full_at.map_or(now, |full| full.max(now));
        self.full_at = Some(from + Duration::from_secs(1) / STEADY);
    }

    /// Whether the next one may be read.
    pub fn turn(&mut self, now: Instant) -> Turn {
        let Some(full_at) = self.full_at.filter(|full| *full > now) else {
            // It had a rest as long as its burst: calm again.
            self.held_since = None;
            return Turn::Now;
        };
        let burst = Duration::from_secs(1) / STEADY * BURST;
        let ahead = full_at - now;
        if ahead <= burst {
            return Turn::Now;
        }
        let since = *self.held_since.get_or_insert(now);
        if now >= since + PATIENCE { Turn::Flood } else { Turn::At(now + (ahead - burst)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads as fast as it may, from a provider that always has more; returns when each message was read.
    fn flood(pace: &mut Pace, from: Instant, most: usize) -> (Vec<Instant>, bool) {
        let (mut now, mut read) = (from, Vec::new());
        while read.len() < most {
            match pace.turn(now) {
                Turn::Now => {
                    pace.took_one(now);
                    read.push(now);
                }
                Turn::At(later) => now = later,
                Turn::Flood => return (read, true),
            }
        }
        (read, false)
    }

    #[test]
    fn a_burst_is_taken_at_once_and_a_flood_at_the_steady_pace_until_patience_ends() {
        let begun = Instant::now();
        let (read, flooded) = flood(&mut Pace::default(), begun, 100_000);
        assert!(flooded);
        let at_once = read.iter().filter(|at| **at == begun).count();
        assert!((500..=501).contains(&at_once), "{at_once}");
        let rest = u32::try_from(read.len() - at_once).unwrap();
        assert!((STEADY * 29..=STEADY * 31).contains(&rest), "{rest} in {PATIENCE:?}");
    }

    #[test]
    fn who_calms_down_is_forgiven() {
        let mut pace = Pace::default();
        let begun = Instant::now();
        let (read, flooded) = flood(&mut pace, begun, 2500);
        assert!(!flooded);
        let later = *read.last().unwrap() + Duration::from_secs(10);
        assert_eq!(pace.turn(later), Turn::Now);
        let (read, flooded) = flood(&mut pace, later, 2500);
        assert!(!flooded, "patience is counted anew, {}", read.len());
    }

    #[test]
    fn a_table_that_talks_as_usual_is_never_held_back() {
        let mut pace = Pace::default();
        let mut now = Instant::now();
        for _ in 0..10_000 {
            assert_eq!(pace.turn(now), Turn::Now);
            pace.took_one(now);
            now += Duration::from_millis(20);
        }
    }
}
