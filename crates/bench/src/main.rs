//! Measures a hub: each figure has a ceiling from the same run.
//!
//! A rate alone says more about the machine than about the hub. So each bench also measures the machine without a hub:
//! plain SQL that commits or reads the same rows, or a plain TCP server that writes the same bytes. Both sides are
//! measured within one run, minutes apart at most, and the goal is set on their ratio.
//!
//! Results can be kept (`--json`), compared with earlier ones by their ratios ([`compare`]), and drawn ([`chart`]).
//!
//! A bench starts a hub as a separate process, on a private database in a new folder, and removes all of that
//! afterwards. On a given hub or database its rows stay, because a bench never deletes rows from a log; therefore the
//! user must allow it with the options in [`ground::Allowed`].

#![deny(clippy::print_stdout, clippy::print_stderr, reason = "`recado::cli::output` escapes what a terminal acts on")]

/// Like the standard macro, but escapes characters that control a terminal, and does not panic if stderr cannot be
/// written.
macro_rules! eprintln {
    ($($text:tt)*) => {
        recado::cli::output::talk(&format!($($text)*))
    };
}

mod batches;
mod burst;
mod business;
mod ceilings;
mod chart;
mod clocks;
mod command;
mod compare;
mod crowd;
mod curve;
mod curves;
mod database_counts;
mod fanout;
mod figure;
mod fill;
mod ground;
mod growth;
mod hub_process;
mod joined;
mod machine;
mod meter;
mod outbox;
mod paced;
mod pair;
mod peers;
mod plain_fanout;
mod plain_provider;
mod plain_sockets;
mod post;
mod post_client;
mod probes;
mod processes;
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
mod yardstick;

use std::time::Duration;

use clap::Parser;
use recado::cli::error::CliFailure;
use recado::cli::{EXIT_CODES, GlobalOptions};
use tokio::runtime::Builder;

use command::BenchCommand;

/// Measure a hub against what the same machine does without one.
#[derive(Debug, Parser)]
#[command(name = "recado-bench", version, after_help = EXIT_CODES)]
struct BenchCli {
    #[command(flatten)]
    global: GlobalOptions,
    #[command(flatten)]
    command: BenchCommand,
}

fn main() {
    let outcome = run(&BenchCli::parse());
    std::process::exit(recado::cli::exit_code("recado-bench", outcome));
}

fn run(cli: &BenchCli) -> Result<(), CliFailure> {
    let crypto = rustls::crypto::aws_lc_rs::default_provider().install_default();
    crypto.map_err(|_| CliFailure::other("could not install the crypto library: another one is installed already"))?;
    // The runtime reads this variable itself, and panics if it is invalid.
    recado::config::check_runtime().map_err(CliFailure::settings)?;
    let config = cli.global.start()?;
    let failed = |error| CliFailure::other(format!("could not start the runtime: {error}"));
    let runtime = Builder::new_multi_thread().enable_all().build().map_err(failed)?;
    let outcome = runtime.block_on(cli.command.run(&config, cli.global.output));
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}
