//! A provider that does as it is told: a real HTTP and WebSocket server on loopback, with a record by its own clock.
//!
//! ```text
//! let provider = FakeProvider::start().await;          // signs everyone in, takes every socket, answers pings
//! let file = provider.file("");                        // a provider file for it; TOML lines of [[provider]] may be added
//! Hub::on(&db).with("RECADO_UPSTREAM_FILE", file.path())…
//! provider.sign_ins(SignIn::Fail(500));                // from now on, for everyone
//! provider.sign_ins_of("42", SignIn::Refuse(403));     // for one user; wins over everyone's
//! provider.sockets(Behaviour::default().flooding(1000));   // for sockets that come from now on; sockets_of(user, …) too
//! provider.say("42", r#"{"n":1}"#).await;              // over the user's open sockets; returns how many
//! provider.say_numbered("42", 1..=100).await;          // {"n":1} …
//! provider.close("42", 4000); provider.cut("42");      // the user's sockets: a close frame, a broken connection
//! provider.expire("42");                               // the user's session ids are spent: sockets get 401 from now on
//! provider.until("two sockets", |record| (record.open() == 2).then_some(())).await;
//! provider.record()                                    // sign-ins, connections with what was heard on them
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
pub enum SignIn {
    Accept,
    /// With this text as the session id, which the provider knows then.
    Give(String),
    /// With a status, and `{"success":false,"error":"no such player"}`.
    Refuse(u16),
    /// 200, and the same body.
    RefuseInBody,
    /// 429, after so many seconds.
    TooMany(u64),
    /// With a status and no words.
    Fail(u16),
    /// Never.
    Hang,
    /// A byte a second.
    Drip,
    /// A body without end; `true`: that says so.
    Huge(bool),
    /// 302, to this place.
    Redirect(String),
    /// 200 and this body.
    Body(String),
    /// Whatever these bytes are.
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
    /// 101 with another key than was asked for.
    WrongKey,
    /// 101, and then these bytes.
    Broken(&'static [u8]),
}

/// How a socket behaves.
#[derive(Debug, Clone, Copy, Default)]
pub struct Behaviour {
    pub door: Door,
    /// Texts that hold `/ping"` are answered after this; `None`: never.
    pub pong_after: Option<Duration>,
    pub never_pongs: bool,
    /// Takes nothing from the socket, and so does not answer the protocol's pings either.
    pub deaf: bool,
    /// Closes by itself after this time, with this code.
    pub close_after: Option<(Duration, u16)>,
    /// So many messages a second, by themselves.
    pub flood: Option<u32>,
    /// Sends back what it is told, within `{"echo":…}`.
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

/// A sign-in that was asked for. Times count from the provider's start.
#[derive(Debug, Clone)]
pub struct Asked {
    pub at: Duration,
    pub user: String,
    pub head: String,
    pub body: String,
    /// The session id that was given, where one was.
    pub session: Option<String>,
}

/// A socket that was asked for.
#[derive(Debug, Clone)]
pub struct Connection {
    pub at: Duration,
    pub user: String,
    pub session: String,
    pub head: String,
    /// Whether the handshake was accepted, and when.
    pub opened: Option<Duration>,
    pub closed: Option<(Duration, Ending)>,
    /// Texts from the hub, pings among them.
    pub heard: Vec<(Duration, String)>,
    /// How many texts were sent to the hub.
    pub said: usize,
}

impl Connection {
    pub fn is_open(&self) -> bool {
        self.opened.is_some() && self.closed.is_none()
    }
}

/// How a socket ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// The hub closed it, with this code.
    ByHub(Option<u16>),
    /// The provider did.
    ByProvider,
    /// It broke, or the hub went without a word.
    Broken,
    /// The handshake was refused.
    Refused(u16),
}

/// All that happened, in order.
#[derive(Debug, Clone, Default)]
pub struct Record {
    pub sign_ins: Vec<Asked>,
    pub connections: Vec<Connection>,
}

impl Record {
    pub fn open(&self) -> usize {
        self.connections.iter().filter(|connection| connection.is_open()).count()
    }

    pub fn open_of(&self, user: &str) -> usize {
        self.of(user).filter(|connection| connection.is_open()).count()
    }

    pub fn of<'a>(&'a self, user: &'a str) -> impl Iterator<Item = &'a Connection> {
        self.connections.iter().filter(move |connection| connection.user == user)
    }

    pub fn sign_ins_of(&self, user: &str) -> usize {
        self.sign_ins.iter().filter(|asked| asked.user == user).count()
    }

    /// What the user's sockets heard, without pings, over all connections.
    pub fn commands_of(&self, user: &str) -> Vec<String> {
        let heard = self.of(user).flat_map(|connection| connection.heard.iter());
        let mut heard: Vec<_> = heard.filter(|(_, text)| !is_ping(text)).cloned().collect();
        heard.sort_by_key(|(at, _)| *at);
        heard.into_iter().map(|(_, text)| text).collect()
    }
}

fn is_ping(text: &str) -> bool {
    text.contains("/ping\"")
}

/// What a connection's task is told.
enum Order {
    Say(String),
    Close(u16),
    Cut,
}

#[derive(Default)]
struct Script {
    sign_in: Option<SignIn>,
    sign_in_of: BTreeMap<String, SignIn>,
    behaviour: Behaviour,
    behaviour_of: BTreeMap<String, Behaviour>,
    users: BTreeMap<String, String>,
    spent: BTreeSet<String>,
    next: u64,
}

struct State {
    begun: Instant,
    script: Mutex<Script>,
    record: Mutex<Record>,
    open: Mutex<BTreeMap<usize, (String, mpsc::Sender<Order>)>>,
}

/// The provider. Dropping it ends it and all its sockets.
pub struct FakeProvider {
    /// `127.0.0.1:PORT`
    pub address: String,
    state: Arc<State>,
    accepting: JoinHandle<()>,
}

impl Drop for FakeProvider {
    fn drop(&mut self) {
        self.accepting.abort();
        for (_, orders) in self.state.open.lock().unwrap().values() {
            let _ = orders.try_send(Order::Cut);
        }
    }
}

impl FakeProvider {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = Arc::new(State { begun: Instant::now(), script: Mutex::default(), record: Mutex::default(), open: Mutex::default() });
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
    /// `more`: lines of `[[provider]]` itself, or tables of it that are not there yet.
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

    /// The same, as a file that is there as long as it is held.
    pub fn file(&self, more: &str) -> ProviderFile {
        ProviderFile::of(&self.toml(more))
    }

    pub fn sign_ins(&self, script: SignIn) {
        self.state.script.lock().unwrap().sign_in = Some(script);
    }

    pub fn sign_ins_of(&self, user: &str, script: SignIn) {
        self.state.script.lock().unwrap().sign_in_of.insert(user.to_owned(), script);
    }

    pub fn sockets(&self, behaviour: Behaviour) {
        self.state.script.lock().unwrap().behaviour = behaviour;
    }

    pub fn sockets_of(&self, user: &str, behaviour: Behaviour) {
        self.state.script.lock().unwrap().behaviour_of.insert(user.to_owned(), behaviour);
    }

    /// The user's session ids are spent: a socket that comes with one is refused with 401.
    pub fn expire(&self, user: &str) {
        let mut script = self.state.script.lock().unwrap();
        let spent: Vec<String> = script.users.iter().filter(|(_, of)| *of == user).map(|(session, _)| session.clone()).collect();
        script.spent.extend(spent);
    }

    /// Sends a text over the user's open sockets; returns over how many.
    pub async fn say(&self, user: &str, text: &str) -> usize {
        let told = self.orders_of(user);
        for orders in &told {
            let _ = orders.send(Order::Say(text.to_owned())).await;
        }
        told.len()
    }

    /// Sends `{"n":N}` for each number.
    pub async fn say_numbered(&self, user: &str, numbers: impl IntoIterator<Item = u64>) {
        for n in numbers {
            assert!(self.say(user, &format!("{{\"n\":{n}}}")).await > 0, "user {user} has no socket for number {n}");
        }
    }

    /// Closes the user's sockets with a code.
    pub fn close(&self, user: &str, code: u16) {
        self.orders_of(user).iter().for_each(|orders| drop(orders.try_send(Order::Close(code))));
    }

    /// Ends the user's sockets without a word.
    pub fn cut(&self, user: &str) {
        self.orders_of(user).iter().for_each(|orders| drop(orders.try_send(Order::Cut)));
    }

    pub fn record(&self) -> Record {
        self.state.record.lock().unwrap().clone()
    }

    /// Waits until the record shows it.
    pub async fn until<T>(&self, what: &str, probe: impl Fn(&Record) -> Option<T>) -> T {
        self.until_within(PATIENCE, what, probe).await
    }

    pub async fn until_within<T>(&self, limit: Duration, what: &str, probe: impl Fn(&Record) -> Option<T>) -> T {
        eventually(what, limit, async || probe(&self.state.record.lock().unwrap())).await
    }

    /// Waits until the user has an open socket, and returns its session id.
    pub async fn connected(&self, user: &str) -> String {
        let open = |record: &Record| record.of(user).find(|connection| connection.is_open()).map(|connection| connection.session.clone());
        self.until(&format!("user {user} has a socket"), open).await
    }

    fn orders_of(&self, user: &str) -> Vec<mpsc::Sender<Order>> {
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

impl State {
    fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    async fn serve(&self, mut stream: TcpStream) {
        // One request a connection: who keeps it open for another gets none.
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
        self.record.lock().unwrap().sign_ins.push(Asked { at: self.now(), user, head, body, session: session.clone() });
        let no = r#"{"success":false,"error":"no such player"}"#;
        let text = match script {
            SignIn::Accept | SignIn::Give(_) => {
                let answer = serde_json::json!({ "success": true, "data": { "jsessionId": session } });
                answered(200, "", &answer.to_string())
            }
            SignIn::Refuse(status) => answered(status, "", no),
            SignIn::RefuseInBody => answered(200, "", no),
            SignIn::TooMany(seconds) => answered(429, &format!("Retry-After: {seconds}\r\n"), ""),
            SignIn::Fail(status) => answered(status, "", ""),
            SignIn::Redirect(place) => answered(302, &format!("Location: {place}\r\n"), ""),
            SignIn::Body(text) => answered(200, "", &text),
            SignIn::Raw(bytes) => {
                let _ = stream.write_all(bytes).await;
                return;
            }
            SignIn::HangUp => return,
            SignIn::Hang => return gone(&mut stream).await,
            SignIn::Drip => return drip(&mut stream, &answered(200, "", &" ".repeat(1000))).await,
            SignIn::Huge(told) => return huge(&mut stream, told).await,
        };
        let _ = stream.write_all(text.as_bytes()).await;
        let _ = stream.shutdown().await;
    }

    /// What the user's sign-in is answered with, and the session id that it makes.
    fn admit(&self, user: &str) -> (SignIn, Option<String>) {
        let mut script = self.script.lock().unwrap();
        let order = script.sign_in_of.get(user).or(script.sign_in.as_ref()).cloned().unwrap_or(SignIn::Accept);
        script.next += 1;
        let session = match &order {
            SignIn::Accept => format!("S{}.{:016x}.node", script.next, rand::random::<u64>()),
            SignIn::Give(text) => text.clone(),
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
            record.connections.push(Connection { at, user, session, head, opened: None, closed: None, heard, said: 0 });
            record.connections.len() - 1
        };
        let door = if known { behaviour.door } else { Door::Refuse(401) };
        let accept = match door {
            Door::Refuse(status) => {
                let _ = stream.write_all(answered(status, "", "").as_bytes()).await;
                return self.closed(number, Ending::Refused(status));
            }
            Door::Hang => {
                gone(&mut stream).await;
                return self.closed(number, Ending::Broken);
            }
            Door::WrongKey => "AAAAAAAAAAAAAAAAAAAAAAAAAAA=".to_owned(),
            Door::Open | Door::Broken(_) => derive_accept_key(key.as_bytes()),
        };
        let switched = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
        );
        // Known as open before the hub can know it, so that whoever saw the hub connected can speak to it.
        let (orders_in, orders) = mpsc::channel(10_000);
        self.open.lock().unwrap().insert(number, (user.unwrap_or_default(), orders_in));
        self.record.lock().unwrap().connections[number].opened = Some(self.now());
        let ending = match stream.write_all(switched.as_bytes()).await {
            Err(_) => Ending::Broken,
            Ok(()) => match door {
                Door::Broken(bytes) => {
                    let _ = stream.write_all(bytes).await;
                    gone(&mut stream).await;
                    Ending::Broken
                }
                _ => self.talk(number, stream, behaviour, orders).await,
            },
        };
        self.open.lock().unwrap().remove(&number);
        self.closed(number, ending);
    }

    fn closed(&self, number: usize, ending: Ending) {
        self.record.lock().unwrap().connections[number].closed = Some((self.now(), ending));
    }

    async fn talk(&self, number: usize, stream: TcpStream, behaviour: Behaviour, mut orders: mpsc::Receiver<Order>) -> Ending {
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
                    Some(Order::Say(text)) => {
                        if self.say(number, &mut socket, text).await.is_err() { return Ending::Broken; }
                    }
                    Some(Order::Close(code)) => return close(&mut socket, code).await,
                    Some(Order::Cut) | None => return Ending::ByProvider,
                },
                heard = socket.next(), if !behaviour.deaf => match heard {
                    Some(Ok(Message::Text(text))) => {
                        self.record.lock().unwrap().connections[number].heard.push((self.now(), text.to_string()));
                        if is_ping(&text) {
                            if !behaviour.never_pongs { pongs.push_back(Instant::now() + behaviour.pong_after.unwrap_or_default()); }
                        } else if behaviour.echo && self.say(number, &mut socket, format!("{{\"echo\":{text}}}")).await.is_err() {
                            return Ending::Broken;
                        }
                    }
                    Some(Ok(Message::Close(frame))) => {
                        let code = frame.map(|frame| u16::from(frame.code));
                        // The library answers it with the next look.
                        let _ = socket.next().await;
                        return Ending::ByHub(code);
                    }
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => return Ending::Broken,
                },
                () = at(next_pong) => {
                    pongs.pop_front();
                    let pong = r#"{"jsonrpc":"2.0","id":"1","result":"pong"}"#.to_owned();
                    if self.say(number, &mut socket, pong).await.is_err() { return Ending::Broken; }
                }
                () = at(close_at) => return close(&mut socket, behaviour.close_after.map_or(1000, |(_, code)| code)).await,
                _ = flood.tick(), if behaviour.flood.is_some() => {
                    let due = u64::try_from(begun.elapsed().as_millis()).unwrap() * u64::from(behaviour.flood.unwrap_or(0)) / 1000;
                    while flooded < due {
                        flooded += 1;
                        if self.say(number, &mut socket, format!("{{\"flood\":{flooded}}}")).await.is_err() { return Ending::Broken; }
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

async fn close(socket: &mut WebSocketStream<TcpStream>, code: u16) -> Ending {
    let frame = CloseFrame { code: CloseCode::from(code), reason: "".into() };
    let _ = socket.close(Some(frame)).await;
    // The hub's answer, for a while; then the connection goes.
    let _ = tokio::time::timeout(Duration::from_secs(1), async { while let Some(Ok(_)) = socket.next().await {} }).await;
    Ending::ByProvider
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

/// Until the other side ends the connection.
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

/// One GB, in pieces that are as long as what they say.
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
