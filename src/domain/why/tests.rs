//! Tests each verdict with the smallest set of facts that leads to it.

use chrono::TimeDelta;

use super::*;

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::seconds(seconds)
}

/// Notification 5 was appended to everyone at second 100; now it is second 1000.
fn facts() -> WhyFacts {
    let row = WhyRow { created_at: at(100), kind: "t".into(), source: "s".into(), whom: Whom::Everyone, replay: true, expires_at: None };
    WhyFacts {
        user: UserId::parse("ann").unwrap(),
        seq: Seq::from_db(5),
        log_id: LogId::new(),
        floor: Seq::ZERO,
        head: Seq::from_db(9),
        now: at(1000),
        row: Some(row),
        sessions: vec![],
        devices: vec![],
        ever_connected: true,
        accounts: vec!["7".into()],
        follows_members: false,
        membership: Membership::default(),
        is_muted: false,
        revocation: None,
    }
}

/// A session from that second on, from one number to another; ended at second 900.
fn session(connected: i64, from: i64, sent: i64) -> SessionSeen {
    SessionSeen {
        session: Uuid::nil(),
        instance: Uuid::nil(),
        client: "web".into(),
        transport: "websocket".into(),
        accounts: vec!["7".into()],
        follows_members: false,
        takes_type: true,
        from: Seq::from_db(from),
        sent: Seq::from_db(sent),
        connected_at: at(connected),
        ended: Some((at(900), "lost".into())),
        reached: (sent >= 5).then(|| (Seq::from_db(sent), at(connected.max(100) + 1))),
    }
}

fn live(connected: i64, from: i64, sent: i64) -> SessionSeen {
    SessionSeen { ended: None, ..session(connected, from, sent) }
}

fn device(created: i64, acked: i64, fact: Option<(i64, bool)>) -> DeviceSeen {
    let fact = fact.map(|(second, beside)| (at(second), beside));
    DeviceSeen { client: "web".into(), created_at: at(created), acked: Seq::from_db(acked), fact }
}

fn sending(second: i64, exact: bool) -> SentOn {
    SentOn { session: Uuid::nil(), at: Some(at(second)), exact }
}

fn acked(sent: Option<SentOn>, second: Option<i64>, beside: bool) -> DeviceVerdict {
    DeviceVerdict::Acked { sent, at: second.map(at), beside }
}

#[test]
fn each_device_is_judged_by_what_is_known_of_it() {
    type Change = fn(&mut WhyRow);
    type Case = (&'static str, Change, Vec<SessionSeen>, Option<DeviceSeen>, DeviceVerdict);
    let plain: Change = |_| {};
    let brief: Change = |row| row.expires_at = Some(at(500));
    let long: Change = |row| row.expires_at = Some(at(5000));
    let once: Change = |row| row.replay = false;
    let in_8: Change = |row| row.whom = Whom::User { in_list: false, account: Some("8".into()) };
    let mut in_both = session(50, 0, 4);
    in_both.accounts.push("8".into());
    let unknown_time = SessionSeen { reached: None, ..session(50, 4, 5) };
    let table: Vec<Case> = vec![
        (
            "acked live",
            plain,
            vec![session(50, 4, 5)],
            Some(device(1, 5, Some((103, false)))),
            acked(Some(sending(101, true)), Some(103), false),
        ),
        ("acked, no fact", plain, vec![session(50, 4, 7)], Some(device(1, 7, None)), acked(Some(sending(101, false)), None, false)),
        (
            "acked by POST",
            plain,
            vec![session(50, 4, 5)],
            Some(device(1, 5, Some((103, true)))),
            acked(Some(sending(101, true)), Some(103), true),
        ),
        ("read by pages, acked by POST", plain, vec![], Some(device(200, 5, Some((300, true)))), acked(None, Some(300), true)),
        ("acked, all of it forgotten", plain, vec![], Some(device(1, 5, None)), acked(None, None, false)),
        ("perhaps acked, forgotten", brief, vec![], Some(device(1, 5, None)), DeviceVerdict::NoLongerKnown),
        ("sent", plain, vec![session(50, 4, 5)], Some(device(1, 4, None)), DeviceVerdict::Sent(sending(101, true))),
        (
            "sent twice: the first counts",
            plain,
            vec![session(200, 4, 6), session(300, 4, 5)],
            None,
            DeviceVerdict::Sent(sending(201, false)),
        ),
        ("sent, no fact", plain, vec![unknown_time], None, DeviceVerdict::Sent(SentOn { at: None, exact: false, ..sending(0, false) })),
        ("sent by replay in time", long, vec![session(200, 4, 5)], None, DeviceVerdict::Sent(sending(201, true))),
        ("sent live, though over now", brief, vec![session(50, 4, 5)], None, DeviceVerdict::Sent(sending(101, true))),
        ("sent live, never again", once, vec![session(50, 4, 5)], None, DeviceVerdict::Sent(sending(101, true))),
        ("behind", plain, vec![live(200, 0, 3)], None, DeviceVerdict::Behind { sent: Seq::from_db(3) }),
        ("passed over after its end", brief, vec![session(600, 4, 9)], Some(device(1, 9, Some((601, false)))), DeviceVerdict::Expired),
        ("behind, but it is over", brief, vec![live(600, 0, 3)], None, DeviceVerdict::Expired),
        ("not connected then", once, vec![session(200, 4, 9)], Some(device(1, 9, Some((201, false)))), DeviceVerdict::NotReplayed),
        ("in another account", in_8, vec![session(50, 4, 9)], Some(device(1, 9, Some((101, false)))), DeviceVerdict::OtherAccount),
        ("in the account, left too soon", in_8, vec![in_both], None, DeviceVerdict::NoSession),
        ("asked for what follows", plain, vec![session(200, 6, 9)], Some(device(1, 2, None)), DeviceVerdict::BeganAfter),
        ("a new device", plain, vec![session(200, 6, 9)], Some(device(200, 6, None)), DeviceVerdict::NewSince),
        ("left before", plain, vec![session(50, 0, 4)], Some(device(1, 4, None)), DeviceVerdict::NoSession),
        ("not there since", plain, vec![], Some(device(1, 4, None)), DeviceVerdict::NoSession),
    ];
    for (what, change, sessions, device, verdict) in table {
        let mut facts = WhyFacts { sessions, devices: device.into_iter().collect(), accounts: vec!["7".into(), "8".into()], ..facts() };
        change(facts.row.as_mut().unwrap());
        assert_eq!(facts.why(), WhyAnswer::Addressed(vec![DeviceWhy { client: "web".into(), verdict }]), "{what}");
    }
}

#[test]
fn without_a_device_there_is_one_reason() {
    let whom = |whom: Whom| WhyFacts { row: Some(WhyRow { whom, ..facts().row.unwrap() }), ..facts() };
    let (named, other) = (Whom::User { in_list: true, account: None }, Whom::Account("8".into()));
    let table = [
        (WhyFacts { head: Seq::from_db(4), row: None, ..facts() }, WhyAnswer::NotGiven),
        (WhyFacts { floor: Seq::from_db(5), row: None, ..facts() }, WhyAnswer::Dropped),
        (WhyFacts { floor: Seq::from_db(5), ..facts() }, WhyAnswer::Dropped),
        (whom(Whom::Others), WhyAnswer::NotAddressed),
        (whom(other), WhyAnswer::NotInAccount),
        (WhyFacts { ever_connected: false, ..whom(named.clone()) }, WhyAnswer::NeverConnected),
        (whom(named), WhyAnswer::Addressed(vec![])),
    ];
    for (facts, why) in table {
        assert_eq!(facts.why(), why, "{facts:?}");
    }
}

#[test]
fn the_best_device_speaks_for_the_user() {
    let mut tablet = device(1, 4, None);
    tablet.client = "tablet".into();
    let facts = WhyFacts { sessions: vec![session(50, 4, 5)], devices: vec![tablet], ..facts() };
    assert_eq!(facts.why().best(), Some(DeviceVerdict::Sent(sending(101, true))));
}

#[test]
fn sessions_that_follow_the_table_are_judged_by_the_interval_of_the_number() {
    let mut facts = facts();
    facts.row.as_mut().unwrap().whom = Whom::Account("8".into());
    facts.sessions = vec![SessionSeen { accounts: vec![], follows_members: true, ..session(50, 4, 7) }];
    facts.accounts.clear();
    assert_eq!(facts.why(), WhyAnswer::NotInAccount);
    facts.follows_members = true;
    assert_eq!(facts.why(), WhyAnswer::NotMember);
    facts.membership.was_member = true;
    assert_eq!(facts.why().best(), Some(DeviceVerdict::Sent(sending(101, false))));
    // Another device named the account in its token; this one follows the table, where the user was added later.
    facts.membership.was_member = false;
    facts.accounts = vec!["8".into()];
    assert_eq!(facts.why().best(), Some(DeviceVerdict::NotMember));
    facts.sessions[0].follows_members = false;
    assert_eq!(facts.why().best(), Some(DeviceVerdict::OtherAccount));
}
