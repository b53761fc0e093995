//! The command line: one file a subcommand. Data on stdout, talk on stderr.

mod analyst;
mod bench;
mod config;
mod error;
mod export;
mod healthcheck;
mod hub_client;
mod key;
mod listen;
mod log;
mod migrate;
mod notify;
mod notify_stdin;
mod output;
mod serve;
mod stats;
mod token;
mod upstream;
mod why;

use clap::{Args, Parser, Subcommand};

use crate::config::{Config, Values};
use crate::telemetry;
use error::Failure;
use output::Format;

/// A durable notification hub on PostgreSQL.
#[derive(Debug, Parser)]
#[command(name = "recado", version, after_help = EXIT_CODES)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 done · 1 failed · 2 wrong usage · 69 the hub or the database is not available · \
77 refused (key or token) · 78 the settings or the database do not fit";

#[derive(Debug, Args)]
struct Global {
    /// How results are printed
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table)]
    output: Format,
    /// PostgreSQL to use (DATABASE_URL); without it a private server is run
    #[arg(long, global = true, value_name = "URL")]
    database_url: Option<String>,
    /// Folder of the private server and the secrets (RECADO_DATA_DIR)
    #[arg(long, global = true, value_name = "DIR")]
    data_dir: Option<String>,
    /// Never download PostgreSQL (RECADO_FETCH_POSTGRES=off)
    #[arg(long, global = true)]
    no_fetch: bool,
    /// The hub to talk to (RECADO_URL)
    #[arg(long, global = true, value_name = "URL")]
    url: Option<String>,
    /// What is logged (RECADO_LOG)
    #[arg(long, global = true, value_name = "FILTER")]
    log: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a hub
    Serve(serve::Serve),
    /// Bring the database to the schema of this program, and end
    Migrate,
    /// Print a token for a user, made from the hub's own secret
    Token(token::Token),
    /// Make, list and revoke service keys
    Key(key::Key),
    /// Post a notification, or with - one for each line of stdin
    Notify(notify::Notify),
    /// Listen as a user, and resume after every break
    Listen(listen::Listen),
    /// Show every session of every instance
    Stats,
    /// Tell whether a user has a notification, and why or why not
    Why(why::Why),
    /// Measure a hub beside what the same machine does without one
    Bench(bench::Bench),
    /// Look at the log, drop what is over its time, or give it a new id
    Log(log::Log),
    /// Make, list and drop logins that read the views in SQL
    Analyst(analyst::Analyst),
    /// Write the log, or a part of it, to a file or stdout
    Export(export::Export),
    /// Check a provider file and try it out; look at the sessions with providers, or ask something of them
    Upstream(upstream::Upstream),
    /// Show all settings and their meaning
    Config(config::ShowConfig),
    /// Ask a hub whether it is ready; for containers
    Healthcheck,
}

/// Runs the command line; returns the exit code.
pub async fn main() -> i32 {
    let cli = Cli::parse();
    match run(cli).await {
        Ok(()) => 0,
        Err(failure) => {
            eprintln!("recado: {}", failure.message);
            failure.code
        }
    }
}

async fn run(cli: Cli) -> Result<(), Failure> {
    let mut flags = cli.global.flags();
    if let Command::Serve(serve) = &cli.command {
        serve.flags(&mut flags);
    }
    let format = cli.global.output;
    if let Command::Config(show) = &cli.command {
        return show.run(format);
    }
    let config = Config::load(&flags).map_err(|error| Failure::settings(error.to_string()))?;
    // Only a hub logs by itself; the other commands speak in their own words unless asked to say more.
    let filter = if matches!(cli.command, Command::Serve(_)) || cli.global.log.is_some() { config.log.as_str() } else { "warn" };
    telemetry::start(filter, config.log_format).map_err(Failure::settings)?;
    match cli.command {
        Command::Serve(_) => serve::run(config).await,
        Command::Migrate => migrate::run(&config, format).await,
        Command::Token(token) => token.run(&config, format),
        Command::Key(key) => key.run(&config, format).await,
        Command::Notify(notify) => notify.run(&config, format).await,
        Command::Listen(listen) => listen.run(&config, format).await,
        Command::Log(log) => log.run(&config, format).await,
        Command::Analyst(analyst) => analyst.run(&config, format).await,
        Command::Export(export) => export.run(&config).await,
        Command::Why(why) => why.run(&config, format).await,
        Command::Upstream(upstream) => upstream.run(&config, format).await,
        Command::Stats => stats::run(&config, format).await,
        Command::Bench(bench) => bench.run(&config, format).await,
        Command::Healthcheck => healthcheck::run(&config).await,
        Command::Config(_) => Ok(()),
    }
}

impl Global {
    fn flags(&self) -> Values {
        let mut flags = Values::new();
        let given = [
            ("DATABASE_URL", &self.database_url),
            ("RECADO_DATA_DIR", &self.data_dir),
            ("RECADO_URL", &self.url),
            ("RECADO_LOG", &self.log),
        ];
        flags.extend(given.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value.clone()?))));
        if self.no_fetch {
            flags.insert("RECADO_FETCH_POSTGRES".to_owned(), "off".to_owned());
        }
        flags
    }
}
