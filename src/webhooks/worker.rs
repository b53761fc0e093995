//! Posts for one webhook under one term.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use tokio::sync::{Notify, Semaphore};
use tokio::time::{Instant, sleep, sleep_until};

use super::message::Message;
use super::poster::{PostOutcome, Poster};
use super::secret::WebhookSecret;
use crate::backoff::Backoff;
use crate::delivery::Registry;
use crate::domain::{LogId, Seq, retry_wait};
use crate::metrics::WEBHOOK_POSTS;
use crate::outgoing::{ClockReading, LeaseTrust};
use crate::store::turn_pool::TurnPool;
use crate::store::webhooks::{self, DuePost, NextPosts, PostResult, WebhookError, WebhookTerm};

/// Attempts of one webhook that run at the same time. After a failure it is one, until an attempt succeeds.
pub const ATTEMPTS_AT_ONCE: usize = 8;
/// The same for all webhooks of this instance: more than there can be webhooks, so that dead addresses, which have one
/// each, keep no other from its turn.
pub const ATTEMPTS_OF_ALL: usize = 256;
/// Shortest time between two calls for posts because of new rows: a webhook may want few of them.
const SPACING: Duration = Duration::from_millis(200);
/// Longest time between two calls. Nothing depends on it: new rows, due times and changes wake the worker.
const LOOK: Duration = Duration::from_secs(30);

/// What the workers of an instance share.
pub struct WorkerContext {
    pub calls: TurnPool,
    pub registry: Arc<Registry>,
    /// Permits for [`ATTEMPTS_OF_ALL`].
    pub attempts: Semaphore,
}

/// The lease of a worker, which the supervisor renews and ends.
pub struct WorkerLease {
    pub term: WebhookTerm,
    trust: Arc<LeaseTrust>,
    stopping: AtomicBool,
    ended: AtomicBool,
    changed: Notify,
}

impl WorkerLease {
    pub fn new(term: WebhookTerm, trusted_until: ClockReading) -> Self {
        Self {
            term,
            trust: Arc::new(LeaseTrust::until(trusted_until)),
            stopping: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            changed: Notify::new(),
        }
    }

    /// Extends the lease. The worker also looks for posts: dead letters may have become due.
    pub fn renew(&self, trusted_until: ClockReading) {
        self.trust.extend(trusted_until);
        self.changed.notify_one();
    }

    /// Ends the lease: not one more byte may be sent under it.
    pub fn lose(&self) {
        self.trust.end();
        self.changed.notify_one();
    }

    /// Lets the attempts that run end, and begins no other.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.changed.notify_one();
    }

    /// Whether the worker has ended, or must end.
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire) || self.trust.is_over()
    }
}

/// Marks the lease as ended however the worker ends.
struct EndMark(Arc<WorkerLease>);

impl Drop for EndMark {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::Release);
    }
}

/// A secret that was replaced and still signs.
#[derive(Debug, Clone)]
pub struct OldSecret {
    pub secret: WebhookSecret,
    pub until: Instant,
}

/// An attempt that has ended.
struct Attempt {
    seq: i64,
    /// Counted from 1.
    number: i32,
    outcome: PostOutcome,
}

/// Why a worker ends.
struct Ended;

/// Posts for one webhook.
pub struct Worker {
    shared: Arc<WorkerContext>,
    lease: Arc<WorkerLease>,
    poster: Poster,
    url: Arc<str>,
    secret: WebhookSecret,
    old: Option<OldSecret>,
    flying: FuturesUnordered<BoxFuture<'static, Attempt>>,
    /// The numbers of the attempts that run.
    busy: Vec<i64>,
    /// Attempts that may run at once.
    window: usize,
    /// No attempt begins before: the receiver asked for it.
    quiet_until: Instant,
    /// When to ask for posts next.
    next_at: Instant,
    asked_at: Instant,
    /// The head at the last call; a row above it wakes the worker.
    head: Option<Seq>,
    backoff: Backoff,
}

impl Worker {
    pub fn new(
        shared: Arc<WorkerContext>,
        lease: Arc<WorkerLease>,
        poster: Poster,
        url: String,
        secret: WebhookSecret,
        old: Option<OldSecret>,
    ) -> Self {
        let now = Instant::now();
        Self {
            shared,
            lease,
            poster,
            url: url.into(),
            secret,
            old,
            flying: FuturesUnordered::new(),
            busy: Vec::new(),
            // A new owner does not know whether the address answers.
            window: 1,
            quiet_until: now,
            next_at: now,
            asked_at: now,
            head: None,
            backoff: Backoff::new(Duration::from_millis(200), Duration::from_secs(5)),
        }
    }

    /// Posts until the lease ends.
    pub async fn run(mut self) {
        let _mark = EndMark(Arc::clone(&self.lease));
        while !self.lease.trust.is_over() {
            let is_stopping = self.lease.stopping.load(Ordering::Acquire);
            if is_stopping && self.flying.is_empty() {
                return;
            }
            if !is_stopping && self.may_ask() && self.ask().await.is_err() {
                return;
            }
            if self.step(is_stopping).await.is_err() {
                return;
            }
        }
    }

    fn may_ask(&self) -> bool {
        let now = Instant::now();
        self.flying.len() < self.window && now >= self.next_at && now >= self.quiet_until
    }

    /// Waits until something is to be done, and settles attempts that have ended.
    async fn step(&mut self, is_stopping: bool) -> Result<(), Ended> {
        let lease = Arc::clone(&self.lease);
        let shared = Arc::clone(&self.shared);
        let has_room = !is_stopping && self.flying.len() < self.window;
        let head = self.head.filter(|_| has_room);
        tokio::select! {
            Some(attempt) = self.flying.next(), if !self.flying.is_empty() => self.settle(attempt).await?,
            () = shared.registry.dispatched(head.unwrap_or(Seq::ZERO).next()), if head.is_some() => {
                self.head = None;
                self.next_at = self.next_at.min(self.asked_at + SPACING);
            }
            () = sleep_until(self.next_at.max(self.quiet_until)), if has_room => {}
            () = lease.changed.notified() => self.next_at = Instant::now(),
            () = sleep(lease.trust.remaining()) => {}
        }
        Ok(())
    }

    /// Asks for posts that are due, and begins their attempts.
    async fn ask(&mut self) -> Result<(), Ended> {
        self.asked_at = Instant::now();
        let room = i32::try_from(self.window - self.flying.len()).unwrap_or(1);
        let (term, busy) = (&self.lease.term, &self.busy);
        let next = self.shared.calls.run(async |connection| webhooks::next(connection, term, room, busy).await).await;
        let next = match next {
            Ok(next) => next,
            Err(error) => {
                self.failed(&error)?;
                self.head = None;
                self.next_at = self.asked_at + self.backoff.failed();
                return Ok(());
            }
        };
        self.backoff.succeeded();
        self.take(next);
        Ok(())
    }

    fn take(&mut self, next: NextPosts) {
        let NextPosts { log_id, posts, head, has_more, wait, skipped } = next;
        if skipped > 0 {
            tracing::warn!(webhook = self.lease.term.name, skipped, "retention dropped rows that a webhook had not posted");
        }
        let is_full = posts.len() >= self.window - self.flying.len();
        self.next_at = self.asked_at + if has_more || is_full { Duration::ZERO } else { wait.unwrap_or(LOOK).min(LOOK) };
        self.head = Some(head);
        for due in posts {
            self.begin(log_id, &due);
        }
    }

    /// Begins the attempt of a post.
    fn begin(&mut self, log_id: LogId, due: &DuePost) {
        let message = Message::of(&self.lease.term.name, log_id, due);
        let (seq, number) = (due.row.seq, due.attempts + 1);
        let old = self.old.as_ref().filter(|old| old.until > Instant::now());
        let secrets: Vec<WebhookSecret> = std::iter::once(&self.secret).chain(old.map(|old| &old.secret)).cloned().collect();
        let (shared, poster, url, trust) =
            (Arc::clone(&self.shared), self.poster.clone(), Arc::clone(&self.url), Arc::clone(&self.lease.trust));
        self.busy.push(seq);
        let attempt = async move {
            // The semaphore is never closed, so there is always a permit some time.
            let _permit = shared.attempts.acquire().await.ok();
            Attempt { seq, number, outcome: poster.post(&url, &message, &secrets, Some(trust)).await }
        };
        self.flying.push(attempt.boxed());
    }

    /// Stores the results of this attempt, and of others that have ended meanwhile.
    async fn settle(&mut self, first: Attempt) -> Result<(), Ended> {
        let mut attempts = vec![first];
        while let Some(Some(attempt)) = self.flying.next().now_or_never() {
            attempts.push(attempt);
        }
        if self.lease.trust.is_over() {
            // Nothing was sent after the lease had ended, or another owner repeats it.
            return Err(Ended);
        }
        if attempts.iter().any(|attempt| attempt.outcome == PostOutcome::Gone) {
            return self.disable().await;
        }
        let results: Vec<(i64, PostResult)> = attempts.iter().map(|attempt| (attempt.seq, self.judge(attempt))).collect();
        let term = &self.lease.term;
        loop {
            match self.shared.calls.run(async |connection| webhooks::settle(connection, term, &results).await).await {
                Ok(()) => break,
                Err(error) => self.failed(&error)?,
            }
            sleep(self.backoff.failed()).await;
            if self.lease.trust.is_over() {
                return Err(Ended);
            }
        }
        self.backoff.succeeded();
        self.busy.retain(|seq| results.iter().all(|(settled, _)| settled != seq));
        // There may be room again, and a retry may be due before what the last call knew.
        self.next_at = Instant::now();
        Ok(())
    }

    /// Decides what follows an attempt, and counts it.
    fn judge(&mut self, attempt: &Attempt) -> PostResult {
        let name = &self.lease.term.name;
        let PostOutcome::Failed { status, error, after } = &attempt.outcome else {
            WEBHOOK_POSTS.add("accepted", 1);
            self.window = ATTEMPTS_AT_ONCE;
            return PostResult::Accepted;
        };
        self.window = 1;
        if let Some(after) = after {
            self.quiet_until = self.quiet_until.max(Instant::now() + *after);
        }
        let wait = retry_wait(attempt.number, *after, rand::random());
        if wait.is_some() {
            WEBHOOK_POSTS.add("failed", 1);
            tracing::debug!(webhook = name, seq = attempt.seq, attempt = attempt.number, error, "a post of a webhook failed; retrying");
        } else {
            WEBHOOK_POSTS.add("dead", 1);
            tracing::warn!(webhook = name, seq = attempt.seq, attempts = attempt.number, error, "a post of a webhook is a dead letter");
        }
        PostResult::Failed { status: *status, error: error.clone(), wait }
    }

    /// Ends the webhook: its address answered 410. The post stays, for an administrator who resumes it.
    async fn disable(&mut self) -> Result<(), Ended> {
        let term = &self.lease.term;
        WEBHOOK_POSTS.add("gone", 1);
        tracing::warn!(webhook = term.name, "the address of a webhook answered 410; the webhook is disabled");
        let disabled = self.shared.calls.run(async |connection| webhooks::disable(connection, term).await).await;
        if let Err(error) = disabled {
            // The next owner, or this one, tries the post again and gets the same answer.
            tracing::warn!(%error, webhook = term.name, "could not disable a webhook");
        }
        Err(Ended)
    }

    /// Logs a failed call. A term that has ended ends the worker.
    fn failed(&self, error: &WebhookError) -> Result<(), Ended> {
        if matches!(error, WebhookError::StaleTerm) {
            self.lease.lose();
            return Err(Ended);
        }
        tracing::warn!(%error, webhook = self.lease.term.name, "a call for a webhook failed; retrying");
        Ok(())
    }
}
