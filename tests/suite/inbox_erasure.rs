//! Promise: what takes items away stops no change of an inbox and is stopped by none.

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
