//! Faults of the appender, put in on purpose; see [`crate::mutants`].

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use chrono::Utc;

use super::{Committed, Receipt};
use crate::domain::{IdempotencyKey, LogId, NewNotification, NotificationId, Seq};
use crate::mutants::is;

/// What `keys-in-memory` knows: gone with the process, and unknown to the others.
static KNOWN: Mutex<Option<HashMap<IdempotencyKey, Receipt>>> = Mutex::new(None);

/// What a fault has to know of a request, whose rows are about to go.
pub struct Asked {
    keys: Vec<Option<IdempotencyKey>>,
    ids: Vec<NotificationId>,
}

/// `Err`: the answer, without asking.
pub fn before(rows: &mut [NewNotification]) -> Result<Asked, Vec<Receipt>> {
    let asked = Asked { keys: rows.iter().map(|row| row.key).collect(), ids: rows.iter().map(|row| row.id).collect() };
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

impl Asked {
    pub fn answered(self, receipts: &[Receipt]) {
        if is("keys-in-memory") {
            let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
            let keyed = self.keys.iter().zip(receipts).filter_map(|(key, receipt)| Some(((*key)?, *receipt)));
            known.get_or_insert_default().extend(keyed);
        }
    }

    /// `answer-early`: the caller is told a number that nobody has given.
    pub fn made_up(&self) -> Option<Vec<Receipt>> {
        let made_up = |id: &NotificationId| Receipt { seq: Seq::from_db(1), id: *id, created_at: Utc::now(), duplicate: false };
        is("answer-early").then(|| self.ids.iter().map(made_up).collect())
    }
}

/// `deliver-early`: what is about to be appended goes to the tailer first, with the numbers that it will surely get.
pub fn delivered_early(rows: &[&NewNotification], log_id: LogId, mut seq: Seq) -> Option<Committed> {
    let mut next = |row: &&NewNotification| {
        seq = seq.next();
        (*row).clone().appended(seq, Utc::now())
    };
    is("deliver-early").then(|| Committed { log_id, rows: rows.iter().map(&mut next).collect() })
}
