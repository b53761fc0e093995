//! Runs writers that repeat each post until it succeeds, and devices that always reconnect.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use sqlx::{Connection, PgConnection};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::hub::{http_client, post_to};
use super::{ClientEnd, ClientSawFrame, Note, PostAnswer, PostReceipt, TestClient, TestHub, eventually, note};

/// The addresses of the hubs now; hubs come and go.
#[derive(Clone, Default)]
pub struct Addresses(Arc<RwLock<Vec<String>>>);

impl Addresses {
    pub fn of<'a>(hubs: impl IntoIterator<Item = &'a TestHub>) -> Self {
        let addresses = Self::default();
        addresses.set(hubs);
        addresses
    }

    pub fn set<'a>(&self, hubs: impl IntoIterator<Item = &'a TestHub>) {
        self.set_to(&hubs.into_iter().map(|hub| hub.address.clone()).collect::<Vec<_>>());
    }

    /// Sets the addresses of proxies in front of hubs.
    pub fn set_to(&self, addresses: &[String]) {
        *self.0.write().unwrap() = addresses.to_vec();
    }

    /// One of them, chosen by this random number.
    pub fn pick(&self, n: usize) -> Option<String> {
        let addresses = self.0.read().unwrap();
        addresses.get(n % addresses.len().max(1)).cloned()
    }
}

/// A post that was answered with a receipt.
#[derive(Debug, Clone)]
pub struct PostedNote {
    pub note: usize,
    pub receipt: PostReceipt,
}

/// Everything that the writers recorded.
#[derive(Debug, Default)]
pub struct Diary {
    pub posted: Vec<PostedNote>,
    /// Every answer that was not a receipt.
    pub refused: Vec<(u16, String)>,
    /// The slowest answer.
    pub slowest: Duration,
}

impl Diary {
    /// Records an answer; returns whether it was a receipt.
    fn enter(&mut self, number: usize, answer: &PostAnswer) -> bool {
        self.slowest = self.slowest.max(answer.took);
        if answer.is_receipt() {
            self.posted.push(PostedNote { note: number, receipt: answer.receipt() });
            return true;
        }
        assert!(answer.status == 503, "a valid post must only fail with 503: {} {}", answer.status, answer.body);
        self.refused.push((answer.status, answer.code().to_owned()));
        false
    }
}

/// Services that post until stopped. Each repeats a post, under its key, until it has a receipt.
pub struct Writers {
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
    diary: Arc<Mutex<Diary>>,
}

impl Writers {
    /// `draft` makes the notification of a number; each number is used once.
    pub fn start(count: usize, addresses: &Addresses, bearer: &str, pause: Duration, draft: fn(usize) -> Note) -> Self {
        let (stop, stopped) = watch::channel(false);
        let diary = Arc::new(Mutex::new(Diary::default()));
        let tasks = (0..count)
            .map(|writer| {
                let (addresses, bearer, stopped, diary) = (addresses.clone(), bearer.to_owned(), stopped.clone(), Arc::clone(&diary));
                tokio::spawn(async move {
                    let client = http_client();
                    let mut round = 0;
                    while !*stopped.borrow() {
                        let number = round * count + writer;
                        let note = draft(number).key(&format!("wish-{number}"));
                        insist(&client, &addresses, &bearer, number, &note, &diary).await;
                        round += 1;
                        tokio::time::sleep(pause).await;
                    }
                })
            })
            .collect();
        Self { stop, tasks, diary }
    }

    /// Number of receipts.
    pub fn count(&self) -> usize {
        self.diary.lock().unwrap().posted.len()
    }

    /// The slowest answer since the last call.
    pub fn take_slowest(&self) -> Duration {
        std::mem::take(&mut self.diary.lock().unwrap().slowest)
    }

    pub async fn until_count(&self, count: usize, limit: Duration) {
        eventually("so many receipts", limit, async || (self.count() >= count).then_some(())).await;
    }

    /// Stops at once: posts under way stay without an answer.
    pub async fn abandon(self) -> Diary {
        for task in self.tasks {
            task.abort();
            let _ = task.await;
        }
        std::mem::take(&mut *self.diary.lock().unwrap())
    }

    /// Stops after the posts under way have got their receipts.
    pub async fn stop(self) -> Diary {
        self.stop.send_replace(true);
        for task in self.tasks {
            tokio::time::timeout(Duration::from_secs(60), task).await.expect("every post is answered in the end").unwrap();
        }
        std::mem::take(&mut *self.diary.lock().unwrap())
    }
}

async fn insist(client: &reqwest::Client, addresses: &Addresses, bearer: &str, number: usize, note: &Note, diary: &Mutex<Diary>) {
    for attempt in number.. {
        let Some(address) = addresses.pick(attempt) else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let Ok(answer) = post_to(client, &address, bearer, note).await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        if diary.lock().unwrap().enter(number, &answer) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// One connection of a device.
#[derive(Debug, Default, Clone)]
pub struct Stretch {
    pub from: i64,
    pub status: String,
    pub got: Vec<(i64, String)>,
    pub ended: Option<ClientEnd>,
}

/// A device that reconnects to another hub after every break, and resumes at its stored position.
pub struct LoadDevice {
    pub user: String,
    pub name: String,
    stretches: Arc<Mutex<Vec<Stretch>>>,
    task: JoinHandle<()>,
}

impl LoadDevice {
    pub fn stretches(&self) -> Vec<Stretch> {
        self.stretches.lock().unwrap().clone()
    }

    /// Everything that it received, in the order of the first arrival.
    pub fn got(&self) -> Vec<(i64, String)> {
        let mut got: Vec<(i64, String)> = Vec::new();
        for (seq, id) in self.stretches().into_iter().flat_map(|s| s.got) {
            if got.last().is_none_or(|(last, _)| *last < seq) {
                got.push((seq, id));
            }
        }
        got
    }
}

/// Many devices.
pub struct Fan {
    pub devices: Vec<LoadDevice>,
}

impl Fan {
    /// Each of `users` with `each` devices; returns when every one is connected and has its position.
    pub async fn start(users: &[&str], each: usize, addresses: &Addresses) -> Self {
        let mut devices = Vec::new();
        for user in users {
            for number in 0..each {
                let name = format!("d{number}");
                let stretches: Arc<Mutex<Vec<Stretch>>> = Arc::default();
                let asked = TestClient::of(user).device(&name);
                let (book, addresses, first) = (Arc::clone(&stretches), addresses.clone(), devices.len());
                let task = tokio::spawn(async move {
                    for attempt in first.. {
                        let Some(address) = addresses.pick(attempt) else {
                            tokio::time::sleep(Duration::from_millis(20)).await;
                            continue;
                        };
                        match asked.try_connect(&address).await {
                            Ok(client) => {
                                follow(client, &book).await;
                                // As a client does. PostgreSQL needs some milliseconds to see that a hub was killed.
                                // A client that is back before that counts as another one, and repeats rows later.
                                tokio::time::sleep(Duration::from_millis(100)).await;
                            }
                            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                        }
                    }
                });
                devices.push(LoadDevice { user: (*user).to_owned(), name, stretches, task });
            }
        }
        let fan = Self { devices };
        eventually("every device is connected", super::PATIENCE, async || {
            fan.devices.iter().all(|device| !device.stretches().is_empty()).then_some(())
        })
        .await;
        fan
    }

    /// Waits until every device has the broadcast with this number.
    pub async fn until_everyone_has(&self, seq: i64, limit: Duration) {
        eventually("every device has the last notification", limit, async || {
            self.must_be_well();
            let has = |device: &LoadDevice| device.got().last().is_some_and(|(last, _)| *last >= seq);
            self.devices.iter().all(has).then_some(())
        })
        .await;
    }

    fn must_be_well(&self) {
        for device in &self.devices {
            assert!(!device.task.is_finished(), "device {} of {} gave up: its stream broke the contract", device.name, device.user);
        }
    }

    /// Each device has exactly the rows of the log that are addressed to it, above its first position, in order.
    pub fn must_have_exactly(&self, rows: &[LoggedRow]) {
        self.must_be_well();
        for device in &self.devices {
            let began = device.stretches()[0].from;
            let addressed = |user: &Option<String>| user.as_ref().is_none_or(|user| *user == device.user);
            let expected: Vec<(i64, String)> =
                rows.iter().filter(|(seq, _, user)| *seq > began && addressed(user)).map(|(seq, id, _)| (*seq, id.clone())).collect();
            let got = device.got();
            let missing: Vec<_> = expected.iter().filter(|row| !got.contains(row)).collect();
            assert!(
                missing.is_empty(),
                "device {} of {} lacks {missing:?}: {:#?}",
                device.name,
                device.user,
                device
                    .stretches()
                    .iter()
                    .map(|s| (s.from, &s.status, s.got.first().map(|g| g.0), s.got.last().map(|g| g.0), s.ended.clone()))
                    .collect::<Vec<_>>()
            );
            assert_eq!(got, expected, "device {} of {}", device.name, device.user);
        }
    }

    /// No connection began below an earlier one of the same device, and none was told of a gap or reset.
    pub fn must_never_have_gone_back(&self) {
        for device in &self.devices {
            let stretches = device.stretches();
            assert!(stretches.iter().all(|s| matches!(s.status.as_str(), "ok" | "live")), "{stretches:?}");
            assert!(
                stretches.is_sorted_by_key(|s| s.from),
                "a place went back: {:?}",
                stretches.iter().map(|s| s.from).collect::<Vec<_>>()
            );
        }
    }
}

impl Drop for Fan {
    fn drop(&mut self) {
        self.devices.iter().for_each(|device| device.task.abort());
    }
}

async fn follow(mut client: TestClient, book: &Mutex<Vec<Stretch>>) {
    let from = client.hello["resume"]["from"].as_i64().unwrap();
    let status = client.resume_status().to_owned();
    book.lock().unwrap().push(Stretch { from, status, ..Stretch::default() });
    loop {
        match client.next_of_many().await {
            ClientSawFrame::Notification(n) => book.lock().unwrap().last_mut().unwrap().got.push((n.seq, n.id)),
            ClientSawFrame::Ended(ended) => {
                book.lock().unwrap().last_mut().unwrap().ended = Some(ended);
                return;
            }
            _ => {}
        }
    }
}

/// A mixture for two users, ann and bob: everyone for one post in four, else one of them.
pub fn mixed(n: usize) -> Note {
    match n % 4 {
        0 => note("all").to_everyone(),
        1 => note("ann").to_user("ann"),
        2 => note("bob").to_user("bob"),
        _ => note("ann again").to_user("ann"),
    }
}

/// Number, id, and the user it is for (`None`: everyone).
pub type LoggedRow = (i64, String, Option<String>);

pub async fn log_rows(url: &str) -> Vec<LoggedRow> {
    let sql = "SELECT seq, id::text, user_id FROM recado.log ORDER BY seq";
    sqlx::query_as(sql).fetch_all(&mut PgConnection::connect(url).await.unwrap()).await.unwrap()
}

/// Every receipt is a row, the rows are dense, and every device has exactly its rows.
pub fn nothing_is_lost(rows: &[LoggedRow], diary: &Diary, fan: &Fan) {
    assert!(rows.iter().enumerate().all(|(at, (seq, ..))| *seq == at as i64 + 1), "dense from 1");
    for posted in &diary.posted {
        let row = usize::try_from(posted.receipt.seq - 1).ok().and_then(|at| rows.get(at));
        assert_eq!(row.map(|(_, id, _)| id), Some(&posted.receipt.id), "the row of post {}", posted.note);
    }
    let posted: HashSet<usize> = diary.posted.iter().map(|posted| posted.note).collect();
    assert_eq!(posted.len(), diary.posted.len(), "each post has one receipt");
    fan.must_have_exactly(rows);
    fan.must_never_have_gone_back();
}
