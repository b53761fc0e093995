//! The words of a history: what was tried, what came of it, what was seen. One fact a line, on one clock.

use serde::{Deserialize, Serialize};

/// A moment of the run, in nanoseconds since its start.
pub type Nanos = u64;

/// A fact and its moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    pub t: Nanos,
    #[serde(flatten)]
    pub fact: Fact,
}

/// Whom a wish is for. Every account belongs to one tenant, every user to one account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Audience {
    Everyone,
    Account(String),
    Users(Vec<String>),
}

/// From where a device asked for its stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Since {
    /// The place that the hub keeps.
    Ack,
    /// All that the log holds.
    Earliest,
    /// After the place that the device remembers.
    Seq(i64),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "fact", rename_all = "snake_case")]
pub enum Fact {
    /// The first of all: the machine's clock, in milliseconds since 1970.
    Begun {
        at: i64,
    },

    // Posting. `ok` is a definite yes, `fail` a definite no, `info` an outcome that is not known; never mixed.
    /// A notification that somebody wants in the log, once. `title` names it in the row.
    Wish {
        title: String,
        audience: Audience,
        hash: String,
        replay: bool,
    },
    PostInvoke {
        op: u64,
        title: String,
        hub: usize,
    },
    PostOk {
        op: u64,
        title: String,
        seq: i64,
        id: String,
    },
    /// A definite yes that names no number: the transaction of a SQL producer is committed.
    PostKept {
        op: u64,
        title: String,
        id: String,
    },
    PostFail {
        op: u64,
        title: String,
        why: String,
    },
    PostInfo {
        op: u64,
        title: String,
        why: String,
    },

    // Devices.
    Device {
        device: String,
        user: String,
        account: String,
        slow: bool,
    },
    /// A device wants to be connected from now on.
    ConnTry {
        device: String,
    },
    ConnOpen {
        conn: u64,
        device: String,
        hub: usize,
        asked: Asked,
        told: Told,
    },
    Recv {
        conn: u64,
        seq: i64,
        prev: i64,
        id: String,
        hash: String,
        taint: String,
    },
    /// Everything up to `seq` is given without a notification: caught_up, a heartbeat. `prev` where the frame names one;
    /// `silent` where the next notification's `prev` does not name it.
    Passed {
        conn: u64,
        seq: i64,
        prev: Option<i64>,
        silent: bool,
    },
    /// `wanted`: the device itself left.
    ConnClose {
        conn: u64,
        device: String,
        why: String,
        wanted: bool,
    },
    AckSent {
        device: String,
        seq: i64,
    },
    /// The hub has said that the place is stored.
    AckConfirmed {
        device: String,
        seq: i64,
    },
    /// A connection that came with a place of another log, for a moment.
    Liar {
        conn: u64,
        device: String,
        asked: Asked,
        told: Told,
    },
    /// One row of a page of the history.
    Page {
        device: String,
        seq: i64,
        id: String,
        hash: String,
        taint: String,
    },
    /// The frame breaks the contract in itself.
    Broken {
        conn: u64,
        what: String,
    },

    // What is done to the system, and the proof that it had an effect.
    FaultBegin {
        fault: String,
        on: String,
    },
    FaultEnd {
        fault: String,
        on: String,
        evidence: Option<String>,
    },
    /// The machine itself gave this program no turn for so long.
    Stall {
        ms: u64,
    },
    /// Of the time since the last such fact, other programs of the machine used so much of the processors.
    Others {
        ms: u64,
    },
    /// The writers are silent from now on; everything must arrive.
    Drain,
    /// Everyone had the time to come to `head`, the end of the log then.
    Drained {
        head: i64,
    },

    // Upstream sessions. `at` is when the provider saw it, `stamp` when the hub wrote it; both in milliseconds since 1970 by
    // the machine's clock, as the database has it. `process` is a hub from its start to its end.
    UpSignIn {
        user: String,
        process: usize,
        at: i64,
        stamp: i64,
    },
    /// A socket was asked for.
    UpAsk {
        link: usize,
        user: String,
        process: usize,
        at: i64,
        stamp: i64,
    },
    UpOpen {
        link: usize,
    },
    UpFrame {
        link: usize,
        at: i64,
        stamp: i64,
        /// Absent: a keep-alive.
        command: Option<String>,
    },
    /// The provider begins to say its `n`-th message on this socket.
    UpSaid {
        link: usize,
        n: u64,
    },
    UpClose {
        link: usize,
        at: i64,
    },
    /// A device wants this to go up, once.
    CommandGiven {
        user: String,
        command: String,
    },
    /// A device was told what became of it.
    CommandTold {
        command: String,
        status: String,
    },

    // The same, at the end, from the database.
    /// A claim. `old_lease_until`: it ended one that was not given back; `taken_over`: another's.
    UpTerm {
        user: String,
        term: i64,
        process: usize,
        at: i64,
        old_lease_until: Option<i64>,
        taken_over: bool,
    },
    UpCommand {
        user: String,
        command: String,
        state: String,
        term: Option<i64>,
        settled: Option<i64>,
    },
    /// A row of the log that came from the provider: over which socket, as which message there. `None`: the hub's word that
    /// something may be missing.
    UpEntry {
        seq: i64,
        user: String,
        said: Option<(usize, u64)>,
    },
    /// That word is a row that nobody posted.
    UpGap {
        title: String,
        audience: Audience,
        hash: String,
    },

    // At the end, from the database and the machine.
    Log {
        log_id: String,
        floor: i64,
        head: i64,
    },
    Row {
        seq: i64,
        id: String,
        title: String,
        hash: String,
    },
    /// A row of the audit of places; `before` is absent for a new place.
    Place {
        device: String,
        before: Option<i64>,
        after: i64,
    },
    Secret {
        name: String,
        place: String,
        found: bool,
    },
    Resource {
        name: String,
        base: u64,
        end: u64,
        allowed: u64,
    },
    /// Enough has to have happened, or the run says nothing.
    Quota {
        what: String,
        had: u64,
        wanted: u64,
    },
}

/// What a device says when it connects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    pub since: Since,
    pub log_id: Option<String>,
    pub last_id: Option<String>,
}

/// What the hub answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    pub status: String,
    pub from: i64,
    pub lost: Option<(i64, i64)>,
    pub log_id: String,
    pub head: i64,
    pub earliest: i64,
}

/// The machine's clock, in milliseconds since 1970.
pub fn wall_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Short and enough to tell two contents apart.
pub fn hash(parts: &[&str]) -> String {
    use sha2::{Digest, Sha256};
    let mut sha = Sha256::new();
    for part in parts {
        sha.update((part.len() as u64).to_be_bytes());
        sha.update(part.as_bytes());
    }
    sha.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}
