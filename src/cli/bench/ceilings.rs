//! The ceilings: what plain SQL does on the same machine, in the same minute, with the same rows.

use std::time::Duration;

use rand::random;
use sqlx::PgConnection;
use tokio::time::Instant;
use uuid::Uuid;

use super::ground::Ground;
use super::post::{Post, user};
use crate::cli::error::Failure;
use crate::domain::{Audience, IdempotencyKey, InstanceId, NewNotification, NotificationId, Seq};
use crate::store::append::{self, Conflict, Failure as AppendFailure};
use crate::store::seen::SeenEnd;
use crate::store::{read, yardstick};

/// Longest wait for one batch.
const BATCH_LIMIT: Duration = Duration::from_secs(10);

/// What rows a group commit is measured with.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub batch: usize,
    pub size: usize,
    pub users: usize,
    pub keyed: bool,
}

/// One connection that does nothing but the bench's plain SQL, and its scratch tables.
pub struct Yardstick {
    connection: PgConnection,
    inserted: Seq,
    committed: i64,
}

impl Yardstick {
    pub async fn make(ground: &Ground) -> Result<Self, Failure> {
        let mut connection = ground.owned_database().connect("bench").await?;
        yardstick::make(&mut connection).await?;
        Ok(Self { connection, inserted: Seq::ZERO, committed: 0 })
    }

    pub async fn unmake(mut self) -> Result<(), Failure> {
        Ok(yardstick::unmake(&mut self.connection).await?)
    }

    /// Rows a second through `recado.append`, called by nobody else.
    pub async fn appends(&mut self, shape: Shape, time: Duration) -> Result<f64, Failure> {
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
    pub async fn inserts(&mut self, shape: Shape, time: Duration) -> Result<f64, Failure> {
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

    /// How long one small durable commit takes.
    pub async fn bare_commits(&mut self, time: Duration) -> Result<Vec<Duration>, Failure> {
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

    /// How many rows the hub put into one commit, on average, between two places.
    pub async fn batch_size(&mut self, after: Seq, upto: Seq) -> Result<f64, Failure> {
        let found = yardstick::commits(&mut self.connection, after, upto).await?;
        Ok(found.rows as f64 / (found.commits.max(1)) as f64)
    }
}

impl Shape {
    fn rows(self) -> Result<Vec<NewNotification>, Failure> {
        let row =
            |n: usize| Ok(Post { n, size: self.size }.row(Audience::User { user: user(n % self.users.max(1))?, account: None }, None));
        (0..self.batch.max(1)).map(row).collect()
    }

    fn renew(self, rows: &mut [NewNotification]) {
        for row in rows {
            row.id = NotificationId::new();
            if self.keyed {
                // As spread as a hash; ids are in the order of time, and keys that are lie side by side in their index.
                row.key = Some(IdempotencyKey(Uuid::from_u128(random())));
            }
        }
    }
}

/// Appends rows as the hub does, and returns the new end of the log.
pub async fn append_rows(connection: &mut PgConnection, hint: Seq, rows: &[NewNotification]) -> Result<Seq, Failure> {
    let refs: Vec<&NewNotification> = rows.iter().collect();
    match append::append(connection, SeenEnd { seq: hint, id: None }, InstanceId::new(), &refs, Conflict::LeavesOut, BATCH_LIMIT).await {
        Ok(batch) => Ok(batch.head),
        Err(AppendFailure::OtherBodies(_)) => Err(Failure::other("rows without keys cannot have a key of another body")),
        Err(
            AppendFailure::Again(error) | AppendFailure::Refused(error) | AppendFailure::LogWentBack(error) | AppendFailure::Unknown(error),
        ) => Err(error.into()),
    }
}
