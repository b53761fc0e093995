//! Promise: what was answered with 201, or was delivered, survives a power cut of the database's machine.
//!
//! kill -9 does not show a missing flush: the kernel still has what a killed process wrote. So the disk is one whose
//! power really goes (`support/disk.rs`); and so that the check is known to be able to fail, it is also made on servers
//! that do not flush, where it must find losses.

use std::time::Duration;

use recado::domain::Role;
use sqlx::PgConnection;

use super::support::cluster::{Cluster, OnDisk};
use super::support::disk::Disk;
use super::support::host::given;
use super::support::*;

fn machine(kind: &str) -> Result<(Disk, Cluster), String> {
    let disk = Disk::make(kind, 400)?;
    let cluster = Cluster::on(&disk, OnDisk::Everything)?;
    Ok((disk, cluster))
}

async fn a_power_cut_under_load_loses_nothing(row: &str, kind: &str) {
    let _turn = heavy().await;
    let Some((disk, mut cluster)) = given(row, machine(kind)) else { return };
    cluster.start().await;
    let hub = Hub::at(&cluster.url());
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
async fn a_power_cut_under_load_on_ext4_loses_no_201_and_no_delivery() {
    a_power_cut_under_load_loses_nothing("F16 ext4", "ext4").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_under_load_on_xfs_loses_no_201_and_no_delivery() {
    a_power_cut_under_load_loses_nothing("F16 xfs", "xfs").await;
}

/// A server that does not flush is refused; a hub that is forced to serve on it loses what it promised, and the check of
/// the tests above sees that.
async fn a_server_that_does_not_flush_is_refused_and_loses(row: &str, setting: &str, more: &[&str]) {
    let _turn = heavy().await;
    let Some((disk, mut cluster)) = given(row, machine("ext4")) else { return };
    more.iter().chain([&setting]).for_each(|setting| cluster.set(setting));
    cluster.start().await;
    let (code, said) = run_to_the_end(&Hub::at(&cluster.url())).await;
    let name = setting.split('=').next().unwrap();
    assert!(code == Some(78) && said.contains(&format!("{name} is off")), "{code:?}: {said}");

    let hub = Hub::at(&cluster.url()).with("RECADO_ALLOW_UNSAFE_DURABILITY", "on").start().await;
    let addresses = Addresses::of([&hub]);
    let fan = Fan::start(&["ann", "bob"], 1, &addresses).await;
    // The schema is there after the cut: what is missing then is what was promised since.
    cluster.execute("CHECKPOINT").await;
    disk.flush();
    let writers = Writers::start(4, &addresses, &service_token("shop", Role::Service), Duration::ZERO, mixed);
    writers.until_count(200, PATIENCE * 3).await;
    disk.cut_the_power();
    cluster.kill_9().await;
    let (diary, devices) = (writers.abandon().await, fan.devices.iter().map(Device::got).collect::<Vec<_>>());
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

/// What can still be read.
async fn rows_left(cluster: &Cluster) -> Vec<LogRow> {
    let Ok(mut connection): Result<PgConnection, _> = cluster.try_connect().await else { return Vec::new() };
    let rows = sqlx::query_as("SELECT seq, id::text, user_id FROM recado.log ORDER BY seq");
    rows.fetch_all(&mut connection).await.unwrap_or_default()
}

/// PostgreSQL flushes such commits a moment later; here that moment is long, so that the cut comes before it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_synchronous_commit_the_same_cut_is_seen_to_lose_and_the_hub_refuses_to_start() {
    let later = ["wal_writer_delay=10s", "wal_writer_flush_after=1GB"];
    a_server_that_does_not_flush_is_refused_and_loses("F17 synchronous_commit", "synchronous_commit=off", &later).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_fsync_the_same_cut_is_seen_to_lose_and_the_hub_refuses_to_start() {
    a_server_that_does_not_flush_is_refused_and_loses("F17 fsync", "fsync=off", &[]).await;
}
