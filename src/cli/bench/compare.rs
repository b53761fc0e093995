//! `recado bench compare`: whether a run is worse than an earlier one, by what does not depend on the machine.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::figure::{Better, Figure, text};
use super::results::{self, Results};
use crate::cli::error::Failure;
use crate::cli::output::{self, Format};

/// Compare two runs by their ratios, and fail when one got worse.
#[derive(Debug, Clone, Args)]
pub struct Compare {
    /// What --json wrote before: one bench, or a list
    baseline: PathBuf,
    /// What it wrote now
    new: PathBuf,
    /// How many times worse is still good
    #[arg(long, default_value_t = 1.25, value_parser = tolerance)]
    tolerance: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Same,
    Better,
    Worse,
    NotMeasured,
}

/// A figure in both.
#[derive(Debug, Serialize)]
struct Row {
    bench: String,
    figure: String,
    baseline: String,
    new: String,
    /// How many times worse; below one: better.
    times_worse: String,
    verdict: Verdict,
}

impl Compare {
    pub fn run(&self, format: Format) -> Result<(), Failure> {
        let (baseline, new) = (results::read(&self.baseline)?, results::read(&self.new)?);
        let rows = self.rows(&baseline, &new);
        if rows.iter().all(|row| row.verdict == Verdict::NotMeasured) {
            return Err(Failure::other("the two files have no figure in common that could be compared"));
        }
        output::rows(format, &rows)?;
        match rows.iter().filter(|row| row.verdict == Verdict::Worse).count() {
            0 => Ok(()),
            worse => Err(Failure::other(format!("{worse} of {} figures are more than {} times worse", rows.len(), self.tolerance))),
        }
    }

    fn rows(&self, baseline: &[Results], new: &[Results]) -> Vec<Row> {
        let mut rows = Vec::new();
        for before in baseline {
            let now = new.iter().find(|now| now.name() == before.name());
            if let Some(now) = now
                && now.report.settings != before.report.settings
            {
                eprintln!("{}: measured with other settings than the baseline", before.name());
            }
            for figure in &before.report.figures {
                let again = now.and_then(|now| now.report.figures.iter().find(|again| again.name == figure.name));
                rows.extend(self.row(&before.name(), figure, again));
            }
        }
        rows
    }

    /// None for a figure that says something of the machine only.
    fn row(&self, bench: &str, before: &Figure, now: Option<&Figure>) -> Option<Row> {
        let (baseline, better) = before.comparable()?;
        let Some((new, _)) = now.and_then(Figure::comparable) else {
            let absent = || "-".to_owned();
            let (bench, figure) = (bench.to_owned(), before.name.clone());
            return Some(Row {
                bench,
                figure,
                baseline: text(baseline),
                new: absent(),
                times_worse: absent(),
                verdict: Verdict::NotMeasured,
            });
        };
        let times = match better {
            Better::Lower => worse(new, baseline),
            Better::Higher => worse(baseline, new),
        };
        let verdict = match times {
            times if times > self.tolerance => Verdict::Worse,
            times if times * self.tolerance < 1.0 => Verdict::Better,
            _ => Verdict::Same,
        };
        let times_worse = if times.is_finite() { format!("{times:.2}") } else { "from none".to_owned() };
        Some(Row { bench: bench.to_owned(), figure: before.name.clone(), baseline: text(baseline), new: text(new), times_worse, verdict })
    }
}

/// How many times as much; nothing is as much as nothing, and anything endlessly more.
fn worse(more: f64, less: f64) -> f64 {
    if more == less { 1.0 } else { more / less }
}

fn tolerance(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(times) if (1.0..=1000.0).contains(&times) => Ok(times),
        _ => Err("a number from 1 to 1000, such as 1.25".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::bench::figure::Goal;

    fn verdict(before: &Figure, now: &Figure) -> Verdict {
        let compare = Compare { baseline: "-".into(), new: "-".into(), tolerance: 1.25 };
        compare.row("publish", before, Some(now)).unwrap().verdict
    }

    fn rate(of_plain: f64) -> Figure {
        let mut figure = Figure::new("posts_per_s", of_plain * 5000.0, "1/s");
        figure.beside("plain", 5000.0).goal(Goal::AtLeast(0.3));
        figure
    }

    fn time(of_bare: f64) -> Figure {
        let mut figure = Figure::new("post_to_socket", of_bare * 0.3, "ms");
        figure.beside("bare", 0.3);
        figure
    }

    #[test]
    fn a_rate_is_worse_when_it_falls_and_a_time_when_it_rises() {
        assert_eq!(verdict(&rate(0.6), &rate(0.5)), Verdict::Same);
        assert_eq!(verdict(&rate(0.6), &rate(0.4)), Verdict::Worse);
        assert_eq!(verdict(&rate(0.4), &rate(0.6)), Verdict::Better);
        assert_eq!(verdict(&time(3.0), &time(3.7)), Verdict::Same);
        assert_eq!(verdict(&time(3.0), &time(3.8)), Verdict::Worse);
        assert_eq!(verdict(&time(3.8), &time(3.0)), Verdict::Better);
    }

    #[test]
    fn what_was_never_lost_may_not_be_lost_now() {
        let lost = |count| {
            let mut figure = Figure::new("lost", count, "");
            figure.goal(Goal::AtMost(0.0));
            figure
        };
        assert_eq!(verdict(&lost(0.0), &lost(0.0)), Verdict::Same);
        assert_eq!(verdict(&lost(0.0), &lost(1.0)), Verdict::Worse);
        assert_eq!(verdict(&lost(1.0), &lost(0.0)), Verdict::Better);
    }

    #[test]
    fn a_figure_that_was_left_out_is_told_and_one_of_the_machine_is_not() {
        let compare = Compare { baseline: "-".into(), new: "-".into(), tolerance: 1.25 };
        assert_eq!(compare.row("publish", &rate(0.6), None).unwrap().verdict, Verdict::NotMeasured);
        assert!(compare.row("publish", &Figure::new("p50", 3.0, "ms"), None).is_none());
    }
}
