//! LISTEN: a hint that the log has grown.
//!
//! A NOTIFY says nothing that the table does not say; it only says it sooner. So nothing depends on one arriving: the
//! tailer looks at the table once a second in any case. What must not happen is that the connection is dead and nobody
//! notices. PostgreSQL sends nothing on an idle connection, and a peer that vanished without a FIN is not seen by the
//! client library at all. So the connection is asked a question every few seconds; no answer in time, and it is
//! replaced. After each new LISTEN the tailer is told to look: what was committed in between was announced to nobody.

use std::time::Duration;

use sqlx::postgres::{PgListener, PgPoolOptions};
use tokio::sync::mpsc;

use super::database::{CONNECT_LIMIT, limited};
use super::turn::Others;
use super::{Database, StoreError, upstream};
use crate::backoff::Backoff;
use crate::domain::Seq;
use crate::metrics;
use crate::tasks::Stop;

/// The channel that `recado.append` notifies.
const CHANNEL: &str = "recado";
/// How often the connection is asked whether it lives.
const ASK_EVERY: Duration = Duration::from_secs(3);
/// Longest wait for its answer. With [`ASK_EVERY`] and the time to reconnect this keeps a dead one below ten seconds.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);

/// What the listener tells the tailer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hint {
    /// An instance has committed up to this number.
    Grown { head: Seq, origin: String },
    /// LISTEN has just begun (again): look at the table.
    Listening,
}

/// To whom hints about upstream sessions go; nobody, where no provider is configured. Each is bounded; full means that the
/// reader has much to look at and will find by polling what it was not told.
pub type UpstreamHints = Vec<mpsc::Sender<upstream::Hint>>;

/// Whom the listener tells of the log.
#[derive(Debug)]
pub struct Readers {
    /// The tailer's. Bounded; when it is full the tailer is behind anyway, and will look.
    pub hints: mpsc::Sender<Hint>,
    /// The appender's.
    pub others: Others,
    pub upstream: UpstreamHints,
}

/// Listens until stopped.
pub async fn run(database: Database, readers: Readers, mut stop: Stop) {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
    while !stop.is_stopped() {
        let ended = tokio::select! {
            ended = listen(&database, &readers, &mut backoff) => ended,
            () = stop.wait() => return,
        };
        metrics::LISTENER_REPLACED.one();
        if let Err(error) = ended {
            tracing::warn!(%error, "the LISTEN connection is replaced; until then notifications come by polling");
        }
        tokio::select! {
            () = tokio::time::sleep(backoff.failed()) => {}
            () = stop.wait() => return,
        }
    }
}

/// One connection, from its start to its death.
async fn listen(database: &Database, readers: &Readers, backoff: &mut Backoff) -> Result<(), StoreError> {
    let Readers { hints, others, upstream } = readers;
    #[cfg(feature = "mutants")]
    if crate::mutants::is("reload-early") {
        let _ = hints.try_send(Hint::Listening);
    }
    let mut listener = limited(CONNECT_LIMIT, open(database, !upstream.is_empty())).await?;
    backoff.succeeded();
    // Only now: what was committed before LISTEN took hold was announced to nobody.
    #[cfg(feature = "mutants")]
    let is_due = !crate::mutants::is("reload-early");
    #[cfg(not(feature = "mutants"))]
    let is_due = true;
    if is_due {
        let _ = hints.try_send(Hint::Listening);
    }
    tell(upstream, &upstream::Hint::Everything);
    loop {
        match tokio::time::timeout(ASK_EVERY, listener.try_recv()).await {
            Ok(Ok(Some(notification))) if notification.channel() == upstream::CHANNEL => {
                if let Some(hint) = upstream::Hint::parse(notification.payload()) {
                    tell(upstream, &hint);
                }
            }
            Ok(Ok(Some(notification))) => {
                if let Some(hint) = parse(notification.payload()) {
                    if let Hint::Grown { head, origin } = &hint {
                        others.committed(*head, origin);
                    }
                    let _ = hints.try_send(hint);
                }
            }
            // FIN and RST come in two forms; both mean a new connection.
            Ok(Ok(None)) => return Ok(()),
            Ok(Err(error)) => return Err(error.into()),
            Err(_) => {
                limited(ANSWER_LIMIT, sqlx::query("SELECT 1").execute(&mut listener)).await?;
            }
        }
    }
}

fn tell(readers: &UpstreamHints, hint: &upstream::Hint) {
    for reader in readers {
        let _ = reader.try_send(hint.clone());
    }
}

/// A pool of one: the listener's own reconnecting is off, because it would not tell us in time.
async fn open(database: &Database, with_upstream: bool) -> Result<PgListener, sqlx::Error> {
    let pool =
        PgPoolOptions::new().max_connections(1).max_lifetime(None).idle_timeout(None).connect_with(database.listen_options()).await?;
    let mut listener = PgListener::connect_with(&pool).await?;
    listener.eager_reconnect(false);
    listener.listen(CHANNEL).await?;
    if with_upstream {
        listener.listen(upstream::CHANNEL).await?;
    }
    Ok(listener)
}

/// `HEAD ORIGIN`, as `recado.append` writes it. Anything else on the channel is not ours, and ignored.
fn parse(payload: &str) -> Option<Hint> {
    let (head, origin) = payload.split_once(' ')?;
    let head = Seq::new(head.parse().ok()?)?;
    Some(Hint::Grown { head, origin: origin.to_owned() })
}
