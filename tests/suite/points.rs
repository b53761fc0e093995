//! Kills or panics a hub at each step where a promise could break.
//!
//! The rows of docs/internals/faults.md must hold.

use std::time::Duration;

use sqlx::Connection;

use super::support::*;

/// A hub that can be held at a step, and another one on the same database.
async fn two(db: &TestDb, points: &Points) -> (TestHub, TestHub) {
    tokio::join!(async { points.of(TestHub::on(db)).start().await }, async { TestHub::on(db).start().await })
}

/// Waits until the hub has processed everything that it has sent this client so far.
async fn is_quiet(client: &mut TestClient) {
    client.say("{\"type\":\"ping\"}").await;
    client.expect_other("pong").await;
}

/// Everything that still arrives from a hub that was killed.
async fn what_had_been_sent(client: &mut TestClient) -> Vec<ClientNotification> {
    let mut got = Vec::new();
    loop {
        match client.next_frame().await {
            ClientSawFrame::Notification(notification) => got.push(*notification),
            ClientSawFrame::Ended(_) => return got,
            _ => {}
        }
    }
}

fn titles(got: &[ClientNotification]) -> Vec<&str> {
    got.iter().map(|n| n.title.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_killed_before_the_append_leaves_nothing_and_the_retry_makes_the_row() {
    let (db, points) = (TestDb::new().await, Points::new());
    let (doomed, other) = two(&db, &points).await;
    let mut witness = TestClient::of("ann").connect(&other).await;
    points.hold("append.before_sql");
    let draft = note("once").to_user("ann").key("once");
    let (unanswered, ()) = tokio::join!(doomed.try_post(&draft), async {
        points.reached("append.before_sql").await;
        doomed.signal("-KILL").await;
    });
    assert!(unanswered.is_err(), "{unanswered:?}");
    assert_eq!(db.head().await, 0);

    let retry = other.try_post(&draft).await.unwrap();
    assert_eq!((retry.status, retry.receipt().seq, retry.receipt().duplicate), (201, 1, false));
    other.post(&note("end").to_user("ann")).await;
    assert_eq!(witness.titles_before("end").await, ["once"]);
}

/// If it were a transaction of several statements, a hub could die between them and hold the log's lock until the
/// database detects it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_append_is_one_statement_that_commits_itself() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    // Records, in each commit, which statement caused the commit.
    db.run(
        "CREATE TABLE public.probe (ended_by text);
         CREATE FUNCTION public.probe() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
             INSERT INTO public.probe VALUES (current_query()); RETURN NULL; END $$;
         CREATE CONSTRAINT TRIGGER probe AFTER INSERT ON recado.log DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION public.probe()",
    )
    .await;
    hub.post(&note("one").to_user("ann").key("one")).await;
    let batch = format!("{{\"items\":[{},{}]}}", note("two").to_user("ann").body(), note("three").to_everyone().body());
    let answer = hub.post_raw("/api/internal/notify/batch", &[("content-type", "application/json")], batch).await;
    assert_eq!(answer.status, 201, "{}", answer.body);
    let by_commit = "SELECT count(*) FROM public.probe WHERE ended_by ILIKE '%commit%'";
    assert_eq!((db.number("SELECT count(*) FROM public.probe").await, db.number(by_commit).await), (3, 0));

    // The probe detects a transaction of several statements.
    let mut several = db.connect().await;
    let mut transaction = several.begin().await.unwrap();
    sqlx::raw_sql(sqlx::AssertSqlSafe(super::resume::many_rows(1))).execute(&mut *transaction).await.unwrap();
    transaction.commit().await.unwrap();
    assert_eq!(db.number(by_commit).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_killed_between_commit_and_201_leaves_one_row_that_the_retry_finds() {
    let (db, points) = (TestDb::new().await, Points::new());
    let (doomed, other) = two(&db, &points).await;
    let mut witness = TestClient::of("ann").connect(&other).await;
    points.hold("append.before_reply");
    let draft = note("once").to_user("ann").key("once");
    let (unanswered, ()) = tokio::join!(doomed.try_post(&draft), async {
        points.reached("append.before_reply").await;
        assert_eq!(db.head().await, 1, "it is committed");
        doomed.signal("-KILL").await;
    });
    assert!(unanswered.is_err(), "{unanswered:?}");

    let retry = other.try_post(&draft).await.unwrap();
    assert_eq!((retry.status, retry.receipt().seq, retry.receipt().duplicate), (200, 1, true));
    other.post(&note("end").to_user("ann")).await;
    assert_eq!(witness.titles_before("end").await, ["once"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_killed_after_201_and_before_its_own_delivery_loses_nobody() {
    let (db, points) = (TestDb::new().await, Points::new());
    let (doomed, other) = two(&db, &points).await;
    let mut there = TestClient::of("ann").device("there").connect(&other).await;
    let mut here = TestClient::of("ann").device("here").connect(&doomed).await;
    there.until_caught_up().await;
    here.until_caught_up().await;
    points.hold("fanout.before_local");
    let seq = doomed.post(&note("answered").to_user("ann")).await.seq;
    points.reached("fanout.before_local").await;
    let live = there.expect_notification().await;
    assert_eq!((live.seq, live.replayed), (seq, false));
    doomed.kill().await;
    assert_eq!(titles(&what_had_been_sent(&mut here).await), [""; 0]);
    let mut here = TestClient::of("ann").device("here").connect(&other).await;
    assert_eq!(titles(&here.until_caught_up().await), ["answered"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_killed_before_it_reads_the_ack_repeats_once_and_in_order() {
    let (db, points) = (TestDb::new().await, Points::new());
    let (doomed, other) = two(&db, &points).await;
    let mut client = TestClient::of("ann").device("d").connect(&doomed).await;
    client.until_caught_up().await;
    is_quiet(&mut client).await;
    points.hold("ws.after_send");
    let seq = doomed.post(&note("one").to_user("ann")).await.seq;
    assert_eq!(client.expect_notification().await.seq, seq);
    client.ack(seq).await;
    points.reached("ws.after_send").await;
    other.post(&note("two").to_user("ann")).await;
    doomed.kill().await;
    assert_eq!(titles(&what_had_been_sent(&mut client).await), [""; 0]);
    assert_eq!(db.place("ann", "d").await, Some(0), "the ack was not heard");
    let mut client = TestClient::of("ann").device("d").connect(&other).await;
    other.post(&note("end").to_user("ann")).await;
    assert_eq!(client.titles_before("end").await, ["one", "two"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acks_that_die_with_their_hub_cost_repeats_and_no_loss() {
    const DEVICES: usize = 60;
    let (db, points) = (TestDb::new().await, Points::new());
    let (doomed, other) = two(&db, &points).await;
    let asked = |n: usize| TestClient::of(&format!("u{}", n % 4)).device(&format!("d{n}")).query("ack", "client");
    let mut clients = Vec::new();
    for n in 0..DEVICES {
        clients.push(asked(n).connect(&doomed).await);
    }
    let places = async |seq: i64| db.number(&format!("SELECT count(*) FROM recado.cursor WHERE acked_seq = {seq}")).await;
    for seq in [1, 2] {
        if seq == 2 {
            points.hold("ack.before_flush");
        }
        assert_eq!(doomed.post(&note(&seq.to_string()).to_everyone()).await.seq, seq);
        for client in &mut clients {
            client.until_seq(seq).await;
            client.ack(seq).await;
        }
        for client in &mut clients {
            is_quiet(client).await;
        }
        if seq == 1 {
            eventually("all are stored", PATIENCE, async || (places(1).await == DEVICES as i64).then_some(())).await;
        }
    }
    points.reached("ack.before_flush").await;
    doomed.kill().await;
    drop(clients);
    other.post(&note("3").to_everyone()).await;
    other.settled(&db).await;
    assert_eq!(places(1).await, DEVICES as i64, "not one of the second round was stored");
    for n in 0..DEVICES {
        let mut client = asked(n).connect(&other).await;
        assert_eq!(titles(&client.until_caught_up().await), ["2", "3"], "device {n}");
    }
}

/// The acks of a round are one statement that commits itself: the hub has no step between them and their commit. So it
/// is killed while the database executes the statement.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_killed_while_acks_are_stored_moves_no_place_back() {
    let db = TestDb::new().await;
    let (doomed, other) = (TestHub::on(&db).start().await, TestHub::on(&db).start().await);
    let asked = |device: &str| TestClient::of("ann").device(device).query("ack", "client");
    let mut clients = [asked("a").connect(&doomed).await, asked("b").connect(&doomed).await];
    let give = async |clients: &mut [TestClient], seq: i64| {
        assert_eq!(doomed.post(&note(&seq.to_string()).to_user("ann")).await.seq, seq);
        for client in clients {
            client.until_seq(seq).await;
            client.ack(seq).await;
        }
    };
    give(&mut clients, 1).await;
    for device in ["a", "b"] {
        eventually("it is stored", PATIENCE, async || (db.place("ann", device).await == Some(1)).then_some(())).await;
    }
    let mut locker = db.connect().await;
    let mut lock = locker.begin().await.unwrap();
    sqlx::query("SELECT FROM recado.cursor WHERE client_id = 'b' FOR UPDATE").execute(&mut *lock).await.unwrap();
    give(&mut clients, 2).await;
    let waiting = "SELECT coalesce(max(pid), 0)::bigint FROM pg_stat_activity
                    WHERE datname = current_database() AND application_name = 'recado ack flusher' AND wait_event_type = 'Lock'";
    let pid = eventually("the statement waits", PATIENCE, async || Some(db.number(waiting).await).filter(|pid| *pid > 0)).await;
    doomed.kill().await;
    lock.rollback().await.unwrap();
    let there = format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {pid}");
    eventually("the database has done with it", PATIENCE, async || (db.number(&there).await == 0).then_some(())).await;
    drop(clients);
    other.post(&note("3").to_user("ann")).await;
    other.settled(&db).await;
    for device in ["a", "b"] {
        let place = db.place("ann", device).await.unwrap();
        assert!((1..=2).contains(&place), "{device} is at {place}");
        let got = asked(device).connect(&other).await.until_caught_up().await;
        assert_eq!(got.iter().map(|n| n.seq).collect::<Vec<_>>(), (place + 1..=3).collect::<Vec<_>>(), "{device}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_killed_in_the_middle_of_a_catch_up_leaves_no_gap() {
    const BEHIND: i64 = 5000;
    let (db, points) = (TestDb::new().await, Points::new());
    let (doomed, other) = two(&db, &points).await;
    db.run(&super::resume::many_rows(BEHIND as usize)).await;
    doomed.settled(&db).await;
    other.settled(&db).await;
    points.hold("catchup.mid_page");
    let asked = TestClient::of("ann").device("d");
    let mut client = asked.clone().since("earliest").connect(&doomed).await;
    points.reached("catchup.mid_page").await;
    doomed.kill().await;
    let got = what_had_been_sent(&mut client).await;
    let last = got.last().map_or(0, |n| n.seq);
    assert_eq!(got.iter().map(|n| n.seq).collect::<Vec<_>>(), (1..=last).collect::<Vec<_>>());
    assert!(0 < last && last < 500, "in the middle of the first page, not at {last}");
    let rest = asked.since(last).connect(&other).await.until_caught_up().await;
    assert_eq!(rest.iter().map(|n| n.seq).collect::<Vec<_>>(), (last + 1..=BEHIND).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_in_one_connection_ends_that_connection_alone() {
    let (db, points) = (TestDb::new().await, Points::new());
    let hub = points.of(TestHub::on(&db)).start().await;
    let mut bob = TestClient::of("bob").connect(&hub).await;
    let mut ann = TestClient::of("ann").device("d").connect(&hub).await;
    ann.until_caught_up().await;
    is_quiet(&mut ann).await;
    bob.until_caught_up().await;
    is_quiet(&mut bob).await;
    points.panic_at("ws.after_send");
    hub.post(&note("one").to_user("ann")).await;
    let ClientEnd::Code(code, reason) = ann.ended(PATIENCE).await else { panic!("it is closed with a code") };
    assert_eq!((code, reason.as_str()), (1011, "internal"));
    hub.post(&note("two").to_everyone()).await;
    assert_eq!(titles(&bob.until("two").await), ["two"]);
    assert!(hub.is_ready().await);
    let mut ann = TestClient::of("ann").device("d").connect(&hub).await;
    assert_eq!(titles(&ann.until_caught_up().await).last(), Some(&"two"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_in_a_shared_task_ends_the_hub_and_another_one_goes_on() {
    let (db, points) = (TestDb::new().await, Points::new());
    let (mut doomed, other) = two(&db, &points).await;
    let mut here = TestClient::of("ann").device("here").connect(&doomed).await;
    let mut there = TestClient::of("ann").device("there").connect(&other).await;
    here.until_caught_up().await;
    there.until_caught_up().await;
    points.panic_at("fanout.before_local");
    doomed.post(&note("answered").to_user("ann")).await;
    let status = doomed.ended(Duration::from_secs(30)).await;
    assert!(status.code().is_some_and(|code| code != 0), "{status}");
    assert_eq!(there.expect_notification().await.title, "answered");
    let mut here = TestClient::of("ann").device("here").connect(&other).await;
    assert_eq!(titles(&here.until_caught_up().await), ["answered"]);
}

/// `.ci/run` asks the same of what `cargo build` makes, where the answer must be the opposite.
#[test]
fn the_hubs_of_the_tests_can_be_held_and_the_check_of_all_others_sees_that() {
    let check = concat!(env!("CARGO_MANIFEST_DIR"), "/tools/no-faults");
    let said = std::process::Command::new(check).arg(env!("CARGO_BIN_EXE_recado")).output().unwrap();
    let complaint = String::from_utf8(said.stderr).unwrap();
    assert!(said.status.code() == Some(1) && complaint.contains(recado::failpoints::VARIABLE), "{complaint}");
}
