//! Classifies database errors by the decision that a caller can take.

use std::time::Duration;

/// A failed database call.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database cannot be reached, is starting, stopping, read-only or full. A later attempt may succeed.
    #[error("{}", unavailable(.0))]
    Unavailable(#[source] sqlx::Error),
    /// No answer within the limit. The outcome is unknown.
    #[error("the database did not answer within {0:?}")]
    TimedOut(Duration),
    /// The log ends before a number that this hub has seen: it was restored, or lost its tail.
    #[error("the log was truncated or restored: {0}")]
    LogWentBack(#[source] sqlx::Error),
    /// A row that the schema's own rules should have kept out, or a query that does not fit the schema.
    #[error("unexpected answer from the database: {0}")]
    Broken(#[source] sqlx::Error),
}

/// SQLSTATE of a statement that the login has no right to.
const INSUFFICIENT_PRIVILEGE: &str = "42501";

fn lacks_right(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(sqlx::error::DatabaseError::code).is_some_and(|state| state == INSUFFICIENT_PRIVILEGE)
}

fn unavailable(error: &sqlx::Error) -> String {
    match error.as_database_error() {
        Some(database) if lacks_right(error) => {
            format!("the database login may not do that ({}); use the DATABASE_URL of the user who migrated", database.message())
        }
        _ => format!("the database is not available: {error}"),
    }
}

impl StoreError {
    /// Whether the login has no right to the statement.
    pub fn lacks_right(&self) -> bool {
        matches!(self, Self::Unavailable(error) if lacks_right(error))
    }

    /// Whether a retry may succeed a moment later, while the database is starting together with the hub. False for a
    /// wrong password, a wrong name, or a server without TLS.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::TimedOut(_) => true,
            Self::Unavailable(sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut) => true,
            Self::Unavailable(error) => error
                .as_database_error()
                .and_then(|error| error.code())
                .is_some_and(|state| state.starts_with("57") || state.starts_with("53")),
            Self::LogWentBack(_) | Self::Broken(_) => false,
        }
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        match ErrorClass::of(&error) {
            ErrorClass::LogWentBack => Self::LogWentBack(error),
            ErrorClass::Damaged => {
                // Logged here, once for every caller: otherwise it could pass for an ordinary failed request.
                let sqlstate = error.as_database_error().and_then(sqlx::error::DatabaseError::code).unwrap_or_default();
                tracing::error!(%sqlstate, %error, "database disk is damaged; the affected rows are not served");
                Self::Broken(error)
            }
            ErrorClass::Refused | ErrorClass::NoPartition | ErrorClass::KnownKeys => Self::Broken(error),
            ErrorClass::Again | ErrorClass::Lost => Self::Unavailable(error),
        }
    }
}

/// The meaning of a PostgreSQL error for the failed statement, by SQLSTATE (PostgreSQL documentation, appendix A),
/// never by its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorClass {
    /// Rolled back for a passing or an unknown reason; the same statement may succeed later.
    Again,
    /// Rolled back, and a repeat would be too: the data or the statement is wrong.
    Refused,
    /// The log has no partition for the next number. Make one and repeat.
    NoPartition,
    /// `RC001` of `recado.append`.
    LogWentBack,
    /// `RC005` of `recado.append`: keys of an all-or-nothing call are known with other bodies. DETAIL lists their
    /// ordinals.
    KnownKeys,
    /// A page on the server's disk is corrupt, as a checksum or an index shows.
    Damaged,
    /// The connection is gone, or will be. Whether the statement was committed is unknown.
    Lost,
}

impl ErrorClass {
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
            // The server stops or ends this connection. It may have committed before.
            "57P01" | "57P02" | "57P03" | "57P05" | "25P03" => Self::Lost,
            // Serialization failure, deadlock, lock_timeout, statement_timeout, read-only (a standby, or by setting),
            // a schema that changed under a prepared statement.
            "40001" | "40P01" | "55P03" | "57014" | "25006" | "0A000" => Self::Again,
            // data_corrupted, index_corrupted
            "XX001" | "XX002" => Self::Damaged,
            // The NOTIFY queue is full: some session of the cluster listens and does not read.
            "54000" => Self::Again,
            // Insufficient resources (53: disk full, too many connections), system error (58: I/O).
            s if s.starts_with("53") || s.starts_with("58") => Self::Again,
            // Connection exceptions; a wrong or changed password or database name.
            s if s.starts_with("08") || s.starts_with("28") || s == "3D000" => Self::Lost,
            // An older version of recado.append, from before a migration, gave the same number at the same time: see
            // V11.
            "23505" if database.table().is_some_and(|table| table == "log" || table.starts_with("log_p")) => Self::Again,
            // Data exception, constraint, program limit; our own codes.
            s if s.starts_with("22") || s.starts_with("23") || s.starts_with("54") || s.starts_with("RC") => Self::Refused,
            // A right that was taken away, a trigger that raises, a missing schema: the data is not at fault, and an
            // operator may fix it at any moment. Rolled back like any error.
            _ => Self::Again,
        }
    }
}
