//! Runs `recado secret`: rotates the secrets that the hub made and keeps.

use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;

use super::error::CliFailure;
use super::output::{self, Format};
use crate::config::Config;
use crate::domain::audit::{Act, Outcome};
use crate::secrets::{self, KeptSecret, SecretError};
use crate::startup::{self, StartupError};
use crate::store::audit;

/// Rotate the secrets that the hub keeps in its data folder.
#[derive(Debug, Args)]
pub struct SecretCommand {
    #[command(subcommand)]
    action: SecretAction,
}

#[derive(Debug, Subcommand)]
enum SecretAction {
    /// Replace a secret by a new one; the old one is still accepted
    Rotate {
        /// The secret of user tokens, or the key of provider session ids
        #[arg(value_enum)]
        which: WhichSecret,
    },
    /// End the acceptance of the secrets that were replaced
    Forget {
        /// The secret of user tokens, or the key of provider session ids
        #[arg(value_enum)]
        which: WhichSecret,
    },
    /// Show where each secret comes from and how many replaced ones are accepted
    List,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum WhichSecret {
    Jwt,
    Upstream,
}

#[derive(Serialize)]
struct SecretReport {
    secret: &'static str,
    source: String,
    accepted: usize,
}

impl WhichSecret {
    const fn kept(self) -> KeptSecret {
        match self {
            Self::Jwt => KeptSecret::Jwt,
            Self::Upstream => KeptSecret::Upstream,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Jwt => "jwt",
            Self::Upstream => "upstream",
        }
    }

    /// The setting that gives the secret, if one does. The hub cannot change it then.
    fn given(self, config: &Config) -> Result<Option<&'static str>, StartupError> {
        Ok(match self {
            Self::Jwt if config.jwt_secret.is_some() => Some("RECADO_JWT_SECRET"),
            Self::Jwt if startup::names_own_secrets(config)? => Some("RECADO_IDENTITY_FILE"),
            Self::Upstream if config.upstream_key.is_some() => Some("RECADO_UPSTREAM_KEY"),
            _ => None,
        })
    }
}

impl SecretCommand {
    pub fn run(&self, config: &Config, format: Format) -> Result<(), CliFailure> {
        match self.action {
            SecretAction::Rotate { which } => {
                let folder = kept_folder(config, which)?;
                noted(&folder, Act::SecretRotate, which, || secrets::rotate(&folder, which.kept()))?;
                eprintln!(
                    "{} has a new secret; restart the hub to use it. The old one is accepted until: recado secret forget {0}",
                    which.name()
                );
                Ok(())
            }
            SecretAction::Forget { which } => {
                let folder = kept_folder(config, which)?;
                let count = noted(&folder, Act::SecretForget, which, || secrets::forget_previous(&folder, which.kept()))?;
                eprintln!("{}: {count} replaced secrets are forgotten; restart the hub to refuse them", which.name());
                Ok(())
            }
            SecretAction::List => list(config, format),
        }
    }
}

/// Notes an act before and after it is done. It takes effect when a hub starts, and that hub records the notes first.
fn noted<T>(folder: &std::path::Path, act: Act, which: WhichSecret, run: impl FnOnce() -> Result<T, SecretError>) -> Result<T, CliFailure> {
    let note = |outcome| secrets::note_act(folder, &audit::note(act, which.name(), outcome)).map_err(StartupError::from);
    note(Outcome::Started)?;
    let done = run();
    note(if done.is_ok() { Outcome::Done } else { Outcome::Failed })?;
    Ok(done.map_err(StartupError::from)?)
}

fn kept_folder(config: &Config, which: WhichSecret) -> Result<std::path::PathBuf, CliFailure> {
    if let Some(setting) = which.given(config)? {
        return Err(CliFailure::settings(format!(
            "the secret comes from {setting}, not from the data folder; change it there (docs/guides/identity.md)"
        )));
    }
    Ok(startup::state_dir(config).map_err(StartupError::from)?)
}

fn list(config: &Config, format: Format) -> Result<(), CliFailure> {
    let mut reports = Vec::new();
    for which in [WhichSecret::Jwt, WhichSecret::Upstream] {
        let (source, accepted) = match which.given(config)? {
            Some(setting) if which == WhichSecret::Jwt => (setting.to_owned(), startup::own_secrets(config)?.accepted.len()),
            Some(setting) => (setting.to_owned(), config.upstream_accepted_keys.len()),
            None => {
                let folder = startup::state_dir(config).map_err(StartupError::from)?;
                let kept = secrets::previous(&folder, which.kept()).map_err(StartupError::from)?.len();
                let given = if which == WhichSecret::Jwt { config.jwt_accepted_secrets.len() } else { config.upstream_accepted_keys.len() };
                (folder.join("secrets").display().to_string(), kept + given)
            }
        };
        reports.push(SecretReport { secret: which.name(), source, accepted });
    }
    if format != Format::Table {
        return output::rows(format, &reports);
    }
    let rows = reports.into_iter().map(|report| vec![report.secret.to_owned(), report.source, report.accepted.to_string()]);
    output::table(&["SECRET", "SOURCE", "ACCEPTED"], rows)
}
