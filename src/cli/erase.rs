//! Runs `recado erase`: erases a user or one notification.

use clap::Args;

use super::error::CliFailure;
use super::output::{self, Format};
use crate::config::Config;
use crate::domain::{Seq, UserId};
use crate::startup::Startup;
use crate::store::erase::{self, EraseError, EraseTarget};

/// Maximum length of a reason, in bytes.
const REASON_MAX: usize = 1000;

/// Erase a user, or one notification. Numbers stay. A record keeps who asked, when and why.
#[derive(Debug, Args)]
#[command(after_help = "A user's notifications become empty tombstones, which are never delivered. The user's sessions, delivery facts, \
devices and commands are deleted. A notification to several users stays for the others. Copies that a client has shown, backups and the \
server's own log files are not erased. Let the user's tokens expire first: a connected user leaves new traces.")]
pub struct EraseCommand {
    /// Erase everything of this user
    #[arg(long, conflicts_with = "seq", required_unless_present = "seq")]
    user: Option<String>,
    /// Erase this notification, whoever it was for
    #[arg(long)]
    seq: Option<u64>,
    /// The reason, for the record (recado.erasure); do not name the user here
    #[arg(long)]
    reason: String,
}

impl EraseCommand {
    pub async fn run(&self, config: &Config, format: Format) -> Result<(), CliFailure> {
        let what = self.what()?;
        if self.reason.trim().is_empty() || self.reason.len() > REASON_MAX {
            return Err(CliFailure::other(format!("--reason must say why, in 1 to {REASON_MAX} bytes")));
        }
        Startup::with(config, async |startup| {
            let mut connection = startup.as_owner().connect("erase").await?;
            match erase::erase(&mut connection, &what, self.reason.trim()).await {
                Ok(done) => output::one(format, &done),
                Err(EraseError::Store(error)) => Err(error.into()),
                Err(error) => Err(CliFailure::other(error.to_string())),
            }
        })
        .await
    }

    fn what(&self) -> Result<EraseTarget, CliFailure> {
        match (&self.user, self.seq) {
            (Some(user), _) => {
                UserId::parse(user).map(EraseTarget::User).map_err(|_| CliFailure::other(format!("{user:?} is not a valid user id")))
            }
            (None, Some(seq)) => i64::try_from(seq)
                .map(|seq| EraseTarget::Seq(Seq::from_db(seq)))
                .map_err(|_| CliFailure::other(format!("{seq} is not a valid sequence number"))),
            (None, None) => Err(CliFailure::other("give --user or --seq")),
        }
    }
}
