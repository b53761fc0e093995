//! Defines the failure of a command: a message with the fix, and an exit code (BSD's sysexits).

use crate::app::ServeError;
use crate::startup::StartupError;
use crate::store::StoreError;
use crate::store::migrate::MigrateError;

/// A failed command.
#[derive(Debug)]
pub struct CliFailure {
    pub message: String,
    pub code: i32,
}

impl CliFailure {
    /// Any other failure.
    pub fn other(message: impl Into<String>) -> Self {
        Self { message: message.into(), code: 1 }
    }

    /// The hub or the database is not available.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self { message: message.into(), code: 69 }
    }

    /// The key or token is not valid for this command, or the database login may not do it.
    pub fn refused(message: impl Into<String>) -> Self {
        Self { message: message.into(), code: 77 }
    }

    /// The settings are invalid, or do not fit the database.
    pub fn settings(message: impl Into<String>) -> Self {
        Self { message: message.into(), code: 78 }
    }
}

impl From<StoreError> for CliFailure {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(_) if error.lacks_right() => Self::refused(error.to_string()),
            StoreError::Unavailable(_) | StoreError::TimedOut(_) => Self::unavailable(error.to_string()),
            StoreError::LogWentBack(_) | StoreError::Broken(_) => Self::other(error.to_string()),
        }
    }
}

impl From<StartupError> for CliFailure {
    fn from(error: StartupError) -> Self {
        let message = error.to_string();
        match error {
            // A supervisor that starts the hub again changes nothing.
            StartupError::Store(error) if error.lacks_right() => Self::settings(message),
            StartupError::Store(_) | StartupError::Server(_) | StartupError::Migrate(MigrateError::Store(_)) => Self::unavailable(message),
            StartupError::Migrate(MigrateError::Rights(_)) => Self::settings(message),
            StartupError::Migrate(_) => Self::other(message),
            StartupError::Url(_) | StartupError::Unfit(_) | StartupError::Secret(_) | StartupError::Key => Self::settings(message),
            StartupError::NoProviderFile(..) | StartupError::ProviderFile(..) => Self::settings(message),
            StartupError::Identity(_) | StartupError::NoIdentityFile(..) | StartupError::IdentityFile(..) => Self::settings(message),
        }
    }
}

impl From<ServeError> for CliFailure {
    fn from(error: ServeError) -> Self {
        match error {
            ServeError::Startup(error) => error.into(),
            ServeError::Store(error) => error.into(),
            ServeError::Bind { .. } | ServeError::Traces(_) => Self::settings(error.to_string()),
            ServeError::Signals(_) | ServeError::Upstream(_) | ServeError::TaskFailed(_) => Self::other(error.to_string()),
        }
    }
}
