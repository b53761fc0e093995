//! Figures beside their ceilings, and how they are printed.

use std::time::Duration;

use comfy_table::{Table, presets};
use serde_json::{Map, Value, json};

use crate::cli::error::Failure;
use crate::cli::output::{self, Format};

/// Measured times, sorted.
#[derive(Debug, Clone)]
pub struct Times(Vec<Duration>);

impl Times {
    pub fn new(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        Self(times)
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The time that this share of them did not exceed (nearest rank), in milliseconds; zero of none.
    pub fn percentile_ms(&self, percent: f64) -> f64 {
        let rank = (percent / 100.0 * self.0.len() as f64).ceil() as usize;
        self.0.get(rank.clamp(1, self.0.len().max(1)) - 1).map_or(0.0, |time| ms(*time))
    }

    pub fn max_ms(&self) -> f64 {
        self.percentile_ms(100.0)
    }
}

pub fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// The middle one; the lower of the two middle ones of an even number.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted.get(sorted.len().saturating_sub(1) / 2).copied().unwrap_or(0.0)
}

/// What we want of a figure: of its ratio where it stands beside a ceiling, else of itself.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Goal {
    AtLeast(f64),
    AtMost(f64),
}

impl Goal {
    fn is_met(self, value: f64) -> bool {
        match self {
            Self::AtLeast(least) => value >= least,
            Self::AtMost(most) => value <= most,
        }
    }

    fn text(self) -> String {
        match self {
            Self::AtLeast(least) => format!("at least {least}"),
            Self::AtMost(most) => format!("at most {most}"),
        }
    }
}

/// One measured number.
#[derive(Debug, Clone)]
pub struct Figure {
    name: &'static str,
    value: f64,
    unit: &'static str,
    beside: Option<(&'static str, f64)>,
    goal: Option<Goal>,
}

impl Figure {
    /// Names the other figure, and its value, that this one is a ratio of.
    pub fn beside(&mut self, name: &'static str, value: f64) -> &mut Self {
        self.beside = Some((name, value));
        self
    }

    pub fn goal(&mut self, goal: Goal) {
        self.goal = Some(goal);
    }

    fn ratio(&self) -> Option<f64> {
        self.beside.map(|(_, ceiling)| self.value / ceiling).filter(|ratio| ratio.is_finite())
    }

    fn is_met(&self) -> Option<bool> {
        let measured = if self.beside.is_some() { self.ratio()? } else { self.value };
        self.goal.map(|goal| goal.is_met(measured))
    }

    fn json(&self) -> Value {
        let mut fields = Map::new();
        fields.insert("value".into(), rounded(self.value));
        fields.insert("unit".into(), self.unit.into());
        if let Some((name, value)) = self.beside {
            fields.insert("beside".into(), json!({ "name": name, "value": rounded(value) }));
            fields.insert("ratio".into(), self.ratio().map_or(Value::Null, rounded));
        }
        if let Some(goal) = self.goal {
            fields.insert("goal".into(), goal.text().into());
            fields.insert("met".into(), self.is_met().into());
        }
        fields.into()
    }

    fn cells(&self) -> [String; 6] {
        let (beside, ratio) = match self.beside {
            Some((name, value)) => {
                (format!("{name} {}", rounded(value)), self.ratio().map_or_else(String::new, |r| rounded(r).to_string()))
            }
            None => Default::default(),
        };
        let goal = self.goal.map_or_else(String::new, |goal| match self.is_met() {
            Some(true) => format!("{}: met", goal.text()),
            Some(false) => format!("{}: MISSED", goal.text()),
            None => goal.text(),
        });
        [self.name.to_owned(), rounded(self.value).to_string(), self.unit.to_owned(), beside, ratio, goal]
    }
}

/// Four digits that count; whole numbers from a thousand on.
fn rounded(value: f64) -> Value {
    if value == 0.0 || !value.is_finite() {
        return json!(0);
    }
    if value.abs() >= 1000.0 {
        return json!(value.round() as i64);
    }
    let digits = 3 - value.abs().log10().floor() as i32;
    let scale = 10_f64.powi(digits);
    json!((value * scale).round() / scale)
}

/// What one bench found.
#[derive(Debug)]
pub struct Report {
    bench: &'static str,
    settings: Map<String, Value>,
    figures: Vec<Figure>,
    notes: Vec<String>,
}

impl Report {
    pub fn new(bench: &'static str) -> Self {
        Self { bench, settings: Map::new(), figures: Vec::new(), notes: Vec::new() }
    }

    pub fn setting(&mut self, name: &str, value: impl Into<Value>) {
        self.settings.insert(name.to_owned(), value.into());
    }

    pub fn figure(&mut self, name: &'static str, value: f64, unit: &'static str) -> &mut Figure {
        self.figures.push(Figure { name, value, unit, beside: None, goal: None });
        self.figures.last_mut().expect("one was pushed just now")
    }

    /// The usual four of a set of times.
    pub fn times(&mut self, names: [&'static str; 4], times: &Times) {
        let values = [times.percentile_ms(50.0), times.percentile_ms(90.0), times.percentile_ms(99.0), times.max_ms()];
        for (name, value) in names.into_iter().zip(values) {
            self.figure(name, value, "ms");
        }
    }

    /// Something that a reader of the figures must know.
    pub fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    pub fn print(&self, format: Format) -> Result<(), Failure> {
        match format {
            Format::Table => output::line(&self.table()),
            Format::Json => output::line(&self.json().to_string()),
            Format::Ndjson => self.figures.iter().try_for_each(|figure| {
                let mut value = figure.json();
                value["bench"] = self.bench.into();
                value["name"] = figure.name.into();
                output::line(&value.to_string())
            }),
        }
    }

    fn json(&self) -> Value {
        let figures: Map<String, Value> = self.figures.iter().map(|figure| (figure.name.to_owned(), figure.json())).collect();
        json!({ "bench": self.bench, "settings": self.settings, "figures": figures, "notes": self.notes })
    }

    fn table(&self) -> String {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING).set_header(["figure", "value", "unit", "beside", "ratio", "goal"]);
        for figure in &self.figures {
            table.add_row(figure.cells());
        }
        let settings: Vec<String> = self.settings.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let mut text = format!("{} {}\n{}", self.bench, settings.join(" "), table.trim_fmt());
        for note in &self.notes {
            text.push_str(&format!("\nnote: {note}"));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(ms: &[u64]) -> Times {
        Times::new(ms.iter().map(|ms| Duration::from_millis(*ms)).collect())
    }

    #[test]
    fn percentiles_are_those_of_the_nearest_rank() {
        let hundred: Vec<u64> = (1..=100).rev().collect();
        let all = times(&hundred);
        assert_eq!([50.0, 90.0, 99.0, 99.5].map(|p| all.percentile_ms(p)), [50.0, 90.0, 99.0, 100.0]);
        assert_eq!((all.percentile_ms(0.0), all.max_ms(), all.len()), (1.0, 100.0, 100));
        assert_eq!(times(&[7]).percentile_ms(50.0), 7.0);
        assert_eq!(times(&[]).max_ms(), 0.0);
    }

    #[test]
    fn the_median_round_is_one_that_was_measured() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), 2.0);
        assert_eq!(median(&[]), 0.0);
    }

    #[test]
    fn a_goal_is_of_the_ratio_where_there_is_a_ceiling() {
        let mut report = Report::new("publish");
        report.figure("posts_per_s", 9000.0, "1/s").beside("sql_append_per_s", 20_000.0).goal(Goal::AtLeast(0.3));
        report.figure("p50_ms", 9.0, "ms").goal(Goal::AtMost(5.0));
        report.figure("nothing_to_compare", 1.0, "ms").beside("zero", 0.0).goal(Goal::AtMost(5.0));
        let json = report.json();
        assert_eq!(json["figures"]["posts_per_s"]["ratio"], 0.45);
        assert_eq!(json["figures"]["posts_per_s"]["met"], true);
        assert_eq!(json["figures"]["p50_ms"]["met"], false);
        assert_eq!(json["figures"]["nothing_to_compare"]["met"], Value::Null);
        let table = report.table();
        assert!(table.contains("at least 0.3: met") && table.contains("at most 5: MISSED"), "{table}");
    }

    #[test]
    fn numbers_keep_four_digits() {
        for (value, text) in [(0.0, "0"), (0.012_345, "0.01235"), (1.0, "1.0"), (12.3456, "12.35"), (999.94, "999.9"), (12_345.6, "12346")]
        {
            assert_eq!(rounded(value).to_string(), text);
        }
    }
}
