//! Tests that clients which connect at once are stored together.
//!
//! Each of them still gets its own answer.

use super::support::*;

/// Holds every new connection back until it is released.
async fn hold_connects(db: &TestDb) -> sqlx::PgConnection {
    let mut holder = db.connect().await;
    sqlx::raw_sql("BEGIN; LOCK TABLE recado.session IN EXCLUSIVE MODE").execute(&mut holder).await.unwrap();
    holder
}

async fn release(mut holder: sqlx::PgConnection) {
    sqlx::raw_sql("COMMIT").execute(&mut holder).await.unwrap();
}

/// Begins to connect a client.
fn connecting(client: ClientBuilder, hub: &TestHub) -> tokio::task::JoinHandle<TestClient> {
    let address = hub.address.clone();
    tokio::spawn(async move { client.try_connect(&address).await.unwrap_or_else(|problem| panic!("{problem}")) })
}

/// Makes a device known, with an acknowledged position.
async fn device_at(hub: &TestHub, db: &TestDb, device: &str, acked: i64) {
    let mut client = TestClient::of("ann").device(device).since(0).query("ack", "client").connect(hub).await;
    client.until_seq(acked).await;
    client.ack(acked).await;
    eventually("the position is stored", PATIENCE, async || (db.place("ann", device).await == Some(acked)).then_some(())).await;
    client.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_connect_at_once_share_a_commit_and_each_gets_its_own_answer() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).with("RECADO_ACCOUNTS", "both").start().await;
    for title in ["1", "2", "3"] {
        hub.post(&note(title).to_user("ann")).await;
    }
    hub.settled(&db).await;
    device_at(&hub, &db, "behind", 2).await;
    device_at(&hub, &db, "rested", 1).await;
    device_at(&hub, &db, "forgotten", 2).await;
    let ended = "SELECT count(*) FROM recado.session WHERE ended_at IS NOT NULL";
    eventually("the ends are stored", PATIENCE, async || (db.number(ended).await == 3).then_some(())).await;
    db.run(
        "UPDATE recado.cursor SET seen_at = seen_at - interval '2 days' WHERE client_id = 'rested';
         DELETE FROM recado.cursor WHERE client_id = 'forgotten';
         INSERT INTO recado.forgotten_device (user_id, log_id, from_seq, clients)
         SELECT 'ann', log_id, 2, ARRAY[recado.device_hash('forgotten')] FROM recado.meta;
         SELECT recado.add_member('ann', 'acme')",
    )
    .await;
    hub.settled(&db).await;
    let (commits, stored) = (hub.metric("recado_connect_rows_count").await, hub.metric("recado_connect_rows_sum").await);

    let holder = hold_connects(&db).await;
    let first = connecting(TestClient::of("eve"), &hub);
    eventually("the first connect waits", PATIENCE, async || (db.waiting_connects().await == 1).then_some(())).await;
    let named = ["behind", "rested", "forgotten", "new", "twin", "twin"];
    let of_ann = named.map(|device| connecting(TestClient::of("ann").device(device), &hub));
    let crowd: Vec<_> = (0..20).map(|n| connecting(TestClient::of(&format!("user{n}")), &hub)).collect();
    eventually("all have joined", PATIENCE, async || (hub.metric("recado_connections").await == 27.0).then_some(())).await;
    release(holder).await;

    let mut of_ann = of_ann.into_iter();
    let mut next = async || of_ann.next().unwrap().await.unwrap();
    let (mut behind, mut rested, mut forgotten, new, twin, other_twin) =
        (next().await, next().await, next().await, next().await, next().await, next().await);
    assert_eq!((behind.resume_status(), rested.resume_status(), forgotten.resume_status()), ("ok", "ok", "gap"));
    let titles = async |client: &mut TestClient| client.until_caught_up().await.iter().map(|n| n.title.clone()).collect::<Vec<_>>();
    assert_eq!(titles(&mut behind).await, ["3"]);
    assert_eq!(titles(&mut rested).await, ["2", "3"]);
    assert_eq!(titles(&mut forgotten).await, [""; 0]);
    assert_eq!(new.resume_status(), "live");
    // One of the two found the other one stored, so its device is not new.
    let mut twins = [twin.resume_status(), other_twin.resume_status()];
    twins.sort_unstable();
    assert_eq!(twins, ["live", "ok"]);
    let mut first = first.await.unwrap();
    first.until_caught_up().await;
    let mut others = Vec::new();
    for client in crowd {
        others.push(client.await.unwrap());
        assert_eq!(others.last().unwrap().resume_status(), "live");
    }
    hub.post(&note("to the account").account("acme")).await;
    assert_eq!(rested.until("to the account").await.len(), 1, "a connection stored alone has its accounts");
    assert_eq!(behind.until("to the account").await.len(), 1, "a connection stored with others has its accounts");

    let (commits, stored) = (hub.metric("recado_connect_rows_count").await - commits, hub.metric("recado_connect_rows_sum").await - stored);
    assert!(commits <= 4.0 && stored >= 25.0, "{stored} connections in {commits} commits");
    let seen_now = "SELECT count(*) FROM recado.cursor WHERE client_id = 'rested' AND seen_at > now() - interval '1 hour'";
    assert_eq!(db.number(seen_now).await, 1);
    assert_eq!(db.number("SELECT count(*) FROM recado.session WHERE ended_at IS NULL").await, 27);
}

/// A group that fails costs its clients a moment and no connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_whose_group_fails_are_stored_alone() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    TestClient::of("eve").connect(&hub).await.close().await;
    db.run("ALTER FUNCTION recado.connections_begin RENAME TO connections_begin_is_away").await;
    for _ in 0..2 {
        let clients: Vec<_> = (0..8).map(|n| connecting(TestClient::of(&format!("user{n}")).device("web"), &hub)).collect();
        for client in clients {
            client.await.unwrap().until_caught_up().await;
        }
    }
    assert_eq!(db.number("SELECT count(DISTINCT user_id) FROM recado.session WHERE client_id = 'web'").await, 8);
}
