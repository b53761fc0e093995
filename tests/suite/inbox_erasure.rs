//! Promise: what takes items away stops no change of an inbox and is stopped by none, and ends with the log that it was
//! of.

use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::task::JoinHandle;

use super::support::*;

async fn run(sql: &mut PgConnection, text: &str) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(text.to_owned())).execute(sql).await.map(drop)
}

/// Runs a statement on a connection of its own, and returns when it waits for a lock.
async fn waiting(db: &TestDb, text: &'static str) -> JoinHandle<Result<(), sqlx::Error>> {
    let mut sql = db.connect().await;
    let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut sql).await.unwrap();
    let running = tokio::spawn(async move {
        let done = run(&mut sql, text).await;
        let _ = sql.close().await;
        done
    });
    let blocked = format!("SELECT cardinality(pg_blocking_pids({pid}))::bigint");
    eventually("it waits", PATIENCE, async || (db.number(&blocked).await > 0).then_some(())).await;
    running
}

/// Before, each of the two waited for the other, and PostgreSQL refused one of them after a second without appends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_erasure_and_a_change_of_the_same_inbox_wait_in_one_order() {
    let db = TestDb::new().await;
    db.run("SELECT recado.inbox_open('ann', '{}'), recado.inbox_open('bob', '{}')").await;
    let hub = TestHub::on(&db).start().await;
    hub.post(&note("one").to_user("ann")).await;
    hub.post(&note("two").to_user("ann")).await;
    hub.kill().await;
    const READ: &str =
        r#"SELECT FROM recado.change_inboxes(0, NULL, 'test', '[{"user":"ann","accounts":[],"members":false,"op":"read","seqs":[2]}]')"#;
    db.run(&READ.replace("[2]", "[1]")).await;

    let mut erasure = db.connect().await;
    run(&mut erasure, "BEGIN; SELECT recado.erase_traces('ann') + recado.erase_members('ann')").await.unwrap();
    let change = waiting(&db, READ).await;
    run(&mut erasure, "COMMIT").await.expect("the erasure is made");
    change.await.unwrap().expect("the change is made");

    // Retention deletes marks of items that a change may name at the same time.
    let mut change = db.connect().await;
    run(&mut change, "BEGIN; LOCK TABLE recado.append_lock IN SHARE UPDATE EXCLUSIVE MODE").await.unwrap();
    let retention = waiting(&db, "UPDATE recado.meta SET floor_seq = 2").await;
    run(&mut change, "UPDATE recado.inbox_item SET is_read = false; COMMIT").await.expect("the change is made");
    retention.await.unwrap().expect("the floor rises");
    assert_eq!(db.number("SELECT count(*) FROM recado.inbox_item").await, 0);
}

/// Before, a connection counted again and again until the new log had as many rows as the old one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_lost_its_end_takes_no_notice_of_an_erasure_behind_it() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let ann = InboxStream::of("ann", &[], "phone", InboxTransport::WebSocket);
    drop(ann.connect(&hub.address, Some(0)).await);
    for title in ["one", "two", "three"] {
        hub.post(&note(title).to_user("ann")).await;
    }
    // The row that tells it has number 4.
    db.run("SELECT recado.erase_rows(NULL, 1, 2)").await;
    let mut before = ann.connect(&hub.address, Some(0)).await;
    before.shows(2, 2).await;
    let head = db.head().await;
    assert_eq!(head, 4);
    db.run("SET session_replication_role = replica; DELETE FROM recado.log WHERE seq > 1").await;
    const LOG: &str = "SELECT hashtext(log_id::text)::bigint FROM recado.meta";
    let lost = db.number(LOG).await;
    hub.post(&note("four").to_user("ann")).await;
    eventually("the log gets a new id", PATIENCE, async || (db.number(LOG).await != lost).then_some(())).await;
    eventually("the hub closes the stream", PATIENCE, async || before.has_ended().then_some(())).await;

    let mut after = ann.connect(&hub.address, Some(0)).await;
    let caught_up = after.next_of("caught_up").await;
    assert_eq!((&caught_up["unread"], &caught_up["as_of"]), (&json!(2), &json!(2)), "{caught_up}");
}
