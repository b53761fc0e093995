//! Applies memberships of the table `recado.member` to the connections of a user.

use std::collections::BTreeSet;

use super::connection::TableAccounts;
use super::{Registration, RegistryState, forget};
use crate::domain::{AccountId, MemberChange, MemberInterval, MemberOp, Seq};

impl RegistryState {
    /// Sets the accounts of the table as of `dispatched`. The intervals may be older than that, and newer. Their
    /// numbers leave out newer changes. Changes that are missing were dispatched since the connection joined, so they
    /// were collected. Of an account's changes the last one counts: applying an older one again before it does no harm.
    pub(super) fn know(&mut self, registration: &Registration, intervals: &[MemberInterval], dispatched: Seq) {
        let connection = &registration.connection;
        let mut known: BTreeSet<AccountId> =
            intervals.iter().filter(|interval| interval.is_open_after(dispatched)).map(|interval| interval.account.clone()).collect();
        let mut accounts = connection.table_accounts();
        if let TableAccounts::Reading(changes) = &*accounts {
            for change in changes {
                match change.op {
                    MemberOp::Add => known.insert(change.account.clone()),
                    MemberOp::Remove => known.remove(&change.account),
                };
            }
        }
        for account in known.iter().filter(|account| !connection.who.accounts.contains(account)) {
            self.by_account.entry(account.clone()).or_default().push(registration.key);
        }
        *accounts = TableAccounts::Known(known);
    }

    /// Applies a membership change to the user's connections. Returns how many there are.
    pub(super) fn change_members(&mut self, change: &MemberChange) -> usize {
        let keys = self.by_user.get(&change.user).map_or(&[][..], Vec::as_slice);
        for key in keys {
            let connection = &self.connections[*key];
            let mut accounts = connection.table_accounts();
            let has_changed = match &mut *accounts {
                TableAccounts::Ignored => false,
                TableAccounts::Reading(changes) => {
                    changes.push(change.clone());
                    false
                }
                TableAccounts::Known(known) => match change.op {
                    MemberOp::Add => known.insert(change.account.clone()),
                    MemberOp::Remove => known.remove(&change.account),
                },
            };
            if has_changed && !connection.who.accounts.contains(&change.account) {
                match change.op {
                    MemberOp::Add => self.by_account.entry(change.account.clone()).or_default().push(*key),
                    MemberOp::Remove => forget(&mut self.by_account, &change.account, *key),
                }
            }
        }
        keys.len()
    }
}
