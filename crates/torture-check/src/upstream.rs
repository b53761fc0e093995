//! Checks C16: provider, commands and log agree, and one owner acts at a time.
//!
//! The log holds what the provider sent, and the provider saw what the commands' rows say. The rules are in
//! [`super::upstream_history`], which the tests of provider sessions use, too. This file turns the facts into that
//! form.

use std::collections::{HashMap, HashSet};

use super::ViolationList;
use super::index::Index;
use super::upstream_history::{ClaimedTerm, CommandRow, CommandTold, Link, ProviderHeard, ProviderRow, SignedIn, UpstreamHistory};
use crate::fact::RunFact;

/// Most listed violations of one kind: one cause may produce hundreds and hide other kinds.
const LISTED: usize = 4;

pub fn check(index: &Index<'_>, found: &mut ViolationList<'_>) {
    let mut kinds: HashMap<String, usize> = HashMap::new();
    for fault in history(index).faults() {
        let kind = fault.what.split(':').next().unwrap_or_default().to_owned();
        let count = kinds.entry(kind).or_default();
        *count += 1;
        if *count > LISTED {
            continue;
        }
        let at = fault.at.and_then(|at| index.moment(at));
        found.add("C16", at, fault.what);
    }
}

/// Users who come and go with an attack: the greedy user, and the one whose key is removed. In between, no connection
/// wants their provider sessions. Those end, and messages that the provider sends meanwhile are no gap.
const BRIEF_USERS: [&str; 2] = ["greedy", "removed-key"];

/// How often a session moved from one hub process to another.
pub fn take_overs(history: &[super::FactEntry]) -> usize {
    self::history(&Index::of(history)).take_overs()
}

fn history(index: &Index<'_>) -> UpstreamHistory {
    let mut history = UpstreamHistory::default();
    // Number of a socket → its index in the list.
    let mut places: HashMap<usize, usize> = HashMap::new();
    // Erasing a user deletes the rows of its sessions, and the terms restart.
    let erased: HashSet<&str> = index.erasures.iter().filter_map(|erasure| erasure.user).collect();
    for entry in index.history {
        if user_of(&entry.fact).is_some_and(|user| erased.contains(user)) {
            continue;
        }
        let heard = |at: &i64, stamp: &i64, command: Option<&String>| ProviderHeard { at: *at, stamp: *stamp, command: command.cloned() };
        match &entry.fact {
            RunFact::UpSignIn { user, process, at, stamp } => {
                history.sign_ins.push(SignedIn { user: user.clone(), hub: *process, asked: heard(at, stamp, None) });
            }
            RunFact::UpAsk { link, user, process, at, stamp } => {
                places.insert(*link, history.links.len());
                history.links.push(Link {
                    number: *link,
                    user: user.clone(),
                    hub: *process,
                    asked: heard(at, stamp, None),
                    opened: false,
                    closed: None,
                    heard: Vec::new(),
                    numbered: 0,
                });
            }
            RunFact::UpOpen { link } | RunFact::UpFrame { link, .. } | RunFact::UpSaid { link, .. } | RunFact::UpClose { link, .. } => {
                let Some(link) = places.get(link).and_then(|place| history.links.get_mut(*place)) else { continue };
                match &entry.fact {
                    RunFact::UpFrame { at, stamp, command, .. } => link.heard.push(heard(at, stamp, command.as_ref())),
                    RunFact::UpSaid { n, .. } => link.numbered = *n,
                    RunFact::UpClose { at, .. } => link.closed = Some(*at),
                    _ => link.opened = true,
                }
            }
            RunFact::UpTerm { user, term, process, at, old_lease_until, .. } => {
                let (user, old_lease_until) = (user.clone(), *old_lease_until);
                history.terms.push(ClaimedTerm { user, term: *term, hub: *process, at: *at, old_lease_until });
            }
            RunFact::UpCommand { user, command, state, term, settled } => {
                let (user, id, state) = (user.clone(), command.clone(), state.clone());
                history.commands.push(CommandRow { user, id, state, term: *term, settled: *settled });
            }
            RunFact::UpEntry { user, .. } if BRIEF_USERS.contains(&user.as_str()) => {}
            RunFact::UpEntry { seq, user, said } => history.log.push(ProviderRow { seq: *seq, user: user.clone(), said: *said }),
            RunFact::CommandGiven { command, .. } => drop(history.given.insert(command.clone())),
            RunFact::CommandRefused { command } => drop(history.refused.insert(command.clone())),
            RunFact::CommandTold { command, status } => history.told.push(CommandTold { id: command.clone(), status: status.clone() }),
            _ => {}
        }
    }
    history.stalls = index.stalls.iter().filter_map(|(t, ms)| Some((index.wall(*t)?, i64::try_from(*ms).ok()?))).collect();
    history
}

fn user_of(fact: &RunFact) -> Option<&str> {
    match fact {
        RunFact::UpSignIn { user, .. }
        | RunFact::UpAsk { user, .. }
        | RunFact::UpTerm { user, .. }
        | RunFact::UpCommand { user, .. }
        | RunFact::UpEntry { user, .. } => Some(user),
        _ => None,
    }
}
