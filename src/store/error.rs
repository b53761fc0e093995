//! What can go wrong with the database, as the decisions that a caller can take.

use std::time::Duration;

/// A failed call.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database cannot be reached, is starting, stopping, read-only or full: later may be better.
    #[error("the database is not available: {0}")]
    Unavailable(#[source] sqlx::Error),
    /// No answer within the limit. Whether it was done is not known.
    #[error("the database did not answer within {0:?}")]
    TimedOut(Duration),
    /// The log ends before a number that this hub has seen: restored, or a lost tail.
    #[error("the log went back: {0}")]
    LogWentBack(#[source] sqlx::Error),
    /// A row that the schema's own rules should have kept out, or a query that does not fit the schema.
    #[error("the database answered what it should not: {0}")]
    Broken(#[source] sqlx::Error),
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        match Class::of(&error) {
            Class::LogWentBack => Self::LogWentBack(error),
            Class::Damaged => {
                // Said here, once for every way to the database: nobody may pass it over as a request that failed.
                let sqlstate = error.as_database_error().and_then(sqlx::error::DatabaseError::code).unwrap_or_default();
                tracing::error!(%sqlstate, %error, "the database's disk is damaged; what it holds there is not served");
                Self::Broken(error)
            }
            Class::Refused | Class::NoPartition | Class::KnownKeys => Self::Broken(error),
            Class::Again | Class::Lost => Self::Unavailable(error),
        }
    }
}

/// What an error of PostgreSQL says about the statement that met it, by SQLSTATE
/// (PostgreSQL documentation, appendix A), never by its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Rolled back for a passing reason; the same statement may succeed later.
    Again,
    /// Rolled back, and would be again: the data or the statement is wrong.
    Refused,
    /// The log has no partition for the next number: make one and repeat.
    NoPartition,
    /// `RC001` of `recado.append`.
    LogWentBack,
    /// `RC005` of `recado.append`: keys of an all-or-nothing call are known with other bodies; DETAIL holds their places.
    KnownKeys,
    /// A page of the server's disk is not what was written there: a checksum or an index says so.
    Damaged,
    /// The connection is gone, or will be: whether the statement was committed is not known.
    Lost,
}

impl Class {
    pub fn of(error: &sqlx::Error) -> Self {
        let Some(database) = error.as_database_error() else {
            return match error {
                sqlx::Error::Decode(_) | sqlx::Error::ColumnDecode { .. } | sqlx::Error::Encode(_) | sqlx::Error::RowNotFound => {
                    Self::Refused
                }
                _ => Self::Lost,
            };
        };
        let Some(state) = database.code() else { return Self::Lost };
        match state.as_ref() {
            "RC001" => Self::LogWentBack,
            "RC005" => Self::KnownKeys,
            // check_violation without a constraint's name is "no partition of relation found for row".
            "23514" if database.constraint().is_none() => Self::NoPartition,
            // The server goes down or ends this connection; it may have committed before.
            "57P01" | "57P02" | "57P03" | "57P05" | "25P03" => Self::Lost,
            // Serialization failure, deadlock, lock_timeout, statement_timeout, read-only (a standby, or by setting),
            // a schema that changed under a prepared statement.
            "40001" | "40P01" | "55P03" | "57014" | "25006" | "0A000" => Self::Again,
            // data_corrupted, index_corrupted
            "XX001" | "XX002" => Self::Damaged,
            // The queue of NOTIFY is full: some session of the cluster listens and does not read.
            "54000" => Self::Again,
            // Insufficient resources (53: disk full, too many connections), system error (58: I/O).
            s if s.starts_with("53") || s.starts_with("58") => Self::Again,
            // Connection exceptions; a password or a database that is not, or no longer, the right one.
            s if s.starts_with("08") || s.starts_with("28") || s == "3D000" => Self::Lost,
            _ => Self::Refused,
        }
    }
}
