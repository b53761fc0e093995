//! Gives each open connection a slot, and evicts a connection if none is free.
//!
//! A connection is anonymous until one of its requests brings a valid token, ticket or key. Anonymous connections
//! have a budget for each client address: open connections, new connections a second, and requests a second. A
//! connection that authenticates gives back what it took from these budgets, so that a proxy that is not configured
//! (all of its clients then share one address) is not slowed down by clients that sign in.
//!
//! At the cap the hub evicts the anonymous connection that was idle for longest, or else the user's connection that
//! was. Only if there is neither, a new connection gets one of the reserved slots, in which only probes and services
//! are served.

mod slot;

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use slab::Slab;
use tokio::sync::watch;

pub use self::slot::{ConnectionSlot, HERE, SlotPhase, client_address, vouch};
use super::address::{ClientAddress, TrustedProxies};
use super::limited_log::LimitedLog;
use super::rate_limits::TokenBucket;
use crate::metrics;

/// Maximum addresses that are remembered without an open connection.
const ADDRESSES_REMEMBERED: usize = 50_000;
/// Requests that an address may make at once, as a multiple of its requests per second.
const REQUEST_BURST: u32 = 5;
/// Minimum time between two log lines about dropped connections with the same reason.
const LOG_SPACING: Duration = Duration::from_secs(10);

/// The limits of one listener. Zero for an address means no limit.
#[derive(Debug, Clone, Copy)]
pub struct AddressBudgets {
    /// Open connections, without the reserved ones.
    pub open: usize,
    /// Slots in which only probes and services are served.
    pub reserved: usize,
    /// Open anonymous connections of one address.
    pub address_connections: usize,
    /// New anonymous connections of one address per second.
    pub address_handshakes: u32,
    /// Anonymous requests of one address per second.
    pub address_requests: u32,
}

impl AddressBudgets {
    /// Limits without a budget for an address.
    pub const fn unlimited(open: usize) -> Self {
        Self { open, reserved: 0, address_connections: 0, address_handshakes: 0, address_requests: 0 }
    }
}

/// The class of a connection's client, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SlotClass {
    Stranger,
    User,
    Service,
}

/// Why a connection is dropped or closed. The words are the values of the metric's label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DropReason {
    AddressConnections,
    AddressHandshakes,
    Full,
    MadeRoom,
    ProxyHeader,
    Reserved,
}

impl DropReason {
    const fn word(self) -> &'static str {
        match self {
            Self::AddressConnections => "address_connections",
            Self::AddressHandshakes => "address_handshakes",
            Self::Full => "full",
            Self::MadeRoom => "made_room",
            Self::ProxyHeader => "proxy_header",
            Self::Reserved => "reserved",
        }
    }
}

/// The slots of one listener.
#[derive(Debug)]
pub struct ConnectionSlots {
    budgets: AddressBudgets,
    trusted: TrustedProxies,
    inside: Mutex<SlotTable>,
}

#[derive(Debug, Default)]
struct SlotTable {
    entries: Slab<SlotEntry>,
    /// Entries that were not evicted.
    open: usize,
    /// Counts how often a connection became idle. The lowest number belongs to the connection that is idle for
    /// longest.
    turns: u64,
    idle: [BTreeMap<u64, usize>; 3],
    addresses: HashMap<ClientAddress, AddressUse>,
    said: HashMap<&'static str, LimitedLog>,
    /// Evictions to log once the lock is released.
    unsaid: Option<u64>,
}

#[derive(Debug)]
struct SlotEntry {
    /// `None`: the peer is a trusted proxy, which speaks for many clients.
    address: Option<ClientAddress>,
    standing: SlotClass,
    /// The connection's number among the idle ones.
    idle: Option<u64>,
    evicted: bool,
    hang_up: watch::Sender<bool>,
}

#[derive(Debug)]
struct AddressUse {
    strangers: usize,
    idle: BTreeMap<u64, usize>,
    handshakes: TokenBucket,
    requests: TokenBucket,
}

impl ConnectionSlots {
    pub fn new(budgets: AddressBudgets, trusted: TrustedProxies) -> Arc<Self> {
        Arc::new(Self { budgets, trusted, inside: Mutex::default() })
    }

    /// The lock is held for moments, never across an await.
    fn inside(&self) -> MutexGuard<'_, SlotTable> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives an accepted connection a slot. `None`: drop the connection.
    pub fn enter(self: &Arc<Self>, peer: IpAddr) -> Option<Arc<ConnectionSlot>> {
        let address = (!self.trusted.contains(peer)).then(|| ClientAddress::of(peer));
        let mut inside = self.inside();
        let charged = address;
        #[cfg(feature = "mutants")]
        if crate::mutants::is("no-budgets") && inside.open >= self.budgets.open {
            return None;
        }
        #[cfg(feature = "mutants")]
        let charged = charged.filter(|_| !crate::mutants::is("no-budgets"));
        let taken = charged.map_or(Ok(()), |address| inside.take_for(&self.budgets, address));
        let room = taken.and_then(|()| inside.make_room(&self.budgets));
        let reserved = match room {
            Ok(reserved) => reserved,
            Err(why) => {
                let unsaid = inside.count(why);
                drop(inside);
                say(why, unsaid, peer);
                return None;
            }
        };
        let (hang_up, hung_up) = watch::channel(false);
        let key = inside.entries.insert(SlotEntry { address, standing: SlotClass::Stranger, idle: None, evicted: false, hang_up });
        inside.open += 1;
        if let Some(counted) = address.and_then(|address| inside.addresses.get_mut(&address)) {
            counted.strangers += 1;
        }
        // A connection without a request yet is idle.
        inside.idles(key);
        let evictions = inside.unsaid.take();
        drop(inside);
        say(DropReason::MadeRoom, evictions, peer);
        Some(Arc::new(ConnectionSlot {
            places: Arc::clone(self),
            peer: Mutex::new(peer),
            of_proxy: self.trusted.contains(peer),
            key,
            reserved,
            hung_up,
            requests: AtomicU64::new(0),
            phase: AtomicU8::new(SlotPhase::Waiting as u8),
            reader: AtomicWaker::new(),
            vouched: AtomicBool::new(false),
        }))
    }

    /// Counts a dropped connection, and logs it from time to time.
    pub fn dropped(&self, why: DropReason, peer: IpAddr) {
        let unsaid = self.inside().count(why);
        say(why, unsaid, peer);
    }
}

impl SlotTable {
    /// Takes a new anonymous connection from the budget of its address.
    fn take_for(&mut self, budgets: &AddressBudgets, address: ClientAddress) -> Result<(), DropReason> {
        self.forget_addresses();
        let full = budgets.address_connections > 0;
        let counted = self.address(budgets, address);
        if budgets.address_handshakes > 0 && !counted.handshakes.take() {
            return Err(DropReason::AddressHandshakes);
        }
        if full && counted.strangers >= budgets.address_connections {
            let oldest = counted.idle.first_key_value().map(|(_, key)| *key);
            self.evict(oldest.ok_or(DropReason::AddressConnections)?);
        }
        Ok(())
    }

    fn address(&mut self, budgets: &AddressBudgets, address: ClientAddress) -> &mut AddressUse {
        self.addresses.entry(address).or_insert_with(|| {
            // Many clients behind a proxy that is not configured may connect at once; they give back what they took.
            let burst = u32::try_from(budgets.open).unwrap_or(u32::MAX).max(budgets.address_handshakes);
            AddressUse {
                strangers: 0,
                idle: BTreeMap::new(),
                handshakes: TokenBucket::new(burst, f64::from(budgets.address_handshakes)),
                requests: TokenBucket::new(budgets.address_requests.saturating_mul(REQUEST_BURST), f64::from(budgets.address_requests)),
            }
        })
    }

    /// Makes room, and tells whether the free slot is a reserved one.
    fn make_room(&mut self, budgets: &AddressBudgets) -> Result<bool, DropReason> {
        if self.open < budgets.open {
            return Ok(false);
        }
        if let Some(key) = self.oldest_idle(&[SlotClass::Stranger, SlotClass::User]) {
            self.evict(key);
            return Ok(self.open >= budgets.open);
        }
        if self.open < budgets.open + budgets.reserved {
            return Ok(true);
        }
        let key = self.oldest_idle(&[SlotClass::Service]).ok_or(DropReason::Full)?;
        self.evict(key);
        Ok(true)
    }

    fn oldest_idle(&self, standings: &[SlotClass]) -> Option<usize> {
        standings.iter().find_map(|standing| self.idle[*standing as usize].first_key_value().map(|(_, key)| *key))
    }

    /// Frees the connection's slot at once; its task ends a moment later.
    fn evict(&mut self, key: usize) {
        self.busy(key);
        self.uncount(key);
        let entry = &mut self.entries[key];
        entry.evicted = true;
        entry.hang_up.send_replace(true);
        self.open -= 1;
        self.unsaid = self.count(DropReason::MadeRoom).or(self.unsaid);
    }

    /// Removes the connection from the anonymous ones of its address.
    fn uncount(&mut self, key: usize) {
        let SlotEntry { address, standing, .. } = self.entries[key];
        if let (Some(address), SlotClass::Stranger) = (address, standing)
            && let Some(counted) = self.addresses.get_mut(&address)
        {
            counted.strangers = counted.strangers.saturating_sub(1);
        }
    }

    fn idles(&mut self, key: usize) {
        self.busy(key);
        self.turns += 1;
        let entry = &mut self.entries[key];
        if entry.evicted {
            return;
        }
        entry.idle = Some(self.turns);
        self.idle[entry.standing as usize].insert(self.turns, key);
        if let (Some(address), SlotClass::Stranger) = (entry.address, entry.standing)
            && let Some(counted) = self.addresses.get_mut(&address)
        {
            counted.idle.insert(self.turns, key);
        }
    }

    fn busy(&mut self, key: usize) {
        let entry = &mut self.entries[key];
        let Some(turn) = entry.idle.take() else { return };
        self.idle[entry.standing as usize].remove(&turn);
        if let Some(counted) = entry.address.and_then(|address| self.addresses.get_mut(&address)) {
            counted.idle.remove(&turn);
        }
    }

    fn forget_addresses(&mut self) {
        if self.addresses.len() < ADDRESSES_REMEMBERED {
            return;
        }
        self.addresses.retain(|_, counted| counted.strangers > 0 || !counted.handshakes.is_full() || !counted.requests.is_full());
        // All of these addresses are active at this moment. Limiting no address is better than growing without bound.
        if self.addresses.len() >= ADDRESSES_REMEMBERED {
            self.addresses.retain(|_, counted| counted.strangers > 0);
        }
    }

    /// How many connections were dropped since the last log line, if the next one is due.
    fn count(&mut self, why: DropReason) -> Option<u64> {
        metrics::CONNECTIONS_DROPPED.add(why.word(), 1);
        self.said.entry(why.word()).or_default().count(LOG_SPACING)
    }
}

/// Called without the lock: a log line may have to wait.
fn say(why: DropReason, dropped: Option<u64>, peer: IpAddr) {
    if let Some(dropped) = dropped {
        tracing::warn!(reason = why.word(), dropped, last_peer = %peer, "connections were dropped");
    }
}

#[cfg(test)]
mod tests;
