//! C16: what the provider saw, what the commands' rows say and what the log holds fit together, and one owner acts at a time.
//!
//! The rules stand in [`super::upstream_history`], which the tests of upstream sessions use, too. Here the facts are turned
//! into that form.

use std::collections::HashMap;

use super::Findings;
use super::index::Index;
use super::upstream_history::{CommandRow, Entry, Heard, Link, SignedIn, Term, Told, UpstreamHistory};
use crate::fact::Fact;

/// How many violations of one kind are listed: one cause may have hundreds of a kind, and hide the others.
const LISTED: usize = 4;

pub fn check(index: &Index<'_>, found: &mut Findings<'_>) {
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

/// How often a session went from one hub's process to another.
pub fn take_overs(history: &[super::Entry]) -> usize {
    self::history(&Index::of(history)).take_overs()
}

fn history(index: &Index<'_>) -> UpstreamHistory {
    let mut history = UpstreamHistory::default();
    // Number of a socket → its place in the list.
    let mut places: HashMap<usize, usize> = HashMap::new();
    for entry in index.history {
        let heard = |at: &i64, stamp: &i64, command: Option<&String>| Heard { at: *at, stamp: *stamp, command: command.cloned() };
        match &entry.fact {
            Fact::UpSignIn { user, process, at, stamp } => {
                history.sign_ins.push(SignedIn { user: user.clone(), hub: *process, asked: heard(at, stamp, None) });
            }
            Fact::UpAsk { link, user, process, at, stamp } => {
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
            Fact::UpOpen { link } | Fact::UpFrame { link, .. } | Fact::UpSaid { link, .. } | Fact::UpClose { link, .. } => {
                let Some(link) = places.get(link).and_then(|place| history.links.get_mut(*place)) else { continue };
                match &entry.fact {
                    Fact::UpFrame { at, stamp, command, .. } => link.heard.push(heard(at, stamp, command.as_ref())),
                    Fact::UpSaid { n, .. } => link.numbered = *n,
                    Fact::UpClose { at, .. } => link.closed = Some(*at),
                    _ => link.opened = true,
                }
            }
            Fact::UpTerm { user, term, process, at, old_lease_until, .. } => {
                let (user, old_lease_until) = (user.clone(), *old_lease_until);
                history.terms.push(Term { user, term: *term, hub: *process, at: *at, old_lease_until });
            }
            Fact::UpCommand { user, command, state, term, settled } => {
                let (user, id, state) = (user.clone(), command.clone(), state.clone());
                history.commands.push(CommandRow { user, id, state, term: *term, settled: *settled });
            }
            Fact::UpEntry { seq, user, said } => history.log.push(Entry { seq: *seq, user: user.clone(), said: *said }),
            Fact::CommandGiven { command, .. } => drop(history.given.insert(command.clone())),
            Fact::CommandTold { command, status } => history.told.push(Told { id: command.clone(), status: status.clone() }),
            _ => {}
        }
    }
    history.stalls = index.stalls.iter().filter_map(|(t, ms)| Some((index.wall(*t)?, i64::try_from(*ms).ok()?))).collect();
    history
}
