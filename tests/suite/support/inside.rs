//! A hub inside the test's own process, with providers that the test names: it has the browsers' side of upstream
//! sessions, and the test is the other side.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use recado::config::JwtRules;
use recado::delivery::clerk::Clerk;
use recado::delivery::desk::{CommandRules, Desk, ProviderRules};
use recado::delivery::herald::Herald;
use recado::delivery::pacer::Pacer;
use recado::delivery::registry::{Limits, Position};
use recado::delivery::tailer::{Pulse, Tailer};
use recado::delivery::{Delivery, Registry};
use recado::domain::InstanceId;
use recado::http::{Auth, BATCHES_AT_ONCE, Health, Hub, Origins, Rates, Server, SocketRules, TokenRules, UserRates, router};
use recado::store::appender::Appender;
use recado::store::listener::Readers;
use recado::store::seen::Seen;
use recado::store::turn::Turn;
use recado::store::{listener, read};
use recado::tasks::{Stopper, Tasks};
use tokio::sync::{Semaphore, mpsc};

use super::hub::SECRET;
use super::owner::provider;
use super::{Asked, Client, TestDb};

/// Dropping it stops it.
pub struct Inside {
    /// `127.0.0.1:PORT`
    pub address: String,
    _stopper: Stopper,
}

/// What differs from the normal.
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
    /// A command that nobody takes in this time is rejected.
    #[must_use]
    pub fn wait(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self
    }

    /// Every hint about upstream sessions is lost.
    #[must_use]
    pub fn deaf(mut self) -> Self {
        self.hears = false;
        self
    }

    pub async fn start(self, db: &TestDb) -> Inside {
        let database = db.hub();
        let instance = InstanceId::new();
        let state = read::state(&mut database.connect("start").await.unwrap()).await.unwrap();
        let position = Position { log_id: state.log_id, floor: state.floor, published: state.head };
        let registry = Registry::new(Limits { connections: 1000, per_user: 100, single: false }, position);
        let seen = Arc::new(Seen::new(state.log_id));
        let pulse = Arc::new(Pulse::default());
        let (tasks, _failed) = Tasks::new();
        let (stopper, stop) = Stopper::new();
        let (committed_in, committed) = mpsc::channel(64);
        let (others, turn) = Turn::of(instance);
        let (appender, appending) = Appender::new(database.clone(), instance, Arc::clone(&seen), committed_in, turn);
        let linger = Duration::from_secs(30);
        let rules = CommandRules {
            providers: self.providers.iter().map(|name| ProviderRules { name: provider(name), linger }).collect(),
            types: self.providers.first().map(|first| ("bet".to_owned(), provider(first))).into_iter().collect::<HashMap<_, _>>(),
            wait: self.wait,
        };
        let desk = Desk::new(rules, database.reader("commands", 2));
        let reader = database.reader("reader", 4);
        let delivery = Delivery::new(Arc::clone(&registry), reader.clone(), None).with_desk(Some(Arc::clone(&desk)));
        let jwt = JwtRules {
            issuer: None,
            audience: None,
            user_claim: "sub".into(),
            account_claim: "account_id".into(),
            accounts_claim: "account_ids".into(),
            max_lifetime: Duration::from_secs(86_400),
        };
        let hub = Arc::new(Hub {
            instance,
            appender,
            auth: Auth::new(TokenRules::new(SECRET, jwt), database.reader("keys", 1)),
            delivery,
            reader,
            origins: Origins::Loopback,
            rates: Rates::new(0),
            user_rates: UserRates::new(0, 0),
            ticket_rates: UserRates::new(0, 0),
            batch_room: Semaphore::new(BATCHES_AT_ONCE),
            health: Health::new(Arc::clone(&pulse)),
            sockets: SocketRules {
                heartbeat: Duration::from_secs(30),
                send_deadline: Duration::from_secs(10),
                pong_deadline: Duration::from_secs(20),
            },
            max_connections: 1000,
            tasks: tasks.clone(),
        });
        let any = "127.0.0.1:0".parse().unwrap();
        let server = Server::bind(any, router(Arc::clone(&hub)), tasks.clone(), 1000, Duration::from_secs(15)).await.unwrap();
        let address = server.address().unwrap().to_string();
        let (hints_in, hints) = mpsc::channel(256);
        let (upstream_in, upstream) = mpsc::channel(256);
        let to_herald = if self.hears { vec![upstream_in] } else { Vec::new() };
        let tailer = Tailer::new(database.clone(), Arc::clone(&registry), seen, instance, pulse, Duration::from_secs(1));
        let clerk = Clerk::new(database.clone(), instance, &hub.delivery);
        tasks.essential("appender", appending.run(stop.clone()));
        tasks.essential("tailer", tailer.run(committed, hints, stop.clone()));
        tasks.essential("clerk", clerk.run(stop.clone()));
        tasks.essential("pacer", Pacer::new(Arc::clone(&registry)).run(stop.clone()));
        let readers = Readers { hints: hints_in, others, upstream: to_herald };
        tasks.essential("listener", listener::run(database.clone(), readers, stop.clone()));
        tasks.essential("herald", Herald::new(database, registry, desk).run(upstream, stop.clone()));
        tasks.essential("accept", server.run(stop));
        Inside { address, _stopper: stopper }
    }
}

impl Inside {
    pub async fn connect(&self, asked: &Asked) -> Client {
        asked.try_connect(&self.address).await.unwrap_or_else(|problem| panic!("{problem}"))
    }
}
