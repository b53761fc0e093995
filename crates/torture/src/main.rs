//! Runs real hubs on a real PostgreSQL, breaks everything in turn, and checks the history.
//!
//! See `docs/internals/torture.md`.

mod adversaries;
mod book;
mod cast;
mod consumers;
mod devices;
mod evidence;
mod faults;
mod hubs;
mod issuer;
mod machine;
mod nemesis;
mod plain_server;
mod plan;
mod postgres;
mod producers;
mod provider;
mod quotas;
mod receiver;
mod sdk;
mod secrets;
mod stage;
mod witness;
mod world;
mod writers;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use private_postgres::Environment;
use recado::config::{Config, Values};
use recado::domain::resume;
use recado_torture_check::fact::{FactEntry, RunFact};
use recado_torture_check::{CheckLimits, LOWERED_AT_MOST, QuietLatency, Violation, check, latency, seconds, slowest_recovery, take_overs};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;

use faults::NemesisFault;
use plan::RunPlan;
use sdk::{SdkMutant, SdkProgram, SdkUse};

/// Why a run has no verdict: the machine or this program failed. This is not a violation.
pub type RunError = Box<dyn std::error::Error + Send + Sync>;

/// The checker does not know the hub; its copy of this limit must be the hub's.
const _: () = assert!(LOWERED_AT_MOST == resume::LOWERED_AT_MOST as usize);

/// Time limit for healing, waiting and gathering, also on a machine that has little time for it.
const LONGEST_END: Duration = Duration::from_secs(700);

/// Violations of one rule that are shown.
const SHOWN: usize = 12;

/// Break a system of hubs in every way, and check what its clients saw
#[derive(Debug, Parser)]
#[command(
    name = "torture",
    after_help = "Exit codes: 0 good · 1 a rule is broken (or, with --expect, is not) · 3 the run could not be made"
)]
struct TortureCli {
    /// Seconds of faults; healing and waiting come on top
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Seed of all random choices (default: another one each time)
    #[arg(long)]
    seed: Option<u64>,
    #[arg(long, default_value_t = 2)]
    hubs: usize,
    /// Only these faults, separated by commas
    #[arg(long, value_enum, value_delimiter = ',')]
    faults: Vec<NemesisFault>,
    /// Write the history to this file and keep the logs, whatever the result
    #[arg(long, value_name = "FILE")]
    history: Option<PathBuf>,
    /// Check this history again, without a run
    #[arg(long, value_name = "FILE", conflicts_with_all = ["history", "mutant"])]
    judge: Option<PathBuf>,
    /// The hub's program (default: this program, which can be a hub)
    #[arg(long, value_name = "PROGRAM")]
    hub: Option<PathBuf>,
    /// Run hubs with this deliberate fault; needs the feature `mutants`
    #[arg(long, requires = "expect")]
    mutant: Option<String>,
    /// Devices that use the TypeScript SDK
    #[arg(long, value_enum, value_name = "WHEN", default_value = "auto")]
    sdk: SdkUse,
    /// Run devices of the SDK with this deliberate fault
    #[arg(long, value_enum, value_name = "NAME", requires = "expect", conflicts_with = "mutant")]
    sdk_mutant: Option<SdkMutant>,
    /// The rule that must be broken
    #[arg(long, value_name = "RULE")]
    expect: Option<String>,
}

fn main() -> ExitCode {
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        return trouble("another crypto library was chosen before ours");
    }
    // The hubs of a run are this same program, so hub and checker come from one build.
    let hub = matches!(std::env::args().nth(1).as_deref(), Some("serve" | "webhook")).then(recado::cli::prepare);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return trouble(&error.to_string()),
    };
    if let Some(hub) = hub {
        let code = match hub {
            Ok(hub) => runtime.block_on(recado::cli::main(hub)),
            Err(code) => code,
        };
        runtime.shutdown_timeout(std::time::Duration::from_secs(1));
        std::process::exit(code);
    }
    let cli = TortureCli::parse();
    match runtime.block_on(run(&cli)) {
        Ok(code) => code,
        Err(error) => trouble(&error.to_string()),
    }
}

fn trouble(what: &str) -> ExitCode {
    eprintln!("torture: {what}");
    ExitCode::from(3)
}

async fn run(cli: &TortureCli) -> Result<ExitCode, RunError> {
    if cli.mutant.is_some() && cfg!(not(feature = "mutants")) {
        return Err("this program contains no mutants; build it with --features mutants".into());
    }
    if let Some(path) = &cli.judge {
        let history = book::read(path)?;
        return Ok(verdict(cli, &history, &check(&history, CheckLimits::default())));
    }
    let seed = cli.seed.unwrap_or_else(|| u64::from(rand::random::<u32>()));
    let mutant = cli.mutant.as_ref().map_or_else(String::new, |mutant| format!(" --mutant {mutant}"));
    println!("torture --seconds {} --seed {seed}{mutant}", cli.seconds);
    let machine = Config::load(&Values::new())?.machine;
    let folder = machine.tmpdir.clone().unwrap_or_else(|| "/tmp".into()).join(format!("recado-torture-{}", std::process::id()));
    let environment = Environment { path: machine.path, home: machine.home, tmpdir: machine.tmpdir, ..Environment::default() };
    let program = cli.hub.clone().map_or_else(std::env::current_exe, Ok)?;
    let mut faults = if cli.faults.is_empty() { NemesisFault::ALL.to_vec() } else { cli.faults.clone() };
    // A deliberate fault of the SDK's devices shows nothing without them.
    let when = if cli.sdk_mutant.is_some() { SdkUse::Require } else { cli.sdk };
    let sdk = SdkProgram::wanted(when, environment.path.as_deref()).await?;
    if sdk.is_none() && cli.faults.contains(&NemesisFault::SdkKill) {
        return Err("the fault sdk-kill needs devices of the TypeScript SDK: use --sdk require".into());
    }
    faults.retain(|fault| sdk.is_some() || *fault != NemesisFault::SdkKill);
    let plan = RunPlan {
        seed,
        seconds: cli.seconds,
        hubs: cli.hubs.max(2),
        faults,
        mutant: cli.mutant.clone(),
        sdk,
        sdk_mutant: cli.sdk_mutant,
        program,
        folder: folder.clone(),
        environment,
    };
    let played = tokio::select! {
        played = timeout(Duration::from_secs(cli.seconds) + LONGEST_END, stage::play(&plan)) => {
            played.unwrap_or_else(|_| Err("the run did not end in time".into()))
        }
        () = told_to_stop() => Err("told to stop".into()),
    };
    let history = match played {
        Ok(history) => history,
        Err(error) => {
            eprintln!("torture: the logs of the hubs are in {}", folder.display());
            return Err(error);
        }
    };
    let violations = check(&history, CheckLimits::default());
    let is_kept = cli.history.is_some() || (!violations.is_empty() && cli.expect.is_none());
    if is_kept {
        let path = cli.history.clone().unwrap_or_else(|| folder.join("history.jsonl"));
        book::write(&history, &path)?;
        println!("history: {}", path.display());
    }
    if !is_kept {
        let _ = std::fs::remove_dir_all(&folder);
    } else {
        println!("logs: {}", folder.display());
    }
    Ok(verdict(cli, &history, &violations))
}

/// Dropping the run ends its hubs and its database.
async fn told_to_stop() {
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        },
        Err(_) => std::future::pending().await,
    }
}

fn verdict(cli: &TortureCli, history: &[FactEntry], violations: &[Violation]) -> ExitCode {
    let count = |which: fn(&RunFact) -> bool| history.iter().filter(|entry| which(&entry.fact)).count();
    println!(
        "{:.1} s: {} posts, {} rows, {} connections, {} notifications given, {} faults",
        history.last().map_or(0.0, |entry| seconds(entry.t)),
        count(|fact| matches!(fact, RunFact::PostInvoke { .. })),
        count(|fact| matches!(fact, RunFact::Row { .. })),
        count(|fact| matches!(fact, RunFact::ConnOpen { .. })),
        count(|fact| matches!(fact, RunFact::Recv { .. })),
        count(|fact| matches!(fact, RunFact::FaultEnd { .. })),
    );
    println!(
        "{} commands, {} of them heard by the provider; {} of its messages in the log; {} take-overs",
        count(|fact| matches!(fact, RunFact::CommandGiven { .. })),
        count(|fact| matches!(fact, RunFact::UpFrame { command: Some(_), .. })),
        count(|fact| matches!(fact, RunFact::UpEntry { said: Some(_), .. })),
        take_overs(history),
    );
    if let Some(latency) = latency(history) {
        let QuietLatency { count, p50_ms, p99_ms, max_ms } = latency;
        println!("from 201 to a device in quiet: {count} times, median {p50_ms:.1} ms, p99 {p99_ms:.1} ms, longest {max_ms:.1} ms");
    }
    if let Some((ms, fault)) = slowest_recovery(history) {
        println!("from the end of a fault until a device has everything: longest {ms:.0} ms, after {fault}");
    }
    let mut rules: Vec<&str> = violations.iter().map(|violation| violation.rule).collect();
    rules.dedup();
    for rule in &rules {
        let of_it: Vec<&Violation> = violations.iter().filter(|violation| violation.rule == *rule).collect();
        of_it.iter().take(SHOWN).for_each(|violation| println!("{violation}"));
        if of_it.len() > SHOWN {
            println!("{rule}: {} more", of_it.len() - SHOWN);
        }
    }
    let broken = match &cli.expect {
        Some(rule) => !rules.contains(&rule.as_str()),
        None => !rules.is_empty(),
    };
    match (&cli.expect, broken) {
        (Some(rule), true) => println!("not caught: {rule} is not broken"),
        (Some(rule), false) => println!("caught by {rule}"),
        (None, true) => println!("bad: {}", rules.join(" ")),
        (None, false) => println!("good"),
    }
    ExitCode::from(u8::from(broken))
}
