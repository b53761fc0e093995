//! Runs the whole test: sets up, injects faults, heals, waits for quiet, and collects the facts.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;
use recado_torture_check::fact::{FactEntry, RunFact};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::cast::TENANTS;
use crate::consumers::{ConsumerOwner, ConsumerProgress};
use crate::devices::{Part, TortureDevice};
use crate::nemesis::Nemesis;
use crate::plan::RunPlan;
use crate::producers::Producer;
use crate::receiver::Receiver;
use crate::sdk::{SdkDevices, SdkPlan};
use crate::world::RunWorld;
use crate::writers::Writer;
use crate::{RunError, evidence, machine, quotas, secrets, witness};

const WRITERS: usize = 8;
const PRODUCERS: usize = 2;
const OWNERS: usize = 3;
/// Longest wait after the last fault until every device has everything.
const DRAIN_LIMIT: Duration = Duration::from_secs(30);
/// Longest wait until one more command has a result. A command that no owner takes is rejected after ten seconds.
const COMMANDS_LIMIT: Duration = Duration::from_secs(40);
/// Longest wait until the writers have finished their open posts.
const SETTLE_LIMIT: Duration = Duration::from_secs(40);

/// Runs to the end. Returns the history, also after a failure.
pub async fn play(plan: &RunPlan) -> Result<Vec<FactEntry>, RunError> {
    let mut world = RunWorld::set(plan).await?;
    world.note_base().await;
    let (mut writers, mut devices) = (JoinSet::new(), JoinSet::new());
    for tenant in 0..TENANTS {
        for (number, part) in Part::of_tenant(tenant).into_iter().enumerate() {
            let device = TortureDevice::new(Arc::clone(&world.floor), part, number, plan.seed)?;
            world.canaries.push((format!("the token of {}", device.name()), secrets::signature(device.token()).to_owned()));
            world.reached.push((device.name().to_owned(), Arc::clone(&device.reached), device.is_slow()));
            world.untold.push(Arc::clone(&device.commands.open));
            devices.spawn(device.run());
        }
    }
    for number in 0..WRITERS {
        let writer = Writer::new(Arc::clone(&world.desk), number, plan.seed)?;
        world.canaries.push((format!("the token of writer {number}"), secrets::signature(writer.token()).to_owned()));
        writers.spawn(writer.run());
    }
    for number in 0..PRODUCERS {
        writers.spawn(Producer::new(Arc::clone(&world.desk), number, plan.seed, world.postgres.url.clone()).run());
    }
    let (mut owners, progress) = (JoinSet::new(), Arc::new(ConsumerProgress::default()));
    for number in 0..OWNERS {
        let owner = ConsumerOwner::new(Arc::clone(&world.desk), Arc::clone(&progress), number, plan.seed)?;
        world.canaries.push((format!("the token of owner {number}"), secrets::signature(owner.token()).to_owned()));
        owners.spawn(owner.run());
    }
    let receiver = Receiver::start(Arc::clone(&world.desk), plan.seed).await?;
    let secret = receiver.create_webhook(&world.program, &world.postgres.url).await?;
    world.canaries.push(("the secret of the webhook".to_owned(), secret));
    add_sdk_devices(plan, &mut world).await?;
    let world = Arc::new(world);
    let mut watching = JoinSet::new();
    watching.spawn(machine::watch_the_clock(Arc::clone(&world.book)));
    watching.spawn(machine::watch_the_others(Arc::clone(&world)));
    watching.spawn(machine::watch_the_hubs(Arc::clone(&world)));
    let until = Instant::now() + Duration::from_secs(plan.seconds);
    let outcome = match &world.sdk {
        // What a run sees of the others for the rest of its time would be no result.
        Some(sdk) => tokio::select! {
            outcome = disturb(plan, &world, until) => outcome,
            died = sdk.died() => Err(died),
        },
        None => disturb(plan, &world, until).await,
    };
    let outcome = match outcome {
        Ok(()) => finish(&world, &mut writers).await,
        broken => broken,
    };
    drop((devices, owners, receiver));
    drop(watching);
    let outcome = match &world.sdk {
        Some(sdk) => outcome.and(sdk.end().await),
        None => outcome,
    };
    let gathered = match &outcome {
        Ok(()) => evidence::gather(&world).await,
        Err(_) => Ok(()),
    };
    quotas::note(plan, &world.book);
    for hub in &world.hubs {
        hub.kill().await?;
    }
    world.postgres.stop().await;
    outcome?;
    gathered?;
    Ok(world.book.take())
}

async fn disturb(plan: &RunPlan, world: &Arc<RunWorld>, until: Instant) -> Result<(), RunError> {
    let mut nemesis = Nemesis::new(Arc::clone(world), StdRng::seed_from_u64(plan.seed), plan.faults.clone());
    nemesis.run(until).await?;
    sleep(until.saturating_duration_since(Instant::now())).await;
    Ok(())
}

/// After the last fault, without new posts: settles the open ones, and waits until every device has everything.
async fn finish(world: &RunWorld, writers: &mut JoinSet<()>) -> Result<(), RunError> {
    if let Some(sdk) = &world.sdk {
        sdk.stay().await?;
    }
    world.floor.staying.store(true, Ordering::SeqCst);
    world.desk.closed.store(true, Ordering::SeqCst);
    world.provider.fall_silent();
    let settled = timeout(world.patience(SETTLE_LIMIT), async { while writers.join_next().await.is_some() {} }).await;
    if settled.is_err() {
        println!("the writers did not settle all posts in time");
    }
    until_commands_are_known(world).await?;
    world.book.note(RunFact::Drain);
    let kept = world.desk.kept.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let moved = Instant::now() + world.patience(DRAIN_LIMIT);
    while witness::count(&world.postgres.url, &kept).await? < kept.len() && Instant::now() < moved {
        sleep(Duration::from_millis(100)).await;
    }
    let head = witness::head(&world.postgres.url).await?;
    let late = world.at_head(world.patience(DRAIN_LIMIT), true).await?;
    if !late.is_empty() {
        println!("devices that did not reach the head in time: {late:?}");
    }
    world.book.note(RunFact::Drained { head });
    let acked = until_consumer_stops(world, head).await?;
    world.book.note(RunFact::ConsumerPlace { acked });
    let place = until_webhook_stops(world, head).await?;
    world.book.note(place);
    match &world.sdk {
        Some(sdk) => evidence::held(world, &sdk.browsers()).await,
        None => Ok(()),
    }
}

/// Starts the devices of the SDK, if the run has any.
async fn add_sdk_devices(plan: &RunPlan, world: &mut RunWorld) -> Result<(), RunError> {
    let Some(program) = &plan.sdk else { return Ok(()) };
    let log = plan.folder.join("sdk.log");
    let start = SdkPlan { seed: plan.seed, addresses: &world.floor.addresses, mutant: plan.sdk_mutant, log: &log };
    let sdk = SdkDevices::start(program, &world.book, start).await?;
    for (name, token) in sdk.tokens() {
        world.canaries.push((format!("the token of {name}"), secrets::signature(token).to_owned()));
    }
    world.reached.extend(sdk.reached.iter().map(|(name, seq)| (name.clone(), Arc::clone(seq), false)));
    world.untold.push(sdk.open_commands());
    world.sdk = Some(sdk);
    Ok(())
}

/// Waits until the consumer is at the head, or has not moved for the limit. Returns its position. The longer the run,
/// the further behind it may be.
async fn until_consumer_stops(world: &RunWorld, head: i64) -> Result<i64, RunError> {
    let (url, limit) = (&world.postgres.url, world.patience(DRAIN_LIMIT));
    let (mut acked, mut end) = (witness::consumer_place(url).await?, Instant::now() + limit);
    while acked < head && Instant::now() < end {
        sleep(Duration::from_millis(100)).await;
        let now = witness::consumer_place(url).await?;
        if now > acked {
            (acked, end) = (now, Instant::now() + limit);
        }
    }
    Ok(acked)
}

/// Waits until the webhook has posted everything, or nothing has changed for the limit. Returns how far it is.
async fn until_webhook_stops(world: &RunWorld, head: i64) -> Result<RunFact, RunError> {
    let (url, limit) = (&world.postgres.url, world.patience(DRAIN_LIMIT));
    let (mut place, mut end) = (witness::webhook_place(url).await?, Instant::now() + limit);
    while !matches!(place, RunFact::WebhookPlace { passed, waiting: 0, .. } if passed >= head) && Instant::now() < end {
        sleep(Duration::from_millis(100)).await;
        let now = witness::webhook_place(url).await?;
        if now != place {
            (place, end) = (now, Instant::now() + limit);
        }
    }
    Ok(place)
}

/// Waits until every command is settled, and its device knows the result. A device may ask for some of its old ones
/// every few seconds, and has more of them the longer the run was: the wait continues as long as they become fewer.
async fn until_commands_are_known(world: &RunWorld) -> Result<(), RunError> {
    let limit = world.patience(COMMANDS_LIMIT);
    let (mut fewest, mut end) = (usize::MAX, Instant::now() + limit);
    loop {
        let untold: usize = world.untold.iter().map(|untold| untold.load(Ordering::SeqCst)).sum();
        let unsettled = witness::upstream::unsettled(&world.postgres.url).await?;
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
