//! Lists the faults of a run: their names, and which of them may be active at once.

/// A fault that the nemesis can inject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum NemesisFault {
    /// kill -9 of one hub.
    HubKill,
    /// kill -9 of all hubs.
    HubKillAll,
    /// SIGTERM of one hub, and a restart after it has ended.
    HubRestart,
    /// SIGSTOP of one hub, and SIGCONT.
    HubFreeze,
    /// kill -9 of the postmaster.
    PostgresKill,
    /// kill -9 of the primary for good; the standby is promoted.
    PostgresFailover,
    /// kill -9 of the database process of a hub's appender.
    PostgresBackend,
    /// Nothing passes between a hub and the database.
    DatabaseHole,
    /// The database's answers do not arrive.
    DatabaseNoAnswers,
    /// Every connection between a hub and the database is reset.
    DatabaseReset,
    /// Every packet between a hub and the database is delayed.
    DatabaseSlow,
    /// Nothing passes on LISTEN.
    ListenHole,
    /// The LISTEN connection is reset, and writes stop just before LISTEN can come back.
    ListenReset,
    /// Every client is reset.
    ClientsReset,
    /// Nothing passes between a hub and its clients.
    ClientsHole,
    /// The provider closes new sockets, invalidates session ids and fails sign-ins.
    ProviderFlap,
    /// Nothing passes between a hub and the provider, until the keep-alives detect it.
    ProviderHole,
    /// SIGSTOP of the hub that holds the most provider sessions, until other hubs have taken them over.
    OwnerFreeze,
    /// That hub is cut from the database, and not from the provider, until other hubs have taken its sessions over.
    OwnerCut,
    /// An anonymous client holds idle connections to all hubs and sends anonymous requests.
    StrangerFlood,
    /// A login without rights holds the advisory locks of the schema.
    StrangerLocks,
    /// One user replays everything over many streams.
    GreedyUser,
    /// Single notifications and all of a user are erased.
    Eraser,
    /// Forged tokens are sent to all hubs.
    Forger,
    /// An issuer removes a key with which connections came in.
    KeyRemoval,
    /// kill -9 of the Node program with all devices of the TypeScript SDK, and its restart.
    SdkKill,
}

impl NemesisFault {
    pub const ALL: [Self; 26] = [
        Self::HubKill,
        Self::HubKillAll,
        Self::HubRestart,
        Self::HubFreeze,
        Self::PostgresKill,
        Self::PostgresFailover,
        Self::PostgresBackend,
        Self::DatabaseHole,
        Self::DatabaseNoAnswers,
        Self::DatabaseReset,
        Self::DatabaseSlow,
        Self::ListenHole,
        Self::ListenReset,
        Self::ClientsReset,
        Self::ClientsHole,
        Self::ProviderFlap,
        Self::ProviderHole,
        Self::OwnerFreeze,
        Self::OwnerCut,
        Self::StrangerFlood,
        Self::StrangerLocks,
        Self::GreedyUser,
        Self::Eraser,
        Self::Forger,
        Self::KeyRemoval,
        Self::SdkKill,
    ];

    /// Whether both faults may be active at once: one must break a process, the other a network connection.
    pub fn goes_with(self, other: Self) -> bool {
        // A LISTEN fault proves something only without other faults. An owner fault needs a hub that holds sessions. A
        // hub that is stopped cannot close connections.
        let is_alone = |fault: Self| ["listen", "owner", "key"].iter().any(|alone| fault.name().starts_with(alone));
        !is_alone(self) && !is_alone(other) && self.is_of_a_process() != other.is_of_a_process()
    }

    /// Whether the fault breaks a process.
    pub fn is_of_a_process(self) -> bool {
        self.name().starts_with("hub") || self.name().starts_with("postgres")
    }

    /// The fault's name in a history; rules test its first word.
    pub fn name(self) -> &'static str {
        match self {
            Self::HubKill => "hub-kill",
            Self::HubKillAll => "hub-kill-all",
            Self::HubRestart => "hub-restart",
            Self::HubFreeze => "hub-freeze",
            Self::PostgresKill => "postgres-kill",
            Self::PostgresFailover => "postgres-failover",
            Self::PostgresBackend => "postgres-backend",
            Self::DatabaseHole => "database-hole",
            Self::DatabaseNoAnswers => "database-no-answers",
            Self::DatabaseReset => "database-reset",
            Self::DatabaseSlow => "database-slow",
            Self::ListenHole => "listen-hole",
            Self::ListenReset => "listen-reset",
            Self::ClientsReset => "clients-reset",
            Self::ClientsHole => "clients-hole",
            Self::ProviderFlap => "provider-flap",
            Self::ProviderHole => "provider-hole",
            Self::OwnerFreeze => "owner-freeze",
            Self::OwnerCut => "owner-cut",
            Self::StrangerFlood => "stranger-flood",
            Self::StrangerLocks => "stranger-locks",
            Self::GreedyUser => "greedy-user",
            Self::Eraser => "eraser",
            Self::Forger => "forger",
            Self::KeyRemoval => "key-removal",
            Self::SdkKill => "sdk-kill",
        }
    }
}
