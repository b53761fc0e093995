//! Imitates an instance as the database sees it: a name and a connection.
//!
//! It acts for provider sessions by the store's own calls.

use std::time::Duration;

use recado::domain::{
    Audience, BodyHash, ClientId, CommandId, CommandTag, IdempotencyKey, InstanceId, NewNotification, NotificationId, ProviderName,
    SessionId, Term, UserId, message_source,
};
use recado::store::Database;
use recado::store::append::AppendFailure;
use recado::store::log_watermark::WatermarkEnd;
use recado::store::providers::append::{self, Received, Recorded, RecordedBatch};
use recado::store::providers::commands::{self, Accepted, CommandDraft, MarkedSent, SettleResult, TakenCommand};
use recado::store::providers::leases::{self, Checkpoint, CheckpointChange, Claimed};
use recado::store::providers::{Lease, UpstreamState, sessions};
use sqlx::PgConnection;

use super::TestDb;

/// Longer than any test.
pub const LONG: Duration = Duration::from_secs(3600);

pub fn provider(name: &str) -> ProviderName {
    ProviderName::parse(name).unwrap()
}

pub fn user(name: &str) -> UserId {
    UserId::parse(name).unwrap()
}

/// Makes these users want sessions with provider `p` from now on.
pub async fn want(db: &TestDb, users: &[&str]) {
    let users: Vec<UserId> = users.iter().map(|name| user(name)).collect();
    sessions::want(&mut db.hub().connect("test").await.unwrap(), &[provider("p")], &users, LONG, true).await.unwrap();
}

/// A command of user `who` from device `d`, with a payload.
pub fn command(who: &str, tag: &str, payload: &str) -> CommandDraft {
    CommandDraft {
        id: CommandId::new(),
        provider: provider("p"),
        user: user(who),
        client: ClientId::parse("d").unwrap(),
        session: SessionId::new(),
        tag: CommandTag::parse(tag).unwrap(),
        kind: "bet".to_owned(),
        payload: Some(payload.to_owned()),
    }
}

pub async fn give(db: &TestDb, command: &CommandDraft, wait: Duration) -> Accepted {
    commands::accept(&mut db.hub().connect("test").await.unwrap(), command, wait).await.unwrap()
}

/// The `counter`-th message that a provider sent under this lease.
pub fn message(lease: &Lease, counter: u64, title: &str) -> Received {
    let notification = NewNotification {
        id: NotificationId::new(),
        kind: "game-data".to_owned(),
        title: title.to_owned(),
        message: String::new(),
        data: Some("\"x\"".to_owned()),
        audience: Audience::User { user: lease.user.clone(), account: None },
        ttl_seconds: None,
        replay: true,
        inbox: true,
        source: message_source(&lease.provider),
        key: Some(IdempotencyKey::of_message(&lease.provider, &lease.user, lease.term, counter)),
        body_hash: BodyHash::of(&[title.as_bytes()]),
    };
    Received { lease: lease.clone(), notification }
}

impl TestDb {
    /// The database as a hub connects to it, under its role.
    pub fn hub(&self) -> Database {
        Database::parse(&self.url(), None).unwrap().under_role(Some("recado_hub".into()))
    }
}

pub struct Owner {
    pub id: InstanceId,
    pub connection: PgConnection,
}

impl Owner {
    pub async fn on(db: &TestDb) -> Self {
        Self { id: InstanceId::new(), connection: db.hub().connect("owner").await.unwrap() }
    }

    pub async fn claim(&mut self, lease: Duration) -> Vec<Claimed> {
        leases::claim(&mut self.connection, self.id, lease, 1000, &[provider("p")]).await.unwrap()
    }

    /// Claims exactly one session.
    pub async fn claim_one(&mut self, lease: Duration) -> Lease {
        let mut claimed = self.claim(lease).await;
        assert_eq!(claimed.len(), 1, "{claimed:?}");
        claimed.pop().unwrap().lease()
    }

    /// Whether the lease was renewed.
    pub async fn renew(&mut self, lease: &Lease, length: Duration) -> bool {
        !leases::renew(&mut self.connection, self.id, length, &[lease.clone().into()]).await.unwrap().is_empty()
    }

    pub async fn checkpoint(&mut self, lease: &Lease, change: CheckpointChange) -> bool {
        match leases::checkpoint(&mut self.connection, self.id, lease, change).await {
            Ok(()) => true,
            Err(Checkpoint::Fenced(_)) => false,
            Err(Checkpoint::Store(error)) => panic!("{error}"),
        }
    }

    /// Reports that the session is live, with this text for the user.
    pub async fn live(&mut self, lease: &Lease, text: &str) {
        let change = CheckpointChange { message: Some(text.to_owned()), ..CheckpointChange::to(UpstreamState::Live) };
        assert!(self.checkpoint(lease, change).await, "it is held");
    }

    pub async fn release(&mut self, lease: &Lease) -> bool {
        !leases::release(&mut self.connection, self.id, std::slice::from_ref(lease)).await.unwrap().is_empty()
    }

    pub async fn take(&mut self, lease: &Lease) -> Vec<TakenCommand> {
        commands::next_commands(&mut self.connection, self.id, std::slice::from_ref(lease), 100).await.unwrap()
    }

    pub async fn settle(&mut self, term: Term, id: CommandId, outcome: MarkedSent) -> SettleResult {
        commands::settle(&mut self.connection, term, id, outcome, None).await.unwrap()
    }

    pub async fn try_append(&mut self, rows: &[Received]) -> Result<RecordedBatch, AppendFailure> {
        let rows: Vec<&Received> = rows.iter().collect();
        append::append(&mut self.connection, WatermarkEnd::default(), self.id, &rows, Duration::from_secs(10)).await
    }

    pub async fn append(&mut self, rows: &[Received]) -> Vec<Recorded> {
        self.try_append(rows).await.unwrap().outcomes
    }
}
