//! Runs the provider: an outside service on loopback that records every frame.
//!
//! It signs users in, accepts their sockets and sends numbered messages. It may flap.

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
use recado_torture_check::fact::{FactAudience, RunFact, hash};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::book::{Recorder, wall_ms};
use crate::cast;
use crate::{RunError, secrets};

pub const NAME: &str = "games";
/// Title of every notification that a message becomes.
pub const TITLE: &str = "Games";
/// Variable in which a hub finds its credential.
pub const CREDENTIAL_VARIABLE: &str = "GAMES_CREDENTIAL";
/// Messages that wait for one socket. A message without room counts as never sent.
const ORDERS: usize = 64;

/// An order to a socket's task.
enum SocketOrder {
    Say(usize),
    Close(u16),
    Cut,
}

#[derive(Default)]
struct ProviderScript {
    /// Session id → user.
    users: BTreeMap<String, String>,
    spent: BTreeSet<String>,
    open: BTreeMap<usize, (String, mpsc::Sender<SocketOrder>)>,
    links: usize,
    is_flapping: bool,
    is_silent: bool,
    /// Sockets that it ended and sign-ins that it refused for a while.
    ended: u64,
}

struct ProviderShared {
    book: Arc<Recorder>,
    script: Mutex<ProviderScript>,
}

/// Dropping it stops accepting new connections; its sockets end with the hubs.
pub struct TortureProvider {
    pub address: SocketAddr,
    desk: Arc<ProviderShared>,
    _at_work: JoinSet<()>,
}

impl TortureProvider {
    pub async fn start(book: Arc<Recorder>, seed: u64) -> Result<Self, RunError> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let desk = Arc::new(ProviderShared { book, script: Mutex::default() });
        let doors = Router::new().route("/sign-in", post(sign_in)).route("/socket", get(socket)).with_state(Arc::clone(&desk));
        let mut at_work = JoinSet::new();
        at_work.spawn(async move { drop(axum::serve(listener, doors).await) });
        at_work.spawn(speak(Arc::clone(&desk), StdRng::seed_from_u64(seed.wrapping_mul(31))));
        Ok(Self { address, desk, _at_work: at_work })
    }

    /// Sends nothing until told to [speak](Self::speak_again); messages already sent must still arrive.
    pub fn fall_silent(&self) {
        self.desk.script().is_silent = true;
    }

    pub fn speak_again(&self) {
        self.desk.script().is_silent = false;
    }

    /// For a while sockets end as soon as they open, session ids are spent, and sign-ins fail. Returns how many it
    /// ended.
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
            let order = if random.random_bool(0.5) { SocketOrder::Cut } else { SocketOrder::Close(1011) };
            script.ended += u64::from(orders.try_send(order).is_ok());
        }
    }

    /// The session ids that it issued: secrets of the users.
    pub fn sessions(&self) -> Vec<String> {
        self.desk.script().users.keys().cloned().collect()
    }
}

impl ProviderShared {
    fn script(&self) -> MutexGuard<'_, ProviderScript> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the next message of a socket. It may appear in the log at most once, and no answer confirms it.
    fn next_message(&self, link: usize, n: u64, user: &str, length: usize) -> String {
        let (title, blob) = (format!("up/{link}-{n}"), "x".repeat(length));
        let text = format!("{{\"taint\":\"{}\", \"link\":{link},\"n\":{n},\"blob\":\"{blob}\"}}", cast::account_of(user));
        let (audience, hash) = (FactAudience::Users(vec![user.to_owned()]), hash(&[TITLE, "", &text]));
        self.book.note(RunFact::Wish { title: title.clone(), audience, hash, replay: true });
        self.book.note(RunFact::PostInvoke { op: self.book.number(), title, hub: usize::MAX });
        self.book.note(RunFact::UpSaid { link, n });
        text
    }
}

/// Sends messages on some sockets, every now and then.
async fn speak(shared: Arc<ProviderShared>, mut random: StdRng) {
    loop {
        sleep(Duration::from_millis(random.random_range(30..170))).await;
        let script = shared.script();
        if script.is_silent {
            continue;
        }
        let some = random.random_range(1..5);
        for (_, orders) in script.open.values().choose_multiple(&mut random, some) {
            let length = if random.random_bool(0.03) { random.random_range(1_000..6_000) } else { random.random_range(0..100) };
            let _ = orders.try_send(SocketOrder::Say(length));
        }
    }
}

/// As a template writes it: every value is a text.
#[derive(Deserialize)]
struct SignInBody {
    user: String,
    process: String,
    at: String,
}

async fn sign_in(State(shared): State<Arc<ProviderShared>>, headers: HeaderMap, Json(asked): Json<SignInBody>) -> Response {
    let (process, stamp) = (number(&asked.process), stamp(&asked.at));
    shared.book.note(RunFact::UpSignIn { user: asked.user.clone(), process, at: wall_ms(), stamp });
    if headers.get("x-credential").and_then(|value| value.to_str().ok()) != Some(secrets::PROVIDER_CREDENTIAL) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let mut script = shared.script();
    if script.is_flapping && rand::random_bool(0.3) {
        script.ended += 1;
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    let session = format!("canary-session-{:032x}", rand::random::<u128>());
    script.users.insert(session.clone(), asked.user);
    Json(json!({ "success": true, "session": session })).into_response()
}

#[derive(Deserialize)]
struct SocketQuery {
    session: String,
    process: String,
    at: String,
}

async fn socket(State(shared): State<Arc<ProviderShared>>, Query(asked): Query<SocketQuery>, upgrade: WebSocketUpgrade) -> Response {
    let (link, user, is_spent) = {
        let mut script = shared.script();
        script.links += 1;
        let user = script.users.get(&asked.session).cloned();
        (script.links, user, script.spent.contains(&asked.session))
    };
    let (process, stamp) = (number(&asked.process), stamp(&asked.at));
    shared.book.note(RunFact::UpAsk { link, user: user.clone().unwrap_or_default(), process, at: wall_ms(), stamp });
    match user.filter(|_| !is_spent) {
        Some(user) => upgrade.on_upgrade(move |socket| talk(shared, link, user, socket)),
        None => StatusCode::UNAUTHORIZED.into_response(),
    }
}

async fn talk(shared: Arc<ProviderShared>, link: usize, user: String, mut socket: WebSocket) {
    let (orders_in, mut orders) = mpsc::channel(ORDERS);
    shared.book.note(RunFact::UpOpen { link });
    let is_brief = {
        let mut script = shared.script();
        script.open.insert(link, (user.clone(), orders_in.clone()));
        let is_brief = script.is_flapping && rand::random_bool(0.5);
        script.ended += u64::from(is_brief);
        is_brief
    };
    if is_brief {
        let _ = orders_in.try_send(SocketOrder::Close(1001));
    }
    let mut said = 0;
    loop {
        let answer = tokio::select! {
            order = orders.recv() => match order {
                Some(SocketOrder::Say(length)) => {
                    said += 1;
                    Message::text(shared.next_message(link, said, &user, length))
                }
                Some(SocketOrder::Close(code)) => {
                    let _ = socket.send(Message::Close(Some(CloseFrame { code, reason: "".into() }))).await;
                    break;
                }
                Some(SocketOrder::Cut) | None => break,
            },
            heard = socket.recv() => match heard {
                Some(Ok(Message::Text(text))) => {
                    let told: Value = serde_json::from_str(&text).unwrap_or_default();
                    let command = told["command"].as_str().map(str::to_owned);
                    let is_ping = command.is_none();
                    let stamp = stamp(told["at"].as_str().unwrap_or_default());
                    shared.book.note(RunFact::UpFrame { link, at: wall_ms(), stamp, command });
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
    shared.script().open.remove(&link);
    shared.book.note(RunFact::UpClose { link, at: wall_ms() });
}

/// The number, or one that no process has where the text is no number.
fn number(text: &str) -> usize {
    text.parse().unwrap_or(usize::MAX)
}

/// The time, or 1970 where the text is no time.
fn stamp(text: &str) -> i64 {
    text.parse().unwrap_or(0)
}
