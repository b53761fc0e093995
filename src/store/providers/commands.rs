//! Stores users' commands, which the owner of the session takes and settles.
//!
//! States only move forward, and each command is sent at most once.

use std::time::Duration;

use sqlx::PgConnection;
use uuid::Uuid;

use super::{Lease, LeaseColumns, name, user};
use crate::domain::{ClientId, CommandId, CommandState, CommandTag, InstanceId, ProviderName, SessionId, Term, UserId};
use crate::metrics::UPSTREAM_COMMANDS;
use crate::store::StoreError;
use crate::store::time_limit::{ASK_LIMIT, limited};

/// How far back a returning device gets the outcomes of its commands.
const RECENT: Duration = Duration::from_secs(60);
/// Most commands of a returning device whose outcomes it gets.
const RECENT_MOST: i64 = 32;

/// A command as a user sends it.
#[derive(Debug, Clone)]
pub struct CommandDraft {
    pub id: CommandId,
    pub provider: ProviderName,
    pub user: UserId,
    pub client: ClientId,
    pub session: SessionId,
    pub tag: CommandTag,
    pub kind: String,
    /// JSON text as the user sent it; `None` without a payload.
    pub payload: Option<String>,
}

/// The result of storing a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Accepted {
    /// Stored: accepted, or rejected at once.
    New(CommandOutcome),
    /// Stored before, with the same tag and the same content.
    Known(CommandOutcome),
    /// The user sent another command with this tag before. Nothing was stored.
    OtherCommand,
}

/// The state of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandOutcome {
    pub id: CommandId,
    pub tag: CommandTag,
    pub state: CommandState,
    /// The reason, in a word.
    pub detail: Option<String>,
}

/// Stores a command. No owner takes it later than `wait` from now.
///
/// # Errors
/// When the database is unavailable or slow. The call can be repeated with the same tag: the command is stored once.
pub async fn accept(connection: &mut PgConnection, command: &CommandDraft, wait: Duration) -> Result<Accepted, StoreError> {
    let accepted = sqlx::query!(
        r#"SELECT is_new AS "is_new!", same AS "same!", command_id AS "command_id!", state AS "state!", detail
             FROM recado.upstream_accept($1, $2, $3, $4, $5, $6, $7, $8, $9)"#,
        command.id.0,
        command.provider.as_str(),
        command.user.as_str(),
        command.client.as_str(),
        command.session.0,
        command.tag.as_str(),
        command.kind,
        command.payload,
        wait.as_secs_f64(),
    )
    .fetch_one(connection);
    let row = limited(ASK_LIMIT, accepted).await?;
    let outcome =
        CommandOutcome { id: CommandId(row.command_id), tag: command.tag.clone(), state: command_state(&row.state)?, detail: row.detail };
    Ok(match (row.is_new, row.same) {
        (true, _) => {
            UPSTREAM_COMMANDS.add("accepted", 1);
            Accepted::New(outcome)
        }
        (false, true) => Accepted::Known(outcome),
        (false, false) => Accepted::OtherCommand,
    })
}

/// A command that its owner may send, once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TakenCommand {
    pub id: CommandId,
    pub lease: Lease,
    pub kind: String,
    /// JSON text; `None` without a payload.
    pub payload: Option<String>,
}

/// Takes the next commands of held sessions, in their order, at most `most`. They are `sending` from now on: their
/// bytes may leave. A command that is taken and never settled becomes `unknown`. When this call fails after its commit,
/// [`taken`] lists the commands.
///
/// # Errors
/// When the database is unavailable or slow.
pub async fn next_commands(
    connection: &mut PgConnection,
    instance: InstanceId,
    leases: &[Lease],
    most: usize,
) -> Result<Vec<TakenCommand>, StoreError> {
    let columns = LeaseColumns::of(leases.iter());
    let taken = sqlx::query!(
        r#"SELECT command_id AS "command_id!", provider AS "provider!", user_id AS "user_id!", term AS "term!", type AS "kind!", payload
             FROM recado.upstream_take($1, $2, $3, $4, $5)"#,
        instance.0,
        &columns.provider as _,
        &columns.user as _,
        &columns.term,
        i32::try_from(most).unwrap_or(i32::MAX),
    )
    .fetch_all(connection);
    let rows = limited(ASK_LIMIT, taken).await?;
    rows.into_iter()
        .map(|row| {
            let lease = Lease { provider: name(&row.provider)?, user: user(&row.user_id)?, term: Term::from_db(row.term) };
            Ok(TakenCommand { id: CommandId(row.command_id), lease, kind: row.kind, payload: row.payload })
        })
        .collect()
}

/// Lists the commands that this instance has taken under terms that it holds, and not settled, each with its lease. It
/// includes commands that the instance does not know of, because a call of [`next_commands`] failed after its commit.
///
/// # Errors
/// When the database is unavailable or slow.
pub async fn taken(connection: &mut PgConnection, instance: InstanceId) -> Result<Vec<(Lease, CommandId)>, StoreError> {
    let taken = sqlx::query!(
        r#"SELECT c.command_id, c.provider, c.user_id, s.term
             FROM recado.upstream_command c
             JOIN recado.upstream_session s ON s.provider = c.provider AND s.user_id = c.user_id AND s.term = c.term
            WHERE c.state = 'sending' AND s.owner = $1"#,
        instance.0,
    )
    .fetch_all(connection);
    let rows = limited(ASK_LIMIT, taken).await?;
    rows.into_iter()
        .map(|row| {
            let lease = Lease { provider: name(&row.provider)?, user: user(&row.user_id)?, term: Term::from_db(row.term) };
            Ok((lease, CommandId(row.command_id)))
        })
        .collect()
}

/// An owner's outcome for a command that it has taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MarkedSent {
    /// The socket accepted its bytes.
    Sent,
    /// Certainly none of its bytes has left.
    Failed,
    /// Some of its bytes may have left.
    Unknown,
}

impl MarkedSent {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Failed => "failed",
            Self::Unknown => "unknown",
        }
    }
}

/// The result of settling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SettleResult {
    Done,
    /// It was settled before: by this owner, or as unknown by another. The earlier outcome stays.
    Before,
}

/// Settles a command under the term that it was taken under. The lease may have expired by then: the bytes have left,
/// and that is a fact, unless another instance has marked the command as unknown.
///
/// # Errors
/// When the database is unavailable or slow. The call can be repeated.
pub async fn settle(
    connection: &mut PgConnection,
    term: Term,
    id: CommandId,
    outcome: MarkedSent,
    detail: Option<&str>,
) -> Result<SettleResult, StoreError> {
    let settled = sqlx::query_scalar!(
        r#"WITH settled AS (
               UPDATE recado.upstream_command
                  SET state = $3, settled_at = clock_timestamp(), detail = $4
                WHERE command_id = $1 AND term = $2 AND state = 'sending'
            RETURNING provider, user_id)
           SELECT count(recado.upstream_hint('command', provider, user_id)) AS "settled!" FROM settled"#,
        id.0,
        term.get(),
        outcome.as_str(),
        detail,
    )
    .fetch_one(connection);
    if limited(ASK_LIMIT, settled).await? == 0 {
        return Ok(SettleResult::Before);
    }
    UPSTREAM_COMMANDS.add(outcome.as_str(), 1);
    Ok(SettleResult::Done)
}

/// The outcomes of those among these commands that are settled.
///
/// # Errors
/// When the database is unavailable or slow.
pub async fn settled_among(connection: &mut PgConnection, ids: &[CommandId]) -> Result<Vec<CommandOutcome>, StoreError> {
    let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
    let rows = sqlx::query!(
        r#"SELECT command_id, id, state, detail
             FROM recado.upstream_command
            WHERE command_id = ANY ($1) AND settled_at IS NOT NULL
            ORDER BY place"#,
        &ids,
    )
    .fetch_all(connection);
    let rows = limited(ASK_LIMIT, rows).await?;
    rows.into_iter().map(|row| outcome(row.command_id, &row.id, &row.state, row.detail)).collect::<Result<_, _>>().map_err(Into::into)
}

/// A device that has connected, and its new connection.
#[derive(Debug, Clone)]
pub struct ArrivedDevice {
    pub user: UserId,
    pub client: ClientId,
    pub session: SessionId,
}

/// Lists the commands that these devices sent in the last minute over other connections than the present ones: the
/// newest few of each, in their order, each with its device's index in the list.
///
/// # Errors
/// When the database is unavailable or slow.
pub async fn recent_of_devices(
    connection: &mut PgConnection,
    devices: &[ArrivedDevice],
) -> Result<Vec<(usize, CommandOutcome)>, StoreError> {
    let users: Vec<&str> = devices.iter().map(|d| d.user.as_str()).collect();
    let clients: Vec<&str> = devices.iter().map(|d| d.client.as_str()).collect();
    let sessions: Vec<Uuid> = devices.iter().map(|d| d.session.0).collect();
    let rows = sqlx::query!(
        r#"SELECT d.device AS "device!", c.command_id, c.id, c.state, c.detail
             FROM unnest($1::text[], $2::text[], $3::uuid[]) WITH ORDINALITY AS d (user_id, client_id, session_id, device)
             CROSS JOIN LATERAL (
                  SELECT r.command_id, r.id, r.state, r.detail, r.place
                    FROM recado.upstream_command r
                   WHERE r.user_id = d.user_id AND r.client_id = d.client_id AND r.session_id <> d.session_id
                     AND r.accepted_at > statement_timestamp() - make_interval(secs => $4)
                   ORDER BY r.accepted_at DESC, r.place DESC
                   LIMIT $5) c
            ORDER BY d.device, c.place"#,
        &users as _,
        &clients as _,
        &sessions,
        RECENT.as_secs_f64(),
        RECENT_MOST,
    )
    .fetch_all(connection);
    let rows = limited(ASK_LIMIT, rows).await?;
    rows.into_iter()
        .map(|row| {
            let device = usize::try_from(row.device - 1).unwrap_or(usize::MAX);
            Ok((device, outcome(row.command_id, &row.id, &row.state, row.detail)?))
        })
        .collect()
}

fn outcome(id: Uuid, tag: &str, state: &str, detail: Option<String>) -> Result<CommandOutcome, sqlx::Error> {
    let tag = CommandTag::parse(tag).map_err(|error| sqlx::Error::Decode(error.into()))?;
    Ok(CommandOutcome { id: CommandId(id), tag, state: command_state(state)?, detail })
}

fn command_state(text: &str) -> Result<CommandState, sqlx::Error> {
    CommandState::parse(text).ok_or_else(|| sqlx::Error::Decode(format!("{text:?} is not a state of a command").into()))
}
