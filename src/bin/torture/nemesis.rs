//! Who breaks things, one after the other, by the seed; each with a proof that it had an effect.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use tokio::time::sleep;

use crate::fact::Fact;
use crate::hubs::{Hub, LEASE, signal, state};
use crate::producers::LONGEST_TRANSACTION;
use crate::proxy::{Flow, Proxy};
use crate::stage::Stage;
use crate::witness::upstream;
use crate::writers::NONE;
use crate::{Trouble, witness};

/// What can be done to the system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Fault {
    /// kill -9 of one hub.
    HubKill,
    /// kill -9 of all hubs.
    HubKillAll,
    /// SIGTERM of one hub; it starts again when it has ended.
    HubRestart,
    /// SIGSTOP of one hub, and SIGCONT.
    HubFreeze,
    /// kill -9 of the postmaster.
    PostgresKill,
    /// kill -9 of the process that a hub appends through.
    PostgresBackend,
    /// Nothing passes between a hub and the database.
    DatabaseHole,
    /// What the database answers does not arrive.
    DatabaseNoAnswers,
    /// Every connection between a hub and the database is reset.
    DatabaseReset,
    /// Every piece between a hub and the database is late.
    DatabaseSlow,
    /// Nothing passes on LISTEN.
    ListenHole,
    /// The LISTEN connection is reset, and nothing is written from just before LISTEN can come back.
    ListenReset,
    /// Every client is reset.
    ClientsReset,
    /// Nothing passes between a hub and its clients.
    ClientsHole,
    /// The provider ends sockets as they come, spends session ids, fails sign-ins.
    ProviderFlap,
    /// Nothing passes between a hub and the provider, until the keep-alives have noticed.
    ProviderHole,
    /// SIGSTOP of the hub that holds the most sessions at the provider, until others have taken them over.
    OwnerFreeze,
    /// That hub is cut from the database, and not from the provider, until others have taken its sessions over.
    OwnerCut,
}

impl Fault {
    pub const ALL: [Self; 18] = [
        Self::HubKill,
        Self::HubKillAll,
        Self::HubRestart,
        Self::HubFreeze,
        Self::PostgresKill,
        Self::PostgresBackend,
        Self::DatabaseHole,
        Self::DatabaseNoAnswers,
        Self::DatabaseReset,
        Self::DatabaseSlow,
        Self::ListenHole,
        Self::ListenReset,
        Self::ClientsReset,
        Self::ClientsHole,
        Self::ProviderFlap,
        Self::ProviderHole,
        Self::OwnerFreeze,
        Self::OwnerCut,
    ];

    /// Both may be at work at once: one of them is of a process, the other of a wire.
    fn goes_with(self, other: Self) -> bool {
        // LISTEN alone shows something only where nothing else is wrong; an owner is looked for while all is well.
        let is_alone = |fault: Self| fault.name().starts_with("listen") || fault.name().starts_with("owner");
        !is_alone(self) && !is_alone(other) && self.is_of_a_process() != other.is_of_a_process()
    }

    fn is_of_a_process(self) -> bool {
        self.name().starts_with("hub") || self.name().starts_with("postgres")
    }

    /// As it stands in a history; rules look at the first word.
    pub fn name(self) -> &'static str {
        match self {
            Self::HubKill => "hub-kill",
            Self::HubKillAll => "hub-kill-all",
            Self::HubRestart => "hub-restart",
            Self::HubFreeze => "hub-freeze",
            Self::PostgresKill => "postgres-kill",
            Self::PostgresBackend => "postgres-backend",
            Self::DatabaseHole => "database-hole",
            Self::DatabaseNoAnswers => "database-no-answers",
            Self::DatabaseReset => "database-reset",
            Self::DatabaseSlow => "database-slow",
            Self::ListenHole => "listen-hole",
            Self::ListenReset => "listen-reset",
            Self::ClientsReset => "clients-reset",
            Self::ClientsHole => "clients-hole",
            Self::ProviderFlap => "provider-flap",
            Self::ProviderHole => "provider-hole",
            Self::OwnerFreeze => "owner-freeze",
            Self::OwnerCut => "owner-cut",
        }
    }
}

/// Longest time to recover in, above what rule C15 allows.
const RECOVERY_LIMIT: Duration = Duration::from_secs(18);

/// Until somebody holds sessions at the provider.
const OWNER_LIMIT: Duration = Duration::from_secs(5);
/// Until others have taken them over, after the lease; the contract says five seconds.
const TAKE_OVER_LIMIT: Duration = Duration::from_secs(8);

/// Until a hub listens again that has just lost the database.
const LISTEN_LIMIT: Duration = Duration::from_secs(5);

/// A fault as it was drawn.
#[derive(Clone, Copy)]
struct Lot {
    fault: Fault,
    /// Another one that goes on at the same time.
    beside: Option<Fault>,
    hub: usize,
    length: Duration,
    delay: Duration,
}

pub struct Nemesis {
    stage: Arc<Stage>,
    random: StdRng,
    kinds: Vec<Fault>,
    round: Vec<Fault>,
}

impl Nemesis {
    pub fn new(stage: Arc<Stage>, random: StdRng, kinds: Vec<Fault>) -> Self {
        Self { stage, random, kinds, round: Vec::new() }
    }

    /// Until the moment. Every kind comes once before any comes twice; now and then two come at once, and now and then
    /// the next one waits until everyone has recovered.
    pub async fn run(&mut self, until: Instant) -> Result<(), Trouble> {
        sleep(Duration::from_secs(2)).await;
        while Instant::now() < until {
            let Some(fault) = self.next() else { return Ok(()) };
            let mut lot = self.draw(fault, None);
            let second = self.random.random_bool(0.2).then(|| self.next()).flatten().filter(|second| second.goes_with(fault));
            match second {
                Some(second) => {
                    lot.beside = Some(second);
                    let other = self.draw(second, Some(fault));
                    tokio::try_join!(self.strike(lot), self.strike(other))?;
                }
                None => self.strike(lot).await?,
            }
            if self.random.random_bool(0.3) {
                self.stage.at_head(RECOVERY_LIMIT, false).await?;
            }
            let quiet = self.random.random_range(500..2_500);
            sleep(Duration::from_millis(quiet)).await;
        }
        Ok(())
    }

    fn next(&mut self) -> Option<Fault> {
        if self.round.is_empty() {
            self.round.clone_from(&self.kinds);
            self.round.shuffle(&mut self.random);
        }
        self.round.pop()
    }

    fn draw(&mut self, fault: Fault, beside: Option<Fault>) -> Lot {
        Lot {
            fault,
            beside,
            hub: self.random.random_range(0..self.stage.hubs.len()),
            length: Duration::from_millis(self.random.random_range(800..3_000)),
            delay: Duration::from_millis(self.random.random_range(20..100)),
        }
    }

    async fn strike(&self, mut lot: Lot) -> Result<(), Trouble> {
        // Between the death of an owner and the end of its lease there is nothing to break.
        if matches!(lot.fault, Fault::ProviderFlap | Fault::ProviderHole | Fault::OwnerFreeze | Fault::OwnerCut) {
            lot.hub = self.owner().await.unwrap_or(lot.hub);
        }
        let on = match lot.fault {
            Fault::HubKillAll | Fault::ClientsReset => "all hubs".to_owned(),
            Fault::PostgresKill => "postgres".to_owned(),
            Fault::ProviderFlap => "the provider".to_owned(),
            _ => format!("hub {}", lot.hub),
        };
        let (book, name) = (Arc::clone(&self.stage.book), lot.fault.name().to_owned());
        println!("{:7.3} s  {name} on {on}", book.seconds());
        book.note(Fact::FaultBegin { fault: name.clone(), on: on.clone() });
        // Where a process was broken at the same time, the wire may have had nothing to carry. The process's own proof says that it was.
        let beside = lot.beside.filter(|beside| beside.is_of_a_process());
        let evidence = self.perform(lot).await?.or_else(|| beside.map(|beside| format!("none of its own, beside {}", beside.name())));
        book.note(Fact::FaultEnd { fault: name, on, evidence });
        Ok(())
    }

    async fn perform(&self, lot: Lot) -> Result<Option<String>, Trouble> {
        let Lot { fault, hub: number, length, delay, .. } = lot;
        let stage = Arc::clone(&self.stage);
        let hub = &stage.hubs[number];
        match fault {
            Fault::HubKill => {
                let status = hub.kill().await?;
                sleep(length / 4).await;
                hub.start(&stage.program).await?;
                Ok(status.map(|status| status.to_string()))
            }
            Fault::HubKillAll => {
                let mut statuses = Vec::new();
                for hub in &stage.hubs {
                    statuses.extend(hub.kill().await?.map(|status| status.to_string()));
                }
                futures_util::future::try_join_all(stage.hubs.iter().map(|hub| hub.start(&stage.program))).await?;
                Ok((statuses.len() == stage.hubs.len()).then(|| statuses.join(", ")))
            }
            Fault::HubRestart => {
                let status = hub.terminate(Duration::from_secs(20)).await?;
                hub.start(&stage.program).await?;
                match status {
                    Some(status) if status.success() => Ok(Some(status.to_string())),
                    other => Err(format!("hub {number} did not end well after SIGTERM: {other:?}").into()),
                }
            }
            Fault::HubFreeze => freeze(hub, length).await,
            Fault::PostgresKill => self.kill_postgres().await,
            Fault::PostgresBackend => self.kill_backend().await,
            Fault::DatabaseHole => Ok(both(hub, Flow::Hole, length).await),
            Fault::DatabaseNoAnswers => Ok(both(hub, Flow::NoAnswers, length).await),
            Fault::DatabaseSlow => {
                let before = hub.database.counters.slowed.load(Ordering::SeqCst);
                hub.database.set(Flow::Slow(delay));
                sleep(length * 2).await;
                hub.database.set(Flow::Pass);
                Ok(proof("pieces were late", hub.database.counters.slowed.load(Ordering::SeqCst) - before))
            }
            Fault::DatabaseReset => {
                let cut = [cut(&hub.database).await, cut(&hub.listen).await];
                Ok(proof("connections were reset", cut.iter().sum()))
            }
            // Its own commits would tell the hub what LISTEN does not.
            Fault::ListenHole => {
                stage.desk.avoided.store(number, Ordering::SeqCst);
                let proof = hole(&hub.listen, Flow::NoAnswers, length * 2 + Duration::from_secs(3)).await;
                stage.desk.avoided.store(NONE, Ordering::SeqCst);
                Ok(proof)
            }
            Fault::ListenReset => {
                stage.desk.avoided.store(number, Ordering::SeqCst);
                let proof = self.listen_reset(hub, delay).await;
                stage.desk.avoided.store(NONE, Ordering::SeqCst);
                proof
            }
            Fault::ClientsReset => {
                let mut count = 0;
                for hub in &stage.hubs {
                    count += cut(&hub.front).await;
                }
                Ok(proof("connections were reset", count))
            }
            Fault::ClientsHole => Ok(hole(&hub.front, Flow::Hole, length).await),
            Fault::ProviderFlap => {
                let ended = stage.provider.flap(length, &mut StdRng::seed_from_u64(length.as_nanos() as u64)).await;
                Ok(proof("sockets and sign-ins came to nothing", ended))
            }
            Fault::ProviderHole => {
                let before = hub.provider.counters.held.load(Ordering::SeqCst);
                hub.provider.set(Flow::Hole);
                sleep(length + Duration::from_secs(2)).await;
                // What it has swallowed stays so: late it would be taken for the words of an owner that wakes.
                cut(&hub.provider).await;
                hub.provider.set(Flow::Pass);
                Ok(proof("times something to pass was not passed", hub.provider.counters.held.load(Ordering::SeqCst) - before))
            }
            Fault::OwnerFreeze => {
                let (Some(pid), Some(instance)) = (hub.pid().await, hub.instance()) else { return Ok(None) };
                signal("-STOP", pid).await?;
                let taken = self.taken_over(&instance, length).await;
                signal("-CONT", pid).await?;
                Ok(proof("sessions were taken over while the owner was stopped", taken?))
            }
            Fault::OwnerCut => {
                let Some(instance) = hub.instance() else { return Ok(None) };
                hub.listen.set(Flow::Hole);
                hub.database.set(Flow::Hole);
                let taken = self.taken_over(&instance, length).await;
                hub.database.set(Flow::Pass);
                hub.listen.set(Flow::Pass);
                Ok(proof("sessions were taken over while the owner could not know it", taken?))
            }
        }
    }

    /// The hub that holds the most sessions at the provider; somebody will, in a moment.
    async fn owner(&self) -> Option<usize> {
        let end = Instant::now() + self.stage.patience(OWNER_LIMIT);
        while Instant::now() < end {
            if let Ok(Some(instance)) = upstream::busiest(&self.stage.postgres.url).await
                && let Some(hub) = self.stage.hubs.iter().position(|hub| hub.instance().as_ref() == Some(&instance))
            {
                return Some(hub);
            }
            sleep(Duration::from_millis(100)).await;
        }
        None
    }

    /// Waits past the lease, and until others have sessions of this instance; how many.
    async fn taken_over(&self, instance: &str, length: Duration) -> Result<u64, Trouble> {
        let url = &self.stage.postgres.url;
        let before = upstream::taken_from(url, instance).await?;
        sleep(LEASE + length / 2).await;
        let end = Instant::now() + self.stage.patience(TAKE_OVER_LIMIT);
        loop {
            let taken = upstream::taken_from(url, instance).await? - before;
            if taken > 0 || Instant::now() > end {
                return Ok(taken.unsigned_abs());
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// What is committed while nobody listens is announced to nobody. Writers and provider speak until just before LISTEN can
    /// come back, and are silent after it: the hub has to look by itself, for whatever came into the log then would tell it.
    async fn listen_reset(&self, hub: &Hub, delay: Duration) -> Result<Option<String>, Trouble> {
        // After the fault before it may still be on its way.
        let end = Instant::now() + self.stage.patience(LISTEN_LIMIT);
        while hub.listen.counters.open.load(Ordering::SeqCst) == 0 && Instant::now() < end {
            sleep(Duration::from_millis(20)).await;
        }
        hub.listen.set(Flow::Hole);
        let count = cut(&hub.listen).await;
        sleep(Duration::from_millis(300) + delay * 3).await;
        self.stage.desk.hushed.store(true, Ordering::SeqCst);
        self.stage.provider.fall_silent();
        // What is under way may still come. Not so long that the hub gives its new connection up, and begins anew.
        sleep(LONGEST_TRANSACTION + Duration::from_millis(300)).await;
        hub.listen.set(Flow::Pass);
        sleep(Duration::from_secs(4)).await;
        self.stage.provider.speak_again();
        self.stage.desk.hushed.store(false, Ordering::SeqCst);
        Ok(proof("connections were reset", count))
    }

    async fn kill_postgres(&self) -> Result<Option<String>, Trouble> {
        let Some(pid) = self.stage.postgres.postmaster().await else { return Ok(None) };
        signal("-KILL", pid).await?;
        self.stage.postgres.start_again().await?;
        let now = self.stage.postgres.postmaster().await;
        Ok(now.filter(|now| *now != pid).map(|now| format!("the postmaster {pid} was killed, now it is {now}")))
    }

    /// PostgreSQL answers the violent death of one process by a restart of all.
    async fn kill_backend(&self) -> Result<Option<String>, Trouble> {
        let log = || std::fs::read_to_string(&self.stage.postgres.log).unwrap_or_default().matches("was terminated by signal 9").count();
        let before = log();
        let Some(pid) = witness::backend(&self.stage.postgres.url, "recado appender").await? else { return Ok(None) };
        signal("-KILL", pid).await?;
        let end = Instant::now() + Duration::from_secs(20);
        while (log() == before || witness::head(&self.stage.postgres.url).await.is_err()) && Instant::now() < end {
            sleep(Duration::from_millis(50)).await;
        }
        Ok((log() > before).then(|| format!("the log of the server says that process {pid} was terminated by signal 9")))
    }
}

async fn freeze(hub: &Hub, length: Duration) -> Result<Option<String>, Trouble> {
    let Some(pid) = hub.pid().await else { return Ok(None) };
    signal("-STOP", pid).await?;
    sleep(length).await;
    let stopped = state(pid) == Some('T');
    signal("-CONT", pid).await?;
    Ok(stopped.then(|| format!("process {pid} was stopped for {} ms", length.as_millis())))
}

/// The database and LISTEN at once.
async fn both(hub: &Hub, flow: Flow, length: Duration) -> Option<String> {
    hub.listen.set(flow);
    let proof = hole(&hub.database, flow, length).await;
    hub.listen.set(Flow::Pass);
    proof
}

async fn hole(proxy: &Proxy, flow: Flow, length: Duration) -> Option<String> {
    let before = proxy.counters.held.load(Ordering::SeqCst);
    proxy.set(flow);
    sleep(length).await;
    let held = proxy.counters.held.load(Ordering::SeqCst) - before;
    proxy.set(Flow::Pass);
    proof("times something to pass was not passed", held)
}

/// Resets what is open, and waits until it is; how many.
async fn cut(proxy: &Proxy) -> u64 {
    let (open, before) = (proxy.counters.open.load(Ordering::SeqCst) as u64, proxy.counters.cut.load(Ordering::SeqCst));
    proxy.reset();
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
