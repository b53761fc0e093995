//! Tests what used to get lost between two owners of a provider session.
//!
//! Commands that no owner knows of, leases that are not used, messages of a log that was truncated or restored, a wait
//! that a new page shortens, and the gap that the user is told of.

use std::sync::Arc;
use std::time::Duration;

use recado::domain::Seq;
use recado::outgoing::ClockReading;
use recado::providers::mailbox::Mailbox;
use recado::providers::message_appender::MessageAppender;
use recado::store::log_watermark::LogWatermark;
use recado::store::providers::{CheckpointChange, UpstreamState, sessions};
use recado::store::read;
use recado::tasks::Stopper;
use tokio::time::Instant;

use super::support::*;
use super::upstream::{bet, holding, next_of};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn a_command_whose_taking_was_not_answered_has_failed_within_seconds_while_its_session_goes_on() {
    let (db, fake) = (TestDb::new().await, FakeProvider::start().await);
    let file = fake.file("");
    // A lease too long to wait for.
    let hub = holding(TestHub::on(&db), &file).with("RECADO_UPSTREAM_LEASE", "2m").start().await;
    let mut page = TestClient::of("42").connect(&hub).await;
    fake.connected("42").await;
    next_of(&mut page, "status").await;
    // The state after a call that was executed but not answered: taken under the owner's term, with no task that knows
    // of it.
    let row = command("42", "b-1", "1");
    let wait = Duration::from_secs(60);
    db.run(&format!(
        "BEGIN;
         SELECT recado.upstream_accept('{}', 'fake', '42', 'd', '{}', 'b-1', 'bet', '1', {});
         SELECT recado.upstream_take(s.owner, ARRAY['fake'], ARRAY['42'], ARRAY[s.term], 10) FROM recado.upstream_session s;
         COMMIT",
        row.id.0,
        row.session.0,
        wait.as_secs()
    ))
    .await;
    let begun = Instant::now();
    eventually("the command is settled", PATIENCE, async || {
        let settled = "SELECT count(*) FROM recado.upstream_command WHERE state = 'failed' AND detail = 'not_given'";
        (db.number(settled).await == 1).then_some(())
    })
    .await;
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    // Commands that are under way as usual are not taken for such a one.
    for n in 2..40 {
        page.say(&bet(n)).await;
        assert_eq!(next_of(&mut page, "command_result").await["status"], "sent");
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
    assert_eq!(fake.record().commands_of("42").len(), 38);
    assert_eq!(fake.record().of("42").count(), 1, "the session was not touched");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn a_lease_that_is_not_trusted_any_more_is_given_back_and_not_waited_for() {
    let (db, fake) = (TestDb::new().await, FakeProvider::start().await);
    let file = fake.file("");
    let proxy = TestProxy::before(&db.url()).await;
    let one =
        holding(TestHub::on(&db), &file).with("DATABASE_URL", &db.url_at(proxy.port)).with("RECADO_UPSTREAM_LEASE", "15s").start().await;
    let _page = TestClient::of("42").connect(&one).await;
    fake.connected("42").await;
    // Its renewals arrive, but no answer does: the row's lease is young when the owner's own lease clock runs out.
    proxy.set(ProxyFlow::NoAnswers);
    fake.until_within(Duration::from_secs(30), "it hangs up", |record| (record.open() == 0).then_some(())).await;
    // The row's lease as a late renewal would leave it.
    db.run("UPDATE recado.upstream_session SET lease_until = clock_timestamp() + interval '10 minutes', wanted_until = clock_timestamp() + interval '1 hour'")
        .await;
    proxy.cut(Cut::Rst);
    proxy.set(ProxyFlow::Pass);
    fake.connected("42").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_provider_says_goes_on_in_a_log_that_went_back() {
    let db = TestDb::new().await;
    want(&db, &["ann"]).await;
    let mut owner = Owner::on(&db).await;
    let lease = owner.claim_one(LONG).await;
    let state = read::state(&mut owner.connection).await.unwrap();
    let seen = Arc::new(LogWatermark::new(state.log_id));
    // This instance remembers a row that no longer exists; no other instance is running to notice.
    let gone = message(&lease, 1, "gone").notification;
    seen.raise(state.log_id, Seq::from_db(7), gone.id);
    let (handle, recorder) = MessageAppender::new(db.hub(), owner.id, seen);
    let (stopper, stop) = Stopper::new();
    let running = tokio::spawn(recorder.run(stop));
    let mailbox = Arc::new(Mailbox::new(lease.clone(), ClockReading::now().plus(LONG)));
    assert!(handle.record(message(&lease, 2, "after").notification, &mailbox).is_ok());
    eventually("it is in the log", PATIENCE, async || (db.head().await == 1).then_some(())).await;
    assert_ne!(read::state(&mut owner.connection).await.unwrap().log_id, state.log_id, "the log has a new id");
    stopper.stop();
    running.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn a_hub_that_stops_tries_its_last_messages_for_a_while_and_counts_what_is_lost() {
    let (db, fake) = (TestDb::new().await, FakeProvider::start().await);
    let file = fake.file("");
    let proxy = TestProxy::before(&db.url()).await;
    let mut hub =
        holding(TestHub::on(&db), &file).with("DATABASE_URL", &db.url_at(proxy.port)).with("RECADO_UPSTREAM_LEASE", "1m").start().await;
    let mut page = TestClient::of("42").connect(&hub).await;
    fake.connected("42").await;
    fake.say_numbered("42", [1]).await;
    page.expect_other("status").await;
    eventually("it is in the log", PATIENCE, async || (db.head().await == 1).then_some(())).await;
    proxy.set(ProxyFlow::Hole);
    fake.say_numbered("42", 2..=9).await;
    // Read by the hub: it answers a keep-alive that came later.
    let heard = fake.record().of("42").next().unwrap().heard.len();
    fake.until("the hub reads", |record| (record.of("42").next()?.heard.len() > heard + 1).then_some(())).await;
    let asked = Instant::now();
    hub.signal("-TERM").await;
    hub.ended(Duration::from_secs(30)).await;
    assert!(asked.elapsed() < Duration::from_secs(20), "{:?}", asked.elapsed());
    let said = hub.said();
    let counted = said.lines().find(|line| line.contains("provider messages lost")).unwrap_or_else(|| panic!("nothing is counted: {said}"));
    assert!(counted.contains("messages=8") || counted.contains("messages\u{1b}[0m\u{1b}[2m=\u{1b}[0m8"), "{counted}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_page_shortens_the_long_wait_to_a_minute_and_no_further() {
    let db = TestDb::new().await;
    want(&db, &["ann"]).await;
    let mut owner = Owner::on(&db).await;
    let lease = owner.claim_one(LONG).await;
    let wait = |next: u64, early: u64| CheckpointChange {
        attempts: 5,
        next_try_in: Duration::from_secs(next),
        early_try_in: Some(Duration::from_secs(early)),
        ..CheckpointChange::to(UpstreamState::BackingOff)
    };
    assert!(owner.checkpoint(&lease, wait(300, 60)).await);
    assert!(owner.release(&lease).await);
    let due = async || db.number("SELECT extract(epoch FROM next_try_at - clock_timestamp())::bigint FROM recado.upstream_session").await;
    let come = async |fresh: bool| {
        let mut connection = db.hub().connect("test").await.unwrap();
        sessions::want(&mut connection, &[provider("p")], &[user("ann")], LONG, fresh).await.unwrap();
    };
    come(false).await;
    assert!(due().await > 200, "a connected page changes nothing");
    for _ in 0..3 {
        come(true).await;
    }
    assert!((50..=60).contains(&due().await), "{}", due().await);
    assert!(owner.claim(LONG).await.is_empty(), "not before the minute is over");
    // A wait that the provider itself has asked for is not shortened.
    db.run("UPDATE recado.upstream_session SET next_try_at = clock_timestamp()").await;
    let lease = owner.claim_one(LONG).await;
    assert!(owner.checkpoint(&lease, wait(600, 600)).await);
    assert!(owner.release(&lease).await);
    come(true).await;
    assert!(due().await > 500, "{}", due().await);
}

/// The types of the notifications up to the provider's number `last`.
async fn kinds_to(client: &mut TestClient, last: u64) -> Vec<String> {
    let mut kinds = Vec::new();
    let wanted = serde_json::Value::from(format!("{{\"n\":{last}}}")).to_string();
    loop {
        let notification = match client.next_frame().await {
            ClientSawFrame::Notification(notification) => notification,
            ClientSawFrame::Ended(ended) => panic!("{ended:?}"),
            _ => continue,
        };
        kinds.push(notification.kind.clone());
        if notification.data == wanted {
            return kinds;
        }
        if notification.kind == "upstream_gap" {
            let data: serde_json::Value = serde_json::from_str(&notification.data).unwrap();
            let time = |name: &str| chrono::DateTime::parse_from_rfc3339(data[name].as_str().unwrap()).unwrap();
            assert!(data["provider"] == "fake" && time("since") <= time("until"), "{data}");
            assert!(notification.text.contains("Faltam mensagens"), "{}", notification.text);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn after_a_break_the_user_is_told_that_messages_may_be_missing() {
    let (db, fake) = (TestDb::new().await, FakeProvider::start().await);
    let file = fake.file("[provider.texts]\ngap = \"Faltam mensagens\"");
    let mut hubs = vec![holding(TestHub::on(&db), &file).start().await, holding(TestHub::on(&db), &file).start().await];
    let mut page = TestClient::of("42").connect(&hubs[1]).await;
    // Held by the other hub, whichever that is.
    fake.connected("42").await;
    fake.say_numbered("42", [1]).await;
    assert_eq!(kinds_to(&mut page, 1).await, ["game-data"], "nothing is missing at the beginning");
    let again = async |count: usize| {
        fake.until("connected again", |record| (record.of("42").count() == count && record.open_of("42") == 1).then_some(())).await;
    };
    fake.cut("42");
    again(2).await;
    fake.say_numbered("42", [2]).await;
    assert_eq!(kinds_to(&mut page, 2).await, ["upstream_gap", "game-data"], "the socket broke");
    let owner = super::upstream::owner(&db, &hubs).await;
    let place = page.given;
    let log_id = page.log_id().to_owned();
    hubs.remove(owner).kill().await;
    let mut page = TestClient::of("42").device("other").since(place).query("log_id", &log_id).connect(&hubs[0]).await;
    again(3).await;
    fake.say_numbered("42", [3]).await;
    assert_eq!(kinds_to(&mut page, 3).await, ["upstream_gap", "game-data"], "the owner died");
    hubs.push(holding(TestHub::on(&db), &file).start().await);
    let mut page = TestClient::of("42").device("other").since(page.given).query("log_id", &log_id).connect(&hubs[1]).await;
    hubs[0].signal("-TERM").await;
    again(4).await;
    fake.say_numbered("42", [4]).await;
    assert_eq!(kinds_to(&mut page, 4).await, ["upstream_gap", "game-data"], "it was handed over");
    // A device that was away learns of all that.
    let mut late = TestClient::of("42").device("late").since(0).connect(&hubs[1]).await;
    let kinds: Vec<String> = late.until_seq_past_others(db.head().await).await.into_iter().map(|n| n.kind).collect();
    assert_eq!(kinds.iter().filter(|kind| *kind == "upstream_gap").count(), 3, "{kinds:?}");
}
