//! Lends connections of a pool in turns, to calls that must take none from users.

use sqlx::PgConnection;
use tokio::sync::Semaphore;

use super::read_pool::Checkout;
use super::{Reader, StoreError};

/// The error of a call that the database may refuse by a rule of the schema.
pub trait RefusableCall: From<StoreError> {
    /// Whether the database itself failed, so that the connection must not be used again. A refusal leaves it as it
    /// was.
    fn is_of_store(&self) -> bool;
}

/// A pool with connections of its own. Whoever calls all the time, or is refused all the time, takes none from users.
#[derive(Debug)]
pub struct TurnPool {
    reader: Reader,
    /// One for each connection. The calls take turns in the order of their arrival, for as long as it takes: the pool
    /// alone would refuse the last ones after its limit.
    turns: Semaphore,
}

impl TurnPool {
    pub fn new(reader: Reader) -> Self {
        let turns = Semaphore::new(reader.primary().max_connections() as usize);
        Self { reader, turns }
    }

    /// Runs a call with a connection of the pool.
    ///
    /// # Errors
    /// Those of the call, and when the database cannot be reached.
    pub async fn run<T, E: RefusableCall>(&self, call: impl AsyncFnOnce(&mut PgConnection) -> Result<T, E>) -> Result<T, E> {
        // The semaphore is never closed, so there is always a permit some time.
        let _turn = self.turns.acquire().await.ok();
        let mut checkout: Checkout = self.reader.checkout().await?;
        let outcome = call(checkout.connection()).await;
        if !outcome.as_ref().is_err_and(E::is_of_store) {
            checkout.done();
        }
        outcome
    }

    /// Runs a call that borrows a connection of the pool by itself.
    ///
    /// # Errors
    /// Those of the call.
    pub async fn in_turn<T>(&self, call: impl AsyncFnOnce(&Reader) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let _turn = self.turns.acquire().await.ok();
        call(&self.reader).await
    }

    /// Closes the connections. Calls that still run finish first.
    pub async fn close(&self) {
        self.reader.close().await;
    }
}
