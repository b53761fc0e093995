//! Says which routes the public and the internal listener serve.

/// Which of the routes a listener serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListenerSide {
    /// All routes; there is one listener.
    Whole,
    /// The routes of users.
    Public,
    /// The routes of services, operators and probes.
    Internal,
}

/// Whether a path belongs to services, operators or probes.
pub fn is_internal(path: &str) -> bool {
    let prefixed = ["/api/internal/", "/api/admin/", "/admin/"].iter().any(|prefix| path.starts_with(prefix));
    prefixed || matches!(path, "/admin" | "/stats" | "/metrics" | "/health" | "/livez" | "/readyz")
}

impl ListenerSide {
    /// `/livez` is served by all listeners: it tells only that the process runs, which any client of the listener
    /// knows, and load balancers ask for it.
    pub fn serves(self, path: &str) -> bool {
        match self {
            _ if matches!(path, "/livez" | "/openapi.json" | "/asyncapi.json") => true,
            Self::Whole => true,
            Self::Public => !is_internal(path),
            Self::Internal => is_internal(path),
        }
    }
}
