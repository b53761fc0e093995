//! Tests `recado top` against running hubs: in a pipe, as JSON, and in a terminal that it must restore.

use std::process::Stdio;
use std::time::Duration;

use recado_testkit::process::clean_command;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::time::{Instant, timeout};

use super::support::*;

fn top(hub: &TestHub, arguments: &str) -> Command {
    let mut command = clean_command(env!("CARGO_BIN_EXE_recado"));
    command
        .arg("top")
        .args(arguments.split_whitespace())
        .env("RECADO_URL", format!("http://{}", hub.address))
        .env("RECADO_JWT_SECRET", SECRET);
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

async fn two_hubs_with_clients(db: &TestDb) -> (TestHub, TestHub, Vec<TestClient>) {
    let (here, there) = (TestHub::on(db).start().await, TestHub::on(db).start().await);
    let mut clients = Vec::new();
    for (user, hub) in [("ann", &here), ("bob", &there)] {
        let mut client = TestClient::of(user).connect(hub).await;
        client.until_caught_up().await;
        clients.push(client);
    }
    eventually("both hubs and both sessions are known", PATIENCE, async || {
        let (_, listed) = here.get("/api/admin/instances", Some(&db.admin_key())).await.ok()?;
        let known = serde_json::from_str::<Value>(&listed).ok()?["instances"].as_array()?.len() == 2;
        let stored = db.number("SELECT count(*) FROM recado.session WHERE ended_at IS NULL").await == 2;
        (known && stored).then_some(())
    })
    .await;
    (here, there, clients)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_pipe_it_prints_one_table_and_ends() {
    let db = TestDb::new().await;
    let (hub, other, _clients) = two_hubs_with_clients(&db).await;
    let output = timeout(PATIENCE, top(&hub, "--sort user").output()).await.expect("it ends").unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for part in ["connections", "worst lag", &hub.address, &other.address, "ann", "bob", "2 sessions, by user"] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    assert!(!text.contains('\u{1b}'), "{text}");
    assert!(text.find("ann").unwrap() < text.find("bob").unwrap());

    let output = timeout(PATIENCE, top(&hub, "-o json").output()).await.expect("it ends").unwrap();
    let both: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((both["instances"]["instances"].as_array().unwrap().len(), both["sessions"]["total"].as_i64()), (2, Some(2)));

    let wrong = timeout(PATIENCE, top(&hub, "--sort colour").output()).await.expect("it ends").unwrap();
    assert_eq!(wrong.status.code(), Some(1));
    let refused = timeout(PATIENCE, top(&hub, "").env("RECADO_KEY", db.key()).output()).await.expect("it ends").unwrap();
    assert_eq!(refused.status.code(), Some(77), "a service may not");
}

/// `recado top` in a terminal of its own: `script` makes one. After it the shell tells the terminal's mode.
struct Terminal {
    child: Child,
    screen: String,
}

const MODE: &str = "mode:";

impl Terminal {
    fn start(hub: &TestHub) -> Self {
        let program = env!("CARGO_BIN_EXE_recado");
        let line = format!(
            "stty rows 30 cols 120; before=$(stty -g); {program} top; echo ended $?; [ \"$before\" = \"$(stty -g)\" ] && echo {MODE} same"
        );
        let mut command = clean_command("script");
        command.args(["-qefc", &line, "/dev/null"]).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        command.env("RECADO_URL", format!("http://{}", hub.address)).env("RECADO_JWT_SECRET", SECRET).env("SHELL", "/bin/sh");
        Self { child: command.spawn().unwrap(), screen: String::new() }
    }

    /// Reads until this text has been on the screen.
    async fn shows(&mut self, text: &str) {
        let end = Instant::now() + PATIENCE;
        while !self.screen.contains(text) {
            let mut bytes = [0; 16 << 10];
            let read = timeout(end.saturating_duration_since(Instant::now()), self.child.stdout.as_mut().unwrap().read(&mut bytes)).await;
            let count = read.unwrap_or_else(|_| panic!("{text} never came:\n{}", self.screen)).unwrap();
            assert!(count > 0, "{text} is not on the screen that ended:\n{}", self.screen);
            self.screen.push_str(&String::from_utf8_lossy(&bytes[..count]));
        }
    }

    async fn keys(&mut self, keys: &str) {
        self.screen.clear();
        self.child.stdin.as_mut().unwrap().write_all(keys.as_bytes()).await.unwrap();
    }

    /// Checks that the terminal is as it was.
    async fn is_restored(mut self, code: i32) {
        self.shows(&format!("ended {code}")).await;
        self.shows(&format!("{MODE} same")).await;
        for back in ["\u{1b}[?1049l", "\u{1b}[?25h", "\u{1b}[?7h"] {
            assert!(self.screen.contains(back), "{back:?} in {:?}", self.screen);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_terminal_it_follows_and_sorts_until_q_and_restores_the_terminal() {
    let db = TestDb::new().await;
    let (hub, _other, _clients) = two_hubs_with_clients(&db).await;
    let mut terminal = Terminal::start(&hub).await_start().await;
    terminal.shows("by lag, highest first").await;
    terminal.shows("bob").await;
    hub.post(&note("n").to_user("ann")).await;
    terminal.keys("\u{1b}[C").await;
    terminal.shows("by provider, highest first").await;
    terminal.keys("r").await;
    terminal.shows("by provider, lowest first").await;
    terminal.keys("<<<<<<<<<<").await;
    // After the next sample there are rates.
    terminal.shows("replayed)").await;
    terminal.keys("q").await;
    terminal.is_restored(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_and_control_c_restore_the_terminal_too() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    eventually("the first heartbeat", PATIENCE, async || {
        (hub.get("/api/admin/instances", Some(&db.admin_key())).await.unwrap().0 == 200).then_some(())
    })
    .await;
    let mut terminal = Terminal::start(&hub).await_start().await;
    terminal.keys("\u{3}").await;
    terminal.is_restored(0).await;

    let terminal = Terminal::start(&hub).await_start().await;
    let url = format!("RECADO_URL=http://{}", hub.address);
    let pids = std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let is_ours = |pid: &u32| {
        let read = |name: &str| std::fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
        let command = String::from_utf8_lossy(&read("cmdline")).into_owned();
        command.starts_with(env!("CARGO_BIN_EXE_recado"))
            && command.contains("\0top")
            && String::from_utf8_lossy(&read("environ")).contains(&url)
    };
    let ours: Vec<u32> = pids.filter(is_ours).collect();
    assert_eq!(ours.len(), 1, "{ours:?}");
    recado_testkit::process::signal("-TERM", ours[0]).await.unwrap();
    terminal.is_restored(0).await;
}

impl Terminal {
    /// Waits until the first screen is drawn.
    async fn await_start(mut self) -> Self {
        self.shows("recado top").await;
        self.shows("q quit").await;
        self
    }
}

/// A hub that goes away is said, and found again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_hub_is_said_on_the_screen() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    eventually("the first heartbeat", PATIENCE, async || {
        (hub.get("/api/admin/instances", Some(&db.admin_key())).await.unwrap().0 == 200).then_some(())
    })
    .await;
    let mut terminal = Terminal::start(&hub).await_start().await;
    // The stream is open once a second sample has come.
    terminal.shows("in 0/s").await;
    hub.kill().await;
    tokio::time::timeout(Duration::from_secs(30), terminal.shows("no news: ")).await.expect("the loss is said");
    terminal.keys("q").await;
    terminal.is_restored(0).await;
}
