//! `recado bench growth`: whether what a hub does costs the same in a short log and in a long one.
//!
//! Each log has a server of its own. All are filled first and then asked in turns, a question of one and then the same of the next, because a
//! machine is not the same for the minutes that a filling takes: of one short log the same page took 0.9 to 1.5 ms within two minutes. In each
//! round every question goes through the logs and back, so that none is always asked first. What counts is the median of the rounds' own ratios.
//!
//! What is appended is what a log was filled with: it goes to any user, under a key that lies anywhere among the others.

use std::time::Duration;

use clap::Args;
use tokio::time::Instant;

use super::ceilings::append_rows;
use super::curve::Curve;
use super::figure::Goal;
use super::fill::{Filling, fill, fill_devices};
use super::ground::Ground;
use super::post::{Mixture, user};
use super::probes;
use super::report::Report;
use super::resume::append_missed;
use super::times::{Times, median};
use crate::cli::error::Failure;
use crate::domain::{Principal, Seq, UserId};
use crate::store::{Reader, read, retention, yardstick};

/// The mixture that fills a log.
const MIXTURE: Mixture = Mixture { users: 20_000, accounts: 1000 };
const FILLING: Filling = Filling { mixture: MIXTURE, size: 300, keyed: true, relaxed: false };
/// Who resumes, and how many rows each has missed.
const RESUMING: usize = 200;
const MISSED: usize = 100;

/// What is asked of a log in each turn. Appends make it longer, the more so the more rows they have, so they are few.
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

/// How many times as much a question may cost in the long log.
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

/// What a hub does, in a short log and in a long one, each on a server of its own.
#[derive(Debug, Clone, Args)]
pub struct Growth {
    /// Rows of the short log
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    small: u64,
    /// Rows of the long log. Its newest partition is to be full rather than just begun, for what is appended goes there; measuring takes the
    /// last hundred thousand of ten million
    #[arg(long, default_value_t = 9_900_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    large: u64,
    /// Devices beside the long log; beside the short one in proportion, and a step through them is of a thousand
    #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    devices: u32,
    /// Lengths that are measured, these two among them
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=20))]
    points: u8,
    /// How often each log is asked everything, in turn with the others; an odd number
    #[arg(long, default_value_t = 11, value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,
    /// Fill without waiting for the disk; what is measured waits for it all the same
    #[arg(long)]
    relaxed: bool,
}

/// A log that was filled.
struct Log<'a> {
    ground: &'a Ground,
    devices: usize,
    filled_per_s: f64,
    /// Rows of the partition that is appended to.
    in_newest: i64,
    /// What those who resume have missed: after the first, up to the second.
    missed: (Seq, Seq),
    /// What each round found, in milliseconds, for each question.
    found: Vec<Vec<f64>>,
}

impl Growth {
    /// One server for each length.
    pub fn grounds(&self) -> usize {
        self.points.into()
    }

    /// # Errors
    /// When what was asked for cannot be measured.
    pub fn check(&self) -> Result<(), Failure> {
        if self.large <= self.small {
            return Err(Failure::settings("--large must be above --small"));
        }
        if self.rounds.is_multiple_of(2) {
            return Err(Failure::settings("--rounds must be odd, so that one of them is in the middle"));
        }
        Ok(())
    }

    pub async fn run(&self, grounds: &[Ground]) -> Result<Report, Failure> {
        let mut logs = Vec::new();
        for (rows, ground) in self.lengths().into_iter().zip(grounds) {
            logs.push(self.log(ground, rows).await?);
        }
        let (Some(small), Some(large)) = (logs.first(), logs.last()) else { return Err(Failure::other("no length was measured")) };
        if large.in_newest < small.in_newest {
            return Err(Failure::settings(format!(
                "what is appended goes into the newest partition, which holds {} rows in the long log and {} in the short one: choose another --large",
                large.in_newest, small.in_newest
            )));
        }
        for round in 1..=self.rounds {
            eprintln!("round {round} of {}", self.rounds);
            ask_all(&mut logs).await?;
        }
        self.report(&logs).await
    }

    /// From the short log to the long one, each as many times as long as the one before.
    fn lengths(&self) -> Vec<u64> {
        let steps = f64::from(self.points.max(2) - 1);
        let times = self.large as f64 / self.small as f64;
        let between = (1..self.points.max(2) - 1).map(|n| (self.small as f64 * times.powf(f64::from(n) / steps)).round() as u64);
        std::iter::once(self.small).chain(between).chain([self.large]).collect()
    }

    /// Fills a log with so many rows, and devices in proportion.
    async fn log<'a>(&self, ground: &'a Ground, rows: u64) -> Result<Log<'a>, Failure> {
        eprintln!("filling a log with {rows} rows");
        let time = fill(ground, Filling { relaxed: self.relaxed, ..FILLING }, rows).await?;
        let devices = usize::try_from(u64::from(self.devices) * rows / self.large).unwrap_or(0).max(1);
        fill_devices(ground, MIXTURE, devices).await?;
        let from = ground.head().await?;
        append_missed(ground, &resuming()?, MISSED).await?;
        let upto = ground.head().await?;
        // Otherwise the server does it when it likes, beside what is measured.
        eprintln!("vacuuming");
        let mut connection = ground.owned_database().connect("bench").await?;
        yardstick::tidy_up(&mut connection).await?;
        let partitions = retention::partitions(&mut connection).await?;
        let newest = partitions.iter().find(|partition| (partition.lo..partition.hi).contains(&upto.get()));
        let in_newest = newest.map_or(0, |partition| upto.get() + 1 - partition.lo.max(1));
        let filled_per_s = rows as f64 / time.as_secs_f64();
        Ok(Log { ground, devices, filled_per_s, in_newest, missed: (from, upto), found: vec![Vec::new(); QUESTIONS.len()] })
    }

    async fn report(&self, logs: &[Log<'_>]) -> Result<Report, Failure> {
        let (Some(small), Some(large)) = (logs.first(), logs.last()) else { return Err(Failure::other("no length was measured")) };
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
                "log {}: {first} rows when it was first asked, {} of them in its newest partition, {last} at the end",
                at + 1,
                log.in_newest
            ));
        }
        report.curves.push(curve);
        report.note(format!(
            "medians of {} rounds, in which the logs took turns; a growth is the median of the rounds' own ratios",
            self.rounds
        ));
        Ok(report)
    }
}

/// How much more each round found in the one log than in the other.
fn ratios(large: &[f64], small: &[f64]) -> Vec<f64> {
    large.iter().zip(small).map(|(large, small)| large / small).collect()
}

/// Asks each log each question: one log after the other, and back.
async fn ask_all(logs: &mut [Log<'_>]) -> Result<(), Failure> {
    for (at, (_, question, _)) in QUESTIONS.into_iter().enumerate() {
        let mut costs = vec![0.0; logs.len()];
        for turn in (0..logs.len()).chain((0..logs.len()).rev()) {
            costs[turn] += logs[turn].ask(question).await? / 2.0;
        }
        logs.iter_mut().zip(costs).for_each(|(log, cost)| log.found[at].push(cost));
    }
    Ok(())
}

impl Log<'_> {
    /// The median, in milliseconds.
    async fn ask(&self, question: Question) -> Result<f64, Failure> {
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
async fn appends(ground: &Ground, rows: usize, times: usize) -> Result<f64, Failure> {
    let mut connection = ground.database().connect("bench").await?;
    let mut head = read::state(&mut connection).await?.head;
    let mut found = Vec::with_capacity(times);
    // A connection plans its first append, which does not count.
    for n in 0..=times {
        let batch = FILLING.rows(0..rows as u64)?;
        let start = Instant::now();
        head = append_rows(&mut connection, head, &batch).await?;
        if n > 0 {
            found.push(start.elapsed());
        }
    }
    Ok(Times::new(found).percentile_ms(50.0))
}

/// None of those whom the log was filled for.
fn resuming() -> Result<Vec<UserId>, Failure> {
    (0..RESUMING).map(|n| user(MIXTURE.users + n)).collect()
}

/// The median time of the one page that a client with a hundred missed rows needs.
async fn resumes(ground: &Ground, (from, upto): (Seq, Seq)) -> Result<f64, Failure> {
    let users = resuming()?;
    let reader = ground.database().reader("bench", 1);
    // A connection plans its first page.
    one_page(&reader, &users[0], from, upto).await?;
    let mut times = Vec::with_capacity(RESUMING);
    for user in &users {
        times.push(one_page(&reader, user, from, upto).await?);
    }
    reader.close().await;
    Ok(Times::new(times).percentile_ms(50.0))
}

async fn one_page(reader: &Reader, user: &UserId, from: Seq, upto: Seq) -> Result<Duration, Failure> {
    let who = Principal { user: user.clone(), accounts: Vec::new() };
    let start = Instant::now();
    let page = read::page(reader, &who, from, upto).await?;
    let time = start.elapsed();
    if page.notifications.len() != MISSED {
        return Err(Failure::other(format!("a page had {} rows instead of {MISSED}", page.notifications.len())));
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
