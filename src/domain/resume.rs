//! Decides where a returning connection of a device starts when several connections share the device.
//!
//! A returning client does not say which connection it had before. So the hub keeps the position of each connection of
//! a device until another connection has resumed in its place:
//!
//! - A new connection starts at the lowest kept position. A position is never above what its client acknowledged, so
//!   every client of the device misses nothing.
//! - The new connection uses up the *highest* position of the connections that were over when it began. That leaves,
//!   below any number, at least as many positions as there are absent clients that need one, whichever client came
//!   back.
//!
//! Whether a connection was over at a given time is often known only later: a killed hub reports nothing, and a
//! vanished peer is noticed by a missing pong. So no decision is final: each connect replays the beginnings and ends
//! that are known by then. If the highest position belongs to a connection whose end is unknown, no position is used
//! up. A fact that can no longer change is settled and forgotten ([`ResumeDecision::settled`]).
//!
//! A connection that is alone on its device needs no position of its own, because the device's acknowledgements are its
//! own. So a device with one client resumes exactly after its last acknowledgement. Only acknowledgements of earlier
//! connections do not count, even if they are stored after the connection began.
//!
//! A client that never returns leaves its position behind, and every later connection of the device repeats rows from
//! there until the window is over (`RECADO_RESUME_WINDOW`).

use super::{Seq, SessionId};

/// An open connection lowers the start of at most this many later ones. Otherwise a slow but open connection would make
/// every new tab repeat rows; a dead connection is noticed long before so many have connected.
pub const LOWERED_AT_MOST: i16 = 8;

/// A kept position of a device's connection. Times are ages in microseconds: the larger, the longer ago.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptPosition {
    pub session: SessionId,
    pub began: i64,
    /// The last known sign of life.
    pub seen: i64,
    /// Since when the connection was certainly over. `None`: it may still be open.
    pub over: Option<i64>,
    /// Since when it may have been over, because its client's close may have been sent before it was read.
    pub left: Option<i64>,
    /// The end is stored and will not be taken back.
    pub is_final: bool,
    /// The position where its stream began.
    pub from: Seq,
    /// What was acknowledged on this connection. `None`: its hub has not reported yet.
    pub acked: Option<Seq>,
    /// What the device had acknowledged when the connection began. `None`: not known, as of a hub of an earlier
    /// version. Then only its own acknowledgements count.
    pub device: Option<Seq>,
    /// Another client of the device was connected or expected back when it began, as was settled before. So what the
    /// device had acknowledged by then may be that client's.
    pub began_shared: bool,
    /// What the device had acknowledged when the connection was no longer alone, if that was settled before.
    pub shared: Option<Seq>,
    /// The connection has used up a position that is no longer listed.
    pub has_resumed: bool,
    /// How many later connections started at its position while it was open.
    pub lowered: i16,
}

impl KeptPosition {
    /// Adds what the connection's hub knows of its stream.
    pub const fn report(&mut self, from: Seq, acked: Seq) {
        (self.from, self.acked) = (from, Some(acked));
    }
}

/// Changes to be stored about a listed connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettledConnection {
    pub session: SessionId,
    pub is_kept: bool,
    pub has_resumed: bool,
    pub shared: Option<Seq>,
    pub lowered: i16,
    pub began_shared: bool,
    /// The highest position at which it can have begun. Only for a connection whose hub has not reported yet.
    pub from: Option<Seq>,
}

impl SettledConnection {
    /// Adds what another connect has settled about the same connection.
    pub fn merge(&mut self, other: &Self) {
        self.is_kept &= other.is_kept;
        self.has_resumed |= other.has_resumed;
        self.shared = self.shared.or(other.shared);
        self.lowered = self.lowered.max(other.lowered);
        self.began_shared |= other.began_shared;
        self.from = self.from.into_iter().chain(other.from).min();
    }
}

/// Where a new connection starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResumeDecision {
    pub from: Seq,
    /// Another connection of the device is open or may come back.
    pub is_shared: bool,
    pub settled: Vec<SettledConnection>,
}

/// The state of the replay.
struct EventReplay {
    /// How long the position of an ended connection counts, in microseconds.
    window: i64,
    known: Vec<KeptPosition>,
    /// The stored values, to find what is new.
    stored: Vec<SettledConnection>,
    /// Indexes of the connections that no other connection has resumed yet.
    open: Vec<usize>,
    /// The value of `shared` for each connection, once it can no longer change.
    certain: Vec<Option<Seq>>,
    /// Connections whose device moved after they began, by an earlier connection's acknowledgement.
    late: Vec<usize>,
    /// Connections that may have been alone: whether another one was over when they began can still become known.
    undecided: Vec<usize>,
    /// Pairs of a resumed connection and the connection that resumed it.
    resumed: Vec<(usize, usize)>,
}

impl EventReplay {
    /// The position of a connection at the time when the device had acknowledged `device`.
    fn position(&self, at: usize, device: Option<Seq>) -> Seq {
        let kept = &self.known[at];
        self.position_with(at, device, kept.acked.unwrap_or(kept.from).max(kept.from))
    }

    /// The same for a connection that has acknowledged `own` itself.
    fn position_with(&self, at: usize, device: Option<Seq>, own: Seq) -> Seq {
        let kept = &self.known[at];
        // While the connection was alone, the device's acknowledgements came from it; but not those from before it
        // began. A client that acknowledges by POST moves the position of its device alone.
        match (kept.device, kept.shared.or(device)) {
            (Some(before), Some(alone)) if own >= before || alone > before => own.max(alone),
            _ => own,
        }
    }

    /// Removes positions that no longer counted at this age.
    fn expire(&mut self, age: i64) {
        let Self { window, known, open, .. } = self;
        open.retain(|at| !was_expired(&known[*at], age, *window));
    }

    /// Replays the beginning of a connection: uses up a position, and marks connections that are no longer alone.
    fn begin(&mut self, at: usize) {
        let (began, device) = (self.known[at].began, self.known[at].device);
        self.expire(began);
        if self.known[at].acked.is_none() {
            // Its hub has not reported where it began: at the lowest position, as every connection does. How much of
            // the others' acknowledgements came only later is not known, so none of them counts.
            let lowest = self.open.iter().map(|other| self.position_with(*other, device, self.known[*other].from)).min();
            let from = self.known[at].from;
            self.known[at].from = lowest.map_or(from, |lowest| lowest.min(from));
        }
        // An acknowledgement that was stored after this beginning moves the device like one of this connection.
        // What the device acknowledges beyond it is this connection's own.
        let late =
            self.open.iter().filter_map(|other| self.known[*other].acked).filter(|acked| device.is_some_and(|device| *acked > device));
        if let Some(late) = late.max() {
            self.known[at].device = Some(late);
            self.late.push(at);
        }
        // If there is only one, this client is its own or was never here. With several, the other one may be this
        // client's own, so an end that may be later than this beginning does not count.
        let is_only = self.open.len() == 1 && !self.known[at].began_shared;
        let is_over = |kept: &KeptPosition| {
            let over = if is_only { kept.left } else { kept.over };
            kept.seen >= began && over.is_some_and(|over| over >= began)
        };
        if !self.known[at].has_resumed {
            let candidates = self.open.iter().copied().filter(|other| self.known[*other].seen >= began);
            let highest = candidates.max_by_key(|other| (self.position(*other, device), is_over(&self.known[*other])));
            if let Some(highest) = highest.filter(|highest| is_over(&self.known[*highest])) {
                self.open.retain(|other| *other != highest);
                self.resumed.push((highest, at));
            }
        }
        // A client that is the only one of its device acknowledged all that the device has, also if its connection
        // began below: it named an earlier start, or the end of its previous connection was not known. With several
        // clients the hub does not know which of them acknowledged it.
        self.known[at].began_shared |= !self.open.is_empty();
        if !self.known[at].began_shared {
            let from = self.known[at].from;
            self.known[at].device = self.known[at].device.map(|device| device.min(from));
        }
        if self.open.iter().any(|other| !self.known[*other].is_final && self.known[*other].seen >= began) {
            self.undecided.push(at);
        }
        let mut is_alone = true;
        for other in self.open.clone() {
            is_alone &= is_over(&self.known[other]);
            // Whether the other one was over by then or open, it was alone until now at most. This is certain, and must
            // not be lost with the connection that begins here.
            let shared = self.position(other, device);
            self.known[other].shared.get_or_insert(shared);
            self.certain[other].get_or_insert(shared);
            let kept = &self.known[other];
            if kept.seen < began || kept.over.is_some_and(|over| over < began) {
                let from = self.known[at].from;
                self.certain[at].get_or_insert(from);
            }
        }
        if !is_alone {
            let from = self.known[at].from;
            self.known[at].shared.get_or_insert(from);
        }
        self.open.push(at);
    }

    fn settled(self) -> Vec<SettledConnection> {
        let mut settled = self.stored.clone();
        for (resumed, by) in &self.resumed {
            // A resumed connection must stay listed while one that it has resumed itself is listed, which would
            // otherwise count as not resumed.
            let shows_successor = self.resumed.iter().any(|(earlier, by)| by == resumed && settled[*earlier].is_kept);
            // It must also stay listed while it shows that its acknowledgements are not those of an open successor.
            let shows_late = self.late.contains(by) && !self.known[*by].is_final;
            // What an end that is not known yet decides about later connections needs all of them.
            let is_undecided = self.undecided.iter().any(|at| (*resumed..=*by).contains(at));
            let is_certain = self.known[*resumed].is_final && self.known[*by].acked.is_some() && !is_undecided;
            if is_certain && !shows_successor && !shows_late {
                settled[*resumed].is_kept = false;
                settled[*by].has_resumed = true;
            }
        }
        for (at, kept) in self.known.iter().enumerate() {
            if was_expired(kept, 0, self.window) {
                settled[at].is_kept = false;
                // Its successor must not use up another position once this one is not listed.
                for (_, by) in self.resumed.iter().filter(|(resumed, _)| *resumed == at) {
                    settled[*by].has_resumed = true;
                }
            }
        }
        // The fact that a connection is not alone matters once the other one is no longer listed.
        if settled.iter().any(|one| !one.is_kept) {
            for (one, certain) in settled.iter_mut().zip(&self.certain) {
                one.shared = *certain;
            }
            // A connection whose hub has not reported yet began at the lowest position, which may be forgotten now.
            for (one, kept) in settled.iter_mut().zip(&self.known) {
                one.from = kept.acked.is_none().then_some(kept.from);
                one.began_shared = kept.began_shared;
            }
            for at in self.undecided {
                settled[at].began_shared = self.stored[at].began_shared;
            }
        }
        for (one, kept) in settled.iter_mut().zip(&self.known) {
            one.lowered = kept.lowered;
        }
        settled.into_iter().zip(self.stored).filter(|(now, before)| now != before).map(|(now, _)| now).collect()
    }
}

/// Decides where a connection starts that begins now. `device` is what its device has acknowledged, `known` are the
/// kept connections of the device without the new one, and connections that ended before `window` (an age) no longer
/// count.
pub fn decide(new: SessionId, device: Seq, mut known: Vec<KeptPosition>, window: i64) -> ResumeDecision {
    known.sort_by_key(|kept| (std::cmp::Reverse(kept.began), kept.session.0));
    let stored: Vec<SettledConnection> = known.iter().map(as_stored).collect();
    let certain = known.iter().map(|kept| kept.shared).collect();
    let mut replay =
        EventReplay { window, known, stored, open: Vec::new(), certain, late: Vec::new(), undecided: Vec::new(), resumed: Vec::new() };
    for at in 0..replay.known.len() {
        replay.begin(at);
    }
    replay.expire(0);
    let counted = |at: &&usize| replay.known[**at].over.is_some() || replay.known[**at].lowered < LOWERED_AT_MOST;
    let lowest = replay.open.iter().filter(counted).map(|at| replay.position(*at, Some(device))).min();
    let from = lowest.map_or(device, |lowest| lowest.min(device));
    if from < device {
        for at in replay.open.clone() {
            if replay.known[at].over.is_none() && replay.position(at, Some(device)) == from {
                replay.known[at].lowered += 1;
            }
        }
    }
    // The new connection itself, whose beginning is stored before the changes that are settled here.
    let this = KeptPosition {
        session: new,
        began: 0,
        seen: 0,
        over: None,
        left: None,
        is_final: false,
        from,
        acked: Some(from),
        device: Some(device),
        began_shared: false,
        shared: None,
        has_resumed: false,
        lowered: 0,
    };
    replay.stored.push(as_stored(&this));
    replay.known.push(this);
    replay.certain.push(None);
    replay.begin(replay.known.len() - 1);
    // One connection that is left open may be this client's own, whose end is not known yet.
    let is_shared = from < device || replay.open.len() > 2;
    ResumeDecision { from, is_shared, settled: replay.settled() }
}

fn as_stored(kept: &KeptPosition) -> SettledConnection {
    SettledConnection {
        session: kept.session,
        is_kept: true,
        has_resumed: kept.has_resumed,
        shared: kept.shared,
        lowered: kept.lowered,
        began_shared: kept.began_shared,
        from: None,
    }
}

/// Whether the connection had ended more than `window` before this age.
fn was_expired(kept: &KeptPosition, age: i64, window: i64) -> bool {
    kept.is_final && kept.over.is_some_and(|over| over - age > window)
}

#[cfg(test)]
mod tests;
