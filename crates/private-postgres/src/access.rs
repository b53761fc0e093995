//! Writes the rules of who may connect to the private server.
//!
//! They are written at each start, so that a cluster of an older hub has the same rules.

use super::address::NAME;
use super::child;
use super::error::ServerError;
use super::system_user::SystemUser;
use std::io::Write;
use std::path::{Path, PathBuf};

/// System users that may act as the superuser: the server's own, and root, as which a hub may run.
fn rules() -> String {
    format!("local all {NAME} peer map={NAME}\nlocal replication {NAME} peer map={NAME}\nlocal all all scram-sha-256\n")
}

fn map(account: &SystemUser) -> String {
    let line = |user: &str| format!("{NAME} \"{}\" {NAME}\n", user.replace('"', "\"\""));
    if account.name == "root" { line("root") } else { line(&account.name) + &line("root") }
}

/// Writes the two files that [`options`] names.
pub(super) fn write(run: &Path, account: &SystemUser) -> Result<(), ServerError> {
    for (path, text) in [(hba(run), rules()), (ident(run), map(account))] {
        child::fresh_file(&path).and_then(|mut file| file.write_all(text.as_bytes())).map_err(ServerError::io("write", &path))?;
        account.give(&path)?;
    }
    Ok(())
}

/// Makes the options for the server's command line. `Folders::new` refuses special characters.
pub(super) fn options(run: &Path) -> String {
    format!(" -c hba_file='{}' -c ident_file='{}'", hba(run).display(), ident(run).display())
}

fn hba(run: &Path) -> PathBuf {
    run.join("pg_hba.conf")
}

fn ident(run: &Path) -> PathBuf {
    run.join("pg_ident.conf")
}
