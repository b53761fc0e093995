//! Injects faults into the appender; see [`crate::mutants`].

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use chrono::Utc;

use super::{Committed, Receipt};
use crate::domain::{IdempotencyKey, LogId, NewNotification, NotificationId, Seq};
use crate::mutants::is;

/// Keys that `keys-in-memory` knows. They are lost with the process, and other instances do not know them.
static KNOWN: Mutex<Option<HashMap<IdempotencyKey, Receipt>>> = Mutex::new(None);

/// The parts of a request that a fault needs after its rows were handed over.
pub struct MutantRequest {
    keys: Vec<Option<IdempotencyKey>>,
    ids: Vec<NotificationId>,
}

/// Runs before the append. `Err` holds the answer to a request that is not appended.
pub fn before(rows: &mut [NewNotification]) -> Result<MutantRequest, Vec<Receipt>> {
    let asked = MutantRequest { keys: rows.iter().map(|row| row.key).collect(), ids: rows.iter().map(|row| row.id).collect() };
    if is("keys-in-memory") {
        let known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        let find = |key: &Option<IdempotencyKey>| known.as_ref()?.get(&(*key)?).copied();
        if let Some(receipts) = asked.keys.iter().map(find).collect::<Option<Vec<_>>>() {
            return Err(receipts.into_iter().map(|receipt| Receipt { duplicate: true, ..receipt }).collect());
        }
        rows.iter_mut().for_each(|row| row.key = None);
    }
    Ok(asked)
}

impl MutantRequest {
    pub fn answered(self, receipts: &[Receipt]) {
        if is("keys-in-memory") {
            let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
            let keyed = self.keys.iter().zip(receipts).filter_map(|(key, receipt)| Some(((*key)?, *receipt)));
            known.get_or_insert_default().extend(keyed);
        }
    }

    /// `answer-early`: the caller gets a made-up sequence number before anything is appended.
    pub fn made_up(&self) -> Option<Vec<Receipt>> {
        let made_up = |id: &NotificationId| Receipt { seq: Seq::from_db(1), id: *id, created_at: Utc::now(), duplicate: false };
        is("answer-early").then(|| self.ids.iter().map(made_up).collect())
    }
}

/// `deliver-early`: the tailer gets rows before they are appended, with the numbers that they will probably get.
pub fn delivered_early(rows: &[&NewNotification], log_id: LogId, mut seq: Seq) -> Option<Committed> {
    let mut next = |row: &&NewNotification| {
        seq = seq.next();
        (*row).clone().appended(seq, Utc::now(), None)
    };
    is("deliver-early").then(|| Committed { log_id, rows: rows.iter().map(&mut next).collect() })
}
