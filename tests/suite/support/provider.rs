//! Runs a scripted provider: a real HTTP and WebSocket server on loopback.
//!
//! It keeps a record by its own clock.
//!
//! ```text
//! let provider = FakeProvider::start().await;          // signs everyone in, takes every socket, answers pings
//! let file = provider.file("");                        // its provider file; TOML lines of [[provider]] may be added
//! TestHub::on(&db).with("RECADO_UPSTREAM_FILE", file.path())…
//! provider.sign_ins(SignInAnswer::Fail(500));                // from now on, for everyone
//! provider.sign_ins_of("42", SignInAnswer::Refuse(403));     // for one user; wins over everyone's
//! provider.sockets(Behaviour::default().flooding(1000));   // for later sockets; sockets_of(user, …) too
//! provider.say("42", r#"{"n":1}"#).await;              // over the user's open sockets; returns how many
//! provider.say_numbered("42", 1..=100).await;          // {"n":1} …
//! provider.close("42", 4000); provider.cut("42");      // the user's sockets: a close frame, a broken connection
//! provider.expire("42");                               // the user's session ids expire: sockets get 401 now
//! provider.until("two sockets", |record| (record.open() == 2).then_some(())).await;
//! provider.say_next_everywhere();                      // {"c":CONNECTION,"n":N} on each open socket, N counts up
//! provider.record()                                    // sign-ins, connections with the texts received on them
//! ```

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

pub use recado_testkit::provider::{Behaviour, Door, SignInAnswer, SocketEnd, is_ping};
use recado_testkit::provider::{ProviderRules, ProviderServer, SignInRequest, SocketOrder, SocketOrders, SocketRequest, dialled_port};
use tokio::time::Instant;

use super::{PATIENCE, eventually};

/// A sign-in request. Times count from the provider's start.
#[derive(Debug, Clone)]
pub struct SignInRecord {
    pub at: Duration,
    pub user: String,
    pub head: String,
    pub body: String,
    /// The session id that was given, where one was.
    pub session: Option<String>,
}

/// A requested socket.
#[derive(Debug, Clone)]
pub struct SocketRecord {
    pub at: Duration,
    pub user: String,
    pub session: String,
    pub head: String,
    /// When the handshake was accepted, if it was.
    pub opened: Option<Duration>,
    pub closed: Option<(Duration, SocketEnd)>,
    /// Texts from the hub, pings among them.
    pub heard: Vec<(Duration, String)>,
    /// How many texts were sent to the hub.
    pub said: usize,
    /// The last of the counting numbers on this socket: sent, or at least begun.
    pub numbered: u64,
}

impl SocketRecord {
    /// The hub's port, which identifies it where proxies are in between.
    pub fn port(&self) -> u16 {
        dialled_port(&self.head)
    }

    pub fn is_open(&self) -> bool {
        self.opened.is_some() && self.closed.is_none()
    }
}

impl SignInRecord {
    pub fn port(&self) -> u16 {
        dialled_port(&self.head)
    }
}

/// Everything that happened, in order.
#[derive(Debug, Clone, Default)]
pub struct ProviderRecord {
    pub sign_ins: Vec<SignInRecord>,
    pub connections: Vec<SocketRecord>,
}

impl ProviderRecord {
    pub fn open(&self) -> usize {
        self.connections.iter().filter(|connection| connection.is_open()).count()
    }

    pub fn open_of(&self, user: &str) -> usize {
        self.of(user).filter(|connection| connection.is_open()).count()
    }

    pub fn of<'a>(&'a self, user: &'a str) -> impl Iterator<Item = &'a SocketRecord> {
        self.connections.iter().filter(move |connection| connection.user == user)
    }

    pub fn sign_ins_of(&self, user: &str) -> usize {
        self.sign_ins.iter().filter(|asked| asked.user == user).count()
    }

    /// Texts that the user's sockets received, without pings, over all connections.
    pub fn commands_of(&self, user: &str) -> Vec<String> {
        let heard = self.of(user).flat_map(|connection| connection.heard.iter());
        let mut heard: Vec<_> = heard.filter(|(_, text)| !is_ping(text)).cloned().collect();
        heard.sort_by_key(|(at, _)| *at);
        heard.into_iter().map(|(_, text)| text).collect()
    }
}

#[derive(Default)]
struct ProviderScript {
    sign_in: Option<SignInAnswer>,
    sign_in_of: BTreeMap<String, SignInAnswer>,
    behaviour: Behaviour,
    behaviour_of: BTreeMap<String, Behaviour>,
}

/// Answers as the script says, and keeps the record.
struct ScriptedRules {
    begun: Instant,
    begun_at: SystemTime,
    script: Mutex<ProviderScript>,
    record: Arc<Mutex<ProviderRecord>>,
}

impl ScriptedRules {
    fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    fn change(&self, number: usize, change: impl FnOnce(&mut SocketRecord)) {
        change(&mut self.record.lock().unwrap().connections[number]);
    }
}

impl ProviderRules for ScriptedRules {
    fn sign_in(&self, asked: &SignInRequest) -> SignInAnswer {
        let script = self.script.lock().unwrap();
        script.sign_in_of.get(&asked.user).or(script.sign_in.as_ref()).cloned().unwrap_or(SignInAnswer::Accept)
    }

    fn signed_in(&self, SignInRequest { user, head, body }: SignInRequest, session: Option<&str>) {
        let signed_in = SignInRecord { at: self.now(), user, head, body, session: session.map(str::to_owned) };
        self.record.lock().unwrap().sign_ins.push(signed_in);
    }

    fn asked(&self, SocketRequest { user, session, head }: SocketRequest) -> (usize, Behaviour) {
        let behaviour = {
            let script = self.script.lock().unwrap();
            *script.behaviour_of.get(&user).unwrap_or(&script.behaviour)
        };
        let (at, heard) = (self.now(), Vec::new());
        let mut record = self.record.lock().unwrap();
        record.connections.push(SocketRecord { at, user, session, head, opened: None, closed: None, heard, said: 0, numbered: 0 });
        (record.connections.len() - 1, behaviour)
    }

    fn opened(&self, number: usize) {
        self.change(number, |connection| connection.opened = Some(self.now()));
    }

    fn heard(&self, number: usize, text: &str) {
        self.change(number, |connection| connection.heard.push((self.now(), text.to_owned())));
    }

    fn said(&self, number: usize) {
        self.change(number, |connection| connection.said += 1);
    }

    fn closed(&self, number: usize, end: SocketEnd) {
        self.change(number, |connection| connection.closed = Some((self.now(), end)));
    }
}

/// The provider. Dropping it ends it and all its sockets.
pub struct FakeProvider {
    /// `127.0.0.1:PORT`
    pub address: String,
    server: ProviderServer<ScriptedRules>,
}

impl FakeProvider {
    pub async fn start() -> Self {
        let (begun, begun_at) = (Instant::now(), SystemTime::now());
        let rules = ScriptedRules { begun, begun_at, script: Mutex::default(), record: Arc::default() };
        let server = ProviderServer::start(Arc::new(rules)).await.unwrap();
        Self { address: server.address.to_string(), server }
    }

    fn rules(&self) -> &ScriptedRules {
        self.server.rules()
    }

    /// A provider file for it: name `fake`, messages of type `game-data`, commands of type `bet`, quick back-off.
    /// `more` adds lines to `[[provider]]` itself, or new tables of it.
    pub fn toml(&self, more: &str) -> String {
        let address = &self.address;
        format!(
            r#"[[provider]]
name = "fake"
hosts = ["{address}"]
insecure = true

[provider.sign_in]
url = "http://{address}/sign-in"
body = '{{"action":"authenticate","user_id":"{{user_id}}"}}'
success = "/success"
error = "/error"
session = "/data/jsessionId"
deadline = "2s"

[provider.socket]
url = "ws://{address}/websocket?JSESSIONID={{session}}"
connect_deadline = "2s"
expired_codes = [4401]

[provider.keepalive]
text = '{{"id":"1","jsonrpc":"2.0","method":"protocol/v1/ping","params":{{"time":"{{timestamp}}","seq":"{{timestamp}}"}}}}'
interval = "1s"
deadline = "2s"
answers = ['"pong"']

[provider.messages]
type = "game-data"
title = "Fake"

[provider.commands]
types = ["bet"]

[provider.backoff]
first = "100ms"
most = "1s"
{more}
"#
        )
    }

    /// The same as a file that exists as long as the value is held.
    pub fn file(&self, more: &str) -> ProviderFile {
        ProviderFile::of(&self.toml(more))
    }

    pub fn sign_ins(&self, script: SignInAnswer) {
        self.rules().script.lock().unwrap().sign_in = Some(script);
    }

    pub fn sign_ins_of(&self, user: &str, script: SignInAnswer) {
        self.rules().script.lock().unwrap().sign_in_of.insert(user.to_owned(), script);
    }

    pub fn sockets(&self, behaviour: Behaviour) {
        self.rules().script.lock().unwrap().behaviour = behaviour;
    }

    pub fn sockets_of(&self, user: &str, behaviour: Behaviour) {
        self.rules().script.lock().unwrap().behaviour_of.insert(user.to_owned(), behaviour);
    }

    /// Expires the user's session ids: a socket that comes with one is refused with 401.
    pub fn expire(&self, user: &str) {
        self.server.expire(user);
    }

    /// Sends a text over the user's open sockets; returns over how many.
    pub async fn say(&self, user: &str, text: &str) -> usize {
        let told = self.orders_of(user);
        for orders in &told {
            let _ = orders.send(SocketOrder::Say(text.to_owned())).await;
        }
        told.len()
    }

    /// Sends `{"n":N}` for each number.
    pub async fn say_numbered(&self, user: &str, numbers: impl IntoIterator<Item = u64>) {
        for n in numbers {
            assert!(self.say(user, &format!("{{\"n\":{n}}}")).await > 0, "user {user} has no socket for number {n}");
        }
    }

    /// Sends the next number of each open socket over it; returns over how many.
    pub fn say_next_everywhere(&self) -> usize {
        let told = self.server.open().into_iter().filter(|(number, _, orders)| {
            let (number, record) = (*number, Arc::clone(&self.rules().record));
            let text = move |n| {
                record.lock().unwrap().connections[number].numbered = n;
                format!("{{\"c\":{number},\"n\":{n}}}")
            };
            orders.try_send(SocketOrder::SayNext(Box::new(text))).is_ok()
        });
        told.count()
    }

    /// The time that the record counts from, by the clock of the machine.
    pub fn begun_at(&self) -> std::time::SystemTime {
        self.rules().begun_at
    }

    /// Closes the user's sockets with a code.
    pub fn close(&self, user: &str, code: u16) {
        self.orders_of(user).iter().for_each(|orders| drop(orders.try_send(SocketOrder::Close(code))));
    }

    /// Ends the user's sockets without a close frame.
    pub fn cut(&self, user: &str) {
        self.orders_of(user).iter().for_each(|orders| drop(orders.try_send(SocketOrder::Cut)));
    }

    pub fn record(&self) -> ProviderRecord {
        self.rules().record.lock().unwrap().clone()
    }

    /// Waits until the record satisfies the probe.
    pub async fn until<T>(&self, what: &str, probe: impl Fn(&ProviderRecord) -> Option<T>) -> T {
        self.until_within(PATIENCE, what, probe).await
    }

    pub async fn until_within<T>(&self, limit: Duration, what: &str, probe: impl Fn(&ProviderRecord) -> Option<T>) -> T {
        eventually(what, limit, async || probe(&self.rules().record.lock().unwrap())).await
    }

    /// Waits until the user has an open socket, and returns its session id.
    pub async fn connected(&self, user: &str) -> String {
        let open =
            |record: &ProviderRecord| record.of(user).find(|connection| connection.is_open()).map(|connection| connection.session.clone());
        self.until(&format!("user {user} has a socket"), open).await
    }

    fn orders_of(&self, user: &str) -> Vec<SocketOrders> {
        self.server.orders_of(user)
    }
}

/// A provider file on disk.
pub struct ProviderFile(tempfile::NamedTempFile);

impl ProviderFile {
    pub fn of(text: &str) -> Self {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        Self(file)
    }

    pub fn path(&self) -> &str {
        Path::to_str(self.0.path()).unwrap()
    }
}

/// Frames that no server may send, each with the rule that it breaks (RFC 6455 section 5).
pub const BROKEN_FRAMES: [(&str, &[u8]); 10] = [
    ("a masked frame", b"\x81\x81\x00\x00\x00\x00a"),
    ("a reserved opcode", b"\x83\x00"),
    ("a reserved control opcode", b"\x8b\x00"),
    ("a reserved bit", b"\xc1\x01a"),
    ("a fragmented ping", b"\x09\x00"),
    ("a ping over 125 bytes", b"\x89\x7e\x00\x7eaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"),
    ("a continuation of nothing", b"\x80\x01a"),
    ("a text that is not UTF-8", b"\x81\x02\xc3\x28"),
    ("a close of one byte", b"\x88\x01\x03"),
    ("a frame of 2 GiB", b"\x81\x7f\x00\x00\x00\x00\x80\x00\x00\x00"),
];
