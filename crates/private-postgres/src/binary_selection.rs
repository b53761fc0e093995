//! Selects the binaries of a start: named, found or fetched.
//!
//! They must have the data's version and be accessible to the server's user.

use super::archives;
use super::binaries::{self, Binaries, Search};
use super::error::ServerError;
use super::fetch::{self, NotFetched};
use super::folders::Folders;
use super::settings::{Environment, ServerEvent, ServerSettings};
use super::system_user::SystemUser;
use std::path::PathBuf;

/// Everything that decides which binaries are used.
pub(super) struct BinarySelection<'a> {
    pub(super) settings: &'a ServerSettings,
    pub(super) environment: &'a Environment,
    pub(super) account: &'a SystemUser,
    /// Where fetched binaries are kept.
    pub(super) home: &'a Folders,
}

impl BinarySelection<'_> {
    /// Selects binaries for the data in `cluster`, or of any version when there is no data yet.
    pub(super) fn binaries_for(&self, cluster: &Folders, events: &mut dyn FnMut(ServerEvent)) -> Result<Binaries, ServerError> {
        let wanted = cluster.data_version()?;
        let found = match &self.settings.postgres_bin {
            Some(folder) => fitting(binaries::named(folder)?, wanted, cluster)?,
            None => {
                let search = binaries::search(self.environment, &self.fetched(), wanted);
                match search.found {
                    Some(found) => found,
                    None => self.fetch(wanted, events).map_err(|missing| not_found(missing, search, wanted, cluster))?,
                }
            }
        };
        self.account.must_enter(&found.folder, "RECADO_POSTGRES_BIN", "/usr/lib/postgresql/…/bin")?;
        Ok(found)
    }

    fn fetched(&self) -> PathBuf {
        self.home.state.join("postgres-bin")
    }

    fn fetch(&self, wanted: Option<u32>, events: &mut dyn FnMut(ServerEvent)) -> Result<Binaries, NotFetched> {
        if !self.settings.fetch {
            return Err(NotFetched::Words("downloading the binaries is turned off".to_owned()));
        }
        if let Some(major) = wanted.filter(|major| *major != archives::MAJOR) {
            return Err(NotFetched::Words(format!(
                "the data needs PostgreSQL {major}, but the version that can be downloaded is {}",
                archives::MAJOR
            )));
        }
        self.home.make_state(self.account)?;
        fetch::fetch(&self.fetched(), self.environment, events)
    }
}

fn fitting(named: Binaries, wanted: Option<u32>, cluster: &Folders) -> Result<Binaries, ServerError> {
    match wanted {
        Some(made_by) if made_by != named.major => Err(ServerError::OtherVersion {
            data_dir: cluster.data.clone(),
            made_by,
            found: format!("{} ({})", named.major, named.folder.display()),
        }),
        _ => Ok(named),
    }
}

fn not_found(missing: NotFetched, search: Search, wanted: Option<u32>, cluster: &Folders) -> ServerError {
    match (missing, wanted) {
        (NotFetched::Server(error), _) => error,
        (NotFetched::Words(_), Some(made_by)) if !search.other_versions.is_empty() => {
            ServerError::OtherVersion { data_dir: cluster.data.clone(), made_by, found: search.other_versions }
        }
        (NotFetched::Words(fetch), _) => ServerError::NotFound { looked_in: search.looked_in, fetch },
    }
}
