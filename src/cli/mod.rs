//! Runs the command line: one file per subcommand.
//!
//! Results go to stdout, messages to stderr.

/// Like the standard macro, but escapes characters that control a terminal: the text may come from a server or a file.
/// It does not panic if stderr cannot be written (a full disk). The command continues instead.
macro_rules! eprintln {
    ($($text:tt)*) => {
        $crate::cli::output::talk(&format!($($text)*))
    };
}

mod admin;
mod analyst;
mod audit;
mod completions;
mod config;
mod consume;
mod consumer;
mod devices;
mod doctor;
mod erase;
pub mod error;
mod export;
mod healthcheck;
mod history;
mod hub_client;
mod inbox;
mod key;
mod listen;
mod log;
mod member;
mod migrate;
mod notify;
mod notify_stdin;
pub mod output;
mod producer;
mod revoke;
mod scope_args;
mod secret;
mod serve;
mod stats;
pub mod token;
mod top;
mod upstream;
mod webhook;
mod why;

use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::config::{Config, Values};
use crate::telemetry;
use error::CliFailure;
use output::Format;

/// A durable notification hub on PostgreSQL.
#[derive(Debug, Parser)]
#[command(name = PROGRAM, version, after_help = EXIT_CODES)]
struct RecadoCli {
    #[command(flatten)]
    global: GlobalOptions,
    #[command(subcommand)]
    command: CliCommand,
}

const PROGRAM: &str = "recado";

/// How long a command waits at its end for its last log lines to be read.
const LAST_LINES: Duration = Duration::from_secs(1);

/// The exit codes, for `--help`.
pub const EXIT_CODES: &str = "Exit codes: 0 done · 1 failed · 2 wrong usage · 69 the hub or the database is not available · \
77 refused (key, token or login) · 78 the settings or the database do not fit";

/// The options of all commands, also of programs that measure a hub.
#[derive(Debug, Args)]
pub struct GlobalOptions {
    /// The format of results
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table)]
    pub output: Format,
    /// PostgreSQL to use (DATABASE_URL); without it the hub runs a private server
    #[arg(long, global = true, value_name = "URL")]
    database_url: Option<String>,
    /// Folder of the private server and the secrets (RECADO_DATA_DIR)
    #[arg(long, global = true, value_name = "DIR")]
    data_dir: Option<String>,
    /// Never download PostgreSQL (RECADO_FETCH_POSTGRES=off)
    #[arg(long, global = true)]
    no_fetch: bool,
    /// The hub to connect to (RECADO_URL)
    #[arg(long, global = true, value_name = "URL")]
    url: Option<String>,
    /// The log filter (RECADO_LOG)
    #[arg(long, global = true, value_name = "FILTER")]
    log: Option<String>,
}

#[derive(Debug, Subcommand)]
enum CliCommand {
    /// Run a hub
    Serve(serve::ServeCommand),
    /// Migrate the database to this program's schema, and exit
    Migrate(migrate::Migrate),
    /// Print a token for a user, made from the hub's own secret
    Token(token::TokenCommand),
    /// Print a link that opens the hub's console in a browser, signed in
    Admin(admin::AdminCommand),
    /// Create, limit, list and revoke service keys
    Key(key::KeyCommand),
    /// Rotate the secrets that the hub keeps in its data folder
    Secret(secret::SecretCommand),
    /// Post a notification, or with - one for each line of stdin
    Notify(notify::NotifyCommand),
    /// Add, remove and list the members of an account
    Member(member::MemberCommand),
    /// Refuse a user's older tokens, and close the user's connections
    Revoke(revoke::RevokeCommand),
    /// List and lift revocations of users
    Revocation(revoke::RevocationCommand),
    /// Close one session, or those of a user or of an account
    Close(revoke::CloseCommand),
    /// Listen as a user, and resume after every break
    Listen(listen::ListenCommand),
    /// Follow the log as a service: print or hand on what a consumer receives, then acknowledge
    Consume(consume::ConsumeCommand),
    /// Create, list, move and delete consumers
    Consumer(consumer::ConsumerCommand),
    /// Create, list, pause, test and delete webhooks: addresses to which the hub posts
    Webhook(webhook::WebhookCommand),
    /// Print a user's notifications, page by page
    History(history::HistoryCommand),
    /// Show every session of every instance
    Stats,
    /// List devices, connected and away, those that lag most first, and why
    Devices(devices::DevicesCommand),
    /// Show a user's inbox: counts, and what they are made of
    Inbox(inbox::InboxCommand),
    /// Show rates, hubs and sessions, live in a terminal
    Top(top::TopCommand),
    /// Tell whether a user has a notification, and why or why not
    Why(why::WhyCommand),
    /// Show the log, apply retention once, or give the log a new id
    Log(log::LogCommand),
    /// Erase a user, or one notification; numbers stay
    Erase(erase::EraseCommand),
    /// Create, list and drop logins that read the views in SQL
    Analyst(analyst::AnalystCommand),
    /// List administrative acts, and check that no row was changed
    Audit(audit::AuditCommand),
    /// Grant, limit and list the logins that post in SQL
    Producer(producer::ProducerCommand),
    /// Write the log, or a part of it, to a file or stdout
    Export(export::ExportCommand),
    /// Check a provider file and test it; list, reconnect or release provider sessions
    Upstream(upstream::UpstreamCommand),
    /// Show all settings and their meaning
    Config(config::ConfigCommand),
    /// Check an installation: database, keys, and with --url a hub and the proxies before it
    Doctor(doctor::DoctorCommand),
    /// Ask a hub whether it is ready; for containers
    Healthcheck,
    /// Print completions of commands and flags for a shell
    Completions(completions::CompletionsCommand),
    /// Write a man page for each command into a folder
    Man(completions::ManCommand),
}

/// A command line and its settings, read before the runtime starts: until then there is one thread, which can give up
/// root's rights.
pub struct Prepared {
    cli: RecadoCli,
    /// `None` if the command needs no settings.
    config: Option<Config>,
    /// Set for `recado serve` only.
    ready: Option<serve::Ready>,
}

/// Reads the command line and the settings. A hub that root starts is another user afterwards.
///
/// # Errors
/// The exit code; why stands on stderr.
pub fn prepare() -> Result<Prepared, i32> {
    let cli = RecadoCli::parse();
    read(cli).map_err(|failure| exit_code(PROGRAM, Err(failure)))
}

fn read(cli: RecadoCli) -> Result<Prepared, CliFailure> {
    cli.global.no_password()?;
    if matches!(cli.command, CliCommand::Config(_) | CliCommand::Completions(_) | CliCommand::Man(_)) {
        return Ok(Prepared { cli, config: None, ready: None });
    }
    let mut flags = cli.global.flags();
    if let CliCommand::Serve(serve) = &cli.command {
        serve.flags(&mut flags);
    }
    let loaded = load(&flags);
    let mut config = match &cli.command {
        CliCommand::Doctor(_) => loaded.map_err(|failure| CliFailure { code: doctor::COULD_NOT_RUN, ..failure })?,
        _ => loaded?,
    };
    let ready = if matches!(cli.command, CliCommand::Serve(_)) { Some(serve::prepare(&mut config)?) } else { None };
    Ok(Prepared { cli, config: Some(config), ready })
}

/// Runs the command; returns the exit code.
pub async fn main(prepared: Prepared) -> i32 {
    exit_code(PROGRAM, run(prepared).await)
}

/// Prints why a program failed, and waits for its last log lines. Returns the exit code.
pub fn exit_code(program: &str, outcome: Result<(), CliFailure>) -> i32 {
    let failed = outcome.err();
    if let Some(failure) = &failed {
        telemetry::say(&format!("{program}: {}", output::harmless(&failure.message)));
    }
    telemetry::stop_traces();
    telemetry::flush(LAST_LINES);
    failed.map_or(0, |failure| failure.code)
}

fn load(flags: &Values) -> Result<Config, CliFailure> {
    Config::load(flags).map_err(|error| CliFailure::settings(error.to_string()))
}

async fn run(prepared: Prepared) -> Result<(), CliFailure> {
    let Prepared { cli, config, ready } = prepared;
    let format = cli.global.output;
    match &cli.command {
        CliCommand::Config(show) => return show.run(format),
        CliCommand::Completions(completions) => return completions.run(RecadoCli::command()),
        CliCommand::Man(man) => return man.run(RecadoCli::command()),
        _ => {}
    }
    let config = config.expect("every other command has settings");
    match cli.command {
        CliCommand::Serve(_) => telemetry::start(&config.log, config.log_format).map_err(CliFailure::settings)?,
        _ => cli.global.start_log(&config)?,
    }
    match cli.command {
        CliCommand::Serve(_) => serve::run(config, ready.expect("a hub was made ready")).await,
        CliCommand::Migrate(migrate) => migrate.run(&config, format).await,
        CliCommand::Token(token) => token.run(&config, format),
        CliCommand::Admin(admin) => admin.run(&config, format),
        CliCommand::Secret(secret) => secret.run(&config, format),
        CliCommand::Key(key) => key.run(&config, format).await,
        CliCommand::Notify(notify) => notify.run(&config, format).await,
        CliCommand::Member(member) => member.run(&config, format).await,
        CliCommand::Revoke(revoke) => revoke.run(&config, format).await,
        CliCommand::Revocation(revocation) => revocation.run(&config, format).await,
        CliCommand::Close(close) => close.run(&config, format).await,
        CliCommand::Listen(listen) => listen.run(&config, format).await,
        CliCommand::Consume(consume) => consume.run(&config).await,
        CliCommand::Consumer(consumer) => consumer.run(&config, format).await,
        CliCommand::Webhook(webhook) => webhook.run(&config, format).await,
        CliCommand::History(history) => history.run(&config, format).await,
        CliCommand::Log(log) => log.run(&config, format).await,
        CliCommand::Erase(erase) => erase.run(&config, format).await,
        CliCommand::Analyst(analyst) => analyst.run(&config, format).await,
        CliCommand::Audit(audit) => audit.run(&config, format).await,
        CliCommand::Producer(producer) => producer.run(&config, format).await,
        CliCommand::Export(export) => export.run(&config).await,
        CliCommand::Why(why) => why.run(&config, format).await,
        CliCommand::Upstream(upstream) => upstream.run(&config, format).await,
        CliCommand::Stats => stats::run(&config, format).await,
        CliCommand::Devices(devices) => devices.run(&config, format).await,
        CliCommand::Inbox(inbox) => inbox.run(&config, format).await,
        CliCommand::Top(top) => top.run(&config, format).await,
        CliCommand::Doctor(doctor) => doctor.run(&config, format).await,
        CliCommand::Healthcheck => healthcheck::run(&config).await,
        CliCommand::Config(_) | CliCommand::Completions(_) | CliCommand::Man(_) => Ok(()),
    }
}

impl GlobalOptions {
    /// Reads the settings of a program that is not the hub's, and starts its log.
    ///
    /// # Errors
    /// When a setting is invalid, or the command line holds a password.
    pub fn start(&self) -> Result<Config, CliFailure> {
        self.no_password()?;
        let config = load(&self.flags())?;
        self.start_log(&config)?;
        Ok(config)
    }

    /// Only a hub logs by default. The other commands print their own messages unless a log filter is given.
    fn start_log(&self, config: &Config) -> Result<(), CliFailure> {
        let filter = if self.log.is_some() { config.log.as_str() } else { "warn" };
        telemetry::start(filter, config.log_format).map_err(CliFailure::settings)
    }

    /// Refuses a password on the command line: every user of the machine can list the arguments of its processes.
    fn no_password(&self) -> Result<(), CliFailure> {
        let url = self.database_url.as_deref().and_then(|url| url::Url::parse(url).ok());
        let has_password = url.is_some_and(|url| url.password().is_some() || url.query_pairs().any(|(name, _)| name == "password"));
        if has_password {
            return Err(CliFailure::settings(
                "--database-url contains a password, which every user of this machine can read in the list of processes: \
                 set DATABASE_URL or DATABASE_URL_FILE instead",
            ));
        }
        Ok(())
    }

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
