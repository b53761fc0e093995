//! What a command ends with when it fails: a message that says what to do, and a code (BSD's sysexits).

use crate::app::ServeError;
use crate::backing::BackingError;
use crate::store::StoreError;
use crate::store::migrate::MigrateError;

/// A failed command.
#[derive(Debug)]
pub struct Failure {
    pub message: String,
    pub code: i32,
}

impl Failure {
    /// Anything that is none of the others.
    pub fn other(message: impl Into<String>) -> Self {
        Self { message: message.into(), code: 1 }
    }

    /// The hub or the database is not there.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self { message: message.into(), code: 69 }
    }

    /// The key or token is not good for this.
    pub fn refused(message: impl Into<String>) -> Self {
        Self { message: message.into(), code: 77 }
    }

    /// The settings, or the database that they name, do not fit.
    pub fn settings(message: impl Into<String>) -> Self {
        Self { message: message.into(), code: 78 }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(_) | StoreError::TimedOut(_) => Self::unavailable(error.to_string()),
            StoreError::LogWentBack(_) | StoreError::Broken(_) => Self::other(error.to_string()),
        }
    }
}

impl From<BackingError> for Failure {
    fn from(error: BackingError) -> Self {
        let message = error.to_string();
        match error {
            BackingError::Store(_) | BackingError::Server(_) | BackingError::Migrate(MigrateError::Store(_)) => Self::unavailable(message),
            BackingError::Migrate(_) => Self::other(message),
            BackingError::Url(_) | BackingError::Unfit(_) | BackingError::Secret(_) | BackingError::Key => Self::settings(message),
            BackingError::NoProviderFile(..) | BackingError::ProviderFile(..) => Self::settings(message),
        }
    }
}

impl From<ServeError> for Failure {
    fn from(error: ServeError) -> Self {
        match error {
            ServeError::Backing(error) => error.into(),
            ServeError::Store(error) => error.into(),
            ServeError::Bind { .. } => Self::settings(error.to_string()),
            ServeError::Signals(_) | ServeError::Upstream(_) | ServeError::TaskFailed(_) => Self::other(error.to_string()),
        }
    }
}
