//! Chooses the user who runs the server.

use super::child;
use super::error::ServerError;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// Root tries these in turn, without a setting and without data.
const USUAL: [&str; 2] = ["postgres", "recado"];
/// Other programs run as this user as well, and could reach the server and its files.
const SHARED: &str = "nobody";

/// A user of the system, with a user and a group number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SystemUser {
    pub(super) name: String,
    pub(super) uid: u32,
    gid: u32,
    /// We are root, and children become this user.
    pub(super) switch: bool,
}

impl SystemUser {
    /// Chooses the user. As root: `wanted`, else the owner of the data, else `postgres`, else `recado`. Otherwise
    /// ourselves.
    ///
    /// # Errors
    /// [`ServerError::User`] when that user is unknown, is root, or is one that we cannot become;
    /// [`ServerError::UnusableFolder`] when the data belongs to another user.
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
            _ if account.switch && account.name == SHARED => Err(shared(data_dir)),
            Some(data) if data.uid() != account.uid => Err(ServerError::unusable(
                data_dir,
                format!("it belongs to user {}, and PostgreSQL would run as {}", name_of(data.uid()), account.name),
            )),
            _ => Ok(account),
        }
    }

    /// Any user of the system but root.
    ///
    /// # Errors
    /// [`ServerError::User`] when there is none of this name.
    pub(super) fn named(name: &str) -> Result<Self, ServerError> {
        lookup(name, true)
    }

    pub(super) fn gid(&self) -> u32 {
        self.gid
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
    /// The check tries it as that user, because mode bits alone do not show access lists.
    ///
    /// # Errors
    /// [`ServerError::CannotEnter`] with the first folder that keeps the user out, and the `setting` that chose it.
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

    /// Gives a file or folder that we made to this user.
    pub(super) fn give(&self, path: &Path) -> Result<(), ServerError> {
        if !self.switch {
            return Ok(());
        }
        std::os::unix::fs::lchown(path, Some(self.uid), Some(self.gid)).map_err(ServerError::io("change the owner of", path))
    }
}

/// Our effective user number. std has no call for it, so it is read from /proc or from `id`.
pub(super) fn effective_uid() -> Option<u32> {
    let shown = fs::read_to_string("/proc/self/status").ok().and_then(|status| {
        let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
        // real, effective, saved, file system
        line.split_whitespace().nth(1)?.parse().ok()
    });
    shown.or_else(|| child::ask(Command::new("id").arg("-u"))?.parse().ok())
}

fn ourselves(uid: u32, wanted: Option<&str>) -> Result<SystemUser, ServerError> {
    let name = name_of(uid);
    match wanted {
        Some(wanted) if wanted != name => {
            Err(ServerError::User { user: wanted.to_owned(), reason: format!("we are {name}, and only root can become another user") })
        }
        // The group is never used: we neither switch users nor give files away.
        _ => Ok(SystemUser { name, uid, gid: uid, switch: false }),
    }
}

fn shared(data_dir: &Path) -> ServerError {
    let reason = format!(
        "other programs run as this user, and could read the data; run: useradd --system --no-create-home recado; \
         and, where there is data, with every hub stopped: chown -R recado {}",
        data_dir.parent().unwrap_or(data_dir).display()
    );
    ServerError::User { user: SHARED.to_owned(), reason }
}

fn usual() -> Result<SystemUser, ServerError> {
    USUAL.iter().find_map(|name| lookup(name, true).ok()).ok_or_else(|| ServerError::User {
        user: USUAL.join(" or "),
        reason: "there is no such user, and PostgreSQL refuses to run as root; run: useradd --system --no-create-home recado".to_owned(),
    })
}

/// Finds a user by name in /etc/passwd, else with `id` (which knows directories such as LDAP).
fn lookup(name: &str, switch: bool) -> Result<SystemUser, ServerError> {
    let bad = |reason: &str| ServerError::User { user: name.to_owned(), reason: reason.to_owned() };
    let listed = passwd().into_iter().find_map(|(entry, uid, gid)| (entry == name).then_some((uid, gid)));
    let asked = |flag: &str| child::ask(Command::new("id").args([flag, "--", name]))?.parse::<u32>().ok();
    let (uid, gid) = listed.or_else(|| asked("-u").zip(asked("-g"))).ok_or_else(|| bad("there is no such user"))?;
    if uid == 0 {
        return Err(bad("it is root, and PostgreSQL refuses to run as root"));
    }
    Ok(SystemUser { name: name.to_owned(), uid, gid, switch })
}

/// The name for a number, or the number itself.
fn name_of(uid: u32) -> String {
    let listed = passwd().into_iter().find_map(|(name, entry, _)| (entry == uid).then_some(name));
    // Of a directory such as LDAP.
    let asked = || child::ask(Command::new("id").args(["-nu", "--", &uid.to_string()])).filter(|name| !name.is_empty());
    listed.or_else(asked).unwrap_or_else(|| uid.to_string())
}

/// Name, user and group of each line of /etc/passwd. Lines of another form are skipped.
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
