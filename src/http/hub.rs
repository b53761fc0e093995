//! What the handlers share.

use std::time::Duration;

use tokio::sync::Semaphore;

use super::auth::Auth;
use super::health::Health;
use super::limits::{Rates, UserRates};
use super::origin::Origins;
use crate::delivery::Delivery;
use crate::domain::InstanceId;
use crate::store::Reader;
use crate::store::appender::AppendHandle;
use crate::tasks::Tasks;

/// What every handler may use. There is no way from here into an outbox.
pub struct Hub {
    pub instance: InstanceId,
    pub appender: AppendHandle,
    pub delivery: Delivery,
    pub reader: Reader,
    pub auth: Auth,
    pub origins: Origins,
    pub rates: Rates,
    /// Questions of users beside their streams.
    pub user_rates: UserRates,
    pub ticket_rates: UserRates,
    /// Room for the bodies of batches; who finds none waits a while.
    pub batch_room: Semaphore,
    pub health: Health,
    pub sockets: SocketRules,
    pub max_connections: usize,
    pub tasks: Tasks,
}

/// The times that every socket keeps.
#[derive(Debug, Clone, Copy)]
pub struct SocketRules {
    pub heartbeat: Duration,
    pub send_deadline: Duration,
    pub pong_deadline: Duration,
}
