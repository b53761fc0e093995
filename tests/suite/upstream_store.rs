//! Tests the fence: at most one instance acts for a provider session.
//!
//! A command goes up at most once, and an owner that was frozen does nothing when it wakes.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use futures_util::future::join_all;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use recado::domain::{CommandId, CommandState};
use recado::store::append::Appended;
use recado::store::providers::append::Recorded;
use recado::store::providers::commands::{self, Accepted, MarkedSent, SettleResult};
use recado::store::providers::leases::{self, AdminRequest, CheckpointChange};
use recado::store::providers::{Lease, UpstreamState, admin, chores, sessions};
use sqlx::Connection;
use tokio::time::Instant;

use super::support::*;

/// Expires soon, yet long enough for a call or two.
const SHORT: Duration = Duration::from_millis(400);

async fn lease_is_over(db: &TestDb) {
    eventually("the leases are over", PATIENCE, async || {
        let held = "SELECT count(*) FROM recado.upstream_session WHERE lease_until > clock_timestamp()";
        (db.number(held).await == 0).then_some(())
    })
    .await;
}

async fn text(db: &TestDb, sql: &str) -> String {
    sqlx::query_scalar(sqlx::AssertSqlSafe(sql.to_owned())).fetch_one(&mut db.connect().await).await.unwrap()
}

async fn state_of(db: &TestDb, id: CommandId) -> CommandState {
    CommandState::parse(&text(db, &format!("SELECT state FROM recado.upstream_command WHERE command_id = '{id}'")).await).unwrap()
}

fn new(accepted: Accepted) -> CommandId {
    let Accepted::New(outcome) = accepted else { panic!("it is new: {accepted:?}") };
    assert_eq!(outcome.state, CommandState::Accepted);
    outcome.id
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_claims_at_the_same_time_one_gets_each_session() {
    let db = TestDb::new().await;
    let names: Vec<String> = (0..60).map(|n| format!("u{n}")).collect();
    want(&db, &names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let mut owners = join_all((0..6).map(|_| Owner::on(&db))).await;
    let claims = join_all(owners.iter_mut().map(|owner| owner.claim(LONG))).await;
    let claimed: Vec<_> = claims.iter().flatten().collect();
    assert_eq!(claimed.len(), 60);
    assert_eq!(claimed.iter().map(|c| &c.user).collect::<HashSet<_>>().len(), 60, "no session twice");
    assert_eq!(claimed.iter().map(|c| c.term).collect::<HashSet<_>>().len(), 60, "no term twice");
    assert!(owners[0].claim(LONG).await.is_empty(), "nothing is left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_is_over_is_not_renewed_though_nobody_else_has_claimed() {
    let db = TestDb::new().await;
    want(&db, &["ann"]).await;
    let mut owner = Owner::on(&db).await;
    let lease = owner.claim_one(SHORT).await;
    assert!(owner.renew(&lease, SHORT).await, "while it lasts");
    lease_is_over(&db).await;
    assert!(!owner.renew(&lease, LONG).await);
    let again = owner.claim_one(LONG).await;
    assert!(again.term > lease.term, "a new claim is a new term");
    assert!(!owner.renew(&lease, LONG).await, "the old term is not the new one");
    assert!(owner.renew(&again, LONG).await);
}

/// Tries everything that an owner may do, as an owner that has lost its session.
async fn does_nothing(db: &TestDb, owner: &mut Owner, lease: &Lease) {
    let row = "SELECT (s.*)::text FROM recado.upstream_session s";
    let before = text(db, row).await;
    assert!(!owner.renew(lease, LONG).await);
    assert!(!owner.checkpoint(lease, CheckpointChange::to(UpstreamState::Live)).await);
    assert!(owner.take(lease).await.is_empty());
    assert_eq!(owner.append(&[message(lease, 1, "late")]).await, [Recorded::TermPassed]);
    let asks = leases::take_asks(&mut owner.connection, owner.id, std::slice::from_ref(lease)).await.unwrap();
    assert!(asks.is_empty());
    assert_eq!(text(db, row).await, before, "the row is as it was");
    assert_eq!(db.head().await, 0, "nothing is in the log");
    assert_eq!(db.number("SELECT count(*) FROM recado.upstream_command WHERE state = 'accepted'").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_owner_does_nothing_when_it_wakes() {
    let db = TestDb::new().await;
    want(&db, &["ann"]).await;
    let (mut frozen, mut next) = (Owner::on(&db).await, Owner::on(&db).await);
    let lease = frozen.claim_one(SHORT).await;
    let id = new(give(&db, &command("ann", "b-1", "1"), LONG).await);
    let asked = admin::ask(&mut next.connection, &user("ann"), None, AdminRequest::Reconnect, None).await.unwrap();
    assert_eq!(asked, 1);
    lease_is_over(&db).await;
    does_nothing(&db, &mut frozen, &lease).await;
    let taken_over = next.claim_one(LONG).await;
    does_nothing(&db, &mut frozen, &lease).await;
    assert!(!frozen.release(&lease).await, "it releases no session of another owner");
    // The instance that holds the session can do all of that.
    assert!(next.renew(&taken_over, LONG).await);
    assert!(matches!(next.append(&[message(&taken_over, 1, "m")]).await[..], [Recorded::Appended(Appended::New { .. })]));
    assert_eq!(next.take(&taken_over).await.iter().map(|c| c.id).collect::<Vec<_>>(), [id], "accepted under the first, sent by the second");
    let asks = leases::take_asks(&mut next.connection, next.id, std::slice::from_ref(&taken_over)).await.unwrap();
    assert_eq!(asks, [(taken_over.clone(), AdminRequest::Reconnect)]);
    assert!(next.checkpoint(&taken_over, CheckpointChange::to(UpstreamState::Live)).await);
    assert!(next.release(&taken_over).await);
    assert!(frozen.claim_one(LONG).await.term > taken_over.term, "a released session is claimed at once");
}

/// The append had the session before its lease ended and waits for the log: the claim must not come between.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_claims_a_session_while_its_messages_are_appended() {
    let db = TestDb::new().await;
    want(&db, &["ann"]).await;
    let (mut owner, mut next) = (Owner::on(&db).await, Owner::on(&db).await);
    let mut blocker = db.connect().await;
    let mut held = blocker.begin().await.unwrap();
    sqlx::query("LOCK TABLE recado.append_lock IN SHARE UPDATE EXCLUSIVE MODE").execute(&mut *held).await.unwrap();
    let lease = owner.claim_one(Duration::from_secs(2)).await;
    let row = message(&lease, 1, "m");
    let appending = tokio::spawn(async move { owner.append(&[row]).await });
    eventually("the append waits for the log", PATIENCE, async || {
        let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'recado.append_lock'::regclass
                        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
        (db.number(waits).await == 1).then_some(())
    })
    .await;
    lease_is_over(&db).await;
    assert!(next.claim(LONG).await.is_empty(), "the session is held until the append has ended");
    held.rollback().await.unwrap();
    assert!(matches!(appending.await.unwrap()[..], [Recorded::Appended(Appended::New { .. })]));
    next.claim_one(LONG).await;
    assert_eq!(db.head().await, 1);
}

/// The claim began before the command was taken, in its snapshot; it looks for taken ones only once it has the session.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_is_taken_while_the_session_is_claimed_becomes_unknown() {
    let db = TestDb::new().await;
    want(&db, &["ann"]).await;
    let (owner, mut next) = (Owner::on(&db).await, Owner::on(&db).await);
    let mut owner = owner;
    let id = new(give(&db, &command("ann", "b-1", "1"), LONG).await);
    let lease = owner.claim_one(Duration::from_secs(1)).await;
    // A hub's own statements are whole transactions; this one stays open for as long as the test wants.
    sqlx::query("SET idle_in_transaction_session_timeout = 0").execute(&mut owner.connection).await.unwrap();
    let mut taking = owner.connection.begin().await.unwrap();
    let taken = commands::next_commands(&mut taking, owner.id, std::slice::from_ref(&lease), 10).await.unwrap();
    assert_eq!(taken.len(), 1);
    lease_is_over(&db).await;
    assert!(next.claim(LONG).await.is_empty(), "the session is held until the command is taken");
    taking.commit().await.unwrap();
    let claimed = next.claim(LONG).await;
    assert_eq!(claimed[0].unknown, 1);
    assert_eq!(state_of(&db, id).await, CommandState::Unknown);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_dead_owner_had_taken_is_unknown_once_and_for_good() {
    let db = TestDb::new().await;
    want(&db, &["ann"]).await;
    let (mut dead, mut next) = (Owner::on(&db).await, Owner::on(&db).await);
    let ids = [
        new(give(&db, &command("ann", "b-1", "1"), LONG).await),
        new(give(&db, &command("ann", "b-2", "1"), LONG).await),
        new(give(&db, &command("ann", "b-3", "1"), LONG).await),
    ];
    let lease = dead.claim_one(SHORT).await;
    assert_eq!(dead.take(&lease).await.iter().map(|c| c.id).collect::<Vec<_>>(), ids, "in the order in which they were given");
    assert_eq!(dead.settle(lease.term, ids[0], MarkedSent::Sent).await, SettleResult::Done);
    lease_is_over(&db).await;
    // The bytes have left, and no outcome has been reported yet.
    assert_eq!(dead.settle(lease.term, ids[1], MarkedSent::Sent).await, SettleResult::Done);
    let claimed = next.claim(LONG).await;
    assert_eq!(claimed[0].unknown, 1);
    assert_eq!(dead.settle(lease.term, ids[2], MarkedSent::Sent).await, SettleResult::Before);
    assert_eq!(next.settle(claimed[0].term, ids[2], MarkedSent::Sent).await, SettleResult::Before, "not under another term");
    assert!(next.take(&claimed[0].lease()).await.is_empty(), "and it is not sent again");
    assert!(next.release(&claimed[0].lease()).await);
    assert_eq!(dead.claim(LONG).await[0].unknown, 0);
    let states = [state_of(&db, ids[0]).await, state_of(&db, ids[1]).await, state_of(&db, ids[2]).await];
    assert_eq!(states, [CommandState::Sent, CommandState::Sent, CommandState::Unknown]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn nothing_waits_for_ever_for_an_owner_that_is_lost_when_nobody_claims() {
    let db = TestDb::new().await;
    want(&db, &["ann"]).await;
    let (mut dead, mut other) = (Owner::on(&db).await, Owner::on(&db).await);
    let id = new(give(&db, &command("ann", "b-1", "1"), LONG).await);
    let lease = dead.claim_one(SHORT).await;
    assert_eq!(dead.take(&lease).await.len(), 1);
    assert!(dead.renew(&lease, LONG).await);
    db.run("UPDATE recado.upstream_session SET wanted_until = clock_timestamp()").await;
    assert_eq!(chores::round(&mut other.connection).await.unwrap(), chores::EndedCommands::default(), "its owner lives");
    db.run("UPDATE recado.upstream_session SET lease_until = clock_timestamp()").await;
    let ended = eventually("the command is called unknown", PATIENCE, async || {
        let ended = chores::round(&mut other.connection).await.unwrap();
        (ended.unknown > 0).then_some(ended)
    })
    .await;
    assert_eq!(ended.unknown, 1);
    assert_eq!(state_of(&db, id).await, CommandState::Unknown);
    assert_eq!(text(&db, "SELECT state FROM recado.upstream_session").await, "waiting");
    assert_eq!(dead.settle(lease.term, id, MarkedSent::Sent).await, SettleResult::Before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_id_from_two_devices_at_once_is_one_command() {
    let db = TestDb::new().await;
    want(&db, &["ann"]).await;
    let givers: Vec<_> = (0..12).map(|_| command("ann", "b-1", "{\"n\":1}")).collect();
    let answers = join_all(givers.iter().map(|command| give(&db, command, LONG))).await;
    let first: Vec<_> = answers.iter().filter(|a| matches!(a, Accepted::New(_))).collect();
    let [Accepted::New(stored)] = first[..] else { panic!("one of them is new: {answers:?}") };
    for answer in &answers {
        let (Accepted::New(outcome) | Accepted::Known(outcome)) = answer else { panic!("{answer:?}") };
        assert_eq!(outcome.id, stored.id);
    }
    assert_eq!(db.number("SELECT count(*) FROM recado.upstream_command").await, 1);
    assert_eq!(give(&db, &command("ann", "b-1", "{\"n\":2}"), LONG).await, Accepted::OtherCommand);
    assert_eq!(db.number("SELECT count(*) FROM recado.upstream_command").await, 1);
    new(give(&db, &command("bob", "b-1", "{\"n\":2}"), LONG).await);
}

/// Takers and rejecters race around the same moment; each command goes to one or the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_command_is_rejected_and_sent() {
    let db = TestDb::new().await;
    want(&db, &["ann"]).await;
    let mut owner = Owner::on(&db).await;
    let lease = owner.claim_one(LONG).await;
    let mut giver = Owner::on(&db).await;
    let mut ids = HashSet::new();
    for n in 0..200 {
        let command = command("ann", &format!("b-{n}"), "1");
        // Some have expired when they come, some expire in a moment, some never.
        let wait = [Duration::ZERO, Duration::from_millis(3), Duration::from_millis(40), LONG][n % 4];
        let accepted = commands::accept(&mut giver.connection, &command, wait).await.unwrap();
        ids.insert(new(accepted));
    }
    let mut rejecters = [Owner::on(&db).await, Owner::on(&db).await];
    let taking = async {
        let mut taken = Vec::new();
        loop {
            let some = commands::next_commands(&mut owner.connection, owner.id, std::slice::from_ref(&lease), 3).await.unwrap();
            if some.is_empty() {
                return taken;
            }
            taken.extend(some);
        }
    };
    let rejecting = join_all(rejecters.iter_mut().map(async |rejecter| {
        let mut rejected = 0;
        for _ in 0..60 {
            rejected += chores::reject_stale(&mut rejecter.connection).await.unwrap();
        }
        rejected
    }));
    let (taken, _) = tokio::join!(taking, rejecting);
    let taken: HashSet<CommandId> = taken.into_iter().map(|c| c.id).collect();
    eventually("the untaken command is rejected", PATIENCE, async || {
        chores::reject_stale(&mut rejecters[0].connection).await.unwrap();
        (db.number("SELECT count(*) FROM recado.upstream_command WHERE state = 'accepted'").await == 0).then_some(())
    })
    .await;
    assert!(taken.len() >= 50 && taken.len() <= 150, "{} were taken", taken.len());
    for id in ids {
        let expected = if taken.contains(&id) { CommandState::Sending } else { CommandState::Rejected };
        assert_eq!(state_of(&db, id).await, expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_goes_forward_only_and_says_what_it_said() {
    let db = TestDb::new().await;
    want(&db, &["ann"]).await;
    let mut owner = Owner::on(&db).await;
    let id = new(give(&db, &command("ann", "b-1", "1"), LONG).await);
    let lease = owner.claim_one(LONG).await;
    owner.take(&lease).await;
    owner.settle(lease.term, id, MarkedSent::Sent).await;
    let mut superuser = db.connect().await;
    for change in ["state = 'sending', settled_at = NULL", "state = 'unknown'", "payload = '2'", "user_id = 'bob'", "accepted_at = now()"] {
        let sql = format!("UPDATE recado.upstream_command SET {change}");
        let error = sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&mut superuser).await.unwrap_err();
        assert_eq!(error.as_database_error().unwrap().code().unwrap(), "RC008", "{change}");
    }
    for forbidden in
        ["DELETE FROM recado.upstream_command", "UPDATE recado.upstream_command SET term = 9", "SELECT nextval('recado.upstream_term')"]
    {
        let error = sqlx::query(forbidden).execute(&mut owner.connection).await.unwrap_err();
        assert_eq!(error.as_database_error().unwrap().code().unwrap(), "42501", "{forbidden}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_batch_only_what_is_held_is_appended_and_a_repeat_is_one_row() {
    let db = TestDb::new().await;
    want(&db, &["ann", "bob", "cid"]).await;
    let (mut owner, mut other) = (Owner::on(&db).await, Owner::on(&db).await);
    let mut leases: BTreeMap<String, Lease> = owner.claim(LONG).await.iter().map(|c| (c.user.to_string(), c.lease())).collect();
    assert!(owner.release(&leases["bob"]).await);
    other.claim_one(LONG).await;
    let of = |who: &str, counter| message(&leases[who], counter, &format!("{who} {counter}"));
    let batch = [of("bob", 1), of("ann", 1), of("bob", 2), of("cid", 1), of("ann", 2)];
    let outcomes = owner.append(&batch).await;
    let seq = |outcome: &Recorded| match outcome {
        Recorded::Appended(Appended::New { seq }) => seq.get(),
        Recorded::Appended(Appended::Known { seq, .. }) => -seq.get(),
        Recorded::Appended(Appended::OtherBody) => panic!("{outcome:?}"),
        Recorded::TermPassed => 0,
    };
    assert_eq!(outcomes.iter().map(seq).collect::<Vec<_>>(), [0, 1, 0, 2, 3]);
    // As after an unknown outcome: the same again, with one more between.
    let repeat = [of("bob", 1), of("ann", 1), of("ann", 3), of("cid", 1), of("ann", 2)];
    assert_eq!(owner.append(&repeat).await.iter().map(seq).collect::<Vec<_>>(), [0, -1, 4, -2, -3]);
    let titles: Vec<String> =
        sqlx::query_scalar("SELECT title FROM recado.log ORDER BY seq").fetch_all(&mut db.connect().await).await.unwrap();
    assert_eq!(titles, ["ann 1", "cid 1", "ann 2", "ann 3"]);
    // The same counter under another term is another message.
    let ann = leases.remove("ann").unwrap();
    assert!(owner.release(&ann).await);
    let ann = owner.claim_one(LONG).await;
    assert_eq!(owner.append(&[message(&ann, 1, "ann 1")]).await.iter().map(seq).collect::<Vec<_>>(), [5]);
}

/// A row that was deleted and created again would begin at term 1 if terms were counted in it, and the keys of its
/// first messages would be those of the old ones.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_term_never_comes_twice_though_the_session_was_forgotten() {
    let db = TestDb::new().await;
    want(&db, &["ann"]).await;
    let mut owner = Owner::on(&db).await;
    let first = owner.claim_one(LONG).await;
    db.run("DELETE FROM recado.upstream_session").await;
    want(&db, &["ann"]).await;
    assert!(owner.claim_one(LONG).await.term > first.term);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_ended_begins_again_with_a_new_connection_or_a_command() {
    let db = TestDb::new().await;
    want(&db, &["ann"]).await;
    let mut owner = Owner::on(&db).await;
    let poll = async |db: &TestDb| {
        sessions::want(&mut db.hub().connect("test").await.unwrap(), &[provider("p")], &[user("ann")], LONG * 2, false).await.unwrap();
    };
    for ended in [UpstreamState::Idle, UpstreamState::Refused, UpstreamState::Released] {
        let lease = owner.claim_one(LONG).await;
        assert!(owner.checkpoint(&lease, CheckpointChange { attempts: 3, ..CheckpointChange::to(ended) }).await);
        assert!(!owner.renew(&lease, LONG).await, "an ended session has no owner");
        poll(&db).await;
        assert!(owner.claim(LONG).await.is_empty(), "{ended:?} is not begun by being connected still");
        if ended == UpstreamState::Idle {
            new(give(&db, &command("ann", "wake", "1"), LONG).await);
        } else {
            let tag = format!("{}-1", ended.as_str());
            let Accepted::New(outcome) = give(&db, &command("ann", &tag, "1"), LONG).await else { panic!("it is new") };
            assert_eq!((outcome.state, outcome.detail.as_deref()), (CommandState::Rejected, Some(ended.as_str())));
            want(&db, &["ann"]).await;
        }
    }
    let claimed = owner.claim(LONG).await;
    assert_eq!((claimed[0].attempts, claimed[0].state), (0, UpstreamState::Waiting));
    // A refusal with a time is not tried before it, however often the page is loaded anew.
    let change = CheckpointChange { next_try_in: LONG, ..CheckpointChange::to(UpstreamState::Refused) };
    assert!(owner.checkpoint(&claimed[0].lease(), change).await);
    want(&db, &["ann"]).await;
    assert!(owner.claim(LONG).await.is_empty());
    // An admin may.
    assert_eq!(admin::ask(&mut owner.connection, &user("ann"), Some(&provider("p")), AdminRequest::Reconnect, None).await.unwrap(), 1);
    owner.claim_one(LONG).await;
}

/// What went wrong: another hub ended the session of a user who was still there, because an outage had kept the user's
/// own hub from saying so for longer than `linger`. The session began again with the user's next connection, and told
/// no gap.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_who_is_still_there_after_an_outage_gets_the_session_back_and_the_gap() {
    let db = TestDb::new().await;
    want(&db, &["ann"]).await;
    let mut owner = Owner::on(&db).await;
    let lease = owner.claim_one(LONG).await;
    assert!(owner.checkpoint(&lease, CheckpointChange::to(UpstreamState::Live)).await);
    db.run("UPDATE recado.upstream_session SET lease_until = clock_timestamp(), wanted_until = clock_timestamp()").await;
    let mut other = Owner::on(&db).await;
    chores::round(&mut other.connection).await.unwrap();
    assert!(other.claim(LONG).await.is_empty(), "nobody wants it");
    assert_eq!(db.number("SELECT count(*) FROM recado.upstream_session WHERE owner IS NULL AND state = 'waiting'").await, 1);
    // Not a new connection: the hub's round says that the user is still connected.
    sessions::want(&mut other.connection, &[provider("p")], &[user("ann")], LONG, false).await.unwrap();
    let claimed = other.claim(LONG).await.pop().expect("it is wanted again");
    assert!(claimed.live_until.is_some(), "the next connection follows a gap");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_is_wanted_and_due_is_claimed() {
    let db = TestDb::new().await;
    let mut owner = Owner::on(&db).await;
    sessions::want(&mut owner.connection, &[provider("p"), provider("q")], &[user("ann"), user("ann")], LONG, true).await.unwrap();
    let lease = owner.claim_one(LONG).await;
    assert_eq!(lease.provider, provider("p"), "only sessions of the named providers");
    let secret = Some(Some(vec![1, 2, 3]));
    let change =
        CheckpointChange { next_try_in: Duration::from_secs(1), secret, attempts: 2, ..CheckpointChange::to(UpstreamState::BackingOff) };
    assert!(owner.checkpoint(&lease, change).await);
    assert!(owner.release(&lease).await);
    assert!(owner.claim(LONG).await.is_empty(), "not due");
    let claimed = eventually("the session is due", PATIENCE, async || owner.claim(LONG).await.pop()).await;
    assert_eq!((claimed.state, claimed.attempts, claimed.secret.as_deref()), (UpstreamState::BackingOff, 2, Some(&[1, 2, 3][..])));
    db.run("UPDATE recado.upstream_session SET wanted_until = clock_timestamp()").await;
    let renewed = leases::renew(&mut owner.connection, owner.id, LONG, &[claimed.lease().into()]).await.unwrap();
    assert!(!renewed[0].wanted);
    db.run("UPDATE recado.upstream_session SET lease_until = clock_timestamp() WHERE owner IS NOT NULL").await;
    assert!(owner.claim(LONG).await.is_empty(), "no user wants the session");
}

/// Three owners, four sessions, leases shorter than some of their pauses, all at once. The answers that they got must
/// agree with the rows, and with each other.
async fn history(seed: u64) -> HistoryCounts {
    let db = TestDb::new().await;
    let users = ["ann", "bob", "cid", "dan"];
    want(&db, &users).await;
    let giving = async {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut giver = Owner::on(&db).await;
        let mut given = Vec::new();
        for n in 0..80 {
            let wait = [Duration::from_millis(30), LONG][rng.random_range(0..2)];
            let command = command(users[rng.random_range(0..4)], &format!("b-{n}"), "1");
            given.push(new(commands::accept(&mut giver.connection, &command, wait).await.unwrap()));
            chores::round(&mut giver.connection).await.unwrap();
            tokio::time::sleep(Duration::from_millis(rng.random_range(0..15))).await;
        }
        given
    };
    let acting = join_all((0..3).map(|n| act(&db, seed * 10 + n)));
    let (given, told) = tokio::join!(giving, acting);
    judge(&db, &given, &told.into_iter().flatten().collect::<Vec<_>>()).await
}

/// How much has happened: a history in which nothing happens proves nothing.
#[derive(Debug, Default)]
struct HistoryCounts {
    appended: usize,
    refused: usize,
    taken: usize,
    settled: usize,
}

/// An answer that an owner got, and between which moments.
struct OwnerTold {
    lease: Lease,
    from: Instant,
    to: Instant,
    what: OwnerAct,
}

enum OwnerAct {
    Claimed,
    Acted,
    Appended(String),
    Refused(String),
    Taken(CommandId),
    Settled(CommandId, SettleResult),
}

async fn act(db: &TestDb, seed: u64) -> Vec<OwnerTold> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut owner = Owner::on(db).await;
    let mut leases: Vec<Lease> = Vec::new();
    let mut taken: Vec<(Lease, CommandId)> = Vec::new();
    let mut told = Vec::new();
    let mut counter = 0;
    let length = Duration::from_millis(100);
    for _ in 0..250 {
        let from = Instant::now();
        let mut tell = |lease: &Lease, what| told.push(OwnerTold { lease: lease.clone(), from, to: Instant::now(), what });
        let some = (!leases.is_empty()).then(|| leases[rng.random_range(0..leases.len())].clone());
        match (rng.random_range(0..12), some) {
            (0..3, _) => {
                let claimed =
                    leases::claim(&mut owner.connection, owner.id, length, rng.random_range(1..3), &[provider("p")]).await.unwrap();
                for claimed in claimed {
                    tell(&claimed.lease(), OwnerAct::Claimed);
                    leases.push(claimed.lease());
                }
            }
            // Frozen: it does not know how long, and continues as before.
            (3, _) => tokio::time::sleep(Duration::from_millis(rng.random_range(0..120))).await,
            (4..6, Some(lease)) if owner.renew(&lease, length).await => tell(&lease, OwnerAct::Acted),
            (6, Some(lease)) if owner.checkpoint(&lease, CheckpointChange::to(UpstreamState::Live)).await => tell(&lease, OwnerAct::Acted),
            (7..9, Some(lease)) => {
                counter += 2;
                let other = leases[rng.random_range(0..leases.len())].clone();
                let titles = [format!("{} {} {counter}", lease.user, lease.term), format!("{} {} {}", other.user, other.term, counter + 1)];
                let rows = [message(&lease, counter, &titles[0]), message(&other, counter + 1, &titles[1])];
                let outcomes = owner.append(&rows).await;
                for ((outcome, title), lease) in outcomes.iter().zip(titles).zip([&lease, &other]) {
                    tell(lease, if *outcome == Recorded::TermPassed { OwnerAct::Refused(title) } else { OwnerAct::Appended(title) });
                }
            }
            (9, Some(lease)) => {
                for command in owner.take(&lease).await {
                    tell(&lease, OwnerAct::Taken(command.id));
                    taken.push((lease.clone(), command.id));
                }
            }
            (10, _) if !taken.is_empty() => {
                let (lease, id) = taken.swap_remove(rng.random_range(0..taken.len()));
                let settled = owner.settle(lease.term, id, MarkedSent::Sent).await;
                tell(&lease, OwnerAct::Settled(id, settled));
            }
            (11, Some(lease)) if rng.random_bool(0.3) => {
                owner.release(&lease).await;
            }
            _ => {}
        }
    }
    told
}

async fn judge(db: &TestDb, given: &[CommandId], told: &[OwnerTold]) -> HistoryCounts {
    let titles: Vec<String> =
        sqlx::query_scalar("SELECT title FROM recado.log ORDER BY seq").fetch_all(&mut db.connect().await).await.unwrap();
    let mut terms: HashMap<&str, i64> = HashMap::new();
    for title in &titles {
        let words: Vec<&str> = title.split(' ').collect();
        let term = words[1].parse().unwrap();
        let last = terms.entry(words[0]).or_insert(term);
        assert!(*last <= term, "{title} was written after a message of term {last}");
        *last = term;
    }
    let in_log: HashSet<&str> = titles.iter().map(String::as_str).collect();
    assert_eq!(in_log.len(), titles.len());
    let mut taken = HashSet::new();
    let (mut appended, mut refused, mut settled) = (0, 0, 0);
    for told in told {
        match &told.what {
            OwnerAct::Appended(title) => {
                appended += 1;
                assert!(in_log.contains(title.as_str()), "{title} was said to be appended");
            }
            OwnerAct::Refused(title) => {
                refused += 1;
                assert!(!in_log.contains(title.as_str()), "{title} was said to be refused");
            }
            OwnerAct::Taken(id) => assert!(taken.insert(*id), "{id} was given to two"),
            OwnerAct::Settled(id, SettleResult::Done) => {
                settled += 1;
                assert_eq!(state_of(db, *id).await, CommandState::Sent);
            }
            OwnerAct::Settled(id, SettleResult::Before) => assert_eq!(state_of(db, *id).await, CommandState::Unknown),
            OwnerAct::Claimed | OwnerAct::Acted => {}
        }
    }
    // An owner that began to act after the next claim was answered must have been refused.
    for next in told.iter().filter(|told| matches!(told.what, OwnerAct::Claimed)) {
        let late = told.iter().find(|told| {
            let same = told.lease.user == next.lease.user && told.lease.term < next.lease.term;
            let allowed = matches!(told.what, OwnerAct::Claimed | OwnerAct::Acted | OwnerAct::Appended(_) | OwnerAct::Taken(_));
            same && allowed && told.from > next.to
        });
        assert!(late.is_none(), "term {} acted after term {} was claimed", late.unwrap().lease.term, next.lease.term);
    }
    assert_eq!(titles.len(), appended);
    for id in given {
        let state = state_of(db, *id).await;
        let was_sent = taken.contains(id);
        assert_eq!(was_sent, matches!(state, CommandState::Sending | CommandState::Sent | CommandState::Unknown), "{id} is {state:?}");
    }
    HistoryCounts { appended, refused, taken: taken.len(), settled }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn whatever_three_owners_do_at_once_one_acts_at_a_time() {
    let _turn = heavy().await;
    let mut all = HistoryCounts::default();
    for seed in 1..=4 {
        let seen = history(seed).await;
        all.appended += seen.appended;
        all.refused += seen.refused;
        all.taken += seen.taken;
        all.settled += seen.settled;
    }
    assert!(all.appended > 20 && all.refused > 20 && all.taken > 5 && all.settled > 0, "{all:?}");
}

/// The database's clock was a day ahead for a while, and an owner and a failure wrote times by it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn a_time_that_lies_too_far_ahead_is_not_believed() {
    let db = TestDb::new().await;
    want(&db, &["ann", "bob"]).await;
    let mut owner = Owner::on(&db).await;
    db.run("UPDATE recado.upstream_session SET state = 'backing_off', next_try_at = clock_timestamp() + interval '1 day'").await;
    db.run(
        "UPDATE recado.upstream_session SET owner = gen_random_uuid(), state = 'live', lease_until = clock_timestamp() + interval '1 day'
          WHERE user_id = 'bob'",
    )
    .await;
    assert!(owner.claim(LONG).await.is_empty(), "neither is due");
    assert_eq!(chores::disbelieve_the_future(&mut owner.connection, Duration::from_secs(3)).await.unwrap(), 2);
    assert_eq!(owner.claim_one(SHORT).await.user, user("ann"), "the other one lasts for one lease from now");
    lease_is_over(&db).await;
    assert_eq!(owner.claim(SHORT).await.len(), 2);
    assert_eq!(chores::disbelieve_the_future(&mut owner.connection, SHORT).await.unwrap(), 0, "times that a hub writes are used");
}
