//! Tests the console in a real browser, against real hubs, under the real Content-Security-Policy.
//!
//! The stories are in `web/test`; each runs in a process of its own. A console message of the page, or a request to
//! another host, fails a story. Skipped with a message where there is no Chromium, no Node, or no `npm ci` in `web`.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use chrono::{DateTime, Utc};
use recado::domain::Role;
use recado::identity::{OwnSecret, sign_in_link};
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::time::timeout;

use super::support::*;

/// A browser takes seconds to start, and many on a busy machine.
const STORY_LIMIT: Duration = Duration::from_secs(300);
const KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
/// Text that runs a script where it is not shown as text.
const HOSTILE: &str = "<img src=x onerror=hacked=1><script>hacked=2</script>\"'`${hacked=3}";

fn web() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("web")
}

/// Whether stories can run here; says why not.
fn can_run() -> bool {
    let chromium = std::env::var_os("CHROMIUM").map_or_else(|| PathBuf::from("/usr/bin/chromium"), PathBuf::from);
    let driver = web().join("node_modules/playwright-core");
    let missing = [(chromium, "no Chromium"), (driver, "no `npm ci` in web")].into_iter().find(|(path, _)| !path.exists());
    if let Some((_, why)) = missing {
        eprintln!("SKIPPED: {why} here; what the console does in a browser is not tried");
    }
    missing.is_none()
}

/// Two hubs of one database with a provider.
struct Scene {
    db: TestDb,
    hub: TestHub,
    other: TestHub,
    provider: FakeProvider,
    _file: ProviderFile,
}

impl Scene {
    async fn new() -> Self {
        let (db, provider) = (TestDb::new().await, FakeProvider::start().await);
        let file = provider.file("");
        let builder = TestHub::on(&db).with("RECADO_UPSTREAM_FILE", file.path()).with("RECADO_UPSTREAM_KEY", KEY);
        let builder = builder.with("RECADO_RETENTION_AGE", "90d");
        let (hub, other) = tokio::join!(builder.start(), builder.start());
        Self { db, hub, other, provider, _file: file }
    }

    /// Runs a story to its end; returns its last line.
    async fn story(&self, name: &str) -> String {
        let secret = OwnSecret { kid: None, secret: SECRET.to_owned() };
        let link = |made: DateTime<Utc>| sign_in_link::make(&secret, made, Duration::from_secs(3600));
        let scene = json!({
            "link": link(Utc::now()),
            "expired": link(Utc::now() - sign_in_link::LINK_LIFE),
            "url": format!("http://{}", self.hub.address),
            "other": format!("http://{}", self.other.address),
            "token": service_token("operator", Role::Admin),
            "service": service_token("shop", Role::Service),
            "hostile": HOSTILE,
        });
        // Where the machine's Node is too old for the packages, CI has installed a newer one here.
        let newer = web().join("../target/node-22/node_modules/.bin/node");
        let mut node = Command::new(if newer.exists() { newer } else { PathBuf::from("node") });
        node.arg(web().join("test/story.mjs")).arg(name).env("CONSOLE_SCENE", scene.to_string());
        node.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let output = timeout(STORY_LIMIT, node.output()).await.expect("the story ends in time").expect("node runs");
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{name}:\n{said}");
        eprintln!("{said}");
        said.trim().lines().last().unwrap_or_default().to_owned()
    }

    /// The acts of the audit of this kind.
    async fn acts(&self, what: &str) -> usize {
        let (_, page) =
            self.hub.get(&format!("/api/admin/audit?what={what}"), Some(&service_token("operator", Role::Admin))).await.unwrap();
        serde_json::from_str::<Value>(&page).unwrap()["acts"].as_array().unwrap().len()
    }

    /// Notifications of several kinds, some with hostile texts.
    async fn posts(&self) {
        for n in 1..=12 {
            self.hub.post(&note(&format!("order {n}")).message("for ann").to_user("ann")).await;
        }
        self.hub.post(&note("to all of an account").account("7")).await;
        let data = json!({ "text": HOSTILE }).to_string();
        self.hub.post(&note(HOSTILE).message(HOSTILE).data(&data).to_user("ann")).await;
        self.hub.post(&note("to everyone").to_everyone()).await;
    }
}

/// Clients that stay connected: ann acknowledges nothing, and three users of account 9 are there to be closed.
async fn clients(scene: &Scene) -> Vec<TestClient> {
    let mut all = vec![
        TestClient::of("ann").account("7").device("web-1").query("ack", "client").connect(&scene.hub).await,
        TestClient::of("ann").account("7").device("phone").query("inbox", "1").connect(&scene.other).await,
        TestClient::of("bob").device("web-2").connect(&scene.other).await,
        TestClient::of("eve").device("web-3").connect(&scene.hub).await,
    ];
    for user in ["cat-1", "cat-2", "cat-3"] {
        all.push(TestClient::of(user).account("9").device("tablet").connect(&scene.hub).await);
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn each_page_shows_and_acts() {
    if !can_run() {
        return;
    }
    let scene = Scene::new().await;
    scene.provider.sign_ins_of("eve", SignInAnswer::RefuseInBody);
    let _clients = clients(&scene).await;
    scene.posts().await;
    scene.story("pages").await;
    for (what, count) in [("session.close", 2), ("user.revoke", 1), ("user.lift", 1), ("device.ack", 1), ("instance.drain", 1)] {
        assert_eq!(scene.acts(what).await, count, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn a_newcomer_sees_in_the_playground_that_nothing_is_missed() {
    if !can_run() {
        return;
    }
    let scene = Scene::new().await;
    scene.story("playground").await;
    assert!(scene.acts("token.mint").await >= 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn the_console_works_by_keyboard_alone_and_on_a_phone() {
    if !can_run() {
        return;
    }
    let scene = Scene::new().await;
    let _clients = clients(&scene).await;
    scene.posts().await;
    scene.story("keyboard").await;
    scene.story("phone").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn hostile_texts_stay_texts_and_the_token_stays_in_the_page() {
    if !can_run() {
        return;
    }
    let scene = Scene::new().await;
    let _clients = clients(&scene).await;
    scene.posts().await;
    scene.provider.connected("ann").await;
    scene.provider.say("ann", &json!({ "text": HOSTILE }).to_string()).await;
    scene.story("hostile").await;
    let said = scene.hub.said();
    assert!(!said.contains(&service_token("operator", Role::Admin)[..40]), "the hub logged the token: {said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn ten_thousand_sessions_of_two_instances_scroll_sort_and_filter_within_a_frame() {
    if !can_run() {
        return;
    }
    let scene = Scene::new().await;
    scene.posts().await;
    for instance in 1..=2 {
        sessions_elsewhere(&scene.db, instance, 5_000).await;
    }
    scene.story("ten_thousand").await;
}

/// Stores open sessions of an instance that is not there, whose heartbeat lies in the future.
async fn sessions_elsewhere(db: &TestDb, instance: u32, count: u32) {
    let id = uuid::Uuid::new_v4();
    db.run(&format!(
        "INSERT INTO recado.instance (instance_id, address, version, seen_at)
         VALUES ('{id}', '192.0.2.{instance}:3000', 'test', now() + interval '1 day');
         INSERT INTO recado.session (session_id, instance_id, user_id, account_ids, client_id, transport, log_id, from_seq, sent_seq, acked_seq,
                                     connected_at, last_activity_at, own_acked_seq, device_seq, is_kept)
         SELECT gen_random_uuid(), '{id}', 'user-{instance}-' || n, ARRAY[(n % 40)::text], 'web-' || n % 7,
                CASE WHEN n % 5 = 0 THEN 'sse' ELSE 'websocket' END, m.log_id, 0, n % 15, n % 15,
                now() - n * interval '1 second', now() - n * interval '10 milliseconds', n % 15, n % 15, false
           FROM recado.meta m, generate_series(1, {count}) n"
    ))
    .await;
}

/// Takes the pictures of docs/images/console from real hubs. It is run by hand after the page has changed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "by hand: writes pictures into docs"]
async fn by_hand_the_pictures_of_the_guide() {
    if !can_run() {
        return;
    }
    let scene = Scene::new().await;
    scene.provider.sign_ins_of("eve", SignInAnswer::RefuseInBody);
    let mut all = clients(&scene).await;
    for n in 1..=40 {
        let (hub, account) = if n % 3 == 0 { (&scene.other, "12") } else { (&scene.hub, "7") };
        let client = TestClient::of(&format!("user-{n}")).account(account).device(if n % 4 == 0 { "phone" } else { "web" });
        all.push(client.query("ack", if n % 5 == 0 { "client" } else { "pong" }).connect(hub).await);
    }
    scene.story("screenshots").await;
}
