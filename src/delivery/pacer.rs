//! When the connections ask their clients for a word on what went to many of them at once.
//!
//! Not at once: the pongs of the first would come between the writes to those who still wait for it. And not each by a
//! timer of its own: to set thousands of them, and to let them run out, took longer than to wake their tasks.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::registry::Registry;
use crate::tasks::Stop;

/// From a publication to the first question. Much longer, and the questions, which are then no part of a burst any more, would
/// wake the hub one by one.
const WAIT: Duration = Duration::from_millis(250);
/// From the first question to the last.
const SPREAD: Duration = Duration::from_millis(250);
/// Between two turns of questions.
const STEP: Duration = Duration::from_millis(5);

/// The task that spreads the questions over time. What is published alone is asked about from a quarter of a second to half a
/// second after it; what is published in the middle of that, some three quarters after it at the latest, on a hub that has time.
pub struct Pacer {
    registry: Arc<Registry>,
}

impl Pacer {
    pub fn new(registry: Arc<Registry>) -> Self {
        Self { registry }
    }

    /// Runs until stopped.
    pub async fn run(self, mut stop: Stop) {
        tokio::select! {
            () = stop.wait() => {}
            () = self.pace() => {}
        }
    }

    async fn pace(&self) {
        loop {
            self.registry.given_to_many().await;
            sleep(WAIT).await;
            let waiting = self.registry.unasked();
            let turn = waiting.len().div_ceil((SPREAD.as_millis() / STEP.as_millis()) as usize).max(1);
            let mut next = Instant::now();
            for members in waiting.chunks(turn) {
                sleep_until(next).await;
                next += STEP;
                members.iter().for_each(|member| member.outbox.ask());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::event::Event;
    use crate::delivery::registry::{Limits, Member, Position};
    use crate::domain::{Audience, ClientId, LogId, Principal, Seq, UserId};
    use crate::tasks::Stopper;

    /// 100 who are to be asked and one who says by himself what he has: the former are asked once each, from a quarter of a
    /// second after it was published, not all at once; about what is for one of them nobody is asked.
    #[tokio::test]
    async fn each_is_asked_once_about_what_went_to_many_and_later() {
        let start = Position { log_id: LogId::new(), floor: Seq::ZERO, published: Seq::ZERO };
        let registry = Registry::new(Limits { connections: 200, per_user: 9, single: false }, start);
        let user = |n: usize| UserId::parse(&format!("u{n}")).unwrap();
        let join = |n| registry.join(Member::new(Principal { user: user(n), accounts: Vec::new() }, ClientId::default_device(), "test"));
        let seats: Vec<_> = (0..101).map(|n| join(n).unwrap().0).collect();
        seats[..100].iter().for_each(|seat| seat.member().outbox.will_ask());
        let (stopper, stop) = Stopper::new();
        let pacer = Pacer::new(Arc::clone(&registry)).run(stop);
        let story = async {
            registry.publish(&[Event::empty(Seq::from_db(1), Audience::User { user: user(7), account: None })]);
            sleep(WAIT + SPREAD).await;
            assert!(seats.iter().all(|seat| !seat.member().outbox.look().ask));

            let published = Instant::now();
            registry.publish(&[Event::empty(Seq::from_db(2), Audience::Everyone)]);
            let asked = || seats.iter().filter(|seat| seat.member().outbox.look().ask).count();
            let (mut first, mut between) = (None, false);
            while asked() < 100 {
                if asked() > 0 {
                    first.get_or_insert_with(|| published.elapsed());
                    between = true;
                }
                assert!(published.elapsed() < Duration::from_secs(10), "{} were asked", asked());
                sleep(Duration::from_millis(1)).await;
            }
            assert!(between && first >= Some(WAIT), "{first:?}");
            // Whoever has something to write first asks about that as well, and again.
            for (n, seat) in seats[..100].iter().enumerate() {
                let outbox = &seat.member().outbox;
                assert!(outbox.take_ask() && outbox.look().ask, "{n} has not got it yet");
                assert!(outbox.pop().is_some());
                let _ = outbox.pop();
                assert!(outbox.take_ask() && !outbox.take_ask(), "{n}");
            }
            sleep(WAIT + SPREAD).await;
            assert_eq!(asked(), 0);
            stopper.stop();
        };
        tokio::join!(pacer, story);
    }
}
