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

use crate::hubs::{LEASE, TortureHub};
use crate::producers::LONGEST_TRANSACTION;
use crate::stage::RunWorld;
use crate::witness::upstream;
use crate::writers::NONE;
use crate::{RunError, adversaries, witness};

/// A fault that the nemesis can inject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum NemesisFault {
    /// kill -9 of one hub.
    HubKill,
    /// kill -9 of all hubs.
    HubKillAll,
    /// SIGTERM of one hub, and a restart after it has ended.
    HubRestart,
    /// SIGSTOP of one hub, and SIGCONT.
    HubFreeze,
    /// kill -9 of the postmaster.
    PostgresKill,
    /// kill -9 of the database process of a hub's appender.
    PostgresBackend,
    /// Nothing passes between a hub and the database.
    DatabaseHole,
    /// The database's answers do not arrive.
    DatabaseNoAnswers,
    /// Every connection between a hub and the database is reset.
    DatabaseReset,
    /// Every packet between a hub and the database is delayed.
    DatabaseSlow,
    /// Nothing passes on LISTEN.
    ListenHole,
    /// The LISTEN connection is reset, and writes stop just before LISTEN can come back.
    ListenReset,
    /// Every client is reset.
    ClientsReset,
    /// Nothing passes between a hub and its clients.
    ClientsHole,
    /// The provider closes new sockets, invalidates session ids and fails sign-ins.
    ProviderFlap,
    /// Nothing passes between a hub and the provider, until the keep-alives detect it.
    ProviderHole,
    /// SIGSTOP of the hub that holds the most provider sessions, until other hubs have taken them over.
    OwnerFreeze,
    /// That hub is cut from the database, and not from the provider, until other hubs have taken its sessions over.
    OwnerCut,
    /// An anonymous client holds idle connections to all hubs and sends anonymous requests.
    StrangerFlood,
    /// A login without rights holds the advisory locks of the schema.
    StrangerLocks,
    /// One user replays everything over many streams.
    GreedyUser,
    /// Single notifications and all of a user are erased.
    Eraser,
    /// Forged tokens are sent to all hubs.
    Forger,
    /// An issuer removes a key with which connections came in.
    KeyRemoval,
}

impl NemesisFault {
    pub const ALL: [Self; 24] = [
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
        Self::StrangerFlood,
        Self::StrangerLocks,
        Self::GreedyUser,
        Self::Eraser,
        Self::Forger,
        Self::KeyRemoval,
    ];

    /// Whether both faults may be active at once: one must break a process, the other a network connection.
    fn goes_with(self, other: Self) -> bool {
        // A LISTEN fault proves something only without other faults. An owner fault needs a hub that holds sessions. A
        // hub that is stopped cannot close connections.
        let is_alone = |fault: Self| ["listen", "owner", "key"].iter().any(|alone| fault.name().starts_with(alone));
        !is_alone(self) && !is_alone(other) && self.is_of_a_process() != other.is_of_a_process()
    }

    /// Whether the fault breaks a process.
    fn is_of_a_process(self) -> bool {
        self.name().starts_with("hub") || self.name().starts_with("postgres")
    }

    /// The fault's name in a history; rules test its first word.
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
            Self::StrangerFlood => "stranger-flood",
            Self::StrangerLocks => "stranger-locks",
            Self::GreedyUser => "greedy-user",
            Self::Eraser => "eraser",
            Self::Forger => "forger",
            Self::KeyRemoval => "key-removal",
        }
    }
}

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
    stage: Arc<RunWorld>,
    random: StdRng,
    kinds: Vec<NemesisFault>,
    round: Vec<NemesisFault>,
}

impl Nemesis {
    pub fn new(stage: Arc<RunWorld>, random: StdRng, kinds: Vec<NemesisFault>) -> Self {
        Self { stage, random, kinds, round: Vec::new() }
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
                self.stage.at_head(RECOVERY_LIMIT, false).await?;
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
            hub: self.random.random_range(0..self.stage.hubs.len()),
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
            NemesisFault::PostgresKill | NemesisFault::StrangerLocks | NemesisFault::Eraser => "postgres".to_owned(),
            NemesisFault::ProviderFlap => "the provider".to_owned(),
            _ => format!("hub {}", lot.hub),
        };
        let (book, name) = (Arc::clone(&self.stage.book), lot.fault.name().to_owned());
        println!("{:7.3} s  {name} on {on}", book.seconds());
        book.note(RunFact::FaultBegin { fault: name.clone(), on: on.clone() });
        // During a process fault the network connection may have carried nothing. The proof of the process fault covers
        // both.
        let paired = lot.paired.filter(|paired| paired.is_of_a_process());
        let evidence = self.perform(lot).await?.or_else(|| paired.map(|paired| format!("covered by the proof of {}", paired.name())));
        book.note(RunFact::FaultEnd { fault: name, on, evidence });
        Ok(())
    }

    async fn perform(&self, lot: Lot) -> Result<Option<String>, RunError> {
        let Lot { fault, hub: number, length, delay, .. } = lot;
        let stage = Arc::clone(&self.stage);
        let hub = &stage.hubs[number];
        match fault {
            NemesisFault::HubKill => {
                let status = hub.kill().await?;
                sleep(length / 4).await;
                hub.start(&stage.program).await?;
                Ok(status.map(|status| status.to_string()))
            }
            NemesisFault::HubKillAll => {
                let mut statuses = Vec::new();
                for hub in &stage.hubs {
                    statuses.extend(hub.kill().await?.map(|status| status.to_string()));
                }
                futures_util::future::try_join_all(stage.hubs.iter().map(|hub| hub.start(&stage.program))).await?;
                Ok((statuses.len() == stage.hubs.len()).then(|| statuses.join(", ")))
            }
            NemesisFault::HubRestart => {
                let status = hub.terminate(Duration::from_secs(20)).await?;
                hub.start(&stage.program).await?;
                match status {
                    Some(status) if status.success() => Ok(Some(status.to_string())),
                    other => Err(format!("hub {number} did not end well after SIGTERM: {other:?}").into()),
                }
            }
            NemesisFault::HubFreeze => freeze(hub, length).await,
            NemesisFault::PostgresKill => self.kill_postgres().await,
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
                stage.desk.avoided.store(number, Ordering::SeqCst);
                let proof = hole(&hub.listen, ProxyFlow::NoAnswers, length * 2 + Duration::from_secs(3)).await;
                stage.desk.avoided.store(NONE, Ordering::SeqCst);
                Ok(proof)
            }
            NemesisFault::ListenReset => {
                stage.desk.avoided.store(number, Ordering::SeqCst);
                let proof = self.listen_reset(hub, delay).await;
                stage.desk.avoided.store(NONE, Ordering::SeqCst);
                proof
            }
            NemesisFault::ClientsReset => {
                let mut count = 0;
                for hub in &stage.hubs {
                    count += cut(&hub.front).await;
                }
                Ok(proof("connections were reset", count))
            }
            NemesisFault::ClientsHole => Ok(hole(&hub.front, ProxyFlow::Hole, length).await),
            NemesisFault::ProviderFlap => {
                let ended = stage.provider.flap(length, &mut StdRng::seed_from_u64(length.as_nanos() as u64)).await;
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
            NemesisFault::StrangerFlood => Ok(adversaries::stranger_flood(&stage.hubs, self.attack() + length).await),
            NemesisFault::StrangerLocks => adversaries::locks_held(&stage.postgres.url, self.attack() + length).await,
            NemesisFault::GreedyUser => adversaries::greedy_user(hub, self.attack() + length, self.kinds.len() == 1).await,
            NemesisFault::Forger => stage.issuer.forge(&stage.hubs, &stage.book, length).await,
            NemesisFault::KeyRemoval => stage.issuer.remove_key(&stage.hubs, &stage.book).await,
            NemesisFault::Eraser => {
                let mut random = StdRng::seed_from_u64(length.as_nanos() as u64);
                adversaries::erase_some(&stage.postgres.url, &stage.book, &mut random, length).await
            }
        }
    }

    fn attack(&self) -> Duration {
        // Rule C15 extends its limits while other programs use the machine; an attack must last longer than that.
        if self.kinds.len() == 1 { self.stage.patience(ATTACK.1) } else { ATTACK.0 }
    }

    /// Returns the hub that holds the most provider sessions. Waits a few seconds until a hub holds one.
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

    /// Waits past the lease, and until other instances have taken over sessions of this one. Returns how many.
    async fn taken_over(&self, instance: &str, length: Duration) -> Result<u64, RunError> {
        let url = &self.stage.postgres.url;
        let taken_from = async || witness::answered(async || upstream::taken_from(url, instance).await).await;
        let before = taken_from().await?;
        sleep(LEASE + length / 2).await;
        let end = Instant::now() + self.stage.patience(TAKE_OVER_LIMIT);
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
        let end = Instant::now() + self.stage.patience(LISTEN_LIMIT);
        while hub.listen.counters.open.load(Ordering::SeqCst) == 0 && Instant::now() < end {
            sleep(Duration::from_millis(20)).await;
        }
        hub.listen.set(ProxyFlow::Hole);
        let count = cut(&hub.listen).await;
        sleep(Duration::from_millis(300) + delay * 3).await;
        self.stage.desk.hushed.store(true, Ordering::SeqCst);
        self.stage.provider.fall_silent();
        // Open transactions may still commit. The wait is too short for the hub to abandon its new connection.
        sleep(LONGEST_TRANSACTION + Duration::from_millis(300)).await;
        hub.listen.set(ProxyFlow::Pass);
        sleep(Duration::from_secs(4)).await;
        self.stage.provider.speak_again();
        self.stage.desk.hushed.store(false, Ordering::SeqCst);
        Ok(proof("connections were reset", count))
    }

    async fn kill_postgres(&self) -> Result<Option<String>, RunError> {
        let Some(pid) = self.stage.postgres.postmaster().await else { return Ok(None) };
        process::signal("-KILL", pid).await?;
        self.stage.postgres.start_again().await?;
        let now = self.stage.postgres.postmaster().await;
        Ok(now.filter(|now| *now != pid).map(|now| format!("the postmaster {pid} was killed, now it is {now}")))
    }

    /// Kills one database process. PostgreSQL then restarts all of them.
    async fn kill_backend(&self) -> Result<Option<String>, RunError> {
        let log = || std::fs::read_to_string(&self.stage.postgres.log).unwrap_or_default().matches("was terminated by signal 9").count();
        let before = log();
        let appender = witness::answered(async || witness::backend(&self.stage.postgres.url, "recado appender").await);
        let Some(pid) = appender.await? else { return Ok(None) };
        process::signal("-KILL", pid).await?;
        let end = Instant::now() + Duration::from_secs(20);
        while (log() == before || witness::head(&self.stage.postgres.url).await.is_err()) && Instant::now() < end {
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
