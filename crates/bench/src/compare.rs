//! Implements `recado-bench compare`: fails when a run is worse than an earlier one.
//!
//! It compares only figures that do not depend on the machine.

use std::path::PathBuf;

use clap::Args;
use recado::cli::error::CliFailure;
use recado::cli::output::{self, Format};
use serde::Serialize;

use super::figure::{Better, Figure, text};
use super::results::{self, Results};

/// Compare two runs by their ratios, and fail when one got worse
#[derive(Debug, Clone, Args)]
pub struct Compare {
    /// Earlier file written by --json: one bench, or a list
    baseline: PathBuf,
    /// New file written by --json
    new: PathBuf,
    /// How many times worse is still accepted
    #[arg(long, default_value_t = 1.25, value_parser = tolerance)]
    tolerance: f64,
    /// Compare only counts of statements and transactions, which a busy machine does not change
    #[arg(long)]
    counts: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum CompareVerdict {
    Same,
    Better,
    Worse,
    NotMeasured,
}

/// A figure that both runs have.
#[derive(Debug, Serialize)]
struct CompareRow {
    bench: String,
    figure: String,
    baseline: String,
    new: String,
    /// How many times worse; below one means better.
    times_worse: String,
    verdict: CompareVerdict,
}

impl Compare {
    pub fn run(&self, format: Format) -> Result<(), CliFailure> {
        let (baseline, new) = (results::read(&self.baseline)?, results::read(&self.new)?);
        let rows = self.rows(&baseline, &new);
        if rows.iter().all(|row| row.verdict == CompareVerdict::NotMeasured) {
            return Err(CliFailure::other("the two files have no comparable figure in common"));
        }
        output::rows(format, &rows)?;
        match rows.iter().filter(|row| row.verdict == CompareVerdict::Worse).count() {
            0 => Ok(()),
            worse => Err(CliFailure::other(format!("{worse} of {} figures are more than {} times worse", rows.len(), self.tolerance))),
        }
    }

    fn rows(&self, baseline: &[Results], new: &[Results]) -> Vec<CompareRow> {
        let mut rows = Vec::new();
        for before in baseline {
            let now = new.iter().find(|now| now.name() == before.name());
            if let Some(now) = now
                && now.report.settings != before.report.settings
            {
                eprintln!("{}: measured with settings that differ from the baseline's", before.name());
            }
            for figure in &before.report.figures {
                let again = now.and_then(|now| now.report.figures.iter().find(|again| again.name == figure.name));
                rows.extend(self.row(&before.name(), figure, again));
            }
        }
        rows
    }

    /// Returns none for a figure that describes only the machine.
    fn row(&self, bench: &str, before: &Figure, now: Option<&Figure>) -> Option<CompareRow> {
        if self.counts && !before.is_counted() {
            return None;
        }
        let (baseline, better) = before.comparable()?;
        let Some((new, _)) = now.and_then(Figure::comparable) else {
            let absent = || "-".to_owned();
            let (bench, figure) = (bench.to_owned(), before.name.clone());
            return Some(CompareRow {
                bench,
                figure,
                baseline: text(baseline),
                new: absent(),
                times_worse: absent(),
                verdict: CompareVerdict::NotMeasured,
            });
        };
        let times = match better {
            Better::Lower => worse(new, baseline),
            Better::Higher => worse(baseline, new),
        };
        let verdict = match times {
            times if times > self.tolerance => CompareVerdict::Worse,
            times if times * self.tolerance < 1.0 => CompareVerdict::Better,
            _ => CompareVerdict::Same,
        };
        let times_worse = if times.is_finite() { format!("{times:.2}") } else { "from none".to_owned() };
        Some(CompareRow {
            bench: bench.to_owned(),
            figure: before.name.clone(),
            baseline: text(baseline),
            new: text(new),
            times_worse,
            verdict,
        })
    }
}

/// Quotient of two costs. Zero over zero counts as one, and anything else over zero as infinite.
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
    use crate::figure::Goal;

    fn verdict(before: &Figure, now: &Figure) -> CompareVerdict {
        let compare = Compare { baseline: "-".into(), new: "-".into(), tolerance: 1.25, counts: false };
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
        assert_eq!(verdict(&rate(0.6), &rate(0.5)), CompareVerdict::Same);
        assert_eq!(verdict(&rate(0.6), &rate(0.4)), CompareVerdict::Worse);
        assert_eq!(verdict(&rate(0.4), &rate(0.6)), CompareVerdict::Better);
        assert_eq!(verdict(&time(3.0), &time(3.7)), CompareVerdict::Same);
        assert_eq!(verdict(&time(3.0), &time(3.8)), CompareVerdict::Worse);
        assert_eq!(verdict(&time(3.8), &time(3.0)), CompareVerdict::Better);
    }

    #[test]
    fn what_was_never_lost_may_not_be_lost_now() {
        let lost = |count| {
            let mut figure = Figure::new("lost", count, "");
            figure.goal(Goal::AtMost(0.0));
            figure
        };
        assert_eq!(verdict(&lost(0.0), &lost(0.0)), CompareVerdict::Same);
        assert_eq!(verdict(&lost(0.0), &lost(1.0)), CompareVerdict::Worse);
        assert_eq!(verdict(&lost(1.0), &lost(0.0)), CompareVerdict::Better);
    }

    #[test]
    fn a_figure_that_was_left_out_is_told_and_one_of_the_machine_is_not() {
        let compare = Compare { baseline: "-".into(), new: "-".into(), tolerance: 1.25, counts: false };
        assert_eq!(compare.row("publish", &rate(0.6), None).unwrap().verdict, CompareVerdict::NotMeasured);
        assert!(compare.row("publish", &Figure::new("p50", 3.0, "ms"), None).is_none());
    }
}
