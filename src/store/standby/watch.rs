//! Watches one standby: says when it is in use.

use std::sync::Arc;
use std::time::Duration;

use sqlx::{Connection, PgConnection};

use super::choice::Standbys;
use super::requirement::{NO_STANDBY, OTHER_ROWS};
use super::server::Standby;
use crate::domain::{LogId, NotificationId, Seq};
use crate::store::cleartext::{self, Asked};
use crate::store::log_watermark::{LogWatermark, WatermarkEnd};
use crate::store::read_pool::named;
use crate::store::time_limit::CONNECT_LIMIT;
use crate::store::{StoreError, settings};
use crate::tasks::Stop;

/// Time between two questions. Together with [`ANSWER_LIMIT`] less than a second: a standby that hangs is left within
/// that time.
const ASK_EVERY: Duration = Duration::from_millis(250);
/// Longest wait for an answer.
const ANSWER_LIMIT: Duration = Duration::from_millis(600);
/// So many good answers in a row bring a standby into use: one that starts or stops may answer once.
const GOOD_ANSWERS: u32 = 2;
/// Each time that a standby is left, twice as many good answers bring it back, up to this number: ten seconds. A
/// standby that comes and goes would cost its pages a try, and the log two lines, each time.
const GOOD_ANSWERS_MAX: u32 = 40;
/// So many good answers in a row, a minute, make up for all failures before.
const STEADY_ANSWERS: u32 = 240;

/// Watches standby number `at`, counted from 0, until stopped. `seen` says which rows this hub has seen.
///
/// # Panics
/// Never for a number below the number of standbys.
pub async fn standby_watch(standbys: Arc<Standbys>, at: usize, seen: Arc<LogWatermark>, mut stop: Stop) {
    let mut watch = Watch { standby: standbys.get(at), connection: None, before: seen.end(), good: 0, needed: GOOD_ANSWERS };
    loop {
        tokio::select! {
            biased;
            () = stop.wait() => return,
            () = watch.step(&seen) => {}
        }
        tokio::select! {
            biased;
            () = stop.wait() => return,
            () = tokio::time::sleep(ASK_EVERY) => {}
        }
    }
}

/// Looks at all standbys once, and uses those that are fit: for a program that reads the log and watches no standby.
pub async fn look_at_standbys(standbys: &Standbys, log_id: LogId) {
    let seen = LogWatermark::new(log_id);
    let looks = (0..standbys.count()).map(|at| {
        let mut watch = Watch { standby: standbys.get(at), connection: None, before: seen.end(), good: GOOD_ANSWERS, needed: GOOD_ANSWERS };
        let seen = &seen;
        async move { watch.step(seen).await }
    });
    futures_util::future::join_all(looks).await;
}

struct Watch {
    standby: Arc<Standby>,
    connection: Option<PgConnection>,
    /// The row that the hub had seen at the step before: the standby has had that long to replay it.
    before: (LogId, WatermarkEnd),
    /// Good answers in a row.
    good: u32,
    /// How many of them bring the standby into use.
    needed: u32,
}

/// What a server says about itself.
#[derive(Debug, Clone, Copy)]
struct Look {
    is_standby: bool,
    log_id: LogId,
    head: Seq,
    /// The id of the row at the number that was asked for, if the server has that row.
    id: Option<NotificationId>,
}

impl Watch {
    async fn step(&mut self, seen: &LogWatermark) {
        let now = seen.end();
        if self.before.0 != now.0 {
            self.before = (now.0, WatermarkEnd::default());
        }
        let outcome = match self.look(self.before.1.seq).await {
            Ok(Some(look)) => {
                self.standby.lags_by(now.1.seq.since(look.head));
                judge(&look, self.before)
            }
            Ok(None) => return,
            Err(reason) => Err(reason),
        };
        self.before = now;
        match outcome {
            Ok(()) => {
                self.good = self.good.saturating_add(1);
                if self.good >= self.needed {
                    self.standby.use_again();
                }
                if self.good >= STEADY_ANSWERS {
                    self.needed = GOOD_ANSWERS;
                }
            }
            Err(reason) => {
                if self.standby.is_in_use() {
                    self.needed = (self.needed * 2).min(GOOD_ANSWERS_MAX);
                }
                self.good = 0;
                self.standby.leave(&reason);
            }
        }
    }

    /// `None`: replay cancelled the question, which says nothing about the standby. An error ends the connection.
    async fn look(&mut self, at: Seq) -> Result<Option<Look>, String> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                tokio::time::timeout(CONNECT_LIMIT, self.open()).await.map_err(|_| format!("no connection within {CONNECT_LIMIT:?}"))??
            }
        };
        let looking = tokio::time::timeout(ANSWER_LIMIT, ask(&mut connection, at)).await;
        let look = match looking.map_err(|_| format!("no answer within {ANSWER_LIMIT:?}"))? {
            Ok(look) => Some(look),
            // Serialization failure: on a standby, a conflict with replay.
            Err(error) if error.as_database_error().is_some_and(|error| error.code().as_deref() == Some("40001")) => None,
            Err(error) => return Err(StoreError::from(error).to_string()),
        };
        self.connection = Some(connection);
        Ok(look)
    }

    async fn open(&self) -> Result<PgConnection, String> {
        let address = self.standby.route.renewed().await;
        // The check of the start may not have reached this server. The pool opens connections after this one only.
        match cleartext::asked_at(&address).await {
            Asked::Nothing => {}
            Asked::Cleartext => {
                return Err("the server requests the password in clear text, and sslmode=disable would send it unencrypted".to_owned());
            }
            Asked::Unknown => return Err("the server does not answer".to_owned()),
        }
        let open = async {
            let options = address.hosts.first().ok_or(sqlx::Error::Configuration("no host is named".into()))?;
            let mut connection = PgConnection::connect_with(&named(options, "standby watch")).await?;
            settings::apply(&mut connection, &self.standby.wanted).await?;
            Ok(connection)
        };
        open.await.map_err(|error: sqlx::Error| StoreError::from(error).to_string())
    }
}

/// The column `erasures` is named so that a standby with the schema of an earlier release is told apart here, not by
/// each page.
async fn ask(connection: &mut PgConnection, at: Seq) -> Result<Look, sqlx::Error> {
    let row = sqlx::query!(
        r#"SELECT pg_is_in_recovery() AS "is_standby!", m.log_id,
                  m.erasures >= 0 AS is_of_this_release,
                  greatest(m.floor_seq, coalesce((SELECT seq FROM recado.log ORDER BY seq DESC LIMIT 1), 0)) AS "head!",
                  (SELECT l.id FROM recado.log l WHERE l.seq = $1) AS id
             FROM recado.meta m"#,
        at.get(),
    )
    .fetch_one(connection)
    .await?;
    Ok(Look { is_standby: row.is_standby, log_id: LogId(row.log_id), head: Seq::from_db(row.head), id: row.id.map(NotificationId) })
}

/// Whether the server is a standby that holds what this hub had seen at the step before. The error is the reason why
/// not.
fn judge(look: &Look, (log_id, end): (LogId, WatermarkEnd)) -> Result<(), String> {
    if !look.is_standby {
        return Err(NO_STANDBY.to_owned());
    }
    if look.log_id != log_id {
        return Err("the server has another log id than the primary: it follows another server, or has not replayed the change".to_owned());
    }
    if look.id.is_some() && end.id.is_some() && look.id != end.id {
        return Err(OTHER_ROWS.to_owned());
    }
    // The number, not the time: a hub does not know by how much time a standby lags.
    if look.head < end.seq {
        return Err(format!("it has replayed up to {}, and this hub had seen {} {ASK_EVERY:?} earlier", look.head, end.seq));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_standby_is_used_only_while_it_follows_this_log() {
        let (log_id, id) = (LogId::new(), NotificationId::new());
        let end = WatermarkEnd { seq: Seq::from_db(7), id: Some(id) };
        let look = Look { is_standby: true, log_id, head: Seq::from_db(7), id: Some(id) };
        for (look, is_fit) in [
            (look, true),
            (Look { head: Seq::from_db(9), ..look }, true),
            // Retention has dropped the row.
            (Look { head: Seq::from_db(9), id: None, ..look }, true),
            (Look { head: Seq::from_db(6), id: None, ..look }, false),
            (Look { id: Some(NotificationId::new()), ..look }, false),
            (Look { log_id: LogId::new(), ..look }, false),
            (Look { is_standby: false, ..look }, false),
        ] {
            assert_eq!(judge(&look, (log_id, end)).is_ok(), is_fit, "{look:?}");
        }
        // Nothing was seen yet.
        assert!(judge(&Look { head: Seq::ZERO, id: None, ..look }, (log_id, WatermarkEnd::default())).is_ok());
    }
}
