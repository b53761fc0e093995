//! Runs `recado webhook`: creates, lists, pauses, resumes, rotates, tests, retries and deletes webhooks.
//!
//! It works while a hub is running, with the same settings.

use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;

use super::error::CliFailure;
use super::output::{self, Format};
use crate::app::webhook_rules;
use crate::config::{Config, parse_duration};
use crate::domain::{
    AccountId, CONSUMER_START_RULE, ConsumerFilter, ConsumerStart, Seq, UserId, WebhookAudience, WebhookFilter, WebhookName,
};
use crate::outgoing::Connector;
use crate::sealing::Keyring;
use crate::startup::{self, Startup};
use crate::store::Database;
use crate::store::webhooks::WebhookError;
use crate::store::webhooks::admin::{self, DeadLetter, ListedWebhook, NewWebhook};
use crate::webhooks::message::Message;
use crate::webhooks::secret::{self, WebhookSecret};
use crate::webhooks::{PostOutcome, Poster, target};
use crate::wire::consumer::{CONSUMER_TYPES_RULE, types};

/// Longest time for which a webhook can wait for acknowledgements.
const UNACKED_MAX: Duration = Duration::from_secs(30 * 86_400);
/// Longest time for which a replaced secret can still sign.
const KEEP_MAX: Duration = Duration::from_secs(30 * 86_400);

/// Create, list, pause, test and delete webhooks: addresses to which the hub posts.
#[derive(Debug, Args)]
pub struct WebhookCommand {
    #[command(subcommand)]
    action: WebhookAction,
}

#[derive(Debug, Subcommand)]
enum WebhookAction {
    /// Create a webhook, and print its secret once
    Create {
        #[arg(value_parser = name)]
        name: WebhookName,
        /// Where to post: https://…
        url: String,
        #[command(flatten)]
        definition: WebhookArgs,
    },
    /// List the webhooks: state, lag, posts that wait, dead letters, and the hub that posts
    List,
    /// Show everything about a webhook but its secret
    Show {
        #[arg(value_parser = name)]
        name: WebhookName,
    },
    /// Stop posting until resume; the position stays
    Pause {
        #[arg(value_parser = name)]
        name: WebhookName,
    },
    /// Go on posting, also after 410 or a restored database
    Resume {
        #[arg(value_parser = name)]
        name: WebhookName,
        /// Move the position: earliest, now, or the sequence number after which to go on
        #[arg(long, value_parser = start)]
        start: Option<ConsumerStart>,
    },
    /// Replace the secret, and print the new one once; the old one signs as well for a while
    Rotate {
        #[arg(value_parser = name)]
        name: WebhookName,
        /// For how long posts are signed with the old secret as well; 0s: not at all
        #[arg(long, value_name = "TIME", default_value = "24h", value_parser = keep)]
        keep: Duration,
    },
    /// List the dead letters of a webhook
    Dead {
        #[arg(value_parser = name)]
        name: WebhookName,
    },
    /// Post dead letters again
    Retry {
        #[arg(value_parser = name)]
        name: WebhookName,
        #[command(flatten)]
        which: RetryArgs,
    },
    /// Post a test message from here, and print the answer
    Test {
        #[arg(value_parser = name)]
        name: WebhookName,
    },
    /// Delete a webhook with its position and its posts
    Delete {
        #[arg(value_parser = name)]
        name: WebhookName,
    },
}

/// Which rows a webhook posts, and where it begins.
#[derive(Debug, Args)]
struct WebhookArgs {
    /// A type that it posts; order_* stands for every type that begins with order_. May be given several times
    #[arg(long = "type", value_name = "TYPE", value_delimiter = ',')]
    types: Vec<String>,
    /// Only rows that name this user, alone or in a list
    #[arg(long, value_name = "ID", value_parser = |text: &str| UserId::parse(text))]
    user: Option<UserId>,
    /// Only rows to this account, or to users in this account
    #[arg(long, value_name = "ID", value_parser = |text: &str| AccountId::parse(text))]
    account: Option<AccountId>,
    /// Only rows that name users, rows to a whole account, or rows to everyone
    #[arg(long, value_enum)]
    audience: Option<AudienceArg>,
    /// Only rows that a user whom they name has not acknowledged after this time, such as 5m
    #[arg(long, value_name = "TIME", value_parser = unacked)]
    unacked_after: Option<Duration>,
    /// Where it begins: earliest, now, or the sequence number after which to begin
    #[arg(long, value_parser = start, default_value = "now")]
    start: ConsumerStart,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum AudienceArg {
    Users,
    Account,
    Everyone,
}

impl From<AudienceArg> for WebhookAudience {
    fn from(audience: AudienceArg) -> Self {
        match audience {
            AudienceArg::Users => Self::Users,
            AudienceArg::Account => Self::Account,
            AudienceArg::Everyone => Self::Everyone,
        }
    }
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct RetryArgs {
    /// The dead letter of this row
    #[arg(long, value_parser = |text: &str| text.parse().ok().and_then(Seq::new).ok_or("must be a sequence number"))]
    seq: Option<Seq>,
    /// All dead letters
    #[arg(long)]
    all: bool,
}

fn name(text: &str) -> Result<WebhookName, String> {
    WebhookName::parse(text).map_err(|error| error.to_string())
}

fn start(text: &str) -> Result<ConsumerStart, &'static str> {
    ConsumerStart::parse(text).ok_or(CONSUMER_START_RULE)
}

fn keep(text: &str) -> Result<Duration, &'static str> {
    parse_duration(text).filter(|time| *time <= KEEP_MAX).ok_or("must be a time such as 24h, at most 30d")
}

fn unacked(text: &str) -> Result<Duration, &'static str> {
    let bounds = Duration::from_secs(1)..=UNACKED_MAX;
    parse_duration(text).filter(|time| bounds.contains(time)).ok_or("must be a time such as 5m, from 1s to 30d")
}

impl WebhookArgs {
    fn filter(&self) -> Result<WebhookFilter, CliFailure> {
        let audience = self.audience.map(WebhookAudience::from);
        if self.unacked_after.is_some() && audience.is_some_and(|audience| audience != WebhookAudience::Users) {
            let message =
                "--unacked-after needs --audience users: a row to an account or to everyone names no user who could acknowledge it";
            return Err(CliFailure { message: message.to_owned(), code: 2 });
        }
        let audience = if self.unacked_after.is_some() { Some(WebhookAudience::Users) } else { audience };
        let rule = || CliFailure { message: format!("--type {CONSUMER_TYPES_RULE}"), code: 2 };
        let types = if self.types.is_empty() { None } else { Some(types(&self.types).ok_or_else(rule)?) };
        let rows = ConsumerFilter { types, user: self.user.clone(), account: self.account.clone() };
        Ok(WebhookFilter { rows, audience, unacked_after: self.unacked_after })
    }
}

impl WebhookCommand {
    pub async fn run(&self, config: &Config, format: Format) -> Result<(), CliFailure> {
        Startup::with(config, async |startup| self.act(config, &startup.as_owner(), format).await).await
    }

    async fn act(&self, config: &Config, database: &Database, format: Format) -> Result<(), CliFailure> {
        let connection = &mut database.connect("webhook").await?;
        match &self.action {
            WebhookAction::Create { name, url, definition } => {
                let target = webhook_rules(config).parse(url).map_err(|why| CliFailure { message: why, code: 2 })?;
                let (filter, secret) = (definition.filter()?, made()?);
                let sealed = sealed(config, name, &secret)?;
                let (origin, start) = (target::origin(&target), definition.start);
                admin::create(connection, &NewWebhook { name, url, origin: &origin, filter: &filter, secret: &sealed, start }).await?;
                show_secret(format, name, &secret, "was created")
            }
            WebhookAction::List => list(format, &admin::list(connection, None).await?),
            WebhookAction::Show { name } => {
                let found = admin::list(connection, Some(name)).await?;
                output::one(format, found.first().ok_or(WebhookError::Unknown)?)
            }
            WebhookAction::Pause { name } => {
                admin::pause(connection, name).await?;
                eprintln!("webhook {name} is paused; recado webhook resume {name} goes on where it stopped");
                Ok(())
            }
            WebhookAction::Resume { name, start } => {
                let place = admin::resume(connection, name, *start).await?;
                match format {
                    Format::Table => output::line(&format!("{name} goes on after {place}")),
                    _ => output::one(format, &json!({ "name": name.as_str(), "passed": place })),
                }
            }
            WebhookAction::Rotate { name, keep } => {
                let secret = made()?;
                admin::rotate(connection, name, &sealed(config, name, &secret)?, *keep).await?;
                show_secret(format, name, &secret, "has a new secret")
            }
            WebhookAction::Dead { name } => dead(format, &admin::dead(connection, name).await?),
            WebhookAction::Retry { name, which } => retried(name, which, admin::retry(connection, name, which.seq).await?),
            WebhookAction::Test { name } => {
                let address = admin::address(connection, name).await?;
                test(config, format, name, &address).await
            }
            WebhookAction::Delete { name } => {
                admin::delete(connection, name).await?;
                eprintln!("webhook {name} is deleted");
                Ok(())
            }
        }
    }
}

fn no_random_bytes(_: aws_lc_rs::error::Unspecified) -> CliFailure {
    CliFailure::other("the machine provides no random bytes")
}

fn made() -> Result<WebhookSecret, CliFailure> {
    WebhookSecret::make().map_err(no_random_bytes)
}

fn keys(config: &Config) -> Result<Keyring, CliFailure> {
    Keyring::new(&startup::upstream_keys(config)?).map_err(|_| CliFailure::settings("the crypto library rejected RECADO_UPSTREAM_KEY"))
}

fn sealed(config: &Config, name: &WebhookName, secret: &WebhookSecret) -> Result<Vec<u8>, CliFailure> {
    secret::seal(&keys(config)?, name.as_str(), secret).map_err(no_random_bytes)
}

fn show_secret(format: Format, name: &WebhookName, secret: &WebhookSecret, what: &str) -> Result<(), CliFailure> {
    eprintln!("webhook {name} {what}; its secret is shown only now");
    let shown = secret.shown();
    match format {
        Format::Table => output::line(&shown),
        _ => output::one(format, &json!({ "name": name.as_str(), "secret": shown.as_str() })),
    }
}

fn retried(name: &WebhookName, which: &RetryArgs, posts: i64) -> Result<(), CliFailure> {
    if posts == 0 && which.seq.is_some() {
        return Err(CliFailure::other(format!("webhook {name} has no such dead letter; recado webhook dead {name} lists them")));
    }
    eprintln!("webhook {name}: {posts} dead letters are posted again");
    Ok(())
}

/// Posts a test message. Fails unless it is accepted.
async fn test(config: &Config, format: Format, name: &WebhookName, address: &admin::WebhookAddress) -> Result<(), CliFailure> {
    let keys = keys(config)?;
    let opened = [Some(&address.secret), address.old_secret.as_ref()].into_iter().flatten();
    let opened: Option<Vec<WebhookSecret>> = opened.map(|sealed| Some(secret::open(&keys, name.as_str(), sealed)?.0)).collect();
    let secrets = opened.ok_or_else(|| {
        CliFailure::settings(
            "the secret cannot be opened with this key; use the RECADO_UPSTREAM_KEY of the hubs, or recado webhook rotate NAME",
        )
    })?;
    let connector = Connector::new().map_err(|error| CliFailure::other(error.to_string()))?;
    let begun = tokio::time::Instant::now();
    let outcome = Poster::new(connector, Arc::new(webhook_rules(config))).post(&address.url, &Message::test(name), &secrets, None).await;
    let took = begun.elapsed().as_millis();
    match outcome {
        PostOutcome::Accepted(status) if format == Format::Table => output::line(&format!("accepted with {status} after {took} ms")),
        PostOutcome::Accepted(status) => output::one(format, &json!({ "name": name.as_str(), "status": status, "ms": took })),
        PostOutcome::Gone => Err(CliFailure::other("answered with 410: a hub would disable the webhook")),
        PostOutcome::Failed { error, .. } => Err(CliFailure::other(error)),
    }
}

fn list(format: Format, webhooks: &[ListedWebhook]) -> Result<(), CliFailure> {
    if format != Format::Table {
        return output::rows(format, webhooks);
    }
    let rows = webhooks.iter().map(|webhook| {
        vec![
            webhook.name.clone(),
            // Without the path, which may be a secret.
            webhook.url.split('/').take(3).collect::<Vec<_>>().join("/"),
            conditions(webhook),
            webhook.state.clone(),
            webhook.lag.to_string(),
            webhook.waiting.to_string(),
            webhook.dead.to_string(),
            webhook.owner.clone().unwrap_or_else(|| "-".to_owned()),
        ]
    });
    output::table(&["NAME", "TO", "POSTS", "STATE", "LAG", "WAITING", "DEAD", "OWNER"], rows)
}

fn conditions(webhook: &ListedWebhook) -> String {
    let types = webhook.types.iter().flatten().map(|kind| format!("type:{kind}"));
    let conditions = types
        .chain(webhook.account_id.iter().map(|account| format!("account:{account}")))
        .chain(webhook.user_id.iter().map(|user| format!("user:{user}")))
        .chain(webhook.audience.iter().map(|audience| format!("audience:{audience}")))
        .chain(webhook.unacked_seconds.iter().map(|seconds| format!("unacked:{seconds}s")));
    let conditions: Vec<String> = conditions.collect();
    if conditions.is_empty() { "everything".to_owned() } else { conditions.join(" ") }
}

fn dead(format: Format, letters: &[DeadLetter]) -> Result<(), CliFailure> {
    if format != Format::Table {
        return output::rows(format, letters);
    }
    let now = chrono::Utc::now();
    let rows = letters.iter().map(|letter| {
        vec![
            letter.seq.to_string(),
            letter.r#type.clone().unwrap_or_else(|| "-".to_owned()),
            letter.attempts.to_string(),
            letter.tried_at.map_or_else(|| "-".to_owned(), |at| output::ago(at, now)),
            letter.error.clone().unwrap_or_else(|| "-".to_owned()),
        ]
    });
    output::table(&["SEQ", "TYPE", "ATTEMPTS", "LAST TRY", "ERROR"], rows)
}

impl From<WebhookError> for CliFailure {
    fn from(error: WebhookError) -> Self {
        match error {
            WebhookError::Store(error) => error.into(),
            WebhookError::NotAllowed(_) => Self::refused(error.to_string()),
            _ => Self::other(error.to_string()),
        }
    }
}
