//! `recado bench`: figures of this hub, each beside the ceiling of the same machine in the same run.
//!
//! A rate alone says more of the machine than of the hub. So each bench also measures what the machine does without a
//! hub: plain SQL that commits or reads the same rows, a plain TCP server that writes the same bytes. Both sides are
//! measured within one run, minutes apart at most, and their ratio is what a goal is set on.
//!
//! What was found can be kept (`--json`), compared with what was found before by its ratios ([`compare`]), and drawn ([`chart`]).
//!
//! A bench starts a hub of its own, as a process beside it, on a private database in a new folder; all of that goes
//! away afterwards. On a given hub or database the rows stay, because nothing takes rows out of a log; hence the
//! question for [`ground::Allowed`].

mod batches;
mod burst;
mod ceilings;
mod chart;
mod clocks;
mod compare;
mod crowd;
mod curve;
mod curves;
mod fanout;
mod figure;
mod fill;
mod ground;
mod growth;
mod hub_process;
mod machine;
mod outbox;
mod paced;
mod pair;
mod plain_fanout;
mod plain_provider;
mod plain_sockets;
mod post;
mod post_client;
mod probes;
mod publish;
mod report;
mod results;
mod resume;
mod returning;
mod steady_poster;
mod storm;
mod svg;
mod times;
mod upstream;
mod ws_client;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::time::Duration;

use clap::{Args, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use super::error::Failure;
use super::output::Format;
use crate::config::Config;
use ground::{Allowed, Ground};
use machine::{Machine, enough_files, other_work};
use report::Report;
use results::Results;

/// Measure a hub beside what the same machine does without one.
#[derive(Debug, Args)]
pub struct Bench {
    #[command(subcommand)]
    what: What,
    /// Allow a hub that is not on this machine
    #[arg(long, global = true)]
    allow_remote: bool,
    /// Allow a log that others have written into; the bench's rows stay there
    #[arg(long, global = true)]
    allow_used_log: bool,
    /// Write what was found, with facts of the machine, to a file; - writes it to stdout in place of the table
    #[arg(long, global = true, value_name = "FILE")]
    json: Option<PathBuf>,
    /// A name by which compare tells two runs of one bench apart
    #[arg(long, global = true, value_name = "NAME")]
    label: Option<String>,
    /// The revision of the program, to be kept with what was found
    #[arg(long, global = true, value_name = "REVISION")]
    revision: Option<String>,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Posts a second, and the time from POST to socket
    Publish(publish::Publish),
    /// One post to thousands of sockets, and the memory of an idle one
    Fanout(fanout::Fanout),
    /// What recado.notify costs a caller's own transaction, and how soon it is on a socket
    Outbox(outbox::Outbox),
    /// Many clients come back at once
    Resume(resume::Resume),
    /// Everyone is cut off at once and comes back at once
    Storm(storm::Storm),
    /// Two hubs on one database beside one
    Pair(pair::Pair),
    /// How costs grow with idle connections and with accounts
    Curves(curves::Curves),
    /// Many sessions with a provider on one hub, and their take-over
    Upstream(upstream::Upstream),
    /// Fill the log of a given database (--database-url or --data-dir)
    Fill(fill::Fill),
    /// Whether costs grow with the log
    Growth(growth::Growth),
    /// Compare two runs by their ratios; exit code 1 when one got worse
    Compare(compare::Compare),
    /// Draw the curves of a run as SVG
    Chart(chart::Chart),
    /// The other side of fanout's ceiling
    #[command(hide = true)]
    PlainServer {
        #[arg(long)]
        connections: usize,
        #[arg(long)]
        bytes: usize,
    },
    /// The other side of storm's ceiling
    #[command(hide = true)]
    PlainSockets {
        #[arg(long)]
        frames: usize,
        #[arg(long)]
        bytes: usize,
    },
    /// Who posts during a storm
    #[command(hide = true)]
    SteadyPoster {
        #[arg(long)]
        hub: SocketAddr,
        #[arg(long)]
        rate: u32,
    },
    /// The other side of upstream
    #[command(hide = true)]
    PlainProvider {
        #[arg(long)]
        interval: u64,
    },
}

impl Bench {
    pub async fn run(&self, config: &Config, format: Format) -> Result<(), Failure> {
        match &self.what {
            What::Compare(compare) => return compare.run(format),
            What::Chart(chart) => return chart.run(),
            What::PlainServer { connections, bytes } => return plain_fanout::serve(*connections, *bytes).await,
            What::PlainSockets { frames, bytes } => return plain_sockets::serve(*frames, *bytes).await,
            What::SteadyPoster { hub, rate } => return steady_poster::serve(*hub, *rate).await,
            What::PlainProvider { interval } => return plain_provider::serve(Duration::from_secs(*interval)).await,
            _ => {}
        }
        enough_files(self.sockets())?;
        let config = self.fit(config)?;
        let allowed = Allowed { remote: self.allow_remote, used_log: self.allow_used_log };
        let load = machine::load();
        let mut grounds = Vec::new();
        let mut stop = pin!(told_to_stop());
        let outcome = match self.open(&config, allowed, &mut grounds, stop.as_mut()).await {
            Err(failure) => Err(failure),
            Ok(()) => tokio::select! {
                outcome = self.results(&grounds, load) => outcome,
                () = stop => Err(interrupted()),
            },
        };
        for ground in grounds {
            ground.close().await;
        }
        let results = outcome?;
        match &self.json {
            Some(file) if file == Path::new("-") => results.print(Format::Json),
            Some(file) => results.write(file).and_then(|()| results.print(format)),
            None => results.print(format),
        }
    }

    /// What was opened is in `grounds`, also when another one could not be. Between two of them it looks whether to stop; to leave one half
    /// open would leave a server behind.
    async fn open(
        &self,
        config: &Config,
        allowed: Allowed,
        grounds: &mut Vec<Ground>,
        mut stop: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<(), Failure> {
        let count = if let What::Growth(growth) = &self.what { growth.grounds() } else { 1 };
        for number in 0..count {
            tokio::select! {
                biased;
                () = stop.as_mut() => return Err(interrupted()),
                () = std::future::ready(()) => {}
            }
            grounds.push(Ground::open(config, allowed, number).await?);
        }
        Ok(())
    }

    async fn results(&self, grounds: &[Ground], load: Option<f64>) -> Result<Results, Failure> {
        let ground = grounds.first().ok_or_else(|| Failure::other("it stands on nothing"))?;
        let mut report = match &self.what {
            What::Growth(growth) => growth.run(grounds).await?,
            _ => self.measure(ground).await?,
        };
        if let Some(disturbed) = load.and_then(other_work) {
            report.note(disturbed);
        }
        let machine = Machine::facts(ground, load).await?;
        Ok(Results::new(report, machine, self.label.clone(), self.revision.clone()))
    }

    /// Most sockets that the hub and the bench have open, each.
    fn sockets(&self) -> usize {
        match &self.what {
            What::Publish(publish) => publish.sockets(),
            What::Fanout(fanout) => fanout.sockets(),
            What::Outbox(outbox) => outbox.sockets(),
            What::Resume(resume) => resume.sockets(),
            What::Storm(storm) => storm.sockets(),
            What::Pair(pair) => pair.sockets(),
            What::Curves(curves) => curves.sockets(),
            What::Upstream(upstream) => upstream.sockets(),
            _ => 0,
        }
    }

    /// What a bench does with the settings that it was given.
    fn fit(&self, config: &Config) -> Result<Config, Failure> {
        let mut config = config.clone();
        match self.what {
            What::Fill(_) if config.database_url.is_none() && config.data_dir.is_none() => {
                return Err(Failure::settings("say which database is to be filled: --database-url or --data-dir"));
            }
            // It needs no hub, and each log is of the length that it says.
            What::Growth(ref growth) => {
                growth.check()?;
                config.url_is_given = false;
                config.database_url = None;
                config.data_dir = None;
            }
            What::Fill(_) => config.url_is_given = false,
            _ => {}
        }
        Ok(config)
    }

    async fn measure(&self, ground: &Ground) -> Result<Report, Failure> {
        match &self.what {
            What::Publish(publish) => publish.run(ground).await,
            What::Fanout(fanout) => fanout.run(ground).await,
            What::Outbox(outbox) => outbox.run(ground).await,
            What::Resume(resume) => resume.run(ground).await,
            What::Fill(fill) => fill.run(ground).await,
            What::Upstream(upstream) => upstream.run(ground).await,
            What::Storm(storm) => storm.run(ground).await,
            What::Pair(pair) => pair.run(ground).await,
            What::Curves(curves) => curves.run(ground).await,
            _ => Err(Failure::other("this one measures nothing")),
        }
    }
}

fn interrupted() -> Failure {
    Failure::other("interrupted")
}

async fn told_to_stop() {
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        },
        Err(_) => drop(tokio::signal::ctrl_c().await),
    }
}

/// What all tasks came to, or the first failure; the others are then ended.
async fn joined<T: 'static>(mut tasks: JoinSet<Result<T, Failure>>) -> Result<Vec<T>, Failure> {
    let mut results = Vec::with_capacity(tasks.len());
    while let Some(joined) = tasks.join_next().await {
        results.push(joined.map_err(|error| Failure::other(error.to_string()))??);
    }
    Ok(results)
}
