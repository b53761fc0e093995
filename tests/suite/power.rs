//! Tests that answered or delivered rows survive a power cut of the database machine.
//!
//! Answered means with 201.
//!
//! kill -9 does not show a missing flush, because the kernel keeps what a killed process wrote. So the test uses a disk
//! that loses its unflushed data (`support/disk.rs`). To show that the check can fail, it also runs on servers that do
//! not flush, where it must find losses.

use std::time::Duration;

use recado::domain::Role;
use sqlx::PgConnection;

use super::support::cluster::{OnDisk, TestCluster};
use super::support::disk::Disk;
use super::support::host::given;
use super::support::*;

fn machine(kind: &str) -> Result<(Disk, TestCluster), String> {
    let disk = Disk::make(kind, 400)?;
    let cluster = TestCluster::on(&disk, OnDisk::Everything)?;
    Ok((disk, cluster))
}

async fn a_power_cut_under_load_loses_nothing(row: &str, kind: &str) {
    let _turn = heavy().await;
    let Some((disk, mut cluster)) = given(row, machine(kind)) else { return };
    cluster.start().await;
    let hub = TestHub::at(&cluster.url());
    let hubs = [hub.start().await, hub.start().await];
    let addresses = Addresses::of(&hubs);
    let fan = Fan::start(&["ann", "bob"], 2, &addresses).await;
    let writers = Writers::start(6, &addresses, &service_token("shop", Role::Service), Duration::ZERO, mixed);
    writers.until_count(120, PATIENCE * 3).await;
    disk.cut_the_power();
    cluster.kill_9().await;
    disk.power_on().await;
    cluster.start().await;
    for hub in &hubs {
        eventually("ready again", PATIENCE * 2, async || hub.is_ready().await.then_some(())).await;
    }
    writers.until_count(writers.count() + 40, PATIENCE * 3).await;
    let diary = writers.stop().await;
    let end = hubs[0].post(&note("end").to_everyone()).await;
    fan.until_everyone_has(end.seq, PATIENCE * 2).await;
    nothing_is_lost(&log_rows(&cluster.url()).await, &diary, &fan);
    if let Some(complaints) = cluster.amcheck() {
        assert_eq!(complaints, "", "pg_amcheck");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow: needs the machine"]
async fn a_power_cut_under_load_on_ext4_loses_no_201_and_no_delivery() {
    a_power_cut_under_load_loses_nothing("F16 ext4", "ext4").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow: needs the machine"]
async fn a_power_cut_under_load_on_xfs_loses_no_201_and_no_delivery() {
    a_power_cut_under_load_loses_nothing("F16 xfs", "xfs").await;
}

/// A server that does not flush is refused. A hub that is forced to serve on it loses rows that it promised to keep,
/// and the check of the tests above detects that.
async fn a_server_that_does_not_flush_is_refused_and_loses(row: &str, setting: &str, more: &[&str]) {
    let _turn = heavy().await;
    let Some((disk, mut cluster)) = given(row, machine("ext4")) else { return };
    more.iter().chain([&setting]).for_each(|setting| cluster.set(setting));
    cluster.start().await;
    let (code, said) = run_to_the_end(&TestHub::at(&cluster.url())).await;
    let name = setting.split('=').next().unwrap();
    assert!(code == Some(78) && said.contains(&format!("{name} is off")), "{code:?}: {said}");

    let hub = TestHub::at(&cluster.url()).with("RECADO_ALLOW_UNSAFE_DURABILITY", "on").start().await;
    let addresses = Addresses::of([&hub]);
    let fan = Fan::start(&["ann", "bob"], 1, &addresses).await;
    // The checkpoint makes the schema survive the cut: anything missing then was promised later.
    cluster.execute("CHECKPOINT").await;
    disk.flush();
    let writers = Writers::start(4, &addresses, &service_token("shop", Role::Service), Duration::ZERO, mixed);
    writers.until_count(200, PATIENCE * 3).await;
    disk.cut_the_power();
    cluster.kill_9().await;
    let (diary, devices) = (writers.abandon().await, fan.devices.iter().map(LoadDevice::got).collect::<Vec<_>>());
    hub.kill().await;
    disk.power_on().await;
    let rows = if cluster.try_start().await { rows_left(&cluster).await } else { Vec::new() };
    let is_there = |seq: i64, id: &str| rows.iter().any(|(row, its, _)| *row == seq && its == id);
    let lost = diary.posted.iter().filter(|posted| !is_there(posted.receipt.seq, &posted.receipt.id)).count();
    let phantoms = devices.iter().flatten().filter(|(seq, id)| !is_there(*seq, id)).count();
    eprintln!("{setting}: of {} receipts {lost} are lost, {phantoms} deliveries were of what is not there", diary.posted.len());
    assert!(lost > 0, "{setting}: {} receipts, and the check finds none lost", diary.posted.len());
    assert!(phantoms > 0, "{setting}: the check finds no delivery of what is lost");
}

/// The rows that can still be read.
async fn rows_left(cluster: &TestCluster) -> Vec<LoggedRow> {
    let Ok(mut connection): Result<PgConnection, _> = cluster.try_connect().await else { return Vec::new() };
    let rows = sqlx::query_as("SELECT seq, id::text, user_id FROM recado.log ORDER BY seq");
    rows.fetch_all(&mut connection).await.unwrap_or_default()
}

/// PostgreSQL flushes such commits a moment later. Here that moment is long, so that the cut comes before it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow: needs the machine"]
async fn without_synchronous_commit_the_same_cut_is_seen_to_lose_and_the_hub_refuses_to_start() {
    let later = ["wal_writer_delay=10s", "wal_writer_flush_after=1GB"];
    a_server_that_does_not_flush_is_refused_and_loses("F17 synchronous_commit", "synchronous_commit=off", &later).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow: needs the machine"]
async fn without_fsync_the_same_cut_is_seen_to_lose_and_the_hub_refuses_to_start() {
    a_server_that_does_not_flush_is_refused_and_loses("F17 fsync", "fsync=off", &[]).await;
}
