//! Tests that a database rolled back while no hub ran is another history.
//!
//! This holds however far it has grown since.

use super::support::*;

async fn log_id(db: &TestDb) -> String {
    sqlx::query_scalar("SELECT log_id::text FROM recado.meta").fetch_one(&mut db.connect().await).await.unwrap()
}

/// As if no hub had been running for an hour.
async fn long_ago(db: &TestDb) {
    db.run("UPDATE recado.instance SET seen_at = seen_at - interval '1 hour'").await;
}

/// Appends rows that no hub sees.
async fn grow(db: &TestDb, rows: i64) {
    let hub = TestHub::on(db).publishing_with(&service_token("shop", recado::domain::Role::Service)).start().await;
    for n in 0..rows {
        hub.post(&note(&format!("other {n}")).to_user("ann")).await;
    }
    hub.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_with_a_data_folder_remembers_what_it_saw_and_renames_a_log_that_lacks_it() {
    let db = TestDb::new().await;
    let folder = tempfile::tempdir().unwrap();
    let remembering = |db: &TestDb| {
        let token = service_token("shop", recado::domain::Role::Service);
        TestHub::on(db).with("RECADO_DATA_DIR", folder.path().to_str().unwrap()).publishing_with(&token)
    };
    let mut hub = remembering(&db).start().await;
    for n in 1..=3 {
        hub.post(&note(&n.to_string()).to_user("ann")).await;
    }
    hub.signal("-TERM").await;
    hub.ended(PATIENCE).await;
    let name = log_id(&db).await;
    let backup = db.copy().await;
    let mut hub = remembering(&db).start().await;
    for n in 4..=9 {
        hub.post(&note(&n.to_string()).to_user("ann")).await;
    }
    hub.signal("-TERM").await;
    hub.ended(PATIENCE).await;
    assert_eq!(log_id(&db).await, name, "a restart alone changes nothing");
    // The backup is restored, and grows past what clients know, while the hub that remembers is down. To show that its
    // memory alone is enough, the database claims to be the same one.
    grow(&backup, 8).await;
    backup.run(&format!("UPDATE recado.meta SET log_id = '{name}'")).await;
    let hub = remembering(&backup).start().await;
    let renamed = log_id(&backup).await;
    assert_ne!(renamed, name);
    let returned = TestClient::of("ann").since(9).query("log_id", &name).connect(&hub).await;
    assert_eq!((returned.resume_status(), returned.log_id()), ("reset", renamed.as_str()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_on_another_server_is_renamed_unless_it_can_be_shown_to_have_gone_on() {
    let db = TestDb::new().await;
    let mut hub = TestHub::on(&db).start().await;
    hub.post(&note("1").to_user("ann")).await;
    hub.signal("-TERM").await;
    hub.ended(PATIENCE).await;
    let name = log_id(&db).await;
    // A copy is another database, as one restored from a dump is.
    let (copied, watched) = (db.copy().await, db.copy().await);
    long_ago(&copied).await;
    let hub = TestHub::on(&copied).start().await;
    let renamed = log_id(&copied).await;
    assert_ne!(renamed, name, "its fate is unknown");
    assert!(hub.said().contains("another server or timeline"));
    drop(hub);
    let _hub = TestHub::on(&copied).start().await;
    assert_eq!(log_id(&copied).await, renamed, "once is enough");
    // A failover under a running hub: that hub has watched it.
    watched.run("UPDATE recado.instance SET ended_at = NULL, seen_at = clock_timestamp()").await;
    let _hub = TestHub::on(&watched).start().await;
    assert_eq!(log_id(&watched).await, name);
}
