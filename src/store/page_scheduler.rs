//! Schedules the pages that users read: one page of a user at a time, users in turn, and a byte budget for each.
//!
//! A page passes three steps. First the user's own queue: at most one page of a user is read at a time. Then the user's
//! budget: after a page that exceeded it, the next page waits until the budget is refilled. Then the queue of all
//! users, in front of the connections. Each user has one entry in that queue, so it serves the users in rotation,
//! however much one of them asks for.
//!
//! Small queries (positions, bounds, tickets) do not wait here: some connections of the pool are never given to pages.
//! Those of requests for the history run one at a time for each user. Otherwise a user who repeats such requests takes
//! all connections with them, and the pages of others wait.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tokio::time::{Duration, Instant};

use crate::domain::UserId;
use crate::metrics;

/// How much of its budget a user may use at once, in seconds of its rate: a device that returns after a day off reads
/// most of what it missed without a wait.
const BURST_SECONDS: f64 = 4.0;
/// The cost of a row apart from its bytes: finding it in the index, encoding it, writing a frame.
const ROW_COST: usize = 256;
/// The cost of a page that has no rows.
const PAGE_COST: usize = 4 << 10;
/// Connections that pages leave free, if there are as many.
const LEFT_FREE: u32 = 2;
/// Users that are remembered while none of their pages is being read. A user whose budget is full is forgotten first.
const USERS_REMEMBERED: usize = 10_000;
/// Most requests of one user for the history that are answered or wait at a time. Further ones are told to come later.
pub const REQUESTS_MAX: usize = 64;

/// The scheduler. Cheap to clone.
#[derive(Debug, Clone)]
pub struct PageScheduler {
    /// Bytes a second for each user; zero means no limit.
    rate: f64,
    slots: Arc<Semaphore>,
    users: Arc<Mutex<HashMap<UserId, Arc<UserQueue>>>>,
}

#[derive(Debug)]
struct UserQueue {
    turn: Arc<Semaphore>,
    /// The requests for the history that may still come.
    requests: Arc<Semaphore>,
    /// One of these requests runs its small queries at a time. This is separate from `turn`: a request for the head of
    /// the log does not wait for the budget of the pages.
    small: Semaphore,
    budget: Mutex<ByteBudget>,
}

/// Bytes that may be read without a wait. Below zero, the next page waits.
#[derive(Debug)]
struct ByteBudget {
    bytes: f64,
    at: Instant,
}

impl ByteBudget {
    fn refill(&mut self, rate: f64) -> f64 {
        let now = Instant::now();
        self.bytes = (self.bytes + now.duration_since(self.at).as_secs_f64() * rate).min(rate * BURST_SECONDS);
        self.at = now;
        self.bytes
    }
}

impl UserQueue {
    fn budget(&self) -> MutexGuard<'_, ByteBudget> {
        self.budget.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request for the history, among those of its user. Dropping it lets another one come.
#[derive(Debug)]
pub struct HistoryPlace {
    user: Arc<UserQueue>,
    _request: OwnedSemaphorePermit,
}

impl HistoryPlace {
    /// Waits until no other request of this user runs a small query. Dropping the permit lets the next one proceed.
    pub async fn small_turn(&self) -> SemaphorePermit<'_> {
        self.user.small.acquire().await.expect("the semaphore of small queries is never closed")
    }
}

/// Permission to read one page. Dropping it lets the next one proceed.
#[derive(Debug)]
pub struct PageTurn {
    user: Arc<UserQueue>,
    rate: f64,
    _slot: OwnedSemaphorePermit,
    _turn: OwnedSemaphorePermit,
}

impl PageScheduler {
    /// `connections` is the size of the pool. `rate` is in bytes a second for each user; zero means no limit.
    pub fn new(connections: u32, rate: u64) -> Self {
        let slots = connections.saturating_sub(LEFT_FREE).max(1);
        Self { rate: rate as f64, slots: Arc::new(Semaphore::new(slots as usize)), users: Arc::default() }
    }

    /// Waits until this user may read one more page. The future can be dropped safely.
    pub async fn turn(&self, user: &UserId) -> PageTurn {
        #[cfg(feature = "mutants")]
        let user = &if crate::mutants::is("no-turns") { unknown_user() } else { user.clone() };
        let user = self.user(user);
        let closed = "the semaphore of pages is never closed";
        let turn = Arc::clone(&user.turn).acquire_owned().await.expect(closed);
        if self.rate > 0.0 {
            let missing = -user.budget().refill(self.rate);
            if missing > 0.0 {
                metrics::OVER_BUDGET.add("page", 1);
                tokio::time::sleep(Duration::from_secs_f64(missing / self.rate)).await;
            }
        }
        let slot = Arc::clone(&self.slots).acquire_owned().await.expect(closed);
        PageTurn { user, rate: self.rate, _slot: slot, _turn: turn }
    }

    /// Admits a request for the history, before it asks the database anything. `None` if the user has
    /// [`REQUESTS_MAX`] of them.
    pub fn place(&self, user: &UserId) -> Option<HistoryPlace> {
        let user = self.user(user);
        let request = Arc::clone(&user.requests).try_acquire_owned().ok()?;
        Some(HistoryPlace { user, _request: request })
    }

    fn users(&self) -> MutexGuard<'_, HashMap<UserId, Arc<UserQueue>>> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn user(&self, name: &UserId) -> Arc<UserQueue> {
        let mut users = self.users();
        if let Some(user) = users.get(name) {
            return Arc::clone(user);
        }
        if users.len() >= USERS_REMEMBERED {
            let full = self.rate * BURST_SECONDS;
            users.retain(|_, user| Arc::strong_count(user) > 1 || user.budget().refill(self.rate) < full);
            // Thousands of users have just read much. A budget that is forgotten starts full again.
            if users.len() >= USERS_REMEMBERED {
                users.retain(|_, user| Arc::strong_count(user) > 1);
            }
        }
        let budget = Mutex::new(ByteBudget { bytes: self.rate * BURST_SECONDS, at: Instant::now() });
        let (turn, requests) = (Arc::new(Semaphore::new(1)), Arc::new(Semaphore::new(REQUESTS_MAX)));
        let user = Arc::new(UserQueue { turn, requests, small: Semaphore::new(1), budget });
        users.insert(name.clone(), Arc::clone(&user));
        user
    }
}

/// For the mutant in which each page is of a user of its own.
#[cfg(feature = "mutants")]
fn unknown_user() -> UserId {
    UserId::parse(&rand::random::<u64>().to_string()).expect("a number is a user's id")
}

impl PageTurn {
    /// Charges the user for the page that was read.
    pub fn charge(self, rows: usize, bytes: usize) {
        if self.rate > 0.0 {
            self.user.budget().bytes -= (PAGE_COST + rows * ROW_COST + bytes) as f64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> UserId {
        UserId::parse(name).unwrap()
    }

    #[tokio::test]
    async fn one_page_of_a_user_is_under_way_and_users_take_turns() {
        let pages = PageScheduler::new(3, 0);
        let first = pages.turn(&user("greedy")).await;
        let order = Mutex::new(Vec::new());
        let ask = async |name: &str| {
            let turn = pages.turn(&user(name)).await;
            order.lock().unwrap().push(name.to_owned());
            tokio::time::sleep(Duration::from_millis(10)).await;
            turn.charge(1, 1);
        };
        let release = async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            drop(first);
        };
        tokio::join!(ask("greedy"), ask("greedy"), ask("greedy"), ask("ann"), ask("bob"), release);
        assert_eq!(order.into_inner().unwrap(), ["ann", "bob", "greedy", "greedy", "greedy"]);
    }

    #[tokio::test]
    async fn who_exceeds_the_budget_waits_for_it_and_others_do_not() {
        let pages = PageScheduler::new(8, 1_000_000);
        let begun = Instant::now();
        for _ in 0..18 {
            pages.turn(&user("greedy")).await.charge(0, 250_000 - PAGE_COST);
        }
        // 4.5 MB: four at once, then one a second. The last page is charged after its turn.
        let took = begun.elapsed();
        assert!(took >= Duration::from_millis(240), "{took:?}");
        pages.turn(&user("greedy")).await.charge(0, 250_000_000);
        let (ann, greedy) = (user("ann"), user("greedy"));
        let (ann, greedy) = (pages.turn(&ann), pages.turn(&greedy));
        tokio::select! {
            biased;
            _ = greedy => panic!("the budget was exceeded by minutes"),
            turn = ann => turn.charge(500, 250_000),
        }
    }

    #[tokio::test]
    async fn who_gives_up_leaves_the_line_and_the_users_remembered_are_bounded() {
        let pages = PageScheduler::new(1, 1000);
        let held = pages.turn(&user("ann")).await;
        let impatient = tokio::time::timeout(Duration::from_millis(5), pages.turn(&user("ann"))).await;
        assert!(impatient.is_err());
        held.charge(0, 1_000_000);
        for n in 0..2 * USERS_REMEMBERED {
            pages.turn(&user(&n.to_string())).await.charge(0, 1_000_000);
        }
        assert!(pages.users().len() <= USERS_REMEMBERED);
    }

    #[tokio::test]
    async fn requests_beyond_the_bound_are_refused_until_one_has_ended() {
        let pages = PageScheduler::new(1, 0);
        let (ann, bob) = (user("ann"), user("bob"));
        let mut places: Vec<_> = (0..REQUESTS_MAX).map(|_| pages.place(&ann).unwrap()).collect();
        assert!(pages.place(&ann).is_none() && pages.place(&bob).is_some());
        let small = places[0].small_turn().await;
        assert!(futures_util::poll!(Box::pin(places[1].small_turn())).is_pending());
        drop(small);
        assert!(futures_util::poll!(Box::pin(places[1].small_turn())).is_ready());
        places.pop();
        assert!(pages.place(&ann).is_some());
    }
}
