//! Devices: connect, read, acknowledge, leave, come back, here or at another hub. By WebSocket and by EventSource.

mod commands;
mod lines;
mod sse;
mod websocket;

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::time::{Instant, sleep};

use crate::Trouble;
use crate::book::Book;
use crate::cast;
use crate::fact::{Asked, Fact, Since, Told, hash};
use crate::secrets;
use commands::Commands;

/// A connection that brings nothing, not even a heartbeat, is given up.
const SILENCE: Duration = Duration::from_secs(10);
const CONNECT_LIMIT: Duration = Duration::from_secs(6);
/// So many numbers of the log are told again at most to a device that never acknowledges, or has forgotten everything. A run of a minute writes
/// 25 to 40 thousand. All of a longer log would take more than a stay, and the work of a run would grow with the square of its length.
const AGAIN: i64 = 60_000;

/// What all devices share.
pub struct Floor {
    pub book: Arc<Book>,
    /// One for all: to make one reads all certificates of the machine.
    pub http: reqwest::Client,
    pub addresses: Vec<String>,
    /// Nobody leaves any more.
    pub staying: AtomicBool,
    /// Those that were given out. None may be found in a log.
    pub tickets: Mutex<Vec<String>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acks {
    /// The library's pongs.
    Pong,
    /// Frames, now and then.
    Frames,
    /// The REST call, now and then, and sometimes an old number.
    Rest,
    Never,
}

/// By what it reads its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    WebSocket,
    EventSource,
    /// `follow=1`: lines, for programs. Keeps its place itself.
    Lines,
}

pub struct Device {
    floor: Arc<Floor>,
    name: String,
    user: String,
    client: String,
    token: String,
    acks: Acks,
    is_slow: bool,
    way: Way,
    random: StdRng,
    http: reqwest::Client,
    /// What it has been given, and the id there, as a browser's storage keeps it.
    place: Option<(i64, Option<String>)>,
    log_id: Option<String>,
    /// What this connection has given: no more may be acknowledged on it.
    given: i64,
    /// It never acknowledges, and its stored place was more than `AGAIN` behind when it came.
    is_behind: bool,
    /// By WebSocket only.
    pub commands: Commands,
    /// For whoever waits until it has come to the end.
    pub reached: Arc<AtomicI64>,
}

/// Why a connection is over.
enum Left {
    /// By its own wish.
    Wanted,
    Ended(String),
}

impl Device {
    pub fn new(floor: Arc<Floor>, tenant: usize, number: usize, seed: u64) -> Result<Self, Trouble> {
        let mut random = StdRng::seed_from_u64(seed.wrapping_mul(1_000_003).wrapping_add((tenant * 100 + number) as u64));
        let (user, account, client) = (cast::user(tenant, number % 4), cast::account(tenant), format!("d{number}"));
        // So that each user has a WebSocket and something else.
        let way = match number {
            9 => Way::Lines,
            _ if (number / 4 + number) % 2 == 1 => Way::EventSource,
            _ => Way::WebSocket,
        };
        let acks = match random.random_range(0..10) {
            0 => Acks::Never,
            1..4 => Acks::Pong,
            4..7 => Acks::Frames,
            _ => Acks::Rest,
        };
        let is_slow = random.random_bool(0.05);
        let name = format!("{user}/{client}");
        floor.book.note(Fact::Device { device: name.clone(), user: user.clone(), account: account.clone(), slow: is_slow });
        let token = secrets::token(&user, Some(&account), None)?;
        let http = floor.http.clone();
        let (reached, commands) = (Arc::default(), Commands::of(&user, &client));
        let (place, log_id, given, is_behind) = (None, None, 0, false);
        Ok(Self { floor, name, user, client, token, acks, is_slow, way, random, http, place, log_id, given, is_behind, commands, reached })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn is_slow(&self) -> bool {
        self.is_slow
    }

    pub fn token(&self) -> &str {
        &self.token
    }

    /// For ever: connected for some seconds, away for a moment.
    pub async fn run(mut self) {
        loop {
            self.floor.book.note(Fact::ConnTry { device: self.name.clone() });
            let mut pause = 50;
            loop {
                match self.connection().await {
                    Left::Wanted => break,
                    Left::Ended(_) => {
                        let wait = self.random.random_range(pause / 2..pause);
                        sleep(Duration::from_millis(wait)).await;
                        pause = (pause * 2).min(600);
                    }
                }
            }
            if self.random.random_bool(0.25) {
                self.page().await;
            }
            let away = self.random.random_range(0..800);
            sleep(Duration::from_millis(away)).await;
        }
    }

    fn asked(&mut self) -> Asked {
        if self.way == Way::Lines {
            let (seq, last_id) = self.place.clone().unwrap_or_default();
            return Asked { since: Since::Seq(seq), log_id: self.log_id.clone(), last_id };
        }
        let Some((seq, id)) = self.place.clone() else { return Asked { since: Since::Ack, log_id: None, last_id: None } };
        // An EventSource knows its last event, and nothing else.
        let draw = self.random.random_range(0..100);
        match draw {
            _ if self.way == Way::EventSource && draw < 85 => Asked { since: Since::Seq(seq), log_id: None, last_id: None },
            // It has forgotten everything.
            0..5 if seq > AGAIN => Asked { since: Since::Seq(seq - AGAIN), log_id: None, last_id: None },
            0..5 => Asked { since: Since::Earliest, log_id: None, last_id: None },
            5..45 => Asked { since: Since::Seq(seq), log_id: self.log_id.clone(), last_id: id },
            _ => Asked { since: Since::Ack, log_id: None, last_id: None },
        }
    }

    async fn connection(&mut self) -> Left {
        let hub = self.random.random_range(0..self.floor.addresses.len());
        if self.random.random_bool(0.02) {
            self.liar(hub).await;
        }
        let asked = self.asked();
        let leave = Instant::now() + Duration::from_millis(self.random.random_range(1_000..8_000));
        let left = match self.way {
            Way::WebSocket => self.websocket(hub, asked, leave).await,
            Way::EventSource => self.event_source(hub, asked, leave).await,
            Way::Lines => self.lines(hub, asked, leave).await,
        };
        // One that was cut off has no such help: a hub that does so again and again keeps it from coming to the end.
        if std::mem::take(&mut self.is_behind)
            && matches!(left, Left::Wanted)
            && let Some((seq, _)) = self.place
        {
            self.ack_number_by_rest(hub, seq).await;
        }
        left
    }

    /// Whether its stored place is its own doing.
    fn acknowledges(&self) -> bool {
        match self.way {
            Way::WebSocket => self.acks != Acks::Never,
            Way::EventSource => self.acks == Acks::Rest,
            Way::Lines => false,
        }
    }

    fn wants_to_leave(&self, leave: Instant) -> bool {
        Instant::now() >= leave && !self.floor.staying.load(Ordering::SeqCst)
    }

    /// What a slow one does with each notification, until all is healed: how far it has fallen behind by then depends on the run's length and
    /// pace, and it shall come to the end.
    async fn linger(&self) {
        if self.is_slow && !self.floor.staying.load(Ordering::SeqCst) {
            sleep(Duration::from_millis(15)).await;
        }
    }

    /// The hub has let it in.
    fn opened(&mut self, hub: usize, asked: Asked, hello: &Value) -> Option<u64> {
        let told = told(hello)?;
        let conn = self.floor.book.number();
        self.given = told.from;
        self.log_id = Some(told.log_id.clone());
        if told.status == "reset" || self.place.is_none() {
            self.place = Some((told.from, None));
        }
        let behind = self.place.as_ref().map_or(0, |(place, _)| place - told.from);
        self.is_behind = asked.since == Since::Ack && behind > AGAIN && !self.acknowledges();
        self.floor.book.note(Fact::ConnOpen { conn, device: self.name.clone(), hub, asked, told });
        Some(conn)
    }

    fn closed(&self, conn: u64, left: &Left) {
        let (why, wanted) = match left {
            Left::Wanted => ("left".to_owned(), true),
            Left::Ended(why) => (why.clone(), false),
        };
        self.floor.book.note(Fact::ConnClose { conn, device: self.name.clone(), why, wanted });
    }

    /// One frame of the hub. `true` for a notification.
    fn take(&mut self, conn: u64, text: &str) -> bool {
        let book = Arc::clone(&self.floor.book);
        let Ok(frame) = serde_json::from_str::<Frame<'_>>(text) else {
            book.note(Fact::Broken { conn, what: format!("no frame: {text}") });
            return false;
        };
        match (frame.kind.as_str(), frame.seq) {
            ("caught_up", Some(seq)) => self.pass(conn, seq, None, false),
            ("heartbeat", Some(seq)) => self.pass(conn, seq, frame.prev, false),
            // One that is not stored for sure is as good as untold: who gives it again will know.
            ("command_result", _) => {
                if let (Some(id), Some(status)) = (&frame.id, &frame.status)
                    && frame.detail.as_deref() != Some("not_stored_for_sure")
                {
                    self.commands.told(&book, id, status);
                }
            }
            // The provider's own words have no code.
            ("error", _) if frame.code.as_deref().is_none_or(|code| code == "rate_limited") => {}
            ("error", _) => book.note(Fact::Broken { conn, what: format!("an error: {text}") }),
            (_, Some(seq)) => {
                let data = frame.data.map_or("null", RawValue::get);
                let hash = hash(&[frame.title.as_deref().unwrap_or("?"), frame.message.as_deref().unwrap_or("?"), data]);
                let taint = frame.taint();
                let id = frame.id.unwrap_or_default();
                let prev = frame.prev.unwrap_or(-1);
                if text.contains("\"user_ids\"") {
                    book.note(Fact::Broken { conn, what: format!("{seq} tells who else it is for") });
                }
                book.note(Fact::Recv { conn, seq, prev, id: id.clone(), hash, taint });
                if self.place.as_ref().is_none_or(|(place, _)| *place < seq) {
                    self.place = Some((seq, Some(id)));
                }
                self.given = seq;
                self.reached.fetch_max(seq, Ordering::SeqCst);
                return true;
            }
            _ => {}
        }
        false
    }

    /// Everything up to `seq` is given.
    fn pass(&mut self, conn: u64, seq: i64, prev: Option<i64>, silent: bool) {
        self.floor.book.note(Fact::Passed { conn, seq, prev, silent });
        self.given = seq;
        if self.place.as_ref().is_none_or(|(place, _)| *place < seq) {
            self.place = Some((seq, None));
        }
        self.reached.fetch_max(seq, Ordering::SeqCst);
    }

    fn url(&self, hub: usize, path: &str) -> String {
        format!("http://{}{path}", self.floor.addresses[hub])
    }

    /// Acknowledges beside the stream; sometimes a number from long ago, which must not count.
    async fn ack_by_rest(&mut self, hub: usize) {
        let Some((seq, _)) = self.place else { return };
        let seq = if self.random.random_bool(0.2) { seq / 2 } else { seq };
        self.ack_number_by_rest(hub, seq).await;
    }

    async fn ack_number_by_rest(&self, hub: usize, seq: i64) {
        let body = format!("{{\"client_id\":\"{}\",\"seq\":{seq}}}", self.client);
        let request = self.http.post(self.url(hub, "/api/notifications/ack")).bearer_auth(&self.token).timeout(CONNECT_LIMIT);
        let request = request.header("content-type", "application/json").body(body);
        self.floor.book.note(Fact::AckSent { device: self.name.clone(), seq });
        if let Ok(response) = request.send().await
            && response.status() == 200
            && let Ok(body) = response.json::<Value>().await
        {
            let seq = body["acked"].as_i64().unwrap_or(-1);
            self.floor.book.note(Fact::AckConfirmed { device: self.name.clone(), seq });
        }
    }

    /// Reads a page of its history.
    async fn page(&mut self) {
        let hub = self.random.random_range(0..self.floor.addresses.len());
        let after = self.place.as_ref().map_or(0, |(seq, _)| (*seq - 200).max(0));
        let url = self.url(hub, &format!("/api/notifications?after={after}&limit=60"));
        let Ok(response) = self.http.get(url).bearer_auth(&self.token).timeout(CONNECT_LIMIT).send().await else { return };
        if response.status() != 200 {
            return;
        }
        let Ok(text) = response.text().await else { return };
        let Ok(page) = serde_json::from_str::<PageBody<'_>>(&text) else { return };
        for row in page.notifications {
            let taint = row.taint();
            let (Some(seq), Some(id)) = (row.seq, row.id) else { continue };
            let data = row.data.map_or("null", RawValue::get);
            let hash = hash(&[row.title.as_deref().unwrap_or("?"), row.message.as_deref().unwrap_or("?"), data]);
            self.floor.book.note(Fact::Page { device: self.name.clone(), seq, id, hash, taint });
        }
    }
}

#[derive(Deserialize)]
struct Frame<'a> {
    #[serde(rename = "type")]
    kind: String,
    seq: Option<i64>,
    prev: Option<i64>,
    title: Option<String>,
    message: Option<String>,
    /// Of a notification; the pong's is a number.
    #[serde(default, deserialize_with = "text_or_none")]
    id: Option<String>,
    /// Of what became of a command; of an error.
    status: Option<String>,
    detail: Option<String>,
    code: Option<String>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

impl Frame<'_> {
    /// The account that the posted data names.
    fn taint(&self) -> String {
        // The hub's own word names nobody; whom it is for is looked at as for every other.
        if self.kind == "upstream_gap" {
            return "*".to_owned();
        }
        let value: Value = serde_json::from_str(self.data.map_or("null", RawValue::get)).unwrap_or_default();
        value["taint"].as_str().unwrap_or("none").to_owned()
    }
}

#[derive(Deserialize)]
struct PageBody<'a> {
    #[serde(borrow)]
    notifications: Vec<Frame<'a>>,
}

fn text_or_none<'de, D: serde::Deserializer<'de>>(input: D) -> Result<Option<String>, D::Error> {
    Ok(Value::deserialize(input)?.as_str().map(str::to_owned))
}

fn told(hello: &Value) -> Option<Told> {
    let resume = &hello["resume"];
    Some(Told {
        status: resume["status"].as_str()?.to_owned(),
        from: resume["from"].as_i64()?,
        lost: resume["lost_from"].as_i64().zip(resume["lost_to"].as_i64()),
        log_id: hello["log_id"].as_str()?.to_owned(),
        head: hello["head"].as_i64()?,
        earliest: hello["earliest"].as_i64()?,
    })
}
