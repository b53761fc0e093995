//! Follows one open connection: its client, its requests, and the credential that they bring.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Context;

use axum::http::HeaderMap;
use futures_util::task::AtomicWaker;
use tokio::sync::watch;

use super::{ConnectionSlots, DropReason, SlotClass, SlotEntry, say};
use crate::http::address::ClientAddress;

/// The slot of one open connection. Dropping it frees the slot.
#[derive(Debug)]
pub struct ConnectionSlot {
    pub(super) places: Arc<ConnectionSlots>,
    pub(super) peer: Mutex<IpAddr>,
    pub(super) key: usize,
    pub(super) reserved: bool,
    /// The connection came from a trusted proxy, whatever client that names.
    pub(super) of_proxy: bool,
    pub(super) hung_up: watch::Receiver<bool>,
    /// Number of requests that have begun.
    pub(super) requests: AtomicU64,
    pub(super) phase: AtomicU8,
    /// Wakes the connection's task, which has to check its clock again when the connection becomes idle.
    pub(super) reader: AtomicWaker,
    /// Whether the current request has brought a valid credential.
    pub(super) vouched: AtomicBool,
}

/// The state of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotPhase {
    /// No request has arrived, or the last one was answered.
    Waiting,
    Serving,
    /// The connection is a WebSocket, which has time limits of its own.
    Upgraded,
}

tokio::task_local! {
    /// The connection that this task serves.
    pub static HERE: Arc<ConnectionSlot>;
}

/// Records that the current request has brought a valid token, ticket or key.
pub fn vouch(standing: SlotClass) {
    // Only the connection's own task has a slot. A test that calls a handler has none.
    let _ = HERE.try_with(|slot| slot.vouch(standing));
}

/// The address of the client of the current request. `None` in a task other than the connection's.
pub fn client_address(headers: &HeaderMap) -> Option<IpAddr> {
    HERE.try_with(|slot| slot.places.trusted.client(slot.peer(), headers).to_canonical()).ok()
}

impl ConnectionSlot {
    pub fn peer(&self) -> IpAddr {
        *self.peer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the slot is a reserved one, in which only probes and services are served.
    pub fn is_reserved(&self) -> bool {
        self.reserved
    }

    /// Counts the connection under the address that its proxy names.
    ///
    /// # Errors
    /// When that address has no budget left.
    pub fn comes_from(&self, client: IpAddr) -> Result<(), ()> {
        *self.peer.lock().unwrap_or_else(PoisonError::into_inner) = client;
        if self.places.trusted.contains(client) {
            return Ok(());
        }
        let address = ClientAddress::of(client);
        let mut inside = self.places.inside();
        if let Err(why) = inside.take_for(&self.places.budgets, address) {
            let unsaid = inside.count(why);
            drop(inside);
            say(why, unsaid, client);
            return Err(());
        }
        inside.busy(self.key);
        if inside.entries[self.key].evicted {
            return Err(());
        }
        inside.entries[self.key].address = Some(address);
        if let Some(counted) = inside.addresses.get_mut(&address) {
            counted.strangers += 1;
        }
        inside.idles(self.key);
        Ok(())
    }

    /// Returns when the connection is evicted.
    pub async fn evicted(&self) {
        let _ = self.hung_up.clone().wait_for(|hung_up| *hung_up).await;
    }

    pub fn phase(&self) -> SlotPhase {
        match self.phase.load(Ordering::Relaxed) {
            0 => SlotPhase::Waiting,
            1 => SlotPhase::Serving,
            _ => SlotPhase::Upgraded,
        }
    }

    /// How many requests have arrived.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Records that a request has arrived.
    pub fn begins(&self) {
        self.vouched.store(false, Ordering::Relaxed);
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.phase.store(SlotPhase::Serving as u8, Ordering::Relaxed);
        self.places.inside().busy(self.key);
    }

    /// Records that the response was handed to hyper, which writes it.
    pub fn idles(&self) {
        if self.phase() == SlotPhase::Serving {
            self.phase.store(SlotPhase::Waiting as u8, Ordering::Relaxed);
            self.places.inside().idles(self.key);
            self.reader.wake();
        }
    }

    /// Wakes the task of this context when the connection becomes idle.
    pub fn wake_when_idle(&self, cx: &Context<'_>) {
        self.reader.register(cx.waker());
    }

    /// Records that the connection is now a WebSocket.
    pub fn upgraded(&self) {
        self.phase.store(SlotPhase::Upgraded as u8, Ordering::Relaxed);
    }

    /// Whether a request of this client may be served, before its credential is checked. A request that authenticates
    /// later gives back what it took here.
    pub fn take_request(&self, client: ClientAddress) -> bool {
        let budgets = &self.places.budgets;
        budgets.address_requests == 0 || self.places.inside().address(budgets, client).requests.take()
    }

    /// The client of a request on this connection.
    pub fn client(&self, headers: &HeaderMap) -> ClientAddress {
        ClientAddress::of(self.places.trusted.client(self.peer(), headers))
    }

    pub fn give_back_request(&self, client: ClientAddress) {
        if let Some(counted) = self.places.inside().addresses.get_mut(&client) {
            counted.requests.give_back();
        }
    }

    /// Whether the current request brought a valid token, ticket or key.
    pub fn is_vouched(&self) -> bool {
        self.vouched.load(Ordering::Relaxed)
    }

    /// Whether the peer is a proxy, which names the client in a header of each request.
    pub fn is_proxy(&self) -> bool {
        self.places.trusted.contains(self.peer())
    }

    /// Whether the connection came from a trusted proxy.
    pub fn is_of_proxy(&self) -> bool {
        self.of_proxy
    }

    pub fn refuse_proxy_header(&self) {
        self.places.dropped(DropReason::ProxyHeader, self.peer());
    }

    pub fn refuse_reserved(&self) {
        self.places.dropped(DropReason::Reserved, self.peer());
    }

    pub(super) fn vouch(&self, standing: SlotClass) {
        self.vouched.store(true, Ordering::Relaxed);
        let mut inside = self.places.inside();
        let SlotEntry { address, standing: before, evicted, .. } = inside.entries[self.key];
        if before >= standing || evicted {
            return;
        }
        inside.busy(self.key);
        inside.uncount(self.key);
        inside.entries[self.key].standing = standing;
        if let (Some(address), SlotClass::Stranger) = (address, before)
            && let Some(counted) = inside.addresses.get_mut(&address)
        {
            counted.handshakes.give_back();
        }
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        let mut inside = self.places.inside();
        inside.busy(self.key);
        if !inside.entries[self.key].evicted {
            inside.uncount(self.key);
            inside.open -= 1;
        }
        inside.entries.remove(self.key);
    }
}
