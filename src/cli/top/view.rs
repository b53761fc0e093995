//! Lays out what `recado top` shows, as lines of text for a size of screen.

use std::collections::HashMap;

use chrono::{DateTime, Utc};

use super::model::{Column, Instance, Rates, Sample, Session, Sessions, rates};
use crate::cli::output::{ago, columns, harmless};

/// What is shown, and how.
pub struct View {
    url: String,
    sample: Sample,
    rates: HashMap<String, Rates>,
    sessions: Sessions,
    sort: Column,
    descending: bool,
    /// Sessions above the first one that is shown.
    scroll: usize,
    /// Why nothing new comes.
    trouble: Option<String>,
}

/// A line of the screen.
#[derive(Debug, PartialEq, Eq)]
pub struct ScreenLine {
    pub text: String,
    /// The head of a table.
    pub is_head: bool,
}

/// What a key asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// Sort by the column to the right, or with `back` to the left.
    Sort {
        back: bool,
    },
    Reverse,
    /// Scroll by so many rows.
    Scroll(isize),
    Quit,
}

impl View {
    pub fn new(url: &str, sort: Column) -> Self {
        Self {
            url: url.to_owned(),
            sample: Sample::default(),
            rates: HashMap::new(),
            sessions: Sessions::default(),
            sort,
            descending: sort.begins_descending(),
            scroll: 0,
            trouble: None,
        }
    }

    pub fn take_sample(&mut self, sample: Sample) {
        self.rates = rates(&self.sample, &sample);
        self.sample = sample;
        self.trouble = None;
    }

    pub fn take_sessions(&mut self, mut sessions: Sessions) {
        sessions.sort(self.sort, self.descending);
        self.sessions = sessions;
    }

    pub fn take_trouble(&mut self, trouble: String) {
        self.trouble = Some(trouble);
    }

    /// Does what a key asks for, except quitting.
    pub fn follow(&mut self, ask: Ask) {
        match ask {
            Ask::Sort { back } => {
                self.sort = self.sort.next(back);
                self.descending = self.sort.begins_descending();
                self.scroll = 0;
            }
            Ask::Reverse => {
                self.descending = !self.descending;
                self.scroll = 0;
            }
            Ask::Scroll(rows) => {
                let last = self.sessions.rows.len().saturating_sub(1);
                self.scroll = self.scroll.saturating_add_signed(rows).min(last);
            }
            Ask::Quit => {}
        }
        self.sessions.sort(self.sort, self.descending);
    }

    /// The screen, with as many sessions as fit into `height` lines.
    pub fn lines(&self, height: usize, now: DateTime<Utc>) -> Vec<ScreenLine> {
        let mut lines = self.header(now);
        let direction = if self.descending { "highest first" } else { "lowest first" };
        let shown = height.saturating_sub(lines.len() + 2);
        lines.push(plain(format!(
            "{} sessions, by {}, {direction}   ← → sort  r reverse  ↑ ↓ scroll  q quit",
            self.sessions.total,
            self.sort.name()
        )));
        let rows = self.sessions.rows.iter().skip(self.scroll).take(shown);
        lines.extend(table(&HEADS, &["SENT", "ACKED", "LAG"], rows.map(|session| cells(session, now))));
        lines.truncate(height.max(1));
        lines
    }

    /// The same for a file or a pipe: all sessions.
    pub fn whole(&self, now: DateTime<Utc>) -> String {
        let mut lines = self.header(now);
        lines.push(plain(format!("{} sessions, by {}", self.sessions.total, self.sort.name())));
        lines.extend(table(&HEADS, &["SENT", "ACKED", "LAG"], self.sessions.rows.iter().map(|session| cells(session, now))));
        lines.into_iter().map(|line| line.text).collect::<Vec<_>>().join("\n")
    }

    fn header(&self, now: DateTime<Utc>) -> Vec<ScreenLine> {
        let Self { url, sample, trouble, .. } = self;
        let as_of = sample.at.map_or_else(|| "no sample yet".to_owned(), |at| format!("as of {}", ago(at, now)));
        let mut lines = vec![plain(format!("recado top   {url}   {as_of}"))];
        if let Some(trouble) = trouble {
            lines.push(plain(format!("no news: {trouble}")));
        }
        lines.push(plain(self.totals()));
        lines.push(plain(String::new()));
        let rows = sample.instances.iter().map(|instance| self.instance(instance, now));
        lines.extend(table(&HUB_HEADS, &HUB_NUMBERS, rows));
        lines.push(plain(String::new()));
        lines
    }

    fn totals(&self) -> String {
        let mut all = Rates::default();
        self.rates.values().for_each(|rates| all += *rates);
        let gauges = || self.sample.instances.iter().filter_map(|instance| instance.gauges);
        let (connections, lag) = (gauges().map(|gauges| gauges.connections).sum::<u64>(), gauges().map(|gauges| gauges.max_lag).max());
        let slow: u64 = self.sample.instances.iter().filter_map(|instance| instance.counters).map(|counters| counters.slow).sum();
        let head = gauges().map(|gauges| gauges.head).max().unwrap_or_default();
        let rates = if self.rates.is_empty() {
            String::new()
        } else {
            let Rates { appended, delivered, replayed, acked, refused, .. } = all;
            format!(
                "in {}   out {} ({} replayed)   acked {}   refused {}   ",
                rate(appended),
                rate(delivered),
                rate(replayed),
                rate(acked),
                rate(refused)
            )
        };
        format!("{rates}connections {connections}   worst lag {}   slow clients {slow}   head {head}", lag.unwrap_or_default())
    }

    fn instance(&self, instance: &Instance, now: DateTime<Utc>) -> Vec<String> {
        let rates = self.rates.get(&instance.instance);
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        let age = |at: Option<DateTime<Utc>>| or_dash(at.map(|at| ago(at, now)));
        let state = match (instance.ready, &instance.reasons) {
            (None, _) => "unknown".to_owned(),
            (Some(true), _) => "ready".to_owned(),
            (Some(false), reasons) => reasons.as_deref().unwrap_or_default().join(","),
        };
        vec![
            instance.instance.chars().take(8).collect(),
            instance.address.clone(),
            instance.version.clone(),
            age(instance.started_at),
            age(instance.seen_at),
            state,
            or_dash(instance.gauges.map(|gauges| gauges.connections.to_string())),
            or_dash(rates.map(|rates| rate(rates.appended))),
            or_dash(rates.map(|rates| rate(rates.delivered))),
            or_dash(instance.gauges.map(|gauges| gauges.max_lag.to_string())),
            or_dash(instance.counters.map(|counters| counters.slow.to_string())),
            or_dash(instance.gauges.and_then(|gauges| gauges.rss_bytes).map(|bytes| format!("{} MB", bytes / 1_000_000))),
        ]
    }
}

const HUB_HEADS: [&str; 12] =
    ["HUB", "ADDRESS", "VERSION", "STARTED", "SEEN", "STATE", "CONNECTIONS", "IN", "OUT", "LAG", "SLOW", "MEMORY"];
const HUB_NUMBERS: [&str; 6] = ["CONNECTIONS", "IN", "OUT", "LAG", "SLOW", "MEMORY"];
const HEADS: [&str; 11] = ["USER", "DEVICE", "ACCOUNTS", "TRANSPORT", "HUB", "CONNECTED", "ACTIVE", "SENT", "ACKED", "LAG", "PROVIDER"];

/// The cells of a session, in the order of [`HEADS`].
fn cells(session: &Session, now: DateTime<Utc>) -> Vec<String> {
    let or_dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
    let age = |at: Option<DateTime<Utc>>| at.map_or_else(|| "-".to_owned(), |at| ago(at, now));
    vec![
        session.user.clone(),
        session.device.clone(),
        or_dash(&session.accounts),
        session.transport.clone(),
        session.hub.chars().take(8).collect(),
        age(session.connected),
        age(session.active),
        session.sent.to_string(),
        session.acked.to_string(),
        session.lag.to_string(),
        if session.provider { "live" } else { "-" }.to_owned(),
    ]
}

fn table(heads: &[&str], numbers: &[&str], rows: impl Iterator<Item = Vec<String>>) -> Vec<ScreenLine> {
    let Some(text) = columns(heads, numbers, rows) else { return vec![plain("  none".to_owned())] };
    text.lines().enumerate().map(|(at, line)| ScreenLine { text: line.to_owned(), is_head: at == 0 }).collect()
}

/// Escapes the text: addresses, versions and errors come from hubs.
fn plain(text: String) -> ScreenLine {
    let text = harmless(&text).replace('\n', " ");
    ScreenLine { text, is_head: false }
}

/// A rate with three digits.
fn rate(per_second: f64) -> String {
    match per_second {
        0.0 => "0/s".to_owned(),
        small if small < 10.0 => format!("{small:.1}/s"),
        some if some < 10_000.0 => format!("{some:.0}/s"),
        many => format!("{:.1}k/s", many / 1000.0),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn view() -> View {
        let mut view = View::new("http://hub", Column::Lag);
        for (at, appended) in [("2026-11-30T12:00:00Z", 100), ("2026-11-30T12:00:05Z", 150)] {
            view.take_sample(
                serde_json::from_value(json!({ "at": at, "instances": [
                    { "instance": "01935a6e-9f0c", "address": "a\u{1b}[2J", "version": "1", "started_at": at, "seen_at": at, "ready": false,
                      "reasons": ["not_draining"], "counters": { "appended": appended, "delivered_live": 0, "slow": 3 },
                      "gauges": { "connections": 2, "max_lag": 7, "head": 150, "rss_bytes": 30_000_000 } },
                    { "instance": "old", "address": "b", "version": "0" }] }))
                .unwrap(),
            );
        }
        let rows: Vec<_> = (0..50).map(|n| json!([format!("user{n}\u{1b}]0;x"), "web", n])).collect();
        view.take_sessions(Sessions::read(json!({ "head": 60, "total": 50, "columns": ["user_id", "client_id", "acked"], "rows": rows })));
        view
    }

    fn now() -> DateTime<Utc> {
        DateTime::parse_from_rfc3339("2026-11-30T12:00:07Z").unwrap().to_utc()
    }

    #[test]
    fn the_header_has_rates_and_each_hub_and_nothing_reaches_the_terminal_unescaped() {
        let view = view();
        let lines = view.lines(24, now());
        let text = lines.iter().map(|line| line.text.as_str()).collect::<Vec<_>>().join("\n");
        for part in
            ["as of 2 s ago", "in 10/s", "connections 2", "worst lag 7", "slow clients 3", "not_draining", "unknown", "30 MB", "user0"]
        {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text}");
        assert!(view.whole(now()).chars().all(|c| c == '\n' || !c.is_control()));
        assert_eq!(lines.len(), 24, "{text}");
        assert_eq!(lines.iter().filter(|line| line.is_head).count(), 2);
        assert!(view.whole(now()).contains("user49"), "a pipe gets all");
    }

    #[test]
    fn keys_sort_reverse_and_scroll() {
        let mut view = view();
        let first = |view: &View| view.sessions.rows[view.scroll].user.clone();
        assert!(first(&view).starts_with("user0"), "the highest lag first");
        view.follow(Ask::Reverse);
        assert!(first(&view).starts_with("user49"));
        view.follow(Ask::Scroll(1));
        assert!(first(&view).starts_with("user48"));
        view.follow(Ask::Scroll(1000));
        assert_eq!(view.scroll, 49);
        view.follow(Ask::Scroll(-1000));
        assert_eq!(view.scroll, 0);
        view.follow(Ask::Sort { back: true });
        assert_eq!((view.sort, view.descending), (Column::Acked, true));
        view.take_trouble("no answer\u{1b}".to_owned());
        assert!(view.lines(24, now())[1].text.starts_with("no news: no answer\\u001b"));
        assert_eq!(view.lines(1, now()).len(), 1, "a screen of one line");
        assert_eq!(
            (rate(0.0), rate(0.25), rate(1234.0), rate(12_345.0)),
            ("0/s".into(), "0.2/s".into(), "1234/s".into(), "12.3k/s".into())
        );
    }
}
