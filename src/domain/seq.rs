//! Defines the sequence number of a notification in the log.

use std::fmt;

use serde::Serialize;

/// A position in the log: the sequence number of a notification, or zero, the position before the first. Numbers are
/// dense: 1, 2, 3 … without a hole. Stored as PostgreSQL's `bigint`, never negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize)]
#[serde(transparent)]
pub struct Seq(i64);

impl Seq {
    /// The position before the first notification.
    pub const ZERO: Self = Self(0);

    /// `None` for a negative number.
    pub const fn new(number: i64) -> Option<Self> {
        if number < 0 { None } else { Some(Self(number)) }
    }

    /// A number from the database, whose constraints exclude negative numbers.
    pub const fn from_db(number: i64) -> Self {
        Self(if number < 0 { 0 } else { number })
    }

    pub const fn get(self) -> i64 {
        self.0
    }

    pub const fn next(self) -> Self {
        self.plus(1)
    }

    pub const fn plus(self, count: i64) -> Self {
        Self(self.0.saturating_add(count))
    }

    /// How many numbers lie above `other` up to this one; zero if this one is not above it.
    pub const fn since(self, other: Self) -> i64 {
        let distance = self.0.saturating_sub(other.0);
        if distance < 0 { 0 } else { distance }
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
