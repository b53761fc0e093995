//! Tests that the hub treats a provider exactly as its file says.
//!
//! It uses only the listed addresses, and a provider's faults cost no more than the configured time and bytes.

use std::io;
use std::net::SocketAddr;
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt, join_all};
use futures_util::{SinkExt, StreamExt};
use recado::domain::UserId;
use recado::providers::dial::Resolver;
use recado::providers::{self, DialError, Dialer, Provider, ProviderSocket, Secret, SignInOutcome};
use tokio::process::Command;
use tokio::time::{Instant, timeout};
use tokio_tungstenite::tungstenite::Message;

use crate::support::{
    BROKEN_FRAMES, Behaviour, Door, FakeProvider, PATIENCE, ProviderFile, ProviderRecord, SignInAnswer, SocketEnd, TestDb, TestHub,
    behind_tls, run_to_the_end,
};

fn provider(toml: &str) -> Arc<Provider> {
    let credentials = |name: &str| Ok((name == "KEY").then(|| Secret::new("the-credential")));
    let all = providers::file::parse(toml, &credentials).unwrap_or_else(|error| panic!("{error}\n{toml}"));
    Arc::clone(all.get("fake").unwrap())
}

fn user(id: &str) -> UserId {
    UserId::parse(id).unwrap()
}

fn dialer() -> Dialer {
    Dialer::with(Arc::new(providers::dial::SystemResolver), rustls::RootCertStore::empty()).unwrap()
}

/// A resolver that answers what the test wants, and counts how often it is asked.
struct Scripted {
    /// The answer to each question; the last one repeats.
    answers: Vec<Vec<SocketAddr>>,
    asked: AtomicUsize,
}

impl Scripted {
    fn new(answers: &[&[&str]]) -> Arc<Self> {
        let answers = answers.iter().map(|answer| answer.iter().map(|address| address.parse().unwrap()).collect()).collect();
        Arc::new(Self { answers, asked: AtomicUsize::new(0) })
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

impl Resolver for Scripted {
    fn addresses<'a>(&'a self, _: &'a str, _: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        let turn = self.asked.fetch_add(1, Ordering::Relaxed).min(self.answers.len() - 1);
        let answer = self.answers[turn].clone();
        async move { Ok(answer) }.boxed()
    }
}

/// Expected outcome of a sign-in.
enum Expected {
    Accepted,
    Refused(&'static str),
    /// With a part of the reason, and the delay that the provider asks for.
    Later(&'static str, Option<u64>),
}

#[tokio::test]
async fn a_sign_in_ends_as_the_provider_answered_and_within_its_deadline() {
    use Expected::{Accepted, Later, Refused};
    let deep = format!(r#"{{"success":true,"data":{}"x"{}}}"#, "[".repeat(40), "]".repeat(40));
    let body = |text: &str| SignInAnswer::Body(text.to_owned());
    let table = vec![
        (SignInAnswer::Accept, Accepted),
        (SignInAnswer::Refuse(401), Refused("no such player")),
        (SignInAnswer::Refuse(403), Refused("no such player")),
        (SignInAnswer::RefuseInBody, Refused("no such player")),
        (SignInAnswer::Fail(403), Refused("Sign-in refused")),
        (SignInAnswer::Fail(404), Later("404", None)),
        (SignInAnswer::TooMany(7), Later("429", Some(7))),
        (SignInAnswer::Fail(500), Later("500", None)),
        (SignInAnswer::Hang, Later("not answered within", None)),
        (SignInAnswer::Drip, Later("not answered within", None)),
        (SignInAnswer::Huge(true), Later("longer than 65536", None)),
        (SignInAnswer::Huge(false), Later("longer than 65536", None)),
        (SignInAnswer::HangUp, Later("connection broke", None)),
        (SignInAnswer::Raw(b"SSH-2.0-OpenSSH_9\r\n"), Later("not HTTP", None)),
        (SignInAnswer::Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{\"success\""), Later("ended early", None)),
        (body("{\"success\":"), Later("not JSON", None)),
        (body("<html>"), Later("not JSON", None)),
        (body(&deep), Later("not JSON", None)),
        (body(r#"{"data":{"jsessionId":"x"}}"#), Later("neither true nor false", None)),
        (body(r#"{"success":"true","data":{"jsessionId":"x"}}"#), Later("neither true nor false", None)),
        (body(r#"{"success":true}"#), Later("not a valid session id", None)),
        (body(r#"{"success":true,"data":{"jsessionId":""}}"#), Later("not a valid session id", None)),
        (body(r#"{"success":true,"data":{"jsessionId":"a\nb"}}"#), Later("not a valid session id", None)),
        (body(r#"{"success":true,"data":{"jsessionId":{}}}"#), Later("not a valid session id", None)),
        (body(r#"{"success":true,"data":{"jsessionId":"a"},"data":{"jsessionId":"b"}}"#), Later("not JSON", None)),
    ];
    join_all(table.into_iter().map(|(script, expected)| ends_as(script, expected))).await;
}

/// One sign-in at a provider of its own.
async fn ends_as(script: SignInAnswer, expected: Expected) {
    let fake = FakeProvider::start().await;
    fake.sign_ins(script.clone());
    let begun = Instant::now();
    let outcome = providers::sign_in(&dialer(), &provider(&fake.toml("")), &user("42")).await;
    assert!(begun.elapsed() < PATIENCE, "{script:?} took {:?}", begun.elapsed());
    let fits = match (&outcome, &expected) {
        (SignInOutcome::SignedIn { session }, Expected::Accepted) => fake.record().sign_ins[0].session.as_deref() == Some(session.expose()),
        (SignInOutcome::RefusedForGood { reason }, Expected::Refused(wanted)) => reason == wanted,
        (SignInOutcome::TryLater { after, why }, Expected::Later(part, wanted)) => {
            why.contains(part) && after.map(|after| after.as_secs()) == *wanted
        }
        _ => false,
    };
    assert!(fits, "{script:?}: {outcome:?}");
    assert_eq!(fake.record().sign_ins.len(), 1, "{script:?} is asked for once");
}

#[tokio::test]
async fn the_request_is_what_the_file_says() {
    let fake = FakeProvider::start().await;
    let toml = fake.toml("").replace("[provider.socket]", "headers = { Authorization = \"Bearer {env:KEY}\" }\n[provider.socket]");
    let fake_provider = provider(&toml);
    let outcome = providers::sign_in(&dialer(), &fake_provider, &user("4:2")).await;
    assert!(matches!(outcome, SignInOutcome::SignedIn { .. }), "{outcome:?}");
    let asked = fake.record().sign_ins.remove(0);
    assert_eq!((asked.user.as_str(), asked.body.as_str()), ("4:2", r#"{"action":"authenticate","user_id":"4:2"}"#));
    let head = asked.head.to_ascii_lowercase();
    assert!(head.starts_with("post /sign-in http/1.1\r\n"), "{head}");
    for line in [format!("host: {}", fake.address), "authorization: bearer the-credential".into(), "content-type: application/json".into()]
    {
        assert!(head.contains(&format!("\r\n{line}\r\n")), "{line} in {head}");
    }
    assert!(!head.contains("cookie") && !head.contains("accept-encoding"), "{head}");
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let (fake, elsewhere) = (FakeProvider::start().await, FakeProvider::start().await);
    fake.sign_ins(SignInAnswer::Redirect(format!("http://{}/sign-in", elsewhere.address)));
    let outcome = providers::sign_in(&dialer(), &provider(&fake.toml("")), &user("42")).await;
    assert!(matches!(&outcome, SignInOutcome::TryLater { why, .. } if why.contains("302")), "{outcome:?}");
    assert_eq!((fake.record().sign_ins.len(), elsewhere.record().sign_ins.len()), (1, 0));
}

/// A public provider's file, whose names resolve to what the test says.
const PUBLIC: &str = r#"
[[provider]]
name = "fake"
hosts = ["games.example.com"]
[provider.sign_in]
url = "https://games.example.com/sign-in"
session = "/id"
deadline = "2s"
[provider.socket]
url = "wss://games.example.com/ws?id={session}"
connect_deadline = "2s"
[provider.messages]
type = "game-data"
"#;

#[tokio::test]
async fn a_name_that_leads_inward_is_not_dialled() {
    let public = provider(PUBLIC);
    for addresses in [
        &["127.0.0.1:443"][..],
        &["10.0.0.8:443"],
        &["100.64.0.1:443"],
        &["169.254.169.254:443"],
        &["0.0.0.0:443"],
        &["224.0.0.1:443"],
        &["[::1]:443"],
        &["[::]:443"],
        &["[fe80::1]:443"],
        &["[fd00::1]:443"],
        &["[::ffff:10.0.0.8]:443"],
        &["[64:ff9b::a00:8]:443"],
        // Among public ones, too, at any index.
        &["8.8.8.8:443", "10.0.0.8:443"],
        &["10.0.0.8:443", "8.8.8.8:443"],
    ] {
        // The reason reaches the user.
        let tells = |why: &str| addresses.iter().any(|address| why.contains(address.trim_end_matches(":443").trim_matches(['[', ']'])));
        let names = Scripted::new(&[addresses]);
        let dialer = Dialer::with(names.clone(), rustls::RootCertStore::empty()).unwrap();
        let socket = dialer.socket(&public, &user("42"), &Secret::new("x")).await.map(|_| ());
        assert!(
            matches!(&socket, Err(DialError::Forbidden(why)) if why.contains("may not be dialled")  && !tells(why)),
            "{addresses:?}: {socket:?}"
        );
        let outcome = providers::sign_in(&dialer, &public, &user("42")).await;
        assert!(
            matches!(&outcome, SignInOutcome::TryLater { why, .. } if why.contains("may not be dialled")),
            "{addresses:?}: {outcome:?}"
        );
        assert_eq!(names.asked(), 2);
    }
}

/// The name exists only in the scripted answer, which is good once and then leads inward: the hub dials the address
/// that was checked, and does not resolve again in between.
#[tokio::test]
async fn the_address_that_was_checked_is_the_one_that_is_dialled() {
    let fake = FakeProvider::start().await;
    let port = fake.address.rsplit(':').next().unwrap();
    let named = fake.toml("").replace("127.0.0.1", "fake.example");
    let own = format!("127.0.0.1:{port}");
    let names = Scripted::new(&[&[own.as_str()], &[own.as_str()], &["10.0.0.8:80"]]);
    let dialer = Dialer::with(names.clone(), rustls::RootCertStore::empty()).unwrap();
    let fake_provider = provider(&named);
    let SignInOutcome::SignedIn { session } = providers::sign_in(&dialer, &fake_provider, &user("42")).await else {
        panic!("not signed in")
    };
    let mut socket = dialer.socket(&fake_provider, &user("42"), &session).await.unwrap();
    assert_eq!(names.asked(), 2, "one question a connection");
    assert_eq!(fake.connected("42").await, session.expose());
    let head = fake.record().connections[0].head.to_ascii_lowercase();
    assert!(head.contains(&format!("host: fake.example:{port}\r\n")), "{head}");
    let again = dialer.socket(&fake_provider, &user("42"), &session).await.map(|_| ());
    assert!(matches!(again, Err(DialError::Forbidden(_))), "{again:?}");
    socket.close(None).await.unwrap();
    fake.until("the hub's close", |record| (record.connections[0].closed.as_ref()?.1 == SocketEnd::ByHub(None)).then_some(())).await;
}

/// The certificate must be trusted, and be for the name in the file, whatever the address.
#[tokio::test]
async fn a_certificate_for_another_name_is_not_taken() {
    let fake = FakeProvider::start().await;
    let (port, certificate) = behind_tls("fake.example", &fake.address).await;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate).unwrap();
    let own = format!("127.0.0.1:{port}");
    for (host, roots, trusted) in
        [("fake.example", roots.clone(), true), ("other.example", roots, false), ("fake.example", rustls::RootCertStore::empty(), false)]
    {
        let toml =
            fake.toml("").replace(&fake.address, &format!("{host}:{port}")).replace("http://", "https://").replace("ws://", "wss://");
        let fake_provider = provider(&toml);
        let dialer = Dialer::with(Scripted::new(&[&[own.as_str()]]), roots).unwrap();
        let outcome = providers::sign_in(&dialer, &fake_provider, &user("42")).await;
        let fits = match &outcome {
            SignInOutcome::SignedIn { session } => trusted && dialer.socket(&fake_provider, &user("42"), session).await.is_ok(),
            SignInOutcome::TryLater { why, .. } => !trusted && why.contains("TLS with"),
            SignInOutcome::RefusedForGood { .. } => false,
        };
        assert!(fits, "{host}, to be trusted: {trusted}: {outcome:?}");
    }
    assert_eq!(fake.record().sign_ins.len(), 1);
}

#[tokio::test]
async fn a_url_in_the_providers_answer_leads_only_to_listed_hosts() {
    let (fake, other) = (FakeProvider::start().await, FakeProvider::start().await);
    let own = fake.address.clone();
    let given = fake.toml("").replace(&format!("ws://{own}/websocket?JSESSIONID={{session}}"), "{session}");
    let fake_provider = provider(&given);
    let foreign = other.address.clone();
    for url in [
        format!("ws://{foreign}/websocket?JSESSIONID=x"),
        format!("http://{own}/"),
        "file:///etc/passwd".into(),
        format!("ws://{own}@{foreign}/"),
        format!("ws://a:b@{own}/"),
        "wss://games.example.com/".into(),
        "ws://127.0.0.1:22/".into(),
        format!("ws://{own}.example.com/"),
        "not a URL".into(),
    ] {
        fake.sign_ins(SignInAnswer::Give(url.clone()));
        let SignInOutcome::SignedIn { session } = providers::sign_in(&dialer(), &fake_provider, &user("42")).await else { panic!("{url}") };
        let socket = dialer().socket(&fake_provider, &user("42"), &session).await.map(|_| ());
        assert!(matches!(socket, Err(DialError::Forbidden(_))), "{url}: {socket:?}");
    }
    assert_eq!((fake.record().connections.len(), other.record().connections.len()), (0, 0), "no handshake was sent");
}

#[tokio::test]
async fn a_refused_or_broken_handshake_says_what_to_do_next() {
    let fake = FakeProvider::start().await;
    let fake_provider = provider(&fake.toml(""));
    let dialer = dialer();
    let SignInOutcome::SignedIn { session } = providers::sign_in(&dialer, &fake_provider, &user("42")).await else {
        panic!("not signed in")
    };
    for (door, expected) in [
        (Door::Refuse(401), None),
        (Door::Refuse(403), None),
        (Door::Refuse(302), Some("302")),
        (Door::Refuse(503), Some("503")),
        (Door::Hang, Some("did not open within")),
        (Door::WrongKey, Some("handshake is broken")),
    ] {
        fake.sockets(Behaviour::door(door));
        match (dialer.socket(&fake_provider, &user("42"), &session).await.map(|_| ()), expected) {
            (Err(DialError::Expired), None) => {}
            (Err(DialError::TryLater { why, .. }), Some(part)) if why.contains(part) => {}
            (other, _) => panic!("{door:?}: {other:?}"),
        }
    }
    fake.sockets(Behaviour::default());
    fake.expire("42");
    let spent = dialer.socket(&fake_provider, &user("42"), &session).await.map(|_| ());
    assert!(matches!(spent, Err(DialError::Expired)), "{spent:?}");
}

#[tokio::test]
async fn a_provider_that_breaks_the_protocol_is_noticed_at_once() {
    let fake = FakeProvider::start().await;
    let fake_provider = provider(&fake.toml("").replace("connect_deadline", "max_message = 2048\nconnect_deadline"));
    let dialer = dialer();
    let SignInOutcome::SignedIn { session } = providers::sign_in(&dialer, &fake_provider, &user("42")).await else {
        panic!("not signed in")
    };
    for (what, bytes) in BROKEN_FRAMES {
        fake.sockets(Behaviour::door(Door::Broken(bytes)));
        let mut socket = dialer.socket(&fake_provider, &user("42"), &session).await.unwrap();
        let heard = timeout(PATIENCE, socket.next()).await.unwrap_or_else(|_| panic!("{what}: nothing was noticed"));
        assert!(matches!(heard, Some(Err(_))), "{what}: {heard:?}");
    }
    fake.sockets(Behaviour::default().echoing());
    let mut socket = dialer.socket(&fake_provider, &user("42"), &session).await.unwrap();
    socket.send(Message::text("1")).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("{\"echo\":1}"));
    fake.connected("42").await;
    fake.say("42", &"x".repeat(2049)).await;
    let heard = timeout(PATIENCE, socket.next()).await.unwrap();
    assert!(matches!(heard, Some(Err(_))), "a message over the limit: {heard:?}");
}

async fn check(file: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_recado"));
    command.env_clear().env("KEY", "the-credential").args(["upstream", "check", file]).args(arguments).kill_on_drop(true);
    timeout(PATIENCE, command.output()).await.expect("the check ends").unwrap()
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[tokio::test]
async fn the_check_dials_only_when_told_and_ends_with_a_code_that_says_why() {
    let fake = FakeProvider::start().await;
    let file = fake.file("");
    let output = check(file.path(), &[]).await;
    assert!(output.status.success() && said(&output).contains("game-data"), "{}", said(&output));
    assert!(fake.record().sign_ins.is_empty(), "nothing is dialled without --dial");

    let dial = ["--dial", "--user", "42", "--wait", "3s"];
    let output = check(file.path(), &dial).await;
    assert!(output.status.success() && said(&output).contains("the ping is answered"), "{}", said(&output));

    fake.sockets(Behaviour::default().never_ponging());
    assert_eq!(check(file.path(), &["--dial", "--user", "42", "--wait", "200ms"]).await.status.code(), Some(69));
    fake.sockets(Behaviour::default());
    for (script, code) in [(SignInAnswer::Refuse(403), 77), (SignInAnswer::Fail(500), 69), (SignInAnswer::Accept, 0)] {
        fake.sign_ins(script);
        assert_eq!(check(file.path(), &dial).await.status.code(), Some(code));
    }
    let wrong = ProviderFile::of(&fake.toml("").replace("\"game-data\"", "\"ack\"").replace("interval", "intervall"));
    let output = check(wrong.path(), &[]).await;
    assert_eq!(output.status.code(), Some(78));
    for part in [
        "provider.fake.messages.type: \"ack\" is the name of a frame",
        "provider.fake.keepalive.intervall: unknown key; did you mean interval?",
    ] {
        assert!(said(&output).contains(part), "{part} in {}", said(&output));
    }
}

#[tokio::test]
async fn at_the_most_talkative_level_no_secret_is_logged() {
    let fake = FakeProvider::start().await;
    fake.sockets(Behaviour::default().flooding(50));
    let toml = fake.toml("").replace("[provider.socket]", "headers = { Authorization = \"Bearer {env:KEY}\" }\n[provider.socket]");
    let file = ProviderFile::of(&toml);
    for filter in ["trace", "tungstenite=trace,tokio_tungstenite=trace,hyper=trace,hyper_util=trace,rustls=trace,recado=trace"] {
        let output = check(file.path(), &["--dial", "--user", "42", "--log", filter]).await;
        let said = said(&output);
        assert!(output.status.success(), "{said}");
        let session = fake.record().sign_ins.last().unwrap().session.clone().unwrap();
        for secret in [session.as_str(), "the-credential", "\"flood\"", "protocol/v1/ping", "JSESSIONID"] {
            assert!(!said.contains(secret), "{secret} in {said}");
        }
    }
}

#[tokio::test]
async fn a_hub_with_a_wrong_provider_file_does_not_start() {
    let db = TestDb::new().await;
    let file = ProviderFile::of("[[provider]]\nname = \"a\"\n");
    let (code, said) = run_to_the_end(&TestHub::on(&db).with("RECADO_UPSTREAM_FILE", file.path())).await;
    assert_eq!(code, Some(78), "{said}");
    assert!(said.contains("provider.a.hosts: is missing") && said.contains("provider.a.socket.url: is missing"), "{said}");
    let (code, _) = run_to_the_end(&TestHub::on(&db).with("RECADO_UPSTREAM_FILE", "/nowhere/providers.toml")).await;
    assert_eq!(code, Some(78));
}

#[test]
fn every_example_is_a_provider_file() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let mut names = Vec::new();
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    for path in files.filter(|path| path.extension().is_some_and(|name| name == "toml")) {
        let text = std::fs::read_to_string(&path).unwrap();
        let all =
            providers::file::parse(&text, &|_| Ok(Some(Secret::new("x")))).unwrap_or_else(|error| panic!("{}:\n{error}", path.display()));
        names.extend(all.names().iter().map(ToString::to_string));
    }
    assert!(names.contains(&"pragmatic".to_owned()), "{names:?}");
}

/// Word for word what the former service sent to the provider and to its users.
#[test]
fn the_former_services_provider_is_spoken_to_as_before() {
    let text = std::fs::read_to_string(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/pragmatic.toml")).unwrap();
    let all = providers::file::parse(&text, &|_| Ok(Some(Secret::new("x")))).unwrap();
    let (old, who, session) = (all.taking("bet").unwrap(), user("42"), Secret::new("A1.node0"));
    let ping = r#"{"id":"1","jsonrpc":"2.0","method":"protocol/v1/ping","params":{"time":"1795279200000","seq":"1795279200000"}}"#;
    assert_eq!(old.keepalive.fill(&who, &session, 1_795_279_200_000), ping);
    assert!(old.keepalive.is_answer(r#"{"result":"pong"}"#) && !old.keepalive.is_answer(r#"{"gameResult":"pongs"}"#));
    assert_eq!(old.commands.fill(&who, &session, "bet", "b-17", r#"{"amount":1.50}"#, 0), r#"{"amount":1.50}"#);
    let made = old.messages.notification(&old.name, &who, r#"{"gameResult":7}"#);
    assert_eq!((made.kind.as_str(), made.data.as_deref()), ("game-data", Some(r#""{\"gameResult\":7}""#)));
    assert_eq!(old.texts.connected, "Conectado ao Pragmatic Play");
    assert_eq!(old.texts.disconnected, "Desconectado do Pragmatic Play");
    assert_eq!(old.texts.error_for(&old.texts.refused), "Erro na conexão: Falha na autenticação");
    let waits = (old.backoff.first.as_secs(), old.backoff.most.as_secs(), old.backoff.tries);
    assert_eq!((waits, old.idle_timeout, old.keepalive.interval), ((2, 30, 5), Duration::from_secs(600), Duration::from_secs(30)));
}

/// Signs in and opens a socket.
async fn socket_of(fake: &FakeProvider, id: &str) -> ProviderSocket {
    let (dialer, fake_provider) = (dialer(), provider(&fake.toml("")));
    let outcome = providers::sign_in(&dialer, &fake_provider, &user(id)).await;
    let SignInOutcome::SignedIn { session } = outcome else { panic!("{id}: {outcome:?}") };
    dialer.socket(&fake_provider, &user(id), &session).await.unwrap()
}

async fn next_of(socket: &mut ProviderSocket) -> Option<Message> {
    timeout(PATIENCE, socket.next()).await.expect("a frame comes").and_then(Result::ok)
}

fn code(message: Option<Message>) -> Option<u16> {
    if let Some(Message::Close(Some(frame))) = message { Some(frame.code.into()) } else { None }
}

/// The behaviour that the other tests of sessions rely on.
#[tokio::test]
async fn the_fake_provider_does_as_it_is_told() {
    let fake = FakeProvider::start().await;
    fake.sign_ins_of("refused", SignInAnswer::Refuse(403));
    let refused = providers::sign_in(&dialer(), &provider(&fake.toml("")), &user("refused")).await;
    assert!(matches!(refused, SignInOutcome::RefusedForGood { .. }), "{refused:?}");

    let (mut one, mut two) = (socket_of(&fake, "1").await, socket_of(&fake, "2").await);
    fake.say_numbered("1", 1..=3).await;
    for n in 1..=3 {
        assert_eq!(next_of(&mut one).await, Some(Message::text(format!("{{\"n\":{n}}}"))));
    }
    for text in [r#"{"bet":1}"#, r#"{"method":"protocol/v1/ping"}"#, r#"{"bet":2}"#] {
        one.send(Message::text(text)).await.unwrap();
    }
    assert_eq!(next_of(&mut one).await, Some(Message::text(r#"{"jsonrpc":"2.0","id":"1","result":"pong"}"#)));
    let commands = [r#"{"bet":1}"#, r#"{"bet":2}"#];
    fake.until("both commands", |record: &ProviderRecord| (record.commands_of("1") == commands).then_some(())).await;
    assert_eq!((fake.record().open(), fake.record().open_of("2"), fake.record().sign_ins_of("1")), (2, 1, 1));

    fake.close("1", 4401);
    assert_eq!(code(next_of(&mut one).await), Some(4401));
    fake.cut("2");
    assert_eq!(next_of(&mut two).await, None);
    fake.until("both ended", |record| (record.open() == 0).then_some(())).await;

    fake.sockets_of("3", Behaviour::default().flapping(Duration::from_millis(10), 4000));
    assert_eq!(code(next_of(&mut socket_of(&fake, "3").await).await), Some(4000));
    let wait = Duration::from_millis(200);
    fake.sockets_of("4", Behaviour::default().ponging_after(wait));
    let (mut slow, begun) = (socket_of(&fake, "4").await, Instant::now());
    slow.send(Message::text(r#"{"method":"protocol/v1/ping"}"#)).await.unwrap();
    assert!(next_of(&mut slow).await.is_some() && begun.elapsed() >= wait);

    // The deaf socket got its text first and does not read it, while the other socket reads its later one.
    fake.sockets_of("5", Behaviour::default().deaf());
    let mut deaf = socket_of(&fake, "5").await;
    deaf.send(Message::text("1")).await.unwrap();
    slow.send(Message::text("2")).await.unwrap();
    fake.until("the later text", |record| (record.commands_of("4") == ["2"]).then_some(())).await;
    let record = fake.record();
    assert!(record.commands_of("5").is_empty());
    assert!(record.sign_ins.is_sorted_by_key(|asked| asked.at) && record.connections.is_sorted_by_key(|connection| connection.at));
    assert_eq!(record.of("1").next().unwrap().said, 4);
}
