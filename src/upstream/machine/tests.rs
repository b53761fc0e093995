use std::sync::Arc;

use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn rules() -> Rules {
    Rules {
        first_wait: SECOND * 2,
        longest_wait: SECOND * 30,
        tries: 5,
        reset_after: SECOND * 60,
        keep_alive_every: SECOND * 30,
        answer_within: SECOND * 10,
        idle_timeout: SECOND * 600,
    }
}

/// A machine, and the clock that it is told.
struct Story {
    machine: Machine,
    now: Instant,
}

impl Story {
    fn begins(has_session: bool) -> (Self, Vec<Action>) {
        let mut story = Self { machine: Machine::new(Arc::new(rules()), 0, has_session, 1), now: Instant::now() };
        let first = story.machine.begin(story.now);
        (story, first)
    }

    fn live(has_session: bool) -> Self {
        let (mut story, _) = Self::begins(has_session);
        if !has_session {
            story.on(Input::SignedIn);
        }
        story.on(Input::Connected);
        assert!(story.machine.is_live());
        story
    }

    fn on(&mut self, input: Input) -> Vec<Action> {
        self.machine.step(input, self.now)
    }

    fn after(&mut self, time: Duration, input: Input) -> Vec<Action> {
        self.now += time;
        self.on(input)
    }

    /// To the machine's own deadline.
    fn tick(&mut self) -> Vec<Action> {
        self.now = self.now.max(self.machine.deadline().expect("it waits for something"));
        self.on(Input::Tick)
    }
}

fn failed(why: &str) -> Input {
    Input::Failed { why: why.to_owned(), after: None }
}

fn wait_of(todo: &[Action]) -> Option<Duration> {
    todo.iter().find_map(|action| if let Action::Write { next_try, .. } = action { *next_try } else { None })
}

fn ending(todo: &[Action]) -> Option<&Ending> {
    if let Some(Action::End(ending)) = todo.last() { Some(ending) } else { None }
}

#[test]
fn the_way_up_and_the_old_session_id_first() {
    let (mut story, first) = Story::begins(false);
    assert!(matches!(first[..], [Action::Write { state: Held::SigningIn, .. }, Action::SignIn]));
    assert!(matches!(story.on(Input::SignedIn)[..], [Action::Write { state: Held::Connecting, .. }, Action::Dial]));
    assert!(matches!(story.on(Input::Connected)[..], [Action::Write { state: Held::Live, .. }]));
    let (_, first) = Story::begins(true);
    assert!(matches!(first[..], [Action::Write { state: Held::Connecting, .. }, Action::Dial]));
}

#[test]
fn an_id_that_ran_out_is_replaced_at_once_and_a_new_one_that_is_not_taken_is_a_failure() {
    let (mut story, _) = Story::begins(true);
    let todo = story.on(Input::SessionNotTaken("over".into()));
    assert!(todo.contains(&Action::ForgetSession) && todo.contains(&Action::SignIn), "{todo:?}");
    story.on(Input::SignedIn);
    let todo = story.on(Input::SessionNotTaken("over".into()));
    assert!(!todo.contains(&Action::SignIn) && wait_of(&todo).is_some(), "{todo:?}");
}

#[test]
fn three_refusals_end_it_and_a_success_in_between_starts_the_count_anew() {
    let (mut story, _) = Story::begins(false);
    let refused = || Input::SignInRefused("no".into());
    story.on(refused());
    story.tick();
    story.on(refused());
    story.tick();
    assert_eq!(ending(&story.on(refused())), Some(&Ending::Refused { why: "no".into() }));

    let (mut story, _) = Story::begins(false);
    story.on(refused());
    story.tick();
    story.on(refused());
    story.tick();
    story.on(Input::SignedIn);
    story.on(Input::SessionNotTaken("over".into()));
    story.tick();
    assert_eq!(ending(&story.on(refused())), None);
}

#[test]
fn the_tries_are_bounded_and_the_row_then_waits_for_long() {
    let (mut story, _) = Story::begins(false);
    for _ in 0..4 {
        assert!(wait_of(&story.on(failed("500"))).is_some());
        story.tick();
    }
    let todo = story.on(failed("500"));
    assert!(matches!(ending(&todo), Some(Ending::Waiting { after, why: Some(why) }) if *after >= LONG_WAIT && why == "500"), "{todo:?}");
    assert_eq!(story.machine.failures(), 5);
    // Who claims it next has one try.
    let mut next = Machine::new(Arc::new(rules()), 5, false, 1);
    next.begin(story.now);
    assert!(matches!(ending(&next.step(failed("500"), story.now)), Some(Ending::Waiting { .. })));
}

#[test]
fn a_provider_that_asks_for_patience_gets_it() {
    let (mut story, _) = Story::begins(false);
    let todo = story.on(Input::Failed { why: "429".into(), after: Some(SECOND * 45) });
    assert_eq!(wait_of(&todo), Some(SECOND * 45));
    story.tick();
    let todo = story.on(Input::Failed { why: "429".into(), after: Some(SECOND * 100_000) });
    assert!(matches!(ending(&todo), Some(Ending::Waiting { after, .. }) if *after == LONGEST_ASKED_WAIT), "{todo:?}");
}

#[test]
fn failures_are_forgotten_only_after_a_minute_of_standing() {
    let mut story = Story::live(false);
    for expected in 1..=3 {
        let todo = story.after(SECOND * 5, Input::Lost("gone".into()));
        assert!(todo.iter().any(|action| matches!(action, Action::Write { failures, .. } if *failures == expected)), "{todo:?}");
        story.tick();
        story.on(Input::SignedIn);
        story.on(Input::Connected);
    }
    story.after(SECOND * 29, Input::Message);
    story.after(SECOND * 31, Input::Tick);
    assert_eq!(story.machine.failures(), 0);
    story.on(Input::Lost("gone".into()));
    assert_eq!(story.machine.failures(), 1);
}

#[test]
fn a_session_id_that_carried_something_is_dialled_again_and_a_mute_one_is_not() {
    for (spoke, expected) in [(true, Action::Dial), (false, Action::SignIn)] {
        let mut story = Story::live(false);
        if spoke {
            story.on(Input::Message);
        }
        story.after(SECOND, Input::Lost("gone".into()));
        assert!(story.tick().contains(&expected), "{spoke}");
    }
}

#[test]
fn keep_alives_are_sent_in_step_and_one_without_an_answer_is_a_loss() {
    let mut story = Story::live(false);
    let begun = story.now;
    for n in 1..=3 {
        assert_eq!(story.tick(), [Action::KeepAlive]);
        assert_eq!(story.now, begun + SECOND * 30 * n);
        story.after(SECOND, Input::Answer);
    }
    assert_eq!(story.tick(), [Action::KeepAlive]);
    let sent = story.now;
    let todo = story.tick();
    assert_eq!(story.now, sent + SECOND * 10);
    assert!(todo.contains(&Action::Close) && wait_of(&todo).is_some(), "{todo:?}");
}

#[test]
fn after_a_long_pause_one_keep_alive_is_sent_and_not_one_for_each_missed() {
    let mut story = Story::live(false);
    assert_eq!(story.after(SECOND * 200, Input::Tick).iter().filter(|action| **action == Action::KeepAlive).count(), 1);
    assert!(story.on(Input::Tick).is_empty());
}

#[test]
fn messages_and_commands_keep_it_from_being_idle_and_answers_do_not() {
    let mut story = Story::live(false);
    story.after(SECOND * 590, Input::Message);
    story.after(SECOND * 590, Input::Command(Uuid::nil()));
    let mut todo = Vec::new();
    for _ in 0..40 {
        if ending(&todo).is_some() {
            break;
        }
        todo = story.tick();
        story.on(Input::Answer);
    }
    assert_eq!(ending(&todo), Some(&Ending::Idle));
}

#[test]
fn a_command_is_sent_when_live_and_rejected_else() {
    let mut story = Story::live(false);
    let id = Uuid::now_v7();
    assert_eq!(story.on(Input::Command(id)), [Action::Send(id)]);
    assert_eq!(story.on(Input::Written(id, Outcome::Sent)), [Action::Settle(id, Outcome::Sent)]);
    assert!(story.on(Input::Written(id, Outcome::Sent)).is_empty(), "once");
    story.on(Input::Lost("gone".into()));
    assert_eq!(story.on(Input::Command(id)), [Action::Settle(id, Outcome::Rejected)]);
}

#[test]
fn stopping_hands_over_what_is_written() {
    assert_eq!(Story::live(false).on(Input::Stop), [Action::Close, Action::End(Ending::HandedOver)]);
    let (mut story, _) = Story::begins(false);
    story.on(failed("500"));
    assert_eq!(story.on(Input::Stop), [Action::End(Ending::HandedOver)], "the wait stands in the row");
}

#[test]
fn a_break_that_mends_is_no_error_to_the_user() {
    let mut story = Story::live(false);
    let todo = story.on(Input::Lost("gone".into()));
    assert!(todo.iter().any(|action| matches!(action, Action::Write { state: Held::BackingOff, why: None, .. })), "{todo:?}");
    for _ in 0..3 {
        story.tick();
        story.on(Input::SignedIn);
        story.on(Input::Connected);
        story.on(Input::Lost("gone".into()));
    }
    story.tick();
    story.on(Input::SignedIn);
    story.on(Input::Connected);
    let todo = story.on(Input::Lost("gone".into()));
    assert!(matches!(ending(&todo), Some(Ending::Waiting { why: Some(_), .. })), "{todo:?}");
}

#[test]
fn a_lost_lease_closes_and_says_nothing() {
    let mut story = Story::live(false);
    story.on(Input::Command(Uuid::nil()));
    assert_eq!(story.on(Input::LeaseLost), [Action::Close, Action::End(Ending::LeaseLost)]);
    assert!(story.on(Input::Command(Uuid::nil())).is_empty());
}

/// What the machine's actions do to the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    Free,
    SigningIn,
    Dialling,
    Open,
}

struct World {
    machine: Machine,
    line: Line,
    tries: Vec<Instant>,
    given: Vec<Uuid>,
    settled: Vec<Uuid>,
    lost_lease: bool,
    ended: bool,
}

impl World {
    fn new(has_session: bool, failures: u32, seed: u64) -> Self {
        let machine = Machine::new(Arc::new(rules()), failures, has_session, seed);
        Self { machine, line: Line::Free, tries: vec![], given: vec![], settled: vec![], lost_lease: false, ended: false }
    }

    /// The provider's side of an input, before the machine hears of it.
    fn happens(&mut self, input: &Input) {
        self.line = match (self.line, input) {
            (Line::SigningIn, Input::SignedIn | Input::SignInRefused(_) | Input::Failed { .. }) => Line::Free,
            (Line::Dialling, Input::Connected) => Line::Open,
            (Line::Dialling, Input::Failed { .. } | Input::SessionNotTaken(_)) => Line::Free,
            (Line::Open, Input::Lost(_) | Input::SessionNotTaken(_)) => Line::Free,
            (line, _) => line,
        };
        if let Input::Command(id) = input {
            self.given.push(*id);
        }
    }

    fn perform(&mut self, todo: Vec<Action>, now: Instant) -> Result<(), TestCaseError> {
        for action in todo {
            prop_assert!(!self.ended, "{action:?} after the end");
            if self.lost_lease {
                prop_assert!(matches!(action, Action::Close | Action::End(Ending::LeaseLost)), "{action:?} after the lease was lost");
            }
            match action {
                Action::Close => self.line = Line::Free,
                Action::SignIn | Action::Dial => {
                    prop_assert_eq!(self.line, Line::Free, "at most one thing towards the provider");
                    self.line = if action == Action::SignIn { Line::SigningIn } else { Line::Dialling };
                    self.tries.push(now);
                }
                Action::Send(_) | Action::KeepAlive | Action::Append => prop_assert_eq!(self.line, Line::Open, "{:?}", action),
                Action::Settle(id, _) => self.settled.push(id),
                Action::End(_) => {
                    prop_assert_eq!(self.line, Line::Free, "nothing stays open");
                    self.ended = true;
                }
                Action::Write { .. } | Action::ForgetSession => {}
            }
        }
        Ok(())
    }
}

fn inputs() -> impl Strategy<Value = Input> {
    let why = || "why".to_owned();
    prop_oneof![
        6 => Just(Input::SignedIn),
        6 => Just(Input::Connected),
        2 => Just(Input::SignInRefused(why())),
        4 => proptest::option::of(0u64..200).prop_map(move |after| Input::Failed { why: why(), after: after.map(Duration::from_secs) }),
        3 => Just(Input::SessionNotTaken(why())),
        4 => Just(Input::Lost(why())),
        1 => Just(Input::Flooded(why())),
        4 => Just(Input::Message),
        2 => Just(Input::Answer),
        4 => Just(Input::Command(Uuid::nil())),
        4 => Just(Input::Written(Uuid::nil(), Outcome::Sent)),
        2 => Just(Input::Reconnect),
        8 => Just(Input::Tick),
    ]
}

fn last_inputs() -> impl Strategy<Value = Input> {
    prop_oneof![Just(Input::LeaseLost), Just(Input::Stop), Just(Input::Unwanted), Just(Input::Release)]
}

proptest! {
    /// Whatever happens, in whatever order: one thing at a time towards the provider, nothing sent before the connection
    /// stands, never more tries than the house allows, every command settled once, and silence after the lease is lost.
    #[test]
    fn the_rules_of_the_house_hold(
        has_session in any::<bool>(),
        failures in 0u32..7,
        seed in any::<u64>(),
        moves in proptest::collection::vec((inputs(), 0u64..20_000, any::<bool>()), 0..120),
        last in last_inputs(),
    ) {
        let mut world = World::new(has_session, failures, seed);
        let mut now = Instant::now();
        let first = world.machine.begin(now);
        world.perform(first, now)?;
        let mut writing: Vec<Uuid> = Vec::new();
        for (mut input, millis, in_haste) in moves {
            // In haste the next thing happens at once: the provider that flaps as fast as it can.
            now += if in_haste { Duration::ZERO } else { Duration::from_millis(millis) };
            if world.machine.has_ended() {
                break;
            }
            match &mut input {
                Input::Command(id) => *id = Uuid::now_v7(),
                Input::Written(id, _) => *id = writing.pop().unwrap_or_default(),
                _ => {}
            }
            world.happens(&input);
            let todo = world.machine.step(input, now);
            writing.extend(todo.iter().filter_map(|action| if let Action::Send(id) = action { Some(*id) } else { None }));
            world.perform(todo, now)?;
            if let Some(at) = world.machine.deadline() && at <= now {
                let todo = world.machine.step(Input::Tick, now);
                world.perform(todo, now)?;
            }
        }
        world.lost_lease = last == Input::LeaseLost && !world.machine.has_ended();
        world.happens(&last);
        let todo = world.machine.step(last, now);
        world.perform(todo, now)?;
        prop_assert!(world.machine.has_ended() && world.line == Line::Free);
        for begun in &world.tries {
            // A try is a sign-in, a dialling, or a sign-in with its dialling: two entries here at most.
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

    /// A provider that takes the connection and drops it, a hundred times, as fast as it can.
    #[test]
    fn a_flapping_provider_is_not_hammered(seed in any::<u64>(), speaks in any::<bool>()) {
        let mut machine = Machine::new(Arc::new(rules()), 0, false, seed);
        let begun = Instant::now();
        let mut now = begun;
        let mut tries = Vec::new();
        let mut todo = machine.begin(now);
        for _ in 0..100 {
            let sign_in = todo.contains(&Action::SignIn);
            if sign_in || todo.contains(&Action::Dial) {
                tries.push(now);
                if sign_in {
                    machine.step(Input::SignedIn, now);
                }
                machine.step(Input::Connected, now);
                if speaks {
                    machine.step(Input::Message, now);
                }
                todo = machine.step(Input::Lost("flap".into()), now);
            } else if let Some(Action::End(Ending::Waiting { after, .. })) = todo.last() {
                now += *after;
                machine = Machine::new(Arc::new(rules()), machine.failures(), false, seed);
                todo = machine.begin(now);
            } else if let Some(at) = machine.deadline() {
                now = at;
                todo = machine.step(Input::Tick, now);
            }
        }
        for begun in &tries {
            prop_assert!(tries.iter().filter(|other| **other >= *begun && **other < *begun + MINUTE).count() <= 5);
        }
    }
}
