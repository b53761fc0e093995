//! Makes what the webhooks of a hub need from its settings.

use std::sync::Arc;

use tokio::sync::Notify;

use super::AppContext;
use crate::config::Config;
use crate::domain::Network;
use crate::sealing::Keyring;
use crate::startup;
use crate::store::Database;
use crate::webhooks::{SecretKeys, TargetRules, WebhookSetup};

/// Where webhooks may post.
pub fn webhook_rules(config: &Config) -> TargetRules {
    TargetRules::new(config.webhook_networks.iter().map(|(address, prefix)| Network::of(*address, *prefix)).collect())
}

/// The parameters of the webhooks of a hub. `at_start` are the keys that could be read at the start of the process.
pub(super) fn webhook_setup(
    config: &Config,
    database: Database,
    here: &AppContext<'_>,
    at_start: Vec<[u8; 32]>,
    changed: Arc<Notify>,
) -> WebhookSetup {
    WebhookSetup {
        database,
        instance: here.instance,
        registry: Arc::clone(here.registry),
        keys: secret_keys(config, at_start),
        rules: webhook_rules(config),
        changed,
    }
}

/// The keys of the secrets of webhooks: those that can be read now, or else those that were read at the start.
fn secret_keys(config: &Config, at_start: Vec<[u8; 32]>) -> SecretKeys {
    let config = config.clone();
    SecretKeys::new(move || {
        let keys = startup::kept_upstream_keys(&config).ok().filter(|keys| !keys.is_empty());
        Keyring::new(&keys.unwrap_or_else(|| at_start.clone())).ok()
    })
}
