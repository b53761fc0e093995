//! Promise: HAProxy and Caddy, with the configuration that ships, pass everything that a hub takes.
//!
//! `deploy.rs` has the same tests for nginx.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::deploy::{OPERATORS, free_port, hubs_with_internal_listeners, status, the_entries_are_apart, with_internal_entry};
use super::ndjson::Sender;
use super::support::host::{given, programs, said};
use super::support::*;

/// A proxy in front of two hubs on this machine. Dropping the value ends it.
struct ProxyProgram {
    child: Child,
    address: String,
    folder: tempfile::TempDir,
}

/// What stands in a file, and what takes its place.
type Replacements = Vec<(&'static str, String)>;

/// A program and its configuration: the file, how to start it, and its text for an address and two hubs.
struct ProxyKind {
    program: &'static str,
    file: &'static str,
    arguments: fn(&Path) -> Vec<String>,
    replacements: fn(&str, [&str; 2]) -> Replacements,
}

const HAPROXY: ProxyKind = ProxyKind {
    program: "haproxy",
    file: "deploy/haproxy.cfg",
    arguments: |file| vec!["-db".to_owned(), "-f".to_owned(), file.display().to_string()],
    replacements: |address, hubs| {
        vec![
            ("bind :8080", format!("bind {address}")),
            ("server hub-1 hub-1:8080", format!("server hub-1 {}", hubs[0])),
            ("server hub-2 hub-2:8080", format!("server hub-2 {}", hubs[1])),
        ]
    },
};

const CADDY: ProxyKind = ProxyKind {
    program: "caddy",
    file: "deploy/Caddyfile",
    arguments: |file| {
        ["run", "--adapter", "caddyfile", "--config"].map(str::to_owned).into_iter().chain([file.display().to_string()]).collect()
    },
    replacements: |address, hubs| {
        vec![
            ("\n:8080 {", format!("\nhttp://{address} {{\n\tbind 127.0.0.1")),
            ("hub-1:8080", hubs[0].to_owned()),
            ("hub-2:8080", hubs[1].to_owned()),
        ]
    },
};

fn find(program: &str) -> PathBuf {
    let path = std::env::var("PATH").unwrap_or_default();
    let found = path.split(':').chain(["/usr/sbin"]).map(|folder| Path::new(folder).join(program)).find(|file| file.is_file());
    found.expect("the caller has checked that it is installed")
}

impl ProxyProgram {
    async fn before(kind: &ProxyKind, change: impl Fn(String) -> String, hubs: [&str; 2]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let address = format!("127.0.0.1:{}", free_port());
        let mut text = change(std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(kind.file)).unwrap());
        for (shipped, here) in (kind.replacements)(&address, hubs) {
            assert!(text.contains(shipped), "{}: {shipped}", kind.file);
            text = text.replace(shipped, &here);
        }
        let file = folder.path().join("configuration");
        std::fs::write(&file, text).unwrap();
        let mut command = Command::new(find(kind.program));
        command.args((kind.arguments)(&file)).env("HOME", folder.path());
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let mut proxy = Self { child: command.spawn().unwrap(), address, folder };
        eventually("the proxy listens", PATIENCE, async || {
            assert!(proxy.child.try_wait().unwrap().is_none(), "it ended: {}", proxy.log());
            tokio::net::TcpStream::connect(&proxy.address).await.ok()
        })
        .await;
        proxy
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for ProxyProgram {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Posts to ann as a sender does: with an idempotency key, again after a 502. Returns the number and the count of 502s.
async fn post_until_appended(address: &str, key: &str, title: &str) -> (i64, usize) {
    let url = format!("http://{address}/api/internal/notify");
    let body = note(title).to_user("ann").body();
    let mut refusals = 0;
    let seq = eventually("the post is appended", PATIENCE, async || {
        let request = http_client().post(&url).bearer_auth(key).header("content-type", "application/json");
        let answer = request.header("idempotency-key", title).body(body.clone()).send().await.unwrap();
        match answer.status().as_u16() {
            201 => Some(answer.json::<serde_json::Value>().await.unwrap()["seq"].as_i64().unwrap()),
            502 => {
                refusals += 1;
                None
            }
            other => panic!("{other}"),
        }
    })
    .await;
    (seq, refusals)
}

/// Everything that a hub takes, sent to the proxy: a batch just below the limit of 8 MiB and one above it, a stream of
/// lines, a WebSocket, an event stream, and a hub that dies. `is_current`: the proxy has no fault that is known.
async fn everything_passes(kind: &ProxyKind, change: impl Fn(String) -> String, is_current: bool) {
    const DATA: usize = 60_000;
    const ITEMS: i64 = 135;
    let _turn = heavy().await;
    let db = TestDb::new().await;
    let builder = TestHub::on(&db).with("RECADO_TRUSTED_PROXIES", "127.0.0.1").with("WS_HEARTBEAT_INTERVAL", "1s");
    let (mut one, other) = (builder.start().await, builder.start().await);
    let proxy = ProxyProgram::before(kind, change, [&one.address, &other.address]).await;
    let direct = std::mem::replace(&mut one.address, proxy.address.clone());
    // From here on, requests to `one` go through the proxy.
    eventually("the proxy finds the hubs ready", PATIENCE, async || (one.get("/livez", None).await.ok()?.0 == 200).then_some(())).await;
    let mut socket = TestClient::of("ann").device("socket").connect(&one).await;
    let mut page = EventSourcePage::of("ann").device("page").open(&one).await;

    let json = [("content-type", "application/json")];
    let data = format!("\"{}\"", "x".repeat(DATA));
    let notes: Vec<String> = (0..ITEMS).map(|n| note(&n.to_string()).data(&data).to_user("bob").body()).collect();
    let body = format!("{{\"items\":[{}]}}", notes.join(","));
    assert!(body.len() > 8_100_000 && body.len() < 8 << 20, "{}", body.len());
    let answer = one.post_raw("/api/internal/notify/batch", &json, body).await;
    assert_eq!((answer.status, answer.body["items"].as_array().map(|items| items.len() as i64)), (201, Some(ITEMS)), "{}", answer.body);
    // The hub refuses it, not the proxy.
    let huge = format!("{{\"items\":[\"{}\"]}}", "x".repeat(8_500_000));
    let answer = one.post_raw("/api/internal/notify/batch", &json, huge).await;
    assert_eq!((answer.status, answer.body["status"].as_u64()), (413, Some(413)), "{}", answer.body);

    let mut head = ITEMS;
    if is_current {
        // Each line is answered before the next one is sent.
        let mut sender = Sender::open(&one, one.key(), None).await;
        for n in 1..=3 {
            sender.line(&note(&format!("line {n}")).to_user("ann")).await;
            head += 1;
            assert_eq!(sender.seq().await, head);
        }
        sender.end().await;
        assert_eq!(sender.next().await, None);
    } else {
        for n in 1..=3 {
            head += 1;
            assert_eq!(one.post(&note(&format!("line {n}")).to_user("ann")).await.seq, head);
        }
    }
    for n in 1..=3 {
        assert_eq!(socket.expect_notification().await.title, format!("line {n}"));
        assert_eq!(page.message().await.title(), format!("line {n}"));
    }

    // A hub that dies costs no notification, and no post unless the proxy is an old Caddy. Nothing is appended twice.
    other.kill().await;
    for n in 1..=6 {
        head += 1;
        let (seq, refusals) = post_until_appended(&proxy.address, one.key(), &format!("after {n}")).await;
        assert_eq!(seq, head);
        assert!(refusals == 0 || !is_current, "{refusals} refusals");
    }
    let mut socket = TestClient::of("ann").device("late").since("earliest").connect(&one).await;
    socket.until("after 6").await;
    // The proxy answers these itself.
    for operator in OPERATORS {
        assert_eq!(status(&proxy.address, operator).await, 404, "{operator}");
    }
    // The query of an address has the token of an old client.
    let log = proxy.log();
    assert!(log.contains("/api/notifications/stream") || log.contains("/api/internal/notify"), "{log}");
    assert!(!log.contains(one.key()) && !log.contains("eyJ"), "a credential is in the proxy's log");
    one.address = direct;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn the_haproxy_that_ships_passes_everything_that_a_hub_takes() {
    let Some(()) = given("D16", programs(&["haproxy"])) else { return };
    everything_passes(&HAPROXY, |text| text, true).await;
}

/// Go's HTTP/1 server reads and drops the rest of a request once its answer begins, unless Caddy 2.7 turns that off: a
/// stream of lines breaks. Caddy 2.6 also answers a post with 502 after it could not connect to the first hub: the body
/// was closed by then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn the_caddy_that_ships_passes_everything_that_a_hub_takes() {
    let Some(()) = given("D16b", programs(&["caddy"])) else { return };
    let version = said(Command::new(find("caddy")).arg("version")).unwrap();
    let mut numbers = version.trim_start_matches('v').split('.').map(|number| number.trim().parse::<u32>().unwrap_or(0));
    let is_full_duplex = (numbers.next(), numbers.next()) >= (Some(2), Some(7));
    let with_lines = move |text: String| match is_full_duplex {
        true => text.replace("# enable_full_duplex", "enable_full_duplex"),
        false => text,
    };
    everything_passes(&CADDY, with_lines, is_full_duplex).await;
}

/// Posts through the entry for services, with the file of the proxy as its page says for `RECADO_INTERNAL_BIND`:
/// `probes` is the line that gets the port of the probes.
async fn services_have_an_entry(kind: &ProxyKind, probes: (&str, &str), entry: [&str; 2]) {
    let _turn = heavy().await;
    let db = TestDb::new().await;
    let (mut hubs, internals, port) = hubs_with_internal_listeners(&db).await;
    let services = free_port();
    let change = |text: String| {
        let mut text = with_internal_entry(&text);
        for (given, here) in [
            (probes.0, probes.1.replace("8081", &port.to_string())),
            (entry[0], entry[1].replace("8081", &services.to_string())),
            ("hub-1:8081", internals[0].clone()),
            ("hub-2:8081", internals[1].clone()),
        ] {
            assert!(text.contains(given), "{}: {given}", kind.file);
            text = text.replacen(given, &here, 1);
        }
        text
    };
    let addresses = [hubs[0].address.clone(), hubs[1].address.clone()];
    let proxy = ProxyProgram::before(kind, change, [&addresses[0], &addresses[1]]).await;
    the_entries_are_apart(&mut hubs, &proxy.address, &format!("127.0.0.1:{services}")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn haproxy_has_an_entry_for_services_besides_the_public_one() {
    let Some(()) = given("D16", programs(&["haproxy"])) else { return };
    let probes = ("default-server check inter 2s", "default-server check port 8081 inter 2s");
    services_have_an_entry(&HAPROXY, probes, ["bind 127.0.0.1:8081", "bind 127.0.0.1:8081"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn caddy_has_an_entry_for_services_besides_the_public_one() {
    let Some(()) = given("D16b", programs(&["caddy"])) else { return };
    let probes = ("health_uri /readyz", "health_uri /readyz\n\t\thealth_port 8081");
    services_have_an_entry(&CADDY, probes, ["http://:8081 {", "http://127.0.0.1:8081 {"]).await;
}
