//! Tests the rule against clients, dying hubs and acknowledgements that are stored late.

use proptest::prelude::*;

use super::*;

/// The number of clients that share the device.
const CLIENTS: usize = 4;
/// So many of them use a WebSocket, the others a stream of events.
const WEBSOCKETS: usize = 2;
const WINDOW: i64 = 1_000_000;

#[derive(Debug, Clone, Copy)]
enum WorldMove {
    /// This many notifications are posted, and every open connection receives them.
    Post(i64),
    /// The client connects, if it is not connected.
    Connect(usize),
    /// The client connects and names the position where it begins. Its hub knows what its device had acknowledged, or
    /// not.
    Name(usize, bool),
    /// The client acknowledges everything that it received, or half of it.
    Ack(usize, bool),
    /// The hub of the client's connection stores its acknowledgements as the device's position.
    Store(usize),
    /// The hub of the client's connection stores what it knows of it.
    Flush(usize),
    /// The hub of the client's connection stores nothing for a while, not even that the connection is alive.
    Freeze(usize),
    /// The connection ends, and its hub reports it.
    End(usize),
    /// The connection ends, and its hub does not know yet.
    Vanish(usize),
    /// The end of the client's oldest vanished connection is detected: by its hub, which dates it to the last sign of
    /// life, or only because its hub was killed before it stored its facts. The client may be back already.
    Notice(usize, bool),
    /// Facts that can no longer change are forgotten, as the hub does some time after a connect.
    Settle,
}

fn moves() -> impl Strategy<Value = Vec<WorldMove>> {
    let client = 0..CLIENTS;
    let one = prop_oneof![
        3 => (1i64..4).prop_map(WorldMove::Post),
        6 => client.clone().prop_map(WorldMove::Connect),
        2 => (client.clone(), any::<bool>()).prop_map(|(c, is_known)| WorldMove::Name(c, is_known)),
        3 => (client.clone(), any::<bool>()).prop_map(|(c, all)| WorldMove::Ack(c, all)),
        2 => client.clone().prop_map(WorldMove::Store),
        2 => client.clone().prop_map(WorldMove::Flush),
        1 => client.clone().prop_map(WorldMove::Freeze),
        3 => client.clone().prop_map(WorldMove::End),
        2 => client.clone().prop_map(WorldMove::Vanish),
        2 => (client, any::<bool>()).prop_map(|(c, exact)| WorldMove::Notice(c, exact)),
        2 => Just(WorldMove::Settle),
    ];
    proptest::collection::vec(one, 0..120)
}

/// A stored row. Times are absolute here, and become ages when the rule is called.
#[derive(Debug, Clone)]
struct StoredRow {
    kept: KeptPosition,
    began_at: i64,
    seen_at: i64,
    over_at: Option<i64>,
    /// When it may have been over, if earlier.
    left_at: Option<i64>,
    is_kept: bool,
    /// What its hub knows and may not have stored yet.
    unstored: UnstoredFacts,
}

#[derive(Debug, Clone)]
struct UnstoredFacts {
    client: usize,
    /// Where the connection began.
    from: i64,
    /// The highest acknowledgement of the connection.
    acked: Option<i64>,
    /// The highest acknowledgement that is not stored for the device yet.
    pending: i64,
    /// The hub is frozen.
    is_frozen: bool,
}

#[derive(Debug, Default, Clone)]
struct ModelClient {
    /// Its connection, open or over; `None` before the first.
    row: Option<usize>,
    is_connected: bool,
    /// The highest number that it acknowledged, on this connection or an earlier one.
    acked: i64,
}

struct ResumeWorld {
    window: i64,
    /// How much earlier than it was read a client's close may have been sent.
    farewell: i64,
    now: i64,
    head: i64,
    device: i64,
    rows: Vec<StoredRow>,
    clients: Vec<ModelClient>,
    settled: Vec<SettledConnection>,
    /// Count of numbers that a client received again after acknowledging them.
    repeated: i64,
}

impl ResumeWorld {
    fn new(window: i64, farewell: i64) -> Self {
        Self {
            window,
            farewell,
            now: 0,
            head: 0,
            device: 0,
            rows: Vec::new(),
            clients: vec![ModelClient::default(); CLIENTS],
            settled: Vec::new(),
            repeated: 0,
        }
    }

    fn known(&self) -> Vec<KeptPosition> {
        let age = |at: i64| self.now - at;
        let known = self.rows.iter().filter(|row| row.is_kept);
        known
            .map(|row| KeptPosition {
                began: age(row.began_at),
                seen: age(row.seen_at),
                over: row.over_at.map(age),
                left: row.left_at.or(row.over_at).map(age),
                // The end of a process is known before its connections are ended for good.
                is_final: row.over_at.is_some_and(|at| self.now - at > 6),
                ..row.kept.clone()
            })
            .collect()
    }

    /// Connects a client and checks that its start loses nothing.
    fn connect(&mut self, c: usize) -> Result<(), TestCaseError> {
        let is_new = self.clients[c].row.is_none();
        // A connection that gives no sign of life may be over, if its close can have been sent before it was read.
        let is_silent = |other: &ModelClient| {
            self.farewell > 0 && other.row.is_some_and(|at| self.rows[at].unstored.is_frozen || self.rows[at].unstored.client >= WEBSOCKETS)
        };
        let is_away = |(at, other): (usize, &ModelClient)| at != c && other.row.is_some() && (!other.is_connected || is_silent(other));
        let another_is_away = self.clients.iter().enumerate().any(is_away);
        // After the window only the device's position counts.
        let expired = self.clients[c].row.and_then(|row| self.rows[row].over_at).is_some_and(|at| self.now - at > self.window);
        // A new client, or one without a position, cannot be told from a returning one; that it may take another's
        // position is documented.
        if self.clients[c].is_connected || ((is_new || expired) && another_is_away) {
            return Ok(());
        }
        let session = SessionId::new();
        let is_worn = |row: usize| self.rows[row].over_at.is_none() && self.rows[row].kept.lowered >= LOWERED_AT_MOST;
        let worn = self.clients[c].row.is_some_and(is_worn);
        let start = self.decide(session).get();
        if !is_new {
            let acked = self.clients[c].acked;
            // A position that stands for this client may be one of another client. That one ended earlier, and counts
            // no longer.
            let expired = expired || self.rows.iter().any(|row| row.over_at.is_some_and(|at| self.now - at > self.window));
            prop_assert!(worn || expired || start <= acked, "client {c} acknowledged {acked} and starts at {start}");
            self.repeated += (acked - start).max(0);
        }
        // A new client does not miss rows that were posted and acknowledged for its device before it came.
        // What an excused start left out is not asked for again.
        let acked = if is_new { self.device } else { self.clients[c].acked.max(start) };
        self.begin(c, session, start, acked);
        Ok(())
    }

    /// Connects a client that names the last number that it acknowledged.
    fn name(&mut self, c: usize, is_known: bool) {
        if self.clients[c].is_connected || self.clients[c].row.is_none() {
            return;
        }
        let session = SessionId::new();
        self.decide(session);
        let acked = self.clients[c].acked;
        self.begin(c, session, acked, acked);
        let row = self.rows.last_mut().unwrap();
        row.kept.device = row.kept.device.filter(|_| is_known);
    }

    fn decide(&mut self, session: SessionId) -> Seq {
        let decision = decide(session, seq(self.device), self.known(), self.window);
        for settled in &decision.settled {
            if let Some(row) = self.rows.iter_mut().find(|row| row.kept.session == settled.session) {
                row.kept.lowered = settled.lowered;
            }
        }
        self.settled = decision.settled;
        decision.from
    }

    fn begin(&mut self, c: usize, session: SessionId, start: i64, acked: i64) {
        // Not reported by the hub yet: where it really began.
        let kept = KeptPosition {
            session,
            began: 0,
            seen: 0,
            over: None,
            left: None,
            is_final: false,
            from: Seq::from_db(self.device),
            acked: None,
            device: Some(Seq::from_db(self.device)),
            began_shared: false,
            shared: None,
            has_resumed: false,
            lowered: 0,
        };
        let now = self.now;
        let unstored = UnstoredFacts { client: c, from: start, acked: None, pending: 0, is_frozen: false };
        self.rows.push(StoredRow { kept, began_at: now, seen_at: now, over_at: None, left_at: None, is_kept: true, unstored });
        self.now += 1;
        // The hub pings the device's other connections, and those that are open answer. A stream of events cannot.
        for at in self.clients.iter().filter(|other| other.is_connected).filter_map(|other| other.row) {
            if !self.rows[at].unstored.is_frozen && self.rows[at].unstored.client < WEBSOCKETS {
                self.rows[at].seen_at = self.now;
            }
        }
        self.clients[c] = ModelClient { row: Some(self.rows.len() - 1), is_connected: true, acked };
    }

    fn flush(&mut self, at: usize) {
        // A hub stores acknowledgements first.
        self.store(at);
        let row = &mut self.rows[at];
        row.unstored.is_frozen = false;
        let (from, acked) = (row.unstored.from, row.unstored.acked.unwrap_or(0));
        row.kept.report(seq(from), seq(acked.max(from)));
        row.seen_at = self.now;
    }

    fn store(&mut self, at: usize) {
        self.device = self.device.max(std::mem::take(&mut self.rows[at].unstored.pending));
    }

    /// The row of the client's connection, if the connection is open or its end is not known.
    fn unended(&self, c: usize) -> Option<usize> {
        self.clients[c].row.filter(|at| self.rows[*at].over_at.is_none())
    }

    /// The row of the client's oldest connection that is over and not known to be.
    fn vanished(&self, c: usize) -> Option<usize> {
        let open = self.clients[c].row.filter(|_| self.clients[c].is_connected);
        self.rows.iter().enumerate().position(|(at, row)| row.unstored.client == c && row.over_at.is_none() && Some(at) != open)
    }

    fn play(&mut self, step: WorldMove) -> Result<(), TestCaseError> {
        self.now += 1;
        match step {
            WorldMove::Post(count) => self.head += count,
            WorldMove::Connect(c) => self.connect(c)?,
            WorldMove::Name(c, is_known) => self.name(c, is_known),
            WorldMove::Ack(c, all) if self.clients[c].is_connected => {
                let acked = self.clients[c].acked;
                let acked = if all { self.head } else { acked + (self.head - acked) / 2 };
                self.clients[c].acked = acked;
                let unstored = &mut self.rows[self.clients[c].row.unwrap()].unstored;
                // The device's position is stored soon, the positions of its connections later.
                (unstored.acked, unstored.pending) = (Some(acked), acked);
            }
            WorldMove::Store(c) => self.unended(c).into_iter().for_each(|at| self.store(at)),
            WorldMove::Flush(c) if self.clients[c].is_connected => self.unended(c).into_iter().for_each(|at| self.flush(at)),
            WorldMove::End(c) if self.clients[c].is_connected => {
                let at = self.clients[c].row.unwrap();
                let seen = self.rows[at].seen_at;
                self.flush(at);
                self.clients[c].is_connected = false;
                self.rows[at].seen_at = seen;
                self.rows[at].over_at = Some(self.now);
                // A close may have been sent before it was read.
                self.rows[at].left_at = Some(seen.max(self.now - self.farewell));
            }
            WorldMove::Vanish(c) => self.clients[c].is_connected = false,
            WorldMove::Notice(c, by_hub) => {
                if let Some(at) = self.vanished(c) {
                    let seen_at = self.rows[at].seen_at;
                    // A hub that was frozen reads only now what was sent before, and dates it too late.
                    let seen_at = if self.rows[at].unstored.is_frozen { self.now } else { seen_at };
                    if by_hub {
                        self.flush(at);
                        self.rows[at].seen_at = seen_at;
                    }
                    self.rows[at].unstored.pending = 0;
                    // Only a client that answers pings has a last sign of life that dates its end.
                    let is_dated = by_hub && self.rows[at].unstored.client < WEBSOCKETS;
                    self.rows[at].over_at = Some(if is_dated { seen_at } else { self.now });
                }
            }
            WorldMove::Freeze(c) if self.clients[c].is_connected => {
                self.unended(c).into_iter().for_each(|at| self.rows[at].unstored.is_frozen = true);
            }
            WorldMove::Settle => self.settle(),
            _ => {}
        }
        Ok(())
    }

    fn settle(&mut self) {
        let settled = std::mem::take(&mut self.settled);
        // A hub stores that a connection began before it stores what the connection settled.
        let is_early = |one: &SettledConnection| {
            let row = self.rows.iter().find(|row| row.kept.session == one.session);
            one.has_resumed && row.is_some_and(|row| row.kept.acked.is_none())
        };
        if settled.iter().any(is_early) {
            return;
        }
        for settled in settled {
            let Some(row) = self.rows.iter_mut().find(|row| row.kept.session == settled.session) else { continue };
            row.is_kept &= settled.is_kept;
            row.kept.has_resumed |= settled.has_resumed;
            row.kept.shared = row.kept.shared.or(settled.shared);
            row.kept.began_shared |= settled.began_shared;
            if row.kept.acked.is_none() {
                row.kept.from = settled.from.map_or(row.kept.from, |from| from.min(row.kept.from));
            }
        }
    }
}

fn seq(n: i64) -> Seq {
    Seq::from_db(n)
}

fn kept(began: i64, over: Option<i64>, acked: i64) -> KeptPosition {
    KeptPosition {
        session: SessionId::new(),
        began,
        seen: over.unwrap_or(began),
        over,
        left: over,
        is_final: over.is_some(),
        from: seq(acked),
        acked: Some(seq(acked)),
        device: Some(seq(acked)),
        began_shared: false,
        shared: Some(seq(acked)),
        has_resumed: false,
        lowered: 0,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.max(400), ..ProptestConfig::default() })]

    /// For any posts, acknowledgements, cuts and late writes: a returning client receives everything that it did not
    /// acknowledge.
    #[test]
    fn no_client_that_returns_misses_anything(
        moves in moves(), window in prop_oneof![Just(WINDOW), 8i64..60], farewell in prop_oneof![Just(0), Just(4)],
    ) {
        let mut world = ResumeWorld::new(window, farewell);
        for step in moves {
            world.play(step)?;
        }
    }

    /// A client that is alone begins after its stored acknowledgements as soon as the hub knows that each of its
    /// connections was over when the next one began. It does not matter which of that became known too late for an
    /// earlier start.
    #[test]
    fn a_client_that_is_alone_repeats_nothing_once_its_ends_are_known(moves in moves()) {
        let mut world = ResumeWorld::new(WINDOW, 0);
        for step in moves {
            let step = match step {
                WorldMove::Connect(_) => WorldMove::Connect(0),
                WorldMove::Name(_, is_known) => WorldMove::Name(0, is_known),
                WorldMove::Ack(_, all) => WorldMove::Ack(0, all),
                WorldMove::Store(_) => WorldMove::Store(0),
                WorldMove::Flush(_) | WorldMove::Freeze(_) => WorldMove::Flush(0),
                WorldMove::End(_) => WorldMove::End(0),
                WorldMove::Vanish(_) => WorldMove::Vanish(0),
                WorldMove::Notice(..) => WorldMove::Notice(0, true),
                other => other,
            };
            let was = world.clients[0].is_connected;
            let begins = world.rows.iter().skip(1).map(|row| row.began_at).chain([world.now + 1]);
            let are_known = world.rows.iter().zip(begins).all(|(row, next)| row.over_at.is_some_and(|over| over <= next));
            let asks = matches!(step, WorldMove::Connect(_));
            world.play(step)?;
            if asks && !was && world.clients[0].is_connected && are_known {
                prop_assert_eq!(world.rows.last().unwrap().unstored.from, world.device);
            }
        }
    }

    /// A device with one client whose ends are reported repeats no row whose acknowledgement was stored.
    #[test]
    fn a_client_that_is_alone_starts_where_it_acknowledged(moves in moves()) {
        let mut world = ResumeWorld::new(WINDOW, 0);
        for step in moves {
            let step = match step {
                WorldMove::Connect(_) | WorldMove::Name(..) => WorldMove::Connect(0),
                WorldMove::Ack(_, all) => WorldMove::Ack(0, all),
                WorldMove::Store(_) | WorldMove::Flush(_) | WorldMove::Freeze(_) | WorldMove::Notice(..) => WorldMove::Flush(0),
                WorldMove::End(_) | WorldMove::Vanish(_) => WorldMove::End(0),
                other => other,
            };
            let was = world.clients[0].is_connected;
            world.play(step)?;
            if !was && world.clients[0].is_connected {
                prop_assert_eq!(world.rows.last().unwrap().unstored.from, world.device);
            }
        }
    }
}

#[test]
fn of_two_that_were_cut_each_starts_at_its_own_position_or_lower() {
    let (slow, quick) = (kept(100, Some(50), 3), kept(90, Some(50), 9));
    let first = decide(SessionId::new(), seq(9), vec![slow.clone(), quick.clone()], WINDOW);
    assert_eq!((first.from, first.is_shared), (seq(3), true));
    let gone: Vec<_> = first.settled.iter().filter(|one| !one.is_kept).map(|one| one.session).collect();
    assert_eq!(gone, [quick.session], "the highest is used up, the lowest stays for the other");
    // The first one has come back and acknowledged everything; nothing was settled yet.
    let back = kept(40, None, 20);
    let second = decide(SessionId::new(), seq(20), vec![slow, quick, back], WINDOW);
    assert_eq!(second.from, seq(3));
}

#[test]
fn after_the_window_only_the_devices_position_counts() {
    let old = kept(100, Some(50), 3);
    let decision = decide(SessionId::new(), seq(9), vec![old.clone()], 49);
    assert_eq!((decision.from, decision.is_shared), (seq(9), false));
    assert_eq!(decision.settled.iter().map(|one| (one.session, one.is_kept)).collect::<Vec<_>>(), [(old.session, false)]);
}

#[test]
fn an_open_connection_that_never_acknowledges_lowers_only_so_many_starts() {
    let mut sibling = kept(100, None, 3);
    for n in 0..20 {
        sibling.seen = 0;
        let decision = decide(SessionId::new(), seq(9), vec![sibling.clone()], WINDOW);
        assert_eq!(decision.from, seq(if n < LOWERED_AT_MOST { 3 } else { 9 }), "{n}");
        if let Some(settled) = decision.settled.iter().find(|one| one.session == sibling.session) {
            sibling.lowered = settled.lowered;
        }
    }
    // Once it is over it counts like any other.
    (sibling.seen, sibling.over) = (10, Some(10));
    assert_eq!(decide(SessionId::new(), seq(9), vec![sibling], WINDOW).from, seq(3));
}

/// The connection began below its device, because an earlier end was not known in time. It acknowledges by POST, which
/// moves the device's position only.
#[test]
fn what_a_client_that_is_alone_acknowledges_by_post_is_its_own_wherever_it_began() {
    let mut alone = kept(40, Some(10), 3);
    (alone.device, alone.shared) = (Some(seq(7)), None);
    assert_eq!(decide(SessionId::new(), seq(7), vec![alone.clone()], WINDOW).from, seq(7), "the earlier one was its own");
    alone.began_shared = true;
    assert_eq!(decide(SessionId::new(), seq(7), vec![alone.clone()], WINDOW).from, seq(3), "nothing was acknowledged since");
    assert_eq!(decide(SessionId::new(), seq(9), vec![alone], WINDOW).from, seq(9));
}
