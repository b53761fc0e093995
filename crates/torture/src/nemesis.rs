//! Injects faults in turn, by the seed, each with a proof of its effect.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use recado_testkit::process;
use recado_testkit::proxy::{Cut, Proxy, ProxyFlow};
use recado_torture_check::fact::RunFact;
use tokio::time::sleep;

use crate::faults::NemesisFault;
use crate::hubs::{LEASE, TortureHub};
use crate::producers::LONGEST_TRANSACTION;
use crate::witness::upstream;
use crate::world::RunWorld;
use crate::writers::NONE;
use crate::{RunError, adversaries, witness};

/// Shortest time of an attack; the second is for a run with one kind of attack.
const ATTACK: (Duration, Duration) = (Duration::from_secs(4), Duration::from_secs(20));

/// Longest wait for recovery, above the limit of rule C15.
const RECOVERY_LIMIT: Duration = Duration::from_secs(18);

/// Longest wait until a hub holds provider sessions.
const OWNER_LIMIT: Duration = Duration::from_secs(5);
/// Longest wait for the take-over of a session after its lease; the contract allows five seconds.
const TAKE_OVER_LIMIT: Duration = Duration::from_secs(8);

/// Longest wait until a hub that has just lost the database listens again.
const LISTEN_LIMIT: Duration = Duration::from_secs(5);

/// A fault with its random parameters.
#[derive(Clone, Copy)]
struct Lot {
    fault: NemesisFault,
    /// Another fault that is active at the same time.
    paired: Option<NemesisFault>,
    hub: usize,
    length: Duration,
    delay: Duration,
}

pub struct Nemesis {
    world: Arc<RunWorld>,
    random: StdRng,
    kinds: Vec<NemesisFault>,
    round: Vec<NemesisFault>,
}

impl Nemesis {
    pub fn new(world: Arc<RunWorld>, random: StdRng, kinds: Vec<NemesisFault>) -> Self {
        Self { world, random, kinds, round: Vec::new() }
    }

    /// Injects faults until `until`. Every kind comes once before any kind repeats. Two faults come at once in one of
    /// five cases. The next fault waits until every device has recovered in three of ten cases.
    pub async fn run(&mut self, until: Instant) -> Result<(), RunError> {
        sleep(Duration::from_secs(2)).await;
        while Instant::now() < until {
            let Some(fault) = self.next() else { return Ok(()) };
            let mut lot = self.draw(fault, None);
            let second = self.random.random_bool(0.2).then(|| self.next()).flatten().filter(|second| second.goes_with(fault));
            match second {
                Some(second) => {
                    lot.paired = Some(second);
                    let other = self.draw(second, Some(fault));
                    tokio::try_join!(self.strike(lot), self.strike(other))?;
                }
                None => self.strike(lot).await?,
            }
            if self.random.random_bool(0.3) {
                self.world.at_head(RECOVERY_LIMIT, false).await?;
            }
            let quiet = self.random.random_range(500..2_500);
            sleep(Duration::from_millis(quiet)).await;
        }
        Ok(())
    }

    fn next(&mut self) -> Option<NemesisFault> {
        if self.round.is_empty() {
            self.round.clone_from(&self.kinds);
            self.round.shuffle(&mut self.random);
        }
        self.round.pop()
    }

    fn draw(&mut self, fault: NemesisFault, paired: Option<NemesisFault>) -> Lot {
        Lot {
            fault,
            paired,
            hub: self.random.random_range(0..self.world.hubs.len()),
            length: Duration::from_millis(self.random.random_range(800..3_000)),
            delay: Duration::from_millis(self.random.random_range(20..100)),
        }
    }

    async fn strike(&self, mut lot: Lot) -> Result<(), RunError> {
        // These faults need a hub that holds sessions: after an owner's death there is none until its lease ends.
        if matches!(lot.fault, NemesisFault::ProviderFlap | NemesisFault::ProviderHole | NemesisFault::OwnerFreeze | NemesisFault::OwnerCut)
        {
            lot.hub = self.owner().await.unwrap_or(lot.hub);
        }
        let on = match lot.fault {
            NemesisFault::HubKillAll
            | NemesisFault::ClientsReset
            | NemesisFault::StrangerFlood
            | NemesisFault::Forger
            | NemesisFault::KeyRemoval => "all hubs".to_owned(),
            NemesisFault::PostgresKill | NemesisFault::PostgresFailover | NemesisFault::StrangerLocks | NemesisFault::Eraser => {
                "postgres".to_owned()
            }
            NemesisFault::ProviderFlap => "the provider".to_owned(),
            NemesisFault::SdkKill => "the SDK devices".to_owned(),
            _ => format!("hub {}", lot.hub),
        };
        let (book, name) = (Arc::clone(&self.world.book), lot.fault.name().to_owned());
        println!("{:7.3} s  {name} on {on}", book.seconds());
        book.note(RunFact::FaultBegin { fault: name.clone(), on: on.clone() });
        // During a process fault the network connection may have carried nothing. The proof of the process fault covers
        // both.
        let paired = lot.paired.filter(|paired| paired.is_of_a_process());
        let evidence = self.perform(lot).await?.or_else(|| paired.map(|paired| format!("covered by the proof of {}", paired.name())));
        book.note(RunFact::FaultEnd { fault: name, on, evidence });
        if lot.fault == NemesisFault::PostgresFailover {
            // Recovery does not wait for it, and the next failover needs it.
            self.world.postgres.begin_standby().await?;
        }
        Ok(())
    }

    async fn perform(&self, lot: Lot) -> Result<Option<String>, RunError> {
        let Lot { fault, hub: number, length, delay, .. } = lot;
        let world = Arc::clone(&self.world);
        let hub = &world.hubs[number];
        match fault {
            NemesisFault::HubKill => {
                let status = hub.kill().await?;
                sleep(length / 4).await;
                hub.start(&world.program).await?;
                Ok(status.map(|status| status.to_string()))
            }
            NemesisFault::HubKillAll => {
                let mut statuses = Vec::new();
                for hub in &world.hubs {
                    statuses.extend(hub.kill().await?.map(|status| status.to_string()));
                }
                futures_util::future::try_join_all(world.hubs.iter().map(|hub| hub.start(&world.program))).await?;
                Ok((statuses.len() == world.hubs.len()).then(|| statuses.join(", ")))
            }
            NemesisFault::HubRestart => {
                let status = hub.terminate(Duration::from_secs(20)).await?;
                hub.start(&world.program).await?;
                match status {
                    Some(status) if status.success() => Ok(Some(status.to_string())),
                    other => Err(format!("hub {number} did not end well after SIGTERM: {other:?}").into()),
                }
            }
            NemesisFault::HubFreeze => freeze(hub, length).await,
            NemesisFault::PostgresKill => world.postgres.kill_and_start().await,
            NemesisFault::PostgresFailover => world.postgres.fail_over(delay * 5).await,
            NemesisFault::PostgresBackend => self.kill_backend().await,
            NemesisFault::DatabaseHole => Ok(both(hub, ProxyFlow::Hole, length).await),
            NemesisFault::DatabaseNoAnswers => Ok(both(hub, ProxyFlow::NoAnswers, length).await),
            NemesisFault::DatabaseSlow => {
                let before = hub.database.counters.late.load(Ordering::SeqCst);
                hub.database.set(ProxyFlow::Late(delay));
                sleep(length * 2).await;
                hub.database.set(ProxyFlow::Pass);
                Ok(proof("pieces were late", hub.database.counters.late.load(Ordering::SeqCst) - before))
            }
            NemesisFault::DatabaseReset => {
                let cut = [cut(&hub.database).await, cut(&hub.listen).await];
                Ok(proof("connections were reset", cut.iter().sum()))
            }
            // No posts go to this hub: its own commits would replace the missing NOTIFY.
            NemesisFault::ListenHole => {
                world.desk.avoided.store(number, Ordering::SeqCst);
                let proof = hole(&hub.listen, ProxyFlow::NoAnswers, length * 2 + Duration::from_secs(3)).await;
                world.desk.avoided.store(NONE, Ordering::SeqCst);
                Ok(proof)
            }
            NemesisFault::ListenReset => {
                world.desk.avoided.store(number, Ordering::SeqCst);
                let proof = self.listen_reset(hub, delay).await;
                world.desk.avoided.store(NONE, Ordering::SeqCst);
                proof
            }
            NemesisFault::ClientsReset => {
                let mut count = 0;
                for hub in &world.hubs {
                    count += cut(&hub.front).await;
                }
                Ok(proof("connections were reset", count))
            }
            NemesisFault::ClientsHole => Ok(hole(&hub.front, ProxyFlow::Hole, length).await),
            NemesisFault::ProviderFlap => {
                let ended = world.provider.flap(length, &mut StdRng::seed_from_u64(length.as_nanos() as u64)).await;
                Ok(proof("sockets and sign-ins failed", ended))
            }
            NemesisFault::ProviderHole => {
                let before = hub.provider.counters.held.load(Ordering::SeqCst);
                hub.provider.set(ProxyFlow::Hole);
                sleep(length + Duration::from_secs(2)).await;
                // The swallowed bytes must never arrive: late, they would look like texts of an owner that wakes.
                cut(&hub.provider).await;
                hub.provider.set(ProxyFlow::Pass);
                Ok(proof("pieces were ready and not passed", hub.provider.counters.held.load(Ordering::SeqCst) - before))
            }
            NemesisFault::OwnerFreeze => {
                let (Some(pid), Some(instance)) = (hub.pid().await, hub.instance()) else { return Ok(None) };
                process::signal("-STOP", pid).await?;
                let taken = self.taken_over(&instance, length).await;
                process::signal("-CONT", pid).await?;
                Ok(proof("sessions were taken over while the owner was stopped", taken?))
            }
            NemesisFault::OwnerCut => {
                let Some(instance) = hub.instance() else { return Ok(None) };
                hub.listen.set(ProxyFlow::Hole);
                hub.database.set(ProxyFlow::Hole);
                let taken = self.taken_over(&instance, length).await;
                hub.database.set(ProxyFlow::Pass);
                hub.listen.set(ProxyFlow::Pass);
                Ok(proof("sessions were taken over while the owner could not know it", taken?))
            }
            // Attacks last longer than any wait that rule C15 allows.
            NemesisFault::StrangerFlood => Ok(adversaries::stranger_flood(&world.hubs, self.attack() + length).await),
            NemesisFault::StrangerLocks => adversaries::locks_held(&world.postgres.url, self.attack() + length).await,
            NemesisFault::GreedyUser => adversaries::greedy_user(hub, self.attack() + length, self.kinds.len() == 1).await,
            NemesisFault::Forger => world.issuer.forge(&world.hubs, &world.book, length).await,
            NemesisFault::KeyRemoval => world.issuer.remove_key(&world.hubs, &world.book).await,
            NemesisFault::Eraser => {
                let mut random = StdRng::seed_from_u64(length.as_nanos() as u64);
                adversaries::erase_some(&world.postgres.url, &world.book, &mut random, length).await
            }
            NemesisFault::SdkKill => match &world.sdk {
                Some(sdk) => sdk.kill_and_start(length / 2).await,
                None => Ok(None),
            },
        }
    }

    fn attack(&self) -> Duration {
        // Rule C15 extends its limits while other programs use the machine; an attack must last longer than that.
        if self.kinds.len() == 1 { self.world.patience(ATTACK.1) } else { ATTACK.0 }
    }

    /// Returns the hub that holds the most provider sessions. Waits a few seconds until a hub holds one.
    async fn owner(&self) -> Option<usize> {
        let end = Instant::now() + self.world.patience(OWNER_LIMIT);
        while Instant::now() < end {
            if let Ok(Some(instance)) = upstream::busiest(&self.world.postgres.url).await
                && let Some(hub) = self.world.hubs.iter().position(|hub| hub.instance().as_ref() == Some(&instance))
            {
                return Some(hub);
            }
            sleep(Duration::from_millis(100)).await;
        }
        None
    }

    /// Waits past the lease, and until other instances have taken over sessions of this one. Returns how many.
    async fn taken_over(&self, instance: &str, length: Duration) -> Result<u64, RunError> {
        let url = &self.world.postgres.url;
        let taken_from = async || witness::answered(async || upstream::taken_from(url, instance).await).await;
        let before = taken_from().await?;
        sleep(LEASE + length / 2).await;
        let end = Instant::now() + self.world.patience(TAKE_OVER_LIMIT);
        loop {
            let taken = taken_from().await? - before;
            if taken > 0 || Instant::now() > end {
                return Ok(taken.unsigned_abs());
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Resets the LISTEN connection. The NOTIFY of a commit without a listener is lost. Writers and provider are active
    /// until just before LISTEN can come back, and silent after it, because any later row would wake the hub. So the
    /// hub must poll.
    async fn listen_reset(&self, hub: &TortureHub, delay: Duration) -> Result<Option<String>, RunError> {
        // After the previous fault the connection may not be open again yet.
        let end = Instant::now() + self.world.patience(LISTEN_LIMIT);
        while hub.listen.counters.open.load(Ordering::SeqCst) == 0 && Instant::now() < end {
            sleep(Duration::from_millis(20)).await;
        }
        hub.listen.set(ProxyFlow::Hole);
        let count = cut(&hub.listen).await;
        sleep(Duration::from_millis(300) + delay * 3).await;
        self.world.desk.hushed.store(true, Ordering::SeqCst);
        self.world.provider.fall_silent();
        // Open transactions may still commit. The wait is too short for the hub to abandon its new connection.
        sleep(LONGEST_TRANSACTION + Duration::from_millis(300)).await;
        hub.listen.set(ProxyFlow::Pass);
        sleep(Duration::from_secs(4)).await;
        self.world.provider.speak_again();
        self.world.desk.hushed.store(false, Ordering::SeqCst);
        Ok(proof("connections were reset", count))
    }

    /// Kills one database process. PostgreSQL then restarts all of them.
    async fn kill_backend(&self) -> Result<Option<String>, RunError> {
        let log = || std::fs::read_to_string(&self.world.postgres.log).unwrap_or_default().matches("was terminated by signal 9").count();
        let before = log();
        let appender = witness::answered(async || witness::backend(&self.world.postgres.url, "recado appender").await);
        let Some(pid) = appender.await? else { return Ok(None) };
        process::signal("-KILL", pid).await?;
        let end = Instant::now() + Duration::from_secs(20);
        while (log() == before || witness::head(&self.world.postgres.url).await.is_err()) && Instant::now() < end {
            sleep(Duration::from_millis(50)).await;
        }
        Ok((log() > before).then(|| format!("the server's log reports that process {pid} was terminated by signal 9")))
    }
}

async fn freeze(hub: &TortureHub, length: Duration) -> Result<Option<String>, RunError> {
    let Some(pid) = hub.pid().await else { return Ok(None) };
    process::signal("-STOP", pid).await?;
    sleep(length).await;
    let stopped = process::state(pid) == Some('T');
    process::signal("-CONT", pid).await?;
    Ok(stopped.then(|| format!("process {pid} was stopped for {} ms", length.as_millis())))
}

/// Disturbs the database connections and LISTEN at once.
async fn both(hub: &TortureHub, flow: ProxyFlow, length: Duration) -> Option<String> {
    hub.listen.set(flow);
    let proof = hole(&hub.database, flow, length).await;
    hub.listen.set(ProxyFlow::Pass);
    proof
}

async fn hole(proxy: &Proxy, flow: ProxyFlow, length: Duration) -> Option<String> {
    let before = proxy.counters.held.load(Ordering::SeqCst);
    proxy.set(flow);
    sleep(length).await;
    let held = proxy.counters.held.load(Ordering::SeqCst) - before;
    proxy.set(ProxyFlow::Pass);
    proof("pieces were ready and not passed", held)
}

/// Resets the open connections and waits for the resets. Returns how many.
async fn cut(proxy: &Proxy) -> u64 {
    let (open, before) = (proxy.counters.open.load(Ordering::SeqCst) as u64, proxy.counters.cut.load(Ordering::SeqCst));
    proxy.cut(Cut::Rst);
    for _ in 0..50 {
        if proxy.counters.cut.load(Ordering::SeqCst) >= before + open {
            break;
        }
        sleep(Duration::from_millis(10)).await;
    }
    proxy.counters.cut.load(Ordering::SeqCst) - before
}

fn proof(what: &str, count: u64) -> Option<String> {
    (count > 0).then(|| format!("{count} {what}"))
}
