//! Kills the owner of a provider session at each dangerous step.
//!
//! A step is dangerous where two owners, or two copies of a command, could result.

use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::support::*;
use super::upstream::{bet, holding, next_of};

/// The lease of [`holding`], and what a take-over may take beyond it.
const TAKE_OVER: Duration = Duration::from_secs(3 + 5);

/// One hub that owns the session of user 42 and can be held, another that comes when it is, and the page of the user.
struct PointStage {
    db: TestDb,
    provider: FakeProvider,
    file: ProviderFile,
    points: Points,
    owner: TestHub,
    page: TestClient,
}

impl PointStage {
    /// Holds the owner at this step on its way to a live session.
    async fn held_before_it_is_live(step: &str) -> Self {
        Self::new(Some(step)).await
    }

    async fn live() -> Self {
        let mut stage = Self::new(None).await;
        until_connected(&mut stage.page).await;
        stage
    }

    async fn new(step: Option<&str>) -> Self {
        let (db, provider, points) = (TestDb::new().await, FakeProvider::start().await, Points::new());
        let file = provider.file("");
        if let Some(step) = step {
            points.hold(step);
        }
        let owner = points.of(holding(TestHub::on(&db), &file)).start().await;
        let page = TestClient::of("42").device("d").connect(&owner).await;
        let stage = Self { db, provider, file, points, owner, page };
        if let Some(step) = step {
            stage.points.reached(step).await;
        }
        stage
    }

    /// Kills the owner; another hub takes over, and the page comes back there.
    async fn another_takes_over(self) -> (TestDb, FakeProvider, TestHub, TestClient) {
        let Self { db, provider, file, owner, page, .. } = self;
        let heir = holding(TestHub::on(&db), &file).start().await;
        let before = provider.record().of("42").count();
        owner.kill().await;
        let killed = Instant::now();
        drop(page);
        let page = TestClient::of("42").device("d").connect(&heir).await;
        let one = |record: &provider::ProviderRecord| (record.of("42").count() == before + 1 && record.open_of("42") == 1).then_some(());
        provider.until_within(Duration::from_secs(60), "one connection, of the next owner", one).await;
        assert!(killed.elapsed() < TAKE_OVER, "{:?}", killed.elapsed());
        (db, provider, heir, page)
    }
}

async fn until_connected(page: &mut TestClient) {
    while next_of(page, "status").await["status"] != "connected" {}
}

async fn next_notification(page: &mut TestClient) -> ClientNotification {
    loop {
        match page.next_frame().await {
            ClientSawFrame::Notification(notification) => return *notification,
            ClientSawFrame::Ended(ended) => panic!("a notification was to come, not {ended:?}"),
            _ => {}
        }
    }
}

/// The result of this command; skips other frames.
async fn result_of(page: &mut TestClient, id: &str) -> Value {
    loop {
        let result = next_of(page, "command_result").await;
        if result["id"] == id {
            return result;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn an_owner_killed_before_it_connects_is_followed_within_its_lease() {
    let stage = PointStage::held_before_it_is_live("lease.before_connect").await;
    assert_eq!(stage.provider.record().sign_ins_of("42"), 0);
    let (_db, provider, _heir, mut page) = stage.another_takes_over().await;
    until_connected(&mut page).await;
    assert_eq!((provider.record().sign_ins_of("42"), provider.record().of("42").count()), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn an_owner_killed_before_it_writes_down_that_it_is_live_leaves_one_session() {
    let stage = PointStage::held_before_it_is_live("live.before_checkpoint").await;
    assert_eq!(stage.provider.record().open_of("42"), 1);
    assert_eq!(stage.db.number("SELECT count(*) FROM recado.upstream_session WHERE state = 'live'").await, 0);
    let (_db, provider, _heir, mut page) = stage.another_takes_over().await;
    until_connected(&mut page).await;
    assert!(provider.record().sign_ins_of("42") <= 2, "the session id was kept, or one sign-in more");
}

/// `sent`: whether its bytes had left by then.
async fn a_command_of_an_owner_killed_at(step: &str, sent: bool) {
    let stage = PointStage::live().await;
    stage.points.hold(step);
    stage.page.say(&bet(1)).await;
    stage.points.reached(step).await;
    assert_eq!(stage.db.number("SELECT count(*) FROM recado.upstream_command WHERE state = 'sending'").await, 1);
    let (_db, provider, _heir, mut page) = stage.another_takes_over().await;
    assert_eq!(result_of(&mut page, "b-1").await["status"], "unknown");
    page.say(&bet(2)).await;
    assert_eq!(result_of(&mut page, "b-2").await["status"], "sent");
    // Asked for again under its id, it is answered again, and not sent.
    page.say(&bet(1)).await;
    assert_eq!(result_of(&mut page, "b-1").await["status"], "unknown");
    page.say(&bet(3)).await;
    assert_eq!(result_of(&mut page, "b-3").await["status"], "sent");
    let expected: &[&str] = if sent { &[r#"{"chip":1}"#, r#"{"chip":2}"#, r#"{"chip":3}"#] } else { &[r#"{"chip":2}"#, r#"{"chip":3}"#] };
    let all = |record: &provider::ProviderRecord| (record.commands_of("42").len() >= expected.len()).then(|| record.commands_of("42"));
    assert_eq!(provider.until("the commands", all).await, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn a_command_claimed_and_not_sent_is_unknown_and_is_never_sent() {
    a_command_of_an_owner_killed_at("command.before_send", false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn a_command_sent_and_not_settled_is_unknown_and_is_not_sent_again() {
    a_command_of_an_owner_killed_at("command.before_result", true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn a_message_read_and_not_stored_is_told_as_a_gap() {
    let mut stage = PointStage::live().await;
    stage.provider.say_numbered("42", [1]).await;
    assert_eq!(next_notification(&mut stage.page).await.kind, "game-data");
    stage.points.hold("message.before_persist");
    stage.provider.say_numbered("42", [2]).await;
    stage.points.reached("message.before_persist").await;
    let (db, provider, _heir, mut page) = stage.another_takes_over().await;
    provider.say_numbered("42", [3]).await;
    let mut kinds = Vec::new();
    while kinds.last().is_none_or(|kind| kind != "game-data") {
        let notification = next_notification(&mut page).await;
        // The first message comes again where its ack died with the hub.
        if notification.seq > 1 {
            kinds.push(notification.kind);
        }
    }
    assert_eq!(kinds, ["upstream_gap", "game-data"], "the gap is reported before any later message");
    assert_eq!(db.number("SELECT count(*) FROM recado.log WHERE type = 'game-data'").await, 2);
}
