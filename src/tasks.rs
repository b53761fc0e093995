//! The only caller of `tokio::spawn`: every task has a name, a stop signal and someone who waits for it.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::{mpsc, watch};
use tokio_util::task::TaskTracker;

/// Tells tasks to stop. Dropping it tells them too.
#[derive(Debug)]
pub struct Stopper(watch::Sender<bool>);

impl Stopper {
    pub fn new() -> (Self, Stop) {
        let (sender, receiver) = watch::channel(false);
        (Self(sender), Stop(receiver))
    }

    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

/// A task's side of a [`Stopper`]. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Stop(watch::Receiver<bool>);

impl Stop {
    /// Returns once stopping has begun. Safe to drop and call again.
    pub async fn wait(&mut self) {
        // An error means that the stopper is gone, which says the same.
        let _ = self.0.wait_for(|stopped| *stopped).await;
    }

    pub fn is_stopped(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }
}

/// The tasks of one hub. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Tasks {
    tracker: TaskTracker,
    running: Arc<Mutex<BTreeMap<&'static str, usize>>>,
    fatal: mpsc::Sender<&'static str>,
}

impl Tasks {
    /// The receiver names each essential task that ended by a panic; the hub must not go on without it.
    pub fn new() -> (Self, mpsc::Receiver<&'static str>) {
        let (fatal, failed) = mpsc::channel(8);
        (Self { tracker: TaskTracker::new(), running: Arc::default(), fatal }, failed)
    }

    /// A task that the whole hub depends on.
    pub fn essential(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let fatal = self.fatal.clone();
        self.start(name, async move {
            if AssertUnwindSafe(task).catch_unwind().await.is_err() {
                // Full means that the hub is already ending for another task's sake.
                let _ = fatal.try_send(name);
            }
        });
    }

    /// A task that serves one client: a panic in it ends that client's connection and nothing else.
    pub fn contained(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.start(name, async move {
            if AssertUnwindSafe(task).catch_unwind().await.is_err() {
                tracing::error!(task = name, "a task panicked; its client was cut off");
            }
        });
    }

    fn start(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let running = Running::enter(&self.running, name);
        #[expect(clippy::disallowed_methods, reason = "the one place that starts tasks")]
        self.tracker.spawn(async move {
            task.await;
            drop(running);
        });
    }

    /// How many tasks of these names run now.
    pub fn count(&self, names: &[&'static str]) -> usize {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        names.iter().filter_map(|name| running.get(name)).sum()
    }

    /// A token for a task that a library starts for us, so that it is waited for like the others.
    pub fn guest(&self, name: &'static str) -> Guest {
        Guest { _token: self.tracker.token(), _running: Running::enter(&self.running, name) }
    }

    /// Waits until the tasks of these names have ended, at most `limit`; returns those that still run.
    pub async fn join_named(&self, names: &[&'static str], limit: Duration) -> BTreeMap<&'static str, usize> {
        let end = tokio::time::Instant::now() + limit;
        loop {
            let mut left = self.running.lock().unwrap_or_else(PoisonError::into_inner).clone();
            left.retain(|name, _| names.contains(name));
            if left.is_empty() || tokio::time::Instant::now() >= end {
                return left;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until all tasks have ended, at most `limit`; returns those that still run, by name and number.
    pub async fn join(&self, limit: Duration) -> BTreeMap<&'static str, usize> {
        self.tracker.close();
        let _ = tokio::time::timeout(limit, self.tracker.wait()).await;
        self.running.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Held by a task that a library started.
pub struct Guest {
    _token: tokio_util::task::task_tracker::TaskTrackerToken,
    _running: Running,
}

struct Running {
    all: Arc<Mutex<BTreeMap<&'static str, usize>>>,
    name: &'static str,
}

impl Running {
    fn enter(all: &Arc<Mutex<BTreeMap<&'static str, usize>>>, name: &'static str) -> Self {
        *all.lock().unwrap_or_else(PoisonError::into_inner).entry(name).or_default() += 1;
        Self { all: Arc::clone(all), name }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = all.get_mut(self.name) {
            *count -= 1;
            if *count == 0 {
                all.remove(self.name);
            }
        }
    }
}
