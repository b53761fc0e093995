//! Defines the facts of a history: attempts, their outcomes, and observations.
//!
//! A history has one fact per line, with times of one clock.

use serde::{Deserialize, Serialize};

/// A time of the run, in nanoseconds since its start.
pub type Nanos = u64;

/// A fact and its time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FactEntry {
    pub t: Nanos,
    #[serde(flatten)]
    pub fact: RunFact,
}

/// The audience of a notification. Every account belongs to one tenant, every user to one account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FactAudience {
    Everyone,
    Account(String),
    Users(Vec<String>),
}

/// The position from which a device asked for its stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FactSince {
    /// The position that the hub keeps.
    Ack,
    /// The earliest row of the log.
    Earliest,
    /// After the position that the device remembers.
    Seq(i64),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "fact", rename_all = "snake_case")]
pub enum RunFact {
    /// The first fact of all: the machine's clock, in milliseconds since 1970.
    Begun {
        at: i64,
    },

    // Posting. `ok` is a definite yes, `fail` a definite no, `info` an unknown outcome; the three are never mixed.
    /// A notification that must be in the log once. `title` identifies its row.
    Wish {
        title: String,
        audience: FactAudience,
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
    /// A definite yes without a number: the transaction of a SQL producer has committed.
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
        /// The name under which the hub stores the device's position; several clients may share one. Absent for a
        /// device of its own.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        shares: Option<String>,
        /// Whether the device acknowledges by pongs, which it does not see itself.
        #[serde(default = "yes")]
        pongs: bool,
        /// Whether it is a client of the TypeScript SDK: the facts are what the handlers of its application see.
        #[serde(default, skip_serializing_if = "is_no")]
        sdk: bool,
    },
    /// A device begins to try to connect.
    ConnTry {
        device: String,
    },
    ConnOpen {
        conn: u64,
        device: String,
        hub: usize,
        asked: StreamAsked,
        told: StreamTold,
    },
    Recv {
        conn: u64,
        seq: i64,
        prev: i64,
        id: String,
        hash: String,
        taint: String,
    },
    /// Everything up to `seq` was received without a notification: caught_up, a heartbeat. `prev` is set if the frame
    /// names one.
    Passed {
        conn: u64,
        seq: i64,
        prev: Option<i64>,
    },
    /// A connection ended. `wanted` is true if the device itself left.
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
    /// The device tries to connect. The start position that it names, if any, is acknowledged even if the attempt
    /// fails.
    Attempt {
        device: String,
        hub: usize,
        since: Option<i64>,
    },
    /// The hub has confirmed that the position is stored.
    AckConfirmed {
        device: String,
        seq: i64,
    },
    /// A short connection that presents a position of another log.
    Liar {
        conn: u64,
        device: String,
        asked: StreamAsked,
        told: StreamTold,
    },
    /// One row of a page of the history.
    Page {
        device: String,
        seq: i64,
        id: String,
        hash: String,
        taint: String,
    },
    // Clients of the SDK. A client is one tab of a browser, or one Node program, from its start to its end. It has the
    // facts of a connection: `recv`, `passed` and `conn_close`.
    /// A client has its first position.
    SdkOpen {
        conn: u64,
        device: String,
        from: i64,
    },
    /// All handlers of the application have finished with a notification.
    SdkHandled {
        conn: u64,
        seq: i64,
    },
    /// The application was told that it has lost notifications.
    SdkGap {
        conn: u64,
        status: String,
        lost: Option<(i64, i64)>,
    },
    /// The thread of the device's client stands still for this long. The client may not have a position yet.
    SdkStuck {
        device: String,
        ms: u64,
    },
    /// The client leads the tabs of its browser from now on.
    SdkLeads {
        conn: u64,
    },
    /// The SDK connects to a hub, for a tab and all others of its browser. `since` is the position that it names.
    LinkOpen {
        link: u64,
        device: String,
        hub: usize,
        transport: String,
        since: Option<i64>,
    },
    /// The SDK has closed the connection, or it has ended.
    LinkClose {
        link: u64,
    },
    /// At the end: how many connections of a browser or a Node program the hubs list.
    Held {
        device: String,
        connections: usize,
    },
    /// The frame itself breaks the contract.
    Broken {
        conn: u64,
        what: String,
    },

    // A consumer without conditions, which several owners use.
    /// An owner was given rows, each with its id. `after`: the highest number that was acknowledged for certain when it
    /// asked.
    ConsumerBatch {
        owner: String,
        term: i64,
        after: i64,
        rows: Vec<(i64, String)>,
        through: i64,
    },
    /// An owner has asked to acknowledge. `newest`: the highest term that an owner had when it asked. `answer`:
    /// `acked`, the code of a refusal, or `unknown`.
    ConsumerAck {
        owner: String,
        term: i64,
        seq: i64,
        newest: i64,
        answer: String,
    },
    /// The stored position of the consumer, after the end of all posts.
    ConsumerPlace {
        acked: i64,
    },

    // The webhook of a run, which wants rows to everyone.
    /// The receiver got a post, and answered with this status.
    WebhookPost {
        seq: i64,
        id: String,
        is_signed: bool,
        answer: u16,
    },
    /// The stored position of the webhook, the posts that wait and the posts that were given up, after the end of all
    /// posts.
    WebhookPlace {
        passed: i64,
        waiting: i64,
        dead: i64,
    },

    // Erasures by request: one number, or one user.
    EraseBegin {
        user: Option<String>,
        seq: Option<i64>,
    },
    /// An erasure is done. `head` was the head of the log before it began.
    EraseDone {
        user: Option<String>,
        seq: Option<i64>,
        head: i64,
    },

    // Faults, and the proof of their effect.
    FaultBegin {
        fault: String,
        on: String,
    },
    FaultEnd {
        fault: String,
        on: String,
        evidence: Option<String>,
    },
    /// This program was not scheduled for this long.
    Stall {
        ms: u64,
    },
    /// Processor time that other programs of the machine used since the last such fact.
    Others {
        ms: u64,
    },
    /// The head in the database, and the dispatched position that each hub reported just after it. `None` if that hub
    /// did not answer.
    Watched {
        head: i64,
        published: Vec<Option<i64>>,
    },
    /// The writers stop; everything must now arrive.
    Drain,
    /// Every client had the time to reach `head`, the head of that time.
    Drained {
        head: i64,
    },

    // Provider sessions. `at` is when the provider saw it, `stamp` when the hub wrote it; both in milliseconds since
    // 1970 by the machine's clock, which the database uses too. `process` is a hub from its start to its end.
    UpSignIn {
        user: String,
        process: usize,
        at: i64,
        stamp: i64,
    },
    /// A hub asked for a socket.
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
        /// Absent for a keep-alive.
        command: Option<String>,
    },
    /// The provider begins to send its `n`-th message on this socket.
    UpSaid {
        link: usize,
        n: u64,
    },
    UpClose {
        link: usize,
        at: i64,
    },
    /// A device sends a command that must reach the provider once.
    CommandGiven {
        user: String,
        command: String,
        /// Whether the device is a client of the TypeScript SDK.
        #[serde(default, skip_serializing_if = "is_no")]
        sdk: bool,
    },
    /// An application hands a command to its client of the SDK: for the first time, or because it knows no result.
    CommandTried {
        command: String,
    },
    /// The SDK sends a command to a hub.
    CommandFrame {
        command: String,
    },
    /// The SDK tells the application that it cannot send the command.
    CommandRefused {
        command: String,
    },
    /// A device received the result of its command.
    CommandTold {
        command: String,
        status: String,
    },

    // The same, read from the database at the end.
    /// A claim of a provider session. `old_lease_until` is set if it replaced a lease that was not released;
    /// `taken_over` is true if that lease was another instance's.
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
    /// A row of the log that came from the provider, with its socket and its number there. `None`: the hub reports a
    /// possible gap.
    UpEntry {
        seq: i64,
        user: String,
        said: Option<(usize, u64)>,
    },
    /// The gap notification is a row that no service posted.
    UpGap {
        title: String,
        audience: FactAudience,
        hash: String,
    },

    // At the end, from the database and the machine.
    /// A row of the log became a tombstone, by its audit. `at` is in milliseconds since 1970 by the machine's clock.
    Erased {
        seq: i64,
        at: i64,
    },
    /// A notification was erased in the outbox, before a hub moved it into the log.
    Unposted {
        title: String,
    },
    /// Erased content was found in the database.
    Remnant {
        what: String,
        place: String,
    },
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
        /// Set for a tombstone: its remaining content, which must be empty.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tombstone: Option<String>,
    },
    /// The hash of a row as a program sees it that has parsed `data`.
    Parsed {
        seq: i64,
        hash: String,
    },
    /// A row of the audit of positions; `before` is absent for a new position.
    Place {
        device: String,
        before: Option<i64>,
        after: i64,
    },
    /// A token that no key of its issuer signed with its own algorithm, and whether a hub accepted it.
    ForgedToken {
        hub: usize,
        what: String,
        accepted: bool,
    },
    /// Connections whose key the issuer removed, and how many of them were open after the time to close them.
    KeyRemoved {
        hub: usize,
        connections: u64,
        left: u64,
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
    /// Minimum number of events: a run with fewer shows nothing.
    Quota {
        what: String,
        had: u64,
        wanted: u64,
    },
}

/// The stream request of a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamAsked {
    pub since: FactSince,
    pub log_id: Option<String>,
    pub last_id: Option<String>,
}

/// The hub's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamTold {
    pub status: String,
    pub from: i64,
    pub lost: Option<(i64, i64)>,
    pub log_id: String,
    pub head: i64,
    pub earliest: i64,
}

fn yes() -> bool {
    true
}

fn is_no(value: &bool) -> bool {
    !value
}

/// A short hash, long enough to tell two contents apart.
pub fn hash(parts: &[&str]) -> String {
    use sha2::{Digest, Sha256};
    let mut sha = Sha256::new();
    for part in parts {
        sha.update((part.len() as u64).to_be_bytes());
        sha.update(part.as_bytes());
    }
    sha.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}
