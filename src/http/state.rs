//! Holds what the handlers share.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::auth::Auth;
use super::console_rules::ConsoleRules;
use super::health::Health;
use super::instance_history::InstanceHistory;
use super::origin::Origins;
use super::rate_limits::{KeyRates, NameRates, UserBudgets};
use super::refused_attempts::RefusedAttempts;
use super::scan_turns::ScanTurns;
use super::stream_places::StreamPlaces;
use super::ticket::Tickets;
use crate::delivery::Delivery;
use crate::domain::{InstanceId, MutePattern};
use crate::log::appender::AppendHandle;
use crate::log::inbox_writer::InboxHandle;
use crate::log::retention::RetentionPolicy;
use crate::providers::command_intake::CommandIntake;
use crate::store::Reader;
use crate::store::sealed_rows::RowSeal;
use crate::store::turn_pool::TurnPool;
use crate::tasks::Tasks;

/// The state of every handler. It gives no access to a send queue.
pub struct HubState {
    pub instance: InstanceId,
    pub appender: AppendHandle,
    /// Seals rows while other instances live.
    pub row_seal: Arc<RowSeal>,
    pub delivery: Delivery,
    /// Stores commands for providers; `None` if no provider is configured.
    pub command_intake: Option<Arc<CommandIntake>>,
    pub reader: Reader,
    pub auth: Auth,
    pub origins: Origins,
    pub console: ConsoleRules,
    /// What the instances told with their heartbeats.
    pub instances: InstanceHistory,
    /// Refused requests to routes of admins, for the audit.
    pub refused_attempts: Arc<RefusedAttempts>,
    pub rates: NameRates,
    /// Rates of single keys, below the rate of every service.
    pub key_rates: KeyRates,
    /// Rate of a user's requests other than streams.
    pub user_rates: NameRates,
    pub ticket_rates: NameRates,
    pub tickets: Tickets,
    pub budgets: UserBudgets,
    /// Permits for bodies of batches. A request without a permit waits for a while.
    pub batch_room: Semaphore,
    /// Permits for reads of the console, so that they leave connections of the pool to users. A request without one
    /// waits.
    pub console_reads: Semaphore,
    /// Turns for lists of all devices.
    pub device_scans: ScanTurns,
    /// Places for admins who wait for such a list.
    pub device_lists: Arc<StreamPlaces>,
    /// Places for admins who follow the log.
    pub log_followers: Arc<StreamPlaces>,
    /// Places for admins who read samples of the instances as they come.
    pub live_readers: Arc<StreamPlaces>,
    pub inboxes: InboxHandle,
    /// Types that users cannot mute.
    pub required_types: Vec<MutePattern>,
    pub consumer_calls: TurnPool,
    /// Places for fetches of consumers.
    pub consumer_fetches: Arc<StreamPlaces>,
    /// What retention keeps, to show it.
    pub retention: RetentionPolicy,
    pub health: Health,
    pub sockets: SocketRules,
    pub max_connections: usize,
    pub tasks: Tasks,
}

/// The time limits of every socket.
#[derive(Debug, Clone, Copy)]
pub struct SocketRules {
    pub heartbeat: Duration,
    pub send_deadline: Duration,
    pub pong_deadline: Duration,
}
