//! Promise: a webhook posts each row that it wants, signed, until it is accepted or given up aloud.
//!
//! One hub at a time posts for a webhook, to addresses that the settings allow, and its secret is shown once.

mod delivery;
mod ownership;
mod safety;
mod secrets;
mod states;
mod unacked;

use serde_json::Value;

use super::support::*;

/// The key that seals secrets, as every hub and command of the tests has it.
const KEY: &str = "07070707070707070707070707070707070707070707070707070707070707aa";

/// A hub that may post to loopback.
fn hub(db: &TestDb) -> HubBuilder {
    TestHub::on(db).with("RECADO_WEBHOOK_NETWORKS", "127.0.0.0/8").with("RECADO_UPSTREAM_KEY", KEY)
}

/// Runs `recado webhook`, which must succeed.
async fn webhook(db: &TestDb, args: &[&str]) -> String {
    hub(db).run(&[&["webhook"], args].concat()).await
}

/// Creates a webhook that posts from the beginning of the log; returns its secret.
async fn create(db: &TestDb, name: &str, url: &str, conditions: &[&str]) -> String {
    webhook(db, &[&["create", name, url, "--start", "earliest"], conditions].concat()).await.trim().to_owned()
}

/// The row of a webhook, as `recado webhook show` has it.
async fn shown(db: &TestDb, name: &str) -> Value {
    serde_json::from_str(&webhook(db, &["show", name, "-o", "json"]).await).unwrap()
}

/// Makes posts that wait due now, as if their time had passed.
async fn make_due(db: &TestDb) {
    db.run("UPDATE recado.webhook_post SET due_at = clock_timestamp() WHERE NOT is_dead; SELECT pg_notify('recado', 'webhooks')").await;
}

async fn waiting(db: &TestDb) -> i64 {
    db.number("SELECT count(*) FROM recado.webhook_post WHERE NOT is_dead").await
}

/// Waits until posts have this many failed attempts in all.
async fn failed(db: &TestDb, attempts: i64) {
    let count = "SELECT coalesce(sum(attempts), 0)::bigint FROM recado.webhook_post";
    eventually("the attempts have failed", PATIENCE, async || (db.number(count).await == attempts).then_some(())).await;
}

/// Waits until nothing waits, and every row of the log was passed.
async fn all_posted(db: &TestDb) {
    let left = "SELECT (SELECT count(*) FROM recado.webhook_post) + (SELECT count(*) FROM recado.webhook w
                  WHERE w.passed_seq < (SELECT max(seq) FROM recado.log))";
    eventually("everything is posted", PATIENCE, async || (db.number(left).await == 0).then_some(())).await;
}

fn order(title: &str) -> Note {
    note(title).raw("type", "\"order_paid\"").to_user("42")
}
