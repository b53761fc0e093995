//! Gives the state folder to the user who runs the server. A hub that root started then becomes that user.

use super::error::ServerError;
use super::private;
use super::settings::{Environment, ServerSettings};
use super::system_user::SystemUser;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Entries that the hub creates in a state folder. A volume brings its own `lost+found`.
const OURS: [&str; 10] = [
    "audit-pending",
    "audit-pending.taken",
    "data",
    "run",
    "gate.lock",
    "users.lock",
    "secrets",
    "postgres-bin",
    "log-watermark",
    "lost+found",
];

/// A system user that a process of root can become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetUser {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
    /// Further groups.
    pub groups: Vec<u32>,
}

/// What [`hand_over`] came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HandedOver {
    To(TargetUser),
    /// The state folder has other things in it, or another owner: it is not ours to give away.
    Not(PathBuf),
}

/// # Errors
/// [`ServerError::User`] when there is no such user.
pub fn find_user(name: &str) -> Result<TargetUser, ServerError> {
    let account = SystemUser::named(name)?;
    Ok(TargetUser { name: account.name.clone(), uid: account.uid, gid: account.gid(), groups: groups_of(name) })
}

/// Only as root. `secrets/` stays root's: it is read before the rights are given up, and PostgreSQL has no use for it.
///
/// # Errors
/// As [`super::PrivateServer::start`], for the user and the folders.
pub fn hand_over(settings: &ServerSettings, environment: &Environment) -> Result<HandedOver, ServerError> {
    let folders = private::state_folders(settings, environment)?;
    let account = SystemUser::choose(settings.postgres_user.as_deref(), &folders.data)?;
    account.must_enter(&folders.state, "RECADO_DATA_DIR", "/var/lib/recado")?;
    folders.make(&account)?;
    // The folder itself, where its name is a link.
    let state = fs::canonicalize(&folders.state).map_err(ServerError::io("find", &folders.state))?;
    let owner = fs::symlink_metadata(&state).map_err(ServerError::io("look at", &state))?.uid();
    if owner == 0 && holds_only_ours(&state)? {
        account.give(&state)?;
    } else if owner != account.uid {
        return Ok(HandedOver::Not(folders.state));
    }
    Ok(HandedOver::To(TargetUser { name: account.name.clone(), uid: account.uid, gid: account.gid(), groups: Vec::new() }))
}

fn holds_only_ours(state: &Path) -> Result<bool, ServerError> {
    let entries = fs::read_dir(state).map_err(ServerError::io("read", state))?;
    Ok(entries.flatten().all(|entry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        OURS.contains(&&*name) || name.starts_with("data.new-") || name.starts_with("log-watermark.")
    }))
}

/// Groups that /etc/group lists this user in.
fn groups_of(name: &str) -> Vec<u32> {
    let text = fs::read_to_string("/etc/group").unwrap_or_default();
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split(':');
            let gid = fields.nth(2)?.parse().ok()?;
            fields.next()?.split(',').any(|member| member == name).then_some(gid)
        })
        .collect()
}
