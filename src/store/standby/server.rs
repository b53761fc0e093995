//! Reads from one standby, and keeps whether it is in use.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::PgConnection;
use tokio::sync::watch;
use tokio::time::Instant;

use super::requirement::{Fitness, Replayed, Requirement};
use crate::store::StoreError;
use crate::store::database_route::Route;
use crate::store::error::ErrorClass;
use crate::store::read_pool::ReadPool;
use crate::store::settings::SessionSettings;

/// Pauses between the questions to a standby that has not replayed enough yet. A standby nearby is some milliseconds
/// behind; without a pause, each page that follows a commit closely would go to the primary. Longer ones would delay
/// the pages while a standby lags, until its watch has left it.
const CATCH_UP: [Duration; 3] = [Duration::ZERO, Duration::from_millis(15), Duration::from_millis(50)];
/// Longest wait for a page of a standby. A standby that needs longer is left.
const PAGE_LIMIT: Duration = Duration::from_millis(1500);
/// For how long a standby stays unused after a page failed there. Its watch may find nothing wrong, and would use it at
/// once: each page would then try it in vain first.
const AFTER_A_FAILED_PAGE: Duration = Duration::from_secs(5);

/// A read of the past that a standby may answer, and the primary as well.
pub(in crate::store) trait PastRead: Sync {
    type Answer: Send;

    /// Reads from this connection, within a limit of time.
    fn read(&self, connection: &mut PgConnection) -> impl Future<Output = Result<Self::Answer, StoreError>> + Send;
}

/// What is known of a standby, for the metrics.
#[derive(Debug, Clone, Copy)]
pub struct StandbyState {
    /// Its place in the setting.
    pub label: &'static str,
    pub is_in_use: bool,
    /// Rows of the log that this hub has seen and the standby had not replayed when it was last asked.
    pub lag: i64,
}

/// Whether a standby is used, and why not.
#[derive(Debug)]
struct Standing {
    /// The reason that was logged last. Empty while it is in use, `None` before the first word about it.
    left: Option<String>,
    /// Not before this time.
    again_at: Instant,
}

/// The result of a try.
pub(super) enum Tried<T> {
    Answered(T),
    /// It has not replayed enough, or failed.
    NotHere,
}

/// One standby.
#[derive(Debug)]
pub(super) struct Standby {
    pub label: &'static str,
    pub route: Arc<Route>,
    pub wanted: SessionSettings,
    pool: ReadPool,
    in_use: watch::Sender<bool>,
    standing: Mutex<Standing>,
    lag: AtomicI64,
}

impl Standby {
    pub fn new(label: &'static str, route: Arc<Route>, wanted: SessionSettings, connections: u32) -> Self {
        let pool = ReadPool::new(Arc::clone(&route), wanted.clone(), "standby reader", connections);
        let standing = Mutex::new(Standing { left: None, again_at: Instant::now() });
        Self { label, route, wanted, pool, in_use: watch::Sender::new(false), standing, lag: AtomicI64::new(0) }
    }

    fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn is_in_use(&self) -> bool {
        *self.in_use.borrow()
    }

    pub fn state(&self) -> StandbyState {
        StandbyState { label: self.label, is_in_use: self.is_in_use(), lag: self.lag.load(Ordering::Relaxed) }
    }

    /// Notes how many rows it lacks.
    pub fn lags_by(&self, rows: i64) {
        self.lag.store(rows, Ordering::Relaxed);
    }

    /// Uses it from now on, unless a page has failed there within [`AFTER_A_FAILED_PAGE`].
    pub fn use_again(&self) {
        let mut standing = self.standing();
        if Instant::now() < standing.again_at {
            return;
        }
        standing.left = Some(String::new());
        if self.in_use.send_if_modified(|in_use| !std::mem::replace(in_use, true)) {
            tracing::info!(standby = self.label, "standby is in use: it reads pages of the past");
        }
    }

    /// Uses it no longer. Pages that are waiting for it end, and are read elsewhere.
    pub fn leave(&self, reason: &str) {
        let mut standing = self.standing();
        let was_in_use = self.in_use.send_if_modified(|in_use| std::mem::replace(in_use, false));
        // The first failure of a standby that was never in use is told as well. Later reasons are details.
        if was_in_use || standing.left.is_none() {
            tracing::warn!(standby = self.label, reason, "standby is not in use; the primary or another standby reads its pages");
        } else if standing.left.as_deref() != Some(reason) {
            tracing::debug!(standby = self.label, reason, "standby is still not in use");
        }
        standing.left = Some(reason.to_owned());
    }

    fn leave_for_a_while(&self, reason: &str) {
        self.leave(reason);
        self.standing().again_at = Instant::now() + AFTER_A_FAILED_PAGE;
    }

    /// Reads a page here, if the standby has everything that the page needs.
    pub async fn read<R: PastRead>(&self, required: &Requirement, what: &R) -> Tried<R::Answer> {
        let mut in_use = self.in_use.subscribe();
        if !*in_use.borrow_and_update() {
            return Tried::NotHere;
        }
        let outcome = tokio::select! {
            biased;
            // Its watch has left it. An error cannot occur: this standby owns the sender.
            _ = in_use.wait_for(|in_use| !in_use) => return Tried::NotHere,
            outcome = tokio::time::timeout(PAGE_LIMIT, self.try_read(required, what)) => outcome,
        };
        match outcome {
            Ok(Ok(tried)) => tried,
            Ok(Err(error)) => {
                self.failed(&error);
                Tried::NotHere
            }
            Err(_) => {
                self.leave_for_a_while(&format!("a page took longer than {PAGE_LIMIT:?}"));
                Tried::NotHere
            }
        }
    }

    async fn try_read<R: PastRead>(&self, required: &Requirement, what: &R) -> Result<Tried<R::Answer>, StoreError> {
        for pause in CATCH_UP {
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
            let mut checkout = self.pool.checkout().await?;
            let replayed = Replayed::ask(checkout.connection(), required.upto).await?;
            match replayed.compared_with(required) {
                Fitness::Fit => {
                    let answer = what.read(checkout.connection()).await?;
                    checkout.done();
                    return Ok(Tried::Answered(answer));
                }
                Fitness::Behind => checkout.done(),
                Fitness::Foreign(reason) => {
                    self.leave_for_a_while(reason);
                    return Ok(Tried::NotHere);
                }
            }
        }
        Ok(Tried::NotHere)
    }

    /// A lost connection says that the server is gone or restarts. Any other error concerns the page alone, such as
    /// 40001, by which replay cancels a query that stands in its way.
    fn failed(&self, error: &StoreError) {
        match error {
            StoreError::Unavailable(cause) if ErrorClass::of(cause) == ErrorClass::Lost => {
                self.pool.lost_one();
                self.leave_for_a_while(&error.to_string());
            }
            StoreError::TimedOut(_) => self.leave_for_a_while(&error.to_string()),
            _ => tracing::debug!(standby = self.label, %error, "a page failed on a standby; it is read elsewhere"),
        }
    }

    pub async fn close(&self) {
        self.pool.close().await;
    }
}
