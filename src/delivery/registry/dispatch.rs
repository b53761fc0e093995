//! Hands rows to their connections, in turns under the lock.

use std::sync::Arc;

use super::{Connection, Registry, RegistryState};
use crate::delivery::event::SharedNotification;
use crate::domain::Audience;

/// Rows that are being dispatched.
pub(super) struct DispatchRound<'a> {
    pub events: &'a [Arc<SharedNotification>],
    pub at: usize,
    pub place: DispatchProgress,
}

/// Progress of dispatching one row.
#[derive(Default)]
pub(super) struct DispatchProgress {
    /// A slab key, or an index into `keys` or into the list of users.
    pub at: usize,
    /// Connections of the account when the row's first turn began.
    pub keys: Option<Vec<usize>>,
}

impl Registry {
    /// One turn: hands rows to about `most` connections under the lock, and then writes to those whose tasks wait.
    /// Returns whether all rows are dispatched.
    pub(super) fn turn(&self, round: &mut DispatchRound<'_>, most: usize) -> bool {
        let mut waiting = Vec::new();
        let is_done = self.hand_out(round, most, &mut waiting);
        if !waiting.is_empty() {
            self.fan_out.write(waiting);
        }
        is_done
    }

    fn hand_out(&self, round: &mut DispatchRound<'_>, most: usize, waiting: &mut Vec<Arc<Connection>>) -> bool {
        let mut inside = self.inside();
        let mut left = most;
        while let Some(event) = round.events.get(round.at) {
            if left == 0 {
                return false;
            }
            inside.unfinished = Some(event.seq);
            if !inside.deliver(event, &mut round.place, &mut left, waiting) {
                return false;
            }
            inside.unfinished = None;
            inside.position.dispatched = event.seq;
            (round.at, round.place) = (round.at + 1, DispatchProgress::default());
            left = left.saturating_sub(1);
        }
        true
    }
}

impl RegistryState {
    /// Hands a row to its connections, from `progress` on, until `left` is used up. Returns whether all have it. Adds
    /// the connections that the caller must write to, see [`SendQueue::push`](crate::delivery::send_queue::SendQueue).
    fn deliver(
        &mut self,
        event: &Arc<SharedNotification>,
        progress: &mut DispatchProgress,
        left: &mut usize,
        waiting: &mut Vec<Arc<Connection>>,
    ) -> bool {
        #[cfg(feature = "mutants")]
        if event.member_change().is_some() && crate::mutants::is("members-early") {
            return true;
        }
        if let Some(change) = event.member_change() {
            // One user has few connections, so a change takes one turn.
            *left = left.saturating_sub(self.change_members(change));
            return true;
        }
        let for_many = event.audience.is_for_many();
        match &event.audience {
            Audience::Everyone => {
                let end = self.connections.capacity();
                while progress.at < end && *left > 0 {
                    if let Some(connection) = self.connections.get(progress.at) {
                        if connection.takes(&event.kind) && connection.send_queue.push(event, for_many) {
                            waiting.push(Arc::clone(connection));
                        }
                        *left -= 1;
                    }
                    progress.at += 1;
                }
                progress.at >= end
            }
            Audience::Account(account) => {
                let here = self.by_account.get(account);
                if progress.keys.is_none() && here.is_none_or(|keys| keys.len() <= *left) {
                    self.push_to(here.into_iter().flatten(), event, for_many, left, waiting);
                    return true;
                }
                // The list may change between two turns. A connection that joins later gets the row from the table, see
                // `begin`.
                let keys = progress.keys.get_or_insert_with(|| here.cloned().unwrap_or_default());
                let upto = (progress.at + *left).min(keys.len());
                self.push_to(&keys[progress.at..upto], event, for_many, left, waiting);
                progress.at = upto;
                upto == keys.len()
            }
            Audience::User { user, .. } => {
                self.push_to(self.by_user.get(user).into_iter().flatten(), event, for_many, left, waiting);
                true
            }
            // A list contains a user once, so that no connection gets the row twice.
            Audience::Users { users, .. } => {
                while *left > 0
                    && let Some(user) = users.get(progress.at)
                {
                    *left -= 1;
                    self.push_to(self.by_user.get(user).into_iter().flatten(), event, for_many, left, waiting);
                    progress.at += 1;
                }
                progress.at == users.len()
            }
        }
    }

    fn push_to<'a>(
        &self,
        keys: impl IntoIterator<Item = &'a usize>,
        event: &Arc<SharedNotification>,
        for_many: bool,
        left: &mut usize,
        waiting: &mut Vec<Arc<Connection>>,
    ) {
        // A connection in a list from an earlier turn may have left since.
        for connection in keys.into_iter().filter_map(|key| self.connections.get(*key)) {
            *left = left.saturating_sub(1);
            // The index has found the user already; searching a list for each of its users would take quadratic time.
            // If another connection has taken over the slab key since, its send queue rejects this row.
            let is_in_account = event.audience.account().is_none_or(|account| connection.is_in(account));
            if is_in_account && connection.takes(&event.kind) && connection.send_queue.push(event, for_many) {
                waiting.push(Arc::clone(connection));
            }
        }
    }
}
