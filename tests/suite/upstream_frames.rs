//! Tests the frames that tell a browser about its user's provider sessions and commands.
//!
//! The test plays the provider side: it claims, checkpoints and settles by the store's own calls.

use std::time::Duration;

use recado::store::providers::commands::{MarkedSent, TakenCommand};
use recado::store::providers::leases::{CheckpointChange, Claimed};
use recado::store::providers::{Lease, UpstreamState};
use serde_json::{Value, json};

use super::support::*;

/// Waits until the user's session can be claimed.
async fn claimed(owner: &mut Owner) -> Lease {
    eventually("somebody wants a session", PATIENCE, async || owner.claim(LONG).await.pop()).await.lease()
}

async fn taken(owner: &mut Owner, lease: &Lease) -> TakenCommand {
    eventually("a command is there", PATIENCE, async || owner.take(lease).await.pop()).await
}

async fn down(owner: &mut Owner, lease: &Lease, text: &str, error: &str) {
    let change = CheckpointChange {
        message: Some(text.to_owned()),
        error: Some(error.to_owned()),
        ..CheckpointChange::to(UpstreamState::BackingOff)
    };
    assert!(owner.checkpoint(lease, change).await);
}

fn connected() -> Value {
    json!({"type": "status", "status": "connected", "message": "Conectado ao Pragmatic Play"})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_is_told_how_the_session_stands_in_the_old_services_words() {
    let db = TestDb::new().await;
    let hub = inside(&["p"]).start(&db).await;
    let mut owner = Owner::on(&db).await;
    let mut client = hub.connect(&TestClient::of("ann").device("d")).await;
    let mut stranger = hub.connect(&TestClient::of("bob")).await;
    let mut leases: Vec<Claimed> = Vec::new();
    eventually("both are wanted", PATIENCE, async || {
        leases.extend(owner.claim(LONG).await);
        (leases.len() == 2).then_some(())
    })
    .await;
    let lease = leases.iter().find(|c| c.user == user("ann")).unwrap().lease();
    owner.live(&lease, "Conectado ao Pragmatic Play").await;
    assert_eq!(client.expect_other("status").await, connected());
    down(&mut owner, &lease, "Desconectado do Pragmatic Play", "Erro na conexão: timeout").await;
    let gone = json!({"type": "status", "status": "disconnected", "message": "Desconectado do Pragmatic Play"});
    assert_eq!(client.expect_other("status").await, gone);
    assert_eq!(client.expect_other("error").await, json!({"type": "error", "message": "Erro na conexão: timeout"}));
    // Another device of the user, and the same one again, are told the present status.
    let mut second = hub.connect(&TestClient::of("ann").device("e")).await;
    assert_eq!(second.expect_other("status").await, gone);
    assert_eq!(second.expect_other("error").await["message"], "Erro na conexão: timeout");
    owner.live(&lease, "Conectado ao Pragmatic Play").await;
    assert_eq!(client.expect_other("status").await, connected());
    client.close().await;
    let mut client = hub.connect(&TestClient::of("ann").device("d")).await;
    assert_eq!(client.expect_other("status").await, connected());
    // A hand-over that succeeds is not shown: the marker is the next frame.
    assert!(owner.release(&lease).await);
    let lease = claimed(&mut owner).await;
    owner.live(&lease, "Conectado ao Pragmatic Play").await;
    down(&mut owner, &lease, "marker", "x").await;
    assert_eq!(client.expect_other("status").await["message"], "marker");
    // The other user was told nothing of all that.
    let other = leases.iter().find(|c| c.user == user("bob")).unwrap().lease();
    owner.live(&other, "of bob").await;
    assert_eq!(stranger.expect_other("status").await["message"], "of bob");
}

/// The frames have no number in the stream: `TestClient` checks every `prev`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_frames_leave_the_numbered_stream_as_it_is() {
    let db = TestDb::new().await;
    let hub = inside(&["p"]).start(&db).await;
    let mut owner = Owner::on(&db).await;
    let mut client = hub.connect(&TestClient::of("ann").query("ack", "client")).await;
    let lease = claimed(&mut owner).await;
    for n in 1..=20 {
        owner.append(&[message(&lease, n, &format!("m{n}"))]).await;
        if n % 3 == 0 {
            owner.live(&lease, &format!("up {n}")).await;
        }
    }
    assert_eq!(client.until_seq_past_others(20).await.len(), 20);
    let mut again = hub.connect(&TestClient::of("ann").device("new").since("earliest")).await;
    let got = again.until_seq_past_others(20).await;
    assert_eq!(got.len(), 20);
    assert!(got.iter().all(|n| n.kind == "game-data" && n.data == "\"x\""));
    // As events: a status is a named one without an id, so the page's position stays what it was.
    let body = events_until(&hub.address, "event: status").await;
    let status = body.split("\n\n").find(|event| event.contains("event: status")).unwrap();
    assert_eq!(status.trim(), "event: status\ndata: {\"type\":\"status\",\"status\":\"connected\",\"message\":\"up 18\"}");
}

async fn events_until(address: &str, text: &str) -> String {
    let url = format!("http://{address}/api/notifications/stream?token={}", token("ann", &[]));
    let mut response = reqwest::get(url).await.unwrap();
    let mut body = String::new();
    while !body.contains(text) || !body.ends_with("\n\n") {
        let piece = tokio::time::timeout(PATIENCE, response.chunk()).await.expect("a piece comes").unwrap().expect("it goes on");
        body.push_str(&String::from_utf8_lossy(&piece));
    }
    body
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_is_stored_sent_once_and_answered_to_who_gave_it() {
    let db = TestDb::new().await;
    let hub = inside(&["p"]).start(&db).await;
    let mut owner = Owner::on(&db).await;
    let mut client = hub.connect(&TestClient::of("ann").device("d")).await;
    let mut other = hub.connect(&TestClient::of("ann").device("e")).await;
    let lease = claimed(&mut owner).await;
    client.say(r#"{"type":"bet","id":"b-17","payload":{ "n":1.0 }}"#).await;
    let command = taken(&mut owner, &lease).await;
    assert_eq!((command.kind.as_str(), command.payload.as_deref()), ("bet", Some("{ \"n\":1.0 }")), "byte for byte");
    owner.settle(lease.term, command.id, MarkedSent::Sent).await;
    assert_eq!(client.expect_other("command_result").await, json!({"type": "command_result", "id": "b-17", "status": "sent"}));
    // Again: answered from the row. And another content under that id: refused.
    client.say(r#"{"type":"bet","id":"b-17","payload":{ "n":1.0 }}"#).await;
    assert_eq!(client.expect_other("command_result").await["status"], "sent");
    client.say(r#"{"type":"bet","id":"b-17","payload":{ "n":2 }}"#).await;
    let refused = client.expect_other("error").await;
    assert_eq!((&refused["code"], &refused["id"]), (&json!("command_id_conflict"), &json!("b-17")));
    assert!(owner.take(&lease).await.is_empty());
    // Without an id, as old clients send it: the result has one that the hub made.
    client.say(r#"{"type":"bet","payload":1}"#).await;
    let command = taken(&mut owner, &lease).await;
    owner.settle(lease.term, command.id, MarkedSent::Failed).await;
    let result = client.expect_other("command_result").await;
    assert_eq!((result["id"].as_str().unwrap(), &result["status"]), (command.id.to_string().as_str(), &json!("failed")));
    // The same command from two devices while it is under way: one command, both are told.
    client.say(r#"{"type":"bet","id":"both"}"#).await;
    other.say(r#"{"type":"bet","id":"both"}"#).await;
    let command = taken(&mut owner, &lease).await;
    other.say(r#"{"type":"ping","id":1}"#).await;
    other.expect_other("pong").await;
    owner.settle(lease.term, command.id, MarkedSent::Unknown).await;
    assert_eq!(client.expect_other("command_result").await["status"], "unknown");
    let told = other.expect_other("command_result").await;
    assert_eq!((&told["id"], &told["status"]), (&json!("both"), &json!("unknown")), "and nothing of the other device's own");
    // A frame that is not a command is an error, as before.
    client.say(r#"{"type":"dance"}"#).await;
    let refused = client.expect_other("error").await;
    assert_eq!((&refused["code"], refused.get("id")), (&json!("unknown_type"), None));
    // An error repeats the id of its frame, so that a client with several commands under way knows which one it was.
    for (frame, code, id) in [
        (r#"{"type":"dance","id":"d-1"}"#, "unknown_type", json!("d-1")),
        (r#"{"type":"bet","id":5}"#, "invalid_command", json!(5)),
        (r#"{"type":"bet","id":"a b"}"#, "invalid_command", json!("a b")),
        (r#"{"type":"bet","id":"b-18","payload":{"a":1,"a":2}}"#, "invalid_command", json!("b-18")),
        (r#"{"type":"ack","seq":99999,"id":"k"}"#, "ack_ahead", json!("k")),
    ] {
        client.say(frame).await;
        let refused = client.expect_other("error").await;
        assert_eq!((&refused["code"], &refused["id"]), (&json!(code), &id), "{frame}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_nobody_takes_is_rejected_in_time() {
    let db = TestDb::new().await;
    let hub = inside(&["p"]).wait(Duration::from_millis(300)).start(&db).await;
    let mut owner = Owner::on(&db).await;
    let mut client = hub.connect(&TestClient::of("ann").device("d")).await;
    client.say(r#"{"type":"bet","id":"b-1"}"#).await;
    let rejected = client.expect_other("command_result").await;
    assert_eq!(rejected, json!({"type": "command_result", "id": "b-1", "status": "rejected", "detail": "not_taken"}));
    let lease = claimed(&mut owner).await;
    assert!(owner.take(&lease).await.is_empty());
    // A provider that refuses the user takes no commands: the hub says so at once.
    let change = CheckpointChange { error: Some("no".to_owned()), ..CheckpointChange::to(UpstreamState::Refused) };
    assert!(owner.checkpoint(&lease, change).await);
    assert_eq!(client.expect_other("error").await["message"], "no");
    client.say(r#"{"type":"bet","id":"b-2"}"#).await;
    assert_eq!(client.expect_other("command_result").await["detail"], "refused");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_comes_back_is_told_what_became_of_its_commands() {
    let db = TestDb::new().await;
    let (here, there) = (inside(&["p"]).start(&db).await, inside(&["p"]).start(&db).await);
    let mut owner = Owner::on(&db).await;
    let asked = TestClient::of("ann").device("d");
    let client = here.connect(&asked).await;
    let lease = claimed(&mut owner).await;
    client.say(r#"{"type":"bet","id":"away"}"#).await;
    let away = taken(&mut owner, &lease).await;
    client.say(r#"{"type":"bet","id":"later"}"#).await;
    let later = taken(&mut owner, &lease).await;
    client.kill();
    owner.settle(lease.term, away.id, MarkedSent::Sent).await;
    let mut other_device = there.connect(&TestClient::of("ann").device("e")).await;
    let mut client = there.connect(&asked).await;
    let told = client.expect_other("command_result").await;
    assert_eq!((&told["id"], &told["status"]), (&json!("away"), &json!("sent")));
    owner.settle(lease.term, later.id, MarkedSent::Failed).await;
    assert_eq!(client.expect_other("command_result").await["id"], "later");
    owner.live(&lease, "marker").await;
    loop {
        match other_device.next_frame().await {
            ClientSawFrame::Other(frame) if frame["type"] == "status" => break,
            ClientSawFrame::Other(frame) => assert_ne!(frame["type"], "command_result", "not this device's"),
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn with_every_hint_lost_it_only_takes_a_little_longer() {
    let db = TestDb::new().await;
    let hub = inside(&["p"]).deaf().start(&db).await;
    let mut owner = Owner::on(&db).await;
    let mut client = hub.connect(&TestClient::of("ann").device("d")).await;
    let lease = claimed(&mut owner).await;
    owner.live(&lease, "up").await;
    assert_eq!(client.expect_other("status").await["message"], "up");
    client.say(r#"{"type":"bet","id":"b-1"}"#).await;
    let command = taken(&mut owner, &lease).await;
    owner.settle(lease.term, command.id, MarkedSent::Sent).await;
    assert_eq!(client.expect_other("command_result").await["status"], "sent");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_that_dies_leaves_an_unknown_result_and_a_session_that_goes_on() {
    let db = TestDb::new().await;
    let hub = inside(&["p", "q"]).start(&db).await;
    let (mut dead, mut next) = (Owner::on(&db).await, Owner::on(&db).await);
    let mut client = hub.connect(&TestClient::of("ann").device("d")).await;
    let short = Duration::from_secs(1);
    let lease = eventually("a session is wanted", PATIENCE, async || dead.claim(short).await.pop()).await.lease();
    dead.live(&lease, "up").await;
    let status = client.expect_other("status").await;
    assert_eq!((&status["message"], &status["provider"]), (&json!("up"), &json!("p")), "with two providers, it says which");
    client.say(r#"{"type":"bet","id":"b-1"}"#).await;
    eventually("it is taken", PATIENCE, async || {
        dead.renew(&lease, short).await;
        dead.take(&lease).await.pop()
    })
    .await;
    claimed(&mut next).await;
    let result = client.expect_other("command_result").await;
    assert_eq!((&result["status"], &result["detail"]), (&json!("unknown"), &json!("owner_lost")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn admins_see_upstream_sessions_without_their_secrets() {
    let db = TestDb::new().await;
    let hub = inside(&["p"]).start(&db).await;
    let mut owner = Owner::on(&db).await;
    let _ann = hub.connect(&TestClient::of("ann").device("d")).await;
    let lease = claimed(&mut owner).await;
    let _bob = hub.connect(&TestClient::of("bob").device("d")).await;
    let secret = Some(Some(b"JSESSIONID-12345".to_vec()));
    assert!(owner.checkpoint(&lease, CheckpointChange { secret, ..CheckpointChange::to(UpstreamState::Live) }).await);
    let client = reqwest::Client::new();
    let asked = client.get(format!("http://{}/stats", hub.address)).bearer_auth(db.admin_key()).send().await.unwrap();
    let text = asked.text().await.unwrap();
    assert!(!text.contains("JSESSIONID") && !text.contains("secret"), "{text}");
    let stats: Value = serde_json::from_str(&text).unwrap();
    for connection in stats["connections"].as_array().unwrap() {
        assert_eq!(connection["upstreamConnected"], connection["userId"] == "ann", "{connection}");
    }
    let of_ann = stats["upstreamSessions"].as_array().unwrap().iter().find(|s| s["userId"] == "ann").unwrap();
    assert_eq!((&of_ann["state"], &of_ann["isLive"]), (&json!("live"), &json!(true)));
}

/// Regression: the socket's loop waited for the database, and with it every frame of the connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_waits_for_the_database_holds_up_no_frame_of_its_stream() {
    let db = TestDb::new().await;
    let hub = inside(&["p"]).start(&db).await;
    let mut client = hub.connect(&TestClient::of("ann").device("d")).await;
    client.until_caught_up().await;
    let mut lock = db.connect().await;
    sqlx::raw_sql("BEGIN; LOCK TABLE recado.upstream_command IN ACCESS EXCLUSIVE MODE").execute(&mut lock).await.unwrap();
    for n in 0..3 {
        client.say(&format!(r#"{{"type":"bet","id":"b-{n}","payload":{{"n":{n}}}}}"#)).await;
    }
    client.say(r#"{"type":"ping","id":"beside"}"#).await;
    let ClientSawFrame::Other(first) = client.next_frame().await else { panic!("a frame without a number comes") };
    assert_eq!((first["type"].as_str(), first["id"].as_str()), (Some("pong"), Some("beside")), "no command is stored yet: {first}");
    sqlx::raw_sql("COMMIT").execute(&mut lock).await.unwrap();
    // They are stored in the order in which they were sent, or reported as unknown when the lock was held for too long.
    eventually("the last command is stored or unknown", PATIENCE, async || {
        (db.number("SELECT count(*) FROM recado.upstream_command WHERE id = 'b-2'").await == 1).then_some(())
    })
    .await;
    let order = "SELECT count(*) FROM recado.upstream_command a JOIN recado.upstream_command b ON a.id < b.id WHERE a.place > b.place";
    assert_eq!(db.number(order).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_given_just_before_the_connection_ends_is_stored() {
    let db = TestDb::new().await;
    let hub = inside(&["p"]).start(&db).await;
    let client = hub.connect(&TestClient::of("ann").device("d")).await;
    for n in 0..3 {
        client.say(&format!(r#"{{"type":"bet","id":"b-{n}"}}"#)).await;
    }
    client.close().await;
    eventually("all three are stored", PATIENCE, async || {
        (db.number("SELECT count(*) FROM recado.upstream_command").await == 3).then_some(())
    })
    .await;
}

/// Regression: the end was noted only when the commands were stored, up to 4 s later. A client that returned meanwhile
/// was taken for a second client of its device, and later connections of the device received old notifications again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_is_over_at_once_while_its_last_command_waits_for_the_database() {
    let db = TestDb::new().await;
    let hub = inside(&["p"]).start(&db).await;
    let client = hub.connect(&TestClient::of("ann").device("d")).await;
    let mut lock = db.connect().await;
    sqlx::raw_sql("BEGIN; LOCK TABLE recado.upstream_command IN ACCESS EXCLUSIVE MODE").execute(&mut lock).await.unwrap();
    client.say(r#"{"type":"bet","id":"b-1"}"#).await;
    let mut witness = db.connect().await;
    let waiting = "SELECT count(*) FROM pg_stat_activity
                    WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%upstream_accept%'";
    let mut is_held = async || sqlx::query_scalar::<_, i64>(waiting).fetch_one(&mut witness).await.unwrap() > 0;
    eventually("the command waits", PATIENCE, async || is_held().await.then_some(())).await;
    client.close().await;
    eventually("the end is stored", PATIENCE, async || {
        (db.number("SELECT count(*) FROM recado.session WHERE user_id = 'ann' AND end_reason = 'closed_by_client'").await == 1)
            .then_some(())
    })
    .await;
    assert!(is_held().await, "the command still waited when the end was stored");
    sqlx::raw_sql("COMMIT").execute(&mut lock).await.unwrap();
    eventually("the command is stored", PATIENCE, async || {
        (db.number("SELECT count(*) FROM recado.upstream_command").await == 1).then_some(())
    })
    .await;
}
