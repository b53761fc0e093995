//! `recado bench growth`: whether what a hub does costs the same in a short log and in a long one.
//!
//! Each log has a server of its own. All are filled first and then asked in turns, a question of one and at once the same of the next,
//! because a machine is not the same for the minutes that a filling takes: of one short log the same page took 0.9 to 1.5 ms within two minutes.
//! What counts is the median of the rounds' own ratios.

use std::time::Duration;

use clap::Args;
use tokio::time::Instant;

use super::ceilings::{Shape, append_times};
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
use crate::store::{Reader, read, yardstick};

/// The mixture that fills a log.
const MIXTURE: Mixture = Mixture { users: 20_000, accounts: 1000 };
/// Bytes of a post's body, about.
const SIZE: usize = 300;
/// Who resumes, and how many rows each has missed.
const RESUMING: usize = 200;
const MISSED: usize = 100;

/// What is asked of a log in each round. Appends make it longer, the more so the more rows they have, so they are few.
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
    ("append_1", Question::Append { rows: 1, times: 150 }, FLAT),
    ("append_100", Question::Append { rows: 100, times: 40 }, FLAT),
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
    /// Rows of the long log
    #[arg(long, default_value_t = 10_000_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    large: u64,
    /// Devices beside the long log; beside the short one as many less as it is shorter
    #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    devices: u32,
    /// Lengths that are measured, these two among them
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=20))]
    points: u8,
    /// How often each log is asked everything, in turn with the others
    #[arg(long, default_value_t = 11, value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,
    /// Fill without waiting for the disk; what is measured waits for it all the same
    #[arg(long)]
    relaxed: bool,
}

/// A log that was filled.
struct Log<'a> {
    ground: &'a Ground,
    rows: u64,
    devices: usize,
    filled_per_s: f64,
    /// What those who resume have missed: after the first, up to the second.
    missed: (Seq, Seq),
    /// The medians of the rounds, in milliseconds, for each question.
    found: Vec<Vec<f64>>,
}

impl Growth {
    /// One server for each length.
    pub fn grounds(&self) -> usize {
        self.points.into()
    }

    pub async fn run(&self, grounds: &[Ground]) -> Result<Report, Failure> {
        if self.large <= self.small {
            return Err(Failure::other("--large must be above --small"));
        }
        let mut logs = Vec::new();
        for (rows, ground) in self.lengths().into_iter().zip(grounds) {
            logs.push(self.log(ground, rows).await?);
        }
        for round in 1..=self.rounds {
            eprintln!("round {round} of {}", self.rounds);
            ask_all(&mut logs, round % 2 == 0).await?;
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
        let filling = Filling { mixture: MIXTURE, size: SIZE, keyed: true, relaxed: self.relaxed };
        let time = fill(ground, filling, rows).await?;
        let devices = usize::try_from(u64::from(self.devices) * rows / self.large).unwrap_or(0).max(1);
        fill_devices(ground, MIXTURE, devices).await?;
        let from = ground.head().await?;
        append_missed(ground, &resuming()?, MISSED).await?;
        let upto = ground.head().await?;
        // Otherwise the server does it when it likes, beside what is measured.
        eprintln!("vacuuming");
        yardstick::tidy_up(&mut ground.owned_database().connect("bench").await?).await?;
        let filled_per_s = rows as f64 / time.as_secs_f64();
        Ok(Log { ground, rows, devices, filled_per_s, missed: (from, upto), found: vec![Vec::new(); QUESTIONS.len()] })
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
            let ratios: Vec<f64> = in_large.iter().zip(in_small).map(|(large, small)| large / small).collect();
            report.figure(format!("{name}_growth"), median(&ratios), "").goal(Goal::AtMost(*most));
            report.figure(format!("{name}_large_p50_ms"), median(in_large), "ms");
            report.figure(format!("{name}_small_p50_ms"), median(in_small), "ms");
            let [least, greatest] =
                [ratios.iter().copied().reduce(f64::min), ratios.iter().copied().reduce(f64::max)].map(Option::unwrap_or_default);
            report.note(format!("{name}: the rounds' ratios are {least:.2} to {greatest:.2}"));
        }
        report.figure("fill_large_per_s", large.filled_per_s, "rows/s").beside("fill_small_per_s", small.filled_per_s);
        for (name, log) in [("rows_large_at_end", large), ("rows_small_at_end", small)] {
            report.figure(name, log.ground.head().await?.get() as f64, "rows");
        }
        report.note(format!(
            "medians of {} rounds, in which the logs took turns; a growth is the median of the rounds' own ratios",
            self.rounds
        ));
        report.note("measuring appends as well: the logs at the end are longer than they were filled");
        let mut curve = Curve::new("log", "What a hub asks of a log, by the log's length", "rows", "ms");
        for log in logs {
            for ((name, _, _), found) in QUESTIONS.iter().zip(&log.found) {
                curve.point(name, log.rows as f64, median(found));
            }
        }
        report.curves.push(curve);
        Ok(report)
    }
}

/// Asks each log each question, one log after the other, so that what is compared is moments apart.
async fn ask_all(logs: &mut [Log<'_>], backwards: bool) -> Result<(), Failure> {
    for (at, (_, question, _)) in QUESTIONS.into_iter().enumerate() {
        let mut turns: Vec<&mut Log<'_>> = logs.iter_mut().collect();
        if backwards {
            turns.reverse();
        }
        for log in turns {
            let cost = log.ask(question).await?;
            log.found[at].push(cost);
        }
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
    let shape = Shape { batch: rows, size: SIZE, users: MIXTURE.users, keyed: true };
    // A connection plans its first append.
    append_times(&mut connection, shape, 1).await?;
    Ok(append_times(&mut connection, shape, times).await?.percentile_ms(50.0))
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
    fn each_length_is_as_many_times_as_long_as_the_one_before() {
        let growth = |points| Growth { small: 100, large: 10_000, devices: 1, points, rounds: 1, relaxed: false };
        assert_eq!(growth(2).lengths(), [100, 10_000]);
        assert_eq!(growth(3).lengths(), [100, 1000, 10_000]);
        assert_eq!(growth(5).lengths(), [100, 316, 1000, 3162, 10_000]);
    }
}
