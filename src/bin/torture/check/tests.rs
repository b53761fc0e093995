//! The checker is tested by histories written by hand: one that is good, and what each rule must find in one that is not.

use super::{Limits, check, latency};
use crate::fact::{Asked, Audience, Entry, Fact, Since, Told, hash};

const LOG: &str = "the-log";
const MS: u64 = 1_000_000;

/// A history that grows; each fact comes 10 ms after the one before.
#[derive(Clone, Default)]
struct Story(Vec<Entry>);

fn to(user: &str) -> Audience {
    Audience::Users(vec![user.to_owned()])
}

fn contents(title: &str) -> String {
    hash(&[title])
}

fn told(status: &str, from: i64) -> Told {
    Told { status: status.into(), from, lost: None, log_id: LOG.into(), head: 0, earliest: 1 }
}

fn by_ack() -> Asked {
    Asked { since: Since::Ack, log_id: None, last_id: None }
}

fn after(seq: i64) -> Asked {
    Asked { since: Since::Seq(seq), log_id: None, last_id: None }
}

impl Story {
    fn now(&self) -> u64 {
        self.0.last().map_or(0, |entry| entry.t)
    }

    fn note(&mut self, fact: Fact) -> &mut Self {
        let t = self.now() + 10 * MS;
        self.0.push(Entry { t, fact });
        self
    }

    fn wait(&mut self, ms: u64) -> &mut Self {
        let t = self.now() + ms * MS;
        self.0.push(Entry { t, fact: Fact::Stall { ms: 0 } });
        self
    }

    fn wish(&mut self, title: &str, audience: Audience) -> &mut Self {
        self.note(Fact::Wish { title: title.into(), audience, hash: contents(title), replay: true });
        self.note(Fact::PostInvoke { op: 0, title: title.into(), hub: 0 })
    }

    fn ok(&mut self, title: &str, seq: i64) -> &mut Self {
        self.note(Fact::PostOk { op: 0, title: title.into(), seq, id: format!("id-{title}") })
    }

    fn post(&mut self, title: &str, audience: Audience, seq: i64) -> &mut Self {
        self.wish(title, audience).ok(title, seq)
    }

    fn device(&mut self, user: &str, account: &str) -> &mut Self {
        let device = format!("{user}/d");
        self.note(Fact::Device { device: device.clone(), user: user.into(), account: account.into(), slow: false });
        self.note(Fact::ConnTry { device })
    }

    fn open(&mut self, conn: u64, user: &str, asked: Asked, told: Told) -> &mut Self {
        self.note(Fact::ConnOpen { conn, device: format!("{user}/d"), hub: 0, asked, told })
    }

    fn close(&mut self, conn: u64, user: &str) -> &mut Self {
        self.note(Fact::ConnClose { conn, device: format!("{user}/d"), why: "torn".into(), wanted: false })
    }

    fn recv(&mut self, conn: u64, title: &str, seq: i64, prev: i64, taint: &str) -> &mut Self {
        let (id, hash) = (format!("id-{title}"), contents(title));
        self.note(Fact::Recv { conn, seq, prev, id, hash, taint: taint.into() })
    }

    fn pass(&mut self, conn: u64, seq: i64) -> &mut Self {
        self.note(Fact::Passed { conn, seq, prev: None, silent: false })
    }

    fn place(&mut self, user: &str, before: Option<i64>, after: i64) -> &mut Self {
        self.note(Fact::Place { device: format!("{user}/d"), before, after })
    }

    fn confirmed(&mut self, user: &str, seq: i64) -> &mut Self {
        self.note(Fact::AckConfirmed { device: format!("{user}/d"), seq })
    }

    fn fault(&mut self, name: &str, ms: u64) -> &mut Self {
        self.note(Fact::FaultBegin { fault: name.into(), on: "hub 0".into() }).wait(ms);
        self.note(Fact::FaultEnd { fault: name.into(), on: "hub 0".into(), evidence: Some("seen".into()) })
    }

    /// What the database says at the end.
    fn log(&mut self, titles: &[(&str, i64)]) -> &mut Self {
        let head = titles.iter().map(|(_, seq)| *seq).max().unwrap_or(0);
        self.note(Fact::Drained { head });
        self.note(Fact::Log { log_id: LOG.into(), floor: 0, head });
        for (title, seq) in titles {
            self.note(Fact::Row { seq: *seq, id: format!("id-{title}"), title: (*title).into(), hash: contents(title) });
        }
        self
    }

    /// The rules that are broken, each once.
    fn broken(&self) -> Vec<&'static str> {
        let mut rules: Vec<_> = check(&self.0, Limits::default()).into_iter().map(|violation| violation.rule).collect();
        rules.dedup();
        rules
    }

    fn change(mut self, change: impl Fn(&mut Fact)) -> Self {
        self.0.iter_mut().for_each(|entry| change(&mut entry.fact));
        self
    }

    fn without(mut self, which: impl Fn(&Fact) -> bool) -> Self {
        self.0.retain(|entry| !which(&entry.fact));
        self
    }
}

/// Four notifications; ann has three of them live and one after a break, bob has two.
fn good() -> Story {
    let mut story = Story::default();
    story.device("ann", "x").device("bob", "y");
    story.open(1, "ann", by_ack(), told("live", 0)).pass(1, 0).open(2, "bob", by_ack(), told("live", 0)).pass(2, 0);
    story.post("one", to("ann"), 1).recv(1, "one", 1, 0, "x");
    story.post("two", Audience::Account("x".into()), 2).recv(1, "two", 2, 1, "x").close(1, "ann");
    story.place("ann", None, 0).place("ann", Some(0), 2).confirmed("ann", 2);
    story.post("three", Audience::Everyone, 3).recv(2, "three", 3, 0, "*");
    story.open(3, "ann", by_ack(), told("ok", 2)).recv(3, "three", 3, 2, "*").pass(3, 3);
    story.post("four", to("bob"), 4).recv(2, "four", 4, 3, "y");
    story.note(Fact::Passed { conn: 3, seq: 4, prev: Some(3), silent: false });
    story.log(&[("one", 1), ("two", 2), ("three", 3), ("four", 4)]);
    story
}

fn is_recv(fact: &Fact, of: u64, number: i64) -> bool {
    matches!(fact, Fact::Recv { conn, seq, .. } if *conn == of && *seq == number)
}

#[test]
fn a_good_history_breaks_nothing() {
    assert_eq!(check(&good().0, Limits::default()), []);
}

#[test]
fn a_history_survives_the_file() {
    let lines: Vec<String> = good().0.iter().map(|entry| serde_json::to_string(entry).unwrap()).collect();
    let read: Vec<Entry> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(read, good().0);
}

#[test]
fn c1_a_missing_number() {
    let story = good().without(|fact| matches!(fact, Fact::Row { seq: 2, .. }));
    assert!(story.broken().contains(&"C1"));
}

#[test]
fn c1_a_number_twice() {
    let mut story = good();
    story.wish("five", to("zoe")).note(Fact::Row { seq: 4, id: "id-five".into(), title: "five".into(), hash: contents("five") });
    assert!(story.broken().contains(&"C1"));
}

#[test]
fn c1_a_head_beyond_the_rows() {
    let story = good().change(|fact| {
        if let Fact::Log { head, .. } = fact {
            *head = 5;
        }
    });
    assert_eq!(story.broken(), ["C1"]);
}

#[test]
fn c2_a_wish_twice() {
    let mut story = good();
    story.note(Fact::Row { seq: 5, id: "id-one-again".into(), title: "one".into(), hash: contents("one") });
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
    story.wish("five", to("zoe")).note(Fact::PostFail { op: 0, title: "five".into(), why: "422".into() });
    assert_eq!(story.broken(), [""; 0], "a refusal without a row is right");
    story = story.without(|fact| matches!(fact, Fact::Log { .. }));
    story.note(Fact::Row { seq: 5, id: "id-five".into(), title: "five".into(), hash: contents("five") });
    assert_eq!(story.broken(), ["C2"]);
}

#[test]
fn c2_a_row_that_nobody_asked_for() {
    let mut story = good().without(|fact| matches!(fact, Fact::Log { .. }));
    story.note(Fact::Row { seq: 5, id: "id-five".into(), title: "five".into(), hash: contents("five") });
    assert_eq!(story.broken(), ["C2"]);
}

#[test]
fn c2_an_unknown_outcome_may_be_either() {
    let mut story = good();
    story.wish("five", to("zoe")).note(Fact::PostInfo { op: 0, title: "five".into(), why: "reset".into() });
    assert_eq!(story.broken(), [""; 0]);
    story = story.without(|fact| matches!(fact, Fact::Log { .. }));
    story.note(Fact::Row { seq: 5, id: "id-five".into(), title: "five".into(), hash: contents("five") });
    assert_eq!(story.broken(), [""; 0]);
}

#[test]
fn c2_what_a_producer_committed() {
    let mut story = good();
    story.wish("five", to("zoe")).note(Fact::PostKept { op: 0, title: "five".into(), id: "id-five".into() });
    assert_eq!(story.broken(), ["C2"]);
    story = story.without(|fact| matches!(fact, Fact::Log { .. }));
    story.note(Fact::Row { seq: 5, id: "id-five".into(), title: "five".into(), hash: contents("five") });
    assert_eq!(story.broken(), [""; 0]);
    story = story.change(|fact| {
        if let Fact::PostKept { id, .. } = fact {
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
        if let Fact::Recv { conn: 1, seq: 1, hash, .. } = fact {
            *hash = "other".into();
        }
    });
    assert_eq!(story.broken(), ["C4"]);
    let story = good().change(|fact| {
        if let Fact::Wish { title, hash, .. } = fact
            && title == "four"
        {
            *hash = "as it was posted".into();
        }
    });
    assert_eq!(story.broken(), ["C4"]);
}

#[test]
fn c5_a_later_wish_with_a_lower_number() {
    let mut story = Story::default();
    story.post("late", to("ann"), 2).post("later", to("ann"), 1).log(&[("later", 1), ("late", 2)]);
    assert_eq!(story.broken(), ["C5"]);
    let mut story = Story::default();
    story.wish("first", to("ann")).wish("second", to("ann")).ok("second", 1).ok("first", 2).log(&[("second", 1), ("first", 2)]);
    assert_eq!(story.broken(), [""; 0], "two that are asked for at once may come in either order");
}

#[test]
fn c6_a_notification_that_is_not_in_the_log() {
    let mut story = good();
    story.note(Fact::Recv { conn: 2, seq: 5, prev: 4, id: "id-ghost".into(), hash: "h".into(), taint: "y".into() });
    assert_eq!(story.broken(), ["C6"]);
    let story = good().change(|fact| {
        if let Fact::Recv { conn: 2, seq: 4, id, .. } = fact {
            *id = "id-that-was-rolled-back".into();
        }
    });
    assert_eq!(story.broken(), ["C6"]);
}

#[test]
fn c7_a_loss_at_the_end() {
    let story = good().without(|fact| is_recv(fact, 2, 4));
    let found = check(&story.0, Limits::default());
    let lost = found.iter().find(|violation| violation.rule == "C7").expect("a loss");
    assert!(lost.what.contains("lacks 1 at the end: [4]"), "{lost}");
}

#[test]
fn c7_a_loss_in_the_middle() {
    let story = good().without(|fact| is_recv(fact, 1, 2) || matches!(fact, Fact::Place { .. } | Fact::AckConfirmed { .. }));
    let found = check(&story.0, Limits::default());
    assert!(found.iter().any(|violation| violation.rule == "C7" && violation.what.contains("the middle: [2]")), "{found:?}");
}

#[test]
fn c7_what_is_given_live_only_may_be_missed() {
    let passed_over = good().change(|fact| {
        if is_recv(fact, 1, 2) {
            *fact = Fact::Passed { conn: 1, seq: 2, prev: None, silent: false };
        }
    });
    assert_eq!(passed_over.broken(), ["C7", "C9"]);
    let live_only = passed_over.change(|fact| {
        if let Fact::Wish { title, replay, .. } = fact
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
        if let Fact::Recv { conn: 2, seq: 4, prev, .. } = fact {
            *prev = 2;
        }
    });
    assert_eq!(story.broken(), ["C9"]);
}

#[test]
fn c9_a_silent_step_is_not_named() {
    let mut story = good();
    story.close(2, "bob").open(4, "bob", after(1), told("ok", 1)).note(Fact::Passed { conn: 4, seq: 2, prev: None, silent: true });
    story.recv(4, "three", 3, 1, "*").recv(4, "four", 4, 3, "y");
    assert_eq!(story.broken(), [""; 0]);
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
    story.note(Fact::Page { device: "bob/d".into(), seq: 1, id, hash, taint: "y".into() });
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
    let liar = |asked, told| good().note(Fact::Liar { conn: 9, device: "bob/liar".into(), asked, told }).broken();
    let other_log = Asked { log_id: Some("another".into()), ..after(3) };
    assert_eq!(liar(other_log.clone(), told("ok", 3)), ["C14"]);
    assert_eq!(liar(other_log, told("reset", 0)), [""; 0]);
    let other_id = Asked { last_id: Some("another".into()), ..after(3) };
    assert_eq!(liar(other_id.clone(), told("ok", 3)), ["C14"]);
    assert_eq!(liar(other_id, told("reset", 0)), [""; 0]);
    assert_eq!(liar(after(99), told("ok", 99)), ["C14"]);
    assert_eq!(liar(after(99), told("reset", 0)), [""; 0]);
    assert_eq!(liar(after(3), told("gap", 4)), ["C14"]);
}

/// Bob waits for `ms` after the answer.
fn late(ms: u64, fault: Option<&str>) -> Story {
    let mut story = Story::default();
    story.device("bob", "y").open(1, "bob", by_ack(), told("live", 0)).pass(1, 0);
    if let Some(fault) = fault {
        story.note(Fact::FaultBegin { fault: fault.into(), on: "hub 0".into() });
    }
    story.post("one", to("bob"), 1).wait(ms).recv(1, "one", 1, 0, "y");
    if let Some(fault) = fault {
        story.note(Fact::FaultEnd { fault: fault.into(), on: "hub 0".into(), evidence: Some("seen".into()) });
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
    let at = story.0.iter().position(|entry| matches!(entry.fact, Fact::Recv { .. })).unwrap();
    story.0[at - 1].fact = Fact::Stall { ms: 4_000 };
    assert_eq!(story.broken(), [""; 0]);
}

/// Bob is torn off by a fault and has all `ms` after its end.
fn recovers(ms: u64, fault: &str) -> Story {
    let mut story = Story::default();
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

/// Ann's session under two owners: each takes one command up, and the first is told one message.
fn upstream() -> Story {
    let mut story = good();
    let ann = || "ann".to_owned();
    story.note(Fact::UpSignIn { user: ann(), process: 0, at: 1_100, stamp: 1_099 });
    for (link, process, at, command) in [(1, 0, 1_200, "a"), (2, 1, 9_000, "b")] {
        story.note(Fact::UpAsk { link, user: ann(), process, at, stamp: at - 1 }).note(Fact::UpOpen { link });
        story.note(Fact::CommandGiven { user: ann(), command: command.into() });
        story.note(Fact::UpFrame { link, at: at + 500, stamp: at + 499, command: Some(command.into()) });
        story.note(Fact::CommandTold { command: command.into(), status: "sent".into() });
        story.note(Fact::UpTerm { user: ann(), term: process as i64 + 1, process, at: at - 150, old_lease_until: None, taken_over: true });
        let (state, term, settled) = ("sent".into(), Some(process as i64 + 1), Some(at + 501));
        story.note(Fact::UpCommand { user: ann(), command: command.into(), state, term, settled });
    }
    story.note(Fact::UpSaid { link: 1, n: 1 }).note(Fact::UpClose { link: 1, at: 8_000 });
    story.note(Fact::UpEntry { seq: 5, user: ann(), said: Some((1, 1)) });
    story
}

#[test]
fn c16_terms_commands_and_messages() {
    assert_eq!(upstream().broken(), [""; 0]);
    let frame = |link, at, command: Option<&str>| Fact::UpFrame { link, at, stamp: at - 1, command: command.map(str::to_owned) };
    assert_eq!(upstream().note(frame(1, 9_700, None)).broken(), ["C16"], "a term goes back");
    assert_eq!(upstream().note(frame(2, 9_700, Some("a"))).broken(), ["C16"], "a command comes twice");
    assert_eq!(upstream().note(frame(2, 9_700, Some("z"))).broken(), ["C16"], "a command that nobody gave");
    let never_came = upstream().without(|fact| matches!(fact, Fact::UpFrame { link: 2, .. }));
    assert_eq!(never_came.broken(), ["C16"], "said to be sent, and never came");
    let again = Fact::UpEntry { seq: 6, user: "ann".into(), said: Some((1, 1)) };
    assert_eq!(upstream().note(again).broken(), ["C16"], "a message twice");
    let untold = upstream().without(|fact| matches!(fact, Fact::CommandTold { .. }));
    assert_eq!(untold.broken(), ["C16"], "a device that is told nothing");
    let denied = upstream().change(|fact| match fact {
        Fact::UpCommand { state, .. } => *state = "failed".into(),
        Fact::CommandTold { status, .. } => *status = "failed".into(),
        _ => {}
    });
    assert_eq!(denied.broken(), ["C16"], "said to have failed, and it came");
    let sleeper = Fact::UpSignIn { user: "ann".into(), process: 0, at: 9_800, stamp: 9_799 };
    assert_eq!(upstream().note(sleeper).broken(), ["C16"], "an owner that wakes");
}

#[test]
fn c17_a_secret_in_the_open() {
    let secret = |found| Fact::Secret { name: "a token".into(), place: "a log".into(), found };
    assert_eq!(good().note(secret(false)).broken(), [""; 0]);
    assert_eq!(good().note(secret(true)).broken(), ["C17"]);
}

#[test]
fn c18_a_leak() {
    let files = |end| Fact::Resource { name: "open files".into(), base: 20, end, allowed: 30 };
    assert_eq!(good().note(files(30)).broken(), [""; 0]);
    assert_eq!(good().note(files(31)).broken(), ["C18"]);
}

#[test]
fn c19_too_little() {
    let quota = |had| Fact::Quota { what: "posts".into(), had, wanted: 10 };
    assert_eq!(good().note(quota(10)).broken(), [""; 0]);
    assert_eq!(good().note(quota(9)).broken(), ["C19"]);
    let mut story = good();
    story.note(Fact::FaultBegin { fault: "hub-kill".into(), on: "hub 0".into() });
    story.note(Fact::FaultEnd { fault: "hub-kill".into(), on: "hub 0".into(), evidence: None });
    assert_eq!(story.broken(), ["C19"], "a fault without an effect");
}

#[test]
fn a_violation_names_the_nearest_fault() {
    let mut story = good();
    story.fault("hub-kill", 100).recv(2, "four", 4, 3, "y");
    let found = check(&story.0, Limits::default());
    assert!(found[0].to_string().ends_with("nearest fault: hub-kill on hub 0 began 0.120 s before"), "{}", found[0]);
}
