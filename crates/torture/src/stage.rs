//! Runs the whole test: sets up, injects faults, heals, waits for quiet, and collects the facts.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use private_postgres::Environment;
use rand::SeedableRng;
use rand::rngs::StdRng;
use recado_torture_check::fact::{FactEntry, RunFact};
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::book::Recorder;
use crate::cast::{ERASED, TENANTS, USERS};
use crate::devices::{Floor, Part, TortureDevice};
use crate::hubs::{Roll, Site, TortureHub};
use crate::issuer::Issuer;
use crate::nemesis::{Nemesis, NemesisFault};
use crate::postgres::Postgres;
use crate::producers::Producer;
use crate::provider::TortureProvider;
use crate::sdk::{SdkDevices, SdkMutant, SdkPlan, SdkProgram};
use crate::writers::{NONE, Writer, WriterShared};
use crate::{RunError, machine, secrets, witness};

const WRITERS: usize = 8;
const PRODUCERS: usize = 2;
/// Longest wait after the last fault until every device has everything.
const DRAIN_LIMIT: Duration = Duration::from_secs(30);
/// Longest wait until one more command has a result. A command that no owner takes is rejected after ten seconds.
const COMMANDS_LIMIT: Duration = Duration::from_secs(40);
/// Longest wait until the writers have finished their open posts.
const SETTLE_LIMIT: Duration = Duration::from_secs(40);
/// Longest wait until the hubs list one connection of each browser: a lost one is detected by its heartbeats.
const HELD_LIMIT: Duration = Duration::from_secs(15);
/// How many more files a hub without clients may have open than at its start: the number of database and keep-alive
/// connections varies, and its users' provider sessions linger. A leak has one for each of hundreds of connections.
const FILES_SLACK: u64 = 48 + (TENANTS * USERS + ERASED) as u64;
/// Least share of the machine for a meaningful run.
const LEAST_SHARE: f64 = 0.25;
/// Most tickets, and most provider session ids, to search for in every log.
const LOOKED_FOR: usize = 30;
/// Most memory of a hub, in KiB.
const MEMORY_KIB: u64 = 400 << 10;
/// Connections to the database of one hub: those of its own tasks and provider sessions, eight readers, two for keys.
const CONNECTIONS_A_HUB: u64 = 27;

/// Parameters of a run.
pub struct RunPlan {
    pub seed: u64,
    pub seconds: u64,
    pub hubs: usize,
    pub faults: Vec<NemesisFault>,
    pub mutant: Option<String>,
    /// Node and the built client; `None` for a run without devices of the SDK.
    pub sdk: Option<SdkProgram>,
    pub sdk_mutant: Option<SdkMutant>,
    pub program: PathBuf,
    pub folder: PathBuf,
    pub environment: Environment,
}

/// The hubs, the database, the provider and the shared state of a run.
pub struct RunWorld {
    pub book: Arc<Recorder>,
    pub postgres: Postgres,
    pub hubs: Vec<TortureHub>,
    pub program: PathBuf,
    pub desk: Arc<WriterShared>,
    pub provider: TortureProvider,
    pub issuer: Issuer,
    site: Arc<Site>,
    floor: Arc<Floor>,
    /// For each device: its name, the last number that it received, and whether it reads slowly.
    reached: Vec<(String, Arc<AtomicI64>, bool)>,
    /// For each device: the number of commands without a known result.
    untold: Vec<Arc<AtomicUsize>>,
    /// Name and text of each secret that must not be found anywhere.
    canaries: Vec<(String, String)>,
}

impl RunWorld {
    async fn set(plan: &RunPlan) -> Result<Self, RunError> {
        let postgres = Postgres::start(&plan.folder, plan.environment.clone()).await?;
        let user = witness::user_of(&postgres.url)?;
        let path = plan.environment.path.as_ref().and_then(|path| path.to_str()).unwrap_or_default().to_owned();
        let book = Arc::new(Recorder::new());
        let provider = TortureProvider::start(Arc::clone(&book), plan.seed).await?;
        let (mutant, address, roll) = (plan.mutant.clone(), provider.address, Roll::default());
        let issuer = Issuer::begin(&postgres.folder)?;
        let site = Arc::new(Site { user, path, mutant, provider: address, identity_file: issuer.file.clone(), roll });
        let mut hubs = Vec::new();
        for number in 0..plan.hubs {
            hubs.push(TortureHub::place(number, &postgres, Arc::clone(&site)).await?);
        }
        hubs[0].start(&plan.program).await?;
        witness::prepare(&postgres.url, plan.mutant.as_deref()).await?;
        for hub in &hubs[1..] {
            hub.start(&plan.program).await?;
        }
        let addresses: Vec<String> = hubs.iter().map(TortureHub::url).collect();
        let (closed, hushed) = (AtomicBool::new(false), AtomicBool::new(false));
        let http = reqwest::Client::builder().connect_timeout(Duration::from_secs(5)).build()?;
        let avoided = AtomicUsize::new(NONE);
        let desk = Arc::new(WriterShared {
            book: Arc::clone(&book),
            http: http.clone(),
            addresses: addresses.clone(),
            closed,
            hushed,
            avoided,
            kept: Mutex::default(),
        });
        let floor = Arc::new(Floor {
            book: Arc::clone(&book),
            http: http.clone(),
            addresses,
            staying: AtomicBool::new(false),
            tickets: Mutex::default(),
        });
        let canaries = [
            ("the secret of the tokens", secrets::JWT),
            ("the password of the database", secrets::DATABASE_PASSWORD),
            ("the credential for the provider", secrets::PROVIDER_CREDENTIAL),
            ("the key of the provider's sessions", secrets::UPSTREAM_KEY),
        ];
        let canaries = canaries.into_iter().map(|(name, text)| (name.to_owned(), text.to_owned())).collect();
        let (program, reached, untold) = (plan.program.clone(), Vec::new(), Vec::new());
        Ok(Self { book, postgres, hubs, program, desk, provider, issuer, site, floor, reached, untold, canaries })
    }

    /// Returns the devices that have not reached the present head within the limit: of the quick ones, or of all.
    pub async fn at_head(&self, limit: Duration, all: bool) -> Result<Vec<&str>, RunError> {
        let (head, end) = (witness::head(&self.postgres.url).await?, Instant::now() + limit);
        loop {
            let late = self.reached.iter().filter(|(_, seq, is_slow)| (all || !is_slow) && seq.load(Ordering::SeqCst) < head);
            let late: Vec<&str> = late.map(|(name, ..)| name.as_str()).collect();
            if late.is_empty() || Instant::now() > end {
                return Ok(late);
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// The limit, extended by the share of the machine that other programs have used so far.
    pub fn patience(&self, limit: Duration) -> Duration {
        limit.div_f64(share(&self.book))
    }

    async fn note_base(&self) {
        for hub in &self.hubs {
            let files = hub.files_and_memory().await.map(|(files, _)| files);
            *hub.base_files.lock().unwrap_or_else(PoisonError::into_inner) = files;
        }
    }
}

/// Runs to the end. Returns the history, also after a failure.
pub async fn play(plan: &RunPlan) -> Result<Vec<FactEntry>, RunError> {
    let mut stage = RunWorld::set(plan).await?;
    stage.note_base().await;
    let (mut writers, mut devices) = (JoinSet::new(), JoinSet::new());
    for tenant in 0..TENANTS {
        for (number, part) in Part::of_tenant(tenant).into_iter().enumerate() {
            let device = TortureDevice::new(Arc::clone(&stage.floor), part, number, plan.seed)?;
            stage.canaries.push((format!("the token of {}", device.name()), secrets::signature(device.token()).to_owned()));
            stage.reached.push((device.name().to_owned(), Arc::clone(&device.reached), device.is_slow()));
            stage.untold.push(Arc::clone(&device.commands.open));
            devices.spawn(device.run());
        }
    }
    for number in 0..WRITERS {
        let writer = Writer::new(Arc::clone(&stage.desk), number, plan.seed)?;
        stage.canaries.push((format!("the token of writer {number}"), secrets::signature(writer.token()).to_owned()));
        writers.spawn(writer.run());
    }
    for number in 0..PRODUCERS {
        writers.spawn(Producer::new(Arc::clone(&stage.desk), number, plan.seed, stage.postgres.url.clone()).run());
    }
    let mut sdk = sdk_devices(plan, &mut stage).await?;
    let stage = Arc::new(stage);
    let mut watching = JoinSet::new();
    watching.spawn(machine::watch_the_clock(Arc::clone(&stage.book)));
    watching.spawn(machine::watch_the_others(Arc::clone(&stage)));
    watching.spawn(machine::watch_the_hubs(Arc::clone(&stage)));
    let until = Instant::now() + Duration::from_secs(plan.seconds);
    let outcome = match sdk.as_mut() {
        // What a run sees of the others for the rest of its time would be no result.
        Some(sdk) => tokio::select! {
            outcome = disturb(plan, &stage, until) => outcome,
            died = sdk.died() => Err(died),
        },
        None => disturb(plan, &stage, until).await,
    };
    let outcome = match outcome {
        Ok(()) => finish(&stage, &mut writers, sdk.as_mut()).await,
        broken => broken,
    };
    drop(devices);
    drop(watching);
    let has_sdk = sdk.is_some();
    let outcome = match sdk {
        Some(sdk) => outcome.and(sdk.end().await),
        None => outcome,
    };
    let gathered = match &outcome {
        Ok(()) => gather(&stage, has_sdk).await,
        Err(_) => Ok(()),
    };
    quotas(plan, &stage.book, has_sdk);
    for hub in &stage.hubs {
        hub.kill().await?;
    }
    stage.postgres.stop().await;
    outcome?;
    gathered?;
    Ok(stage.book.take())
}

async fn disturb(plan: &RunPlan, stage: &Arc<RunWorld>, until: Instant) -> Result<(), RunError> {
    let mut nemesis = Nemesis::new(Arc::clone(stage), StdRng::seed_from_u64(plan.seed), plan.faults.clone());
    nemesis.run(until).await?;
    sleep(until.saturating_duration_since(Instant::now())).await;
    Ok(())
}

/// After the last fault, without new posts: settles the open ones, and waits until every device has everything.
async fn finish(stage: &RunWorld, writers: &mut JoinSet<()>, mut sdk: Option<&mut SdkDevices>) -> Result<(), RunError> {
    if let Some(sdk) = &mut sdk {
        sdk.stay().await?;
    }
    stage.floor.staying.store(true, Ordering::SeqCst);
    stage.desk.closed.store(true, Ordering::SeqCst);
    stage.provider.fall_silent();
    let settled = timeout(stage.patience(SETTLE_LIMIT), async { while writers.join_next().await.is_some() {} }).await;
    if settled.is_err() {
        println!("the writers did not settle all posts in time");
    }
    until_commands_are_known(stage).await?;
    stage.book.note(RunFact::Drain);
    let kept = stage.desk.kept.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let moved = Instant::now() + stage.patience(DRAIN_LIMIT);
    while witness::count(&stage.postgres.url, &kept).await? < kept.len() && Instant::now() < moved {
        sleep(Duration::from_millis(100)).await;
    }
    let head = witness::head(&stage.postgres.url).await?;
    let late = stage.at_head(stage.patience(DRAIN_LIMIT), true).await?;
    if !late.is_empty() {
        println!("devices that did not reach the head in time: {late:?}");
    }
    stage.book.note(RunFact::Drained { head });
    match sdk {
        Some(sdk) => held(stage, &sdk.browsers).await,
        None => Ok(()),
    }
}

/// Starts the devices of the SDK, if the run has any.
async fn sdk_devices(plan: &RunPlan, stage: &mut RunWorld) -> Result<Option<SdkDevices>, RunError> {
    let Some(program) = &plan.sdk else { return Ok(None) };
    let log = plan.folder.join("sdk.log");
    let start = SdkPlan { seed: plan.seed, addresses: &stage.floor.addresses, mutant: plan.sdk_mutant, log: &log };
    let devices = SdkDevices::start(program, &stage.book, start).await?;
    for (name, token) in &devices.tokens {
        stage.canaries.push((format!("the token of {name}"), secrets::signature(token).to_owned()));
    }
    stage.reached.extend(devices.reached.iter().map(|(name, seq)| (name.clone(), Arc::clone(seq), false)));
    Ok(Some(devices))
}

/// Records how many connections the hubs list for each browser of the SDK. A hub may need some seconds to detect the
/// end of an earlier one.
async fn held(stage: &RunWorld, browsers: &[(String, String)]) -> Result<(), RunError> {
    let end = Instant::now() + stage.patience(HELD_LIMIT);
    loop {
        let lists: Vec<Value> = stats(stage).await?.iter().map(|text| serde_json::from_str(text)).collect::<Result<_, _>>()?;
        let connections = || {
            lists.iter().flat_map(|list| {
                let of_it = list["connections"].as_array().into_iter().flatten();
                of_it.filter(|connection| connection["instance"] == list["instance"])
            })
        };
        let counts: Vec<usize> = browsers
            .iter()
            .map(|(user, client)| connections().filter(|one| one["userId"] == *user && one["clientId"] == *client).count())
            .collect();
        if counts.iter().all(|count| *count == 1) || Instant::now() > end {
            for ((user, client), connections) in browsers.iter().zip(counts) {
                stage.book.note(RunFact::Held { device: format!("{user}/{client}"), connections });
            }
            return Ok(());
        }
        sleep(Duration::from_millis(200)).await;
    }
}

/// Waits until every command is settled, and its device knows the result. A device may ask for some of its old ones
/// every few seconds, and has more of them the longer the run was: the wait continues as long as they become fewer.
async fn until_commands_are_known(stage: &RunWorld) -> Result<(), RunError> {
    let limit = stage.patience(COMMANDS_LIMIT);
    let (mut fewest, mut end) = (usize::MAX, Instant::now() + limit);
    loop {
        let untold: usize = stage.untold.iter().map(|untold| untold.load(Ordering::SeqCst)).sum();
        let unsettled = witness::upstream::unsettled(&stage.postgres.url).await?;
        if untold == 0 && unsettled == 0 {
            return Ok(());
        }
        if untold < fewest {
            (fewest, end) = (untold, Instant::now() + limit);
        }
        if Instant::now() > end {
            println!("{untold} commands have no reported result, {unsettled} are not settled");
            return Ok(());
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// After all clients have left: collects the log, the positions, the secrets and the resources.
async fn gather(stage: &RunWorld, has_sdk: bool) -> Result<(), RunError> {
    // The hubs detect that all clients have left, and write the last acknowledgements.
    sleep(Duration::from_secs(3)).await;
    resources(stage).await?;
    witness::testify(&stage.postgres.url, &stage.book, &stage.site.roll, has_sdk).await?;
    let mut places = Vec::new();
    for hub in &stage.hubs {
        places.push((format!("the log of hub {}", hub.number), std::fs::read_to_string(&hub.log)?));
    }
    places.push(("the log of the database".to_owned(), std::fs::read_to_string(&stage.postgres.log)?));
    places.push(("/stats".to_owned(), stats(stage).await?.concat()));
    let mut canaries = stage.canaries.clone();
    let tickets = stage.floor.tickets.lock().unwrap_or_else(PoisonError::into_inner).clone();
    for (name, many) in [("a ticket", tickets), ("a session at the provider", stage.provider.sessions())] {
        let step = (many.len() / LOOKED_FOR).max(1);
        canaries.extend(many.into_iter().step_by(step).map(|canary| (name.to_owned(), canary)));
    }
    for (place, text) in &places {
        for (name, canary) in &canaries {
            if text.contains(canary.as_str()) {
                stage.book.note(RunFact::Secret { name: name.clone(), place: place.clone(), found: true });
            }
        }
    }
    let texts: Vec<String> = canaries.iter().map(|(_, text)| text.clone()).collect();
    for (text, table) in witness::tables_with(&stage.postgres.url, &texts).await? {
        let name = canaries.iter().find(|(_, canary)| *canary == text).map_or_else(String::new, |(name, _)| name.clone());
        stage.book.note(RunFact::Secret { name, place: format!("the table {table}"), found: true });
    }
    Ok(())
}

/// The answer of each hub.
async fn stats(stage: &RunWorld) -> Result<Vec<String>, RunError> {
    let token = secrets::token("boss", None, Some(recado::domain::Role::Admin))?;
    let mut texts = Vec::new();
    for hub in &stage.hubs {
        let request = stage.floor.http.get(format!("http://{}/stats", hub.url())).bearer_auth(&token);
        texts.push(request.timeout(Duration::from_secs(10)).send().await?.error_for_status()?.text().await?);
    }
    Ok(texts)
}

async fn resources(stage: &RunWorld) -> Result<(), RunError> {
    for hub in &stage.hubs {
        let base = hub.base_files.lock().unwrap_or_else(PoisonError::into_inner).unwrap_or(0);
        let Some((files, memory)) = hub.files_and_memory().await else { return Err(format!("hub {} is gone", hub.number).into()) };
        let name = |what: &str| format!("{what} of hub {}", hub.number);
        stage.book.note(RunFact::Resource { name: name("open files"), base, end: files, allowed: base + FILES_SLACK });
        stage.book.note(RunFact::Resource { name: name("KiB of memory"), base: 0, end: memory, allowed: MEMORY_KIB });
    }
    let connections = witness::connections(&stage.postgres.url).await?;
    let allowed = CONNECTIONS_A_HUB * stage.hubs.len() as u64;
    stage.book.note(RunFact::Resource { name: "connections to the database".to_owned(), base: 0, end: connections, allowed });
    Ok(())
}

/// The share of the machine that this run could use so far.
fn share(book: &Recorder) -> f64 {
    let others = Duration::from_millis(book.sum(|fact| if let RunFact::Others { ms } = fact { *ms } else { 0 }));
    (1.0 - others.as_secs_f64() / book.seconds()).max(LEAST_SHARE)
}

/// Records the minimum counts: a run without enough events proves nothing. The minimum grows with the length of the
/// run: a tenth of the throughput of two idle cores, and less if other programs used them, so that a busy machine
/// causes no violation.
fn quotas(plan: &RunPlan, book: &Recorder, has_sdk: bool) {
    let seconds = plan.seconds;
    let share = share(book);
    let quota = |what: &str, wanted: u64, which: &dyn Fn(&RunFact) -> bool| {
        let wanted = (wanted as f64 * share).ceil() as u64;
        book.note(RunFact::Quota { what: what.to_owned(), had: book.count(which), wanted });
    };
    quota("posts with a definite yes", seconds * 15, &|fact| matches!(fact, RunFact::PostOk { .. }));
    quota("transactions of SQL producers", seconds, &|fact| matches!(fact, RunFact::PostKept { .. }));
    quota("notifications given", seconds * 100, &|fact| matches!(fact, RunFact::Recv { .. }));
    quota("connections", seconds * 5 / 3, &|fact| matches!(fact, RunFact::ConnOpen { .. }));
    let is_shared = |device: &str| device.contains("/s");
    quota(
        "connections of devices that are shared",
        seconds / 6,
        &|fact| matches!(fact, RunFact::ConnOpen { device, .. } if is_shared(device)),
    );
    quota("acknowledgements", seconds, &|fact| matches!(fact, RunFact::AckSent { .. }));
    quota("rows of pages", seconds, &|fact| matches!(fact, RunFact::Page { .. }));
    quota("refused posts", seconds / 12, &|fact| matches!(fact, RunFact::PostFail { .. }));
    quota("commands of devices", seconds * 2, &|fact| matches!(fact, RunFact::CommandGiven { .. }));
    quota("commands that the provider heard", seconds / 2, &|fact| matches!(fact, RunFact::UpFrame { command: Some(_), .. }));
    quota("messages of the provider in the log", seconds * 2, &|fact| matches!(fact, RunFact::UpEntry { said: Some(_), .. }));
    if seconds >= 60 && plan.faults.len() > 4 {
        quota("take-overs of sessions at the provider", seconds / 8, &|fact| matches!(fact, RunFact::UpTerm { taken_over: true, .. }));
        quota("outcomes that were not known", 1, &|fact| matches!(fact, RunFact::PostInfo { .. }));
        quota("places of another log", 1, &|fact| matches!(fact, RunFact::Liar { .. }));
    }
    if has_sdk {
        quota("clients of the SDK", seconds / 4, &|fact| matches!(fact, RunFact::SdkOpen { .. }));
        quota("notifications that the handlers of the SDK finished", seconds * 20, &|fact| matches!(fact, RunFact::SdkHandled { .. }));
        quota("tabs that came to lead", seconds / 10, &|fact| matches!(fact, RunFact::SdkLeads { .. }));
        quota(
            "connections of the SDK by SSE",
            seconds / 12,
            &|fact| matches!(fact, RunFact::LinkOpen { transport, .. } if transport == "sse"),
        );
    }
    quota("faults", (seconds / 15).max(1), &|fact| matches!(fact, RunFact::FaultEnd { .. }));
}
