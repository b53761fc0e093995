//! Runs a provider: a real HTTP and WebSocket server on loopback, which follows the rules of its user.
//!
//! The server knows the protocol and the session ids, and keeps the open sockets. Its [`ProviderRules`] decide how each
//! sign-in and each socket is answered, also wrongly, and see everything that happens. Every hook is called before the
//! hub can know of the event, so that a record is never behind the hub.
//!
//! A sign-in is `POST` with `{"user_id":…}`, and gets `{"success":true,"data":{"jsessionId":…}}`. A socket is asked for
//! with `?JSESSIONID=…`. A text with `/ping"` is a keep-alive, and gets `"pong"`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};
use tokio_tungstenite::tungstenite::{self, Message};

use crate::http::{accept_key, answer, header, request, switching};

/// How a sign-in is answered.
#[derive(Debug, Clone, PartialEq)]
pub enum SignInAnswer {
    /// With a random session id.
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
    /// Keep-alives are answered after this.
    pub pong_after: Duration,
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
        self.pong_after = wait;
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

/// A request for a session.
#[derive(Debug, Clone)]
pub struct SignInRequest {
    pub user: String,
    pub head: String,
    pub body: String,
}

/// A request for a socket.
#[derive(Debug, Clone)]
pub struct SocketRequest {
    /// The user of the session id, even if it has expired; empty if it is unknown.
    pub user: String,
    pub session: String,
    pub head: String,
}

impl SocketRequest {
    /// A value of the query.
    pub fn query(&self, name: &str) -> String {
        in_query(&self.head, name)
    }
}

/// Is asked by the provider what to do, and told what happens.
pub trait ProviderRules: Send + Sync + 'static {
    /// Orders that wait for one socket. An order without room is lost.
    const ORDERS: usize = 10_000;

    fn sign_in(&self, asked: &SignInRequest) -> SignInAnswer;

    /// The sign-in is answered next, with this session id if with any.
    fn signed_in(&self, _asked: SignInRequest, _session: Option<&str>) {}

    /// Numbers the socket, and says how it behaves. One with an unknown or expired session id is refused in any case.
    fn asked(&self, asked: SocketRequest) -> (usize, Behaviour);

    fn opened(&self, number: usize);

    /// A text came from the hub; keep-alives, too.
    fn heard(&self, number: usize, text: &str);

    /// A text was sent to the hub.
    fn said(&self, _number: usize) {}

    fn closed(&self, number: usize, end: SocketEnd);
}

/// An order to a socket's task.
pub enum SocketOrder {
    Say(String),
    /// Sends the text that this makes of the next number. It is made at the last moment.
    SayNext(Box<dyn FnOnce(u64) -> String + Send>),
    Close(u16),
    /// Ends the connection without a close frame.
    Cut,
}

/// A way to give orders to one open socket.
pub type SocketOrders = mpsc::Sender<SocketOrder>;

pub fn is_ping(text: &str) -> bool {
    text.contains("/ping\"")
}

#[derive(Default)]
struct Sessions {
    /// Session id → user.
    users: BTreeMap<String, String>,
    expired: BTreeSet<String>,
}

struct ProviderState<R> {
    rules: Arc<R>,
    sessions: Mutex<Sessions>,
    open: Mutex<BTreeMap<usize, (String, SocketOrders)>>,
}

/// The provider. Dropping it ends it and all its sockets.
pub struct ProviderServer<R: ProviderRules> {
    pub address: SocketAddr,
    state: Arc<ProviderState<R>>,
    _serving: JoinSet<()>,
}

impl<R: ProviderRules> ProviderServer<R> {
    pub async fn start(rules: Arc<R>) -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let state = Arc::new(ProviderState { rules, sessions: Mutex::default(), open: Mutex::default() });
        let shared = Arc::clone(&state);
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let state = Arc::clone(&shared);
                connections.spawn(async move { state.serve(stream).await });
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { address, state, _serving: serving })
    }

    pub fn rules(&self) -> &Arc<R> {
        &self.state.rules
    }

    /// The session ids that it has given.
    pub fn sessions(&self) -> Vec<String> {
        self.state.sessions().users.keys().cloned().collect()
    }

    /// Expires the user's session ids: a socket that comes with one is refused with 401.
    pub fn expire(&self, user: &str) {
        let mut sessions = self.state.sessions();
        let of_user: Vec<String> = sessions.users.iter().filter(|(_, of)| *of == user).map(|(session, _)| session.clone()).collect();
        sessions.expired.extend(of_user);
    }

    /// Every open socket: its number, its user and a way to give it orders.
    pub fn open(&self) -> Vec<(usize, String, SocketOrders)> {
        self.state.open().iter().map(|(number, (user, orders))| (*number, user.clone(), orders.clone())).collect()
    }

    /// The same for the sockets of one user.
    pub fn orders_of(&self, user: &str) -> Vec<SocketOrders> {
        self.state.open().values().filter(|(of, _)| of == user).map(|(_, orders)| orders.clone()).collect()
    }
}

impl<R: ProviderRules> ProviderState<R> {
    fn sessions(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> MutexGuard<'_, BTreeMap<usize, (String, SocketOrders)>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves one request: a client that keeps the connection open for another gets no answer.
    async fn serve(&self, mut stream: TcpStream) {
        let _ = stream.set_nodelay(true);
        let Some((head, body)) = request(&mut stream).await else { return };
        match accept_key(&head) {
            Some(key) => self.socket(stream, head, key).await,
            None => self.sign_in(stream, head, body).await,
        }
    }

    async fn sign_in(&self, mut stream: TcpStream, head: String, body: String) {
        let read: serde_json::Value = serde_json::from_str(&body).unwrap_or_default();
        let asked = SignInRequest { user: read["user_id"].as_str().unwrap_or_default().to_owned(), head, body };
        let said = self.rules.sign_in(&asked);
        let session = match &said {
            SignInAnswer::Accept => Some(format!("S{:032x}.node", rand::random::<u128>())),
            SignInAnswer::Give(text) => Some(text.clone()),
            _ => None,
        };
        if let Some(session) = &session {
            self.sessions().users.insert(session.clone(), asked.user.clone());
        }
        self.rules.signed_in(asked, session.as_deref());
        let no = r#"{"success":false,"error":"no such player"}"#;
        let text = match said {
            SignInAnswer::Accept | SignInAnswer::Give(_) => {
                answer(200, "", &serde_json::json!({ "success": true, "data": { "jsessionId": session } }).to_string())
            }
            SignInAnswer::Refuse(status) => answer(status, "", no),
            SignInAnswer::RefuseInBody => answer(200, "", no),
            SignInAnswer::TooMany(seconds) => answer(429, &format!("Retry-After: {seconds}\r\n"), ""),
            SignInAnswer::Fail(status) => answer(status, "", ""),
            SignInAnswer::Redirect(place) => answer(302, &format!("Location: {place}\r\n"), ""),
            SignInAnswer::Body(text) => answer(200, "", &text),
            SignInAnswer::Raw(bytes) => {
                let _ = stream.write_all(bytes).await;
                return;
            }
            SignInAnswer::HangUp => return,
            SignInAnswer::Hang => return gone(&mut stream).await,
            SignInAnswer::Drip => return drip(&mut stream, &answer(200, "", &" ".repeat(1000))).await,
            SignInAnswer::Huge(told) => return huge(&mut stream, told).await,
        };
        let _ = stream.write_all(text.as_bytes()).await;
        let _ = stream.shutdown().await;
    }

    async fn socket(&self, mut stream: TcpStream, head: String, key: String) {
        let session = in_query(&head, "JSESSIONID");
        let (user, is_expired) = {
            let sessions = self.sessions();
            (sessions.users.get(&session).cloned(), sessions.expired.contains(&session))
        };
        let is_known = user.is_some() && !is_expired;
        let user = user.unwrap_or_default();
        let (number, behaviour) = self.rules.asked(SocketRequest { user: user.clone(), session, head });
        let door = if is_known { behaviour.door } else { Door::Refuse(401) };
        let accept = match door {
            Door::Refuse(status) => {
                let _ = stream.write_all(answer(status, "", "").as_bytes()).await;
                return self.rules.closed(number, SocketEnd::Refused(status));
            }
            Door::Hang => {
                gone(&mut stream).await;
                return self.rules.closed(number, SocketEnd::Broken);
            }
            Door::WrongKey => "AAAAAAAAAAAAAAAAAAAAAAAAAAA=".to_owned(),
            Door::Open | Door::Broken(_) => key,
        };
        // Registered as open before the hub can know it, so that a test that saw the hub connected can send over it.
        let (orders_in, orders) = mpsc::channel(R::ORDERS);
        self.open().insert(number, (user, orders_in));
        self.rules.opened(number);
        let end = match stream.write_all(switching(&accept).as_bytes()).await {
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
        self.open().remove(&number);
        self.rules.closed(number, end);
    }

    async fn talk(&self, number: usize, stream: TcpStream, behaviour: Behaviour, mut orders: mpsc::Receiver<SocketOrder>) -> SocketEnd {
        let mut socket = WebSocketStream::from_raw_socket(stream, Role::Server, None).await;
        let mut flood = tokio::time::interval(Duration::from_millis(10));
        let (mut flooded, mut numbered) = (0_u64, 0_u64);
        let begun = Instant::now();
        let close_at = behaviour.close_after.map(|(after, _)| begun + after);
        let mut pongs: VecDeque<Instant> = VecDeque::new();
        loop {
            let next_pong = pongs.front().copied();
            tokio::select! {
                order = orders.recv() => {
                    let text = match order {
                        Some(SocketOrder::Say(text)) => text,
                        Some(SocketOrder::SayNext(make)) => {
                            numbered += 1;
                            make(numbered)
                        }
                        Some(SocketOrder::Close(code)) => return close(&mut socket, code).await,
                        Some(SocketOrder::Cut) | None => return SocketEnd::ByProvider,
                    };
                    if self.say(number, &mut socket, text).await.is_err() { return SocketEnd::Broken; }
                }
                heard = socket.next(), if !behaviour.deaf => match heard {
                    Some(Ok(Message::Text(text))) => {
                        self.rules.heard(number, &text);
                        if is_ping(&text) {
                            if !behaviour.never_pongs { pongs.push_back(Instant::now() + behaviour.pong_after); }
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
                    let due = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX) * u64::from(behaviour.flood.unwrap_or(0)) / 1000;
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
        self.rules.said(number);
        Ok(())
    }
}

async fn at(when: Option<Instant>) {
    match when {
        Some(when) => sleep_until(when).await,
        None => std::future::pending().await,
    }
}

async fn close(socket: &mut WebSocketStream<TcpStream>, code: u16) -> SocketEnd {
    let frame = CloseFrame { code: CloseCode::from(code), reason: "".into() };
    let _ = socket.close(Some(frame)).await;
    // Waits a while for the hub's answer; then the connection ends.
    let _ = timeout(Duration::from_secs(1), async { while let Some(Ok(_)) = socket.next().await {} }).await;
    SocketEnd::ByProvider
}

/// A value of the query of a request, decoded; empty if there is none.
fn in_query(head: &str, name: &str) -> String {
    let target = head.split_whitespace().nth(1).unwrap_or_default();
    let url = url::Url::parse(&format!("ws://provider{target}")).ok();
    url.and_then(|url| url.query_pairs().find(|(known, _)| known == name).map(|(_, value)| value.into_owned())).unwrap_or_default()
}

/// The port of the Host header: the one that the hub dialled, also where a proxy is in between.
pub fn dialled_port(head: &str) -> u16 {
    header(head, "host").and_then(|host| host.rsplit_once(':')?.1.parse().ok()).unwrap_or(0)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ws::WsRequest;

    const PATIENCE: Duration = Duration::from_secs(10);

    /// Takes everyone, and records what happens.
    #[derive(Default)]
    struct Diary(Mutex<Vec<String>>);

    impl Diary {
        fn note(&self, text: String) {
            self.0.lock().unwrap().push(text);
        }

        async fn ends_with(&self, last: &str) -> Vec<String> {
            let noted = async {
                while self.0.lock().unwrap().last().is_none_or(|text| text != last) {
                    sleep(Duration::from_millis(5)).await;
                }
            };
            timeout(PATIENCE, noted).await.unwrap_or_else(|_| panic!("{last} is not the end of {:?}", self.0.lock().unwrap()));
            std::mem::take(&mut *self.0.lock().unwrap())
        }
    }

    impl ProviderRules for Diary {
        fn sign_in(&self, asked: &SignInRequest) -> SignInAnswer {
            SignInAnswer::Give(format!("of {}", asked.user))
        }

        fn asked(&self, asked: SocketRequest) -> (usize, Behaviour) {
            self.note(format!("{} asked with {}", asked.user, asked.query("tag")));
            (7, Behaviour::default().echoing())
        }

        fn opened(&self, number: usize) {
            self.note(format!("{number} opened"));
        }

        fn heard(&self, _: usize, text: &str) {
            self.note(format!("heard {text}"));
        }

        fn closed(&self, _: usize, end: SocketEnd) {
            self.note(format!("{end:?}"));
        }
    }

    async fn sign_in(address: SocketAddr, user: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let body = format!("{{\"user_id\":\"{user}\"}}");
        let request = format!("POST /sign-in HTTP/1.1\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn a_user_signs_in_and_talks_over_a_socket() {
        let provider = ProviderServer::start(Arc::new(Diary::default())).await.unwrap();
        let answer = sign_in(provider.address, "ann").await;
        assert!(answer.ends_with(r#"{"data":{"jsessionId":"of ann"},"success":true}"#), "{answer}");

        let request = WsRequest::to("/socket?JSESSIONID=of%20ann").query("tag", "a%26b");
        let mut socket = request.open(provider.address).await.unwrap();
        assert_eq!(provider.rules().ends_with("7 opened").await, ["ann asked with a&b", "7 opened"]);
        let mut said = async |text: &str| {
            socket.send(Message::text(text)).await.unwrap();
            timeout(PATIENCE, socket.next()).await.expect("an answer").unwrap().unwrap().into_text().unwrap().to_string()
        };
        assert_eq!(said("{\"method\":\"/ping\"}").await, r#"{"jsonrpc":"2.0","id":"1","result":"pong"}"#);
        assert_eq!(said("1").await, "{\"echo\":1}");
        provider.rules().ends_with("heard 1").await;

        for n in 1..=2 {
            let (number, user, orders) = provider.open().pop().unwrap();
            assert_eq!((number, user.as_str()), (7, "ann"));
            assert!(orders.try_send(SocketOrder::SayNext(Box::new(|n| n.to_string()))).is_ok());
            let said = timeout(PATIENCE, socket.next()).await.expect("a number").unwrap().unwrap();
            assert_eq!(said, Message::text(n.to_string()));
        }
        assert!(provider.orders_of("ann")[0].try_send(SocketOrder::Close(4401)).is_ok());
        let closed = timeout(PATIENCE, socket.next()).await.expect("an end").unwrap().unwrap();
        assert!(matches!(closed, Message::Close(Some(frame)) if u16::from(frame.code) == 4401));
        assert!(timeout(PATIENCE, socket.next()).await.expect("an end").is_none());
        provider.rules().ends_with("ByProvider").await;
        assert!(provider.open().is_empty());

        provider.expire("ann");
        assert!(request.open(provider.address).await.is_err());
        assert_eq!(provider.rules().ends_with("Refused(401)").await.len(), 2);
    }
}
