//! Listens for hints (LISTEN) that the log has grown.
//!
//! A NOTIFY contains nothing that the table lacks; it only arrives sooner, sometimes with the rows themselves
//! ([`super::sealed_rows`]). So nothing depends on it: the tailer reads the table once a second in any case. The
//! connection must not die unnoticed, however. PostgreSQL sends nothing on an idle connection, and the client library
//! does not see that a peer vanished without a FIN. So the connection gets a query every few seconds, and is replaced
//! when the answer is late. After each new LISTEN the tailer reads the table, because this hub missed the NOTIFYs in
//! between.

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgListener;
use tokio::sync::{Notify, mpsc, watch};

use super::access::ACCESS_CHANGED;
use super::outbox_calls::{self, OutboxCalls};
use super::sealed_rows::SealedRows;
use super::time_limit::{CONNECT_LIMIT, limited};
use super::webhooks::WEBHOOKS_CHANGED;
use super::{Database, StoreError, providers};
use crate::backoff::Backoff;
use crate::domain::{CommitOrigin, InstanceId, Seq};
use crate::metrics;
use crate::tasks::Stop;

/// The channel that `recado.append` notifies.
const CHANNEL: &str = "recado";
/// How often the connection is checked with a query.
const ASK_EVERY: Duration = Duration::from_secs(3);
/// Longest wait for the answer. With [`ASK_EVERY`] and the time to reconnect, a dead connection is replaced in less
/// than ten seconds.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);

/// A hint from the listener to the tailer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogHint {
    /// An instance has committed up to this number, and may have sent the rows along.
    Grown { head: Seq, origin: CommitOrigin, rows: Option<SealedRows> },
    /// LISTEN has just begun (again): read the table.
    Listening,
}

/// Receivers of hints about provider sessions; empty where no provider is configured. Each channel is bounded. When one
/// is full, its receiver has much to read, and finds by polling what it missed.
pub type UpstreamHints = Vec<mpsc::Sender<providers::ProviderHint>>;

/// Tells how far other instances have brought the log.
#[derive(Debug)]
pub struct OtherInstances {
    own: InstanceId,
    head: watch::Sender<Seq>,
}

impl OtherInstances {
    /// The receiver gives the last number that another instance than `own` has committed.
    pub fn of(own: InstanceId) -> (Self, watch::Receiver<Seq>) {
        let (head, others) = watch::channel(Seq::ZERO);
        (Self { own, head }, others)
    }

    /// Records that `origin` has committed up to this number. Only the appenders of other instances count: other
    /// writers take no turns.
    pub fn committed(&self, head: Seq, origin: CommitOrigin) {
        if matches!(origin, CommitOrigin::Appender(instance) if instance != self.own) {
            // The last announcement counts, not the highest: a log may be truncated or restored.
            self.head.send_if_modified(|known| std::mem::replace(known, head) != head);
        }
    }
}

/// The receivers of the listener's hints.
#[derive(Debug)]
pub struct ListenerOutputs {
    /// The tailer's channel. Bounded; when it is full, the tailer is behind anyway and will read the table.
    pub hints: mpsc::Sender<LogHint>,
    /// The appender's view of other instances.
    pub others: OtherInstances,
    pub upstream: UpstreamHints,
    /// Woken when access was taken back, and when a NOTIFY of that may have been missed.
    pub access_changed: Arc<Notify>,
    /// What NOTIFY says about the outbox, for the relay.
    pub outbox: Arc<OutboxCalls>,
    /// Woken when webhooks have changed, and when a NOTIFY of that may have been missed.
    pub webhooks_changed: Arc<Notify>,
}

/// Listens until stopped.
pub async fn run(database: Database, readers: ListenerOutputs, mut stop: Stop) {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
    let mut after_another = false;
    while !stop.is_stopped() {
        let ended = tokio::select! {
            ended = listen(&database, &readers, &mut backoff, after_another) => ended,
            () = stop.wait() => return,
        };
        after_another = true;
        readers.outbox.lost();
        metrics::LISTENER_REPLACED.one();
        if let Err(error) = ended {
            tracing::warn!(%error, "LISTEN connection lost; reconnecting, and polling until then");
        }
        tokio::select! {
            () = tokio::time::sleep(backoff.failed()) => {}
            () = stop.wait() => return,
        }
    }
}

/// Runs one connection until it fails.
async fn listen(database: &Database, readers: &ListenerOutputs, backoff: &mut Backoff, after_another: bool) -> Result<(), StoreError> {
    let ListenerOutputs { hints, others, upstream, access_changed, outbox, webhooks_changed } = readers;
    #[cfg(feature = "mutants")]
    if crate::mutants::is("reload-early") {
        let _ = hints.try_send(LogHint::Listening);
    }
    let mut listener = limited(CONNECT_LIMIT, open(database, !upstream.is_empty())).await?;
    backoff.succeeded();
    // Only now: this hub missed the NOTIFYs of commits before LISTEN took effect.
    #[cfg(feature = "mutants")]
    let is_due = !crate::mutants::is("reload-early");
    #[cfg(not(feature = "mutants"))]
    let is_due = true;
    if is_due {
        let _ = hints.try_send(LogHint::Listening);
    }
    send_hint(upstream, &providers::ProviderHint::Everything);
    if after_another {
        access_changed.notify_one();
        webhooks_changed.notify_one();
    }
    loop {
        match tokio::time::timeout(ASK_EVERY, listener.try_recv()).await {
            Ok(Ok(Some(notification))) if notification.channel() == providers::CHANNEL => {
                if let Some(hint) = providers::ProviderHint::parse(notification.payload()) {
                    send_hint(upstream, &hint);
                }
            }
            Ok(Ok(Some(notification))) if notification.channel() == outbox_calls::CHANNEL => outbox.heard(notification.payload()),
            Ok(Ok(Some(notification))) if notification.payload() == ACCESS_CHANGED => access_changed.notify_one(),
            Ok(Ok(Some(notification))) if notification.payload() == WEBHOOKS_CHANGED => webhooks_changed.notify_one(),
            Ok(Ok(Some(notification))) => {
                if let Some(hint) = parse(notification.payload()) {
                    if let LogHint::Grown { head, origin, .. } = &hint {
                        others.committed(*head, *origin);
                    }
                    let _ = hints.try_send(hint);
                }
            }
            // FIN and RST are reported in two forms; both need a new connection.
            Ok(Ok(None)) => return Ok(()),
            Ok(Err(error)) => return Err(error.into()),
            Err(_) => {
                limited(ANSWER_LIMIT, sqlx::query("SELECT 1").execute(&mut listener)).await?;
            }
        }
    }
}

fn send_hint(readers: &UpstreamHints, hint: &providers::ProviderHint) {
    for reader in readers {
        let _ = reader.try_send(hint.clone());
    }
}

/// Opens a pool of one. The listener's own reconnecting is off, because it would not report the loss in time.
async fn open(database: &Database, with_upstream: bool) -> Result<PgListener, sqlx::Error> {
    let pool = database.listening().await?;
    let mut listener = PgListener::connect_with(&pool).await?;
    listener.eager_reconnect(false);
    listener.listen_all([CHANNEL, outbox_calls::CHANNEL]).await?;
    if with_upstream {
        listener.listen(providers::CHANNEL).await?;
    }
    Ok(listener)
}

/// Parses `HEAD ORIGIN`, as `recado.append` writes it, and sealed rows after it. Any other payload is ignored.
fn parse(payload: &str) -> Option<LogHint> {
    let (head, rest) = payload.split_once(' ')?;
    let head = Seq::new(head.parse().ok()?)?;
    let (origin, rows) = rest.split_once(' ').map_or((rest, None), |(origin, rows)| (origin, SealedRows::parse(rows, head)));
    Some(LogHint::Grown { head, origin: CommitOrigin::parse(origin), rows })
}
