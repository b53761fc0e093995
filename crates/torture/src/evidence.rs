//! Collects the evidence at the end of a run: connections, log, positions, secrets and resources.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use recado_torture_check::fact::RunFact;
use serde_json::Value;
use tokio::time::sleep;

use crate::cast::{ERASED, TENANTS, USERS};
use crate::world::RunWorld;
use crate::{RunError, secrets, witness};

/// Longest wait until the hubs list one connection of each browser: a lost one is detected by its heartbeats.
const HELD_LIMIT: Duration = Duration::from_secs(15);
/// How many more files a hub without clients may have open than at its start: the number of database and keep-alive
/// connections varies, and its users' provider sessions linger. A leak has one for each of hundreds of connections.
const FILES_SLACK: u64 = 48 + (TENANTS * USERS + ERASED) as u64;
/// Most tickets, and most provider session ids, to search for in every log.
const LOOKED_FOR: usize = 30;
/// Most memory of a hub, in KiB.
const MEMORY_KIB: u64 = 400 << 10;
/// Connections to the database of one hub: thirteen of its own tasks and provider sessions, eight readers, two for
/// commands, two for tickets, one for keys, four for consumers, two for webhooks, one for retention, and two that were
/// just replaced and are not gone yet.
const CONNECTIONS_A_HUB: u64 = 35;

/// Records how many connections the hubs list for each browser of the SDK. A hub may need some seconds to detect the
/// end of an earlier one.
pub async fn held(world: &RunWorld, browsers: &[(String, String)]) -> Result<(), RunError> {
    let end = Instant::now() + world.patience(HELD_LIMIT);
    loop {
        let lists: Vec<Value> = stats(world).await?.iter().map(|text| serde_json::from_str(text)).collect::<Result<_, _>>()?;
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
                world.book.note(RunFact::Held { device: format!("{user}/{client}"), connections });
            }
            return Ok(());
        }
        sleep(Duration::from_millis(200)).await;
    }
}

/// After all clients have left: collects the log, the positions, the secrets and the resources.
pub async fn gather(world: &RunWorld) -> Result<(), RunError> {
    // The hubs detect that all clients have left, and write the last acknowledgements.
    sleep(Duration::from_secs(3)).await;
    resources(world).await?;
    witness::testify(&world.postgres.url, &world.book, &world.site.roll, world.sdk.is_some()).await?;
    let mut places = Vec::new();
    for hub in &world.hubs {
        places.push((format!("the log of hub {}", hub.number), std::fs::read_to_string(&hub.log)?));
    }
    places.push(("the log of the database".to_owned(), std::fs::read_to_string(&world.postgres.log)?));
    places.push(("/stats".to_owned(), stats(world).await?.concat()));
    let mut canaries = world.canaries.clone();
    let tickets = world.floor.tickets.lock().unwrap_or_else(PoisonError::into_inner).clone();
    for (name, many) in [("a ticket", tickets), ("a session at the provider", world.provider.sessions())] {
        let step = (many.len() / LOOKED_FOR).max(1);
        canaries.extend(many.into_iter().step_by(step).map(|canary| (name.to_owned(), canary)));
    }
    for (place, text) in &places {
        for (name, canary) in &canaries {
            if text.contains(canary.as_str()) {
                world.book.note(RunFact::Secret { name: name.clone(), place: place.clone(), found: true });
            }
        }
    }
    let texts: Vec<String> = canaries.iter().map(|(_, text)| text.clone()).collect();
    for (text, table) in witness::tables_with(&world.postgres.url, &texts).await? {
        let name = canaries.iter().find(|(_, canary)| *canary == text).map_or_else(String::new, |(name, _)| name.clone());
        world.book.note(RunFact::Secret { name, place: format!("the table {table}"), found: true });
    }
    Ok(())
}

/// The answer of each hub.
async fn stats(world: &RunWorld) -> Result<Vec<String>, RunError> {
    let token = secrets::token("boss", None, Some(recado::domain::Role::Admin))?;
    let mut texts = Vec::new();
    for hub in &world.hubs {
        let request = world.floor.http.get(format!("http://{}/stats", hub.url())).bearer_auth(&token);
        texts.push(request.timeout(Duration::from_secs(10)).send().await?.error_for_status()?.text().await?);
    }
    Ok(texts)
}

async fn resources(world: &RunWorld) -> Result<(), RunError> {
    for hub in &world.hubs {
        let base = hub.base_files.lock().unwrap_or_else(PoisonError::into_inner).unwrap_or(0);
        let Some((files, memory)) = hub.files_and_memory().await else { return Err(format!("hub {} is gone", hub.number).into()) };
        let name = |what: &str| format!("{what} of hub {}", hub.number);
        world.book.note(RunFact::Resource { name: name("open files"), base, end: files, allowed: base + FILES_SLACK });
        world.book.note(RunFact::Resource { name: name("KiB of memory"), base: 0, end: memory, allowed: MEMORY_KIB });
    }
    let (connections, names) = witness::connections(&world.postgres.url).await?;
    let allowed = CONNECTIONS_A_HUB * world.hubs.len() as u64;
    if connections > allowed {
        println!("connections to the database: {names}");
    }
    world.book.note(RunFact::Resource { name: "connections to the database".to_owned(), base: 0, end: connections, allowed });
    Ok(())
}
