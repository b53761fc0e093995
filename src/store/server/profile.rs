//! How a server is tuned: to keep what it was given, or to be fast.

/// What the server promises. Given on its command line, which outranks postgresql.conf and ALTER SYSTEM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Profile {
    /// What it says is stored survives a power cut.
    Durable { max_connections: u32 },
    /// As fast as it goes; a crash of the machine may leave nothing usable.
    ForTests,
}

impl Profile {
    pub(super) fn settings(self) -> Vec<(&'static str, String)> {
        let listed: &[(&str, &str)] = match self {
            Self::Durable { .. } => &[("fsync", "on"), ("synchronous_commit", "on"), ("full_page_writes", "on")],
            Self::ForTests => &[
                ("fsync", "off"),
                ("synchronous_commit", "off"),
                ("full_page_writes", "off"),
                ("wal_level", "minimal"),
                ("max_wal_senders", "0"),
                ("shared_buffers", "64MB"),
            ],
        };
        let max_connections = match self {
            Self::Durable { max_connections } => max_connections,
            Self::ForTests => 300,
        };
        let mut settings: Vec<_> = listed.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        settings.push(("max_connections", max_connections.to_string()));
        settings
    }

    pub(super) fn durable(self) -> bool {
        matches!(self, Self::Durable { .. })
    }
}
