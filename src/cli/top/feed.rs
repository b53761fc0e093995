//! Follows a hub's stream of samples, and reads the sessions after each.

use std::time::Duration;

use serde_json::Value;
use tokio::sync::mpsc;

use super::model::{Sample, Sessions};
use crate::backoff::Backoff;
use crate::cli::error::CliFailure;
use crate::cli::hub_client::HubClient;
use crate::config::Config;
use crate::domain::Role;

/// Most bytes of an event. A longer one is not of a hub.
const EVENT_MAX_BYTES: usize = 16 << 20;
/// The sessions with the highest lag, as many as a hub gives.
pub const SESSIONS: &str = "/api/admin/sessions?sort=-lag&limit=10000";
const EVENT: &str = "event: sample\ndata: ";

/// What has arrived.
pub enum News {
    Sample(Sample),
    Sessions(Sessions),
    Trouble(String),
}

/// Sends what arrives, for ever. When full, the hub waits.
pub async fn run(config: &Config, news: mpsc::Sender<News>) {
    let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(5));
    loop {
        match follow(config, &news, &mut backoff).await {
            Ok(()) => {}
            Err(failure) => {
                if news.send(News::Trouble(failure.message)).await.is_err() {
                    return;
                }
            }
        }
        tokio::time::sleep(backoff.failed()).await;
    }
}

/// Follows one stream to its end. A token that this command made itself lives for minutes; the next stream has another.
async fn follow(config: &Config, news: &mpsc::Sender<News>, backoff: &mut Backoff) -> Result<(), CliFailure> {
    let hub = HubClient::new(config, Some(Role::Admin))?;
    let mut stream = hub.stream("/api/admin/live").await?;
    let mut text = Vec::new();
    while let Some(piece) = stream.chunk().await.map_err(|error| CliFailure::unavailable(format!("the stream broke off: {error}")))? {
        text.extend_from_slice(&piece);
        while let Some(end) = text.windows(2).position(|two| two == b"\n\n") {
            let rest = text.split_off(end + 2);
            let event = String::from_utf8_lossy(&text).into_owned();
            text = rest;
            let Some(data) = event.strip_prefix(EVENT) else { continue };
            let sample: Sample = serde_json::from_str(data.trim_end()).unwrap_or_default();
            backoff.succeeded();
            let sessions = hub.get(SESSIONS).await?.into_success()?;
            for one in [News::Sample(sample), News::Sessions(Sessions::read(sessions))] {
                if news.send(one).await.is_err() {
                    return Ok(());
                }
            }
        }
        if text.len() > EVENT_MAX_BYTES {
            return Err(CliFailure::other("the hub sent an event without an end"));
        }
    }
    Ok(())
}

/// The instances and sessions of this moment.
///
/// # Errors
/// When the hub does not answer, or refuses.
pub async fn once(config: &Config) -> Result<Moment, CliFailure> {
    let hub = HubClient::new(config, Some(Role::Admin))?;
    let instances = hub.get("/api/admin/instances").await?.into_success()?;
    let sessions = hub.get(SESSIONS).await?.into_success()?;
    Ok(Moment { instances, sessions })
}

/// Two answers of a hub, as it gave them.
#[derive(serde::Serialize)]
pub struct Moment {
    pub instances: Value,
    pub sessions: Value,
}
