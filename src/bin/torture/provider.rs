//! The provider: an outside service on loopback that signs users in, takes their sockets, says numbered messages, and writes
//! down every frame. It may flap.

pub mod file;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use rand::rngs::StdRng;
use rand::seq::{IteratorRandom, SliceRandom};
use rand::{Rng, SeedableRng};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::book::Book;
use crate::cast;
use crate::fact::{Audience, Fact, hash, wall_ms};
use crate::{Trouble, secrets};

pub const NAME: &str = "games";
/// Of every notification that a message becomes.
pub const TITLE: &str = "Games";
/// Where a hub finds its credential.
pub const CREDENTIAL_VARIABLE: &str = "GAMES_CREDENTIAL";
/// Messages that wait for one socket; what finds no room was not said.
const ORDERS: usize = 64;

/// What a socket's task is told.
enum Order {
    Say(usize),
    Close(u16),
    Cut,
}

#[derive(Default)]
struct Script {
    /// Session id → user.
    users: BTreeMap<String, String>,
    spent: BTreeSet<String>,
    open: BTreeMap<usize, (String, mpsc::Sender<Order>)>,
    links: usize,
    is_flapping: bool,
    is_silent: bool,
    /// Sockets that it ended, sign-ins that it refused for a while.
    ended: u64,
}

struct Desk {
    book: Arc<Book>,
    script: Mutex<Script>,
}

/// Dropping it ends the taking of new connections; its sockets end with the hubs.
pub struct Provider {
    pub address: SocketAddr,
    desk: Arc<Desk>,
    _at_work: JoinSet<()>,
}

impl Provider {
    pub async fn start(book: Arc<Book>, seed: u64) -> Result<Self, Trouble> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let desk = Arc::new(Desk { book, script: Mutex::default() });
        let doors = Router::new().route("/sign-in", post(sign_in)).route("/socket", get(socket)).with_state(Arc::clone(&desk));
        let mut at_work = JoinSet::new();
        at_work.spawn(async move { drop(axum::serve(listener, doors).await) });
        at_work.spawn(speak(Arc::clone(&desk), StdRng::seed_from_u64(seed.wrapping_mul(31))));
        Ok(Self { address, desk, _at_work: at_work })
    }

    /// Says nothing until told to [speak](Self::speak_again); what it has said is still to arrive.
    pub fn fall_silent(&self) {
        self.desk.script().is_silent = true;
    }

    pub fn speak_again(&self) {
        self.desk.script().is_silent = false;
    }

    /// For a while: sockets end as soon as they come, session ids are spent, sign-ins fail. How many it ended.
    pub async fn flap(&self, length: Duration, random: &mut StdRng) -> u64 {
        let before = self.desk.script().ended;
        self.desk.script().is_flapping = true;
        let end = Instant::now() + length;
        while Instant::now() < end {
            self.end_some(random);
            sleep(Duration::from_millis(300)).await;
        }
        let mut script = self.desk.script();
        script.is_flapping = false;
        script.ended - before
    }

    fn end_some(&self, random: &mut StdRng) {
        let mut script = self.desk.script();
        let mut links: Vec<usize> = script.open.keys().copied().collect();
        links.shuffle(random);
        links.truncate(links.len().div_ceil(6));
        for link in links {
            let Some((user, orders)) = script.open.get(&link).cloned() else { continue };
            if random.random_bool(0.3) {
                let spent: Vec<String> = script.users.iter().filter(|(_, of)| **of == user).map(|(session, _)| session.clone()).collect();
                script.spent.extend(spent);
            }
            let order = if random.random_bool(0.5) { Order::Cut } else { Order::Close(1011) };
            script.ended += u64::from(orders.try_send(order).is_ok());
        }
    }

    /// The session ids that it gave out: secrets of the users.
    pub fn sessions(&self) -> Vec<String> {
        self.desk.script().users.keys().cloned().collect()
    }
}

impl Desk {
    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says the next message of a socket. It is a wish that may come true once: nobody answers for it.
    fn next_message(&self, link: usize, n: u64, user: &str, length: usize) -> String {
        let (title, blob) = (format!("up/{link}-{n}"), "x".repeat(length));
        let text = format!("{{\"taint\":\"{}\", \"link\":{link},\"n\":{n},\"blob\":\"{blob}\"}}", cast::account_of(user));
        let (audience, hash) = (Audience::Users(vec![user.to_owned()]), hash(&[TITLE, "", &text]));
        self.book.note(Fact::Wish { title: title.clone(), audience, hash, replay: true });
        self.book.note(Fact::PostInvoke { op: self.book.number(), title, hub: usize::MAX });
        self.book.note(Fact::UpSaid { link, n });
        text
    }
}

/// Some sockets, every now and then.
async fn speak(desk: Arc<Desk>, mut random: StdRng) {
    loop {
        sleep(Duration::from_millis(random.random_range(30..170))).await;
        let script = desk.script();
        if script.is_silent {
            continue;
        }
        let some = random.random_range(1..5);
        for (_, orders) in script.open.values().choose_multiple(&mut random, some) {
            let length = if random.random_bool(0.03) { random.random_range(1_000..6_000) } else { random.random_range(0..100) };
            let _ = orders.try_send(Order::Say(length));
        }
    }
}

/// As a template writes it: everything is a text.
#[derive(Deserialize)]
struct SignIn {
    user: String,
    process: String,
    at: String,
}

async fn sign_in(State(desk): State<Arc<Desk>>, headers: HeaderMap, Json(asked): Json<SignIn>) -> Response {
    let (process, stamp) = (number(&asked.process), stamp(&asked.at));
    desk.book.note(Fact::UpSignIn { user: asked.user.clone(), process, at: wall_ms(), stamp });
    if headers.get("x-credential").and_then(|value| value.to_str().ok()) != Some(secrets::PROVIDER_CREDENTIAL) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let mut script = desk.script();
    if script.is_flapping && rand::random_bool(0.3) {
        script.ended += 1;
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    let session = format!("canary-session-{:032x}", rand::random::<u128>());
    script.users.insert(session.clone(), asked.user);
    Json(json!({ "success": true, "session": session })).into_response()
}

#[derive(Deserialize)]
struct Asked {
    session: String,
    process: String,
    at: String,
}

async fn socket(State(desk): State<Arc<Desk>>, Query(asked): Query<Asked>, upgrade: WebSocketUpgrade) -> Response {
    let (link, user, is_spent) = {
        let mut script = desk.script();
        script.links += 1;
        let user = script.users.get(&asked.session).cloned();
        (script.links, user, script.spent.contains(&asked.session))
    };
    let (process, stamp) = (number(&asked.process), stamp(&asked.at));
    desk.book.note(Fact::UpAsk { link, user: user.clone().unwrap_or_default(), process, at: wall_ms(), stamp });
    match user.filter(|_| !is_spent) {
        Some(user) => upgrade.on_upgrade(move |socket| talk(desk, link, user, socket)),
        None => StatusCode::UNAUTHORIZED.into_response(),
    }
}

async fn talk(desk: Arc<Desk>, link: usize, user: String, mut socket: WebSocket) {
    let (orders_in, mut orders) = mpsc::channel(ORDERS);
    desk.book.note(Fact::UpOpen { link });
    let is_brief = {
        let mut script = desk.script();
        script.open.insert(link, (user.clone(), orders_in.clone()));
        let is_brief = script.is_flapping && rand::random_bool(0.5);
        script.ended += u64::from(is_brief);
        is_brief
    };
    if is_brief {
        let _ = orders_in.try_send(Order::Close(1001));
    }
    let mut said = 0;
    loop {
        let answer = tokio::select! {
            order = orders.recv() => match order {
                Some(Order::Say(length)) => {
                    said += 1;
                    Message::text(desk.next_message(link, said, &user, length))
                }
                Some(Order::Close(code)) => {
                    let _ = socket.send(Message::Close(Some(CloseFrame { code, reason: "".into() }))).await;
                    break;
                }
                Some(Order::Cut) | None => break,
            },
            heard = socket.recv() => match heard {
                Some(Ok(Message::Text(text))) => {
                    let told: Value = serde_json::from_str(&text).unwrap_or_default();
                    let command = told["command"].as_str().map(str::to_owned);
                    let is_ping = command.is_none();
                    let stamp = stamp(told["at"].as_str().unwrap_or_default());
                    desk.book.note(Fact::UpFrame { link, at: wall_ms(), stamp, command });
                    if !is_ping {
                        continue;
                    }
                    Message::text("{\"result\":\"pong\"}")
                }
                Some(Ok(Message::Close(_)) | Err(_)) | None => break,
                Some(Ok(_)) => continue,
            },
        };
        if socket.send(answer).await.is_err() {
            break;
        }
    }
    desk.script().open.remove(&link);
    desk.book.note(Fact::UpClose { link, at: wall_ms() });
}

/// One that no process has, where it is none.
fn number(text: &str) -> usize {
    text.parse().unwrap_or(usize::MAX)
}

/// In 1970, where it is none.
fn stamp(text: &str) -> i64 {
    text.parse().unwrap_or(0)
}
