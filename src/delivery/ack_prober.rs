//! Schedules confirmation pings after a broadcast, spread over 250 ms.
//!
//! The pings wait because early pongs would compete with the broadcast's own writes. One task schedules them all,
//! because starting thousands of timers, and letting them expire, took longer than waking the connections' tasks. It
//! also writes them, past the tasks that wait ([`super::send_queue::direct`]).

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::live_socket::FrameBuffer;
use super::registry::Registry;
use crate::tasks::Stop;

/// Delay between a broadcast and its first ping. A much larger value would send the pings outside of the broadcast's
/// burst, and each ping would wake the hub on its own.
const WAIT: Duration = Duration::from_millis(250);
/// Time between the first ping and the last.
const SPREAD: Duration = Duration::from_millis(250);
/// Time between two groups of pings.
const STEP: Duration = Duration::from_millis(5);

/// The background task that spreads the pings over time. After a single broadcast, pings leave between 250 ms and 500
/// ms later. A broadcast in the middle of such a round is pinged for after about 750 ms at the latest, if the hub is
/// not overloaded.
pub struct AckProber {
    registry: Arc<Registry>,
}

impl AckProber {
    pub fn new(registry: Arc<Registry>) -> Self {
        Self { registry }
    }

    /// Runs until stopped.
    pub async fn run(self, mut stop: Stop) {
        tokio::select! {
            () = stop.wait() => {}
            () = self.schedule() => {}
        }
    }

    async fn schedule(&self) {
        let mut frames = FrameBuffer::default();
        loop {
            self.registry.given_to_many().await;
            sleep(WAIT).await;
            let waiting = self.registry.unasked();
            let turn = waiting.len().div_ceil((SPREAD.as_millis() / STEP.as_millis()) as usize).max(1);
            let mut next = Instant::now();
            for connections in waiting.chunks(turn) {
                sleep_until(next).await;
                next += STEP;
                connections.iter().for_each(|connection| connection.send_queue.ask(&mut frames, connection.acked()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::event::SharedNotification;
    use crate::delivery::registry::fan_out::FanOut;
    use crate::delivery::registry::{Connection, ConnectionLimits, Position};
    use crate::domain::{Audience, ClientId, LogId, Principal, Seq, UserId};
    use crate::tasks::Stopper;

    /// 100 connections are to be pinged and one acknowledges on its own. The 100 get one ping each, from 250 ms after
    /// the broadcast, and not all at once. A notification for a single user causes no ping.
    #[tokio::test]
    async fn each_is_asked_once_about_what_went_to_many_and_later() {
        let start = Position { log_id: LogId::new(), floor: Seq::ZERO, dispatched: Seq::ZERO };
        let registry =
            Registry::new(ConnectionLimits { connections: 200, per_user: 9, devices: 200, single: false }, start, FanOut::default());
        let user = |n: usize| UserId::parse(&format!("u{n}")).unwrap();
        let join =
            |n| registry.join(Connection::new(Principal { user: user(n), accounts: Vec::new() }, ClientId::default_device(), "test"));
        let registrations: Vec<_> = (0..101).map(|n| join(n).unwrap().0).collect();
        registrations[..100].iter().for_each(|registration| registration.connection().send_queue.will_ask());
        let (stopper, stop) = Stopper::new();
        let prober = AckProber::new(Arc::clone(&registry)).run(stop);
        let story = async {
            registry.dispatch(&[SharedNotification::empty(Seq::from_db(1), Audience::User { user: user(7), account: None })]);
            sleep(WAIT + SPREAD).await;
            assert!(registrations.iter().all(|registration| !registration.connection().send_queue.look().ask));

            let dispatched = Instant::now();
            registry.dispatch(&[SharedNotification::empty(Seq::from_db(2), Audience::Everyone)]);
            let asked = || registrations.iter().filter(|registration| registration.connection().send_queue.look().ask).count();
            let (mut first, mut between) = (None, false);
            while asked() < 100 {
                if asked() > 0 {
                    first.get_or_insert_with(|| dispatched.elapsed());
                    between = true;
                }
                assert!(dispatched.elapsed() < Duration::from_secs(10), "{} were asked", asked());
                sleep(Duration::from_millis(1)).await;
            }
            assert!(between && first >= Some(WAIT), "{first:?}");
            // A connection that first has something to write pings for that as well, and once more.
            for (n, registration) in registrations[..100].iter().enumerate() {
                let send_queue = &registration.connection().send_queue;
                assert!(send_queue.take_ask() && send_queue.look().ask, "{n} has not got it yet");
                assert!(send_queue.pop().is_some());
                let _ = send_queue.pop();
                assert!(send_queue.take_ask() && !send_queue.take_ask(), "{n}");
            }
            sleep(WAIT + SPREAD).await;
            assert_eq!(asked(), 0);
            stopper.stop();
        };
        tokio::join!(prober, story);
    }
}
