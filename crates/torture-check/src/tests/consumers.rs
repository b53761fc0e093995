//! Tests the rule for consumers.

use super::*;

impl TestHistory {
    fn batch(&mut self, term: i64, after: i64, titles: &[(&str, i64)], through: i64) -> &mut Self {
        let rows = titles.iter().map(|(title, seq)| (*seq, format!("id-{title}"))).collect();
        self.note(RunFact::ConsumerBatch { owner: format!("owner-{term}"), term, after, rows, through })
    }

    fn consumer_acks(&mut self, term: i64, seq: i64, newest: i64, answer: &str) -> &mut Self {
        self.note(RunFact::ConsumerAck { owner: format!("owner-{term}"), term, seq, newest, answer: answer.into() })
    }

    fn consumer_at(&mut self, acked: i64) -> &mut Self {
        self.note(RunFact::ConsumerPlace { acked })
    }
}

const FIRST: [(&str, i64); 2] = [("one", 1), ("two", 2)];
const REST: [(&str, i64); 2] = [("three", 3), ("four", 4)];

/// The first owner dies after two rows, the second takes over.
fn followed() -> TestHistory {
    let mut story = good();
    story.batch(7, 0, &FIRST, 2).consumer_acks(7, 1, 7, "acked").batch(8, 1, &[("two", 2), ("three", 3)], 3);
    story.consumer_acks(7, 2, 8, "stale_term").consumer_acks(8, 3, 8, "unknown").batch(8, 1, &[("four", 4)], 4);
    story.consumer_acks(8, 4, 8, "acked").batch(8, 4, &[], 4).consumer_at(4);
    story
}

#[test]
fn a_consumer_with_two_owners_breaks_nothing() {
    assert_eq!(check(&followed().0, CheckLimits::default()), []);
}

#[test]
fn c26_rows_that_are_given_wrongly() {
    let batch = |after: i64, rows: &[(&str, i64)], through: i64| {
        let mut story = good();
        story.batch(7, after, rows, through).batch(7, after.min(0), &FIRST, 2).batch(7, 0, &REST, 4).consumer_at(4);
        story.broken()
    };
    assert_eq!(batch(0, &FIRST, 2), [""; 0]);
    assert_eq!(batch(1, &FIRST, 2), ["C26"], "it was acknowledged");
    assert_eq!(batch(0, &[("two", 2), ("one", 1)], 2), ["C26"], "in another order");
    assert_eq!(batch(0, &[("one", 1), ("three", 3)], 3), ["C26"], "with a hole");
    assert_eq!(batch(0, &[("one", 1)], 2), ["C26"], "without the last one");
    assert_eq!(batch(0, &[("one", 1), ("one", 2)], 2), ["C26"], "with the id of another");
    assert_eq!(batch(0, &FIRST, 1), ["C26"], "beyond its end");
}

#[test]
fn c26_an_owner_acknowledges_under_an_old_term() {
    let mut story = followed();
    assert_eq!(story.consumer_acks(7, 4, 8, "acked").broken(), ["C26"]);
}

#[test]
fn c26_a_position_that_is_behind_or_has_passed_what_nobody_was_given() {
    let at = |acked: i64, rest: bool| {
        let mut story = good();
        story.batch(7, 0, &FIRST, 2);
        if rest {
            story.batch(7, 2, &REST, 4);
        }
        story.consumer_at(acked).broken()
    };
    assert_eq!(at(4, true), [""; 0]);
    assert_eq!(at(3, true), ["C26"], "it had the time to read all");
    assert_eq!(at(4, false), ["C26"], "the rest was never given");
    assert_eq!(good().batch(7, 0, &FIRST, 2).broken(), ["C26"], "and no position");
}
