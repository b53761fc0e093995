//! Runs a hub inside the test's own process, with providers that the test names.
//!
//! The hub has the browsers' side of provider sessions, and the test plays the other side.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use recado::config::JwtRules;
use recado::delivery::ack_flusher::AckFlusher;
use recado::delivery::ack_prober::AckProber;
use recado::delivery::registry::{ConnectionLimits, Position};
use recado::delivery::tailer::{Pulse, Tailer};
use recado::delivery::{Delivery, Registry};
use recado::domain::InstanceId;
use recado::http::{
    AddressBudgets, Auth, BATCHES_AT_ONCE, ConnectionSlots, Health, HubState, KeyCache, ListenerSide, NameRates, Origins, Server,
    ServerRules, SocketRules, Tickets, TokenRules, TrustedProxies, UserBudgets, router,
};
use recado::log::appender::Appender;
use recado::log::commit_turns::CommitTurn;
use recado::providers::command_intake::{CommandIntake, CommandRules, ProviderRules};
use recado::providers::provider_status::ProviderStatus;
use recado::store::listener::ListenerOutputs;
use recado::store::log_watermark::LogWatermark;
use recado::store::{listener, read};
use recado::tasks::{Stopper, TaskName, Tasks};
use tokio::sync::{Semaphore, mpsc};

use super::hub::SECRET;
use super::owner::provider;
use super::{ClientBuilder, TestClient, TestDb};

/// Dropping it stops it.
pub struct InProcessHub {
    /// `127.0.0.1:PORT`
    pub address: String,
    _stopper: Stopper,
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
        let database = db.hub();
        let instance = InstanceId::new();
        let state = read::state(&mut database.connect("start").await.unwrap()).await.unwrap();
        let position = Position { log_id: state.log_id, floor: state.floor, dispatched: state.head };
        let registry = Registry::new(ConnectionLimits { connections: 1000, per_user: 100, devices: 200, single: false }, position);
        let seen = Arc::new(LogWatermark::new(state.log_id));
        let pulse = Arc::new(Pulse::default());
        let (tasks, _failed) = Tasks::new();
        let (stopper, stop) = Stopper::new();
        let (committed_in, committed) = mpsc::channel(64);
        let (others, turn) = CommitTurn::of(instance);
        let (appender, appending) = Appender::new(database.clone(), instance, Arc::clone(&seen), committed_in, turn);
        let linger = Duration::from_secs(30);
        let rules = CommandRules {
            providers: self.providers.iter().map(|name| ProviderRules { name: provider(name), linger }).collect(),
            types: self.providers.first().map(|first| ("bet".to_owned(), provider(first))).into_iter().collect::<HashMap<_, _>>(),
            wait: self.wait,
        };
        let intake = CommandIntake::new(rules, database.reader("commands", 2));
        let reader = database.reader("reader", 4);
        let delivery = Delivery::new(Arc::clone(&registry), reader.clone(), None).with_arrivals(Some(Arc::clone(&intake.arrivals)));
        let jwt = JwtRules::default();
        let (keys, looker) = KeyCache::new(database.reader("keys", 1));
        let hub = Arc::new(HubState {
            instance,
            appender,
            auth: Auth::new(TokenRules::new(SECRET, jwt), keys),
            delivery,
            command_intake: Some(Arc::clone(&intake)),
            reader,
            origins: Origins::loopback(),
            rates: NameRates::new("publish", 0, 0),
            user_rates: NameRates::new("request", 0, 0),
            ticket_rates: NameRates::new("ticket", 0, 0),
            tickets: Tickets::new(SECRET, database.reader("tickets", 1)),
            budgets: UserBudgets::new(100),
            batch_room: Semaphore::new(BATCHES_AT_ONCE),
            health: Health::new(Arc::clone(&pulse), Arc::default()),
            sockets: SocketRules {
                heartbeat: Duration::from_secs(30),
                send_deadline: Duration::from_secs(10),
                pong_deadline: Duration::from_secs(20),
            },
            max_connections: 1000,
            tasks: tasks.clone(),
        });
        let any = "127.0.0.1:0".parse().unwrap();
        let slots = ConnectionSlots::new(AddressBudgets::unlimited(1000), TrustedProxies::default());
        let rules = ServerRules { stall: Duration::from_secs(15), idle: Duration::from_secs(75) };
        let server =
            Server::bind(any, router(Arc::clone(&hub), ListenerSide::Whole, recado::http::Hosts::any()), tasks.clone(), slots, rules)
                .await
                .unwrap();
        let address = server.address().unwrap().to_string();
        let (hints_in, hints) = mpsc::channel(256);
        let (upstream_in, upstream) = mpsc::channel(256);
        let to_provider_status = if self.hears { vec![upstream_in] } else { Vec::new() };
        let tailer = Tailer::new(database.clone(), Arc::clone(&registry), seen, instance, pulse, Duration::from_secs(1));
        let flusher = AckFlusher::new(database.clone(), instance, &hub.delivery);
        tasks.essential(TaskName::Appender, appending.run(stop.clone()));
        tasks.essential(TaskName::Tailer, tailer.run(committed, hints, stop.clone()));
        tasks.essential(TaskName::Keys, looker.run(stop.clone()));
        tasks.essential(TaskName::AckFlusher, flusher.run(stop.clone()));
        tasks.essential(TaskName::AckProber, AckProber::new(Arc::clone(&registry)).run(stop.clone()));
        let readers = ListenerOutputs { hints: hints_in, others, upstream: to_provider_status, keys_revoked: Arc::default() };
        tasks.essential(TaskName::Listener, listener::run(database.clone(), readers, stop.clone()));
        tasks.essential(TaskName::ProviderStatus, ProviderStatus::new(database, registry, intake).run(upstream, stop.clone()));
        tasks.essential(TaskName::Accept, server.run(stop));
        InProcessHub { address, _stopper: stopper }
    }
}

impl InProcessHub {
    pub async fn connect(&self, asked: &ClientBuilder) -> TestClient {
        asked.try_connect(&self.address).await.unwrap_or_else(|problem| panic!("{problem}"))
    }
}
