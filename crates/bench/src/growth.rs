//! Implements `recado-bench growth`: whether the hub's costs grow with the log.
//!
//! Each log has a server of its own. All logs are filled first and then asked in turns, each question once per log,
//! because a machine changes over the minutes that a filling takes: the same page of one short log took 0.9 to 1.5 ms
//! within two minutes. In each round every question visits the logs in order and back, so that no log is always asked
//! first. The result is the median of the rounds' own ratios.
//!
//! Appended rows have the shape of the rows that filled the log: they go to any user, with a key that falls anywhere
//! among the existing keys.

use std::time::Duration;

use clap::Args;
use recado::cli::error::CliFailure;
use recado::domain::{Principal, Seq, UserId};
use recado::store::{Reader, read, retention};
use tokio::time::Instant;

use super::ceilings::append_rows;
use super::curve::Curve;
use super::figure::Goal;
use super::fill::{FillPlan, fill, fill_devices};
use super::ground::Ground;
use super::post::{Mixture, user};
use super::probes;
use super::report::Report;
use super::resume::append_missed;
use super::times::{SortedTimes, median};
use super::yardstick;

/// The mixture that fills a log.
const MIXTURE: Mixture = Mixture { users: 20_000, accounts: 1000 };
const FILLING: FillPlan = FillPlan { mixture: MIXTURE, size: 300, keyed: true, relaxed: false };
/// Number of users that resume, and rows that each has missed.
const RESUMING: usize = 200;
const MISSED: usize = 100;

/// Questions of one turn. Appends lengthen the log, and large ones lengthen it more, so they are few.
#[derive(Debug, Clone, Copy)]
enum Question {
    Append { rows: usize, times: usize },
    Resume,
    NewestPage,
    Why,
    Head,
    Place,
    RetentionLook,
    DeviceStep,
}

/// Goal: a question may cost this many times as much in the long log.
const FLAT: f64 = 1.1;
const NEARLY_FLAT: f64 = 1.2;

const QUESTIONS: [(&str, Question, f64); 9] = [
    ("append_1", Question::Append { rows: 1, times: 75 }, FLAT),
    ("append_100", Question::Append { rows: 100, times: 20 }, FLAT),
    ("resume_100", Question::Resume, FLAT),
    ("newest_page", Question::NewestPage, NEARLY_FLAT),
    ("why", Question::Why, NEARLY_FLAT),
    ("head", Question::Head, NEARLY_FLAT),
    ("place", Question::Place, NEARLY_FLAT),
    ("retention_look", Question::RetentionLook, NEARLY_FLAT),
    ("device_step", Question::DeviceStep, NEARLY_FLAT),
];

/// Measure what a hub does in a short log and in a long one, each on a server of its own
#[derive(Debug, Clone, Args)]
pub struct Growth {
    /// Rows of the short log
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    small: u64,
    /// Rows of the long log. Choose a number that nearly fills its newest partition, because new rows are appended
    /// there; measuring takes the last hundred thousand of ten million
    #[arg(long, default_value_t = 9_900_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    large: u64,
    /// Devices of the long log. The short one has proportionally many; one step of device expiry looks at a thousand
    #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    devices: u32,
    /// Number of lengths that are measured, both ends included
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=20))]
    points: u8,
    /// How often each log is asked everything, in turn with the others; an odd number
    #[arg(long, default_value_t = 11, value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,
    /// Fill without waiting for the disk; measurements wait for it all the same
    #[arg(long)]
    relaxed: bool,
}

/// A log that was filled.
struct FilledLog<'a> {
    ground: &'a Ground,
    devices: usize,
    filled_per_s: f64,
    /// Rows of the partition that new rows go to.
    in_newest: i64,
    /// Sequence numbers of the missed rows: after the first, up to the second.
    missed: (Seq, Seq),
    /// Result of each round, in milliseconds, for each question.
    found: Vec<Vec<f64>>,
}

impl Growth {
    /// One server for each length.
    pub fn grounds(&self) -> usize {
        self.points.into()
    }

    /// # Errors
    /// Fails when the requested lengths cannot be measured.
    pub fn check(&self) -> Result<(), CliFailure> {
        if self.large <= self.small {
            return Err(CliFailure::settings("--large must be above --small"));
        }
        if self.rounds.is_multiple_of(2) {
            return Err(CliFailure::settings("--rounds must be odd, so that one of them is in the middle"));
        }
        Ok(())
    }

    pub async fn run(&self, grounds: &[Ground]) -> Result<Report, CliFailure> {
        let mut logs = Vec::new();
        for (rows, ground) in self.lengths().into_iter().zip(grounds) {
            logs.push(self.log(ground, rows).await?);
        }
        let (Some(small), Some(large)) = (logs.first(), logs.last()) else { return Err(CliFailure::other("no length was measured")) };
        if large.in_newest < small.in_newest {
            return Err(CliFailure::settings(format!(
                "new rows go into the newest partition, which holds {} rows in the long log and {} in the short one: choose another --large",
                large.in_newest, small.in_newest
            )));
        }
        for round in 1..=self.rounds {
            eprintln!("round {round} of {}", self.rounds);
            ask_all(&mut logs).await?;
        }
        self.report(&logs).await
    }

    /// Lengths from the short log to the long one, each the same multiple of the one before.
    fn lengths(&self) -> Vec<u64> {
        let steps = f64::from(self.points.max(2) - 1);
        let times = self.large as f64 / self.small as f64;
        let between = (1..self.points.max(2) - 1).map(|n| (self.small as f64 * times.powf(f64::from(n) / steps)).round() as u64);
        std::iter::once(self.small).chain(between).chain([self.large]).collect()
    }

    /// Fills a log with so many rows, and devices in proportion.
    async fn log<'a>(&self, ground: &'a Ground, rows: u64) -> Result<FilledLog<'a>, CliFailure> {
        eprintln!("filling a log with {rows} rows");
        let time = fill(ground, FillPlan { relaxed: self.relaxed, ..FILLING }, rows).await?;
        let devices = usize::try_from(u64::from(self.devices) * rows / self.large).unwrap_or(0).max(1);
        fill_devices(ground, MIXTURE, devices).await?;
        let from = ground.head().await?;
        append_missed(ground, &resuming()?, MISSED).await?;
        let upto = ground.head().await?;
        // Without this the server vacuums at a time of its own choice, possibly during a measurement.
        eprintln!("vacuuming");
        let mut connection = ground.owned_database().connect("bench").await?;
        yardstick::tidy_up(&mut connection).await?;
        let partitions = retention::partitions(&mut connection).await?;
        let newest = partitions.iter().find(|partition| (partition.lo..partition.hi).contains(&upto.get()));
        let in_newest = newest.map_or(0, |partition| upto.get() + 1 - partition.lo.max(1));
        let filled_per_s = rows as f64 / time.as_secs_f64();
        Ok(FilledLog { ground, devices, filled_per_s, in_newest, missed: (from, upto), found: vec![Vec::new(); QUESTIONS.len()] })
    }

    async fn report(&self, logs: &[FilledLog<'_>]) -> Result<Report, CliFailure> {
        let (Some(small), Some(large)) = (logs.first(), logs.last()) else { return Err(CliFailure::other("no length was measured")) };
        let mut report = Report::new("growth");
        report.setting("small", self.small);
        report.setting("large", self.large);
        report.setting("devices", self.devices);
        report.setting("relaxed", self.relaxed);
        report.setting("rounds", self.rounds);
        for (question, (name, _, most)) in QUESTIONS.iter().enumerate() {
            let [in_large, in_small] = [large, small].map(|log| &log.found[question]);
            let ratios = ratios(in_large, in_small);
            report.figure(format!("{name}_growth"), median(&ratios), "").goal(Goal::AtMost(*most));
            report.figure(format!("{name}_large_p50_ms"), median(in_large), "ms");
            report.figure(format!("{name}_small_p50_ms"), median(in_small), "ms");
            if let (Some(least), Some(greatest)) = (ratios.iter().copied().reduce(f64::min), ratios.iter().copied().reduce(f64::max)) {
                report.note(format!("{name}: the rounds' ratios are {least:.2} to {greatest:.2}"));
            }
        }
        report.figure("fill_large_per_s", large.filled_per_s, "rows/s").beside("fill_small_per_s", small.filled_per_s);
        let mut curve = Curve::new("log", "What a hub asks of a log, by the log's length", "rows", "ms");
        for (at, log) in logs.iter().enumerate() {
            let (first, last) = (log.missed.1.get(), log.ground.head().await?.get());
            for ((name, _, _), found) in QUESTIONS.iter().zip(&log.found) {
                curve.point(name, (first + last) as f64 / 2.0, median(found));
            }
            report.note(format!(
                "log {}: {first} rows before the first question, {} of them in its newest partition, {last} at the end",
                at + 1,
                log.in_newest
            ));
        }
        report.curves.push(curve);
        report.note(format!(
            "medians of {} rounds, in which the logs were asked in turn; a growth is the median of the rounds' own ratios",
            self.rounds
        ));
        Ok(report)
    }
}

/// The factor between the two logs in each round.
fn ratios(large: &[f64], small: &[f64]) -> Vec<f64> {
    large.iter().zip(small).map(|(large, small)| large / small).collect()
}

/// Asks each log each question: one log after the other, and back.
async fn ask_all(logs: &mut [FilledLog<'_>]) -> Result<(), CliFailure> {
    for (at, (_, question, _)) in QUESTIONS.into_iter().enumerate() {
        let mut costs = vec![0.0; logs.len()];
        for turn in (0..logs.len()).chain((0..logs.len()).rev()) {
            costs[turn] += logs[turn].ask(question).await? / 2.0;
        }
        logs.iter_mut().zip(costs).for_each(|(log, cost)| log.found[at].push(cost));
    }
    Ok(())
}

impl FilledLog<'_> {
    /// The median, in milliseconds.
    async fn ask(&self, question: Question) -> Result<f64, CliFailure> {
        let ground = self.ground;
        match question {
            Question::Append { rows, times } => appends(ground, rows, times).await,
            Question::Resume => resumes(ground, self.missed).await,
            Question::NewestPage => probes::newest_pages(ground, MIXTURE).await,
            Question::Why => probes::whys(ground, MIXTURE).await,
            Question::Head => probes::heads(ground).await,
            Question::Place => probes::places(ground, self.devices.min(MIXTURE.users)).await,
            Question::RetentionLook => probes::retention_looks(ground).await,
            Question::DeviceStep => probes::device_steps(ground).await,
        }
    }
}

/// The median time of an append of so many rows.
async fn appends(ground: &Ground, rows: usize, times: usize) -> Result<f64, CliFailure> {
    let mut connection = ground.database().connect("bench").await?;
    let mut head = read::state(&mut connection).await?.head;
    let mut found = Vec::with_capacity(times);
    // The first append only lets the connection plan its statement; it does not count.
    for n in 0..=times {
        let batch = FILLING.rows(0..rows as u64)?;
        let start = Instant::now();
        head = append_rows(&mut connection, head, &batch).await?;
        if n > 0 {
            found.push(start.elapsed());
        }
    }
    Ok(SortedTimes::new(found).percentile_ms(50.0))
}

/// Users that the log was not filled for.
fn resuming() -> Result<Vec<UserId>, CliFailure> {
    (0..RESUMING).map(|n| user(MIXTURE.users + n)).collect()
}

/// The median time of the one page that a client with a hundred missed rows needs.
async fn resumes(ground: &Ground, (from, upto): (Seq, Seq)) -> Result<f64, CliFailure> {
    let users = resuming()?;
    let reader = ground.database().reader("bench", 1);
    // The first page only lets the connection plan its statement.
    one_page(&reader, &users[0], from, upto).await?;
    let mut times = Vec::with_capacity(RESUMING);
    for user in &users {
        times.push(one_page(&reader, user, from, upto).await?);
    }
    reader.close().await;
    Ok(SortedTimes::new(times).percentile_ms(50.0))
}

async fn one_page(reader: &Reader, user: &UserId, from: Seq, upto: Seq) -> Result<Duration, CliFailure> {
    let who = Principal { user: user.clone(), accounts: Vec::new() };
    let start = Instant::now();
    let page = read::page(reader, &who, from, upto).await?;
    let time = start.elapsed();
    if page.notifications.len() != MISSED {
        return Err(CliFailure::other(format!("a page had {} rows instead of {MISSED}", page.notifications.len())));
    }
    Ok(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_growth_is_the_middle_of_the_rounds_own_ratios() {
        let (large, small) = ([1.2, 3.0, 1.5], [1.0, 2.0, 1.0]);
        assert_eq!(ratios(&large, &small), [1.2, 1.5, 1.5]);
        // The ratio of the medians would be 2: the machine was half as fast in one round, and disturbed in another.
        assert_eq!(median(&ratios(&[1.1, 2.0, 9.0], &[1.0, 2.0, 1.0])), 1.1);
    }

    #[test]
    fn what_cannot_be_measured_is_refused() {
        let growth = |small, large, rounds| Growth { small, large, devices: 1, points: 2, rounds, relaxed: false }.check();
        assert!(growth(100, 101, 3).is_ok());
        assert!(growth(100, 100, 3).unwrap_err().message.contains("--large"));
        assert!(growth(100, 101, 4).unwrap_err().message.contains("--rounds"));
    }

    #[test]
    fn each_length_is_as_many_times_as_long_as_the_one_before() {
        let growth = |points| Growth { small: 100, large: 10_000, devices: 1, points, rounds: 1, relaxed: false };
        assert_eq!(growth(2).lengths(), [100, 10_000]);
        assert_eq!(growth(3).lengths(), [100, 1000, 10_000]);
        assert_eq!(growth(5).lengths(), [100, 316, 1000, 3162, 10_000]);
    }
}
