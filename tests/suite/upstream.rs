//! Tests provider sessions: each user has one, one hub holds it, and it outlives that hub.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::support::provider::{Behaviour, FakeProvider, ProviderFile, SignInAnswer, SocketEnd};
use super::support::*;

const LEASE: Duration = Duration::from_secs(3);

pub fn holding(builder: HubBuilder, file: &ProviderFile) -> HubBuilder {
    let key = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
    let builder = builder.with("RECADO_UPSTREAM_FILE", file.path()).with("RECADO_UPSTREAM_KEY", key);
    builder.with("RECADO_UPSTREAM_LEASE", "3s").with("RECADO_DRAIN_WINDOW", "1s")
}

/// Reads frames until the last of the provider's numbers has come; returns all of them, in order.
async fn numbers_to(client: &mut TestClient, last: u64) -> Vec<u64> {
    let mut got = Vec::new();
    while got.last() != Some(&last) {
        if let ClientSawFrame::Notification(notification) = client.next_frame().await {
            // `upstream_gaps.rs` tests the positions of these.
            if notification.kind == "upstream_gap" {
                continue;
            }
            assert_eq!(notification.kind, "game-data");
            let text: String = serde_json::from_str(&notification.data).expect("the provider's text, as a string");
            got.push(serde_json::from_str::<Value>(&text).unwrap()["n"].as_u64().unwrap());
        }
    }
    got
}

/// The next frame of this type; skips others.
pub async fn next_of(client: &mut TestClient, kind: &str) -> Value {
    loop {
        match client.next_frame().await {
            ClientSawFrame::Other(value) if value["type"] == kind => return value,
            ClientSawFrame::Ended(ended) => panic!("{kind} was to come, not {ended:?}"),
            _ => {}
        }
    }
}

/// The hub that holds the user's session, as its index in the list.
pub async fn owner(db: &TestDb, hubs: &[TestHub]) -> usize {
    eventually("somebody holds the session", PATIENCE, async || {
        let owner = "SELECT coalesce(max(split_part(i.address, ':', 2)), '0')::bigint FROM recado.upstream_session s \
                     JOIN recado.instance i ON i.instance_id = s.owner WHERE s.state = 'live'";
        let port = db.number(owner).await;
        hubs.iter().position(|hub| hub.address.ends_with(&format!(":{port}")))
    })
    .await
}

pub fn bet(id: u64) -> String {
    json!({"type": "bet", "id": format!("b-{id}"), "payload": {"chip": id}}).to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_old_frontends_journey() {
    let (db, provider) = (TestDb::new().await, FakeProvider::start().await);
    let file = provider.file(
        "[provider.texts]\nconnected = \"Conectado ao Pragmatic Play\"\ndisconnected = \"Desconectado do Pragmatic Play\"\nerror = \"Erro na conexão: {reason}\"",
    );
    let hub = holding(TestHub::on(&db), &file).start().await;
    let mut page = TestClient::of("42").connect(&hub).await;
    let status = next_of(&mut page, "status").await;
    assert_eq!(status, json!({"type": "status", "status": "connected", "message": "Conectado ao Pragmatic Play"}));

    // The fields that the old dashboard read.
    let connections = hub.stats().await["connections"].clone();
    assert_eq!((&connections[0]["userId"], &connections[0]["pragmaticConnected"]), (&json!("42"), &json!(true)), "{connections}");

    let said = r#"{"gameResult":{"score":"17"}}"#;
    provider.say("42", said).await;
    let result = page.expect_notification().await;
    assert_eq!((result.kind.as_str(), result.data), ("game-data", Value::from(said).to_string()));

    page.say(r#"{"type":"ping"}"#).await;
    assert!(next_of(&mut page, "pong").await["timestamp"].is_u64());
    page.say(r#"{"type":"bet","payload":{"chip":5,"on":"17"}}"#).await;
    let bets = provider.until("the bet", |record| Some(record.commands_of("42")).filter(|bets| !bets.is_empty())).await;
    assert_eq!(bets, [r#"{"chip":5,"on":"17"}"#]);
    assert_eq!(next_of(&mut page, "command_result").await["status"], "sent");

    provider.sign_ins(SignInAnswer::Refuse(403));
    provider.expire("42");
    provider.close("42", 1000);
    let status = next_of(&mut page, "status").await;
    assert_eq!(status, json!({"type": "status", "status": "disconnected", "message": "Desconectado do Pragmatic Play"}));
    let error = next_of(&mut page, "error").await;
    assert_eq!(error["message"], "Erro na conexão: no such player");
    provider.until("the refusals", |record| (record.sign_ins_of("42") == 4).then_some(())).await;
    eventually("it is given up", PATIENCE, async || {
        (db.number("SELECT count(*) FROM recado.upstream_session WHERE state = 'refused' AND owner IS NULL").await == 1).then_some(())
    })
    .await;
    assert_eq!(hub.stats().await["connections"][0]["pragmaticConnected"], false);
    // A page that is loaded again does not make the hub ask again at once.
    let _again = TestClient::of("42").connect(&hub).await;
    let mut other = TestClient::of("43").connect(&hub).await;
    next_of(&mut other, "error").await;
    assert_eq!(provider.record().sign_ins_of("42"), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_device_on_every_hub_gets_each_message_once_and_resumes() {
    let (db, provider) = (TestDb::new().await, FakeProvider::start().await);
    let file = provider.file("");
    let hubs = [holding(TestHub::on(&db), &file).start().await, holding(TestHub::on(&db), &file).start().await];
    let mut phone = TestClient::of("42").device("phone").connect(&hubs[0]).await;
    let mut desk = TestClient::of("42").device("desk").connect(&hubs[1]).await;
    next_of(&mut phone, "status").await;
    next_of(&mut desk, "status").await;
    provider.say_numbered("42", 1..=50).await;
    assert_eq!(numbers_to(&mut phone, 50).await, (1..=50).collect::<Vec<_>>());
    let last = {
        assert_eq!(numbers_to(&mut desk, 50).await, (1..=50).collect::<Vec<_>>());
        db.head().await
    };
    desk.ack(last).await;
    eventually("the position is stored", PATIENCE, async || (db.place("42", "desk").await == Some(last)).then_some(())).await;
    desk.close().await;
    provider.say_numbered("42", 51..=80).await;
    assert_eq!(numbers_to(&mut phone, 80).await, (51..=80).collect::<Vec<_>>());
    let mut desk = TestClient::of("42").device("desk").connect(&hubs[0]).await;
    assert_eq!(numbers_to(&mut desk, 80).await, (51..=80).collect::<Vec<_>>());
    let record = provider.record();
    assert_eq!((record.sign_ins_of("42"), record.of("42").count()), (1, 1), "one session, whatever the number of devices");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn a_killed_owner_is_followed_within_its_lease_with_the_same_session_id() {
    let (db, provider) = (TestDb::new().await, FakeProvider::start().await);
    let file = provider.file("");
    let mut hubs = vec![holding(TestHub::on(&db), &file).start().await, holding(TestHub::on(&db), &file).start().await];
    let mut pages = join_all(hubs.iter().map(async |hub| TestClient::of("42").device(&hub.address).connect(hub).await)).await;
    let session = provider.connected("42").await;
    let at = owner(&db, &hubs).await;
    hubs.remove(at).kill().await;
    let killed = Instant::now();
    pages.remove(at);
    provider.until("it is connected again", |record| (record.of("42").count() == 2 && record.open_of("42") == 1).then_some(())).await;
    assert!(killed.elapsed() < LEASE + Duration::from_secs(5), "{:?}", killed.elapsed());
    assert_eq!(provider.connected("42").await, session);
    assert_eq!(provider.record().sign_ins_of("42"), 1, "the session id was kept");
    provider.say_numbered("42", 1..=3).await;
    assert_eq!(numbers_to(&mut pages[0], 3).await, [1, 2, 3]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn a_frozen_owner_that_wakes_after_its_lease_does_nothing_and_hangs_up() {
    let (db, provider) = (TestDb::new().await, FakeProvider::start().await);
    let file = provider.file("");
    let hubs = [holding(TestHub::on(&db), &file).start().await, holding(TestHub::on(&db), &file).start().await];
    let mut pages = join_all(hubs.iter().map(async |hub| TestClient::of("42").device(&hub.address).connect(hub).await)).await;
    provider.connected("42").await;
    let at = owner(&db, &hubs).await;
    let heir = &mut pages[1 - at];
    hubs[at].signal("-STOP").await;
    provider.until("the other one is connected", |record| (record.of("42").count() == 2 && record.open_of("42") == 2).then_some(())).await;
    // Work that the frozen hub must not do: messages to append, and a keep-alive that is long due.
    provider.say_numbered("42", 1..=5).await;
    assert_eq!(numbers_to(heir, 5).await, [1, 2, 3, 4, 5]);
    heir.say(&bet(1)).await;
    assert_eq!(next_of(heir, "command_result").await["status"], "sent");
    let heard = |record: &provider::ProviderRecord| record.of("42").next().unwrap().heard.len();
    let before = heard(&provider.record());
    hubs[at].signal("-CONT").await;
    let woken = Instant::now();
    let hung_up = provider.until("it hangs up", |record| record.of("42").next()?.closed.clone().map(|(_, ending)| ending)).await;
    assert!(woken.elapsed() < Duration::from_secs(1), "{:?}", woken.elapsed());
    assert_eq!((hung_up, heard(&provider.record())), (SocketEnd::Broken, before), "not a word, not even goodbye");
    provider.say_numbered("42", [6]).await;
    assert_eq!(numbers_to(heir, 6).await, [6]);
    assert_eq!(db.number("SELECT count(*) FROM recado.log WHERE type = 'game-data'").await, 6, "what both heard is in the log once");
    assert_eq!(provider.record().commands_of("42").len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn an_owner_that_is_cut_off_from_the_database_hangs_up_before_its_lease_ends() {
    let (db, provider) = (TestDb::new().await, FakeProvider::start().await);
    let file = provider.file("");
    let proxy = TestProxy::before(&db.url()).await;
    let hub = holding(TestHub::on(&db), &file).with("DATABASE_URL", &db.url_at(proxy.port)).start().await;
    let _page = TestClient::of("42").connect(&hub).await;
    provider.connected("42").await;
    proxy.set(ProxyFlow::Hole);
    let cut = Instant::now();
    provider.until("it hangs up", |record| (record.open() == 0).then_some(())).await;
    assert!(cut.elapsed() < LEASE, "{:?}", cut.elapsed());
    proxy.cut(Cut::Rst);
    proxy.set(ProxyFlow::Pass);
    provider.connected("42").await;
    assert_eq!(provider.record().sign_ins_of("42"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn a_provider_that_falls_silent_is_dialled_again() {
    let (db, provider) = (TestDb::new().await, FakeProvider::start().await);
    let proxy = TestProxy::before_address(&provider.address).await;
    let file = ProviderFile::of(&provider.toml("").replace(&provider.address, &format!("127.0.0.1:{}", proxy.port)));
    let hub = holding(TestHub::on(&db), &file).start().await;
    let mut page = TestClient::of("42").connect(&hub).await;
    assert_eq!(next_of(&mut page, "status").await["status"], "connected");
    provider.say_numbered("42", [1]).await;
    numbers_to(&mut page, 1).await;
    proxy.cut(Cut::Hole);
    assert_eq!(next_of(&mut page, "status").await["status"], "disconnected");
    assert_eq!(next_of(&mut page, "status").await["status"], "connected");
    assert_eq!(provider.record().sign_ins_of("42"), 1, "a session id that has worked is used again");
    provider.say_numbered("42", [2]).await;
    assert_eq!(numbers_to(&mut page, 2).await, [2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flapping_provider_is_tried_a_few_times_and_the_user_is_told() {
    let (db, provider) = (TestDb::new().await, FakeProvider::start().await);
    provider.sockets(Behaviour::default().flapping(Duration::ZERO, 1011));
    let file = provider.file("");
    let hub = holding(TestHub::on(&db), &file).start().await;
    let mut page = TestClient::of("42").connect(&hub).await;
    next_of(&mut page, "error").await;
    let record = provider.record();
    assert!(record.of("42").count() <= 10, "{}", record.of("42").count());
    eventually("it waits for long", PATIENCE, async || {
        let waits = "SELECT count(*) FROM recado.upstream_session \
                     WHERE state = 'backing_off' AND owner IS NULL AND next_try_at > clock_timestamp() + interval '4 minutes'";
        (db.number(waits).await == 1).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_is_held_back_and_hurts_no_other_user() {
    let _turn = heavy().await;
    let (db, provider) = (TestDb::new().await, FakeProvider::start().await);
    provider.sockets_of("loud", Behaviour::default().flooding(10_000));
    let file = provider.file("");
    let hub = holding(TestHub::on(&db), &file).start().await;
    let mut calm = TestClient::of("calm").connect(&hub).await;
    next_of(&mut calm, "status").await;
    let _loud = TestClient::of("loud").connect(&hub).await;
    provider.connected("loud").await;
    let begun = Instant::now();
    let mut slowest = Duration::ZERO;
    for n in 1..=40 {
        let said = Instant::now();
        provider.say_numbered("calm", [n]).await;
        assert_eq!(numbers_to(&mut calm, n).await, [n]);
        slowest = slowest.max(said.elapsed());
    }
    let most = 500 + 100 * (begun.elapsed().as_secs() + 2);
    let taken = db.number("SELECT count(*) FROM recado.log WHERE title = 'Fake'").await;
    assert!(taken.unsigned_abs() <= most + 40, "{taken} of a flood in {:?}", begun.elapsed());
    assert!(slowest < Duration::from_secs(3), "{slowest:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_id_that_has_run_out_is_replaced() {
    let (db, provider) = (TestDb::new().await, FakeProvider::start().await);
    let file = provider.file("");
    let hub = holding(TestHub::on(&db), &file).start().await;
    let mut page = TestClient::of("42").connect(&hub).await;
    let first = provider.connected("42").await;
    provider.say_numbered("42", [1]).await;
    numbers_to(&mut page, 1).await;
    provider.expire("42");
    provider.cut("42");
    let second =
        provider.until("a new one", |record| record.of("42").find(|c| c.is_open() && c.session != first).map(|c| c.session.clone()));
    assert_ne!(second.await, first);
    assert_eq!(provider.record().sign_ins_of("42"), 2);
    assert!(!hub.said().contains(first.as_str()), "a session id is in the log");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopping_owner_hands_over_without_waiting_for_its_lease() {
    let (db, provider) = (TestDb::new().await, FakeProvider::start().await);
    let file = provider.file("");
    // A lease too long to wait for.
    let builder = holding(TestHub::on(&db), &file).with("RECADO_UPSTREAM_LEASE", "5m");
    let mut hubs = vec![builder.start().await, builder.start().await];
    let mut pages = join_all(hubs.iter().map(async |hub| TestClient::of("42").device(&hub.address).connect(hub).await)).await;
    let session = provider.connected("42").await;
    let at = owner(&db, &hubs).await;
    let mut old = hubs.remove(at);
    pages.remove(at);
    old.signal("-TERM").await;
    provider.until("the other one goes on", |record| (record.of("42").count() == 2 && record.open_of("42") == 1).then_some(())).await;
    let record = provider.record();
    let first = record.of("42").next().unwrap();
    assert_eq!(first.closed.as_ref().unwrap().1, SocketEnd::ByHub(Some(1000)), "it says goodbye");
    assert!(first.closed.as_ref().unwrap().0 <= record.of("42").nth(1).unwrap().at, "never two at a time");
    assert_eq!((provider.connected("42").await, record.sign_ins_of("42")), (session, 1));
    assert_eq!(old.ended(Duration::from_secs(15)).await.code(), Some(0));
    assert!(!old.said().contains("still ran"), "{}", old.said());
    provider.say_numbered("42", [1]).await;
    assert_eq!(numbers_to(&mut pages[0], 1).await, [1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn no_command_goes_up_twice_whoever_dies() {
    let _turn = heavy().await;
    let (db, provider) = (TestDb::new().await, FakeProvider::start().await);
    let file = provider.file("");
    let mut hubs = vec![holding(TestHub::on(&db), &file).start().await, holding(TestHub::on(&db), &file).start().await];
    let mut said = 0;
    for _ in 0..3 {
        let at = owner_of_a_fresh_page(&db, &provider, &hubs).await;
        let page = TestClient::of("42").connect(&hubs[1 - at]).await;
        for _ in 0..20 {
            said += 1;
            page.say(&bet(said)).await;
        }
        provider.until("some have gone up", |record| (record.commands_of("42").len() as u64 + 19 >= said).then_some(())).await;
        hubs.remove(at).kill().await;
        hubs.push(holding(TestHub::on(&db), &file).start().await);
    }
    let _page = TestClient::of("42").connect(&hubs[0]).await;
    eventually("every command is settled", PATIENCE, async || {
        let open = "SELECT count(*) FROM recado.upstream_command WHERE settled_at IS NULL";
        (db.number(open).await == 0).then_some(())
    })
    .await;
    let mut up = provider.record().commands_of("42");
    let count = up.len();
    up.sort();
    up.dedup();
    assert_eq!(up.len(), count, "twice at the provider");
    let sent = db.number("SELECT count(*) FROM recado.upstream_command WHERE state = 'sent'").await;
    let perhaps = db.number("SELECT count(*) FROM recado.upstream_command WHERE state IN ('sent', 'unknown')").await;
    assert!((sent..=perhaps).contains(&(count as i64)), "{sent} to {perhaps} by the rows, {count} at the provider");
}

async fn owner_of_a_fresh_page(db: &TestDb, provider: &FakeProvider, hubs: &[TestHub]) -> usize {
    let _page = TestClient::of("42").device("first").connect(&hubs[0]).await;
    provider.connected("42").await;
    owner(db, hubs).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn many_sessions_take_little_memory_each_and_their_keep_alives_are_on_time() {
    const MANY: usize = 500;
    let _turn = heavy().await;
    let (db, provider) = (TestDb::new().await, FakeProvider::start().await);
    let file = provider.file("");
    let hub = holding(TestHub::on(&db), &file).with("RECADO_UPSTREAM_STARTS", "1000").start().await;
    let mut warm = TestClient::of("warm").connect(&hub).await;
    next_of(&mut warm, "status").await;
    let before = hub.resident_kib();
    db.run(&format!(
        "INSERT INTO recado.upstream_session (provider, user_id, wanted_until) \
         SELECT 'fake', 'u' || n, clock_timestamp() + interval '1 hour' FROM generate_series(1, {MANY}) n"
    ))
    .await;
    provider.until("all are connected", |record| (record.open() == MANY + 1).then_some(())).await;
    let each_pinged =
        |record: &provider::ProviderRecord| record.connections.iter().all(|connection| connection.heard.len() >= 4).then_some(());
    provider.until("each has sent keep-alives", each_pinged).await;
    let each = (hub.resident_kib() - before) / MANY as u64;
    eprintln!("{each} KiB a session");
    assert!(each <= 40, "{each} KiB a session");
    let record = provider.record();
    for connection in &record.connections {
        for (sent, due) in connection.heard.iter().zip(1..) {
            let late = sent.0.saturating_sub(connection.opened.unwrap() + Duration::from_secs(due));
            assert!(late < Duration::from_secs(2), "a keep-alive was {late:?} late");
        }
    }
}
