//! Finds `postgres`, `initdb` and `pg_ctl`.

use super::child;
use super::error::ServerError;
use super::settings::Environment;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The usual folders, below `Environment::search_root`. A component may have one `*`; the newest version comes first.
const USUAL: [&str; 7] = [
    "usr/lib/postgresql/*/bin",
    "usr/pgsql-*/bin",
    "usr/libexec/postgresql*",
    "opt/homebrew/opt/postgresql*/bin",
    "usr/local/opt/postgresql*/bin",
    "Applications/Postgres.app/Contents/Versions/*/bin",
    "usr/bin",
];

/// `postgres` is last, because its version is the one that counts.
const PROGRAMS: [&str; 3] = ["initdb", "pg_ctl", "postgres"];

/// A folder with all the programs, of a known version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Binaries {
    pub(super) folder: PathBuf,
    pub(super) major: u32,
}

impl Binaries {
    /// Checks one folder by running each program with `-V`, which also works as root. Links in its path are resolved.
    ///
    /// # Errors
    /// The name of the program that is missing or does not run (lacks a library, was built for another machine).
    pub(super) fn at(folder: &Path) -> Result<Self, &'static str> {
        let folder = folder.canonicalize().map_err(|_| PROGRAMS[0])?;
        let mut major = None;
        for name in PROGRAMS {
            let program = folder.join(name);
            if !child::is_program(&program) {
                return Err(name);
            }
            let answer = child::ask(Command::new(program).arg("-V")).ok_or(name)?;
            major = Some(major_of(&answer).ok_or(name)?);
        }
        let major = major.ok_or(PROGRAMS[0])?;
        Ok(Self { folder, major })
    }

    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

/// The result of a search.
pub(super) struct Search {
    pub(super) found: Option<Binaries>,
    /// Binaries of another major version than the data, as text: `15 (/usr/lib/…), 18 (…)`.
    pub(super) other_versions: String,
    /// The folders that were searched, as text.
    pub(super) looked_in: String,
}

/// Checks the folder that the user named, and no other.
pub(super) fn named(folder: &Path) -> Result<Binaries, ServerError> {
    let absolute = std::path::absolute(folder).map_err(ServerError::io("find", folder))?;
    Binaries::at(&absolute).map_err(|missing| ServerError::PostgresBin { folder: folder.to_owned(), missing })
}

/// Searches `PATH`, the folder that `pg_config` prints, the usual folders, and the `fetched` binaries. The first
/// complete folder wins; when data exists (`wanted`), the first one of its major version.
pub(super) fn search(environment: &Environment, fetched: &Path, wanted: Option<u32>) -> Search {
    let mut looked_in = vec!["PATH".to_owned(), "pg_config --bindir".to_owned()];
    let mut others: Vec<String> = Vec::new();
    for folder in candidates(environment, fetched, &mut looked_in) {
        let Ok(binaries) = Binaries::at(&folder) else {
            continue;
        };
        if wanted.is_none_or(|major| major == binaries.major) {
            return Search { found: Some(binaries), other_versions: String::new(), looked_in: looked_in.join(", ") };
        }
        let other = format!("{} ({})", binaries.major, folder.display());
        if !others.contains(&other) {
            others.push(other);
        }
    }
    Search { found: None, other_versions: others.join(", "), looked_in: looked_in.join(", ") }
}

fn candidates(environment: &Environment, fetched: &Path, looked_in: &mut Vec<String>) -> Vec<PathBuf> {
    let path = environment.path.as_deref();
    let mut folders: Vec<PathBuf> = Vec::new();
    // `/usr/local/bin/postgres` is often a link into the folder that also has the others.
    let linked = child::on_path("postgres", path).and_then(|program| program.canonicalize().ok());
    folders.extend(linked.as_deref().and_then(Path::parent).map(Path::to_owned));
    // Debian's libpq-dev ships pg_config without a server. Like every other candidate, its folder is checked.
    let told = child::on_path("pg_config", path).and_then(|program| child::ask(Command::new(program).arg("--bindir")));
    folders.extend(told.map(PathBuf::from));
    for pattern in USUAL {
        let pattern = environment.search_root.join(pattern);
        looked_in.push(pattern.display().to_string());
        folders.extend(matching(&pattern));
    }
    let pattern = fetched.join("*/bin");
    looked_in.push(pattern.display().to_string());
    folders.extend(matching(&pattern));
    folders
}

/// Lists the folders that match a pattern with at most one `*`, highest number in the matched name first.
fn matching(pattern: &Path) -> Vec<PathBuf> {
    let text = pattern.to_string_lossy();
    let Some((before, after)) = text.split_once('*') else {
        return vec![pattern.to_owned()];
    };
    // The star is in the last component of `before`; the rest of that component in `after` is always empty here.
    let (parent, prefix) = before.rsplit_once('/').unwrap_or((".", before));
    let after = after.trim_start_matches('/');
    let names = fs::read_dir(if parent.is_empty() { "/" } else { parent })
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix));
    let mut found: Vec<(Vec<u32>, PathBuf)> = names
        .map(|entry| {
            let numbers = numbers_in(&entry.file_name().to_string_lossy());
            let folder = entry.path();
            let folder = if after.is_empty() { folder } else { folder.join(after) };
            (numbers, folder)
        })
        .collect();
    found.sort_by(|left, right| right.cmp(left));
    found.into_iter().map(|(_, folder)| folder).collect()
}

/// `postgresql@16` → 16; `18.6.3` → 18, 6, 3.
fn numbers_in(name: &str) -> Vec<u32> {
    name.split(|letter: char| !letter.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
}

/// `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)` → 15; also `18beta1` → 18.
fn major_of(text: &str) -> Option<u32> {
    let version = text.split_once("(PostgreSQL)")?.1.trim_start();
    let digits = version.split(|letter: char| !letter.is_ascii_digit()).next()?;
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_major_version_is_read_from_the_programs_words() {
        let debian = "postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)";
        assert_eq!(major_of(debian), Some(15));
        assert_eq!(major_of("postgres (PostgreSQL) 18beta1"), Some(18));
        assert_eq!(major_of("postgres 15"), None);
    }

    #[test]
    fn the_newest_version_comes_first() {
        let root = tempfile::tempdir().expect("tempdir");
        for version in ["9.6", "15", "100", "junk"] {
            fs::create_dir_all(root.path().join(version).join("bin")).expect("mkdir");
        }
        let found = matching(&root.path().join("*/bin"));
        let names: Vec<String> =
            found.iter().map(|folder| folder.strip_prefix(root.path()).expect("below").display().to_string()).collect();
        assert_eq!(names, ["100/bin", "15/bin", "9.6/bin", "junk/bin"]);
    }

    #[test]
    fn an_empty_root_has_nothing_and_says_where_it_looked() {
        let root = tempfile::tempdir().expect("tempdir");
        let environment = Environment { search_root: root.path().to_owned(), ..Environment::default() };
        let search = search(&environment, &root.path().join("postgres-bin"), None);
        assert!(search.found.is_none());
        assert!(search.looked_in.contains("usr/lib/postgresql/*/bin"));
    }
}
