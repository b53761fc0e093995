//! Tests that dropping old partitions delays no request by more than 0.1 s.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use recado::domain::{Principal, Seq, UserId};
use recado::log::retention;
use recado::store::{Database, read};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::retention::{ALL_FULL, log_of};
use super::support::*;

/// What dropping may add to the longest wait of an equally long time without it.
const BOUND: Duration = Duration::from_millis(100);
/// A stall of the hub's own making occurs each time; one of a busy machine does not.
const ROUNDS: usize = 4;

/// The longest waits of a stretch of time: for an answer to a post, for a page, for the next notification on a socket.
#[derive(Debug, Clone, Copy, Default)]
struct Waits([Duration; 3]);

type Longest = Arc<Mutex<Duration>>;

struct Watch {
    writers: Writers,
    page: Longest,
    socket: Longest,
    tasks: [JoinHandle<()>; 2],
}

impl Watch {
    async fn start(db: &TestDb, hub: &TestHub) -> Self {
        let writers = Writers::start(4, &Addresses::of([hub]), &db.key(), Duration::from_millis(2), mixed);
        let (page, socket): (Longest, Longest) = Default::default();
        let paging = tokio::spawn(turn_pages(db.url(), Arc::clone(&page)));
        let client = TestClient::of("ann").connect(hub).await;
        let listening = tokio::spawn(listen(client, Arc::clone(&socket)));
        Self { writers, page, socket, tasks: [paging, listening] }
    }

    /// The longest waits since the last call.
    fn take(&self) -> Waits {
        let take = |longest: &Longest| std::mem::take(&mut *longest.lock().unwrap());
        Waits([self.writers.take_slowest(), take(&self.page), take(&self.socket)])
    }
}

fn note_wait(longest: &Longest, wait: Duration) {
    let mut longest = longest.lock().unwrap();
    *longest = wait.max(*longest);
}

async fn turn_pages(url: String, longest: Longest) {
    let reader = Database::parse(&url, None).unwrap().reader("test", 1);
    let who = Principal { user: UserId::parse("ann").unwrap(), accounts: Vec::new() };
    loop {
        let start = Instant::now();
        let head = read::head(&reader).await.unwrap();
        read::page_before(&reader, &who, head.next(), Seq::ZERO, 20).await.unwrap();
        note_wait(&longest, start.elapsed());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Some hundred a second come, so the time between two is a wait.
async fn listen(mut client: TestClient, longest: Longest) {
    loop {
        let start = Instant::now();
        client.next_of_many().await;
        note_wait(&longest, start.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn dropping_partitions_stalls_neither_posts_nor_pages_nor_sockets() {
    let _turn = heavy().await;
    let db = log_of(100).await;
    let hub = TestHub::on(&db).start().await;
    let watch = Watch::start(&db, &hub).await;
    let mut found = Vec::new();
    for _ in 0..ROUNDS {
        let so_far = watch.writers.count();
        watch.writers.until_count(so_far + 1000, PATIENCE * 3).await;
        watch.take();
        // With a reader that has the old partitions in its snapshot for the first part of it.
        let mut reader = db.connect().await;
        sqlx::raw_sql("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM recado.log").execute(&mut reader).await.unwrap();
        let (url, start, so_far) = (db.url(), Instant::now(), watch.writers.count());
        let round = tokio::spawn(async move { retention::round(&Database::parse(&url, None).unwrap(), ALL_FULL).await });
        watch.writers.until_count(so_far + 200, PATIENCE).await;
        sqlx::raw_sql("COMMIT").execute(&mut reader).await.unwrap();
        let done = tokio::time::timeout(PATIENCE, round).await.expect("the reader has gone").unwrap().unwrap();
        assert!(done.partitions_dropped >= 5, "{done:?}");
        let (dropping, length) = (watch.take(), start.elapsed());
        // Not a wait for anything: the same length of time, without dropping.
        tokio::time::sleep(length).await;
        let quiet = watch.take();
        found.push((dropping, quiet));
        let within = dropping.0.iter().zip(quiet.0).all(|(dropping, quiet)| *dropping <= quiet + BOUND);
        if within {
            break;
        }
    }
    let (dropping, quiet) = found.last().unwrap();
    let within = dropping.0.iter().zip(quiet.0).all(|(dropping, quiet)| *dropping <= quiet + BOUND);
    eprintln!("posts, pages, sockets: {found:?}");
    assert!(within, "posts, pages, sockets, with and without dropping: {found:?}");
    assert!(watch.tasks.iter().all(|task| !task.is_finished()), "pages and sockets went on");
    watch.tasks.iter().for_each(JoinHandle::abort);
    let diary = watch.writers.stop().await;
    assert!(diary.refused.is_empty(), "{:?}", diary.refused);
}
