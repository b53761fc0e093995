//! Keeps the samples of all instances of the last hour in memory.
//!
//! Each heartbeat of this instance reads the rows of all instances (`store::instances::beat`), so each instance knows
//! all without a table of samples. A sample is kept as the event that streams send. The memory is bounded by age and
//! bytes: an hour has 720 samples of about 900 bytes for each instance.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::Bytes;
use chrono::{DateTime, Utc};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::wire::console::instances::{InstanceRow, SampleBody, ShownInstance, StoppedInstance};
use crate::wire::server_frame::timestamp;

/// How long a sample is kept.
const KEPT: Duration = Duration::from_secs(3600);
/// Most bytes of all samples. With more than about 25 instances, less than an hour is kept.
const KEPT_BYTES: usize = 16 << 20;
/// Most bytes of one piece of a stream, unless a single event is larger.
const PIECE_BYTES: usize = 64 << 10;

/// The samples of the last hour, and the newest one in full.
pub struct InstanceHistory {
    inside: Mutex<Inside>,
    /// The number of the newest sample.
    newest: watch::Sender<Newest>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Newest {
    number: u64,
    /// The hub stops: streams of samples end.
    is_last: bool,
}

#[derive(Default)]
struct Inside {
    samples: VecDeque<KeptSample>,
    bytes: usize,
    latest: Option<Arc<LatestInstances>>,
}

struct KeptSample {
    number: u64,
    taken: Instant,
    event: Bytes,
}

/// The instances as of the last heartbeat.
pub struct LatestInstances {
    pub as_of: DateTime<Utc>,
    pub instances: Vec<ShownInstance>,
    /// Those that ended lately, the newest first.
    pub stopped: Vec<StoppedInstance>,
}

/// Samples that follow a number.
pub struct NextSamples {
    pub events: Bytes,
    /// The number of the last of them.
    pub upto: u64,
}

impl Default for InstanceHistory {
    fn default() -> Self {
        Self { inside: Mutex::default(), newest: watch::Sender::new(Newest { number: 0, is_last: false }) }
    }
}

impl InstanceHistory {
    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a sample, and removes those that are too old or too many.
    pub fn add(&self, rows: Vec<InstanceRow>, stopped: Vec<StoppedInstance>, as_of: DateTime<Utc>) {
        self.add_at(rows, stopped, as_of, Instant::now());
    }

    fn add_at(&self, rows: Vec<InstanceRow>, stopped: Vec<StoppedInstance>, as_of: DateTime<Utc>, now: Instant) {
        let instances: Vec<ShownInstance> = rows.into_iter().map(ShownInstance::of).collect();
        let data = serde_json::to_string(&SampleBody { at: timestamp(as_of), instances: &instances }).unwrap_or_default();
        let event = Bytes::from(format!("event: sample\ndata: {data}\n\n"));
        let number = self.newest.borrow().number + 1;
        let mut inside = self.inside();
        inside.bytes += event.len();
        inside.samples.push_back(KeptSample { number, taken: now, event });
        inside.latest = Some(Arc::new(LatestInstances { as_of, instances, stopped }));
        while inside.samples.len() > 1 {
            let is_over = inside.bytes > KEPT_BYTES
                || inside.samples.front().is_some_and(|oldest| now.saturating_duration_since(oldest.taken) > KEPT);
            let Some(oldest) = inside.samples.pop_front_if(|_| is_over) else { break };
            inside.bytes -= oldest.event.len();
        }
        drop(inside);
        self.newest.send_modify(|newest| newest.number = number);
    }

    /// The instances as of the last heartbeat; `None` before the first one.
    pub fn latest(&self) -> Option<Arc<LatestInstances>> {
        self.inside().latest.clone()
    }

    /// The number before the oldest sample of this window.
    pub fn before(&self, window: Duration) -> u64 {
        self.before_at(window, Instant::now())
    }

    fn before_at(&self, window: Duration, now: Instant) -> u64 {
        let inside = self.inside();
        let first = inside.samples.iter().find(|sample| now.saturating_duration_since(sample.taken) <= window);
        first.map_or_else(|| self.newest.borrow().number, |sample| sample.number - 1)
    }

    /// The oldest kept samples above a number, as many as fit one piece; `None` if there is none yet.
    pub fn after(&self, number: u64) -> Option<NextSamples> {
        let inside = self.inside();
        let mut next = inside.samples.iter().skip_while(|sample| sample.number <= number).peekable();
        let first = next.next()?;
        if next.peek().is_none() {
            return Some(NextSamples { events: first.event.clone(), upto: first.number });
        }
        let (mut events, mut upto) = (first.event.to_vec(), first.number);
        for sample in next {
            if events.len() + sample.event.len() > PIECE_BYTES {
                break;
            }
            events.extend_from_slice(&sample.event);
            upto = sample.number;
        }
        Some(NextSamples { events: events.into(), upto })
    }

    /// Returns once there is a sample above the number, or at once if the hub stops. Whether the stream goes on.
    pub async fn wait_above(&self, number: u64) -> bool {
        let mut newest = self.newest.subscribe();
        newest.wait_for(|newest| newest.is_last || newest.number > number).await.is_ok_and(|newest| !newest.is_last)
    }

    /// Ends all streams of samples.
    pub fn end(&self) {
        self.newest.send_modify(|newest| newest.is_last = true);
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn row(address: &str) -> InstanceRow {
        let (started_at, seen_at) = (DateTime::UNIX_EPOCH, DateTime::UNIX_EPOCH);
        InstanceRow { instance: Uuid::nil(), address: address.to_owned(), version: "1".to_owned(), started_at, seen_at, report: None }
    }

    fn addresses(events: &Bytes) -> Vec<String> {
        let events = String::from_utf8(events.to_vec()).unwrap();
        let data = events.split("\n\n").filter_map(|event| event.strip_prefix("event: sample\ndata: "));
        data.map(|data| serde_json::from_str::<serde_json::Value>(data).unwrap()["instances"][0]["address"].as_str().unwrap().to_owned())
            .collect()
    }

    #[tokio::test]
    async fn a_stream_gets_its_window_and_then_each_new_sample_once() {
        let history = InstanceHistory::default();
        assert!(history.latest().is_none() && history.after(0).is_none());
        const MINUTE: Duration = Duration::from_secs(60);
        let begun = Instant::now();
        for minute in 0..90 {
            history.add_at(vec![row(&minute.to_string())], Vec::new(), DateTime::UNIX_EPOCH, begun + minute * MINUTE);
        }
        let now = begun + 90 * MINUTE;
        let all = history.after(0).unwrap();
        assert_eq!((addresses(&all.events).first().unwrap().as_str(), all.upto), ("29", 90), "an hour is kept");
        let mut at = history.before_at(15 * MINUTE, now);
        let past = history.after(at).unwrap();
        assert_eq!(addresses(&past.events), (75..90).map(|minute: u32| minute.to_string()).collect::<Vec<_>>());
        at = past.upto;
        assert!(history.after(at).is_none());
        assert_eq!(history.before_at(Duration::ZERO, now), 90);
        let waits = history.wait_above(at);
        history.add(vec![row("new")], Vec::new(), DateTime::UNIX_EPOCH);
        assert!(waits.await);
        assert_eq!(addresses(&history.after(at).unwrap().events), ["new"]);
        history.end();
        assert!(!history.wait_above(91).await);
    }

    #[test]
    fn the_memory_is_bounded_and_a_piece_too() {
        let history = InstanceHistory::default();
        let long = "x".repeat(40 << 10);
        for _ in 0..600 {
            history.add(vec![row(&long)], Vec::new(), DateTime::UNIX_EPOCH);
        }
        let (counted, kept) = {
            let inside = history.inside();
            (inside.bytes, inside.samples.iter().map(|sample| sample.event.len()).sum::<usize>())
        };
        assert!(counted <= KEPT_BYTES && counted == kept, "{counted} bytes are counted, {kept} are kept");
        let piece = history.after(0).unwrap();
        assert!(piece.events.len() <= PIECE_BYTES && piece.upto > 1, "what is gone is passed over");
    }
}
