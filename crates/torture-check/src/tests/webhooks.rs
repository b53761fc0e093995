//! Tests the rule for webhooks.

use super::*;

impl TestHistory {
    fn hook(&mut self, title: &str, seq: i64, answer: u16) -> &mut Self {
        self.note(RunFact::WebhookPost { seq, id: format!("id-{title}"), is_signed: true, answer })
    }

    fn hook_at(&mut self, passed: i64, waiting: i64, dead: i64) -> &mut Self {
        self.note(RunFact::WebhookPlace { passed, waiting, dead })
    }
}

/// The good history; its rows to everyone are the ones that the webhook wants.
fn wanted(story: &TestHistory) -> Vec<(String, i64)> {
    let titles: Vec<&String> = story
        .0
        .iter()
        .filter_map(|entry| match &entry.fact {
            RunFact::Wish { title, audience: FactAudience::Everyone, .. } => Some(title),
            _ => None,
        })
        .collect();
    let rows = story.0.iter().filter_map(|entry| match &entry.fact {
        RunFact::Row { seq, title, .. } if titles.contains(&title) => Some((title.clone(), *seq)),
        _ => None,
    });
    rows.collect()
}

fn posted() -> TestHistory {
    let mut story = good();
    let wanted = wanted(&story);
    assert!(!wanted.is_empty());
    for (title, seq) in &wanted {
        story.hook(title, *seq, 500).hook(title, *seq, 204).hook(title, *seq, 200);
    }
    story
}

#[test]
fn a_receiver_that_fails_once_and_accepts_twice_breaks_nothing() {
    assert_eq!(check(&posted().hook_at(4, 0, 0).0, CheckLimits::default()), []);
}

#[test]
fn c27_what_is_never_accepted_or_still_waits() {
    assert_eq!(posted().hook_at(3, 0, 0).broken(), ["C27"], "it had the time to pass all");
    assert_eq!(posted().hook_at(4, 1, 0).broken(), ["C27"]);
    assert_eq!(posted().hook_at(4, 0, 1).broken(), ["C27"]);
    assert_eq!(posted().broken(), ["C27"], "no position");
    let mut story = good();
    let (title, seq) = wanted(&story).remove(0);
    assert_eq!(story.hook(&title, seq, 503).hook_at(4, 0, 0).broken(), ["C27"], "only refused");
}

#[test]
fn c27_a_post_that_is_forged_foreign_or_wrong() {
    let (title, seq) = wanted(&good()).remove(0);
    let with = |fact: RunFact| {
        let mut story = posted();
        story.note(fact);
        story.hook_at(4, 0, 0).broken()
    };
    let id = || format!("id-{title}");
    assert_eq!(with(RunFact::WebhookPost { seq, id: id(), is_signed: false, answer: 204 }), ["C27"]);
    assert_eq!(with(RunFact::WebhookPost { seq, id: "id-other".into(), is_signed: true, answer: 204 }), ["C27"]);
    assert_eq!(with(RunFact::WebhookPost { seq: 99, id: id(), is_signed: true, answer: 204 }), ["C27"]);
    let (other, at) = if seq == 1 { ("two", 2) } else { ("one", 1) };
    assert_eq!(with(RunFact::WebhookPost { seq: at, id: format!("id-{other}"), is_signed: true, answer: 204 }), ["C27"], "not to everyone");
}
