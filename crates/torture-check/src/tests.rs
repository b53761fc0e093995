//! Tests the checker with histories written by hand.
//!
//! One is good; each of the others breaks a rule that must find it.

mod consumers;
mod sdk;
mod webhooks;

use super::{CheckLimits, check, latency};
use crate::fact::{FactAudience, FactEntry, FactSince, RunFact, StreamAsked, StreamTold, hash};

const LOG: &str = "the-log";
const MS: u64 = 1_000_000;

/// A history under construction; each fact comes 10 ms after the previous one.
#[derive(Clone, Default)]
struct TestHistory(Vec<FactEntry>);

fn to(user: &str) -> FactAudience {
    FactAudience::Users(vec![user.to_owned()])
}

fn contents(title: &str) -> String {
    hash(&[title])
}

fn told(status: &str, from: i64) -> StreamTold {
    StreamTold { status: status.into(), from, lost: None, log_id: LOG.into(), head: 0, earliest: 1 }
}

fn by_ack() -> StreamAsked {
    StreamAsked { since: FactSince::Ack, log_id: None, last_id: None }
}

fn after(seq: i64) -> StreamAsked {
    StreamAsked { since: FactSince::Seq(seq), log_id: None, last_id: None }
}

impl TestHistory {
    fn now(&self) -> u64 {
        self.0.last().map_or(0, |entry| entry.t)
    }

    fn note(&mut self, fact: RunFact) -> &mut Self {
        let t = self.now() + 10 * MS;
        self.0.push(FactEntry { t, fact });
        self
    }

    fn wait(&mut self, ms: u64) -> &mut Self {
        let t = self.now() + ms * MS;
        self.0.push(FactEntry { t, fact: RunFact::Stall { ms: 0 } });
        self
    }

    fn wish(&mut self, title: &str, audience: FactAudience) -> &mut Self {
        self.note(RunFact::Wish { title: title.into(), audience, hash: contents(title), replay: true });
        self.note(RunFact::PostInvoke { op: 0, title: title.into(), hub: 0 })
    }

    fn ok(&mut self, title: &str, seq: i64) -> &mut Self {
        self.note(RunFact::PostOk { op: 0, title: title.into(), seq, id: format!("id-{title}") })
    }

    fn post(&mut self, title: &str, audience: FactAudience, seq: i64) -> &mut Self {
        self.wish(title, audience).ok(title, seq)
    }

    fn device(&mut self, user: &str, account: &str) -> &mut Self {
        let device = format!("{user}/d");
        self.note(RunFact::Device {
            device: device.clone(),
            user: user.into(),
            account: account.into(),
            slow: false,
            shares: None,
            pongs: true,
            sdk: false,
        });
        self.note(RunFact::ConnTry { device })
    }

    fn open(&mut self, conn: u64, user: &str, asked: StreamAsked, told: StreamTold) -> &mut Self {
        self.note(RunFact::ConnOpen { conn, device: format!("{user}/d"), hub: 0, asked, told })
    }

    fn open_as(&mut self, conn: u64, device: &str, asked: StreamAsked, told: StreamTold) -> &mut Self {
        self.note(RunFact::ConnOpen { conn, device: device.into(), hub: 0, asked, told })
    }

    fn close_as(&mut self, conn: u64, device: &str) -> &mut Self {
        self.note(RunFact::ConnClose { conn, device: device.into(), why: "torn".into(), wanted: false })
    }

    fn close(&mut self, conn: u64, user: &str) -> &mut Self {
        self.note(RunFact::ConnClose { conn, device: format!("{user}/d"), why: "torn".into(), wanted: false })
    }

    fn recv(&mut self, conn: u64, title: &str, seq: i64, prev: i64, taint: &str) -> &mut Self {
        let (id, hash) = (format!("id-{title}"), contents(title));
        self.note(RunFact::Recv { conn, seq, prev, id, hash, taint: taint.into() })
    }

    fn pass(&mut self, conn: u64, seq: i64) -> &mut Self {
        self.note(RunFact::Passed { conn, seq, prev: None })
    }

    fn place(&mut self, user: &str, before: Option<i64>, after: i64) -> &mut Self {
        self.note(RunFact::Place { device: format!("{user}/d"), before, after })
    }

    fn confirmed(&mut self, user: &str, seq: i64) -> &mut Self {
        self.note(RunFact::AckConfirmed { device: format!("{user}/d"), seq })
    }

    fn fault(&mut self, name: &str, ms: u64) -> &mut Self {
        self.note(RunFact::FaultBegin { fault: name.into(), on: "hub 0".into() }).wait(ms);
        self.note(RunFact::FaultEnd { fault: name.into(), on: "hub 0".into(), evidence: Some("seen".into()) })
    }

    /// Adds the database's rows at the end.
    fn log(&mut self, titles: &[(&str, i64)]) -> &mut Self {
        let head = titles.iter().map(|(_, seq)| *seq).max().unwrap_or(0);
        self.note(RunFact::Drained { head });
        self.note(RunFact::Log { log_id: LOG.into(), floor: 0, head });
        for (title, seq) in titles {
            self.note(RunFact::Row {
                seq: *seq,
                id: format!("id-{title}"),
                title: (*title).into(),
                hash: contents(title),
                tombstone: None,
            });
        }
        self
    }

    /// Returns the broken rules, each once.
    fn broken(&self) -> Vec<&'static str> {
        let mut rules: Vec<_> = check(&self.0, CheckLimits::default()).into_iter().map(|violation| violation.rule).collect();
        rules.dedup();
        rules
    }

    fn change(mut self, change: impl Fn(&mut RunFact)) -> Self {
        self.0.iter_mut().for_each(|entry| change(&mut entry.fact));
        self
    }

    fn without(mut self, which: impl Fn(&RunFact) -> bool) -> Self {
        self.0.retain(|entry| !which(&entry.fact));
        self
    }
}

/// Four notifications: ann gets three of them live and one after a reconnect, bob gets two.
fn good() -> TestHistory {
    let mut story = TestHistory::default();
    story.device("ann", "x").device("bob", "y");
    story.open(1, "ann", by_ack(), told("live", 0)).pass(1, 0).open(2, "bob", by_ack(), told("live", 0)).pass(2, 0);
    story.post("one", to("ann"), 1).recv(1, "one", 1, 0, "x");
    story.post("two", FactAudience::Account("x".into()), 2).recv(1, "two", 2, 1, "x").close(1, "ann");
    story.place("ann", None, 0).place("ann", Some(0), 2).confirmed("ann", 2);
    story.post("three", FactAudience::Everyone, 3).recv(2, "three", 3, 0, "*");
    story.open(3, "ann", by_ack(), told("ok", 2)).recv(3, "three", 3, 2, "*").pass(3, 3);
    story.post("four", to("bob"), 4).recv(2, "four", 4, 3, "y");
    story.note(RunFact::Passed { conn: 3, seq: 4, prev: Some(3) });
    story.log(&[("one", 1), ("two", 2), ("three", 3), ("four", 4)]);
    story
}

fn is_recv(fact: &RunFact, of: u64, number: i64) -> bool {
    matches!(fact, RunFact::Recv { conn, seq, .. } if *conn == of && *seq == number)
}

#[test]
fn a_good_history_breaks_nothing() {
    assert_eq!(check(&good().0, CheckLimits::default()), []);
}

#[test]
fn a_history_survives_the_file() {
    let lines: Vec<String> = good().0.iter().map(|entry| serde_json::to_string(entry).unwrap()).collect();
    let read: Vec<FactEntry> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(read, good().0);
}

#[test]
fn c1_a_missing_number() {
    let story = good().without(|fact| matches!(fact, RunFact::Row { seq: 2, .. }));
    assert!(story.broken().contains(&"C1"));
}

#[test]
fn c1_a_number_twice() {
    let mut story = good();
    story.wish("five", to("zoe")).note(RunFact::Row {
        seq: 4,
        id: "id-five".into(),
        title: "five".into(),
        hash: contents("five"),
        tombstone: None,
    });
    assert!(story.broken().contains(&"C1"));
}

#[test]
fn c1_a_head_beyond_the_rows() {
    let story = good().change(|fact| {
        if let RunFact::Log { head, .. } = fact {
            *head = 5;
        }
    });
    assert_eq!(story.broken(), ["C1"]);
}

#[test]
fn c2_a_wish_twice() {
    let mut story = good();
    story.note(RunFact::Row { seq: 5, id: "id-one-again".into(), title: "one".into(), hash: contents("one"), tombstone: None });
    assert!(story.broken().contains(&"C2"));
}

#[test]
fn c2_an_answer_and_no_row() {
    let mut story = good();
    story.post("five", to("zoe"), 5);
    assert_eq!(story.broken(), ["C2", "C3"]);
}

#[test]
fn c2_a_refusal_and_a_row() {
    let mut story = good();
    story.wish("five", to("zoe")).note(RunFact::PostFail { op: 0, title: "five".into(), why: "422".into() });
    assert_eq!(story.broken(), [""; 0], "a refusal without a row is right");
    story = story.without(|fact| matches!(fact, RunFact::Log { .. }));
    story.note(RunFact::Row { seq: 5, id: "id-five".into(), title: "five".into(), hash: contents("five"), tombstone: None });
    assert_eq!(story.broken(), ["C2"]);
}

#[test]
fn c2_a_row_that_nobody_asked_for() {
    let mut story = good().without(|fact| matches!(fact, RunFact::Log { .. }));
    story.note(RunFact::Row { seq: 5, id: "id-five".into(), title: "five".into(), hash: contents("five"), tombstone: None });
    assert_eq!(story.broken(), ["C2"]);
}

#[test]
fn c2_an_unknown_outcome_may_be_either() {
    let mut story = good();
    story.wish("five", to("zoe")).note(RunFact::PostInfo { op: 0, title: "five".into(), why: "reset".into() });
    assert_eq!(story.broken(), [""; 0]);
    story = story.without(|fact| matches!(fact, RunFact::Log { .. }));
    story.note(RunFact::Row { seq: 5, id: "id-five".into(), title: "five".into(), hash: contents("five"), tombstone: None });
    assert_eq!(story.broken(), [""; 0]);
}

#[test]
fn c2_what_a_producer_committed() {
    let mut story = good();
    story.wish("five", to("zoe")).note(RunFact::PostKept { op: 0, title: "five".into(), id: "id-five".into() });
    assert_eq!(story.broken(), ["C2"]);
    story = story.without(|fact| matches!(fact, RunFact::Log { .. }));
    story.note(RunFact::Row { seq: 5, id: "id-five".into(), title: "five".into(), hash: contents("five"), tombstone: None });
    assert_eq!(story.broken(), [""; 0]);
    story = story.change(|fact| {
        if let RunFact::PostKept { id, .. } = fact {
            *id = "another".into();
        }
    });
    assert_eq!(story.broken(), ["C3"]);
}

#[test]
fn c3_two_answers_with_two_numbers() {
    let mut story = good();
    story.ok("one", 2);
    assert_eq!(story.broken(), ["C3"]);
}

#[test]
fn c4_other_contents_at_a_device_and_in_the_log() {
    let story = good().change(|fact| {
        if let RunFact::Recv { conn: 1, seq: 1, hash, .. } = fact {
            *hash = "other".into();
        }
    });
    assert_eq!(story.broken(), ["C4"]);
    let story = good().change(|fact| {
        if let RunFact::Wish { title, hash, .. } = fact
            && title == "four"
        {
            *hash = "as it was posted".into();
        }
    });
    assert_eq!(story.broken(), ["C4"]);
}

#[test]
fn c5_a_later_wish_with_a_lower_number() {
    let mut story = TestHistory::default();
    story.post("late", to("ann"), 2).post("later", to("ann"), 1).log(&[("later", 1), ("late", 2)]);
    assert_eq!(story.broken(), ["C5"]);
    let mut story = TestHistory::default();
    story.wish("first", to("ann")).wish("second", to("ann")).ok("second", 1).ok("first", 2).log(&[("second", 1), ("first", 2)]);
    assert_eq!(story.broken(), [""; 0], "two that are asked for at once may come in either order");
}

#[test]
fn c6_a_notification_that_is_not_in_the_log() {
    let mut story = good();
    story.note(RunFact::Recv { conn: 2, seq: 5, prev: 4, id: "id-ghost".into(), hash: "h".into(), taint: "y".into() });
    assert_eq!(story.broken(), ["C6"]);
    let story = good().change(|fact| {
        if let RunFact::Recv { conn: 2, seq: 4, id, .. } = fact {
            *id = "id-that-was-rolled-back".into();
        }
    });
    assert_eq!(story.broken(), ["C6"]);
}

#[test]
fn c7_a_loss_at_the_end() {
    let story = good().without(|fact| is_recv(fact, 2, 4));
    let found = check(&story.0, CheckLimits::default());
    let lost = found.iter().find(|violation| violation.rule == "C7").expect("a loss");
    assert!(lost.what.contains("lacks 1 at the end: [4]"), "{lost}");
}

#[test]
fn c7_a_loss_in_the_middle() {
    let story = good().without(|fact| is_recv(fact, 1, 2) || matches!(fact, RunFact::Place { .. } | RunFact::AckConfirmed { .. }));
    let found = check(&story.0, CheckLimits::default());
    assert!(found.iter().any(|violation| violation.rule == "C7" && violation.what.contains("the middle: [2]")), "{found:?}");
}

#[test]
fn c7_what_is_given_live_only_may_be_missed() {
    let passed_over = good().change(|fact| {
        if is_recv(fact, 1, 2) {
            *fact = RunFact::Passed { conn: 1, seq: 2, prev: None };
        }
    });
    assert_eq!(passed_over.broken(), ["C7", "C9"]);
    let live_only = passed_over.change(|fact| {
        if let RunFact::Wish { title, replay, .. } = fact
            && title == "two"
        {
            *replay = false;
        }
    });
    assert_eq!(live_only.broken(), [""; 0]);
}

#[test]
fn c8_a_number_twice_on_a_connection() {
    let mut story = good();
    story.recv(2, "four", 4, 3, "y");
    assert_eq!(story.broken(), ["C8"]);
}

#[test]
fn c8_another_connection_may_repeat() {
    let mut story = good();
    story.close(2, "bob").open(4, "bob", by_ack(), told("ok", 3)).recv(4, "four", 4, 3, "y");
    assert_eq!(story.broken(), [""; 0]);
}

#[test]
fn c9_a_hole_on_a_connection() {
    let mut story = good();
    story.close(2, "bob").open(4, "bob", after(0), told("ok", 0)).recv(4, "three", 3, 0, "*").pass(4, 4);
    assert_eq!(story.broken(), ["C9"]);
}

#[test]
fn c9_prev_names_another_number() {
    let story = good().change(|fact| {
        if let RunFact::Recv { conn: 2, seq: 4, prev, .. } = fact {
            *prev = 2;
        }
    });
    assert_eq!(story.broken(), ["C9"]);
}

#[test]
fn c9_a_heartbeat_is_named_by_what_follows() {
    let mut story = good();
    story.close(2, "bob").open(4, "bob", after(1), told("ok", 1)).note(RunFact::Passed { conn: 4, seq: 2, prev: Some(1) });
    story.recv(4, "three", 3, 2, "*").recv(4, "four", 4, 3, "y");
    assert_eq!(story.broken(), [""; 0]);
    let mut story = good();
    story.close(2, "bob").open(4, "bob", after(1), told("ok", 1)).note(RunFact::Passed { conn: 4, seq: 2, prev: Some(1) });
    story.recv(4, "three", 3, 1, "*").recv(4, "four", 4, 3, "y");
    assert_eq!(story.broken(), ["C9"]);
}

#[test]
fn c10_a_stream_begins_with_the_next() {
    let mut story = good();
    story.close(2, "bob").open(4, "bob", after(0), told("ok", 0)).recv(4, "four", 4, 0, "y");
    assert_eq!(story.broken(), ["C10"]);
}

#[test]
fn c10_a_stream_begins_where_it_was_asked_to() {
    let mut story = good();
    story.close(2, "bob").open(4, "bob", after(2), told("ok", 3));
    assert_eq!(story.broken(), ["C10"]);
}

#[test]
fn c10_a_stored_place_beyond_what_was_given() {
    let mut story = good();
    story.close(1, "ann").close(3, "ann").open(4, "ann", by_ack(), told("ok", 7));
    assert_eq!(story.broken(), ["C10"]);
}

#[test]
fn c11_what_was_confirmed_comes_again() {
    let mut story = good();
    story.close(3, "ann").open(4, "ann", by_ack(), told("ok", 1)).recv(4, "two", 2, 1, "x");
    assert_eq!(story.broken(), ["C11"]);
    let mut story = good();
    story.close(3, "ann").open(4, "ann", after(1), told("ok", 1)).recv(4, "two", 2, 1, "x");
    assert_eq!(story.broken(), [""; 0], "who asks for it gets it");
}

#[test]
fn c12_somebody_elses_notification() {
    let mut story = good();
    story.recv(3, "four", 4, 4, "y");
    assert!(story.broken().contains(&"C12"));
    let mut story = good();
    let (id, hash) = ("id-one".to_owned(), contents("one"));
    story.note(RunFact::Page { device: "bob/d".into(), seq: 1, id, hash, taint: "y".into() });
    assert_eq!(story.broken(), ["C12"], "by its audience, though its taint says nothing");
}

#[test]
fn c13_a_place_goes_back() {
    let mut story = good();
    story.place("ann", Some(2), 3).place("ann", Some(3), 2);
    assert_eq!(story.broken(), ["C13"]);
}

#[test]
fn c13_a_place_beyond_what_was_given() {
    let mut story = good();
    story.place("bob", None, 0).place("bob", Some(0), 9);
    assert_eq!(story.broken(), ["C13"]);
}

#[test]
fn c13_a_confirmed_place_is_not_stored() {
    let mut story = good();
    story.confirmed("bob", 4);
    assert_eq!(story.broken(), ["C13"]);
}

#[test]
fn c14_a_reset_without_a_cause_and_none_where_it_is_due() {
    let mut story = good();
    story.close(2, "bob").open(4, "bob", after(3), told("reset", 0)).recv(4, "three", 3, 0, "*").recv(4, "four", 4, 3, "y");
    assert_eq!(story.broken(), ["C14"]);
    let liar = |asked, told| good().note(RunFact::Liar { conn: 9, device: "bob/liar".into(), asked, told }).broken();
    let other_log = StreamAsked { log_id: Some("another".into()), ..after(3) };
    assert_eq!(liar(other_log.clone(), told("ok", 3)), ["C14"]);
    assert_eq!(liar(other_log, told("reset", 0)), [""; 0]);
    let other_id = StreamAsked { last_id: Some("another".into()), ..after(3) };
    assert_eq!(liar(other_id.clone(), told("ok", 3)), ["C14"]);
    assert_eq!(liar(other_id, told("reset", 0)), [""; 0]);
    assert_eq!(liar(after(99), told("ok", 99)), ["C14"]);
    assert_eq!(liar(after(99), told("reset", 0)), [""; 0]);
    assert_eq!(liar(after(3), told("gap", 4)), ["C14"]);
}

/// Bob waits for `ms` after the answer.
fn late(ms: u64, fault: Option<&str>) -> TestHistory {
    let mut story = TestHistory::default();
    story.device("bob", "y").open(1, "bob", by_ack(), told("live", 0)).pass(1, 0);
    if let Some(fault) = fault {
        story.note(RunFact::FaultBegin { fault: fault.into(), on: "hub 0".into() });
    }
    story.post("one", to("bob"), 1).wait(ms).recv(1, "one", 1, 0, "y");
    if let Some(fault) = fault {
        story.note(RunFact::FaultEnd { fault: fault.into(), on: "hub 0".into(), evidence: Some("seen".into()) });
    }
    story.wait(20_000).log(&[("one", 1)]);
    story
}

#[test]
fn c15_late_in_quiet() {
    assert_eq!(late(2_000, None).broken(), [""; 0]);
    assert_eq!(late(5_000, None).broken(), ["C15"]);
    assert_eq!(late(5_000, Some("database-hole")).broken(), [""; 0], "not quiet");
    assert_eq!(late(5_000, Some("listen-hole")).broken(), ["C15"], "LISTEN is a hint");
    let figures = latency(&late(2_000, None).0).unwrap();
    assert_eq!((figures.count, figures.max_ms), (1, 2_010.0));
}

#[test]
fn c15_the_machine_itself_stood_still() {
    let mut story = late(5_000, None);
    let at = story.0.iter().position(|entry| matches!(entry.fact, RunFact::Recv { .. })).unwrap();
    story.0[at - 1].fact = RunFact::Stall { ms: 4_000 };
    assert_eq!(story.broken(), [""; 0]);
}

/// A fault cuts Bob's connection, and he has everything `ms` after its end.
fn recovers(ms: u64, fault: &str) -> TestHistory {
    let mut story = TestHistory::default();
    story.device("bob", "y").open(1, "bob", by_ack(), told("live", 0)).pass(1, 0);
    story.post("one", to("bob"), 1).close(1, "bob").fault(fault, 100).wait(ms);
    story.open(2, "bob", by_ack(), told("ok", 0)).recv(2, "one", 1, 0, "y").log(&[("one", 1)]);
    story
}

#[test]
fn c15_recovery() {
    assert_eq!(recovers(8_000, "hub-kill").broken(), [""; 0]);
    assert_eq!(recovers(12_000, "hub-kill").broken(), ["C15"]);
    assert_eq!(recovers(12_000, "postgres-kill").broken(), [""; 0]);
    assert_eq!(recovers(17_000, "postgres-kill").broken(), ["C15"]);
}

/// Ann's session under two owners: each sends one command, and the first receives one message.
fn upstream() -> TestHistory {
    let mut story = good();
    let ann = || "ann".to_owned();
    story.note(RunFact::UpSignIn { user: ann(), process: 0, at: 1_100, stamp: 1_099 });
    for (link, process, at, command) in [(1, 0, 1_200, "a"), (2, 1, 9_000, "b")] {
        story.note(RunFact::UpAsk { link, user: ann(), process, at, stamp: at - 1 }).note(RunFact::UpOpen { link });
        story.note(RunFact::CommandGiven { user: ann(), command: command.into(), sdk: false });
        story.note(RunFact::UpFrame { link, at: at + 500, stamp: at + 499, command: Some(command.into()) });
        story.note(RunFact::CommandTold { command: command.into(), status: "sent".into() });
        story.note(RunFact::UpTerm {
            user: ann(),
            term: process as i64 + 1,
            process,
            at: at - 150,
            old_lease_until: None,
            taken_over: true,
        });
        let (state, term, settled) = ("sent".into(), Some(process as i64 + 1), Some(at + 501));
        story.note(RunFact::UpCommand { user: ann(), command: command.into(), state, term, settled });
    }
    story.note(RunFact::UpSaid { link: 1, n: 1 }).note(RunFact::UpClose { link: 1, at: 8_000 });
    story.note(RunFact::UpEntry { seq: 5, user: ann(), said: Some((1, 1)) });
    story
}

#[test]
fn c16_terms_commands_and_messages() {
    assert_eq!(upstream().broken(), [""; 0]);
    let frame = |link, at, command: Option<&str>| RunFact::UpFrame { link, at, stamp: at - 1, command: command.map(str::to_owned) };
    assert_eq!(upstream().note(frame(1, 9_700, None)).broken(), ["C16"], "a term goes back");
    assert_eq!(upstream().note(frame(2, 9_700, Some("a"))).broken(), ["C16"], "a command comes twice");
    assert_eq!(upstream().note(frame(2, 9_700, Some("z"))).broken(), ["C16"], "a command that nobody gave");
    let never_came = upstream().without(|fact| matches!(fact, RunFact::UpFrame { link: 2, .. }));
    assert_eq!(never_came.broken(), ["C16"], "said to be sent, and never came");
    let again = RunFact::UpEntry { seq: 6, user: "ann".into(), said: Some((1, 1)) };
    assert_eq!(upstream().note(again).broken(), ["C16"], "a message twice");
    let untold = upstream().without(|fact| matches!(fact, RunFact::CommandTold { .. }));
    assert_eq!(untold.broken(), ["C16"], "a device that is told nothing");
    let denied = upstream().change(|fact| match fact {
        RunFact::UpCommand { state, .. } => *state = "failed".into(),
        RunFact::CommandTold { status, .. } => *status = "failed".into(),
        _ => {}
    });
    assert_eq!(denied.broken(), ["C16"], "said to have failed, and it came");
    let sleeper = RunFact::UpSignIn { user: "ann".into(), process: 0, at: 9_800, stamp: 9_799 };
    assert_eq!(upstream().note(sleeper).broken(), ["C16"], "an owner that wakes");
}

#[test]
fn c17_a_secret_in_the_open() {
    let secret = |found| RunFact::Secret { name: "a token".into(), place: "a log".into(), found };
    assert_eq!(good().note(secret(false)).broken(), [""; 0]);
    assert_eq!(good().note(secret(true)).broken(), ["C17"]);
}

#[test]
fn c24_a_forged_token_and_c25_a_removed_key() {
    let forged = |accepted| RunFact::ForgedToken { hub: 0, what: "HS256 by the public key".into(), accepted };
    assert_eq!(good().note(forged(false)).broken(), [""; 0]);
    assert_eq!(good().note(forged(true)).broken(), ["C24"]);
    let removed = |left| RunFact::KeyRemoved { hub: 0, connections: 4, left };
    assert_eq!(good().note(removed(0)).broken(), [""; 0]);
    assert_eq!(good().note(removed(1)).broken(), ["C25"]);
}

#[test]
fn c18_a_leak() {
    let files = |end| RunFact::Resource { name: "open files".into(), base: 20, end, allowed: 30 };
    assert_eq!(good().note(files(30)).broken(), [""; 0]);
    assert_eq!(good().note(files(31)).broken(), ["C18"]);
}

#[test]
fn c19_too_little() {
    let quota = |had| RunFact::Quota { what: "posts".into(), had, wanted: 10 };
    assert_eq!(good().note(quota(10)).broken(), [""; 0]);
    assert_eq!(good().note(quota(9)).broken(), ["C19"]);
    let mut story = good();
    story.note(RunFact::FaultBegin { fault: "hub-kill".into(), on: "hub 0".into() });
    story.note(RunFact::FaultEnd { fault: "hub-kill".into(), on: "hub 0".into(), evidence: None });
    assert_eq!(story.broken(), ["C19"], "a fault without an effect");
}

#[test]
fn c20_a_hub_that_stands_still_while_the_log_grows() {
    let watched = |head, published: [Option<i64>; 2]| RunFact::Watched { head, published: published.to_vec() };
    let still = |answers: Option<i64>| {
        let mut story = good();
        for n in 0..10 {
            story.wait(1000).note(watched(100 + n, [answers, Some(100 + n)]));
        }
        story
    };
    assert_eq!(still(Some(3)).broken(), ["C20"], "once for a hub");
    assert_eq!(still(None).broken(), [""; 0], "one that does not answer is not judged");
    let mut behind = good();
    for n in 0..10 {
        behind.wait(1000).note(watched(100 + n, [Some(99 + n), Some(100 + n)]));
    }
    assert_eq!(behind.broken(), [""; 0], "one that is a little behind moves");
    let mut excused = good();
    for n in 0..4 {
        excused.wait(1000).note(watched(100 + n, [Some(3), Some(100 + n)]));
    }
    excused.fault("database-hole", 3000);
    excused.note(watched(200, [Some(3), Some(200)]));
    excused.wait(1000).note(watched(201, [Some(201), Some(201)]));
    assert_eq!(excused.broken(), [""; 0], "a fault was on");
}

/// Bob receives one notification, and it is erased; then `more` happens.
fn erased(more: impl Fn(&mut TestHistory)) -> TestHistory {
    let mut story = TestHistory::default();
    let at = |story: &TestHistory| i64::try_from(story.now() / MS).unwrap() + 15;
    story.note(RunFact::Begun { at: 0 }).device("bob", "y").device("cy", "y");
    story.open(1, "bob", by_ack(), told("live", 0)).pass(1, 0).open(3, "cy", by_ack(), told("live", 0)).pass(3, 0);
    story.post("one", to("bob"), 1).recv(1, "one", 1, 0, "y");
    story.note(RunFact::EraseBegin { user: None, seq: Some(1) });
    let changed = at(&story);
    story.note(RunFact::EraseDone { user: None, seq: Some(1), head: 1 });
    story.post("two", FactAudience::Everyone, 2).recv(1, "two", 2, 1, "*").recv(3, "two", 2, 0, "*");
    more(&mut story);
    story.log(&[("two", 2)]);
    story.note(RunFact::Row { seq: 1, id: "id-one".into(), title: "one".into(), hash: contents("one"), tombstone: Some(String::new()) });
    story.note(RunFact::Erased { seq: 1, at: changed - 10 });
    story
}

#[test]
fn c21_a_tombstone_is_no_loss_and_its_contents_are_the_ones_before() {
    assert_eq!(check(&erased(|_| {}).0, CheckLimits::default()), []);
    let never_given = erased(|story| {
        story.close(1, "bob").open(2, "bob", after(0), told("ok", 0)).recv(2, "two", 2, 0, "*");
    });
    let never_given = never_given.without(|fact| is_recv(fact, 1, 1)).change(|fact| {
        if let RunFact::Recv { conn: 1, seq: 2, prev, .. } = fact {
            *prev = 0;
        }
    });
    assert_eq!(never_given.broken(), [""; 0], "who had not got it before is not owed it");
    let too_early = never_given.change(|fact| {
        if let RunFact::EraseBegin { .. } | RunFact::EraseDone { .. } = fact {
            *fact = RunFact::Stall { ms: 0 };
        }
    });
    let too_early = too_early.without(|fact| matches!(fact, RunFact::Erased { .. }));
    assert_eq!(too_early.broken(), ["C7", "C10"], "without an erasure it is a loss");
    let other = erased(|_| {}).change(|fact| {
        if let RunFact::Recv { conn: 1, seq: 1, hash, .. } = fact {
            *hash = "other".into();
        }
    });
    assert_eq!(other.broken(), ["C4"]);
}

#[test]
fn c21_what_was_erased_is_given_again() {
    let again = |ms, fault: Option<&str>| {
        erased(|story| {
            if let Some(fault) = fault {
                story.fault(fault, 4_000);
            }
            story.wait(ms).close(1, "bob").open(2, "bob", after(0), told("ok", 0)).recv(2, "one", 1, 0, "y").recv(2, "two", 2, 1, "*");
        })
    };
    assert_eq!(again(1_000, None).broken(), [""; 0], "a copy may be in memory for a moment");
    assert_eq!(again(6_000, None).broken(), ["C21"]);
    assert_eq!(again(6_000, Some("eraser")).broken(), ["C21"], "who erases holds nothing up");
    assert_eq!(again(3_000, Some("hub-freeze")).broken(), [""; 0], "a hub that is stopped keeps its memory");
    assert_eq!(again(6_000, Some("hub-freeze")).broken(), ["C21"]);
    let page = |ms| {
        erased(|story| {
            let (id, hash) = ("id-one".to_owned(), contents("one"));
            story.wait(ms).note(RunFact::Page { device: "bob/d".into(), seq: 1, id, hash, taint: "y".into() });
        })
    };
    assert_eq!(page(8_000).broken(), [""; 0]);
    assert_eq!(page(12_000).broken(), ["C21"]);
}

#[test]
fn c21_what_is_left_in_the_database() {
    let left = |left: Option<&str>| {
        erased(|_| {}).change(|fact| {
            if let RunFact::Row { seq: 1, tombstone, .. } = fact {
                *tombstone = left.map(str::to_owned);
            }
        })
    };
    assert_eq!(left(Some("one")).broken(), ["C21"], "a tombstone that says something");
    assert_eq!(left(None).broken(), ["C21"], "no tombstone");
    let mut elsewhere = erased(|_| {});
    elsewhere.note(RunFact::Remnant { what: "one".into(), place: "the table outbox".into() });
    assert_eq!(elsewhere.broken(), ["C21"]);
    let whole_user = |head| {
        let mut story = good();
        story.note(RunFact::EraseBegin { user: Some("bob".into()), seq: None });
        story.note(RunFact::EraseDone { user: Some("bob".into()), seq: None, head }).broken()
    };
    assert_eq!(whole_user(4), ["C21"], "what was for bob alone stands there");
    assert_eq!(whole_user(3), [""; 0], "what came later may stay");
}

#[test]
fn c21_a_user_who_was_erased_is_a_new_one() {
    let history = |is_erased: bool| {
        let mut story = TestHistory::default();
        story.device("bob", "y").open(1, "bob", by_ack(), told("live", 0)).pass(1, 0);
        story.post("one", FactAudience::Everyone, 1).recv(1, "one", 1, 0, "*").confirmed("bob", 1).place("bob", None, 1);
        if is_erased {
            story.note(RunFact::EraseBegin { user: Some("bob".into()), seq: None });
            story.note(RunFact::EraseDone { user: Some("bob".into()), seq: None, head: 1 });
        }
        story.close(1, "bob").post("two", FactAudience::Everyone, 2).open(2, "bob", by_ack(), told("live", 2)).pass(2, 2);
        story.log(&[("one", 1), ("two", 2)]);
        story.broken()
    };
    assert_eq!(history(true), [""; 0]);
    assert_eq!(history(false), ["C7", "C10"]);
}

/// Two clients of ann share one position. Both have received 1 and 2. `left` ends the first client's connection, after
/// the second has acknowledged all and the log holds 3.
fn shared(pongs: bool, second: impl Fn(&mut TestHistory)) -> TestHistory {
    let mut story = TestHistory::default();
    for name in ["ann/s0", "ann/s1"] {
        let (device, shares) = (name.to_owned(), Some("ann/default".to_owned()));
        story.note(RunFact::Device {
            device: device.clone(),
            user: "ann".into(),
            account: "x".into(),
            slow: false,
            shares,
            pongs,
            sdk: false,
        });
        story.note(RunFact::ConnTry { device });
    }
    story.open_as(1, "ann/s0", by_ack(), told("live", 0)).pass(1, 0).open_as(2, "ann/s1", by_ack(), told("ok", 0)).pass(2, 0);
    story.post("one", to("ann"), 1).recv(1, "one", 1, 0, "x").recv(2, "one", 1, 0, "x").close_as(1, "ann/s0");
    story.post("two", to("ann"), 2).recv(2, "two", 2, 1, "x");
    story.note(RunFact::Place { device: "ann/default".into(), before: None, after: 0 });
    story.note(RunFact::Place { device: "ann/default".into(), before: Some(0), after: 2 });
    second(&mut story);
    story.log(&[("one", 1), ("two", 2)]);
    story
}

#[test]
fn c7_each_of_those_that_share_a_device_is_given_what_it_has_not_acknowledged() {
    let returns = |pongs: bool, from: i64, acked: Option<i64>| {
        shared(pongs, |story| {
            if let Some(seq) = acked {
                story.note(RunFact::AckSent { device: "ann/s0".into(), seq });
            }
            story.open_as(3, "ann/s0", by_ack(), told("ok", from));
            let mut prev = from;
            for (title, seq) in [("one", 1), ("two", 2)].into_iter().filter(|(_, seq)| *seq > from) {
                story.recv(3, title, seq, prev, "x");
                prev = seq;
            }
            story.pass(3, 2);
        })
        .broken()
    };
    assert_eq!(returns(true, 1, None), [""; 0], "where its own connection was");
    assert_eq!(returns(true, 0, None), [""; 0], "lower is a repeat");
    assert_eq!(returns(true, 2, None), ["C7"], "where the device is, it misses two");
    assert_eq!(returns(false, 1, None), ["C7"], "it was given one and has not acknowledged it");
    assert_eq!(returns(false, 1, Some(1)), [""; 0]);
    let unshared = shared(true, |story| {
        story.open_as(3, "ann/s0", by_ack(), told("ok", 2)).pass(3, 2);
    });
    let unshared = unshared.change(|fact| {
        if let RunFact::Device { shares, .. } = fact {
            *shares = None;
        }
    });
    assert_eq!(unshared.broken(), ["C7", "C10"], "alone it is the same");
}

#[test]
fn c7_a_client_that_comes_late_may_take_the_place_of_one_that_is_away() {
    let story = shared(true, |story| {
        story.open_as(3, "ann/s0", by_ack(), told("ok", 2)).pass(3, 2);
    });
    // The two clients were never connected at once.
    let mut late = TestHistory::default();
    let second: Vec<FactEntry> = story.0.clone();
    let at = second.iter().position(|entry| matches!(entry.fact, RunFact::ConnOpen { conn: 2, .. })).unwrap();
    let end = second.iter().position(|entry| matches!(entry.fact, RunFact::ConnClose { conn: 1, .. })).unwrap();
    let (mut order, moved): (Vec<_>, Vec<_>) = second.into_iter().enumerate().partition(|(place, entry)| {
        *place < at
            || *place > end
            || !matches!(entry.fact, RunFact::ConnOpen { conn: 2, .. } | RunFact::Passed { conn: 2, .. } | RunFact::Recv { conn: 2, .. })
    });
    let after_the_end = order.iter().position(|(place, _)| *place == end).unwrap() + 1;
    order.splice(after_the_end..after_the_end, moved);
    for (_, entry) in order {
        late.note(entry.fact);
    }
    assert_eq!(late.broken(), [""; 0]);
}

#[test]
fn c11_an_end_that_nobody_saw() {
    let repeats = |fault: &str, on: &str, from: i64, ms: u64| {
        let mut story = TestHistory::default();
        story.device("ann", "x").open(1, "ann", by_ack(), told("live", 0)).pass(1, 0);
        story.post("one", to("ann"), 1).recv(1, "one", 1, 0, "x").confirmed("ann", 1);
        story.note(RunFact::FaultBegin { fault: fault.into(), on: on.into() }).close(1, "ann");
        story.note(RunFact::FaultEnd { fault: fault.into(), on: on.into(), evidence: Some("seen".into()) });
        story.open(2, "ann", by_ack(), told("ok", 1)).pass(2, 1);
        story.post("two", to("ann"), 2).recv(2, "two", 2, 1, "x").confirmed("ann", 2).close(2, "ann");
        story.open(3, "ann", by_ack(), told("ok", 2)).wait(ms).close(3, "ann");
        story.open(4, "ann", by_ack(), told("ok", from));
        for (title, seq) in [("one", 1), ("two", 2)].into_iter().filter(|(_, seq)| *seq > from) {
            story.recv(4, title, seq, seq - 1, "x");
        }
        story.place("ann", None, 2).pass(4, 2).log(&[("one", 1), ("two", 2)]).broken()
    };
    assert_eq!(repeats("hub-kill", "hub 0", 1, 100), [""; 0], "what was confirmed after it");
    assert_eq!(repeats("postgres-backend", "hub 1", 1, 100), [""; 0], "the server ends every connection");
    assert_eq!(repeats("clients-hole", "hub 1", 1, 100), ["C11"], "another hub");
    assert_eq!(repeats("listen-hole", "hub 0", 1, 100), ["C11"], "LISTEN hides no end");
    assert_eq!(repeats("hub-kill", "hub 0", 0, 100), ["C11"], "what was confirmed before it");
    assert_eq!(repeats("hub-kill", "hub 0", 1, 60_000), ["C11"], "the window is over");
}

#[test]
fn c11_an_end_that_waits_behind_a_hole() {
    // How long the hole was, and how long after it the client left.
    let repeats = |fault: &str, was_ms: u64, after_ms: u64| {
        let mut story = TestHistory::default();
        story.device("ann", "x").open(1, "ann", by_ack(), told("live", 0)).pass(1, 0);
        story.note(RunFact::FaultBegin { fault: fault.into(), on: "hub 0".into() }).wait(was_ms);
        story.note(RunFact::FaultEnd { fault: fault.into(), on: "hub 0".into(), evidence: Some("seen".into()) }).wait(after_ms);
        story.post("one", to("ann"), 1).recv(1, "one", 1, 0, "x").confirmed("ann", 1).close(1, "ann");
        story.open(2, "ann", by_ack(), told("ok", 1)).pass(2, 1);
        story.post("two", to("ann"), 2).recv(2, "two", 2, 1, "x").confirmed("ann", 2).close(2, "ann");
        story.open(3, "ann", by_ack(), told("ok", 1)).recv(3, "two", 2, 1, "x");
        story.place("ann", None, 2).pass(3, 2).log(&[("one", 1), ("two", 2)]).broken()
    };
    assert_eq!(repeats("clients-hole", 1900, 20), [""; 0], "TCP waits to send again");
    assert_eq!(repeats("clients-hole", 1900, 2500), ["C11"], "TCP has sent again");
    assert_eq!(repeats("clients-hole", 100, 300), ["C11"], "so does a short hole");
    assert_eq!(repeats("hub-kill", 1900, 20), ["C11"], "nothing waits behind it");
}

#[test]
fn c11_a_start_that_was_named_while_another_client_is_expected() {
    let repeats = |fault: &str, named: i64| {
        let mut story = TestHistory::default();
        story.device("ann", "x").open(1, "ann", by_ack(), told("live", 0)).pass(1, 0);
        story.post("one", to("ann"), 1).recv(1, "one", 1, 0, "x");
        story.post("two", to("ann"), 2).recv(1, "two", 2, 1, "x").confirmed("ann", 2);
        story.note(RunFact::FaultBegin { fault: fault.into(), on: "hub 0".into() }).close(1, "ann");
        story.note(RunFact::FaultEnd { fault: fault.into(), on: "hub 0".into(), evidence: Some("seen".into()) });
        story.open(2, "ann", by_ack(), told("ok", 2)).pass(2, 2).close(2, "ann");
        story.open(3, "ann", after(named), told("ok", named));
        for (title, seq) in [("one", 1), ("two", 2)].into_iter().filter(|(_, seq)| *seq > named) {
            story.recv(3, title, seq, seq - 1, "x");
        }
        story.close(3, "ann").open(4, "ann", by_ack(), told("ok", 1)).recv(4, "two", 2, 1, "x");
        story.place("ann", None, 2).log(&[("one", 1), ("two", 2)]).broken()
    };
    assert_eq!(repeats("hub-kill", 1), [""; 0]);
    assert_eq!(repeats("hub-kill", 2), ["C11"], "nobody began so low");
    assert_eq!(repeats("eraser", 1), ["C11"], "every end was seen");
}

#[test]
fn c11_an_attempt_of_which_the_client_was_told_nothing() {
    let repeats = |fault: &str, since: Option<i64>| {
        let mut story = TestHistory::default();
        story.device("ann", "x").open(1, "ann", by_ack(), told("live", 0)).pass(1, 0);
        story.post("one", to("ann"), 1).recv(1, "one", 1, 0, "x").confirmed("ann", 1).close(1, "ann").wait(2_000);
        story.note(RunFact::FaultBegin { fault: fault.into(), on: "hub 0".into() });
        let attempt = |since| RunFact::Attempt { device: "ann/d".into(), hub: 0, since };
        story.note(attempt(since)).wait(200).note(attempt(None));
        story.note(RunFact::FaultEnd { fault: fault.into(), on: "hub 0".into(), evidence: Some("seen".into()) });
        story.open(2, "ann", by_ack(), told("ok", 0)).recv(2, "one", 1, 0, "x");
        story.place("ann", None, 1).log(&[("one", 1)]).broken()
    };
    assert_eq!(repeats("hub-kill", Some(0)), [""; 0], "it asked for that, and the hub may have let it in");
    assert_eq!(repeats("hub-kill", Some(1)), ["C11"], "it named what it has");
    assert_eq!(repeats("hub-kill", None), ["C11"], "it asked by the stored place");
    assert_eq!(repeats("eraser", Some(0)), ["C11"], "its end was seen");
}

#[test]
fn c11_a_shared_device_repeats_what_its_connections_had_lately() {
    let returns = |seconds: u64| {
        let mut story = shared(true, |story| {
            story.open_as(3, "ann/s0", by_ack(), told("ok", 1)).recv(3, "two", 2, 1, "x").close_as(3, "ann/s0");
            story.note(RunFact::ConnClose { conn: 2, device: "ann/s1".into(), why: "left".into(), wanted: true });
            story.open_as(4, "ann/s0", by_ack(), told("ok", 1)).recv(4, "two", 2, 1, "x").wait(seconds * 1_000).close_as(4, "ann/s0");
            story.open_as(5, "ann/s0", by_ack(), told("ok", 0)).recv(5, "one", 1, 0, "x").recv(5, "two", 2, 1, "x");
        });
        story.note(RunFact::Place { device: "ann/default".into(), before: Some(2), after: 2 }).broken()
    };
    assert_eq!(returns(60), [""; 0]);
    assert_eq!(returns(100), ["C11"]);
}

#[test]
fn c13_the_place_of_a_shared_device_is_of_all_its_clients() {
    let place = |after| {
        let mut story = shared(true, |story| {
            story.open_as(3, "ann/s0", by_ack(), told("ok", 1)).recv(3, "two", 2, 1, "x");
        });
        story.note(RunFact::Place { device: "ann/default".into(), before: Some(2), after }).broken()
    };
    assert_eq!(place(1), ["C13"]);
    assert_eq!(place(2), [""; 0]);
    assert_eq!(place(3), ["C13"], "given to none of them");
}

/// Bob wants to be connected and is accepted after `ms`; a service gets its 201 after as long.
fn waits(ms: u64, fault: Option<&str>) -> TestHistory {
    let mut story = TestHistory::default();
    story.device("bob", "y");
    if let Some(fault) = fault {
        story.note(RunFact::FaultBegin { fault: fault.into(), on: "all hubs".into() });
    }
    story.wait(ms).open(1, "bob", by_ack(), told("live", 0)).pass(1, 0);
    if let Some(fault) = fault {
        story.note(RunFact::FaultEnd { fault: fault.into(), on: "all hubs".into(), evidence: Some("seen".into()) });
    }
    story.wait(20_000).log(&[]);
    story
}

#[test]
fn c15_late_to_be_connected() {
    assert_eq!(waits(2_000, None).broken(), [""; 0]);
    assert_eq!(waits(4_000, None).broken(), ["C15"]);
    assert_eq!(waits(4_000, Some("stranger-flood")).broken(), ["C15"], "an attacker is no excuse");
    assert_eq!(waits(4_000, Some("hub-kill-all")).broken(), [""; 0]);
}

#[test]
fn c15_a_client_of_the_sdk_has_five_seconds_more() {
    let waits = |ms| {
        let mut story = TestHistory::default();
        let (device, user, account) = ("bob/d".to_owned(), "bob".into(), "y".into());
        let known = RunFact::Device { device: device.clone(), user, account, slow: false, shares: None, pongs: true, sdk: true };
        story.note(known).note(RunFact::ConnTry { device });
        story.wait(ms).open(1, "bob", by_ack(), told("live", 0)).pass(1, 0).wait(20_000).log(&[]);
        story.broken()
    };
    assert!(!waits(7_000).contains(&"C15"));
    assert!(waits(9_000).contains(&"C15"));
}

#[test]
fn c15_late_to_have_a_yes() {
    let yes = |ms| {
        let mut story = good().without(|fact| matches!(fact, RunFact::Log { .. } | RunFact::Row { .. } | RunFact::Drained { .. }));
        story.wish("five", to("zoe")).wait(ms).ok("five", 5);
        story.log(&[("one", 1), ("two", 2), ("three", 3), ("four", 4), ("five", 5)]).broken()
    };
    assert_eq!(yes(2_000), [""; 0]);
    assert_eq!(yes(4_000), ["C15"]);
}

#[test]
fn a_violation_names_the_nearest_fault() {
    let mut story = good();
    story.fault("hub-kill", 100).recv(2, "four", 4, 3, "y");
    let found = check(&story.0, CheckLimits::default());
    assert!(found[0].to_string().ends_with("nearest fault: hub-kill on hub 0 began 0.120 s before"), "{}", found[0]);
}
