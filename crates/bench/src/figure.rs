//! Defines one figure, the ceiling it is compared with, and its goal.

use serde::{Deserialize, Serialize, Serializer};

/// Units of counts, such as statements for each post. Fewer are better, and no clock is in them.
pub const COUNTED: [&str; 2] = ["statements", "transactions"];

/// Goal of a figure. It applies to the ratio where the figure has a ceiling, else to the figure itself.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
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

/// Direction in which a figure gets better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Better {
    Higher,
    Lower,
}

/// What a figure is measured against: the machine without the hub, or the same run without the feature under test.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Ceiling {
    pub name: String,
    #[serde(serialize_with = "rounded")]
    pub value: f64,
}

/// One measured number. `ratio` and `met` follow from the other fields; they are written for readers of the file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Figure {
    pub name: String,
    #[serde(serialize_with = "rounded")]
    pub value: f64,
    pub unit: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ceiling: Option<Ceiling>,
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "some_rounded")]
    ratio: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    goal: Option<Goal>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    met: Option<bool>,
}

impl Figure {
    pub fn new(name: impl Into<String>, value: f64, unit: &str) -> Self {
        Self { name: name.into(), value, unit: unit.to_owned(), ceiling: None, ratio: None, goal: None, met: None }
    }

    /// Sets the name and value of the other figure, of which this one is a ratio.
    pub fn beside(&mut self, name: impl Into<String>, value: f64) -> &mut Self {
        self.ceiling = Some(Ceiling { name: name.into(), value });
        self.ratio = Some(self.value / value).filter(|ratio| ratio.is_finite());
        self
    }

    pub fn goal(&mut self, goal: Goal) {
        self.goal = Some(goal);
        let measured = if self.ceiling.is_some() { self.ratio } else { Some(self.value) };
        self.met = measured.map(|measured| goal.is_met(measured));
    }

    /// Whether the figure is a count, which is the same on every machine.
    pub fn is_counted(&self) -> bool {
        COUNTED.contains(&self.unit.as_str())
    }

    /// The value that two runs on different machines can be compared by: a ratio, or a number that does not depend on a
    /// clock.
    pub fn comparable(&self) -> Option<(f64, Better)> {
        let better = match (self.goal, self.unit.as_str()) {
            (Some(Goal::AtLeast(_)), _) => Better::Higher,
            (Some(Goal::AtMost(_)), _) | (None, "ms" | "s" | "KiB") => Better::Lower,
            (None, "1/s" | "rows/s") => Better::Higher,
            (None, _) if self.is_counted() => Better::Lower,
            // For sizes and counts neither direction is better.
            (None, _) => return None,
        };
        let without_clock = self.is_counted() || matches!(self.unit.as_str(), "" | "KiB");
        let number = if self.ceiling.is_some() { self.ratio } else { without_clock.then_some(self.value) };
        number.map(|number| (number, better))
    }

    pub fn cells(&self) -> [String; 6] {
        let ceiling = self.ceiling.as_ref().map_or_else(String::new, |ceiling| format!("{} {}", ceiling.name, text(ceiling.value)));
        let ratio = self.ratio.map_or_else(String::new, text);
        let goal = self.goal.map_or_else(String::new, |goal| match self.met {
            Some(true) => format!("{}: met", goal.text()),
            Some(false) => format!("{}: MISSED", goal.text()),
            None => goal.text(),
        });
        [self.name.clone(), text(self.value), self.unit.clone(), ceiling, ratio, goal]
    }
}

/// Rounds to four significant digits; from a thousand on to whole numbers.
fn four_digits(value: f64) -> serde_json::Number {
    if value == 0.0 || !value.is_finite() {
        return 0.into();
    }
    if value.abs() >= 1000.0 {
        return (value.round() as i64).into();
    }
    let digits = 3 - value.abs().log10().floor() as i32;
    let scale = 10_f64.powi(digits);
    serde_json::Number::from_f64((value * scale).round() / scale).unwrap_or(0.into())
}

pub fn text(value: f64) -> String {
    four_digits(value).to_string()
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
pub fn rounded<S: Serializer>(value: &f64, to: S) -> Result<S::Ok, S::Error> {
    four_digits(*value).serialize(to)
}

fn some_rounded<S: Serializer>(value: &Option<f64>, to: S) -> Result<S::Ok, S::Error> {
    value.map(four_digits).serialize(to)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn json_of(figure: &Figure) -> Value {
        serde_json::to_value(figure).unwrap()
    }

    #[test]
    fn a_goal_is_of_the_ratio_where_there_is_a_ceiling() {
        let mut posts = Figure::new("posts_per_s", 9000.0, "1/s");
        posts.beside("sql_append_per_s", 20_000.0).goal(Goal::AtLeast(0.3));
        let mut p50 = Figure::new("p50_ms", 9.0, "ms");
        p50.goal(Goal::AtMost(5.0));
        let mut nothing = Figure::new("nothing_to_compare", 1.0, "ms");
        nothing.beside("zero", 0.0).goal(Goal::AtMost(5.0));
        assert_eq!(json_of(&posts)["ratio"], 0.45);
        assert_eq!(json_of(&posts)["met"], true);
        assert_eq!(json_of(&posts)["ceiling"], json!({ "name": "sql_append_per_s", "value": 20_000 }));
        assert_eq!(json_of(&p50)["met"], false);
        assert_eq!(json_of(&nothing)["met"], Value::Null);
        assert_eq!([posts.cells()[5].as_str(), p50.cells()[5].as_str()], ["at least 0.3: met", "at most 5: MISSED"]);
    }

    #[test]
    fn what_depends_on_the_machine_alone_is_not_compared() {
        let mut ratio = Figure::new("answers", 6.0, "ms");
        ratio.beside("a bare commit", 2.0);
        let mut misses = Figure::new("lost", 0.0, "");
        misses.goal(Goal::AtMost(0.0));
        let mut rate = Figure::new("posts_per_s", 9000.0, "1/s");
        assert_eq!(rate.comparable(), None);
        assert_eq!(rate.beside("plain", 18_000.0).comparable(), Some((0.5, Better::Higher)));
        assert_eq!(ratio.comparable(), Some((3.0, Better::Lower)));
        assert_eq!(misses.comparable(), Some((0.0, Better::Lower)));
        assert_eq!(Figure::new("idle", 7.2, "KiB").comparable(), Some((7.2, Better::Lower)));
        assert_eq!(Figure::new("statements", 7.2, COUNTED[0]).comparable(), Some((7.2, Better::Lower)));
        assert_eq!([Figure::new("p50", 7.2, "ms").comparable(), Figure::new("rows", 7.0, "").comparable()], [None, None]);
    }

    #[test]
    fn what_was_written_is_read_again() {
        let mut figure = Figure::new("p50_ms", 1.23456, "ms");
        figure.beside("other", 3.0).goal(Goal::AtMost(1.2));
        let again: Figure = serde_json::from_value(json_of(&figure)).unwrap();
        assert_eq!((again.value, again.ratio, again.goal, again.met), (1.235, Some(0.4115), Some(Goal::AtMost(1.2)), Some(true)));
    }

    #[test]
    fn numbers_keep_four_digits() {
        for (value, digits) in
            [(0.0, "0"), (0.012_345, "0.01235"), (1.0, "1.0"), (12.3456, "12.35"), (999.94, "999.9"), (12_345.6, "12346")]
        {
            assert_eq!(text(value), digits);
        }
    }
}
