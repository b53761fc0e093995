//! Secrets: shown once, sealed at rest, rotated.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sqlx::{AssertSqlSafe, Row};

use super::*;

/// Everything that a dump of the tables of webhooks and of the audit would contain.
async fn dump(db: &TestDb) -> String {
    let mut text = String::new();
    for table in ["webhook", "webhook_post", "audit"] {
        let rows = sqlx::query(AssertSqlSafe(format!("SELECT t::text AS line FROM recado.{table} t")));
        let rows = rows.fetch_all(&mut db.connect().await).await.unwrap();
        text.extend(rows.iter().map(|row| row.get::<String, _>("line")));
    }
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_is_shown_once_and_is_in_clear_nowhere_else() {
    let (db, receiver) = (TestDb::new().await, Receiver::start().await);
    let hub = hub(&db).start().await;
    let created = create(&db, "gateway", &receiver.url, &[]).await;
    let rotated = webhook(&db, &["rotate", "gateway"]).await.trim().to_owned();
    receiver.answer_with(500);
    hub.post(&order("paid")).await;
    failed(&db, 1).await;
    let mut said = dump(&db).await + &hub.said();
    for args in
        [&["list"] as &[&str], &["list", "-o", "json"], &["show", "gateway"], &["show", "gateway", "-o", "json"], &["dead", "gateway"]]
    {
        said += &webhook(&db, args).await;
    }
    for secret in [&created, &rotated] {
        let bytes = STANDARD.decode(secret.strip_prefix("whsec_").unwrap()).unwrap();
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(bytes.len(), 32);
        assert!(!said.contains(&secret[6..]) && !said.contains(&hex), "a secret is in clear");
    }
    assert!(!hub.said().contains("of=test"), "nor is the query of the URL in the log");
    assert!(!dump(&db).await.contains("audit\",\"of=test"));
    assert_eq!(db.number("SELECT count(*) FROM recado.audit a WHERE a::text LIKE '%of=test%'").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_rotation_both_secrets_sign_until_the_old_one_ends() {
    let (db, receiver) = (TestDb::new().await, Receiver::start().await);
    let hub = hub(&db).start().await;
    let old = create(&db, "gateway", &receiver.url, &[]).await;
    hub.post(&order("before")).await;
    let post = receiver.post_of("before").await;
    assert!(post.is_signed_with(&old) && post.header("webhook-signature").split(' ').count() == 1);
    let new = webhook(&db, &["rotate", "gateway"]).await.trim().to_owned();
    hub.post(&order("during")).await;
    let post = receiver.post_of("during").await;
    assert!(post.is_signed_with(&old) && post.is_signed_with(&new) && old != new);
    assert_eq!(post.header("webhook-signature").split(' ').count(), 2);
    let last = webhook(&db, &["rotate", "gateway", "--keep", "0s"]).await.trim().to_owned();
    hub.post(&order("after")).await;
    let post = receiver.post_of("after").await;
    assert!(post.is_signed_with(&last) && !post.is_signed_with(&new) && !post.is_signed_with(&old));
    // The end of the old secret comes while its hub runs.
    let next = webhook(&db, &["rotate", "gateway", "--keep", "1s"]).await.trim().to_owned();
    let ended = "SELECT count(*) FROM recado.webhook WHERE old_secret_until < clock_timestamp()";
    eventually("its time is over", PATIENCE, async || (db.number(ended).await == 1).then_some(())).await;
    hub.post(&order("alone")).await;
    let post = receiver.post_of("alone").await;
    assert!(post.is_signed_with(&next) && !post.is_signed_with(&last));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_with_another_key_says_so_and_leaves_the_webhook_to_others() {
    let (db, receiver) = (TestDb::new().await, Receiver::start().await);
    let other =
        TestHub::on(&db).with("RECADO_WEBHOOK_NETWORKS", "127.0.0.0/8").with("RECADO_UPSTREAM_KEY", &KEY.replace("aa", "bb")).start().await;
    let secret = create(&db, "gateway", &receiver.url, &[]).await;
    other.post(&order("paid")).await;
    eventually("it says so", PATIENCE, async || other.said().contains("RECADO_UPSTREAM_KEY").then_some(())).await;
    assert!(receiver.got().is_empty());
    let _hub = hub(&db).start().await;
    db.run("UPDATE recado.webhook SET lease_until = clock_timestamp() - interval '1 second' WHERE owner IS NOT NULL").await;
    assert!(receiver.post_of("paid").await.is_signed_with(&secret));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_is_sealed_again_after_the_key_was_rotated() {
    let (db, receiver) = (TestDb::new().await, Receiver::start().await);
    let secret = create(&db, "gateway", &receiver.url, &[]).await;
    let sealed = "SELECT count(*) FROM recado.webhook WHERE secret <> decode(current_setting('app.before'), 'hex')";
    let before: Vec<u8> = sqlx::query_scalar("SELECT secret FROM recado.webhook").fetch_one(&mut db.connect().await).await.unwrap();
    let before: String = before.iter().map(|byte| format!("{byte:02x}")).collect();
    let new = KEY.replace("aa", "bb");
    let first = hub(&db).with("RECADO_UPSTREAM_KEY", &new).with("RECADO_UPSTREAM_ACCEPTED_KEYS", KEY).start().await;
    let changed = sealed.replace("current_setting('app.before')", &format!("'{before}'"));
    eventually("it is sealed again", PATIENCE, async || (db.number(&changed).await == 1).then_some(())).await;
    first.kill().await;
    db.run("UPDATE recado.webhook SET lease_until = clock_timestamp() - interval '1 second'").await;
    let hub = hub(&db).with("RECADO_UPSTREAM_KEY", &new).start().await;
    hub.post(&order("paid")).await;
    assert!(receiver.post_of("paid").await.is_signed_with(&secret));
}

/// A private installation: the command makes the key in the data folder while the hub runs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_key_may_be_made_after_the_hub_was_started() {
    let (db, receiver, folder) = (TestDb::new().await, Receiver::start().await, tempfile::tempdir().unwrap());
    let builder = TestHub::on(&db).with("RECADO_WEBHOOK_NETWORKS", "127.0.0.0/8").with("RECADO_DATA_DIR", folder.path().to_str().unwrap());
    let hub = builder.start().await;
    assert!(!folder.path().join("secrets/upstream-key").exists(), "a hub without webhooks needs no key");
    let secret = builder.run(&["webhook", "create", "gateway", &receiver.url]).await.trim().to_owned();
    hub.post(&order("paid")).await;
    assert!(receiver.post_of("paid").await.is_signed_with(&secret));
}
