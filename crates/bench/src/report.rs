//! Holds the results of one bench, and prints them.

use comfy_table::{Table, presets};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::curve::Curve;
use super::figure::Figure;
use super::times::SortedTimes;

/// Results of one bench.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    pub bench: String,
    pub settings: Map<String, Value>,
    pub figures: Vec<Figure>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub curves: Vec<Curve>,
    notes: Vec<String>,
    /// Whether the table is printed as Markdown.
    #[serde(skip)]
    is_markdown: bool,
}

impl Report {
    pub fn new(bench: &str) -> Self {
        Self {
            bench: bench.to_owned(),
            settings: Map::new(),
            figures: Vec::new(),
            curves: Vec::new(),
            notes: Vec::new(),
            is_markdown: false,
        }
    }

    /// A report whose table can be pasted into a page.
    pub fn markdown(bench: &str) -> Self {
        Self { is_markdown: true, ..Self::new(bench) }
    }

    pub fn setting(&mut self, name: &str, value: impl Into<Value>) {
        self.settings.insert(name.to_owned(), value.into());
    }

    pub fn figure(&mut self, name: impl Into<String>, value: f64, unit: &str) -> &mut Figure {
        self.figures.push(Figure::new(name, value, unit));
        self.figures.last_mut().expect("one was pushed just now")
    }

    /// Adds the usual four figures of a set of times.
    pub fn times(&mut self, names: [&str; 4], times: &SortedTimes) {
        let values = [times.percentile_ms(50.0), times.percentile_ms(90.0), times.percentile_ms(99.0), times.max_ms()];
        for (name, value) in names.into_iter().zip(values) {
            self.figure(name, value, "ms");
        }
    }

    /// Adds a remark that a reader of the figures must know.
    pub fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// The table that is printed.
    pub fn table(&self) -> String {
        if self.is_markdown { self.markdown_table() } else { self.plain_table() }
    }

    fn markdown_table(&self) -> String {
        let settings: Vec<String> = self.settings.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let mut text = format!("`{}` {}\n\n| figure | value | unit | goal |\n| --- | --- | --- | --- |\n", self.bench, settings.join(" "));
        for [name, value, unit, _, _, goal] in self.figures.iter().map(Figure::cells) {
            text.push_str(&format!("| {name} | {value} | {unit} | {goal} |\n"));
        }
        for note in &self.notes {
            text.push_str(&format!("\n- {note}"));
        }
        text
    }

    fn plain_table(&self) -> String {
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
