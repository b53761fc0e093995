//! Stores new connections in groups: one task, one statement and one commit for each group.
//!
//! The entry of a connection is on the disk before its first frame. When many clients connect at once, the entries that
//! arrive while one group commits form the next group. There is no timer, so a client that comes alone does not wait.
//!
//! A group leaves out what needs a lock or a decision of its own ([`resume::begin_many`]). These connections, and
//! those of a group that failed, are stored one by one over the pool of readers ([`Entry::Alone`]).
//!
//! Channel: connects send their entries through a bounded queue. A connect that finds it full stores its entry alone.

use std::collections::{HashSet, VecDeque};

use tokio::sync::{mpsc, oneshot};

use crate::domain::{ClientId, Seq, UserId};
use crate::metrics;
use crate::store::acked_positions::{self, KnownDevice};
use crate::store::dedicated_connection::DedicatedConnection;
use crate::store::resume::{self, ConnectionBegin, StoredBegin};
use crate::store::{Database, StoreError};
use crate::tasks::Stop;

/// Most entries of one group. Larger groups make the first client of a group wait longer and save hardly anything.
const GROUP: usize = 128;
/// Most entries in the queue.
const QUEUE: usize = 1024;

/// What a connect gets for its entry.
#[derive(Debug)]
pub enum Entry {
    /// It is stored. The task also keeps the user of a new device at the limit of devices.
    Stored(StoredBegin),
    /// It is not stored, and must be stored by itself.
    Alone,
}

struct EntryRequest {
    new: ConnectionBegin,
    /// The number above which membership intervals are needed.
    after: Seq,
    reply: oneshot::Sender<Entry>,
}

/// Sends entries to the task. Cheap to clone.
#[derive(Debug, Clone)]
pub struct EntryHandle {
    queue: mpsc::Sender<EntryRequest>,
}

impl EntryHandle {
    /// Stores a connection together with others. `after`: see [`resume::begin_many`].
    pub async fn store(&self, new: &ConnectionBegin, after: Seq) -> Entry {
        let (reply, answer) = oneshot::channel();
        if self.queue.try_send(EntryRequest { new: new.clone(), after, reply }).is_err() {
            return Entry::Alone;
        }
        answer.await.unwrap_or(Entry::Alone)
    }
}

/// The task that owns the connection for entries.
pub struct EntryWriter {
    queue: mpsc::Receiver<EntryRequest>,
    waiting: VecDeque<EntryRequest>,
    dedicated: DedicatedConnection,
    /// How many devices a user may have.
    most_devices: usize,
}

impl EntryWriter {
    pub fn new(database: Database, most_devices: usize) -> (EntryHandle, Self) {
        let (sender, queue) = mpsc::channel(QUEUE);
        let writer = Self { queue, waiting: VecDeque::new(), dedicated: DedicatedConnection::new(database, "entries"), most_devices };
        (EntryHandle { queue: sender }, writer)
    }

    /// Runs until stopped. Entries that wait then are stored by their connects.
    pub async fn run(mut self, mut stop: Stop) {
        loop {
            if self.waiting.is_empty() {
                let first = tokio::select! {
                    first = self.queue.recv() => first,
                    () = stop.wait() => return,
                };
                let Some(first) = first else { return };
                self.waiting.push_back(first);
            }
            let group = self.gather();
            self.store(group).await;
        }
    }

    /// Takes the waiting entries, sorted by device. A second connection of a device waits for the next group: it must
    /// find the first one stored.
    fn gather(&mut self) -> Vec<EntryRequest> {
        let mut devices: HashSet<(UserId, ClientId)> = HashSet::new();
        let (mut group, mut later): (Vec<EntryRequest>, VecDeque<EntryRequest>) = Default::default();
        while group.len() < GROUP && later.len() < QUEUE {
            let Some(request) = self.waiting.pop_front().or_else(|| self.queue.try_recv().ok()) else { break };
            if request.reply.is_closed() {
                continue;
            }
            if devices.insert((request.new.who.user.clone(), request.new.client.clone())) {
                group.push(request);
            } else {
                later.push_back(request);
            }
        }
        later.append(&mut self.waiting);
        self.waiting = later;
        group.sort_by(|a, b| a.new.device().cmp(&b.new.device()));
        group
    }

    async fn store(&mut self, group: Vec<EntryRequest>) {
        let Some(after) = group.iter().map(|request| request.after).min() else { return };
        let stored = match self.try_store(&group, after).await {
            Ok(stored) => stored,
            Err(error) => {
                tracing::debug!(%error, entries = group.len(), "could not store a group of connections; each is stored alone");
                self.dedicated.discard();
                return;
            }
        };
        metrics::CONNECT_ROWS.observe(group.len() as f64);
        let mut newcomers = Vec::new();
        for (request, stored) in group.into_iter().zip(stored) {
            if stored.as_ref().is_some_and(|stored| matches!(stored.known, KnownDevice::New(_))) {
                newcomers.push(request.new.who.user);
            }
            // A client that is gone needs no answer. Its connect notes that its stream never began.
            let _ = request.reply.send(stored.map_or(Entry::Alone, Entry::Stored));
        }
        self.trim(&newcomers).await;
    }

    /// Keeps the users of new devices at their limit of devices.
    async fn trim(&mut self, newcomers: &[UserId]) {
        if newcomers.is_empty() {
            return;
        }
        let trimmed = match self.dedicated.get().await {
            Ok(connection) => acked_positions::trim(connection, newcomers, self.most_devices).await,
            Err(error) => Err(error),
        };
        if let Err(error) = trimmed {
            // The trim for the user's next new device removes it.
            tracing::debug!(%error, users = newcomers.len(), "could not trim the users' oldest devices");
            self.dedicated.discard();
        }
    }

    async fn try_store(&mut self, group: &[EntryRequest], after: Seq) -> Result<Vec<Option<StoredBegin>>, StoreError> {
        let connection = self.dedicated.get().await?;
        let new: Vec<&ConnectionBegin> = group.iter().map(|request| &request.new).collect();
        resume::begin_many(connection, after, &new).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{InstanceId, LogId, Principal, SessionId};
    use crate::store::acked_positions::DevicePosition;

    fn request(user: &str, client: &str) -> (EntryRequest, oneshot::Receiver<Entry>) {
        let new = ConnectionBegin {
            session: SessionId::new(),
            instance: InstanceId::new(),
            who: Principal { user: UserId::parse(user).unwrap(), accounts: Vec::new() },
            client: ClientId::parse(client).unwrap(),
            transport: "test",
            follows_members: false,
            start: DevicePosition { log_id: LogId::new(), acked: Seq::ZERO },
        };
        let (reply, answer) = oneshot::channel();
        (EntryRequest { new, after: Seq::ZERO, reply }, answer)
    }

    fn devices(group: &[EntryRequest]) -> Vec<String> {
        group.iter().map(|request| format!("{}/{}", request.new.who.user, request.new.client)).collect()
    }

    #[tokio::test]
    async fn a_group_is_sorted_and_has_each_device_once() {
        let (handle, mut writer) = EntryWriter::new(Database::parse("postgres://127.0.0.1/recado", None).unwrap(), 100);
        let mut answers = Vec::new();
        for (user, client) in [("bob", "web"), ("ann", "web"), ("bob", "web"), ("bob", "phone"), ("bob", "web"), ("gone", "web")] {
            let (request, answer) = request(user, client);
            handle.queue.try_send(request).unwrap();
            answers.push(answer);
        }
        answers.pop();
        assert_eq!(devices(&writer.gather()), ["ann/web", "bob/phone", "bob/web"]);
        assert_eq!(devices(&writer.gather()), ["bob/web"]);
        assert_eq!(devices(&writer.gather()), ["bob/web"]);
        assert!(writer.gather().is_empty());
    }

    #[tokio::test]
    async fn a_group_has_a_limit_and_loses_nobody() {
        let (handle, mut writer) = EntryWriter::new(Database::parse("postgres://127.0.0.1/recado", None).unwrap(), 100);
        let (requests, _answers): (Vec<_>, Vec<_>) = (0..GROUP * 2 + 1).map(|n| request(&format!("user{n}"), "web")).unzip();
        for request in requests {
            handle.queue.try_send(request).unwrap();
        }
        let sizes: Vec<usize> = (0..4).map(|_| writer.gather().len()).collect();
        assert_eq!(sizes, [GROUP, GROUP, 1, 0]);
    }

    #[tokio::test]
    async fn a_connect_whose_task_has_ended_stores_its_entry_alone() {
        let (handle, writer) = EntryWriter::new(Database::parse("postgres://127.0.0.1/recado", None).unwrap(), 100);
        drop(writer);
        let (EntryRequest { new, .. }, _) = request("ann", "web");
        assert!(matches!(handle.store(&new, Seq::ZERO).await, Entry::Alone));
    }
}
