//! Runs devices that connect, read, acknowledge, leave and come back.
//!
//! They come back to the same hub or another one, by WebSocket, EventSource or NDJSON.

mod commands;
mod lines;
mod sse;
mod websocket;

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use recado_torture_check::fact::{FactSince, RunFact, StreamAsked, StreamTold, hash};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::time::{Instant, sleep};

use crate::RunError;
use crate::book::Recorder;
use crate::cast;
use crate::secrets;
use commands::DeviceCommands;

/// A connection that brings nothing for this long, not even a heartbeat, is given up.
const SILENCE: Duration = Duration::from_secs(10);
const CONNECT_LIMIT: Duration = Duration::from_secs(6);
/// Most numbers of the log that are replayed to a device that never acknowledges or has lost its state. A run of a
/// minute writes 25 to 40 thousand. A full replay of a longer log would take more than one stay, and the work of a run
/// would grow with the square of its length.
const AGAIN: i64 = 60_000;
/// Devices of a tenant that have an id of their own.
const OWN: usize = 10;

/// State that all devices share.
pub struct Floor {
    pub book: Arc<Recorder>,
    /// One client for all devices: creating one reads all certificates of the machine.
    pub http: reqwest::Client,
    pub addresses: Vec<String>,
    /// Set when devices must no longer leave.
    pub staying: AtomicBool,
    /// Tickets that were issued. None may be found in a log.
    pub tickets: Mutex<Vec<String>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acks {
    /// The library's pongs.
    Pong,
    /// Ack frames, now and then.
    Frames,
    /// The REST call, now and then, sometimes with an old number.
    Rest,
    Never,
}

/// The protocol of a device's stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    WebSocket,
    EventSource,
    /// `follow=1`: lines, for programs. The device keeps its position itself.
    Lines,
}

/// The parameters of a device.
pub struct Part {
    tenant: usize,
    user: String,
    /// The device's name in the history, after its user.
    label: String,
    /// The `client_id` that the device sends.
    client: Option<String>,
    way: Way,
    /// How many of the clients that share its `client_id` have not been connected yet. No client leaves while it is
    /// above zero: a client that first connects while another is away takes that one's position, which is correct
    /// (decision 0038).
    missing: Option<Arc<AtomicUsize>>,
    gives_commands: bool,
}

impl Part {
    /// The devices of a tenant.
    pub fn of_tenant(tenant: usize) -> Vec<Self> {
        let mut parts: Vec<Self> = (0..OWN).map(|number| Self::own(tenant, number)).collect();
        let sharers = if tenant.is_multiple_of(2) { 3 } else { 2 };
        let missing = Arc::new(AtomicUsize::new(sharers));
        parts.extend((0..sharers).map(|number| Self {
            tenant,
            // The clients send no id, or the same one.
            user: cast::user(tenant, if tenant.is_multiple_of(2) { 2 } else { 3 }),
            label: format!("s{number}"),
            client: (!tenant.is_multiple_of(2)).then(|| "tab".to_owned()),
            way: if number == 1 && !tenant.is_multiple_of(3) { Way::EventSource } else { Way::WebSocket },
            missing: Some(Arc::clone(&missing)),
            gives_commands: number == 0,
        }));
        if tenant < cast::ERASED {
            parts.extend([Way::WebSocket, Way::EventSource].into_iter().enumerate().map(|(number, way)| {
                let label = format!("e{number}");
                // Erasing a user deletes the user's commands, and rule C16 would report them as missing.
                let (user, client) = (cast::erased_user(tenant), Some(label.clone()));
                Self { tenant, user, label, client, way, missing: None, gives_commands: false }
            }));
        }
        parts
    }

    /// A device with an id of its own.
    fn own(tenant: usize, number: usize) -> Self {
        // Each user has a WebSocket and another protocol.
        let way = match number {
            9 => Way::Lines,
            _ if (number / 4 + number) % 2 == 1 => Way::EventSource,
            _ => Way::WebSocket,
        };
        let label = format!("d{number}");
        let (user, client) = (cast::user(tenant, number % 4), Some(label.clone()));
        Self { tenant, user, label, client, way, missing: None, gives_commands: true }
    }
}

pub struct TortureDevice {
    floor: Arc<Floor>,
    name: String,
    user: String,
    client: Option<String>,
    missing: Option<Arc<AtomicUsize>>,
    gives_commands: bool,
    /// Whether the device has been connected before.
    was_here: bool,
    token: String,
    acks: Acks,
    is_slow: bool,
    way: Way,
    random: StdRng,
    http: reqwest::Client,
    /// The last received number and its id, as a browser's storage keeps them.
    place: Option<(i64, Option<String>)>,
    log_id: Option<String>,
    /// The last number received on this connection: no higher one may be acknowledged on it.
    given: i64,
    /// Whether the device never acknowledges and its stored position was more than `AGAIN` behind when it connected.
    is_behind: bool,
    /// Commands to the provider, by WebSocket only.
    pub commands: DeviceCommands,
    /// Read by tasks that wait until the device has reached the head.
    pub reached: Arc<AtomicI64>,
}

/// Why a connection ended.
enum LeaveCause {
    /// The device left.
    Wanted,
    Ended(String),
}

impl TortureDevice {
    pub fn new(floor: Arc<Floor>, part: Part, number: usize, seed: u64) -> Result<Self, RunError> {
        let Part { tenant, user, label, client, way, missing, gives_commands } = part;
        let mut random = StdRng::seed_from_u64(seed.wrapping_mul(1_000_003).wrapping_add((tenant * 100 + number) as u64));
        let account = cast::account(tenant);
        let acks = match random.random_range(0..10) {
            // A POST acknowledges for the device and not for a connection. A client that never acknowledges would make
            // all clients of its device repeat everything.
            draw if missing.is_some() && draw % 2 == 0 => Acks::Pong,
            _ if missing.is_some() => Acks::Frames,
            0 => Acks::Never,
            1..4 => Acks::Pong,
            4..7 => Acks::Frames,
            _ => Acks::Rest,
        };
        let is_slow = missing.is_none() && random.random_bool(0.05);
        let name = format!("{user}/{label}");
        floor.book.note(RunFact::Device {
            device: name.clone(),
            user: user.clone(),
            account: account.clone(),
            slow: is_slow,
            shares: missing.is_some().then(|| format!("{user}/{}", client.as_deref().unwrap_or("default"))),
            pongs: way == Way::WebSocket && acks == Acks::Pong,
            sdk: false,
        });
        let token = secrets::token(&user, Some(&account), None)?;
        let http = floor.http.clone();
        let (reached, commands) = (Arc::default(), DeviceCommands::of(&user, &label));
        let (place, log_id, given, is_behind, was_here) = (None, None, 0, false, false);
        Ok(Self {
            floor,
            name,
            user,
            client,
            missing,
            gives_commands,
            was_here,
            token,
            acks,
            is_slow,
            way,
            random,
            http,
            place,
            log_id,
            given,
            is_behind,
            commands,
            reached,
        })
    }

    /// The part of a query that names the device.
    fn client_query(&self) -> String {
        self.client.as_ref().map_or_else(String::new, |client| format!("client_id={client}&"))
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

    /// Runs for ever: connected for some seconds, then away briefly.
    pub async fn run(mut self) {
        loop {
            self.floor.book.note(RunFact::ConnTry { device: self.name.clone() });
            let mut pause = 50;
            loop {
                match self.connection().await {
                    LeaveCause::Wanted => break,
                    LeaveCause::Ended(_) => {
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

    fn asked(&mut self) -> StreamAsked {
        if self.way == Way::Lines {
            let (seq, last_id) = self.place.clone().unwrap_or_default();
            return StreamAsked { since: FactSince::Seq(seq), log_id: self.log_id.clone(), last_id };
        }
        let Some((seq, id)) = self.place.clone() else { return StreamAsked { since: FactSince::Ack, log_id: None, last_id: None } };
        // An EventSource knows only its last event.
        let draw = self.random.random_range(0..100);
        match draw {
            _ if self.way == Way::EventSource && draw < if self.missing.is_some() { 50 } else { 85 } => {
                StreamAsked { since: FactSince::Seq(seq), log_id: None, last_id: None }
            }
            // The device has lost its state. A shared device asks for the stored position instead: a start at the
            // beginning would make all its clients repeat everything.
            0..5 if self.missing.is_some() => StreamAsked { since: FactSince::Ack, log_id: None, last_id: None },
            0..5 if seq > AGAIN => StreamAsked { since: FactSince::Seq(seq - AGAIN), log_id: None, last_id: None },
            0..5 => StreamAsked { since: FactSince::Earliest, log_id: None, last_id: None },
            5..45 => StreamAsked { since: FactSince::Seq(seq), log_id: self.log_id.clone(), last_id: id },
            _ => StreamAsked { since: FactSince::Ack, log_id: None, last_id: None },
        }
    }

    async fn connection(&mut self) -> LeaveCause {
        let hub = self.random.random_range(0..self.floor.addresses.len());
        if self.random.random_bool(0.02) {
            self.liar(hub).await;
        }
        let asked = self.asked();
        let since = match asked.since {
            FactSince::Ack => None,
            FactSince::Earliest => Some(0),
            FactSince::Seq(seq) => Some(seq),
        };
        self.floor.book.note(RunFact::Attempt { device: self.name.clone(), hub, since });
        let leave = Instant::now() + Duration::from_millis(self.random.random_range(1_000..8_000));
        let left = match self.way {
            Way::WebSocket => self.websocket(hub, asked, leave).await,
            Way::EventSource => self.event_source(hub, asked, leave).await,
            Way::Lines => self.lines(hub, asked, leave).await,
        };
        // Only after a deliberate end: a hub that cuts the connection repeatedly keeps the device from reaching the
        // head, and this acknowledgement would hide it.
        if std::mem::take(&mut self.is_behind)
            && matches!(left, LeaveCause::Wanted)
            && let Some((seq, _)) = self.place
        {
            self.ack_number_by_rest(hub, seq).await;
        }
        left
    }

    /// Whether the device itself moves its stored position.
    fn acknowledges(&self) -> bool {
        match self.way {
            Way::WebSocket => self.acks != Acks::Never,
            Way::EventSource => self.acks == Acks::Rest,
            Way::Lines => false,
        }
    }

    fn wants_to_leave(&self, leave: Instant) -> bool {
        let is_first = self.missing.as_ref().is_some_and(|missing| missing.load(Ordering::SeqCst) > 0);
        Instant::now() >= leave && !is_first && !self.floor.staying.load(Ordering::SeqCst)
    }

    /// Slows a slow device down at each notification, until all faults are healed. How far it falls behind depends on
    /// the run's length and speed, and it must reach the head at the end.
    async fn linger(&self) {
        if self.is_slow && !self.floor.staying.load(Ordering::SeqCst) {
            sleep(Duration::from_millis(15)).await;
        }
    }

    /// Records that the hub has accepted the connection.
    fn opened(&mut self, hub: usize, asked: StreamAsked, hello: &Value) -> Option<u64> {
        let told = told(hello)?;
        let conn = self.floor.book.number();
        self.given = told.from;
        self.log_id = Some(told.log_id.clone());
        if !std::mem::replace(&mut self.was_here, true)
            && let Some(missing) = &self.missing
        {
            missing.fetch_sub(1, Ordering::SeqCst);
        }
        if told.status == "reset" || self.place.is_none() {
            self.place = Some((told.from, None));
        }
        let behind = self.place.as_ref().map_or(0, |(place, _)| place - told.from);
        self.is_behind = asked.since == FactSince::Ack && behind > AGAIN && !self.acknowledges() && self.missing.is_none();
        self.floor.book.note(RunFact::ConnOpen { conn, device: self.name.clone(), hub, asked, told });
        Some(conn)
    }

    fn closed(&self, conn: u64, left: &LeaveCause) {
        let (why, wanted) = match left {
            LeaveCause::Wanted => ("left".to_owned(), true),
            LeaveCause::Ended(why) => (why.clone(), false),
        };
        self.floor.book.note(RunFact::ConnClose { conn, device: self.name.clone(), why, wanted });
    }

    /// Reads one frame of the hub. Returns `true` for a notification.
    fn take(&mut self, conn: u64, text: &str) -> bool {
        let book = Arc::clone(&self.floor.book);
        let Ok(frame) = serde_json::from_str::<ReceivedFrame<'_>>(text) else {
            book.note(RunFact::Broken { conn, what: format!("not a frame: {text}") });
            return false;
        };
        match (frame.kind.as_str(), frame.seq) {
            ("caught_up", Some(seq)) => self.pass(conn, seq, None),
            ("heartbeat", Some(seq)) => self.pass(conn, seq, frame.prev),
            // A command that may not be stored counts as unreported: sending it again gives the answer.
            ("command_result", _) => {
                if let (Some(id), Some(status)) = (&frame.id, &frame.status)
                    && frame.detail.as_deref() != Some("not_stored_for_sure")
                {
                    self.commands.told(&book, id, status);
                }
            }
            // An error in the provider's own words has no code.
            ("error", _) if frame.code.as_deref().is_none_or(|code| code == "rate_limited") => {}
            ("error", _) => book.note(RunFact::Broken { conn, what: format!("an error: {text}") }),
            (_, Some(seq)) => {
                let data = frame.data.map_or("null", RawValue::get);
                let hash = hash(&[frame.title.as_deref().unwrap_or("?"), frame.message.as_deref().unwrap_or("?"), data]);
                let taint = frame.taint();
                let id = frame.id.unwrap_or_default();
                let prev = frame.prev.unwrap_or(-1);
                if text.contains("\"user_ids\"") {
                    book.note(RunFact::Broken { conn, what: format!("{seq} reveals its other users") });
                }
                book.note(RunFact::Recv { conn, seq, prev, id: id.clone(), hash, taint });
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

    /// Records that everything up to `seq` has been received.
    fn pass(&mut self, conn: u64, seq: i64, prev: Option<i64>) {
        self.floor.book.note(RunFact::Passed { conn, seq, prev });
        self.given = seq;
        if self.place.as_ref().is_none_or(|(place, _)| *place < seq) {
            self.place = Some((seq, None));
        }
        self.reached.fetch_max(seq, Ordering::SeqCst);
    }

    fn url(&self, hub: usize, path: &str) -> String {
        format!("http://{}{path}", self.floor.addresses[hub])
    }

    /// Acknowledges over REST during the stream; sometimes a number from long ago, which must have no effect.
    async fn ack_by_rest(&mut self, hub: usize) {
        let Some((seq, _)) = self.place else { return };
        let seq = if self.random.random_bool(0.2) { seq / 2 } else { seq };
        self.ack_number_by_rest(hub, seq).await;
    }

    async fn ack_number_by_rest(&self, hub: usize, seq: i64) {
        let client = self.client.as_ref().map_or_else(String::new, |client| format!("\"client_id\":\"{client}\","));
        let body = format!("{{{client}\"seq\":{seq}}}");
        let request = self.http.post(self.url(hub, "/api/notifications/ack")).bearer_auth(&self.token).timeout(CONNECT_LIMIT);
        let request = request.header("content-type", "application/json").body(body);
        self.floor.book.note(RunFact::AckSent { device: self.name.clone(), seq });
        if let Ok(response) = request.send().await
            && response.status() == 200
            && let Ok(body) = response.json::<Value>().await
        {
            let seq = body["acked"].as_i64().unwrap_or(-1);
            self.floor.book.note(RunFact::AckConfirmed { device: self.name.clone(), seq });
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
            self.floor.book.note(RunFact::Page { device: self.name.clone(), seq, id, hash, taint });
        }
    }
}

#[derive(Deserialize)]
struct ReceivedFrame<'a> {
    #[serde(rename = "type")]
    kind: String,
    seq: Option<i64>,
    prev: Option<i64>,
    title: Option<String>,
    message: Option<String>,
    /// The id of a notification; a pong's is a number.
    #[serde(default, deserialize_with = "text_or_none")]
    id: Option<String>,
    /// Status of a command result or an error.
    status: Option<String>,
    detail: Option<String>,
    code: Option<String>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

impl ReceivedFrame<'_> {
    /// The account that the posted data names.
    fn taint(&self) -> String {
        // A gap notification of the hub names no account; its audience is checked as for every other.
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
    notifications: Vec<ReceivedFrame<'a>>,
}

fn text_or_none<'de, D: serde::Deserializer<'de>>(input: D) -> Result<Option<String>, D::Error> {
    Ok(Value::deserialize(input)?.as_str().map(str::to_owned))
}

fn told(hello: &Value) -> Option<StreamTold> {
    let resume = &hello["resume"];
    Some(StreamTold {
        status: resume["status"].as_str()?.to_owned(),
        from: resume["from"].as_i64()?,
        lost: resume["lost_from"].as_i64().zip(resume["lost_to"].as_i64()),
        log_id: hello["log_id"].as_str()?.to_owned(),
        head: hello["head"].as_i64()?,
        earliest: hello["earliest"].as_i64()?,
    })
}
