//! Tests the rules for clients of the TypeScript SDK.

use super::*;

/// A browser of ann with two tabs. Both receive one and two; the first one leads, has the connection, and acknowledges.
fn browser() -> TestHistory {
    let mut story = TestHistory::default();
    for tab in ["ann/b.t0", "ann/b.t1"] {
        let shares = Some("ann/b".to_owned());
        let device = tab.to_owned();
        story.note(RunFact::Device { device, user: "ann".into(), account: "x".into(), slow: false, shares, pongs: false, sdk: true });
        story.note(RunFact::ConnTry { device: tab.into() });
    }
    story.link(1, "ann/b.t0").begins(1, "ann/b.t0", 0).note(RunFact::SdkLeads { conn: 1 }).pass(1, 0);
    story.begins(2, "ann/b.t1", 0).pass(2, 0);
    story.note(RunFact::Place { device: "ann/b".into(), before: None, after: 0 });
    story.post("one", to("ann"), 1).recv(1, "one", 1, 0, "x").handled(1, 1).recv(2, "one", 1, 0, "x").handled(2, 1);
    story.post("two", to("ann"), 2).recv(1, "two", 2, 1, "x").recv(2, "two", 2, 1, "x").handled(1, 2).handled(2, 2);
    story.acks("ann/b.t0", 2).note(RunFact::Place { device: "ann/b".into(), before: Some(0), after: 2 });
    story
}

impl TestHistory {
    fn begins(&mut self, conn: u64, tab: &str, from: i64) -> &mut Self {
        self.note(RunFact::SdkOpen { conn, device: tab.into(), from })
    }

    fn handled(&mut self, conn: u64, seq: i64) -> &mut Self {
        self.note(RunFact::SdkHandled { conn, seq })
    }

    fn acks(&mut self, tab: &str, seq: i64) -> &mut Self {
        self.note(RunFact::AckSent { device: tab.into(), seq })
    }

    fn link(&mut self, link: u64, tab: &str) -> &mut Self {
        self.note(RunFact::LinkOpen { link, device: tab.into(), hub: 0, transport: "websocket".into(), since: None })
    }

    fn unlink(&mut self, link: u64) -> &mut Self {
        self.note(RunFact::LinkClose { link })
    }

    /// The tab ends, and begins anew as another client.
    fn returns(&mut self, (old, new): (u64, u64), tab: &str, from: i64) -> &mut Self {
        self.note(RunFact::ConnClose { conn: old, device: tab.into(), why: "killed".into(), wanted: true });
        self.note(RunFact::ConnTry { device: tab.into() }).begins(new, tab, from).pass(new, from)
    }

    fn both(&mut self) -> &mut Self {
        self.log(&[("one", 1), ("two", 2)])
    }
}

#[test]
fn a_browser_of_two_tabs_breaks_nothing() {
    let mut story = browser();
    // The leader dies; the other tab leads, and the first one returns as its follower.
    story.returns((1, 3), "ann/b.t0", 2).link(2, "ann/b.t1").note(RunFact::SdkLeads { conn: 2 });
    story.note(RunFact::Held { device: "ann/b".into(), connections: 1 });
    assert_eq!(check(&story.both().0, CheckLimits::default()), []);
    let lines: Vec<String> = story.0.iter().map(|entry| serde_json::to_string(entry).unwrap()).collect();
    let read: Vec<FactEntry> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(read, story.0);
}

#[test]
fn c4_data_that_a_program_has_parsed() {
    let parsed = |row: &str| {
        let mut story = browser().change(|fact| {
            if let RunFact::Recv { hash, seq: 2, .. } = fact {
                *hash = "parsed".into();
            }
        });
        story.both().note(RunFact::Parsed { seq: 2, hash: row.into() }).broken()
    };
    assert_eq!(parsed("parsed"), [""; 0]);
    assert_eq!(parsed("other"), ["C4"]);
}

#[test]
fn c7_what_no_tab_has_handled() {
    let lost = |from: i64| {
        let mut story = browser().without(|fact| matches!(fact, RunFact::SdkHandled { seq: 2, .. } | RunFact::AckSent { .. }));
        let story = story.returns((1, 3), "ann/b.t0", from).returns((2, 4), "ann/b.t1", from);
        if from < 2 {
            story.recv(3, "two", 2, 1, "x").handled(3, 2).recv(4, "two", 2, 1, "x").handled(4, 2);
        }
        story.both();
        story.clone().without(|fact| matches!(fact, RunFact::Place { .. })).broken()
    };
    assert_eq!(lost(1), [""; 0], "both tabs died, and the next ones received it again");
    assert_eq!(lost(2), ["C7", "C22"], "the next ones begin after it");
}

#[test]
fn c7_a_tab_that_is_there_at_the_end_lacks_something() {
    let mut story = browser().without(|fact| is_recv(fact, 2, 2) || matches!(fact, RunFact::SdkHandled { conn: 2, seq: 2 }));
    assert_eq!(story.both().broken(), ["C7"]);
    let mut story = browser();
    story.note(RunFact::ConnClose { conn: 2, device: "ann/b.t1".into(), why: "left".into(), wanted: true });
    assert_eq!(story.both().broken(), ["C7"], "a tab that is not there at the end proves nothing");
}

#[test]
fn c8_and_c9_for_each_tab() {
    let mut story = browser();
    story.recv(2, "two", 2, 1, "x");
    assert_eq!(story.both().broken(), ["C8"]);
    let mut story = browser().without(|fact| is_recv(fact, 2, 1));
    assert_eq!(story.both().broken(), ["C7", "C10"], "the first one that is missing");
    let mut story = browser().without(|fact| is_recv(fact, 1, 2));
    story.pass(1, 2);
    assert_eq!(story.both().broken(), ["C7", "C9"], "it says that it has everything up to 2");
}

#[test]
fn c13_a_position_above_what_a_browser_has() {
    let stored = |after| {
        let mut story = browser();
        story.note(RunFact::Place { device: "ann/b".into(), before: Some(2), after });
        story.both().broken()
    };
    assert_eq!(stored(2), [""; 0]);
    assert_eq!(stored(1), ["C13"]);
    assert_eq!(stored(3), ["C13"]);
}

#[test]
fn c14_an_application_that_is_told_of_a_gap() {
    let mut story = browser();
    story.note(RunFact::SdkGap { conn: 2, status: "gap".into(), lost: Some((1, 2)) });
    assert_eq!(story.both().broken(), ["C14"]);
}

#[test]
fn c15_a_tab_that_stood_still_is_late() {
    let late = |stuck: bool| {
        let mut story = browser();
        if stuck {
            story.note(RunFact::SdkStuck { device: "ann/b.t0".into(), ms: 4_000 });
        }
        story.post("three", to("ann"), 3).wait(4_000);
        for conn in [1, 2] {
            story.recv(conn, "three", 3, 2, "x").handled(conn, 3);
        }
        story.log(&[("one", 1), ("two", 2), ("three", 3)]).broken()
    };
    assert_eq!(late(false), ["C15"]);
    assert_eq!(late(true), [""; 0]);
}

#[test]
fn c22_an_acknowledgement_before_the_handler_has_finished() {
    let early = |conn: u64| {
        let mut story = browser().without(|fact| matches!(fact, RunFact::SdkHandled { conn: of, seq: 2 } if *of == conn));
        story.handled(conn, 2);
        story.both().broken()
    };
    assert_eq!(early(1), [""; 0], "the other tab had finished");
    let mut story = browser().without(|fact| matches!(fact, RunFact::SdkHandled { seq: 2, .. }));
    story.handled(1, 2).handled(2, 2);
    assert_eq!(story.both().broken(), ["C22"]);
}

#[test]
fn c22_a_new_tab_begins_after_what_is_not_handled() {
    let joins = |from: i64| {
        let mut story = browser().without(|fact| matches!(fact, RunFact::SdkHandled { seq: 2, .. } | RunFact::AckSent { .. }));
        story.returns((2, 3), "ann/b.t1", from);
        if from < 2 {
            story.recv(3, "two", 2, 1, "x");
        }
        story.handled(1, 2).both();
        story.clone().without(|fact| matches!(fact, RunFact::Place { .. })).broken()
    };
    assert_eq!(joins(1), [""; 0]);
    assert_eq!(joins(2), ["C22"], "it would miss two if the leader died");
}

#[test]
fn c23_two_connections_of_one_browser() {
    let both = |ms: u64, stuck: bool| {
        let mut story = browser();
        if stuck {
            story.note(RunFact::SdkStuck { device: "ann/b.t0".into(), ms });
        }
        story.link(2, "ann/b.t1").wait(ms).unlink(1);
        story.both().broken()
    };
    assert_eq!(both(500, false), [""; 0], "the lock was just stolen");
    assert_eq!(both(3_000, false), ["C23"]);
    assert_eq!(both(3_000, true), [""; 0], "a tab that stands still cannot close its own");
    let mut story = browser();
    story.note(RunFact::ConnClose { conn: 2, device: "ann/b.t1".into(), why: "killed".into(), wanted: true });
    story.note(RunFact::ConnTry { device: "ann/b.t1".into() }).link(2, "ann/b.t1");
    story.note(RunFact::SdkStuck { device: "ann/b.t1".into(), ms: 3_000 }).link(3, "ann/b.t0").wait(3_000).unlink(3);
    let broken = story.unlink(2).begins(3, "ann/b.t1", 2).pass(3, 2).both().broken();
    assert_eq!(broken, [""; 0], "a tab that stands still before it has a position");
    let mut story = browser();
    story.link(2, "ann/b.t0").wait(2_000);
    assert_eq!(story.both().broken(), ["C23"], "of one tab, and until the end");
    let mut story = browser();
    story.link(2, "ann/b.t1").note(RunFact::ConnClose { conn: 1, device: "ann/b.t0".into(), why: "killed".into(), wanted: true });
    story.note(RunFact::ConnTry { device: "ann/b.t0".into() }).begins(3, "ann/b.t0", 2).wait(2_000);
    assert_eq!(story.both().broken(), [""; 0], "a tab that dies takes its connection with it");
    for connections in [0, 2] {
        let mut story = browser();
        story.note(RunFact::Held { device: "ann/b".into(), connections });
        assert_eq!(story.both().broken(), ["C23"], "by what the hubs list");
    }
}

impl TestHistory {
    /// The program with all clients of the browser is killed.
    fn killed(&mut self) -> &mut Self {
        self.note(RunFact::FaultBegin { fault: "sdk-kill".into(), on: "the SDK devices".into() });
        for (conn, tab) in [(1, "ann/b.t0"), (2, "ann/b.t1")] {
            self.note(RunFact::ConnClose { conn, device: tab.into(), why: "killed with its program".into(), wanted: true });
        }
        self.note(RunFact::FaultEnd { fault: "sdk-kill".into(), on: "the SDK devices".into(), evidence: Some("seen".into()) })
    }

    /// A tab of the program that was started again.
    fn restarted(&mut self, conn: u64, tab: &str, from: i64) -> &mut Self {
        self.note(RunFact::ConnTry { device: tab.into() }).begins(conn, tab, from).pass(conn, from)
    }
}

#[test]
fn a_program_that_is_killed_whole_may_repeat_and_misses_nothing() {
    let resumed = |from: i64| {
        // Two was handled and never acknowledged.
        let mut story = browser().without(|fact| matches!(fact, RunFact::AckSent { .. } | RunFact::Place { .. }));
        story.killed().restarted(3, "ann/b.t0", from).restarted(4, "ann/b.t1", from);
        for conn in [3, 4] {
            if from < 2 {
                story.recv(conn, "two", 2, 1, "x").handled(conn, 2);
            }
        }
        story.both().broken()
    };
    assert_eq!(resumed(1), [""; 0], "two is repeated");
    assert_eq!(resumed(2), [""; 0], "the acknowledgement of two was on its way");

    // Two was not handled: its handlers died.
    let mut story =
        browser().without(|fact| matches!(fact, RunFact::SdkHandled { seq: 2, .. } | RunFact::AckSent { .. } | RunFact::Place { .. }));
    story.killed().restarted(3, "ann/b.t0", 2).restarted(4, "ann/b.t1", 2);
    assert_eq!(story.both().broken(), ["C7", "C22"], "the next clients begin after it");

    let mut story = browser();
    story.killed().restarted(3, "ann/b.t0", 2);
    assert_eq!(story.both().broken(), ["C7"], "a tab does not come back");

    // While the program is dead, a notification arrives.
    let away = |received: bool| {
        let mut story = browser();
        story.killed().post("three", to("ann"), 3).restarted(3, "ann/b.t0", 2).restarted(4, "ann/b.t1", 2);
        for conn in [3, 4] {
            if received {
                story.recv(conn, "three", 3, 2, "x").handled(conn, 3);
            }
        }
        story.log(&[("one", 1), ("two", 2), ("three", 3)]).broken()
    };
    assert_eq!(away(true), [""; 0]);
    assert_eq!(away(false), ["C7"]);
}

#[test]
fn c11_a_client_begins_below_all_that_its_browser_had() {
    let begins = |from: i64| {
        let mut story = TestHistory::default();
        for tab in ["ann/b.t0", "ann/b.t1"] {
            let (device, shares) = (tab.to_owned(), Some("ann/b".to_owned()));
            story.note(RunFact::Device { device, user: "ann".into(), account: "x".into(), slow: false, shares, pongs: false, sdk: true });
            story.note(RunFact::ConnTry { device: tab.into() });
        }
        story.post("one", to("ann"), 1).post("two", to("ann"), 2);
        story.begins(1, "ann/b.t0", 1).recv(1, "two", 2, 1, "x").handled(1, 2).begins(2, "ann/b.t1", 1).recv(2, "two", 2, 1, "x");
        story.killed();
        for (conn, tab) in [(3, "ann/b.t0"), (4, "ann/b.t1")] {
            story.note(RunFact::ConnTry { device: tab.into() }).begins(conn, tab, from);
            if from == 0 {
                story.recv(conn, "one", 1, 0, "x");
            }
            story.recv(conn, "two", 2, 1, "x");
        }
        story.both().broken()
    };
    assert_eq!(begins(1), [""; 0]);
    assert_eq!(begins(0), ["C11"], "one was never theirs to handle");
}

#[test]
fn c15_the_death_of_all_clients_of_the_sdk_excuses_no_other_device() {
    let waits = |fault: &str| {
        let mut story = browser();
        story.device("bob", "y").open(9, "bob", by_ack(), told("live", 2)).pass(9, 2);
        story.note(RunFact::FaultBegin { fault: fault.into(), on: "the SDK devices".into() });
        story.post("three", to("bob"), 3).wait(4_000).recv(9, "three", 3, 0, "y");
        story.note(RunFact::FaultEnd { fault: fault.into(), on: "the SDK devices".into(), evidence: Some("seen".into()) });
        story.log(&[("one", 1), ("two", 2), ("three", 3)]).broken()
    };
    assert!(waits("sdk-kill").contains(&"C15"));
    assert!(!waits("hub-kill").contains(&"C15"));
}

#[test]
fn c16_a_command_of_the_sdk() {
    let given = || {
        let mut story = browser();
        story.note(RunFact::CommandGiven { user: "ann".into(), command: "a".into(), sdk: true });
        story.note(RunFact::CommandTried { command: "a".into() }).note(RunFact::CommandFrame { command: "a".into() });
        story
    };
    let settled = |mut story: TestHistory| {
        let (user, command, state) = ("ann".to_owned(), "a".to_owned(), "rejected".to_owned());
        story.note(RunFact::UpCommand { user, command, state, term: None, settled: Some(1) });
        story.both().broken()
    };
    let told = |story: &mut TestHistory| {
        story.note(RunFact::CommandTold { command: "a".into(), status: "rejected".into() });
    };
    let mut story = given();
    told(&mut story);
    assert_eq!(settled(story), [""; 0]);
    assert_eq!(settled(given()), ["C16"], "its application is told nothing");

    // The program dies before it knows the result. The application repeats the command in the next one.
    let repeated = |tried: bool| {
        let mut story = given();
        story.killed().restarted(3, "ann/b.t0", 2).restarted(4, "ann/b.t1", 2);
        if tried {
            story.note(RunFact::CommandTried { command: "a".into() });
        }
        story.note(RunFact::CommandFrame { command: "a".into() });
        told(&mut story);
        settled(story)
    };
    assert_eq!(repeated(true), [""; 0]);
    assert_eq!(repeated(false), ["C16"], "the SDK repeats it by itself");

    let refused = |sent: bool, stored: bool| {
        let mut story = if sent { given() } else { given().without(|fact| matches!(fact, RunFact::CommandFrame { .. })) };
        story.note(RunFact::CommandRefused { command: "a".into() });
        if stored { settled(story) } else { story.both().broken() }
    };
    assert_eq!(refused(false, false), [""; 0], "a client without a way to the hub");
    assert_eq!(refused(true, false), ["C16"], "it was sent");
    assert_eq!(refused(false, true), ["C16"], "a hub has stored it");
}
