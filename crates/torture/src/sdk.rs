//! Runs devices that use the TypeScript SDK, in a Node program (`crates/torture/sdk`).
//!
//! The program may be killed whole, and is started again with the same devices.

mod reports;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use recado_torture_check::fact::RunFact;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use reports::SharedReports;

use crate::book::Recorder;
use crate::{RunError, cast, secrets};

/// The oldest Node that the SDK supports, and the first that has a `WebSocket` without a flag.
const OLDEST: (u32, u32) = (20, 19);
const HAS_WEBSOCKET: u32 = 22;
/// Longest wait for the program's end.
const END_LIMIT: Duration = Duration::from_secs(5);
/// How often it is checked whether the program has ended by itself.
const LOOK: Duration = Duration::from_millis(200);

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
#[derive(Clone)]
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

impl SdkPart {
    fn name(&self) -> String {
        format!("{}/{}", self.user, self.client)
    }

    /// The devices of the history: one for each tab, or the program itself.
    fn slots(&self) -> Vec<String> {
        let name = self.name();
        if self.tabs == 0 { vec![name] } else { (0..self.tabs).map(|tab| format!("{name}.t{tab}")).collect() }
    }

    /// Whether its applications send commands. A client that never falls back to another protocol gets every result, or
    /// never sends a command; one that does may lose the way to a result for minutes.
    fn gives_commands(&self) -> bool {
        self.transport != "auto"
    }
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

/// Parameters of the devices.
pub struct SdkPlan<'a> {
    pub seed: u64,
    pub addresses: &'a [String],
    pub mutant: Option<SdkMutant>,
    /// Node's complaints go there.
    pub log: &'a Path,
}

/// A browser or a Node program, with its token.
struct SdkDevice {
    part: SdkPart,
    token: String,
}

/// The devices, whether or not their program runs.
pub struct SdkDevices {
    program: SdkProgram,
    seed: u64,
    addresses: Vec<String>,
    mutant: Option<SdkMutant>,
    log: PathBuf,
    devices: Vec<SdkDevice>,
    reports: SharedReports,
    /// Number of processes that were started.
    runs: AtomicUsize,
    /// `None` while the program is dead, and after the end.
    running: Mutex<Option<RunningProgram>>,
    pub reached: Reached,
}

/// A process of Node.
struct RunningProgram {
    child: Child,
    stdin: ChildStdin,
    reading: JoinSet<()>,
}

impl SdkDevices {
    pub async fn start(program: &SdkProgram, book: &Arc<Recorder>, plan: SdkPlan<'_>) -> Result<Self, RunError> {
        let (mut devices, mut reached) = (Vec::new(), Reached::new());
        for part in parts() {
            let account = cast::account_of(&part.user);
            let token = secrets::token(&part.user, Some(&account), None)?;
            for device in part.slots() {
                reached.insert(device.clone(), Arc::default());
                let (user, account) = (part.user.clone(), account.clone());
                let shares = (part.tabs > 0).then(|| part.name());
                book.note(RunFact::Device { device, user, account, slow: false, shares, pongs: false, sdk: true });
            }
            devices.push(SdkDevice { part, token });
        }
        let SdkPlan { seed, addresses, mutant, log } = plan;
        let this = Self {
            program: program.clone(),
            seed,
            addresses: addresses.to_vec(),
            mutant,
            log: log.to_owned(),
            devices,
            reports: SharedReports::new(Arc::clone(book), reached.clone()),
            runs: AtomicUsize::default(),
            running: Mutex::default(),
            reached,
        };
        this.run().await?;
        Ok(this)
    }

    /// Starts a process of Node.
    async fn run(&self) -> Result<(), RunError> {
        let mut command = Command::new(&self.program.node);
        if !self.program.has_websocket {
            command.arg("--experimental-websocket");
        }
        let log = std::fs::File::options().create(true).append(true).open(&self.log)?;
        command.arg(&self.program.script).env_clear();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log).kill_on_drop(true);
        let mut child = command.spawn()?;
        let (Some(mut stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else { return Err("node has no pipes".into()) };
        let devices: Vec<_> = self.devices.iter().map(|device| self.line_of(device)).collect();
        let (sdk, mutant) = (format!("file://{}", self.program.client.display()), self.mutant.map(SdkMutant::word));
        let line = json!({
            "sdk": sdk, "seed": self.seed, "run": self.runs.fetch_add(1, Ordering::SeqCst), "hubs": self.addresses, "mutant": mutant, "devices": devices,
        });
        stdin.write_all(format!("{line}\n").as_bytes()).await?;
        let mut reading = JoinSet::new();
        reading.spawn(self.reports.clone().read(stdout));
        *self.running.lock().await = Some(RunningProgram { child, stdin, reading });
        Ok(())
    }

    fn line_of(&self, SdkDevice { part, token }: &SdkDevice) -> serde_json::Value {
        let untold: HashMap<String, Vec<String>> =
            part.slots().into_iter().map(|slot| (slot.clone(), self.reports.untold(&slot))).collect();
        json!({
            "name": part.name(), "client_id": part.client, "token": token, "tabs": part.tabs, "transport": part.transport,
            "upgrades": part.upgrades, "style": part.style, "commands": part.gives_commands(), "untold": untold,
        })
    }

    /// Kills the program with all its clients, waits, and starts it again. Returns the proof that clients died.
    pub async fn kill_and_start(&self, away: Duration) -> Result<Option<String>, RunError> {
        let Some(mut running) = self.running.lock().await.take() else { return Ok(None) };
        running.child.start_kill()?;
        let status: ExitStatus = running.child.wait().await?;
        // The pipe holds what the clients reported before their death.
        running.reading.join_all().await;
        let died = self.reports.all_died();
        sleep(away).await;
        self.run().await?;
        Ok((died > 0).then(|| format!("{status}, and {died} clients died with it")))
    }

    /// The number of commands without a known result.
    pub fn open_commands(&self) -> Arc<AtomicUsize> {
        self.reports.open_commands()
    }

    /// Name and token of each browser and each program.
    pub fn tokens(&self) -> impl Iterator<Item = (String, &str)> {
        self.devices.iter().map(|device| (device.part.name(), device.token.as_str()))
    }

    /// User and device of each browser and each program.
    pub fn browsers(&self) -> Vec<(String, String)> {
        self.devices.iter().map(|device| (device.part.user.clone(), device.part.client.to_owned())).collect()
    }

    /// No client leaves from now on.
    pub async fn stay(&self) -> Result<(), RunError> {
        match &mut *self.running.lock().await {
            Some(running) => Ok(running.stdin.write_all(b"{\"do\":\"stay\"}\n").await?),
            None => Err("the Node program of the SDK devices does not run".into()),
        }
    }

    /// Returns when the program ends by itself, which it never should.
    pub async fn died(&self) -> RunError {
        loop {
            if let Some(running) = &mut *self.running.lock().await {
                match running.child.try_wait() {
                    Ok(None) => {}
                    Ok(Some(status)) => return ended_early(status),
                    Err(error) => return error.into(),
                }
            }
            sleep(LOOK).await;
        }
    }

    /// Ends the program. An error: it had ended before.
    pub async fn end(&self) -> Result<(), RunError> {
        let Some(RunningProgram { mut child, stdin, reading }) = self.running.lock().await.take() else {
            return Err("the Node program of the SDK devices was not started again".into());
        };
        if let Some(status) = child.try_wait()? {
            return Err(ended_early(status));
        }
        self.reports.end();
        drop(stdin);
        if timeout(END_LIMIT, child.wait()).await.is_err() {
            child.kill().await?;
        }
        reading.join_all().await;
        Ok(())
    }
}

fn ended_early(status: ExitStatus) -> RunError {
    format!("the Node program of the SDK devices ended too early: {status}; see sdk.log").into()
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
