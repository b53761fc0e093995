//! Measures the ceilings: plain SQL on the same machine, in the same minute, with the same rows.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use rand::random;
use recado::cli::error::CliFailure;
use recado::domain::{Audience, IdempotencyKey, InstanceId, NewNotification, NotificationId, Seq};
use recado::store::append::{self, AppendFailure, Conflict, NewBatch};
use recado::store::log_watermark::WatermarkEnd;
use recado::store::read;
use sqlx::PgConnection;
use tokio::task::JoinSet;
use tokio::time::Instant;
use uuid::Uuid;

use super::ground::Ground;
use super::joined::joined;
use super::post::{Post, user};
use super::times::SortedTimes;
use super::yardstick;

/// Longest wait for one batch.
const BATCH_LIMIT: Duration = Duration::from_secs(10);

/// Shape of the rows of a group commit.
#[derive(Debug, Clone, Copy)]
pub struct RowShape {
    pub batch: usize,
    pub size: usize,
    pub users: usize,
    pub keyed: bool,
}

/// A database connection reserved for the bench's plain SQL, with its scratch tables.
pub struct Yardstick {
    connection: PgConnection,
    inserted: Seq,
    committed: i64,
}

impl Yardstick {
    pub async fn make(ground: &Ground) -> Result<Self, CliFailure> {
        let mut connection = ground.owned_database().connect("bench").await?;
        yardstick::make(&mut connection).await?;
        Ok(Self { connection, inserted: Seq::ZERO, committed: 0 })
    }

    pub async fn unmake(mut self) -> Result<(), CliFailure> {
        Ok(yardstick::unmake(&mut self.connection).await?)
    }

    /// Rows a second through `recado.append` while no other caller uses it.
    pub async fn appends(&mut self, shape: RowShape, time: Duration) -> Result<f64, CliFailure> {
        let mut rows = shape.rows()?;
        let mut head = read::state(&mut self.connection).await?.head;
        let mut count = 0;
        let start = Instant::now();
        while start.elapsed() < time {
            shape.renew(&mut rows);
            head = append_rows(&mut self.connection, head, &rows).await?;
            count += rows.len();
        }
        Ok(count as f64 / start.elapsed().as_secs_f64())
    }

    /// Rows a second by a bare INSERT of several rows into a table with one primary key.
    pub async fn inserts(&mut self, shape: RowShape, time: Duration) -> Result<f64, CliFailure> {
        let mut rows = shape.rows()?;
        let mut count = 0;
        let start = Instant::now();
        while start.elapsed() < time {
            shape.renew(&mut rows);
            let refs: Vec<&NewNotification> = rows.iter().collect();
            yardstick::insert(&mut self.connection, self.inserted.next(), &refs).await?;
            self.inserted = self.inserted.plus(rows.len() as i64);
            count += rows.len();
        }
        Ok(count as f64 / start.elapsed().as_secs_f64())
    }

    /// Inserts rows one by one over so many database connections, each row a durable commit of its own.
    pub async fn single_inserts(
        &mut self,
        ground: &Ground,
        connections: usize,
        size: usize,
        time: Duration,
    ) -> Result<SingleInserts, CliFailure> {
        let shape = RowShape { batch: 1, size, users: 1000, keyed: false };
        let mut ready = Vec::new();
        for _ in 0..connections {
            ready.push(ground.owned_database().connect("bench").await?);
        }
        let next = Arc::new(AtomicI64::new(self.inserted.next().get()));
        let start = Instant::now();
        let mut inserting = JoinSet::new();
        for mut connection in ready {
            let next = Arc::clone(&next);
            inserting.spawn(async move {
                let (mut rows, mut times) = (shape.rows()?, Vec::new());
                while start.elapsed() < time {
                    shape.renew(&mut rows);
                    let one = Instant::now();
                    let seq = Seq::ZERO.plus(next.fetch_add(1, Ordering::Relaxed));
                    yardstick::insert_one(&mut connection, seq, &rows[0]).await?;
                    times.push(one.elapsed());
                }
                Ok(times)
            });
        }
        let times = joined(inserting).await?.concat();
        let per_s = times.len() as f64 / start.elapsed().as_secs_f64();
        self.inserted = self.inserted.plus(times.len() as i64);
        Ok(SingleInserts { per_s, times: SortedTimes::new(times) })
    }

    /// Times of one small durable commit.
    pub async fn bare_commits(&mut self, time: Duration) -> Result<Vec<Duration>, CliFailure> {
        let mut times = Vec::new();
        let end = Instant::now() + time;
        while Instant::now() < end {
            let start = Instant::now();
            self.committed += 1;
            yardstick::commit_one(&mut self.connection, self.committed).await?;
            times.push(start.elapsed());
        }
        Ok(times)
    }

    /// Average number of rows that the hub put into one commit between two sequence numbers.
    pub async fn batch_size(&mut self, after: Seq, upto: Seq) -> Result<f64, CliFailure> {
        let found = yardstick::commits(&mut self.connection, after, upto).await?;
        Ok(found.rows as f64 / (found.commits.max(1)) as f64)
    }
}

impl RowShape {
    fn rows(self) -> Result<Vec<NewNotification>, CliFailure> {
        let row =
            |n: usize| Ok(Post { n, size: self.size }.row(Audience::User { user: user(n % self.users.max(1))?, account: None }, None));
        (0..self.batch.max(1)).map(row).collect()
    }

    fn renew(self, rows: &mut [NewNotification]) {
        for row in rows {
            row.id = NotificationId::new();
            if self.keyed {
                // Random, as evenly spread as a hash. Ids grow with time; keys that grow with time would be neighbours
                // in their index.
                row.key = Some(IdempotencyKey(Uuid::from_u128(random())));
            }
        }
    }
}

/// What plain INSERTs of one row took.
pub struct SingleInserts {
    pub per_s: f64,
    pub times: SortedTimes,
}

/// Appends rows as the hub does, and returns the new head of the log.
pub async fn append_rows(connection: &mut PgConnection, hint: Seq, rows: &[NewNotification]) -> Result<Seq, CliFailure> {
    let refs: Vec<&NewNotification> = rows.iter().collect();
    let seen = WatermarkEnd { seq: hint, id: None };
    let batch = NewBatch { seen, origin: InstanceId::new(), sealed: None, rows: &refs, traces: &[], conflict: Conflict::LeavesOut };
    match append::append(connection, batch, BATCH_LIMIT).await {
        Ok(batch) => Ok(batch.head),
        Err(AppendFailure::OtherBodies(_)) => Err(CliFailure::other("unexpected idempotency conflict: the rows have no keys")),
        Err(
            AppendFailure::Again(error) | AppendFailure::Refused(error) | AppendFailure::LogWentBack(error) | AppendFailure::Unknown(error),
        ) => Err(error.into()),
    }
}
