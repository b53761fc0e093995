//! Tests that all clients can return at the same moment.
//!
//! Their connections were reset or their hub was killed. Each client gets all that it missed, and posts are answered
//! meanwhile.

use std::time::Duration;

use super::support::*;

/// Each with as many devices as one user may have.
const USERS: usize = 10;
const DEVICES: usize = 20;
/// How many rows each device misses.
const BEHIND: usize = 20;
/// For a busy machine that clients and hubs share.
const LONG_PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn hundreds_that_come_back_at_once_get_all_they_missed_while_posts_go_on() {
    let _turn = heavy().await;
    let db = TestDb::new().await;
    let (doomed, other) = (TestHub::on(&db).start().await, TestHub::on(&db).start().await);
    let proxy = TestProxy::before_address(&doomed.address).await;
    let addresses = Addresses::default();
    addresses.set_to(&[format!("127.0.0.1:{}", proxy.port)]);
    let users: Vec<String> = (0..USERS).map(|n| format!("u{n}")).collect();
    let users: Vec<&str> = users.iter().map(String::as_str).collect();
    let fan = Fan::start(&users, DEVICES, &addresses).await;
    let of_other = Addresses::of([&other]);
    let writers = Writers::start(1, &of_other, &db.key(), Duration::from_millis(50), |n| note(&n.to_string()).to_everyone());
    let breaks = async |so_far: usize| {
        let now = writers.count();
        writers.until_count(now + BEHIND, LONG_PATIENCE).await;
        let back = |device: &LoadDevice| device.stretches().len() > so_far;
        eventually("all are back", LONG_PATIENCE, async || fan.devices.iter().all(back).then_some(())).await;
    };
    // The connections are reset while the hub lives: it must notice that they are gone while the clients come back.
    proxy.cut(Cut::Rst);
    breaks(1).await;
    // The hub is killed, and its clients go to the other one.
    addresses.set(std::slice::from_ref(&other));
    doomed.kill().await;
    breaks(2).await;
    let readers = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'recado reader'";
    let readers = db.number(readers).await;
    let diary = writers.stop().await;
    assert!(diary.slowest < Duration::from_secs(6), "an answer within five seconds, whatever happens: {:?}", diary.slowest);
    assert!(readers <= 8, "{readers} connections of readers");
    let end = other.post(&note("end").to_everyone()).await;
    fan.until_everyone_has(end.seq, LONG_PATIENCE).await;
    nothing_is_lost(&log_rows(&db.url()).await, &diary, &fan);
}
