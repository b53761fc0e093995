//! Starts the tasks of the hub.
//!
//! Each task has a name, a stop signal and an owner that waits for it. No other file may call `tokio::spawn`.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::task::TaskTracker;

/// Tells tasks to stop, also when it is dropped.
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
        // An error means that the stopper was dropped, which is a stop as well.
        let _ = self.0.wait_for(|stopped| *stopped).await;
    }

    pub fn is_stopped(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }
}

/// What a task does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TaskName {
    Accept,
    AccessWatch,
    AckFlusher,
    AckProber,
    Audit,
    Appender,
    Drain,
    Entries,
    FanOut,
    Http,
    InboxWriter,
    KeySets,
    Keys,
    Listener,
    Maintenance,
    MessageAppender,
    OutboxRelay,
    PrivateServer,
    ProviderSession,
    ProviderStatus,
    ProviderSupervisor,
    ProviderWatch,
    Retention,
    SessionWriter,
    StandbyWatch,
    Stream,
    Tailer,
    UnreadBody,
    WebSocket,
    Webhook,
    WebhookSupervisor,
}

impl TaskName {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::AccessWatch => "access watch",
            Self::AckFlusher => "ack flusher",
            Self::AckProber => "ack prober",
            Self::Audit => "audit",
            Self::Appender => "appender",
            Self::Drain => "drain",
            Self::Entries => "entries",
            Self::FanOut => "fan-out",
            Self::Http => "http",
            Self::InboxWriter => "inbox writer",
            Self::KeySets => "key sets",
            Self::Keys => "keys",
            Self::Listener => "listener",
            Self::Maintenance => "maintenance",
            Self::MessageAppender => "message appender",
            Self::OutboxRelay => "outbox relay",
            Self::PrivateServer => "private server",
            Self::ProviderSession => "upstream session",
            Self::ProviderStatus => "provider status",
            Self::ProviderSupervisor => "upstream supervisor",
            Self::ProviderWatch => "upstream watch",
            Self::Retention => "retention",
            Self::SessionWriter => "session writer",
            Self::StandbyWatch => "standby watch",
            Self::Stream => "stream",
            Self::Tailer => "tailer",
            Self::UnreadBody => "unread",
            Self::WebSocket => "websocket",
            Self::Webhook => "webhook",
            Self::WebhookSupervisor => "webhook supervisor",
        }
    }
}

impl fmt::Display for TaskName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How many tasks of each name run.
#[derive(Debug, Default)]
struct RunningTasks {
    counts: Mutex<BTreeMap<TaskName, usize>>,
    /// The last task of a name has ended.
    ended: Notify,
}

impl RunningTasks {
    fn counts(&self) -> MutexGuard<'_, BTreeMap<TaskName, usize>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The tasks of one hub. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Tasks {
    tracker: TaskTracker,
    running: Arc<RunningTasks>,
    fatal: mpsc::Sender<TaskName>,
}

impl Tasks {
    /// The receiver gets the name of each essential task that panicked; the hub must stop then.
    pub fn new() -> (Self, mpsc::Receiver<TaskName>) {
        let (fatal, failed) = mpsc::channel(8);
        (Self { tracker: TaskTracker::new(), running: Arc::default(), fatal }, failed)
    }

    /// Starts a task that the whole hub depends on.
    pub fn essential(&self, name: TaskName, task: impl Future<Output = ()> + Send + 'static) {
        let fatal = self.fatal.clone();
        self.start(name, async move {
            if AssertUnwindSafe(task).catch_unwind().await.is_err() {
                // Full means that the hub is stopping already because of another task.
                let _ = fatal.try_send(name);
            }
        });
    }

    /// Starts a task that serves one client: a panic in it ends that client's connection and nothing else.
    pub fn contained(&self, name: TaskName, task: impl Future<Output = ()> + Send + 'static) {
        self.start(name, async move {
            if AssertUnwindSafe(task).catch_unwind().await.is_err() {
                tracing::error!(task = %name, "task panicked; its client was disconnected");
            }
        });
    }

    fn start(&self, name: TaskName, task: impl Future<Output = ()> + Send + 'static) {
        let running = RunningTask::enter(&self.running, name);
        #[expect(clippy::disallowed_methods, reason = "the one place that starts tasks")]
        self.tracker.spawn(async move {
            task.await;
            drop(running);
        });
    }

    /// A token for a task that a library starts for the hub, so that it is waited for like the others.
    pub fn guest(&self, name: TaskName) -> TaskGuest {
        TaskGuest { _token: self.tracker.token(), _running: RunningTask::enter(&self.running, name) }
    }

    /// Waits until the tasks with these names have ended, at most `limit`; returns those that still run.
    pub async fn join_named(&self, names: &[TaskName], limit: Duration) -> BTreeMap<TaskName, usize> {
        let end = tokio::time::Instant::now() + limit;
        loop {
            let mut ended = pin!(self.running.ended.notified());
            // From now on no end is missed.
            ended.as_mut().enable();
            let mut left = self.running.counts().clone();
            left.retain(|name, _| names.contains(name));
            if left.is_empty() || tokio::time::timeout_at(end, ended).await.is_err() {
                return left;
            }
        }
    }

    /// Waits until all tasks have ended, at most `limit`; returns those that still run, by name and count.
    pub async fn join(&self, limit: Duration) -> BTreeMap<TaskName, usize> {
        self.tracker.close();
        let _ = tokio::time::timeout(limit, self.tracker.wait()).await;
        self.running.counts().clone()
    }
}

/// Held by a task that a library started.
pub struct TaskGuest {
    _token: tokio_util::task::task_tracker::TaskTrackerToken,
    _running: RunningTask,
}

struct RunningTask {
    all: Arc<RunningTasks>,
    name: TaskName,
}

impl RunningTask {
    fn enter(all: &Arc<RunningTasks>, name: TaskName) -> Self {
        *all.counts().entry(name).or_default() += 1;
        Self { all: Arc::clone(all), name }
    }
}

impl Drop for RunningTask {
    fn drop(&mut self) {
        let mut counts = self.all.counts();
        if let Some(count) = counts.get_mut(&self.name) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.name);
                self.all.ended.notify_waiters();
            }
        }
    }
}
