//! Runs the provider: an outside service on loopback that records every frame.
//!
//! It signs users in, accepts their sockets and sends numbered messages. It may flap.

pub mod file;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::{IteratorRandom, SliceRandom};
use rand::{Rng, SeedableRng};
use recado_testkit::http::header;
use recado_testkit::provider::{
    Behaviour, ProviderRules, ProviderServer, SignInAnswer, SignInRequest, SocketEnd, SocketOrder, SocketRequest, is_ping,
};
use recado_torture_check::fact::{FactAudience, RunFact, hash};
use serde::Deserialize;
use serde_json::Value;
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

#[derive(Default)]
struct FlapScript {
    is_flapping: bool,
    is_silent: bool,
    /// Sockets that it ended and sign-ins that it refused for a while.
    ended: u64,
    /// The number of the last socket that was asked for.
    links: usize,
}

/// Fails at random while it flaps, and notes every event as a fact.
struct FlappingRules {
    book: Arc<Recorder>,
    script: Mutex<FlapScript>,
}

/// Dropping it ends it and all its sockets.
pub struct TortureProvider {
    pub address: SocketAddr,
    server: Arc<ProviderServer<FlappingRules>>,
    _speaking: JoinSet<()>,
}

impl TortureProvider {
    pub async fn start(book: Arc<Recorder>, seed: u64) -> Result<Self, RunError> {
        let server = Arc::new(ProviderServer::start(Arc::new(FlappingRules { book, script: Mutex::default() })).await?);
        let mut speaking = JoinSet::new();
        speaking.spawn(speak(Arc::clone(&server), StdRng::seed_from_u64(seed.wrapping_mul(31))));
        Ok(Self { address: server.address, server, _speaking: speaking })
    }

    fn script(&self) -> MutexGuard<'_, FlapScript> {
        self.server.rules().script()
    }

    /// Sends nothing until told to [speak](Self::speak_again); messages already sent must still arrive.
    pub fn fall_silent(&self) {
        self.script().is_silent = true;
    }

    pub fn speak_again(&self) {
        self.script().is_silent = false;
    }

    /// For a while sockets end as soon as they open, session ids expire, and sign-ins fail. Returns how many it ended.
    pub async fn flap(&self, length: Duration, random: &mut StdRng) -> u64 {
        let before = self.script().ended;
        self.script().is_flapping = true;
        let end = Instant::now() + length;
        while Instant::now() < end {
            self.end_some(random);
            sleep(Duration::from_millis(300)).await;
        }
        let mut script = self.script();
        script.is_flapping = false;
        script.ended - before
    }

    fn end_some(&self, random: &mut StdRng) {
        let mut open = self.server.open();
        open.shuffle(random);
        open.truncate(open.len().div_ceil(6));
        for (_, user, orders) in open {
            if random.random_bool(0.3) {
                self.server.expire(&user);
            }
            let order = if random.random_bool(0.5) { SocketOrder::Cut } else { SocketOrder::Close(1011) };
            self.script().ended += u64::from(orders.try_send(order).is_ok());
        }
    }

    /// The session ids that it issued: secrets of the users.
    pub fn sessions(&self) -> Vec<String> {
        self.server.sessions()
    }
}

/// Sends messages on some sockets, every now and then.
async fn speak(server: Arc<ProviderServer<FlappingRules>>, mut random: StdRng) {
    loop {
        sleep(Duration::from_millis(random.random_range(30..170))).await;
        let rules = server.rules();
        if rules.script().is_silent {
            continue;
        }
        let some = random.random_range(1..5);
        for (link, user, orders) in server.open().into_iter().choose_multiple(&mut random, some) {
            let length = if random.random_bool(0.03) { random.random_range(1_000..6_000) } else { random.random_range(0..100) };
            let rules = Arc::clone(rules);
            let text = move |n| rules.next_message(link, n, &user, length);
            let _ = orders.try_send(SocketOrder::SayNext(Box::new(text)));
        }
    }
}

impl FlappingRules {
    fn script(&self) -> MutexGuard<'_, FlapScript> {
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

/// What the provider file adds to a sign-in: every value is a text.
#[derive(Default, Deserialize)]
struct SignInBody {
    process: String,
    at: String,
}

impl ProviderRules for FlappingRules {
    // A message that finds no room counts as never sent.
    const ORDERS: usize = 64;

    fn sign_in(&self, asked: &SignInRequest) -> SignInAnswer {
        let body: SignInBody = serde_json::from_str(&asked.body).unwrap_or_default();
        let (process, stamp) = (number(&body.process), stamp(&body.at));
        self.book.note(RunFact::UpSignIn { user: asked.user.clone(), process, at: wall_ms(), stamp });
        if header(&asked.head, "x-credential") != Some(secrets::PROVIDER_CREDENTIAL) {
            return SignInAnswer::Fail(401);
        }
        let mut script = self.script();
        if script.is_flapping && rand::random_bool(0.3) {
            script.ended += 1;
            return SignInAnswer::Fail(503);
        }
        SignInAnswer::Give(format!("canary-session-{:032x}", rand::random::<u128>()))
    }

    fn asked(&self, asked: SocketRequest) -> (usize, Behaviour) {
        let (link, is_brief) = {
            let mut script = self.script();
            script.links += 1;
            (script.links, script.is_flapping && rand::random_bool(0.5))
        };
        let (process, stamp) = (number(&asked.query("process")), stamp(&asked.query("at")));
        self.book.note(RunFact::UpAsk { link, user: asked.user, process, at: wall_ms(), stamp });
        let behaviour = Behaviour::default();
        (link, if is_brief { behaviour.flapping(Duration::ZERO, 1001) } else { behaviour })
    }

    fn opened(&self, link: usize) {
        self.book.note(RunFact::UpOpen { link });
    }

    fn heard(&self, link: usize, text: &str) {
        let told: Value = serde_json::from_str(text).unwrap_or_default();
        let command = told["command"].as_str().filter(|_| !is_ping(text)).map(str::to_owned);
        let stamp = stamp(told["at"].as_str().unwrap_or_default());
        self.book.note(RunFact::UpFrame { link, at: wall_ms(), stamp, command });
    }

    fn closed(&self, link: usize, end: SocketEnd) {
        if matches!(end, SocketEnd::Refused(_)) {
            return;
        }
        self.book.note(RunFact::UpClose { link, at: wall_ms() });
    }
}

/// The number, or one that no process has where the text is no number.
fn number(text: &str) -> usize {
    text.parse().unwrap_or(usize::MAX)
}

/// The time, or 1970 where the text is no time.
fn stamp(text: &str) -> i64 {
    text.parse().unwrap_or(0)
}
