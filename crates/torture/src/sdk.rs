//! Runs devices that use the TypeScript SDK, in a Node program (`crates/torture/sdk`).
//!
//! The program reports what the handlers of its applications see, one JSON line for each fact.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use recado_torture_check::fact::RunFact;
use serde::Deserialize;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::book::Recorder;
use crate::{RunError, cast, secrets};

/// The oldest Node that the SDK supports, and the first that has a `WebSocket` without a flag.
const OLDEST: (u32, u32) = (20, 19);
const HAS_WEBSOCKET: u32 = 22;
/// Longest wait for the program's end.
const END_LIMIT: Duration = Duration::from_secs(5);

/// Whether a run has devices of the SDK.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum SdkUse {
    /// If Node and the built client are there.
    Auto,
    /// A run without them fails.
    Require,
    Off,
}

/// A deliberate fault of an application, or of its use of the SDK. The hubs have none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum SdkMutant {
    /// One notification in ten does not reach the handler.
    #[value(name = "sdk-drop")]
    Drop,
    /// One notification in ten reaches the handler twice.
    #[value(name = "sdk-twice")]
    Twice,
    /// A notification is acknowledged before its handler has finished, and the tab may die in between.
    #[value(name = "sdk-early-ack")]
    EarlyAck,
    /// Each tab of a browser connects by itself.
    #[value(name = "sdk-own-tabs")]
    OwnTabs,
}

impl SdkMutant {
    /// The name that the program knows.
    fn word(self) -> &'static str {
        match self {
            Self::Drop => "drop",
            Self::Twice => "twice",
            Self::EarlyAck => "early-ack",
            Self::OwnTabs => "own-tabs",
        }
    }
}

/// Node, and the files that it runs.
pub struct SdkProgram {
    node: PathBuf,
    has_websocket: bool,
    script: PathBuf,
    client: PathBuf,
}

impl SdkProgram {
    /// Node and the built client, if the run is to have devices of the SDK and can have them.
    pub async fn wanted(when: SdkUse, path: Option<&std::ffi::OsStr>) -> Result<Option<Self>, RunError> {
        if when == SdkUse::Off {
            return Ok(None);
        }
        match Self::find(path).await {
            Ok(program) => Ok(Some(program)),
            Err(why) if when == SdkUse::Require => Err(format!("no devices of the TypeScript SDK: {why}").into()),
            Err(why) => {
                println!("the run has no devices of the TypeScript SDK: {why}");
                Ok(None)
            }
        }
    }

    /// The error says what is missing.
    async fn find(path: Option<&std::ffi::OsStr>) -> Result<Self, String> {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).ok_or("torture was built outside its sources")?;
        let (script, client) = (sources.join("crates/torture/sdk/devices.mjs"), sources.join("clients/typescript/dist/index.js"));
        for (file, help) in [(&script, "run torture where it was built"), (&client, "run `npm ci && npm run build` in clients/typescript")]
        {
            if !file.is_file() {
                return Err(format!("{} is missing ({help})", file.display()));
            }
        }
        let mut folders = path.iter().flat_map(|path| std::env::split_paths(path));
        let node = folders.find_map(|folder| Some(folder.join("node")).filter(|file| file.is_file())).ok_or("there is no node in PATH")?;
        let asked = Command::new(&node).arg("--version").output().await.map_err(|error| format!("{}: {error}", node.display()))?;
        let text = String::from_utf8_lossy(&asked.stdout).trim().to_owned();
        let version = version(&text).ok_or_else(|| format!("{} --version says {text:?}", node.display()))?;
        if version < OLDEST {
            return Err(format!("node {text} is older than {}.{}", OLDEST.0, OLDEST.1));
        }
        Ok(Self { node, has_websocket: version.0 >= HAS_WEBSOCKET, script, client })
    }
}

fn version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.strip_prefix('v')?.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// A browser with several tabs, or a Node program.
struct SdkPart {
    user: String,
    client: &'static str,
    /// 0 for a Node program.
    tabs: usize,
    transport: &'static str,
    /// Whether WebSockets get through to the hubs.
    upgrades: bool,
    /// How the application takes its notifications: `auto`, `manual` or `loop`.
    style: &'static str,
}

fn parts() -> Vec<SdkPart> {
    let part = |tenant, user, client, tabs, transport, upgrades, style| {
        let user = cast::user(tenant, user);
        SdkPart { user, client, tabs, transport, upgrades, style }
    };
    vec![
        part(3, 0, "b0", 3, "websocket", true, "auto"),
        part(4, 1, "b1", 3, "auto", false, "auto"),
        part(1, 0, "b2", 2, "auto", true, "auto"),
        part(5, 1, "n0", 0, "websocket", true, "auto"),
        part(2, 2, "n1", 0, "sse", true, "loop"),
        part(0, 3, "n2", 0, "auto", false, "manual"),
        part(3, 2, "n3", 0, "websocket", true, "loop"),
    ]
}

/// The last number of a device of the SDK, by its name in the history.
pub type Reached = HashMap<String, Arc<AtomicI64>>;

/// The running program.
pub struct SdkDevices {
    child: Child,
    stdin: ChildStdin,
    reading: JoinSet<()>,
    ends: Arc<AtomicBool>,
    pub reached: Reached,
    /// User and device of each browser and each program.
    pub browsers: Vec<(String, String)>,
    pub tokens: Vec<(String, String)>,
}

/// Parameters of a start.
pub struct SdkPlan<'a> {
    pub seed: u64,
    pub addresses: &'a [String],
    pub mutant: Option<SdkMutant>,
    /// Node's complaints go there.
    pub log: &'a Path,
}

impl SdkDevices {
    pub async fn start(program: &SdkProgram, book: &Arc<Recorder>, plan: SdkPlan<'_>) -> Result<Self, RunError> {
        let mut command = Command::new(&program.node);
        if !program.has_websocket {
            command.arg("--experimental-websocket");
        }
        command.arg(&program.script).env_clear();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(std::fs::File::create(plan.log)?).kill_on_drop(true);
        let mut child = command.spawn()?;
        let (Some(mut stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else { return Err("node has no pipes".into()) };
        let (mut devices, mut reached, mut browsers, mut tokens) = (Vec::new(), Reached::new(), Vec::new(), Vec::new());
        for SdkPart { user, client, tabs, transport, upgrades, style } in parts() {
            let account = cast::account_of(&user);
            let (name, token) = (format!("{user}/{client}"), secrets::token(&user, Some(&account), None)?);
            let slots = if tabs == 0 { vec![name.clone()] } else { (0..tabs).map(|tab| format!("{name}.t{tab}")).collect() };
            for device in slots {
                reached.insert(device.clone(), Arc::default());
                let shares = (tabs > 0).then(|| name.clone());
                let account = account.clone();
                book.note(RunFact::Device { device, user: user.clone(), account, slow: false, shares, pongs: false, sdk: true });
            }
            devices.push(json!({
                "name": name, "client_id": client, "token": token, "tabs": tabs, "transport": transport, "upgrades": upgrades, "style": style,
            }));
            browsers.push((user, client.to_owned()));
            tokens.push((name, token));
        }
        let sdk = format!("file://{}", program.client.display());
        let mutant = plan.mutant.map(SdkMutant::word);
        let line = json!({ "sdk": sdk, "seed": plan.seed, "hubs": plan.addresses, "mutant": mutant, "devices": devices });
        stdin.write_all(format!("{line}\n").as_bytes()).await?;
        let ends = Arc::<AtomicBool>::default();
        let reader = Reader { book: Arc::clone(book), reached: reached.clone(), clients: HashMap::new(), links: HashMap::new() };
        let mut reading = JoinSet::new();
        reading.spawn(reader.read(stdout, Arc::clone(&ends)));
        Ok(Self { child, stdin, reading, ends, reached, browsers, tokens })
    }

    /// No client leaves from now on.
    pub async fn stay(&mut self) -> Result<(), RunError> {
        Ok(self.stdin.write_all(b"{\"do\":\"stay\"}\n").await?)
    }

    /// Returns when the program ends by itself, which it never should.
    pub async fn died(&mut self) -> RunError {
        match self.child.wait().await {
            Ok(status) => format!("the Node program of the SDK devices ended too early: {status}; see sdk.log").into(),
            Err(error) => error.into(),
        }
    }

    /// Ends the program. An error: it had ended before.
    pub async fn end(mut self) -> Result<(), RunError> {
        if self.child.try_wait()?.is_some() {
            return Err(self.died().await);
        }
        self.ends.store(true, Ordering::SeqCst);
        drop(self.stdin);
        if timeout(END_LIMIT, self.child.wait()).await.is_err() {
            self.child.kill().await?;
        }
        self.reading.join_all().await;
        Ok(())
    }
}

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
    Bad {
        client: u64,
        what: String,
    },
}

/// Turns lines into facts.
struct Reader {
    book: Arc<Recorder>,
    reached: Reached,
    /// Number in the history and device of each client.
    clients: HashMap<u64, (u64, String)>,
    links: HashMap<u64, u64>,
}

impl Reader {
    async fn read(mut self, stdout: ChildStdout, ends: Arc<AtomicBool>) {
        let mut lines = BufReader::new(stdout).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            // What ends with the program is none of a run any more.
            if ends.load(Ordering::SeqCst) {
                continue;
            }
            match serde_json::from_str(&line) {
                Ok(said) => self.take(said),
                Err(error) => self.book.note(RunFact::Broken { conn: 0, what: format!("the SDK devices say {line:?}: {error}") }),
            }
        }
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
            Said::Stuck { client, ms } => RunFact::SdkStuck { conn: self.client(client).0, ms },
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_compared_by_its_numbers() {
        assert_eq!(version("v20.9.0").map(|version| version < OLDEST), Some(true));
        assert_eq!(version("v100.1.0").map(|version| version < OLDEST), Some(false));
        assert_eq!(version("20.19.0"), None);
    }
}
