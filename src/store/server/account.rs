//! The user who runs the server.

use super::child;
use super::error::ServerError;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// Without a setting and without data these are tried in turn when we are root.
const USUAL: [&str; 2] = ["postgres", "nobody"];

/// Somebody with a user and a group number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) name: String,
    pub(super) uid: u32,
    gid: u32,
    /// We are root, and children become this user.
    pub(super) switch: bool,
}

impl Account {
    /// As root: `wanted`, else the owner of the data, else `postgres`, else `nobody`. Otherwise ourselves.
    ///
    /// # Errors
    /// [`ServerError::User`] when that user is unknown, is root, or is not ours to become;
    /// [`ServerError::UnusableFolder`] when the data belongs to somebody else.
    pub(super) fn choose(wanted: Option<&str>, data_dir: &Path) -> Result<Self, ServerError> {
        let us = effective_uid().ok_or_else(|| ServerError::User {
            user: "(ourselves)".to_owned(),
            reason: "neither /proc/self/status nor `id -u` says who we are".to_owned(),
        })?;
        let owner = fs::metadata(data_dir).ok();
        let account = match (wanted, &owner) {
            _ if us != 0 => ourselves(us, wanted)?,
            (Some(name), _) => lookup(name, true)?,
            (None, Some(data)) if data.uid() != 0 => Self { name: name_of(data.uid()), uid: data.uid(), gid: data.gid(), switch: true },
            (None, _) => usual()?,
        };
        match owner {
            Some(data) if data.uid() != account.uid => Err(ServerError::unusable(
                data_dir,
                format!("it belongs to user {}, and PostgreSQL would run as {}", name_of(data.uid()), account.name),
            )),
            _ => Ok(account),
        }
    }

    /// A command that runs as this user, with an empty environment, in `/`, with nothing to read.
    pub(super) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("PATH", "/usr/bin:/bin");
        command.current_dir("/").stdin(Stdio::null());
        if self.switch {
            // std also drops our supplementary groups with this.
            command.uid(self.uid).gid(self.gid);
        }
        command
    }

    /// Checks that this user may pass every folder from `/` down to `folder`, as far as they exist.
    ///
    /// Asked by trying, as that user: mode bits alone do not know about access lists.
    ///
    /// # Errors
    /// [`ServerError::CannotEnter`] with the first folder that keeps it out, and which `setting` chose it.
    pub(super) fn must_enter(&self, folder: &Path, setting: &'static str, instead: &'static str) -> Result<(), ServerError> {
        if !self.switch {
            return Ok(());
        }
        let mut parents: Vec<&Path> = folder.ancestors().filter(|part| part.is_dir()).collect();
        parents.reverse();
        let mut probe = self.command(Path::new("/bin/sh"));
        probe.args(["-c", r#"for f; do cd -- "$f" 2>/dev/null || { printf %s "$f"; break; }; done"#]).arg("probe").args(&parents);
        match child::ask(&mut probe) {
            Some(blocked) if blocked.is_empty() => Ok(()),
            Some(blocked) => Err(ServerError::CannotEnter { user: self.name.clone(), folder: blocked.into(), setting, instead }),
            None => Err(ServerError::User { user: self.name.clone(), reason: "a program could not be started as this user".to_owned() }),
        }
    }

    /// Gives a folder that we made to this user.
    pub(super) fn give(&self, path: &Path) -> Result<(), ServerError> {
        if !self.switch {
            return Ok(());
        }
        std::os::unix::fs::lchown(path, Some(self.uid), Some(self.gid)).map_err(ServerError::io("change the owner of", path))
    }
}

/// Our effective user number. std has no call for it, so it is read where the system shows it.
pub(super) fn effective_uid() -> Option<u32> {
    let shown = fs::read_to_string("/proc/self/status").ok().and_then(|status| {
        let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
        // real, effective, saved, file system
        line.split_whitespace().nth(1)?.parse().ok()
    });
    shown.or_else(|| child::ask(Command::new("id").arg("-u"))?.parse().ok())
}

fn ourselves(uid: u32, wanted: Option<&str>) -> Result<Account, ServerError> {
    let name = name_of(uid);
    match wanted {
        Some(wanted) if wanted != name => {
            Err(ServerError::User { user: wanted.to_owned(), reason: format!("we are {name}, and only root can become another user") })
        }
        // The group is never used: nothing is switched and nothing is given away.
        _ => Ok(Account { name, uid, gid: uid, switch: false }),
    }
}

fn usual() -> Result<Account, ServerError> {
    USUAL.iter().find_map(|name| lookup(name, true).ok()).ok_or_else(|| ServerError::User {
        user: USUAL.join(" or "),
        reason: "there is no such user, and PostgreSQL refuses to run as root".to_owned(),
    })
}

/// Finds a user by name in /etc/passwd, else by asking `id` (which knows directories such as LDAP).
fn lookup(name: &str, switch: bool) -> Result<Account, ServerError> {
    let bad = |reason: &str| ServerError::User { user: name.to_owned(), reason: reason.to_owned() };
    let listed = passwd().into_iter().find_map(|(entry, uid, gid)| (entry == name).then_some((uid, gid)));
    let asked = |flag: &str| child::ask(Command::new("id").args([flag, "--", name]))?.parse::<u32>().ok();
    let (uid, gid) = listed.or_else(|| asked("-u").zip(asked("-g"))).ok_or_else(|| bad("there is no such user"))?;
    if uid == 0 {
        return Err(bad("PostgreSQL refuses to run as root"));
    }
    Ok(Account { name: name.to_owned(), uid, gid, switch })
}

/// The name for a number, or the number itself.
fn name_of(uid: u32) -> String {
    passwd().into_iter().find_map(|(name, entry, _)| (entry == uid).then_some(name)).unwrap_or_else(|| uid.to_string())
}

/// Name, user and group of each line of /etc/passwd; lines that are not of this form are passed over.
fn passwd() -> Vec<(String, u32, u32)> {
    let text = fs::read_to_string("/etc/passwd").unwrap_or_default();
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?.to_owned();
            let uid = fields.nth(1)?.parse().ok()?;
            let gid = fields.next()?.parse().ok()?;
            Some((name, uid, gid))
        })
        .collect()
}
