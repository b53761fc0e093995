//! Tests the session machine with tables and with random histories.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn rules() -> SessionRules {
    SessionRules {
        first_wait: SECOND * 2,
        longest_wait: SECOND * 30,
        tries: 5,
        reset_after: SECOND * 60,
        keep_alive_every: SECOND * 30,
        answer_within: SECOND * 10,
        idle_timeout: SECOND * 600,
    }
}

/// A machine and the clock that it is given.
struct MachineStory {
    machine: SessionMachine,
    now: Instant,
}

impl MachineStory {
    fn begins(has_session: bool) -> (Self, Vec<SessionAction>) {
        let mut story = Self { machine: SessionMachine::new(Arc::new(rules()), 0, has_session, 1), now: Instant::now() };
        let first = story.machine.begin(story.now);
        (story, first)
    }

    fn live(has_session: bool) -> Self {
        let (mut story, _) = Self::begins(has_session);
        if !has_session {
            story.on(SessionInput::SignedIn);
        }
        story.on(SessionInput::Connected);
        assert!(story.machine.is_live());
        story
    }

    fn on(&mut self, input: SessionInput) -> Vec<SessionAction> {
        self.machine.step(input, self.now)
    }

    fn after(&mut self, time: Duration, input: SessionInput) -> Vec<SessionAction> {
        self.now += time;
        self.on(input)
    }

    /// Advances to the machine's own deadline.
    fn tick(&mut self) -> Vec<SessionAction> {
        self.now = self.now.max(self.machine.deadline().expect("it waits for something"));
        self.on(SessionInput::Tick)
    }
}

fn failed(why: &str) -> SessionInput {
    SessionInput::Failed { why: why.to_owned(), after: None }
}

fn wait_of(todo: &[SessionAction]) -> Option<Duration> {
    todo.iter().find_map(|action| if let SessionAction::Write { next_try, .. } = action { *next_try } else { None })
}

fn ending(todo: &[SessionAction]) -> Option<&ReleaseCause> {
    if let Some(SessionAction::End(ending)) = todo.last() { Some(ending) } else { None }
}

#[test]
fn the_way_up_and_the_old_session_id_first() {
    let (mut story, first) = MachineStory::begins(false);
    assert!(matches!(first[..], [SessionAction::Write { state: HeldState::SigningIn, .. }, SessionAction::SignIn]));
    assert!(matches!(
        story.on(SessionInput::SignedIn)[..],
        [SessionAction::Write { state: HeldState::Connecting, .. }, SessionAction::Dial]
    ));
    assert!(matches!(story.on(SessionInput::Connected)[..], [SessionAction::Write { state: HeldState::Live, .. }]));
    let (_, first) = MachineStory::begins(true);
    assert!(matches!(first[..], [SessionAction::Write { state: HeldState::Connecting, .. }, SessionAction::Dial]));
}

#[test]
fn an_id_that_ran_out_is_replaced_at_once_and_a_new_one_that_is_not_taken_is_a_failure() {
    let (mut story, _) = MachineStory::begins(true);
    let todo = story.on(SessionInput::SessionNotTaken("over".into()));
    assert!(todo.contains(&SessionAction::ForgetSession) && todo.contains(&SessionAction::SignIn), "{todo:?}");
    story.on(SessionInput::SignedIn);
    let todo = story.on(SessionInput::SessionNotTaken("over".into()));
    assert!(!todo.contains(&SessionAction::SignIn) && wait_of(&todo).is_some(), "{todo:?}");
}

#[test]
fn three_refusals_end_it_and_a_success_in_between_starts_the_count_anew() {
    let (mut story, _) = MachineStory::begins(false);
    let refused = || SessionInput::SignInRefused("no".into());
    story.on(refused());
    story.tick();
    story.on(refused());
    story.tick();
    assert_eq!(ending(&story.on(refused())), Some(&ReleaseCause::Refused { why: "no".into() }));

    let (mut story, _) = MachineStory::begins(false);
    story.on(refused());
    story.tick();
    story.on(refused());
    story.tick();
    story.on(SessionInput::SignedIn);
    story.on(SessionInput::SessionNotTaken("over".into()));
    story.tick();
    assert_eq!(ending(&story.on(refused())), None);
}

#[test]
fn the_tries_are_bounded_and_the_row_then_waits_for_long() {
    let (mut story, _) = MachineStory::begins(false);
    for _ in 0..4 {
        assert!(wait_of(&story.on(failed("500"))).is_some());
        story.tick();
    }
    let todo = story.on(failed("500"));
    assert!(
        matches!(ending(&todo), Some(ReleaseCause::Waiting { after, early, why: Some(why) }) if *after >= LONG_WAIT && *early == EARLY_WAIT && why == "500"),
        "{todo:?}"
    );
    assert_eq!(story.machine.failures(), 5);
    // The next owner has one try.
    let mut next = SessionMachine::new(Arc::new(rules()), 5, false, 1);
    next.begin(story.now);
    assert!(matches!(ending(&next.step(failed("500"), story.now)), Some(ReleaseCause::Waiting { .. })));
}

#[test]
fn a_provider_that_asks_for_patience_gets_it() {
    let (mut story, _) = MachineStory::begins(false);
    let todo = story.on(SessionInput::Failed { why: "429".into(), after: Some(SECOND * 45) });
    assert_eq!(wait_of(&todo), Some(SECOND * 45));
    story.tick();
    let todo = story.on(SessionInput::Failed { why: "429".into(), after: Some(SECOND * 100_000) });
    assert!(
        matches!(ending(&todo), Some(ReleaseCause::Waiting { after, early, .. }) if *after == LONGEST_ASKED_WAIT && early == after),
        "{todo:?}"
    );
}

#[test]
fn failures_are_forgotten_only_after_a_minute_of_standing() {
    let mut story = MachineStory::live(false);
    for expected in 1..=3 {
        let todo = story.after(SECOND * 5, SessionInput::Lost("gone".into()));
        assert!(todo.iter().any(|action| matches!(action, SessionAction::Write { failures, .. } if *failures == expected)), "{todo:?}");
        story.tick();
        story.on(SessionInput::SignedIn);
        story.on(SessionInput::Connected);
    }
    story.after(SECOND * 29, SessionInput::Message);
    story.after(SECOND * 31, SessionInput::Tick);
    assert_eq!(story.machine.failures(), 0);
    story.on(SessionInput::Lost("gone".into()));
    assert_eq!(story.machine.failures(), 1);
}

#[test]
fn a_session_id_that_carried_something_is_dialled_again_and_a_mute_one_is_not() {
    for (spoke, expected) in [(true, SessionAction::Dial), (false, SessionAction::SignIn)] {
        let mut story = MachineStory::live(false);
        if spoke {
            story.on(SessionInput::Message);
        }
        story.after(SECOND, SessionInput::Lost("gone".into()));
        assert!(story.tick().contains(&expected), "{spoke}");
    }
}

#[test]
fn keep_alives_are_sent_in_step_and_one_without_an_answer_is_a_loss() {
    let mut story = MachineStory::live(false);
    let begun = story.now;
    for n in 1..=3 {
        assert_eq!(story.tick(), [SessionAction::KeepAlive]);
        assert_eq!(story.now, begun + SECOND * 30 * n);
        story.after(SECOND, SessionInput::Answer);
    }
    assert_eq!(story.tick(), [SessionAction::KeepAlive]);
    let sent = story.now;
    let todo = story.tick();
    assert_eq!(story.now, sent + SECOND * 10);
    assert!(todo.contains(&SessionAction::Close) && wait_of(&todo).is_some(), "{todo:?}");
}

#[test]
fn after_a_long_pause_one_keep_alive_is_sent_and_not_one_for_each_missed() {
    let mut story = MachineStory::live(false);
    assert_eq!(story.after(SECOND * 200, SessionInput::Tick).iter().filter(|action| **action == SessionAction::KeepAlive).count(), 1);
    assert!(story.on(SessionInput::Tick).is_empty());
}

#[test]
fn messages_and_commands_keep_it_from_being_idle_and_answers_do_not() {
    let mut story = MachineStory::live(false);
    story.after(SECOND * 590, SessionInput::Message);
    story.after(SECOND * 590, SessionInput::Command(Uuid::nil()));
    let mut todo = Vec::new();
    for _ in 0..40 {
        if ending(&todo).is_some() {
            break;
        }
        todo = story.tick();
        story.on(SessionInput::Answer);
    }
    assert_eq!(ending(&todo), Some(&ReleaseCause::Idle));
}

#[test]
fn a_command_is_sent_when_live_and_rejected_else() {
    let mut story = MachineStory::live(false);
    let id = Uuid::now_v7();
    assert_eq!(story.on(SessionInput::Command(id)), [SessionAction::Send(id)]);
    assert_eq!(story.on(SessionInput::Written(id, CommandResult::Sent)), [SessionAction::Settle(id, CommandResult::Sent)]);
    assert!(story.on(SessionInput::Written(id, CommandResult::Sent)).is_empty(), "once");
    story.on(SessionInput::Lost("gone".into()));
    assert_eq!(story.on(SessionInput::Command(id)), [SessionAction::Settle(id, CommandResult::Rejected)]);
}

#[test]
fn stopping_hands_over_what_is_written() {
    assert_eq!(MachineStory::live(false).on(SessionInput::Stop), [SessionAction::Close, SessionAction::End(ReleaseCause::HandedOver)]);
    let (mut story, _) = MachineStory::begins(false);
    story.on(failed("500"));
    assert_eq!(story.on(SessionInput::Stop), [SessionAction::End(ReleaseCause::HandedOver)], "the wait stands in the row");
}

#[test]
fn a_break_that_mends_is_no_error_to_the_user() {
    let mut story = MachineStory::live(false);
    let todo = story.on(SessionInput::Lost("gone".into()));
    assert!(todo.iter().any(|action| matches!(action, SessionAction::Write { state: HeldState::BackingOff, why: None, .. })), "{todo:?}");
    for _ in 0..3 {
        story.tick();
        story.on(SessionInput::SignedIn);
        story.on(SessionInput::Connected);
        story.on(SessionInput::Lost("gone".into()));
    }
    story.tick();
    story.on(SessionInput::SignedIn);
    story.on(SessionInput::Connected);
    let todo = story.on(SessionInput::Lost("gone".into()));
    assert!(matches!(ending(&todo), Some(ReleaseCause::Waiting { why: Some(_), .. })), "{todo:?}");
}

#[test]
fn a_lost_lease_closes_and_says_nothing() {
    let mut story = MachineStory::live(false);
    story.on(SessionInput::Command(Uuid::nil()));
    assert_eq!(story.on(SessionInput::LeaseLost), [SessionAction::Close, SessionAction::End(ReleaseCause::LeaseLost)]);
    assert!(story.on(SessionInput::Command(Uuid::nil())).is_empty());
}

/// The effect of the machine's actions on the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WorldLine {
    Free,
    SigningIn,
    Dialling,
    Open,
}

struct SessionWorld {
    machine: SessionMachine,
    line: WorldLine,
    tries: Vec<Instant>,
    given: Vec<Uuid>,
    settled: Vec<Uuid>,
    lost_lease: bool,
    ended: bool,
}

impl SessionWorld {
    fn new(has_session: bool, failures: u32, seed: u64) -> Self {
        let machine = SessionMachine::new(Arc::new(rules()), failures, has_session, seed);
        Self { machine, line: WorldLine::Free, tries: vec![], given: vec![], settled: vec![], lost_lease: false, ended: false }
    }

    /// Applies the provider's side of an input, before the machine gets it.
    fn happens(&mut self, input: &SessionInput) {
        self.line = match (self.line, input) {
            (WorldLine::SigningIn, SessionInput::SignedIn | SessionInput::SignInRefused(_) | SessionInput::Failed { .. }) => {
                WorldLine::Free
            }
            (WorldLine::Dialling, SessionInput::Connected) => WorldLine::Open,
            (WorldLine::Dialling, SessionInput::Failed { .. } | SessionInput::SessionNotTaken(_)) => WorldLine::Free,
            (WorldLine::Open, SessionInput::Lost(_) | SessionInput::SessionNotTaken(_)) => WorldLine::Free,
            (line, _) => line,
        };
        if let SessionInput::Command(id) = input {
            self.given.push(*id);
        }
    }

    fn perform(&mut self, todo: Vec<SessionAction>, now: Instant) -> Result<(), TestCaseError> {
        for action in todo {
            prop_assert!(!self.ended, "{action:?} after the end");
            if self.lost_lease {
                prop_assert!(
                    matches!(action, SessionAction::Close | SessionAction::End(ReleaseCause::LeaseLost)),
                    "{action:?} after the lease was lost"
                );
            }
            match action {
                SessionAction::Close => self.line = WorldLine::Free,
                SessionAction::SignIn | SessionAction::Dial => {
                    prop_assert_eq!(self.line, WorldLine::Free, "at most one thing towards the provider");
                    self.line = if action == SessionAction::SignIn { WorldLine::SigningIn } else { WorldLine::Dialling };
                    self.tries.push(now);
                }
                SessionAction::Send(_) | SessionAction::KeepAlive | SessionAction::Append => {
                    prop_assert_eq!(self.line, WorldLine::Open, "{:?}", action)
                }
                SessionAction::Settle(id, _) => self.settled.push(id),
                SessionAction::End(_) => {
                    prop_assert_eq!(self.line, WorldLine::Free, "nothing stays open");
                    self.ended = true;
                }
                SessionAction::Write { .. } | SessionAction::ForgetSession => {}
            }
        }
        Ok(())
    }
}

fn inputs() -> impl Strategy<Value = SessionInput> {
    let why = || "why".to_owned();
    prop_oneof![
        6 => Just(SessionInput::SignedIn),
        6 => Just(SessionInput::Connected),
        2 => Just(SessionInput::SignInRefused(why())),
        4 => proptest::option::of(0u64..200).prop_map(move |after| SessionInput::Failed { why: why(), after: after.map(Duration::from_secs) }),
        3 => Just(SessionInput::SessionNotTaken(why())),
        4 => Just(SessionInput::Lost(why())),
        1 => Just(SessionInput::Flooded(why())),
        4 => Just(SessionInput::Message),
        2 => Just(SessionInput::Answer),
        4 => Just(SessionInput::Command(Uuid::nil())),
        4 => Just(SessionInput::Written(Uuid::nil(), CommandResult::Sent)),
        2 => Just(SessionInput::Reconnect),
        8 => Just(SessionInput::Tick),
    ]
}

fn last_inputs() -> impl Strategy<Value = SessionInput> {
    prop_oneof![Just(SessionInput::LeaseLost), Just(SessionInput::Stop), Just(SessionInput::Unwanted), Just(SessionInput::Release)]
}

proptest! {
    /// For any inputs in any order: one activity towards the provider at a time, nothing sent before the connection is
    /// open, never more tries than the limit, every command settled once, and no action after the lease is lost.
    #[test]
    fn the_rules_of_the_house_hold(
        has_session in any::<bool>(),
        failures in 0u32..7,
        seed in any::<u64>(),
        moves in proptest::collection::vec((inputs(), 0u64..20_000, any::<bool>()), 0..120),
        last in last_inputs(),
    ) {
        let mut world = SessionWorld::new(has_session, failures, seed);
        let mut now = Instant::now();
        let first = world.machine.begin(now);
        world.perform(first, now)?;
        let mut writing: Vec<Uuid> = Vec::new();
        for (mut input, millis, in_haste) in moves {
            // In haste the next input comes at once, as from a provider that flaps as fast as it can.
            now += if in_haste { Duration::ZERO } else { Duration::from_millis(millis) };
            if world.machine.has_ended() {
                break;
            }
            match &mut input {
                SessionInput::Command(id) => *id = Uuid::now_v7(),
                SessionInput::Written(id, _) => *id = writing.pop().unwrap_or_default(),
                _ => {}
            }
            world.happens(&input);
            let todo = world.machine.step(input, now);
            writing.extend(todo.iter().filter_map(|action| if let SessionAction::Send(id) = action { Some(*id) } else { None }));
            world.perform(todo, now)?;
            if let Some(at) = world.machine.deadline() && at <= now {
                let todo = world.machine.step(SessionInput::Tick, now);
                world.perform(todo, now)?;
            }
        }
        world.lost_lease = last == SessionInput::LeaseLost && !world.machine.has_ended();
        world.happens(&last);
        let todo = world.machine.step(last, now);
        world.perform(todo, now)?;
        prop_assert!(world.machine.has_ended() && world.line == WorldLine::Free);
        for begun in &world.tries {
            // A try is a sign-in, a dial, or a sign-in with its dial: at most two entries here.
            let within = world.tries.iter().filter(|other| **other >= *begun && **other < *begun + MINUTE).count();
            prop_assert!(within <= 2 * TRIES_A_MINUTE, "{within} in a minute");
        }
        world.settled.sort_unstable();
        let mut once = world.settled.clone();
        once.dedup();
        prop_assert_eq!(&once, &world.settled, "settled twice");
        if !world.lost_lease {
            world.given.sort_unstable();
            prop_assert_eq!(world.given, world.settled, "every command is settled");
        }
    }

    /// A provider that accepts the connection and drops it, a hundred times, as fast as it can.
    #[test]
    fn a_flapping_provider_is_not_hammered(seed in any::<u64>(), speaks in any::<bool>()) {
        let mut machine = SessionMachine::new(Arc::new(rules()), 0, false, seed);
        let begun = Instant::now();
        let mut now = begun;
        let mut tries = Vec::new();
        let mut todo = machine.begin(now);
        for _ in 0..100 {
            let sign_in = todo.contains(&SessionAction::SignIn);
            if sign_in || todo.contains(&SessionAction::Dial) {
                tries.push(now);
                if sign_in {
                    machine.step(SessionInput::SignedIn, now);
                }
                machine.step(SessionInput::Connected, now);
                if speaks {
                    machine.step(SessionInput::Message, now);
                }
                todo = machine.step(SessionInput::Lost("flap".into()), now);
            } else if let Some(SessionAction::End(ReleaseCause::Waiting { after, .. })) = todo.last() {
                now += *after;
                machine = SessionMachine::new(Arc::new(rules()), machine.failures(), false, seed);
                todo = machine.begin(now);
            } else if let Some(at) = machine.deadline() {
                now = at;
                todo = machine.step(SessionInput::Tick, now);
            }
        }
        for begun in &tries {
            prop_assert!(tries.iter().filter(|other| **other >= *begun && **other < *begun + MINUTE).count() <= 5);
        }
    }
}
