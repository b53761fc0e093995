//! Tests provider sessions under a storm of faults.
//!
//! Hubs die, freeze and stop, connections are cut on both sides of them, and the provider flaps. No command goes up
//! twice, no loss goes unreported, and only the owner acts.
//!
//! `RECADO_CHAOS_SEED` repeats a storm, `RECADO_CHAOS_SECONDS` makes it longer. The checker is
//! `crates/torture-check/src/upstream_history.rs`, and is itself tested in `upstream_checker.rs`.

use std::time::Duration;

use tokio::time::Instant;

use super::support::storm::{ChaosStorm, FAULTS};
use super::support::*;

/// How long after the last fault everything must be healed: the tries of a session in a minute may be used up.
const HEALED_WITHIN: Duration = Duration::from_secs(100);

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn a_storm_of_faults_breaks_no_promise() {
    let _turn = heavy().await;
    let seed = setting("RECADO_CHAOS_SEED").unwrap_or_else(rand::random);
    let seconds = setting("RECADO_CHAOS_SECONDS").unwrap_or(25);
    eprintln!("RECADO_CHAOS_SEED={seed} RECADO_CHAOS_SECONDS={seconds}");
    let mut storm = ChaosStorm::over(3, 24, 2, seed).await;
    let least = usize::try_from(seconds).unwrap();
    // A storm with few events proves nothing. On a machine with much to do it takes longer to have as many.
    storm.rage(Duration::from_secs(seconds), least).await;
    let healing = Instant::now();
    storm.heal(HEALED_WITHIN).await;
    let (healed, counts) = (healing.elapsed(), storm.counts.clone());
    let history = storm.history().await;

    let faults: Vec<String> = history.faults().iter().map(ToString::to_string).collect();
    let state = |state: &str| history.commands.iter().filter(|row| row.state == state).count();
    eprintln!(
        "{} commands: {} sent, {} unknown, {} rejected, {} failed; {} terms, {} take-overs, {} sockets, {} messages; healed in {healed:?}; {counts:?}",
        history.commands.len(),
        state("sent"),
        state("unknown"),
        state("rejected"),
        state("failed"),
        history.terms.len(),
        history.take_overs(),
        history.links.len(),
        history.log.len(),
    );
    assert!(faults.is_empty(), "seed {seed}: {} faults, first:\n{}", faults.len(), faults[..faults.len().min(20)].join("\n"));

    assert!(history.commands.len() >= least * 20, "{} commands", history.commands.len());
    assert!(state("sent") >= history.commands.len() / 4, "{} were sent", state("sent"));
    assert!(history.take_overs() >= least, "{} take-overs", history.take_overs());
    assert!(history.log.len() >= least * 20, "{} messages", history.log.len());
    assert!(FAULTS.iter().all(|fault| counts.get(fault).is_some_and(|count| *count > 0)), "each fault at least once: {counts:?}");
}
