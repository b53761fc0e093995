//! Runs a hub inside the test's own process, with providers that the test names.
//!
//! The hub has the browsers' side of provider sessions, and the test plays the other side.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use recado::app::{Hub, HubBuilder};
use recado::config::{Config, MachineEnvironment};
use recado::providers::command_intake::{CommandRules, ProviderRules};

use super::hub::SECRET;
use super::owner::provider;
use super::{ClientBuilder, TestClient, TestDb};

/// Dropping it stops it.
pub struct InProcessHub {
    /// `127.0.0.1:PORT`
    pub address: String,
    _hub: Hub,
}

/// Settings that differ from the default.
pub struct InsideBuilder {
    providers: Vec<&'static str>,
    wait: Duration,
    hears: bool,
}

/// A hub with these providers. `bet` is a command for the first.
pub fn inside(providers: &[&'static str]) -> InsideBuilder {
    InsideBuilder { providers: providers.to_vec(), wait: Duration::from_secs(10), hears: true }
}

impl InsideBuilder {
    /// A command that no owner takes in this time is rejected.
    #[must_use]
    pub fn wait(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self
    }

    /// Drops every NOTIFY about provider sessions.
    #[must_use]
    pub fn deaf(mut self) -> Self {
        self.hears = false;
        self
    }

    pub async fn start(self, db: &TestDb) -> InProcessHub {
        let linger = Duration::from_secs(30);
        let rules = CommandRules {
            providers: self.providers.iter().map(|name| ProviderRules { name: provider(name), linger }).collect(),
            types: self.providers.first().map(|first| ("bet".to_owned(), provider(first))).into_iter().collect::<HashMap<_, _>>(),
            wait: self.wait,
        };
        let values = [("PORT", "0")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        let config = Config::from_values(&BTreeMap::from(values), MachineEnvironment::default()).unwrap();
        let mut builder = HubBuilder::new(&config, SECRET, db.hub()).commands(rules);
        if !self.hears {
            builder = builder.deaf_to_providers();
        }
        let hub = builder.start().await.unwrap_or_else(|error| panic!("{error}"));
        InProcessHub { address: hub.address().to_string(), _hub: hub }
    }
}

impl InProcessHub {
    pub async fn connect(&self, asked: &ClientBuilder) -> TestClient {
        asked.try_connect(&self.address).await.unwrap_or_else(|problem| panic!("{problem}"))
    }
}
