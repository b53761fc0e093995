//! Tests the view of one user, and setting a device's position forward.

use serde_json::{Value, json};

use super::*;

fn device<'a>(answer: &'a Value, client: &str) -> &'a Value {
    answer["devices"].as_array().unwrap().iter().find(|device| device["client_id"] == client).unwrap_or_else(|| panic!("{answer:#}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_is_shown_with_devices_sessions_accounts_and_revocation() {
    let db = TestDb::new().await;
    let hub = |db| TestHub::on(db).with("RECADO_ACCOUNTS", "both");
    let (here, there) = (hub(&db).start().await, hub(&db).start().await);
    let mut web = TestClient::of("ann").account("7").device("web").connect(&here).await;
    let mut phone = TestClient::of("ann").device("phone").query("ack", "client").connect(&there).await;
    TestClient::of("ann").device("gone").connect(&here).await.close().await;
    want(&db, &["ann"]).await;
    let url = format!("http://{}/api/internal/accounts/9/members/ann", here.address);
    assert_eq!(http_client().put(url).bearer_auth(here.key()).send().await.unwrap().status(), 200);
    here.post(&note("to others").to_user("bob")).await;
    here.post(&note("to the table's account").account("9")).await;
    let seq = here.post(&note("to ann").to_user("ann")).await.seq;
    web.until_seq_past_others(seq).await;
    phone.until_seq_past_others(seq).await;
    for hub in [&here, &there] {
        let answer = eventually("all of it is shown", PATIENCE, async || {
            let answer = shown(&db, hub, "/api/admin/users/ann").await;
            let sent = answer["sessions"].as_array()?.iter().filter(|session| session["sent"] == seq).count();
            (sent == 2 && answer["sessions"].as_array()?.len() == 2 && device(&answer, "web")["acked"] == seq).then_some(answer)
        })
        .await;
        assert_eq!((&answer["user_id"], &answer["head"], &answer["forgotten"]), (&json!("ann"), &json!(seq), &json!(null)));
        assert_eq!((&answer["members_of"], &answer["revoked_before"]), (&json!(["9"]), &json!(null)));
        let parts = |name: &str| {
            let device = device(&answer, name);
            ["acked", "lag", "unacked", "unacked_more", "connected"].map(|part| device[part].clone())
        };
        assert_eq!(parts("web"), [json!(seq), json!(0), json!(0), json!(false), json!(true)]);
        // Four numbers behind, of which two are for the user.
        assert_eq!(parts("phone"), [json!(0), json!(seq), json!(2), json!(false), json!(true)]);
        assert_eq!(device(&answer, "gone")["connected"], false);
        let sessions = answer["sessions"].as_array().unwrap();
        let of_web = sessions.iter().find(|session| session["client_id"] == "web").unwrap();
        assert_eq!(of_web["session_id"], web.hello["session_id"]);
        assert_eq!((&of_web["account_ids"], &of_web["transport"]), (&json!(["7", "9"]), &json!("websocket")));
        let upstream = answer["upstream"].as_array().unwrap();
        assert_eq!((upstream.len(), &upstream[0]["provider"], &upstream[0]["isLive"]), (1, &json!("p"), &json!(false)));
    }
    let (status, revoked) = post(&here, "/api/admin/revocations", &db.admin_key(), &json!({ "user_id": "ann" })).await;
    assert_eq!(status, 200);
    assert_eq!(shown(&db, &there, "/api/admin/users/ann").await["revoked_before"], revoked["not_before"]);

    db.run("INSERT INTO recado.forgotten_device SELECT 'eve', log_id, 3, '{1,2}', false FROM recado.meta").await;
    let eve = shown(&db, &here, "/api/admin/users/eve").await;
    assert_eq!((&eve["forgotten"], &eve["devices"]), (&json!({ "from_seq": 3, "devices": 2 }), &json!([])));
    db.run("UPDATE recado.forgotten_device SET any_client = true").await;
    assert_eq!(shown(&db, &here, "/api/admin/users/eve").await["forgotten"], json!({ "from_seq": 3, "devices": null }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unacknowledged_notifications_are_counted_up_to_a_thousand() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    TestClient::of("ann").device("web").connect(&hub).await.close().await;
    append(&db, "ann", 999, 1).await;
    hub.post(&note("live only").to_user("ann").never_replayed()).await;
    hub.post(&note("soon over").to_user("ann").ttl(1)).await;
    let counted = async || {
        let answer = shown(&db, &hub, "/api/admin/users/ann").await;
        let device = device(&answer, "web");
        (device["unacked"].as_i64().unwrap(), device["unacked_more"].as_bool().unwrap())
    };
    eventually("the one with a ttl has expired", PATIENCE, async || (counted().await == (999, false)).then_some(())).await;
    hub.post(&note("the last that is counted").to_users(&["ann", "bob"])).await;
    assert_eq!(counted().await, (1000, true), "the numbers beyond the first thousand were not read");
    hub.post(&note("one more").to_everyone()).await;
    assert_eq!(counted().await, (1000, true));
    let head = db.head().await;
    db.run(&format!("UPDATE recado.cursor SET acked_seq = {head} - 1")).await;
    assert_eq!(counted().await, (1, false));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_notification_of_a_user_has_the_verdicts_of_why() {
    let db = TestDb::new().await;
    let (here, there) = (TestHub::on(&db).start().await, TestHub::on(&db).start().await);
    let early = here.post(&note("before any device").to_user("ann")).await.seq;
    here.settled(&db).await;
    let mut web = TestClient::of("ann").account("7").device("web").query("ack", "client").connect(&here).await;
    let mut phone = TestClient::of("ann").device("phone").query("ack", "client").connect(&there).await;
    let first = here.post(&note("first").to_user("ann").data("{ \"z\":1.0 }")).await.seq;
    here.post(&note("to others").to_user("bob")).await;
    let account = here.post(&note("to the account").account("7")).await.seq;
    let last = here.post(&note("last").to_everyone()).await.seq;
    web.until_seq_past_others(last).await;
    phone.until_seq_past_others(last).await;
    web.ack(account).await;
    let path = "/api/admin/users/ann/notifications";
    let page = eventually("the facts are there", PATIENCE, async || {
        let page = shown(&db, &there, path).await;
        let found = page["notifications"].as_array()?;
        let acked = found.iter().find(|one| one["seq"] == first)?["devices"]
            .as_array()?
            .contains(&json!({ "client_id": "web", "verdict": "acked" }));
        let sent = found.iter().find(|one| one["seq"] == last)?["devices"].as_array()?.iter().all(|device| device["verdict"] == "sent");
        (acked && sent).then_some(page)
    })
    .await;
    let found = page["notifications"].as_array().unwrap();
    let seqs: Vec<i64> = found.iter().map(|one| one["seq"].as_i64().unwrap()).collect();
    assert_eq!((seqs, &page["next"]), (vec![last, account, first, early], &json!(null)));
    let (_, text) = there.get(path, Some(&db.admin_key())).await.unwrap();
    assert!(text.contains("\"data\":{ \"z\":1.0 }"), "as posted: {text}");
    for one in found {
        let why = shown(&db, &there, &format!("/api/admin/why?user=ann&seq={}", one["seq"])).await;
        let verdicts = |devices: &Value| -> Vec<(String, String)> {
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            devices.as_array().unwrap().iter().map(|device| (text(&device["client_id"]), text(&device["verdict"]))).collect()
        };
        assert_eq!(verdicts(&one["devices"]), verdicts(&why["devices"]), "{one}");
        assert_eq!(one["devices"].as_array().unwrap().len(), 2);
    }
    let to_account = found.iter().find(|one| one["seq"] == account).unwrap();
    assert!(
        to_account["devices"].as_array().unwrap().contains(&json!({ "client_id": "phone", "verdict": "other_account" })),
        "{to_account}"
    );

    // Page by page.
    let (mut at, mut seen) = (String::new(), Vec::new());
    loop {
        let page = shown(&db, &here, &format!("{path}?limit=2{at}")).await;
        seen.extend(page["notifications"].as_array().unwrap().iter().map(|one| one["seq"].as_i64().unwrap()));
        let Some(next) = page["next"].as_i64() else { break };
        at = format!("&before={next}");
    }
    assert_eq!(seen, [last, account, first, early]);
    assert_eq!(shown(&db, &here, "/api/admin/users/nobody/notifications?limit=100").await["notifications"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_is_set_forward_and_never_back_with_a_row_in_the_audit() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let mut web = TestClient::of("ann").device("web").query("ack", "client").connect(&hub).await;
    for title in ["1", "2", "3"] {
        hub.post(&note(title).to_user("ann")).await;
    }
    web.until_seq(3).await;
    let set = async |client: &str, seq: i64| {
        post(&hub, "/api/admin/users/ann/ack", &db.admin_key(), &json!({ "client_id": client, "seq": seq })).await
    };
    assert_eq!(set("web", 2).await, (200, json!({ "success": true, "acked": 2 })));
    assert_eq!(db.place("ann", "web").await, Some(2));
    // The open connection knows.
    assert_eq!(device(&shown(&db, &hub, "/api/admin/users/ann").await, "web")["acked"], 2);
    assert_eq!(named(&shown(&db, &hub, "/api/admin/sessions?user=ann").await)[0]["acked"], 2);
    assert_eq!(set("web", 1).await, (200, json!({ "success": true, "acked": 2 })), "never back");
    for (client, seq, status, code) in [("web", 4, 409, "ack_ahead"), ("tv", 1, 404, "unknown_device"), ("a b", -1, 422, "invalid_field")] {
        let (refused, answer) = set(client, seq).await;
        assert_eq!((refused, &answer["code"]), (status, &json!(code)), "{answer}");
    }
    let acts = acts(&db, &hub, "device.ack").await;
    assert_eq!(acts.len(), 1, "what moved nothing is no act: {acts:?}");
    assert_eq!((&acts[0]["object"], &acts[0]["user_id"], &acts[0]["who"]), (&json!("device/web"), &json!("ann"), &json!("key:boss")));
    assert_eq!((&acts[0]["details"], &acts[0]["outcome"]), (&json!({ "seq": 2, "was": 0 }), &json!("done")));
    web.close().await;
    let mut again = TestClient::of("ann").device("web").query("ack", "client").connect(&hub).await;
    assert_eq!(again.until_caught_up().await.iter().map(|n| n.seq).collect::<Vec<_>>(), [3], "it is not sent what was set");
    eventually("why knows how", PATIENCE, async || {
        let why = shown(&db, &hub, "/api/admin/why?user=ann&seq=1").await;
        why["text"].as_str()?.contains("acknowledged it by POST").then_some(())
    })
    .await;
    // A row that cannot be written stops the act.
    db.run("ALTER TABLE recado.audit ADD CONSTRAINT full_disk CHECK (audit_id < 0) NOT VALID").await;
    assert!(set("web", 3).await.0 >= 500);
    assert_eq!(db.place("ann", "web").await, Some(2));
}
