//! Serves HTTP: authentication, posts, history, and the streams that deliver notifications.
//!
//! This room has no way to hand a notification to a connection: a post goes to the log, and every delivered frame
//! comes from a [`crate::delivery::Subscription`].

mod access;
mod access_watch;
mod address;
mod anonymous_budget;
mod api_documents;
mod audit;
mod auth;
mod batch;
mod batch_item;
mod body_stream;
mod command_queue;
mod connection_slots;
mod console;
mod console_page;
mod console_rules;
mod consumers;
mod deadline;
mod device;
mod drain;
mod drain_body;
#[cfg(feature = "conformance")]
mod echo_server;
#[cfg(test)]
mod future_sizes;
#[cfg(feature = "fuzz")]
pub mod fuzz_entry;
mod header_list;
mod health;
mod health_routes;
mod history;
mod hosts;
mod idle_timeout;
mod inbox;
mod instance_history;
mod key_cache;
mod limited_log;
mod line_message;
mod listener_side;
mod log_line;
mod members;
mod metrics;
mod named_user;
mod ndjson;
mod notify;
mod origin;
mod own_session;
mod problems;
mod query;
mod rate_limits;
mod refused_admin;
mod refused_attempts;
mod removed_keys;
mod request;
mod request_span;
mod router;
mod scan_turns;
mod scopes;
mod sdk;
mod server;
mod session_auth;
mod shared_socket;
mod socket;
mod sse;
mod state;
mod stats;
mod stream;
mod stream_places;
mod stream_request;
mod ticket;
mod upgrade;
mod websocket_io;
mod why;
mod write_timeout;
mod ws_ticket;

pub use access_watch::AccessWatch;
pub use address::TrustedProxies;
pub use auth::Auth;
pub use connection_slots::{AddressBudgets, ConnectionSlots};
pub use console::CONSOLE_READS_AT_ONCE;
pub use console::devices::{DEVICE_LISTS_MAX, DEVICE_LISTS_OF_ONE};
pub use console::instance_report::HubReports;
pub use console::live::{LIVE_MAX, LIVE_OF_ONE};
pub use console::log::{FOLLOWERS_MAX, FOLLOWERS_OF_ONE};
pub use console_rules::{ConsoleRules, Served};
pub use consumers::{FETCHES_MAX, FETCHES_OF_ONE};
#[cfg(feature = "conformance")]
pub use echo_server::{EchoRules, EchoServer};
pub use health::Health;
pub use hosts::Hosts;
pub use instance_history::InstanceHistory;
pub use key_cache::{KeyCache, KeyLooker};
pub use listener_side::ListenerSide;
pub use origin::Origins;
pub use rate_limits::{BATCHES_AT_ONCE, KeyRates, NameRates, UserBudgets};
pub use refused_attempts::{RefusedAttempts, run as record_refused_attempts};
pub use removed_keys::close_removed_keys;
pub use router::router;
pub use scan_turns::ScanTurns;
pub use server::{Server, ServerRules};
pub use state::{HubState, SocketRules};
pub use stream_places::StreamPlaces;
pub use ticket::Tickets;
