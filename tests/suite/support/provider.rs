//! Runs a scripted provider: a real HTTP and WebSocket server on loopback.
//!
//! It keeps a record by its own clock.
//!
//! ```text
//! let provider = FakeProvider::start().await;          // signs everyone in, takes every socket, answers pings
//! let file = provider.file("");                        // its provider file; TOML lines of [[provider]] may be added
//! TestHub::on(&db).with("RECADO_UPSTREAM_FILE", file.path())…
//! provider.sign_ins(SignIn::Fail(500));                // from now on, for everyone
//! provider.sign_ins_of("42", SignIn::Refuse(403));     // for one user; wins over everyone's
//! provider.sockets(Behaviour::default().flooding(1000));   // for later sockets; sockets_of(user, …) too
//! provider.say("42", r#"{"n":1}"#).await;              // over the user's open sockets; returns how many
//! provider.say_numbered("42", 1..=100).await;          // {"n":1} …
//! provider.close("42", 4000); provider.cut("42");      // the user's sockets: a close frame, a broken connection
//! provider.expire("42");                               // the user's session ids expire: sockets get 401 now
//! provider.until("two sockets", |record| (record.open() == 2).then_some(())).await;
//! provider.say_next_everywhere();                      // {"c":CONNECTION,"n":N} on each open socket, N counts up
//! provider.record()                                    // sign-ins, connections with the texts received on them
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};
use tokio_tungstenite::tungstenite::{self, Message};

use super::{PATIENCE, eventually};

/// How a sign-in is answered.
#[derive(Debug, Clone, PartialEq)]
pub enum SignInAnswer {
    Accept,
    /// With this text as the session id, which the provider then knows.
    Give(String),
    /// With a status, and `{"success":false,"error":"no such player"}`.
    Refuse(u16),
    /// 200, and the same body.
    RefuseInBody,
    /// 429, to be retried after so many seconds.
    TooMany(u64),
    /// With a status and an empty body.
    Fail(u16),
    /// Never.
    Hang,
    /// A byte a second.
    Drip,
    /// A body without end; `true` means that Content-Length says so.
    Huge(bool),
    /// 302, to this location.
    Redirect(String),
    /// 200 and this body.
    Body(String),
    /// With exactly these bytes.
    Raw(&'static [u8]),
    /// The connection ends without an answer.
    HangUp,
}

/// How a handshake is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Door {
    #[default]
    Open,
    Refuse(u16),
    Hang,
    /// 101 with a wrong accept key.
    WrongKey,
    /// 101, and then these bytes.
    Broken(&'static [u8]),
}

/// How a socket behaves.
#[derive(Debug, Clone, Copy, Default)]
pub struct Behaviour {
    pub door: Door,
    /// Texts that contain `/ping"` are answered after this; `None`: never.
    pub pong_after: Option<Duration>,
    pub never_pongs: bool,
    /// Reads nothing from the socket, and so does not answer the protocol's pings either.
    pub deaf: bool,
    /// Closes by itself after this time, with this code.
    pub close_after: Option<(Duration, u16)>,
    /// Sends so many messages a second by itself.
    pub flood: Option<u32>,
    /// Sends back each text it receives, within `{"echo":…}`.
    pub echo: bool,
}

impl Behaviour {
    pub fn door(door: Door) -> Self {
        Self { door, ..Self::default() }
    }

    #[must_use]
    pub fn flapping(mut self, after: Duration, code: u16) -> Self {
        self.close_after = Some((after, code));
        self
    }

    #[must_use]
    pub fn flooding(mut self, a_second: u32) -> Self {
        self.flood = Some(a_second);
        self
    }

    #[must_use]
    pub fn ponging_after(mut self, wait: Duration) -> Self {
        self.pong_after = Some(wait);
        self
    }

    #[must_use]
    pub fn never_ponging(mut self) -> Self {
        self.never_pongs = true;
        self
    }

    #[must_use]
    pub fn deaf(mut self) -> Self {
        self.deaf = true;
        self
    }

    #[must_use]
    pub fn echoing(mut self) -> Self {
        self.echo = true;
        self
    }
}

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
        port_of(&self.head)
    }

    pub fn is_open(&self) -> bool {
        self.opened.is_some() && self.closed.is_none()
    }
}

impl SignInRecord {
    pub fn port(&self) -> u16 {
        port_of(&self.head)
    }
}

fn port_of(head: &str) -> u16 {
    header(head, "host").and_then(|host| host.rsplit_once(':')?.1.parse().ok()).unwrap_or(0)
}

/// How a socket ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SocketEnd {
    /// The hub closed it, with this code.
    ByHub(Option<u16>),
    /// The provider closed it.
    ByProvider,
    /// It broke, or the hub left without a close frame.
    Broken,
    /// The handshake was refused with this status.
    Refused(u16),
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

pub fn is_ping(text: &str) -> bool {
    text.contains("/ping\"")
}

/// An order to a connection's task.
enum ScriptOrder {
    Say(String),
    SayNext,
    Close(u16),
    Cut,
}

#[derive(Default)]
struct SignInScript {
    sign_in: Option<SignInAnswer>,
    sign_in_of: BTreeMap<String, SignInAnswer>,
    behaviour: Behaviour,
    behaviour_of: BTreeMap<String, Behaviour>,
    users: BTreeMap<String, String>,
    spent: BTreeSet<String>,
    next: u64,
}

struct FakeProviderState {
    begun: Instant,
    begun_at: std::time::SystemTime,
    script: Mutex<SignInScript>,
    record: Mutex<ProviderRecord>,
    open: Mutex<BTreeMap<usize, (String, mpsc::Sender<ScriptOrder>)>>,
}

/// The provider. Dropping it ends it and all its sockets.
pub struct FakeProvider {
    /// `127.0.0.1:PORT`
    pub address: String,
    state: Arc<FakeProviderState>,
    accepting: JoinHandle<()>,
}

impl Drop for FakeProvider {
    fn drop(&mut self) {
        self.accepting.abort();
        for (_, orders) in self.state.open.lock().unwrap().values() {
            let _ = orders.try_send(ScriptOrder::Cut);
        }
    }
}

impl FakeProvider {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = Arc::new(FakeProviderState {
            begun: Instant::now(),
            begun_at: std::time::SystemTime::now(),
            script: Mutex::default(),
            record: Mutex::default(),
            open: Mutex::default(),
        });
        let shared = Arc::clone(&state);
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let state = Arc::clone(&shared);
                tokio::spawn(async move { state.serve(stream).await });
            }
        });
        Self { address, state, accepting }
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
        self.state.script.lock().unwrap().sign_in = Some(script);
    }

    pub fn sign_ins_of(&self, user: &str, script: SignInAnswer) {
        self.state.script.lock().unwrap().sign_in_of.insert(user.to_owned(), script);
    }

    pub fn sockets(&self, behaviour: Behaviour) {
        self.state.script.lock().unwrap().behaviour = behaviour;
    }

    pub fn sockets_of(&self, user: &str, behaviour: Behaviour) {
        self.state.script.lock().unwrap().behaviour_of.insert(user.to_owned(), behaviour);
    }

    /// Expires the user's session ids: a socket that comes with one is refused with 401.
    pub fn expire(&self, user: &str) {
        let mut script = self.state.script.lock().unwrap();
        let spent: Vec<String> = script.users.iter().filter(|(_, of)| *of == user).map(|(session, _)| session.clone()).collect();
        script.spent.extend(spent);
    }

    /// Sends a text over the user's open sockets; returns over how many.
    pub async fn say(&self, user: &str, text: &str) -> usize {
        let told = self.orders_of(user);
        for orders in &told {
            let _ = orders.send(ScriptOrder::Say(text.to_owned())).await;
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
        let open = self.state.open.lock().unwrap();
        open.values().filter(|(_, orders)| orders.try_send(ScriptOrder::SayNext).is_ok()).count()
    }

    /// The time that the record counts from, by the clock of the machine.
    pub fn begun_at(&self) -> std::time::SystemTime {
        self.state.begun_at
    }

    /// Closes the user's sockets with a code.
    pub fn close(&self, user: &str, code: u16) {
        self.orders_of(user).iter().for_each(|orders| drop(orders.try_send(ScriptOrder::Close(code))));
    }

    /// Ends the user's sockets without a close frame.
    pub fn cut(&self, user: &str) {
        self.orders_of(user).iter().for_each(|orders| drop(orders.try_send(ScriptOrder::Cut)));
    }

    pub fn record(&self) -> ProviderRecord {
        self.state.record.lock().unwrap().clone()
    }

    /// Waits until the record satisfies the probe.
    pub async fn until<T>(&self, what: &str, probe: impl Fn(&ProviderRecord) -> Option<T>) -> T {
        self.until_within(PATIENCE, what, probe).await
    }

    pub async fn until_within<T>(&self, limit: Duration, what: &str, probe: impl Fn(&ProviderRecord) -> Option<T>) -> T {
        eventually(what, limit, async || probe(&self.state.record.lock().unwrap())).await
    }

    /// Waits until the user has an open socket, and returns its session id.
    pub async fn connected(&self, user: &str) -> String {
        let open =
            |record: &ProviderRecord| record.of(user).find(|connection| connection.is_open()).map(|connection| connection.session.clone());
        self.until(&format!("user {user} has a socket"), open).await
    }

    fn orders_of(&self, user: &str) -> Vec<mpsc::Sender<ScriptOrder>> {
        let open = self.state.open.lock().unwrap();
        open.values().filter(|(of, _)| of == user).map(|(_, orders)| orders.clone()).collect()
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

impl FakeProviderState {
    fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    async fn serve(&self, mut stream: TcpStream) {
        // Serves one request on each connection: a client that keeps it open for another gets no answer.
        let Some((head, body)) = request(&mut stream).await else { return };
        if head.to_ascii_lowercase().contains("\r\nupgrade: websocket") {
            self.socket(stream, head).await;
        } else {
            self.sign_in(stream, head, body).await;
        }
    }

    async fn sign_in(&self, mut stream: TcpStream, head: String, body: String) {
        let read: serde_json::Value = serde_json::from_str(&body).unwrap_or_default();
        let user = read["user_id"].as_str().unwrap_or_default().to_owned();
        let (script, session) = self.admit(&user);
        self.record.lock().unwrap().sign_ins.push(SignInRecord { at: self.now(), user, head, body, session: session.clone() });
        let no = r#"{"success":false,"error":"no such player"}"#;
        let text = match script {
            SignInAnswer::Accept | SignInAnswer::Give(_) => {
                let answer = serde_json::json!({ "success": true, "data": { "jsessionId": session } });
                answered(200, "", &answer.to_string())
            }
            SignInAnswer::Refuse(status) => answered(status, "", no),
            SignInAnswer::RefuseInBody => answered(200, "", no),
            SignInAnswer::TooMany(seconds) => answered(429, &format!("Retry-After: {seconds}\r\n"), ""),
            SignInAnswer::Fail(status) => answered(status, "", ""),
            SignInAnswer::Redirect(place) => answered(302, &format!("Location: {place}\r\n"), ""),
            SignInAnswer::Body(text) => answered(200, "", &text),
            SignInAnswer::Raw(bytes) => {
                let _ = stream.write_all(bytes).await;
                return;
            }
            SignInAnswer::HangUp => return,
            SignInAnswer::Hang => return gone(&mut stream).await,
            SignInAnswer::Drip => return drip(&mut stream, &answered(200, "", &" ".repeat(1000))).await,
            SignInAnswer::Huge(told) => return huge(&mut stream, told).await,
        };
        let _ = stream.write_all(text.as_bytes()).await;
        let _ = stream.shutdown().await;
    }

    /// The answer to the user's sign-in, and the session id that it makes.
    fn admit(&self, user: &str) -> (SignInAnswer, Option<String>) {
        let mut script = self.script.lock().unwrap();
        let order = script.sign_in_of.get(user).or(script.sign_in.as_ref()).cloned().unwrap_or(SignInAnswer::Accept);
        script.next += 1;
        let session = match &order {
            SignInAnswer::Accept => format!("S{}.{:016x}.node", script.next, rand::random::<u64>()),
            SignInAnswer::Give(text) => text.clone(),
            _ => return (order, None),
        };
        script.users.insert(session.clone(), user.to_owned());
        (order, Some(session))
    }

    async fn socket(&self, mut stream: TcpStream, head: String) {
        let session = session_of(&head);
        let (user, spent, behaviour) = {
            let script = self.script.lock().unwrap();
            let user = script.users.get(&session).cloned();
            let behaviour = user.as_ref().and_then(|user| script.behaviour_of.get(user)).unwrap_or(&script.behaviour);
            (user.clone(), script.spent.contains(&session), *behaviour)
        };
        let known = user.is_some() && !spent;
        let key = header(&head, "sec-websocket-key").unwrap_or_default();
        let number = {
            let mut record = self.record.lock().unwrap();
            let user = user.clone().unwrap_or_default();
            let (at, heard) = (self.now(), Vec::new());
            record.connections.push(SocketRecord { at, user, session, head, opened: None, closed: None, heard, said: 0, numbered: 0 });
            record.connections.len() - 1
        };
        let door = if known { behaviour.door } else { Door::Refuse(401) };
        let accept = match door {
            Door::Refuse(status) => {
                let _ = stream.write_all(answered(status, "", "").as_bytes()).await;
                return self.closed(number, SocketEnd::Refused(status));
            }
            Door::Hang => {
                gone(&mut stream).await;
                return self.closed(number, SocketEnd::Broken);
            }
            Door::WrongKey => "AAAAAAAAAAAAAAAAAAAAAAAAAAA=".to_owned(),
            Door::Open | Door::Broken(_) => derive_accept_key(key.as_bytes()),
        };
        let switched = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
        );
        // Registered as open before the hub can know it, so that a test that saw the hub connected can send over it.
        let (orders_in, orders) = mpsc::channel(10_000);
        self.open.lock().unwrap().insert(number, (user.unwrap_or_default(), orders_in));
        self.record.lock().unwrap().connections[number].opened = Some(self.now());
        let ending = match stream.write_all(switched.as_bytes()).await {
            Err(_) => SocketEnd::Broken,
            Ok(()) => match door {
                Door::Broken(bytes) => {
                    let _ = stream.write_all(bytes).await;
                    gone(&mut stream).await;
                    SocketEnd::Broken
                }
                _ => self.talk(number, stream, behaviour, orders).await,
            },
        };
        self.open.lock().unwrap().remove(&number);
        self.closed(number, ending);
    }

    fn closed(&self, number: usize, ending: SocketEnd) {
        self.record.lock().unwrap().connections[number].closed = Some((self.now(), ending));
    }

    async fn talk(&self, number: usize, stream: TcpStream, behaviour: Behaviour, mut orders: mpsc::Receiver<ScriptOrder>) -> SocketEnd {
        let _ = stream.set_nodelay(true);
        let mut socket = WebSocketStream::from_raw_socket(stream, Role::Server, None).await;
        let mut flood = tokio::time::interval(Duration::from_millis(10));
        let mut flooded = 0_u64;
        let close_at = behaviour.close_after.map(|(after, _)| Instant::now() + after);
        let begun = Instant::now();
        let mut pongs: std::collections::VecDeque<Instant> = std::collections::VecDeque::new();
        loop {
            let next_pong = pongs.front().copied();
            tokio::select! {
                order = orders.recv() => match order {
                    Some(ScriptOrder::Say(text)) => {
                        if self.say(number, &mut socket, text).await.is_err() { return SocketEnd::Broken; }
                    }
                    Some(ScriptOrder::SayNext) => {
                        let n = {
                            let mut record = self.record.lock().unwrap();
                            record.connections[number].numbered += 1;
                            record.connections[number].numbered
                        };
                        let text = format!("{{\"c\":{number},\"n\":{n}}}");
                        if self.say(number, &mut socket, text).await.is_err() { return SocketEnd::Broken; }
                    }
                    Some(ScriptOrder::Close(code)) => return close(&mut socket, code).await,
                    Some(ScriptOrder::Cut) | None => return SocketEnd::ByProvider,
                },
                heard = socket.next(), if !behaviour.deaf => match heard {
                    Some(Ok(Message::Text(text))) => {
                        self.record.lock().unwrap().connections[number].heard.push((self.now(), text.to_string()));
                        if is_ping(&text) {
                            if !behaviour.never_pongs { pongs.push_back(Instant::now() + behaviour.pong_after.unwrap_or_default()); }
                        } else if behaviour.echo && self.say(number, &mut socket, format!("{{\"echo\":{text}}}")).await.is_err() {
                            return SocketEnd::Broken;
                        }
                    }
                    Some(Ok(Message::Close(frame))) => {
                        let code = frame.map(|frame| u16::from(frame.code));
                        // The library answers it at the next read.
                        let _ = socket.next().await;
                        return SocketEnd::ByHub(code);
                    }
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => return SocketEnd::Broken,
                },
                () = at(next_pong) => {
                    pongs.pop_front();
                    let pong = r#"{"jsonrpc":"2.0","id":"1","result":"pong"}"#.to_owned();
                    if self.say(number, &mut socket, pong).await.is_err() { return SocketEnd::Broken; }
                }
                () = at(close_at) => return close(&mut socket, behaviour.close_after.map_or(1000, |(_, code)| code)).await,
                _ = flood.tick(), if behaviour.flood.is_some() => {
                    let due = u64::try_from(begun.elapsed().as_millis()).unwrap() * u64::from(behaviour.flood.unwrap_or(0)) / 1000;
                    while flooded < due {
                        flooded += 1;
                        if self.say(number, &mut socket, format!("{{\"flood\":{flooded}}}")).await.is_err() { return SocketEnd::Broken; }
                    }
                }
            }
        }
    }

    async fn say(&self, number: usize, socket: &mut WebSocketStream<TcpStream>, text: String) -> Result<(), tungstenite::Error> {
        socket.send(Message::text(text)).await?;
        self.record.lock().unwrap().connections[number].said += 1;
        Ok(())
    }
}

async fn at(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when).await,
        None => std::future::pending().await,
    }
}

async fn close(socket: &mut WebSocketStream<TcpStream>, code: u16) -> SocketEnd {
    let frame = CloseFrame { code: CloseCode::from(code), reason: "".into() };
    let _ = socket.close(Some(frame)).await;
    // Waits a while for the hub's answer; then the connection ends.
    let _ = tokio::time::timeout(Duration::from_secs(1), async { while let Some(Ok(_)) = socket.next().await {} }).await;
    SocketEnd::ByProvider
}

/// The head and the body of a request.
async fn request(stream: &mut TcpStream) -> Option<(String, String)> {
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    let head_end = loop {
        let read = stream.read(&mut piece).await.ok().filter(|n| *n > 0)?;
        bytes.extend_from_slice(&piece[..read]);
        if let Some(at) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            break at + 4;
        }
    };
    let head = String::from_utf8_lossy(&bytes[..head_end]).into_owned();
    let length: usize = header(&head, "content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    while bytes.len() < head_end + length {
        let read = stream.read(&mut piece).await.ok().filter(|n| *n > 0)?;
        bytes.extend_from_slice(&piece[..read]);
    }
    Some((head, String::from_utf8_lossy(&bytes[head_end..]).into_owned()))
}

fn header(head: &str, name: &str) -> Option<String> {
    let mut lines = head.lines().filter_map(|line| line.split_once(':'));
    lines.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_owned())
}

/// The session id of `…?JSESSIONID=…`, as the provider knows it.
fn session_of(head: &str) -> String {
    let target = head.split_whitespace().nth(1).unwrap_or_default();
    let url = url::Url::parse(&format!("ws://provider{target}")).ok();
    url.and_then(|url| url.query_pairs().find(|(name, _)| name == "JSESSIONID").map(|(_, value)| value.into_owned())).unwrap_or_default()
}

fn answered(status: u16, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status} Scripted\r\n{headers}Content-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}

/// Waits until the other side ends the connection.
async fn gone(stream: &mut TcpStream) {
    let mut piece = [0; 4096];
    while matches!(stream.read(&mut piece).await, Ok(n) if n > 0) {}
}

async fn drip(stream: &mut TcpStream, text: &str) {
    for byte in text.bytes() {
        if stream.write_all(&[byte]).await.is_err() {
            return;
        }
        sleep(Duration::from_secs(1)).await;
    }
}

/// One GB, in pieces of the length that they announce.
async fn huge(stream: &mut TcpStream, told: bool) {
    let total = 1_u64 << 30;
    let head = if told { format!("Content-Length: {total}") } else { "Transfer-Encoding: chunked".to_owned() };
    let _ = stream.write_all(format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n").as_bytes()).await;
    let blanks = vec![b' '; 16 * 1024];
    for _ in 0..total / blanks.len() as u64 {
        if !told && stream.write_all(b"4000\r\n").await.is_err() {
            return;
        }
        if stream.write_all(&blanks).await.is_err() || (!told && stream.write_all(b"\r\n").await.is_err()) {
            return;
        }
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
