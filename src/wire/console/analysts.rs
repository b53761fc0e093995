//! Defines the body of `GET /api/admin/analysts`.

use serde::Serialize;

#[derive(Debug, Serialize)]
pub struct AnalystsBody {
    pub analysts: Vec<ShownAnalyst>,
}

/// A login that reads the views in SQL.
#[derive(Debug, Serialize)]
pub struct ShownAnalyst {
    pub name: String,
    /// The accounts that the login sees; `None`: everything.
    pub accounts: Option<Vec<String>>,
    /// Open connections to any database of the cluster.
    pub connections: i64,
    /// Whether `recado analyst create` made it.
    pub made_here: bool,
}
