//! Defines the command line: one subcommand for each bench.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::time::Duration;

use clap::{Args, Subcommand};
use recado::cli::error::CliFailure;
use recado::cli::output::Format;
use recado::config::Config;
use tokio::signal::unix::{SignalKind, signal};

use super::ground::{Allowed, Ground, GroundNeeds};
use super::hub_process::hub_program;
use super::machine::{self, BenchMachine, enough_files, other_work};
use super::report::Report;
use super::results::Results;
use super::{
    chart, compare, curves, fanout, fill, growth, outbox, pair, peers, plain_fanout, plain_provider, plain_sockets, publish, resume,
    steady_poster, storm, upstream,
};

/// Measure a hub against what the same machine does without one
#[derive(Debug, Args)]
pub struct BenchCommand {
    #[command(subcommand)]
    what: BenchKind,
    /// Allow a hub that is not on this machine
    #[arg(long, global = true)]
    allow_remote: bool,
    /// Allow a log that other programs have written into; the bench's rows stay there
    #[arg(long, global = true)]
    allow_used_log: bool,
    /// Write the results and facts of the machine to a file; - writes them to stdout in place of the table
    #[arg(long, global = true, value_name = "FILE")]
    json: Option<PathBuf>,
    /// A label by which compare tells two runs of one bench apart
    #[arg(long, global = true, value_name = "NAME")]
    label: Option<String>,
    /// The revision of the program, recorded with the results
    #[arg(long, global = true, value_name = "REVISION")]
    revision: Option<String>,
}

#[derive(Debug, Subcommand)]
enum BenchKind {
    /// Posts a second, and the time from POST to socket
    Publish(publish::PostBench),
    /// One post to thousands of sockets, and the memory of an idle one
    Fanout(fanout::Fanout),
    /// The cost of recado.notify in a caller's own transaction, and the time until it is on a socket
    Outbox(outbox::OutboxBench),
    /// Many clients that come back at once
    Resume(resume::ResumeBench),
    /// All clients cut off at once, and back at once
    Storm(storm::StormBench),
    /// Two hubs on one database, compared with one
    Pair(pair::Pair),
    /// The measurements by which other hubs are compared with this one, as one table
    Peers(peers::PeersBench),
    /// How costs grow with idle connections and with accounts
    Curves(curves::Curves),
    /// Many provider sessions on one hub, and their take-over
    Upstream(upstream::UpstreamBench),
    /// Fill the log of a given database (--database-url or --data-dir)
    Fill(fill::Fill),
    /// Whether costs grow with the log
    Growth(growth::Growth),
    /// Compare two runs by their ratios; exit code 1 when one got worse
    Compare(compare::Compare),
    /// Draw the curves of a run as SVG
    Chart(chart::Chart),
    /// The server process of fanout's ceiling
    #[command(hide = true)]
    PlainServer {
        #[arg(long)]
        connections: usize,
        #[arg(long)]
        bytes: usize,
    },
    /// The server process of storm's ceiling
    #[command(hide = true)]
    PlainSockets {
        #[arg(long)]
        frames: usize,
        #[arg(long)]
        bytes: usize,
    },
    /// The posting process of storm
    #[command(hide = true)]
    SteadyPoster {
        #[arg(long)]
        hub: SocketAddr,
        #[arg(long)]
        rate: u32,
    },
    /// The provider process of upstream
    #[command(hide = true)]
    PlainProvider {
        #[arg(long)]
        interval: u64,
    },
}

impl BenchCommand {
    pub async fn run(&self, config: &Config, format: Format) -> Result<(), CliFailure> {
        match &self.what {
            BenchKind::Compare(compare) => return compare.run(format),
            BenchKind::Chart(chart) => return chart.run(),
            BenchKind::PlainServer { connections, bytes } => return plain_fanout::serve(*connections, *bytes).await,
            BenchKind::PlainSockets { frames, bytes } => return plain_sockets::serve(*frames, *bytes).await,
            BenchKind::SteadyPoster { hub, rate } => return steady_poster::serve(*hub, *rate).await,
            BenchKind::PlainProvider { interval } => return plain_provider::serve(Duration::from_secs(*interval)).await,
            _ => {}
        }
        enough_files(self.sockets())?;
        let config = self.fit(config)?;
        if self.starts_hubs(&config) {
            // Before a database is made for it.
            hub_program()?;
        }
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

    /// `grounds` holds every ground that was opened, also when opening another one failed. An interrupt is only looked
    /// for between two grounds: stopping half-way would leave a server running.
    async fn open(
        &self,
        config: &Config,
        allowed: Allowed,
        grounds: &mut Vec<Ground>,
        mut stop: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<(), CliFailure> {
        let count = if let BenchKind::Growth(growth) = &self.what { growth.grounds() } else { 1 };
        for number in 0..count {
            tokio::select! {
                biased;
                () = stop.as_mut() => return Err(interrupted()),
                () = std::future::ready(()) => {}
            }
            let needs = if let BenchKind::Peers(peers) = &self.what { peers.needs() } else { GroundNeeds::default() };
            grounds.push(Ground::open(config, allowed, needs, number).await?);
        }
        Ok(())
    }

    async fn results(&self, grounds: &[Ground], load: Option<f64>) -> Result<Results, CliFailure> {
        let ground = grounds.first().ok_or_else(|| CliFailure::other("no database was opened for the benchmark"))?;
        let mut report = match &self.what {
            BenchKind::Growth(growth) => growth.run(grounds).await?,
            _ => self.measure(ground).await?,
        };
        if let Some(disturbed) = load.and_then(other_work) {
            report.note(disturbed);
        }
        let machine = BenchMachine::facts(ground, load).await?;
        Ok(Results::new(report, machine, self.label.clone(), self.revision.clone()))
    }

    /// The larger number of sockets that the hub or the bench has open.
    fn sockets(&self) -> usize {
        match &self.what {
            BenchKind::Publish(publish) => publish.sockets(),
            BenchKind::Fanout(fanout) => fanout.sockets(),
            BenchKind::Outbox(outbox) => outbox.sockets(),
            BenchKind::Resume(resume) => resume.sockets(),
            BenchKind::Storm(storm) => storm.sockets(),
            BenchKind::Pair(pair) => pair.sockets(),
            BenchKind::Peers(peers) => peers.sockets(),
            BenchKind::Curves(curves) => curves.sockets(),
            BenchKind::Upstream(upstream) => upstream.sockets(),
            _ => 0,
        }
    }

    /// Adapts the given settings to this bench.
    fn fit(&self, config: &Config) -> Result<Config, CliFailure> {
        let mut config = config.clone();
        match self.what {
            BenchKind::Fill(_) if config.database_url.is_none() && config.data_dir.is_none() => {
                return Err(CliFailure::settings("no database to fill: set --database-url or --data-dir"));
            }
            // Needs no hub, and fills each log to the requested length.
            BenchKind::Growth(ref growth) => {
                growth.check()?;
                config.url_is_given = false;
                config.database_url = None;
                config.data_dir = None;
            }
            BenchKind::Fill(_) => config.url_is_given = false,
            _ => {}
        }
        Ok(config)
    }

    fn starts_hubs(&self, config: &Config) -> bool {
        !config.url_is_given && !matches!(self.what, BenchKind::Fill(_) | BenchKind::Growth(_))
    }

    async fn measure(&self, ground: &Ground) -> Result<Report, CliFailure> {
        match &self.what {
            BenchKind::Publish(publish) => publish.run(ground).await,
            BenchKind::Fanout(fanout) => fanout.run(ground).await,
            BenchKind::Outbox(outbox) => outbox.run(ground).await,
            BenchKind::Resume(resume) => resume.run(ground).await,
            BenchKind::Fill(fill) => fill.run(ground).await,
            BenchKind::Upstream(upstream) => upstream.run(ground).await,
            BenchKind::Storm(storm) => storm.run(ground).await,
            BenchKind::Pair(pair) => pair.run(ground).await,
            BenchKind::Peers(peers) => peers.run(ground).await,
            BenchKind::Curves(curves) => curves.run(ground).await,
            _ => Err(CliFailure::other("this subcommand does not run a measurement")),
        }
    }
}

fn interrupted() -> CliFailure {
    CliFailure::other("interrupted")
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
