//! Reads what the Node program reports of its devices, one JSON line for each fact.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use recado_torture_check::fact::RunFact;
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::ChildStdout;

use super::Reached;
use crate::book::Recorder;

/// A line of the program.
#[derive(Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
enum Said {
    /// A slot of a device begins to try to connect.
    Try {
        device: String,
    },
    /// A new client has this number.
    Client {
        client: u64,
        device: String,
    },
    Open {
        client: u64,
        from: i64,
    },
    Recv {
        client: u64,
        seq: i64,
        prev: i64,
        id: String,
        hash: String,
        taint: String,
        handled: bool,
    },
    Handled {
        client: u64,
        seq: i64,
    },
    Pass {
        client: u64,
        seq: i64,
    },
    Gap {
        client: u64,
        status: String,
        lost_from: Option<i64>,
        lost_to: Option<i64>,
    },
    Stuck {
        client: u64,
        ms: u64,
    },
    Leads {
        client: u64,
    },
    Link {
        client: u64,
        link: u64,
        hub: usize,
        transport: String,
        since: Option<i64>,
    },
    Unlink {
        link: u64,
    },
    Ack {
        client: u64,
        seq: i64,
    },
    Acked {
        client: u64,
        seq: i64,
    },
    Close {
        client: u64,
        device: String,
        why: String,
    },
    /// A slot gives a command for the first time.
    Command {
        device: String,
        id: String,
    },
    /// An application hands a command to its client.
    Tried {
        id: String,
    },
    /// A client sends a command.
    Frame {
        id: String,
    },
    Told {
        id: String,
        status: String,
    },
    Refused {
        id: String,
    },
    Bad {
        client: u64,
        what: String,
    },
}

/// The reports of all processes of Node, one after the other.
#[derive(Clone)]
pub(super) struct SharedReports {
    inside: Arc<Mutex<Reports>>,
    open: Arc<AtomicUsize>,
}

impl SharedReports {
    pub(super) fn new(book: Arc<Recorder>, reached: Reached) -> Self {
        let (clients, links, untold) = (HashMap::new(), HashMap::new(), BTreeMap::new());
        let inside = Arc::new(Mutex::new(Reports { book, reached, clients, links, untold, is_over: false }));
        Self { inside, open: Arc::default() }
    }

    fn inside(&self) -> MutexGuard<'_, Reports> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the reports of one process, to its end.
    pub(super) async fn read(self, stdout: ChildStdout) {
        let mut lines = BufReader::new(stdout).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            let mut inside = self.inside();
            inside.line(&line);
            self.open.store(inside.untold.len(), Ordering::SeqCst);
        }
    }

    /// Closes all clients and connections: their process was killed. Returns the number of the clients.
    pub(super) fn all_died(&self) -> usize {
        self.inside().all_died()
    }

    /// The ends of clients that follow are those of the program at the end of the run, and are not recorded.
    pub(super) fn end(&self) {
        self.inside().is_over = true;
    }

    /// The commands of a slot whose results no application knows.
    pub(super) fn untold(&self, slot: &str) -> Vec<String> {
        self.inside().untold.iter().filter(|(_, device)| *device == slot).map(|(id, _)| id.clone()).collect()
    }

    /// The number of all such commands.
    pub(super) fn open_commands(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.open)
    }
}

/// Turns lines into facts.
struct Reports {
    book: Arc<Recorder>,
    reached: Reached,
    /// Number in the history and device of each client.
    clients: HashMap<u64, (u64, String)>,
    links: HashMap<u64, u64>,
    /// The commands without a known result, and their slots.
    untold: BTreeMap<String, String>,
    is_over: bool,
}

impl Reports {
    fn line(&mut self, line: &str) {
        if self.is_over {
            return;
        }
        match serde_json::from_str(line) {
            Ok(said) => self.take(said),
            Err(error) => self.book.note(RunFact::Broken { conn: 0, what: format!("the SDK devices say {line:?}: {error}") }),
        }
    }

    fn all_died(&mut self) -> usize {
        for (_, link) in self.links.drain() {
            self.book.note(RunFact::LinkClose { link });
        }
        let died = self.clients.len();
        for (_, (conn, device)) in self.clients.drain() {
            self.book.note(RunFact::ConnClose { conn, device, why: "killed with its program".to_owned(), wanted: true });
        }
        died
    }

    fn take(&mut self, said: Said) {
        let fact = match said {
            Said::Try { device } => RunFact::ConnTry { device },
            Said::Client { client, device } => {
                self.clients.insert(client, (self.book.number(), device));
                return;
            }
            Said::Open { client, from } => {
                self.reach(client, from);
                let (conn, device) = self.client(client);
                RunFact::SdkOpen { conn, device, from }
            }
            Said::Recv { client, seq, prev, id, hash, taint, handled } => {
                self.reach(client, seq);
                let conn = self.client(client).0;
                self.book.note(RunFact::Recv { conn, seq, prev, id, hash, taint });
                if !handled {
                    return;
                }
                RunFact::SdkHandled { conn, seq }
            }
            Said::Handled { client, seq } => RunFact::SdkHandled { conn: self.client(client).0, seq },
            Said::Pass { client, seq } => {
                self.reach(client, seq);
                RunFact::Passed { conn: self.client(client).0, seq, prev: None }
            }
            Said::Gap { client, status, lost_from, lost_to } => {
                RunFact::SdkGap { conn: self.client(client).0, status, lost: lost_from.zip(lost_to) }
            }
            Said::Stuck { client, ms } => RunFact::SdkStuck { device: self.client(client).1, ms },
            Said::Leads { client } => RunFact::SdkLeads { conn: self.client(client).0 },
            Said::Link { client, link, hub, transport, since } => {
                let number = self.book.number();
                self.links.insert(link, number);
                RunFact::LinkOpen { link: number, device: self.client(client).1, hub, transport, since }
            }
            Said::Unlink { link } => match self.links.remove(&link) {
                Some(link) => RunFact::LinkClose { link },
                None => return,
            },
            Said::Ack { client, seq } => RunFact::AckSent { device: self.client(client).1, seq },
            Said::Acked { client, seq } => RunFact::AckConfirmed { device: self.client(client).1, seq },
            Said::Close { client, device, why } => {
                let conn = self.client(client).0;
                self.clients.remove(&client);
                RunFact::ConnClose { conn, device, why, wanted: true }
            }
            Said::Command { device, id } => {
                let user = device.split('/').next().unwrap_or_default().to_owned();
                self.untold.insert(id.clone(), device);
                RunFact::CommandGiven { user, command: id, sdk: true }
            }
            Said::Tried { id } => RunFact::CommandTried { command: id },
            Said::Frame { id } => RunFact::CommandFrame { command: id },
            Said::Told { id, status } => {
                self.untold.remove(&id);
                RunFact::CommandTold { command: id, status }
            }
            Said::Refused { id } => {
                self.untold.remove(&id);
                RunFact::CommandRefused { command: id }
            }
            Said::Bad { client, what } => {
                let (conn, device) = self.client(client);
                RunFact::Broken { conn, what: format!("{device}: {what}") }
            }
        };
        self.book.note(fact);
    }

    fn client(&self, client: u64) -> (u64, String) {
        self.clients.get(&client).cloned().unwrap_or_default()
    }

    fn reach(&self, client: u64, seq: i64) {
        if let Some(reached) = self.clients.get(&client).and_then(|(_, device)| self.reached.get(device)) {
            reached.fetch_max(seq, Ordering::SeqCst);
        }
    }
}
