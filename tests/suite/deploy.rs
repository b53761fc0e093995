//! Promise: the deployment files work as documented.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinSet;

use super::ndjson::Sender;
use super::support::host::given;
use super::support::*;

fn project(file: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap()
}

/// Paths that no proxy passes on to a hub. A hub ignores a slash at the end.
pub(super) const OPERATORS: [&str; 10] =
    ["/metrics", "/metrics/", "/stats", "/stats/", "/health", "/health/", "/admin", "/admin/", "/admin/admin.js", "/api/admin/instances"];

/// A port of loopback that is free, and below the range of ephemeral ports. No two calls get the same.
pub(super) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(20_000);
    let mut ports = std::iter::repeat_with(|| NEXT.fetch_add(7, Ordering::Relaxed)).take_while(|port| *port < 32_000);
    let is_free = |port: u16| ["127.0.0.1", "127.0.0.2"].iter().all(|host| std::net::TcpListener::bind((*host, port)).is_ok());
    ports.find(|port| is_free(*port)).expect("a free port")
}

/// The text of a proxy's file with the entry for services uncommented.
pub(super) fn with_internal_entry(text: &str) -> String {
    let mut is_inside = false;
    let mut lines = Vec::new();
    for line in text.lines() {
        let body = line.trim_start();
        if body == "# end of the internal entry" {
            assert!(is_inside, "the entry begins before it ends");
            is_inside = false;
        }
        if is_inside {
            let indent = &line[..line.len() - body.len()];
            let active = body.strip_prefix("# ").or_else(|| body.strip_prefix('#')).expect("every line of the entry is a comment");
            lines.push(format!("{indent}{active}"));
        } else {
            lines.push(line.to_owned());
        }
        is_inside |= body.starts_with("# \"end of the internal entry\"");
    }
    assert!(!is_inside, "the entry ends");
    lines.join("\n") + "\n"
}

/// Two hubs with an internal listener each, on the same ports of two addresses.
pub(super) async fn hubs_with_internal_listeners(db: &TestDb) -> (Vec<TestHub>, Vec<String>, u16) {
    let (public, internal) = (free_port(), free_port());
    let (mut hubs, mut addresses) = (Vec::new(), Vec::new());
    for host in ["127.0.0.1", "127.0.0.2"] {
        let address = format!("{host}:{internal}");
        let builder = TestHub::on(db).with("RECADO_BIND", host).with("PORT", &public.to_string());
        hubs.push(builder.with("RECADO_INTERNAL_BIND", &address).with("RECADO_TRUSTED_PROXIES", "127.0.0.1").start().await);
        addresses.push(address);
    }
    (hubs, addresses, internal)
}

/// The status of a GET. The body may be one of a proxy.
pub(super) async fn status(address: &str, path: &str) -> u16 {
    http_client().get(format!("http://{address}{path}")).send().await.unwrap().status().as_u16()
}

/// Services post through the internal entry of a proxy, and clients connect through the public one.
pub(super) async fn the_entries_are_apart(hubs: &mut [TestHub], public: &str, internal: &str) {
    let key = hubs[0].key().to_owned();
    let post = async |address: &str, title: &str| {
        let request = http_client().post(format!("http://{address}/api/internal/notify")).bearer_auth(&key);
        let request = request.header("content-type", "application/json").body(note(title).to_user("ann").body());
        request.send().await.unwrap().status().as_u16()
    };
    eventually("the proxy finds the hubs ready", PATIENCE, async || (status(public, "/livez").await == 200).then_some(())).await;
    let direct = std::mem::replace(&mut hubs[0].address, public.to_owned());
    let mut socket = TestClient::of("ann").connect(&hubs[0]).await;
    assert_eq!(post(public, "outside").await, 404, "the public listener takes no posts");
    eventually("the internal entry finds the hubs ready", PATIENCE, async || (post(internal, "inside").await == 201).then_some(())).await;
    hubs[0].address = internal.to_owned();
    let body = format!("{{\"items\":[{}]}}", note("batch").message(&"m".repeat(500)).to_user("bob").body());
    let answer = hubs[0].post_raw("/api/internal/notify/batch", &[("content-type", "application/json")], body).await;
    assert_eq!(answer.status, 201, "{}", answer.body);
    hubs[0].address = direct;
    socket.until("inside").await;
    for path in OPERATORS.iter().chain(&["/readyz", "/ws", "/api/whoami"]) {
        assert_eq!(status(internal, path).await, 404, "{path}");
    }
}

/// nginx with `deploy/nginx.conf`, in front of hubs on this machine. Dropping the value ends it.
struct Balancer {
    child: Child,
    address: String,
    folder: tempfile::TempDir,
}

impl Balancer {
    fn program() -> Result<PathBuf, String> {
        let path = std::env::var("PATH").unwrap_or_default();
        let found = path.split(':').chain(["/usr/sbin"]).map(|folder| Path::new(folder).join("nginx")).find(|file| file.exists());
        found.ok_or_else(|| "nginx is not installed".to_owned())
    }

    async fn before(program: &Path, hubs: [&str; 2]) -> Self {
        Self::with(program, hubs, project("deploy/nginx.conf")).await
    }

    async fn with(program: &Path, hubs: [&str; 2], mut text: String) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let address = format!("127.0.0.1:{}", free_port());
        let inside = |name: &str| folder.path().join(name).display().to_string();
        for (given, here) in [
            ("hub-1:8080", hubs[0].to_owned()),
            ("hub-2:8080", hubs[1].to_owned()),
            ("listen 8080;", format!("listen {address};")),
            ("/tmp/nginx.pid", inside("pid")),
            ("access_log /dev/stdout", format!("access_log {}", inside("access.log"))),
            ("error_log stderr crit", format!("error_log {} crit", inside("error.log"))),
        ] {
            assert!(text.contains(given), "{given}");
            text = text.replace(given, &here);
        }
        for name in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
            text = text.replace("http {\n", &format!("http {{\n    {name}_temp_path {};\n", inside(name)));
        }
        // If root starts nginx, its workers run as another user.
        std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let file = folder.path().join("nginx.conf");
        std::fs::write(&file, text).unwrap();
        let mut command = Command::new(program);
        command.arg("-p").arg(folder.path()).arg("-c").arg(&file).args(["-g", "daemon off;"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(std::fs::File::create(folder.path().join("stderr")).unwrap());
        let mut balancer = Self { child: command.spawn().unwrap(), address, folder };
        eventually("nginx listens", PATIENCE, async || {
            assert!(balancer.child.try_wait().unwrap().is_none(), "nginx ended: {}", balancer.said("stderr"));
            tokio::net::TcpStream::connect(&balancer.address).await.ok()
        })
        .await;
        balancer
    }

    fn said(&self, file: &str) -> String {
        std::fs::read_to_string(self.folder.path().join(file)).unwrap_or_default()
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}{}", self.said("stderr"), self.said("error.log"));
        }
        // A terminated master ends its workers; a killed one would leave them running.
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
    }
}

/// What went wrong: a batch got 413 with a page of HTML, a stream of lines got no answer before its end, and nginx 1.22
/// did not load the file.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_nginx_that_ships_passes_everything_that_a_hub_takes() {
    let Some(program) = given("D2", Balancer::program()) else { return };
    let db = TestDb::new().await;
    let builder = TestHub::on(&db).with("RECADO_TRUSTED_PROXIES", "127.0.0.1").with("WS_HEARTBEAT_INTERVAL", "1s");
    let (mut one, other) = (builder.start().await, builder.start().await);
    let balancer = Balancer::before(&program, [&one.address, &other.address]).await;
    let direct = std::mem::replace(&mut one.address, balancer.address.clone());
    // From here on, requests to `one` go through nginx.
    let mut socket = TestClient::of("ann").device("socket").connect(&one).await;
    let mut page = EventSourcePage::of("ann").device("page").open(&one).await;

    let notes: Vec<String> = (0..1000).map(|n| note(&n.to_string()).message(&"m".repeat(510)).to_user("bob").body()).collect();
    let body = format!("{{\"items\":[{}]}}", notes.join(","));
    assert!(body.len() > 570_000, "{}", body.len());
    let answer = one.post_raw("/api/internal/notify/batch", &[("content-type", "application/json")], body).await;
    assert_eq!((answer.status, answer.body["items"].as_array().map(Vec::len)), (201, Some(1000)), "{}", answer.body);

    // Larger than a hub accepts: the hub answers, not nginx.
    let huge = format!("{{\"items\":[\"{}\"]}}", "x".repeat(8_500_000));
    let answer = one.post_raw("/api/internal/notify/batch", &[("content-type", "application/json")], huge).await;
    assert_eq!((answer.status, answer.body["status"].as_u64()), (413, Some(413)), "{}", answer.body);

    // Each line is answered before the next one is sent, and reaches the socket and the page at once.
    let mut sender = Sender::open(&one, one.key(), None).await;
    for n in 1..=3 {
        sender.line(&note(&format!("line {n}")).to_user("ann")).await;
        assert_eq!(sender.seq().await, 1000 + n);
        assert_eq!(socket.expect_notification().await.title, format!("line {n}"));
        assert_eq!(page.message().await.title(), format!("line {n}"));
    }
    sender.end().await;
    assert_eq!(sender.next().await, None);

    // A stopped hub costs no post: nginx does not send posts to it.
    assert_eq!(other.stats().await["head"], 1003);
    other.kill().await;
    for n in 1..=4 {
        assert_eq!(one.post(&note(&format!("after {n}")).to_user("eve")).await.seq, 1003 + n);
    }
    let ready = tokio::time::timeout(Duration::from_secs(5), one.get("/readyz", None)).await.expect("in time").unwrap();
    assert_eq!(ready.0, 200);
    for path in OPERATORS {
        assert_eq!(status(&balancer.address, path).await, 404, "{path}");
    }
    // nginx writes no token to its logs.
    assert!(balancer.said("access.log").contains("/api/notifications/stream"));
    for file in ["access.log", "error.log", "stderr"] {
        assert!(!balancer.said(file).contains("token="), "{file}");
    }
    one.address = direct;
}

/// What went wrong: with `max_fails=1` nginx marked a hub that stopped as failed. The mark is removed when a later
/// request to the hub ends, and streams do not end: after the other hub stopped, nginx answered 502 while a hub was
/// running. An `EventSource` does not return after a 502.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn nginx_refuses_no_stream_during_a_rolling_stop() {
    const PAGES: usize = 10;
    const RETRY: Duration = Duration::from_millis(200);
    let Some(program) = given("D2c", Balancer::program()) else { return };
    let _turn = heavy().await;
    let db = TestDb::new().await;
    let builders = [(); 2].map(|()| TestHub::on(&db).with("PORT", &free_port().to_string()).with("RECADO_DRAIN_WINDOW", "500ms"));
    let mut hubs = [builders[0].start().await, builders[1].start().await];
    let balancer = Balancer::before(&program, [&hubs[0].address, &hubs[1].address]).await;
    // Only streams use the upstream.
    let refusals = Arc::new(Mutex::new(Vec::new()));
    let mut pages = JoinSet::new();
    for n in 0..PAGES {
        let url = format!("http://{}{}", balancer.address, EventSourcePage::of("ann").device(&n.to_string()).target());
        let refusals = Arc::clone(&refusals);
        pages.spawn(async move {
            loop {
                // Not as an EventSource: it gets the status of the proxy, not a `goodbye`.
                let mut answer = http_client().get(&url).send().await.unwrap();
                if answer.status() != 200 {
                    refusals.lock().unwrap().push(answer.status().as_u16());
                }
                while let Ok(Some(_)) = answer.chunk().await {}
                tokio::time::sleep(RETRY).await;
            }
        });
    }
    let all_are_connected = async |hubs: &[&TestHub]| {
        eventually("every page is connected", PATIENCE, async || {
            let mut count = 0.0;
            for hub in hubs {
                count += hub.metric("recado_connections").await;
            }
            (count >= PAGES as f64).then_some(())
        })
        .await;
    };
    all_are_connected(&[&hubs[0], &hubs[1]]).await;
    for at in [0, 1, 0, 1] {
        hubs[at].signal("-TERM").await;
        hubs[at].ended(PATIENCE).await;
        // nginx finds out that the hub is gone before it is there again.
        all_are_connected(&[&hubs[1 - at]]).await;
        hubs[at] = builders[at].start().await;
    }
    pages.shutdown().await;
    assert_eq!(*refusals.lock().unwrap(), Vec::<u16>::new(), "a hub was running all the time");

    // Without any hub, an EventSource is told to come back. Everything else gets the status.
    let [one, other] = hubs;
    let mut third = builders[0].clone().with("PORT", "0").start().await;
    let direct = std::mem::replace(&mut third.address, balancer.address.clone());
    one.kill().await;
    other.kill().await;
    let (goodbye, retry) = EventSourcePage::of("ann").put_off(&third).await;
    assert_eq!((goodbye["reason"].as_str(), retry), (Some("unavailable"), Some(5000)), "{goodbye}");
    for path in [&*EventSourcePage::of("ann").target(), "/api/whoami"] {
        assert_eq!(status(&balancer.address, path).await, 502, "{path}");
    }
    third.address = direct;
}

/// What went wrong: with `RECADO_INTERNAL_BIND` the proxy answered 404 to every post, and the file had no entry for
/// services.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn nginx_has_an_entry_for_services_besides_the_public_one() {
    let Some(program) = given("D2", Balancer::program()) else { return };
    let db = TestDb::new().await;
    let (mut hubs, internals, _) = hubs_with_internal_listeners(&db).await;
    let entry = format!("127.0.0.1:{}", free_port());
    let mut text = with_internal_entry(&project("deploy/nginx.conf"));
    for (given, here) in
        [("listen 127.0.0.1:8081;", format!("listen {entry};")), ("hub-1:8081", internals[0].clone()), ("hub-2:8081", internals[1].clone())]
    {
        assert!(text.contains(given), "{given}");
        text = text.replace(given, &here);
    }
    let balancer = Balancer::with(&program, [&hubs[0].address.clone(), &hubs[1].address.clone()], text).await;
    the_entries_are_apart(&mut hubs, &balancer.address, &entry).await;
}

/// Every route that accepts a batch or a stream of lines needs the location without a limit: the limits of nginx are
/// 1 MiB by default and 9 MiB in the rest of our file, and a stream has no length.
///
/// Fails if the location is missing, if its pattern misses a route, or if it limits or buffers a body.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn nginx_limits_no_batch_and_buffers_no_stream_of_lines() {
    const DATA: usize = 60_000;
    let Some(program) = given("D2b", Balancer::program()) else { return };
    let _turn = heavy().await;
    let db = TestDb::new().await;
    let builder = TestHub::on(&db).with("RECADO_TRUSTED_PROXIES", "127.0.0.1");
    let (mut one, other) = (builder.start().await, builder.start().await);
    let balancer = Balancer::before(&program, [&one.address, &other.address]).await;
    let direct = std::mem::replace(&mut one.address, balancer.address.clone());
    let large = |title: &str| note(title).data(&format!("\"{}\"", "x".repeat(DATA))).to_user("bob");
    let json = [("content-type", "application/json")];

    // Larger than nginx accepts by default.
    let notes: Vec<String> = (0..20).map(|n| large(&n.to_string()).body()).collect();
    let body = format!("{{\"items\":[{}]}}", notes.join(","));
    assert!(body.len() > 1 << 20, "{}", body.len());
    let answer = one.post_raw("/api/internal/notify/batch", &json, body).await;
    assert_eq!((answer.status, answer.body["items"].as_array().map(Vec::len)), (201, Some(20)), "{}", answer.body);
    // Larger than the rest of the file accepts: the hub refuses it, with a problem body.
    let huge = format!("{{\"items\":[\"{}\"]}}", "x".repeat(10 << 20));
    let answer = one.post_raw("/api/internal/notify/batch", &json, huge).await;
    assert_eq!((answer.status, answer.body["status"].as_u64()), (413, Some(413)), "{}", answer.body);

    // Longer than the rest of the file accepts, and each group of lines is answered before the next one is sent.
    let mut head = 20;
    for path in ["/api/internal/notify/batch", "/api/internal/notify/ndjson"] {
        let mut sender = Sender::open_at(path, &one, one.key(), None).await;
        let mut sent = 0;
        while sent <= 10 << 20 {
            for n in 0..20 {
                sender.line(&large(&format!("{path} {n}"))).await;
                sent += DATA;
            }
            for _ in 0..20 {
                head += 1;
                assert_eq!(sender.seq().await, head, "{path}");
            }
        }
        sender.end().await;
        assert_eq!(sender.next().await, None, "{path}");
    }
    assert_eq!(db.head().await, head);
    one.address = direct;
}

/// Reads the scalars of a YAML file by their paths, such as `services.hub-1.build`; the path of a list item ends in its
/// number. Supports the YAML of our file: maps and lists by indentation, short lists in brackets, anchors and merges,
/// comments.
fn yaml(text: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut path: Vec<(usize, String)> = Vec::new();
    let mut count: BTreeMap<String, usize> = BTreeMap::new();
    let mut anchors: BTreeMap<String, String> = BTreeMap::new();
    let mut folded = None;
    for line in text.lines() {
        let body = line.trim_start();
        if body.is_empty() || body.starts_with('#') {
            continue;
        }
        let indent = line.len() - body.len();
        if folded.is_some_and(|at| indent > at) {
            continue;
        }
        folded = None;
        while path.last().is_some_and(|(at, _)| *at >= indent) {
            path.pop();
        }
        let at = |path: &[(usize, String)], name: &str| {
            let names = path.iter().map(|(_, name)| name.as_str()).chain([name]);
            names.collect::<Vec<_>>().join(".")
        };
        if let Some(item) = body.strip_prefix("- ") {
            let list = at(&path[..path.len() - 1], &path.last().expect("a list has a name").1);
            let place = count.entry(list.clone()).or_default();
            found.insert(format!("{list}.{place}"), item.trim_matches('"').to_owned());
            *place += 1;
            continue;
        }
        let (name, value) = body.split_once(':').unwrap_or_else(|| panic!("neither a key nor an item: {line}"));
        let (here, value) = (at(&path, name), value.split(" #").next().unwrap_or_default().trim());
        match (name, value.chars().next()) {
            ("<<", _) => {
                let from = anchors[value.trim_start_matches('*')].clone();
                let to = here.trim_end_matches(".<<").to_owned();
                let merged: Vec<_> = found
                    .iter()
                    .filter_map(|(key, value)| Some((format!("{to}{}", key.strip_prefix(&from)?), value.clone())))
                    .filter(|(key, _)| key.starts_with(&format!("{to}.")))
                    .collect();
                found.extend(merged);
            }
            (_, None | Some('&')) => {
                if let Some(anchor) = value.strip_prefix('&') {
                    anchors.insert(anchor.to_owned(), here.clone());
                }
                found.insert(here, String::new());
                path.push((indent, name.to_owned()));
            }
            (_, Some('>' | '|')) => folded = Some(indent),
            _ => {
                found.insert(here, value.trim_matches('"').to_owned());
            }
        }
    }
    found
}

fn under<'a>(all: &'a BTreeMap<String, String>, prefix: &str) -> BTreeMap<&'a str, &'a str> {
    all.iter().filter_map(|(path, value)| Some((path.strip_prefix(prefix)?.strip_prefix('.')?, value.as_str()))).collect()
}

fn is_a_setting(name: &str) -> bool {
    project("docs/reference/settings.md").contains(&format!("\n| `{name}`"))
}

/// What went wrong: both services built one image name, and the file had no setting for a provider file.
#[test]
fn docker_compose_builds_once_and_has_a_slot_for_a_provider_file() {
    let text = project("docker-compose.yml");
    let plain = yaml(&text);
    let services: BTreeSet<&str> = under(&plain, "services").into_keys().filter(|name| !name.contains('.')).collect();
    assert_eq!(services, BTreeSet::from(["balancer", "hub-1", "hub-2", "postgres"]));
    let of = |name: &str, key: &str| plain.get(&format!("services.{name}.{key}")).map(String::as_str);
    assert_eq!((of("hub-1", "image"), of("hub-2", "image")), (Some("recado"), Some("recado")), "merged from x-hub");
    let builders: Vec<&str> = services.iter().copied().filter(|name| of(name, "build").is_some()).collect();
    assert_eq!(builders, ["hub-1"], "one build an image name");
    assert_eq!(of("hub-2", "pull_policy"), Some("never"), "an image that is built here is nowhere to be pulled from");

    // With the provider lines uncommented, the setting names a mounted file.
    let slot = ["RECADO_UPSTREAM_FILE:", "RECADO_UPSTREAM_KEY:", "volumes:", "  - ./providers.toml"];
    let filled: Vec<String> = text
        .lines()
        .map(|line| match line.split_once("# ").filter(|(_, rest)| slot.iter().any(|start| rest.starts_with(start))) {
            Some((indent, rest)) if indent.trim().is_empty() => format!("{indent}{rest}"),
            _ => line.to_owned(),
        })
        .collect();
    let filled = yaml(&filled.join("\n"));
    for hub in ["hub-1", "hub-2"] {
        let file = &filled[&format!("services.{hub}.environment.RECADO_UPSTREAM_FILE")];
        let mounts = under(&filled, &format!("services.{hub}.volumes"));
        assert!(mounts.values().any(|mount| mount.split(':').nth(1) == Some(file.as_str())), "{hub}: {file} {mounts:?}");
        assert!(filled[&format!("services.{hub}.environment.RECADO_UPSTREAM_KEY")].contains("RECADO_UPSTREAM_KEY"));
        for name in under(&filled, &format!("services.{hub}.environment")).keys().filter(|name| **name != "RECADO_URL") {
            assert!(is_a_setting(name), "{name} is no setting");
        }
    }
    // The example lists every variable without a default.
    let example = project("deploy/env.example");
    for (variable, rest) in text.lines().flat_map(|line| line.split("${").skip(1)).filter_map(|part| part.split_once([':', '}'])) {
        let is_optional = rest.starts_with('-') || variable == "RECADO_UPSTREAM_KEY";
        assert!(is_optional || example.contains(&format!("\n{variable}=")), "{variable}");
    }
}

#[test]
fn the_balancer_of_docker_compose_knows_its_hubs_and_is_believed_by_them() {
    let compose = yaml(&project("docker-compose.yml"));
    let address = |name: &str| compose[&format!("services.{name}.networks.default.ipv4_address")].clone();
    assert_eq!(compose["x-hub.environment.RECADO_TRUSTED_PROXIES"], address("balancer"));
    let hosts: BTreeSet<String> = under(&compose, "services.balancer.extra_hosts").into_values().map(str::to_owned).collect();
    assert_eq!(hosts, BTreeSet::from(["hub-1", "hub-2"].map(|hub| format!("{hub}:{}", address(hub)))));
    let nginx = project("deploy/nginx.conf");
    for hub in ["hub-1", "hub-2"] {
        assert!(nginx.contains(&format!("server {hub}:8080 ")), "{hub}");
    }
    assert!(!nginx.contains(" resolve"), "open source nginx knows it from 1.27.3 on");
}

/// What went wrong: the service got its database as a credential, and the command of the next block did not. It made a
/// private server, with the new key in it.
#[test]
fn commands_of_the_install_page_get_the_credentials_of_the_service() {
    let page = project("docs/guides/install.md");
    let (_, part) = page.split_once("LoadCredential=").unwrap();
    let names: Vec<&str> = part
        .split([' ', '='])
        .zip(part.split([' ', '=']).skip(1))
        .filter(|(_, value)| value.starts_with("%d/"))
        .map(|(name, _)| name)
        .collect();
    assert_eq!(names, ["RECADO_JWT_SECRET_FILE", "DATABASE_URL_FILE"]);
    let commands: Vec<&str> = page.split("```").filter(|block| block.starts_with("sh\n") && block.contains("systemd-run")).collect();
    assert_eq!(commands.len(), 1);
    for name in names {
        assert!(commands[0].contains(&format!("-E {name}=/etc/recado/")), "{name}");
    }
    let without: Vec<&str> = commands[0].lines().filter(|line| line.starts_with("recado ")).collect();
    assert_eq!(without, Vec::<&str>::new(), "these run without the settings");
}

/// What went wrong: without the setting every browser page was refused.
#[test]
fn fly_names_the_pages_and_gives_a_hub_the_time_that_it_takes_to_stop() {
    let fly: toml::Table = project("fly.toml").parse().unwrap();
    let env = fly["env"].as_table().unwrap();
    for name in env.keys() {
        assert!(is_a_setting(name), "{name} is no setting");
    }
    let text = |name: &str| env[name].as_str().unwrap();
    assert!(text("RECADO_ALLOWED_ORIGINS").starts_with("https://"));
    let seconds = |value: &str| value.trim_end_matches('s').parse::<u64>().unwrap();
    // The drain window, and twice the grace period of four seconds for running tasks.
    assert!(seconds(fly["kill_timeout"].as_str().unwrap()) > seconds(text("RECADO_DRAIN_WINDOW")) + 8);
    let service = &fly["services"].as_array().unwrap()[0];
    assert!(project("Dockerfile").contains(&format!("PORT={}", service["internal_port"].as_integer().unwrap())));
    let most: i64 = text("WS_MAX_CONNECTIONS").parse().unwrap();
    assert!(most < service["concurrency"]["hard_limit"].as_integer().unwrap());
}
