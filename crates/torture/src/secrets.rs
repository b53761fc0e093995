//! Defines the secrets of a run, which must never leak.
//!
//! Rule C17 looks for each of them.

use std::time::Duration;

use recado::config::JwtRules;
use recado::domain::{AccountId, Principal, Role, UserId};

use crate::RunError;

pub const JWT: &str = "canary-jwt-secret-7f2c9a41d6e8b350-torture";
pub const DATABASE_PASSWORD: &str = "canary-database-password-51c3";
/// The credential that a hub shows to the provider.
pub const PROVIDER_CREDENTIAL: &str = "canary-provider-credential-9b1e";
/// The key that seals the provider's session ids in the database.
pub const UPSTREAM_KEY: &str = "ca9a51e0c3d2b1a0f9e8d7c6b5a4938271605f4e3d2c1b0a9988776655443322";

/// A token of a user in one account, or of a service.
pub fn token(name: &str, account: Option<&str>, role: Option<Role>) -> Result<String, RunError> {
    let rules = JwtRules::default();
    let accounts = account.map(AccountId::parse).transpose()?.into_iter().collect();
    let who = Principal { user: UserId::parse(name)?, accounts };
    Ok(recado::identity::mint(JWT, &rules, &who, role, Duration::from_secs(20 * 3600))?)
}

/// The secret part of a token: its signature.
pub fn signature(token: &str) -> &str {
    token.rsplit('.').next().unwrap_or(token)
}
