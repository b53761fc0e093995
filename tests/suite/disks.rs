//! Tests that a full or damaged disk never loses a notification or changes a byte.
//!
//! Some requests fail, with honest answers.

use std::time::Duration;

use rand::Rng;

use super::support::cluster::{OnDisk, TestCluster};
use super::support::disk::Disk;
use super::support::host::given;
use super::support::*;

/// The hub's five seconds, plus a margin for a busy machine.
const ANSWERED_WITHIN: Duration = Duration::from_secs(7);

/// About 30 KB that do not compress.
fn large(n: usize) -> Note {
    let mut rng = rand::rng();
    let noise: String = (0..30_000).map(|_| char::from(rng.random_range(b'#'..=b'['))).collect();
    note(&n.to_string()).to_user("ann").data(&format!("\"{noise}\"")).key(&n.to_string())
}

fn server(part: OnDisk) -> Result<(Disk, TestCluster), String> {
    let disk = Disk::make("ext4", 96)?;
    let cluster = TestCluster::on(&disk, part)?;
    Ok((disk, cluster))
}

/// Posts until the first refusal. Returns the receipts, and the number of the refused post.
async fn post_until_refused(hub: &TestHub, from: usize, most: usize) -> (Vec<(usize, PostReceipt)>, usize) {
    let mut receipts = Vec::new();
    for n in from..from + most {
        let answer = hub.try_post(&large(n)).await.expect("the hub answers");
        assert!(answer.took < ANSWERED_WITHIN, "{:?}", answer.took);
        if !answer.is_receipt() {
            assert_eq!(answer.status, 503, "{}", answer.body);
            return (receipts, n);
        }
        receipts.push((n, answer.receipt()));
    }
    panic!("{most} notifications of 30 KB fitted on a disk that is full");
}

async fn history(hub: &TestHub, query: &str) -> (u16, serde_json::Value) {
    let (status, body) = hub.get(&format!("/api/notifications{query}"), Some(&token("ann", &[]))).await.unwrap();
    (status, serde_json::from_str(&body).unwrap())
}

/// Checks that each receipt is a row with its number and id, and that there are no other rows.
async fn every_receipt_is_a_row(cluster: &TestCluster, receipts: &[(usize, PostReceipt)]) {
    let rows: Vec<(i64, String)> = log_rows(&cluster.url()).await.into_iter().map(|(seq, id, _)| (seq, id)).collect();
    let mut expected: Vec<(i64, String)> = receipts.iter().map(|(_, receipt)| (receipt.seq, receipt.id.clone())).collect();
    expected.sort();
    assert_eq!(rows, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow: needs the machine"]
async fn a_full_data_disk_is_503_while_reading_and_streams_go_on_and_needs_no_restart() {
    let _turn = heavy().await;
    let Some((disk, mut cluster)) = given("F29", server(OnDisk::Data)) else { return };
    cluster.start().await;
    let hub = TestHub::at(&cluster.url()).with("WS_HEARTBEAT_INTERVAL", "1s").start().await;
    let mut ann = TestClient::of("ann").connect(&hub).await;
    let (mut receipts, mut n) = (vec![(0, hub.post(&large(0)).await)], 1);
    ann.until_seq(1).await;
    disk.fill();
    let (more, refused) = post_until_refused(&hub, n, 200).await;
    receipts.extend(more);
    let answer = hub.try_post(&large(refused + 1)).await.unwrap();
    assert_eq!(answer.status, 503, "{}", answer.body);
    // Existing rows can still be read: by history, by connected clients and by new ones.
    let (status, page) = history(&hub, "?limit=1").await;
    assert_eq!((status, page["notifications"][0]["title"].as_str()), (200, Some("0")), "{page}");
    let head = receipts.last().unwrap().1.seq;
    ann.until_seq(head).await;
    while !matches!(ann.next_frame().await, ClientSawFrame::Heartbeat { .. }) {}
    let mut again = TestClient::of("ann").since(0).connect(&hub).await;
    assert_eq!(again.until_caught_up().await.len(), receipts.len());
    eventually("readiness follows the appends", PATIENCE, async || {
        assert_eq!(hub.try_post(&large(refused + 1)).await.unwrap().status, 503);
        (!hub.is_ready().await).then_some(())
    })
    .await;

    disk.free();
    for draft in [refused, refused + 1] {
        let draft = large(draft);
        let settled = eventually("there is room again", PATIENCE, async || {
            let answer = hub.try_post(&draft).await.unwrap();
            answer.is_receipt().then_some(answer)
        });
        receipts.push((refused, settled.await.receipt()));
    }
    n = receipts.len();
    ann.until_seq(i64::try_from(n).unwrap()).await;
    again.until_seq(i64::try_from(n).unwrap()).await;
    every_receipt_is_a_row(&cluster, &receipts).await;
}

/// PostgreSQL panics when it cannot write its WAL, and again when it recovers. It comes back by itself once there is
/// room, or when it is started again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow: needs the machine"]
async fn a_full_wal_disk_is_503_and_loses_no_201_when_there_is_room_again() {
    let _turn = heavy().await;
    let Some((disk, mut cluster)) = given("F30", server(OnDisk::Wal)) else { return };
    cluster.start().await;
    let hub = TestHub::at(&cluster.url()).start().await;
    let mut ann = TestClient::of("ann").connect(&hub).await;
    let mut receipts = vec![(0, hub.post(&large(0)).await)];
    disk.fill();
    let (more, refused) = post_until_refused(&hub, 1, 600).await;
    receipts.extend(more);
    assert!(cluster.log().contains("PANIC"), "the server met the full disk");
    assert_eq!(hub.get("/livez", None).await.unwrap().0, 200);

    disk.free();
    let draft = large(refused);
    let settled = eventually("the hub goes on", PATIENCE * 2, async || {
        if !cluster.is_running() {
            cluster.start().await;
        }
        let answer = hub.try_post(&draft).await.unwrap();
        assert!(answer.is_receipt() || answer.status == 503, "{}", answer.body);
        answer.is_receipt().then_some(answer)
    });
    let settled = settled.await;
    receipts.push((refused, settled.receipt()));
    ann.until_seq(settled.receipt().seq).await;
    every_receipt_is_a_row(&cluster, &receipts).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow: needs the machine"]
async fn a_flipped_bit_is_an_alarm_and_never_wrong_data_and_other_pages_are_served() {
    let Some(mut cluster) = given("F38b", TestCluster::make()) else { return };
    cluster.start().await;
    let hub = TestHub::at(&cluster.url()).start().await;
    for n in 1..=60 {
        // Large enough to fill pages, small enough not to be moved to TOAST.
        hub.post(&note(&n.to_string()).to_user("ann").data(&format!("\"{}\"", "x".repeat(1200)))).await;
    }
    let page_of = "SELECT (ctid::text::point)[0]::bigint FROM recado.log WHERE seq =";
    let page = cluster.number(&format!("{page_of} 10")).await;
    let in_it = format!("SELECT array_agg(seq)::text FROM recado.log WHERE (ctid::text::point)[0] = {page}");
    let damaged = cluster.text(&in_it).await;
    let file = cluster.text("SELECT pg_relation_filepath(tableoid) FROM recado.log WHERE seq = 10").await;
    cluster.stop().await;
    cluster.flip_a_bit(&file, u64::try_from(page).unwrap() * 8192 + 5000);
    cluster.start().await;
    eventually("ready again", PATIENCE, async || hub.is_ready().await.then_some(())).await;

    let (status, problem) = history(&hub, "?after=8&limit=2").await;
    assert_eq!((status, problem["code"].as_str()), (500, Some("internal")), "{damaged}: {problem}");
    let alarm = |said: &str| said.lines().any(|line| line.contains("ERROR") && line.contains("XX001"));
    assert!(alarm(&hub.said()), "an alarm that names the SQLSTATE");
    // A device that resumes there gets at most the rows before the damage.
    let mut resuming = TestClient::of("ann").since(0).connect(&hub).await;
    while let ClientSawFrame::Notification(n) = resuming.next_frame().await {
        assert!(n.title == n.seq.to_string() && n.data.len() == 1202 && n.seq < 10, "{}", n.seq);
    }
    // Everything else continues.
    let (status, served) = history(&hub, "?after=40&limit=5").await;
    let titles: Vec<&str> = served["notifications"].as_array().unwrap().iter().filter_map(|n| n["title"].as_str()).collect();
    assert_eq!((status, titles), (200, vec!["41", "42", "43", "44", "45"]));
    let mut live = TestClient::of("ann").device("new").connect(&hub).await;
    // The first one meets a connection that went with the old server.
    let draft = note("live").to_user("ann").key("live");
    let posted = async || {
        let answer = hub.try_post(&draft).await.unwrap();
        answer.is_receipt().then_some(answer)
    };
    let receipt = eventually("it appends", PATIENCE, posted).await.receipt();
    assert_eq!((receipt.seq, live.expect_notification().await.title.as_str()), (61, "live"));
}
