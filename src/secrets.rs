//! Secrets that were not given: made once, kept beside the data, readable by their owner alone.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use rand::RngCore;

/// Why there is no secret.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {error}; give {setting}, or a RECADO_DATA_DIR that this user can write to")]
pub struct SecretError {
    path: String,
    setting: &'static str,
    error: io::Error,
}

/// The secret of the users' tokens, kept in `state_dir`. Several processes may ask at once; all get the same.
///
/// # Errors
/// When it can neither be read nor made.
pub fn jwt_secret(state_dir: &Path) -> Result<String, SecretError> {
    kept(state_dir, "jwt-secret", "RECADO_JWT_SECRET")
}

/// The key that seals the providers' session ids, kept likewise.
///
/// # Errors
/// When it can neither be read nor made.
pub fn upstream_key(state_dir: &Path) -> Result<String, SecretError> {
    kept(state_dir, "upstream-key", "RECADO_UPSTREAM_KEY")
}

/// 32 random bytes in hex, under this name.
fn kept(state_dir: &Path, name: &str, setting: &'static str) -> Result<String, SecretError> {
    let folder = state_dir.join("secrets");
    let file = folder.join(name);
    read_or_make(&folder, &file).map_err(|error| SecretError { path: file.display().to_string(), setting, error })
}

fn read_or_make(folder: &Path, file: &Path) -> io::Result<String> {
    match fs::read_to_string(file) {
        Ok(text) => return Ok(text.trim_end().to_owned()),
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Err(_) => {}
    }
    // The state folder itself stays open for the server's user; what is in this one is for its owner alone.
    if let Some(state_dir) = folder.parent() {
        fs::create_dir_all(state_dir)?;
    }
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let mut secret = [0; 32];
    rand::rng().fill_bytes(&mut secret);
    let text: String = secret.iter().map(|b| format!("{b:02x}")).collect();
    // Written aside and linked into place: whoever comes second finds the first one's, whole.
    let aside = file.with_extension(std::process::id().to_string());
    let mut draft = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&aside)?;
    draft.write_all(text.as_bytes())?;
    draft.sync_all()?;
    let linked = fs::hard_link(&aside, file);
    fs::remove_file(&aside)?;
    match linked {
        Ok(()) => Ok(text),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(fs::read_to_string(file)?.trim_end().to_owned()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_secret_is_made_once_and_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let first = jwt_secret(folder.path()).unwrap();
        assert!(first.len() >= 32);
        assert_eq!(jwt_secret(folder.path()).unwrap(), first);
        let mode = fs::metadata(folder.path().join("secrets/jwt-secret")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
