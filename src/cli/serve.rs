//! `recado serve`.

use std::net::SocketAddr;

use clap::Args;

use super::error::Failure;
use super::output;
use crate::app;
use crate::config::{Config, Values};

/// Run a hub until SIGTERM or Ctrl-C.
#[derive(Debug, Args)]
pub struct Serve {
    /// Address to listen on (RECADO_BIND)
    #[arg(long, value_name = "ADDRESS")]
    bind: Option<String>,
    /// Port to listen on, 0 for any (PORT)
    #[arg(long)]
    port: Option<String>,
    /// text or json (RECADO_LOG_FORMAT)
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
}

impl Serve {
    pub fn flags(&self, flags: &mut Values) {
        let given = [("RECADO_BIND", &self.bind), ("PORT", &self.port), ("RECADO_LOG_FORMAT", &self.log_format)];
        flags.extend(given.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value.clone()?))));
    }
}

pub async fn run(config: Config) -> Result<(), Failure> {
    let hints = Hints::of(&config);
    app::serve(config, |address| {
        // Whoever started us may not be reading any more; that is no reason not to serve.
        let _ = output::line(&format!("ready http://{address}"));
        eprintln!("{}", hints.text(address));
    })
    .await?;
    Ok(())
}

/// What a newcomer pastes next.
struct Hints {
    program: String,
    flags: String,
}

impl Hints {
    fn of(config: &Config) -> Self {
        let program = std::env::current_exe().map_or_else(|_| "recado".to_owned(), |path| quoted(&path.display().to_string()));
        let flags = config.data_dir.as_ref().map(|dir| format!(" --data-dir {}", quoted(&dir.display().to_string()))).unwrap_or_default();
        Self { program, flags }
    }

    fn text(&self, address: SocketAddr) -> String {
        let Self { program, flags } = self;
        let url = if address == SocketAddr::from(([127, 0, 0, 1], 8080)) { String::new() } else { format!(" --url http://{address}") };
        format!(
            "\nlisten as user 42, in a second terminal:\n  {program} listen --user 42{flags}{url}\n\
             post to user 42, in a third:\n  curl -sS http://{address}/api/internal/notify -H \"Authorization: Bearer $({program} token --user me --role service{flags})\" \
             -H 'Content-Type: application/json' -d '{{\"type\":\"order_created\",\"title\":\"New order\",\"message\":\"Order #1001\",\"user_id\":\"42\"}}'\n\
             stop with Ctrl-C\n"
        )
    }
}

/// Quoted for a shell where that is needed.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%".contains(c);
    if text.chars().all(plain) { text.to_owned() } else { format!("'{}'", text.replace('\'', "'\\''")) }
}
