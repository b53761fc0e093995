//! Tunes a server, for durability or for speed.

/// The promise of the server. Its settings go on the command line, which overrides postgresql.conf and ALTER SYSTEM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tuning {
    /// Data that the server reports as stored survives a power cut.
    Durable { max_connections: u32 },
    /// As fast as possible; a crash of the machine may leave nothing usable.
    #[cfg(feature = "testing")]
    ForTests,
}

impl Tuning {
    pub(super) fn settings(self) -> Vec<(&'static str, String)> {
        let listed: &[(&str, &str)] = match self {
            Self::Durable { .. } => &[("fsync", "on"), ("synchronous_commit", "on"), ("full_page_writes", "on")],
            #[cfg(feature = "testing")]
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
            #[cfg(feature = "testing")]
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
