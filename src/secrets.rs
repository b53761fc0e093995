//! Reads and creates secrets, with one check for every source.
//!
//! The check covers who may read a file, and whether its content is a valid secret. There are two kinds of files: files
//! that a `_FILE` setting names, and files that the hub creates once and keeps next to its data.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use rand::RngCore;
use rustix::fs::{FlockOperation, OFlags, StatVfsMountFlags};

/// Minimum length of a secret in bytes (RFC 7518 section 3.2).
pub const LEAST_BYTES: usize = 32;
/// Maximum length in bytes; a wrong path must not fill the memory.
const MOST_BYTES: u64 = 64 << 10;

/// Why there is no secret.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {error}; alternatively set {setting}, or a RECADO_DATA_DIR that this user can write to")]
pub struct SecretError {
    path: String,
    setting: &'static str,
    error: io::Error,
}

/// The secret of user tokens, kept in `state_dir`. Processes that call this at the same time all get the same secret.
///
/// # Errors
/// When it can neither be read nor created, or is not valid.
pub fn jwt_secret(state_dir: &Path) -> Result<String, SecretError> {
    kept(state_dir, "jwt-secret", "RECADO_JWT_SECRET")
}

/// The key that encrypts provider session ids, kept in the same way.
///
/// # Errors
/// When it can neither be read nor created, or is not valid.
pub fn upstream_key(state_dir: &Path) -> Result<String, SecretError> {
    kept(state_dir, "upstream-key", "RECADO_UPSTREAM_KEY")
}

/// Whether the key of [`upstream_key`] was made already.
pub fn has_upstream_key(state_dir: &Path) -> bool {
    state_dir.join("secrets").join("upstream-key").exists()
}

/// A secret that the hub keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeptSecret {
    Jwt,
    Upstream,
}

impl KeptSecret {
    const fn file(self) -> (&'static str, &'static str) {
        match self {
            Self::Jwt => ("jwt-secret", "RECADO_JWT_SECRET"),
            Self::Upstream => ("upstream-key", "RECADO_UPSTREAM_KEY"),
        }
    }
}

/// Most previous secrets that are kept. More rotations than this within the life of a token are a mistake.
const PREVIOUS_MAX: usize = 8;

/// The kept secrets that were replaced and are still accepted, the newest first.
///
/// # Errors
/// When they are there and cannot be read.
pub fn previous(state_dir: &Path, which: KeptSecret) -> Result<Vec<String>, SecretError> {
    let (name, setting) = which.file();
    let folder = state_dir.join("secrets");
    let file = folder.join(format!("{name}.previous"));
    read_previous(&folder, &file).map_err(|error| SecretError { path: file.display().to_string(), setting, error })
}

fn read_previous(folder: &Path, file: &Path) -> io::Result<Vec<String>> {
    let text = match read_private(folder, file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        text => text?,
    };
    let secrets: Vec<String> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).map(str::to_owned).collect();
    match secrets.iter().find_map(|secret| check(secret).err()) {
        Some(why) => Err(wrong(format!("one of its lines {why}; or remove the file, which ends the tokens of previous secrets"))),
        None => Ok(secrets),
    }
}

/// Replaces a kept secret by a new one. The old one is still accepted, until [`forget_previous`].
///
/// # Errors
/// When a file cannot be read or written. The old secret is then still in use.
pub fn rotate(state_dir: &Path, which: KeptSecret) -> Result<(), SecretError> {
    let (name, setting) = which.file();
    let current = kept(state_dir, name, setting)?;
    let mut accepted = previous(state_dir, which)?;
    accepted.insert(0, current);
    accepted.truncate(PREVIOUS_MAX);
    let folder = state_dir.join("secrets");
    let failed = |file: &Path, error| SecretError { path: file.display().to_string(), setting, error };
    // The list first: a crash between the two leaves a secret that is current and also accepted.
    let file = folder.join(format!("{name}.previous"));
    replace(&folder, &file, &(accepted.join("\n") + "\n")).map_err(|error| failed(&file, error))?;
    let file = folder.join(name);
    replace(&folder, &file, &random_hex()).map_err(|error| failed(&file, error))
}

/// Ends the acceptance of replaced secrets. Returns how many there were.
///
/// # Errors
/// When the file cannot be read or removed.
pub fn forget_previous(state_dir: &Path, which: KeptSecret) -> Result<usize, SecretError> {
    let (name, setting) = which.file();
    let count = previous(state_dir, which)?.len();
    let file = state_dir.join("secrets").join(format!("{name}.previous"));
    match fs::remove_file(&file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(SecretError { path: file.display().to_string(), setting, error }),
        _ => Ok(count),
    }
}

/// The file of acts that a hub records when it starts. It holds no secret.
const NOTED_ACTS: &str = "audit-pending";
/// The same acts while a hub records them.
const TAKEN_ACTS: &str = "audit-pending.taken";

/// Notes an act in the data folder before it is done. A hub records it when it starts, before the act has an effect.
///
/// # Errors
/// When the file cannot be written.
pub fn note_act(state_dir: &Path, line: &str) -> Result<(), SecretError> {
    let file = state_dir.join(NOTED_ACTS);
    let append = || {
        fs::create_dir_all(state_dir)?;
        let mut noted = loop {
            let noted = OpenOptions::new().append(true).create(true).mode(0o600).open(&file)?;
            rustix::fs::flock(&noted, FlockOperation::LockExclusive)?;
            // A hub that took the notes before this lock has moved the file away: what is appended there is lost.
            let (opened, present) = (noted.metadata()?, fs::metadata(&file));
            if present.is_ok_and(|present| (present.dev(), present.ino()) == (opened.dev(), opened.ino())) {
                break noted;
            }
        };
        if rustix::process::geteuid().is_root() {
            let owner = fs::metadata(state_dir)?;
            std::os::unix::fs::fchown(&noted, Some(owner.uid()), Some(owner.gid()))?;
        }
        noted.write_all(format!("{line}\n").as_bytes())?;
        noted.sync_all()
    };
    append().map_err(|error| noted_error(&file, error))
}

/// Takes the noted acts; `None` if there are none. They stay in a file until [`forget_noted_acts`]: after a crash, the
/// next call returns them again.
///
/// # Errors
/// When they are there and cannot be read or moved.
pub fn take_noted_acts(state_dir: &Path) -> Result<Option<String>, SecretError> {
    let (file, taken) = (state_dir.join(NOTED_ACTS), state_dir.join(TAKEN_ACTS));
    let take = || {
        if !taken.exists() {
            let noted = File::open(&file)?;
            // Waits for a command that is writing its note.
            rustix::fs::flock(&noted, FlockOperation::LockExclusive)?;
            fs::rename(&file, &taken)?;
        }
        io::read_to_string(File::open(&taken)?.take(MOST_BYTES))
    };
    match take() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        text => text.map(Some).map_err(|error| noted_error(&file, error)),
    }
}

/// Removes the taken acts, once they are recorded.
///
/// # Errors
/// When the file cannot be removed.
pub fn forget_noted_acts(state_dir: &Path) -> Result<(), SecretError> {
    let file = state_dir.join(TAKEN_ACTS);
    fs::remove_file(&file).map_err(|error| noted_error(&file, error))
}

fn noted_error(file: &Path, error: io::Error) -> SecretError {
    SecretError { path: file.display().to_string(), setting: "RECADO_JWT_SECRET", error }
}

/// Writes a private file in one step. Root leaves it to the owner of the folder, as which the hub runs.
fn replace(folder: &Path, file: &Path, text: &str) -> io::Result<()> {
    let aside = file.with_extension(format!("{}.new", std::process::id()));
    let _ = fs::remove_file(&aside);
    let mut draft = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside)?;
    draft.write_all(text.as_bytes())?;
    if rustix::process::geteuid().is_root() {
        let owner = fs::metadata(folder)?;
        std::os::unix::fs::fchown(&draft, Some(owner.uid()), Some(owner.gid()))?;
    }
    draft.sync_all()?;
    fs::rename(&aside, file)?;
    File::open(folder)?.sync_all()
}

fn random_hex() -> String {
    let mut secret = [0; 32];
    rand::rng().fill_bytes(&mut secret);
    secret.iter().map(|b| format!("{b:02x}")).collect()
}

/// Checks whether a text from any source can be a secret.
///
/// # Errors
/// Says what is wrong with it, without showing it.
pub fn check(secret: &str) -> Result<(), String> {
    let bytes = secret.as_bytes();
    if bytes.len() < LEAST_BYTES {
        return Err(format!("has {} bytes; it must have {LEAST_BYTES} or more (openssl rand -hex 32)", bytes.len()));
    }
    if bytes.iter().all(|byte| *byte == bytes[0]) {
        return Err("repeats one character; make one with: openssl rand -hex 32".to_owned());
    }
    Ok(())
}

/// The content of the file that a `_FILE` setting names. Symbolic links are followed, because Kubernetes mounts such
/// files as links.
///
/// # Errors
/// When the file cannot be read, is empty, or can be read or changed by other users. The message says how to fix it.
pub fn read_given(file: &Path) -> io::Result<String> {
    let mut opened = File::open(file)?;
    // A container platform often mounts a secret so that every user inside can read it, and no user can change it.
    if !rustix::fs::fstatvfs(&opened)?.f_flag.contains(StatVfsMountFlags::RDONLY) {
        check_access(file, &opened.metadata()?)?;
    }
    let text = content(&mut opened)?;
    if text.trim().is_empty() {
        return Err(wrong("the file is empty; write the secret into it, or leave the setting out".to_owned()));
    }
    Ok(text)
}

/// Reads or creates a secret of 32 random bytes in hex, under this name.
fn kept(state_dir: &Path, name: &str, setting: &'static str) -> Result<String, SecretError> {
    let folder = state_dir.join("secrets");
    let file = folder.join(name);
    read_or_make(&folder, &file).map_err(|error| SecretError { path: file.display().to_string(), setting, error })
}

fn read_or_make(folder: &Path, file: &Path) -> io::Result<String> {
    match read_kept(folder, file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => make(folder, file),
        outcome => outcome,
    }
}

fn read_kept(folder: &Path, file: &Path) -> io::Result<String> {
    let text = read_private(folder, file)?.trim_end().to_owned();
    check(&text).map_err(|why| wrong(format!("it {why}; or remove the file to have a new one created, which invalidates all tokens")))?;
    Ok(text)
}

/// The content of a file that only its owner can read, in a folder that only its owner can write to.
fn read_private(folder: &Path, file: &Path) -> io::Result<String> {
    let about = fs::symlink_metadata(folder)?;
    if !about.is_dir() {
        return Err(wrong(format!("{} is not a folder; remove it", folder.display())));
    }
    check_owner(folder, &about)?;
    if about.mode() & 0o022 != 0 {
        return Err(wrong(format!("other users can write to the file's folder; run: chmod 700 {}", folder.display())));
    }
    // No symbolic link: a user who could place one would choose the secret. And no waiting for the other end of a pipe.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let opened = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(file);
    let mut opened = match opened {
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
            return Err(wrong("the file is a symbolic link; put the file itself there".to_owned()));
        }
        opened => opened?,
    };
    let about = opened.metadata()?;
    if !about.is_file() {
        return Err(wrong("it is not a regular file; remove it to have a new secret created".to_owned()));
    }
    check_access(file, &about)?;
    content(&mut opened)
}

fn make(folder: &Path, file: &Path) -> io::Result<String> {
    // The state folder itself stays open for the server's user; this folder is for its owner only.
    if let Some(state_dir) = folder.parent() {
        fs::create_dir_all(state_dir)?;
    }
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let text = random_hex();
    // Written to a temporary file and linked into place: a second process finds the first one's secret, complete.
    let aside = file.with_extension(std::process::id().to_string());
    let _ = fs::remove_file(&aside);
    let mut draft = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside)?;
    draft.write_all(text.as_bytes())?;
    draft.sync_all()?;
    let linked = fs::hard_link(&aside, file);
    fs::remove_file(&aside)?;
    match linked {
        Ok(()) => Ok(text),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => read_kept(folder, file),
        Err(error) => Err(error),
    }
}

fn content(file: &mut File) -> io::Result<String> {
    let mut text = String::new();
    file.take(MOST_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MOST_BYTES {
        return Err(wrong(format!("it is larger than {MOST_BYTES} bytes, so it is not a secret")));
    }
    // Some editors put a byte order mark before the text.
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}

/// Applies the same rule as ssh for private keys. A group may read a file of root.
fn check_access(path: &Path, about: &fs::Metadata) -> io::Result<()> {
    check_owner(path, about)?;
    let allowed = if about.uid() == 0 { 0o740 } else { 0o700 };
    if about.mode() & 0o777 & !allowed != 0 {
        let mode = about.mode() & 0o777;
        return Err(wrong(format!("other users can read or change the file (mode {mode:04o}); run: chmod 600 {}", path.display())));
    }
    Ok(())
}

fn check_owner(path: &Path, about: &fs::Metadata) -> io::Result<()> {
    let us = rustix::process::geteuid().as_raw();
    if about.uid() != us && about.uid() != 0 {
        let shown = path.display();
        return Err(wrong(format!(
            "{shown} is owned by user {}, not by the hub's user ({us}) or root; run: chown {us} {shown}",
            about.uid()
        )));
    }
    Ok(())
}

fn wrong(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn put(file: &Path, text: &str, mode: u32) {
        fs::write(file, text).unwrap();
        fs::set_permissions(file, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_secret_is_made_once_and_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let first = jwt_secret(folder.path()).unwrap();
        assert!(first.len() >= 32);
        assert_eq!(jwt_secret(folder.path()).unwrap(), first);
        let mode = fs::metadata(folder.path().join("secrets/jwt-secret")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_noted_act_is_taken_once_and_again_after_a_crash() {
        let folder = tempfile::tempdir().unwrap();
        let state_dir = folder.path().join("not/there/yet");
        let take = || take_noted_acts(&state_dir).unwrap();
        assert_eq!(take(), None);
        note_act(&state_dir, "one").unwrap();
        note_act(&state_dir, "two").unwrap();
        assert_eq!(take().as_deref(), Some("one\ntwo\n"));
        note_act(&state_dir, "three").unwrap();
        assert_eq!(take().as_deref(), Some("one\ntwo\n"), "they were not recorded");
        forget_noted_acts(&state_dir).unwrap();
        assert_eq!(take().as_deref(), Some("three\n"));
        forget_noted_acts(&state_dir).unwrap();
        assert_eq!(take(), None);
    }

    /// A note that is written while a hub takes the notes is in what it takes, or waits for the next hub.
    #[test]
    fn no_note_is_lost_to_a_hub_that_takes_them() {
        let folder = tempfile::tempdir().unwrap();
        let (state_dir, mut seen) = (folder.path(), Vec::new());
        std::thread::scope(|scope| {
            let writers: Vec<_> = (0..4)
                .map(|writer| scope.spawn(move || (0..100).for_each(|n| note_act(state_dir, &format!("{writer}-{n}")).unwrap())))
                .collect();
            loop {
                let is_last = writers.iter().all(std::thread::ScopedJoinHandle::is_finished);
                if let Some(lines) = take_noted_acts(state_dir).unwrap() {
                    seen.extend(lines.lines().map(str::to_owned));
                    forget_noted_acts(state_dir).unwrap();
                } else if is_last {
                    break;
                }
            }
        });
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), 400);
    }

    #[test]
    fn a_rotated_secret_is_new_and_the_old_one_is_accepted_until_it_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(previous(folder.path(), KeptSecret::Jwt).unwrap(), Vec::<String>::new());
        let first = jwt_secret(folder.path()).unwrap();
        rotate(folder.path(), KeptSecret::Jwt).unwrap();
        let second = jwt_secret(folder.path()).unwrap();
        rotate(folder.path(), KeptSecret::Jwt).unwrap();
        assert_eq!(previous(folder.path(), KeptSecret::Jwt).unwrap(), [second.clone(), first.clone()]);
        let third = jwt_secret(folder.path()).unwrap();
        assert!(third != second && second != first && third != first);
        assert_eq!(previous(folder.path(), KeptSecret::Upstream).unwrap(), Vec::<String>::new());
        for name in ["jwt-secret", "jwt-secret.previous"] {
            let mode = fs::metadata(folder.path().join("secrets").join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
        for _ in 0..20 {
            rotate(folder.path(), KeptSecret::Jwt).unwrap();
        }
        assert_eq!(previous(folder.path(), KeptSecret::Jwt).unwrap().len(), PREVIOUS_MAX);
        put(&folder.path().join("secrets/jwt-secret.previous"), "short\n", 0o600);
        assert!(previous(folder.path(), KeptSecret::Jwt).unwrap_err().to_string().contains("jwt-secret.previous"));
        put(&folder.path().join("secrets/jwt-secret.previous"), &first, 0o644);
        assert!(previous(folder.path(), KeptSecret::Jwt).unwrap_err().to_string().contains("chmod 600"));
        put(&folder.path().join("secrets/jwt-secret.previous"), &first, 0o600);
        assert_eq!(forget_previous(folder.path(), KeptSecret::Jwt).unwrap(), 1);
        assert_eq!(forget_previous(folder.path(), KeptSecret::Jwt).unwrap(), 0);
        assert_eq!(previous(folder.path(), KeptSecret::Jwt).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn a_kept_file_without_a_secret_in_it_is_refused_and_stays() {
        let folder = tempfile::tempdir().unwrap();
        jwt_secret(folder.path()).unwrap();
        let file = folder.path().join("secrets/jwt-secret");
        for bad in ["", "\n", "x", "short-secret\n", &" ".repeat(40), &"a".repeat(64)] {
            put(&file, bad, 0o600);
            let error = jwt_secret(folder.path()).unwrap_err().to_string();
            assert!(error.contains("jwt-secret") && error.contains("openssl rand"), "{error}");
            assert_eq!(fs::read_to_string(&file).unwrap(), bad);
        }
    }

    /// An editor that writes a byte order mark made another secret of it: all tokens ended.
    #[test]
    fn a_byte_order_mark_is_no_part_of_a_secret() {
        let folder = tempfile::tempdir().unwrap();
        let secret = jwt_secret(folder.path()).unwrap();
        let file = folder.path().join("secrets/jwt-secret");
        put(&file, &format!("\u{feff}{secret}\r\n"), 0o600);
        assert_eq!(jwt_secret(folder.path()).unwrap(), secret);
        assert_eq!(read_given(&file).unwrap(), format!("{secret}\r\n"));
        put(&file, "\u{feff}\n", 0o600);
        assert!(jwt_secret(folder.path()).is_err());
        assert!(read_given(&file).unwrap_err().to_string().contains("empty"), "a mark alone is no secret");
    }

    #[test]
    fn a_kept_file_that_others_can_read_or_plant_is_refused_with_the_way_out() {
        let folder = tempfile::tempdir().unwrap();
        let secret = jwt_secret(folder.path()).unwrap();
        let file = folder.path().join("secrets/jwt-secret");
        for mode in [0o644, 0o604, 0o660, 0o602] {
            put(&file, &secret, mode);
            let error = jwt_secret(folder.path()).unwrap_err().to_string();
            assert!(error.contains("chmod 600"), "{mode:o}: {error}");
        }
        put(&file, &secret, 0o600);
        assert_eq!(jwt_secret(folder.path()).unwrap(), secret);
        fs::rename(&file, folder.path().join("elsewhere")).unwrap();
        symlink(folder.path().join("elsewhere"), &file).unwrap();
        let error = jwt_secret(folder.path()).unwrap_err().to_string();
        assert!(error.contains("symbolic link"), "{error}");
        fs::set_permissions(folder.path().join("secrets"), fs::Permissions::from_mode(0o777)).unwrap();
        let error = jwt_secret(folder.path()).unwrap_err().to_string();
        assert!(error.contains("chmod 700"), "{error}");
    }

    #[test]
    fn a_given_file_may_be_a_link_but_not_empty_or_open_to_others() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("given"), folder.path().join("link"));
        symlink(&file, &link).unwrap();
        put(&file, "the content\n", 0o400);
        assert_eq!(read_given(&link).unwrap(), "the content\n");
        for (text, mode, expected) in [("x", 0o644, "chmod 600"), ("x", 0o620, "chmod 600"), ("", 0o600, "empty"), (" \n", 0o600, "empty")]
        {
            put(&file, text, mode);
            let error = read_given(&link).unwrap_err().to_string();
            assert!(error.contains(expected), "{mode:o}: {error}");
        }
    }
}
