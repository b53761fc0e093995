//! Divides the open files of the process among the connections of a hub.

use crate::config::Config;
use crate::http::{AddressBudgets, ListenerSide};

/// Open files that are reserved in addition to all connections to the hub: for the database with the default number of
/// readers, for logs, for sockets that are closing, and a margin. Clients must never take any of these.
const FILES_RESERVED: usize = 96;
/// The default `RECADO_READ_CONNECTIONS`, which is included above.
const USUAL_READERS: usize = 8;
/// Connections of services, admins and health checks, in addition to the clients' sockets.
const HTTP_CONNECTIONS: usize = 64;
/// Connections above all others that only serve probes and services.
const RESERVED_CONNECTIONS: usize = 32;
/// The fraction of the connections that anonymous connections of one address may use.
const ADDRESS_PART: usize = 4;
/// Minimum limit for anonymous connections of one address, unless a setting says otherwise.
const ADDRESS_LEAST: usize = 16;
/// The assumed limit of open files if it is unknown.
const FILES_FALLBACK: usize = 1192;

/// How many connections of each kind the hub has room for.
#[derive(Debug, Clone, Copy)]
pub(super) struct ConnectionRoom {
    pub clients: usize,
    /// For services, admins and health checks.
    http: usize,
    reserved: usize,
}

impl ConnectionRoom {
    pub fn of(config: &Config) -> Self {
        Self::within(open_file_limit().unwrap_or(FILES_FALLBACK), config)
    }

    fn within(files: usize, config: &Config) -> Self {
        // Each provider session takes a file as well; but a small limit is not spent on them alone.
        let provider_sockets = config.upstream_file.as_ref().map_or(0, |_| config.upstream.most_sessions).min(files / 2);
        let readers = (config.read_connections as usize).saturating_sub(USUAL_READERS);
        let left = files.saturating_sub(FILES_RESERVED).saturating_sub(provider_sockets).saturating_sub(readers);
        let (http, reserved) = ((left / 4).clamp(4, HTTP_CONNECTIONS), (left / 8).clamp(2, RESERVED_CONNECTIONS));
        let by_files = left.saturating_sub(http + reserved).max(1);
        Self { clients: config.max_connections.unwrap_or(by_files).min(by_files), http, reserved }
    }

    /// The limits of the listener that serves this side.
    pub fn budgets(self, config: &Config, side: ListenerSide) -> AddressBudgets {
        let Self { clients, http, reserved } = self;
        let (open, reserved) = match side {
            ListenerSide::Whole => (clients + http, reserved),
            ListenerSide::Public => (clients + http / 2, 0),
            ListenerSide::Internal => return AddressBudgets { reserved, ..AddressBudgets::unlimited(http - http / 2) },
        };
        let of_address = config.address_connections.unwrap_or_else(|| (open / ADDRESS_PART).max(ADDRESS_LEAST));
        AddressBudgets {
            open,
            reserved,
            address_connections: of_address,
            address_handshakes: config.address_handshakes,
            address_requests: config.address_requests,
        }
    }
}

/// The soft limit of open files, if the system reports it.
pub fn open_file_limit() -> Option<usize> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}
