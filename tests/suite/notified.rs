//! Promise: what one hub appends reaches the others with the NOTIFY, as it is in the log. What other logins notify
//! reaches no client.

use std::time::Duration;

use serde_json::Value;
use sqlx::postgres::PgListener;

use super::fair::figure;
use super::support::*;

/// Two hubs that know of each other, the second one with a client of ann and account 7.
async fn two_hubs(db: &TestDb) -> (TestHub, TestHub, TestClient) {
    let hub = TestHub::on(db);
    let (here, there) = (hub.start().await, hub.start().await);
    let mut ann = TestClient::of("ann").account("7").connect(&there).await;
    // A hub learns of another with its next heartbeat.
    eventually("rows come with a NOTIFY", PATIENCE, async || {
        let seq = here.post(&note("warm").to_user("ann")).await.seq;
        ann.until_seq(seq).await;
        (notified(&there).await > 0).then_some(())
    })
    .await;
    (here, there, ann)
}

async fn notified(hub: &TestHub) -> i64 {
    #[expect(clippy::cast_possible_truncation, reason = "a small count")]
    let rows = figure(hub, "recado_notified_total").await as i64;
    rows
}

/// The frames of the notifications up to this number, without what belongs to the connection.
async fn contents(client: &mut TestClient, after: i64, last: i64) -> Vec<Value> {
    let frames = client.until_seq(last).await.into_iter().filter(|got| got.seq > after);
    let content = |got: ClientNotification| {
        let mut frame: Value = serde_json::from_str(&got.text).unwrap();
        frame.as_object_mut().unwrap().remove("prev");
        frame
    };
    frames.map(content).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_every_audience_come_with_the_notify_as_they_are_in_the_log() {
    let db = TestDb::new().await;
    let (here, there, mut ann) = two_hubs(&db).await;
    let mut here_ann = TestClient::of("ann").account("7").connect(&here).await;
    let before = notified(&there).await;
    let notes = [
        note("to the user").to_user("ann").data(r#"{"n": 1.50, "text": "\u00e9\n"}"#),
        note("to the user in the account").to_user("ann").account("7"),
        note("to another").to_user("bob"),
        note("to the account").account("7"),
        note("to a list").to_users(&["bob", "ann"]),
        note("never replayed").to_user("ann").never_replayed(),
        note("to all").to_everyone(),
    ];
    let mut last = 0;
    for note in &notes {
        last = here.post(note).await.seq;
    }
    let got = contents(&mut ann, last - 7, last).await;
    assert_eq!(got, contents(&mut here_ann, last - 7, last).await, "both hubs say the same");
    assert_eq!(got.len(), 6);
    assert_eq!(notified(&there).await - before, 7, "none was read from the table");
    // A list of rows, one of them known: the commit has another form than was sealed, and is read.
    let known = note("known").to_user("ann").key("k");
    here.post(&known).await;
    assert!(here.try_post(&known).await.unwrap().receipt().duplicate);
    let large = note("large").to_user("ann").data(&format!("\"{}\"", "x".repeat(20_000)));
    here.post(&large).await;
    let after = here.post(&note("after").to_user("ann")).await.seq;
    let titles: Vec<String> = ann.until_seq(after).await.into_iter().map(|got| got.title).collect();
    assert_eq!(titles, ["known", "large", "after"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hubs_that_post_at_once_bring_each_row_to_both_in_order() {
    const EACH: usize = 150;
    let db = TestDb::new().await;
    let (here, there, mut ann) = two_hubs(&db).await;
    let mut here_ann = TestClient::of("ann").connect(&here).await;
    let post = async |hub: &TestHub| {
        for n in 0..EACH {
            hub.post(&note(&n.to_string()).to_user("ann")).await;
        }
    };
    let start = db.head().await;
    tokio::join!(post(&here), post(&there));
    let head = db.head().await;
    assert_eq!(head - start, 2 * i64::try_from(EACH).unwrap());
    let wanted: Vec<i64> = (start + 1..=head).collect();
    for client in [&mut ann, &mut here_ann] {
        let seqs: Vec<i64> = client.until_seq(head).await.into_iter().map(|got| got.seq).filter(|seq| *seq > start).collect();
        assert_eq!(seqs, wanted);
    }
    assert!(notified(&here).await > 0 && notified(&there).await > 0);
}

/// Every login of the database may listen and notify. It learns nothing, and delivers nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_that_listens_and_notifies_reads_nothing_and_delivers_nothing() {
    let db = TestDb::new().await;
    let (here, _there, mut ann) = two_hubs(&db).await;
    let mut listener = PgListener::connect(&db.url()).await.unwrap();
    listener.listen("recado").await.unwrap();
    let mut heard = async || {
        loop {
            let payload = listener.recv().await.unwrap().payload().to_owned();
            if payload.split(' ').count() == 5 {
                return payload;
            }
        }
    };
    let mut attacker = db.connect().await;
    let mut notify = async |payload: String| {
        sqlx::query("SELECT pg_notify('recado', $1)").bind(payload).execute(&mut attacker).await.unwrap();
    };
    let mut real = Vec::new();
    for n in 0..5 {
        let title = format!("confidential {n}");
        real.push(here.post(&note(&title).to_user("ann")).await.seq);
        let payload = heard().await;
        assert!(!payload.contains("confidential") && !payload.contains("ann"), "{payload}");
        let words: Vec<&str> = payload.split(' ').collect();
        let [head, origin, sealed, first, at] = words[..] else { unreachable!("five words") };
        let next = |number: &str| (number.parse::<i64>().unwrap() + 1).to_string();
        // Again, and again under the next number.
        notify(payload.clone()).await;
        notify([&next(head), origin, sealed, &next(first), at].join(" ")).await;
        notify([&next(head), origin, sealed, first, at].join(" ")).await;
        notify([&next(head), origin, &sealed[1..], &next(first), at].join(" ")).await;
        notify([&next(head), origin, "AAAA", &next(first), at].join(" ")).await;
        notify([i64::MAX.to_string().as_str(), origin, sealed, &i64::MAX.to_string(), at].join(" ")).await;
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let last = here.post(&note("last").to_user("ann")).await.seq;
    real.push(last);
    let seqs: Vec<i64> = ann.until_seq(last).await.into_iter().map(|got| got.seq).collect();
    assert_eq!(seqs, real);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hubs_with_different_keys_read_the_table() {
    let db = TestDb::new().await;
    let (here, there, mut ann) = two_hubs(&db).await;
    db.run("UPDATE recado.meta SET row_key = sha256('another')").await;
    let hub = TestHub::on(&db).start().await;
    let mut other = TestClient::of("ann").connect(&hub).await;
    let before = notified(&there).await;
    let last = here.post(&note("one").to_user("ann")).await.seq;
    other.until_seq(last).await;
    ann.until_seq(last).await;
    assert_eq!(notified(&hub).await, 0, "it cannot open them");
    assert_eq!(notified(&there).await, before + 1);
}
