//! Tests the hub's promises on real hubs (child processes), a real PostgreSQL and real sockets.
//!
//! Each file tests one promise.
//!
//! `cargo test` alone is enough: the first test starts a throw-away cluster, each test gets a database of its own from
//! a template, and everything is stopped at the end. `TEST_DATABASE_URL` (a superuser's URL) names another cluster.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on should end at that very line")]
#![allow(clippy::disallowed_methods, reason = "tests start their own tasks, and read TEST_DATABASE_URL and TMPDIR")]
#![allow(clippy::wrong_self_convention, reason = "a note goes to somebody; it is not turned into one")]

mod support;

mod access;
mod acks;
mod analysts;
mod answers;
mod append;
mod audit;
mod bad_input;
mod batch;
mod browser;
mod cdc;
mod cli;
mod clock;
mod cloudevents;
mod connects;
mod console_api;
mod console_instances;
mod console_live;
mod console_page;
mod consumers;
mod crash;
mod deliver;
mod deploy;
mod devices;
mod direct;
mod disks;
mod docs;
mod doctor;
mod doors;
mod erase;
mod export;
mod facts;
mod failover;
mod fair;
mod flood;
mod frames;
mod frozen;
mod guard;
mod guide_client;
mod history;
mod identity_files;
mod idle;
mod idle_hub;
mod issuers;
mod large_rows;
mod locks;
mod logs;
mod matrix;
mod members;
mod metrics;
mod mutants;
mod ndjson;
mod network;
mod notified;
mod observing;
mod old_clients;
mod old_hubs;
mod openapi;
mod outages;
mod outbox;
mod pages;
mod plans;
mod points;
mod power;
mod private_server;
mod proxies;
mod reaching;
mod restored;
mod resume;
mod retention;
mod returning;
mod roles;
mod rolled_back;
mod scopes;
mod secrets;
mod service_manager;
mod sessions;
mod shared_ids;
mod since;
mod slow;
mod sql_page;
mod sse;
mod stalls;
mod standbys;
mod stop;
mod tables;
mod tenants;
mod tickets;
mod token_cost;
mod token_forgery;
mod top;
mod traces;
mod types;
mod upstream;
mod upstream_chaos;
mod upstream_checker;
mod upstream_cli;
mod upstream_frames;
mod upstream_gaps;
mod upstream_points;
mod upstream_provider;
mod upstream_race;
mod upstream_real;
mod upstream_store;
mod wakeup;
mod webhooks;
mod why;
