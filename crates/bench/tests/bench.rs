//! Tests that a bench measures what it says, and that runs are compared by ratios.
//!
//! Small benches take seconds. Each starts a private server of its own. `cargo test --workspace` builds the hub that
//! they start.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on should end at that very line")]

use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use recado_testkit::process::ReadyProcess;
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::sync::{Semaphore, SemaphorePermit};

const BENCH: &str = env!("CARGO_BIN_EXE_recado-bench");

/// One bench at a time: each measures times.
async fn turn() -> SemaphorePermit<'static> {
    static TURN: Semaphore = Semaphore::const_new(1);
    TURN.acquire().await.unwrap()
}

fn bench(args: &[&str]) -> Command {
    command(Path::new(BENCH), args)
}

fn command(program: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(args).env_clear().env("PATH", "/usr/bin:/bin").kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

async fn ended(mut command: Command) -> Output {
    tokio::time::timeout(Duration::from_secs(300), command.output()).await.expect("the command ends").unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout)
}

/// Runs a bench; returns the JSON that it wrote.
async fn measured(args: &[&str]) -> Value {
    let _turn = turn().await;
    let output = ended(bench(&[args, &["--json", "-", "--label", "small", "--revision", "abc"]].concat())).await;
    assert!(output.status.success(), "{args:?}: {}", said(&output));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", said(&output)))
}

fn figure<'a>(results: &'a Value, name: &str) -> &'a Value {
    let figures = results["figures"].as_array().unwrap();
    figures.iter().find(|figure| figure["name"] == name).unwrap_or_else(|| panic!("no {name}: {results:#}"))
}

fn value(results: &Value, name: &str) -> f64 {
    figure(results, name)["value"].as_f64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "slow"]
async fn a_storm_brings_everyone_back_with_what_they_missed() {
    let found = measured(&["storm", "--clients", "40", "--missed", "3", "--rate", "20"]).await;
    assert_eq!((&found["bench"], &found["label"], &found["revision"]), (&json!("storm"), &json!("small"), &json!("abc")));
    assert!(value(&found, "cut_to_all_live_s") >= value(&found, "away_s"), "{found:#}");
    assert_eq!(value(&found, "posts_failed"), 0.0);
    assert!(value(&found, "database_connections") >= 3.0, "{found:#}");
    let compared = figure(&found, "return_to_all_live_s");
    assert!(compared["ceiling"]["value"].as_f64() > Some(0.0) && compared["ratio"].is_number(), "{found:#}");
    assert_eq!(figure(&found, "cut_to_all_live_s")["goal"], json!({ "at_most": 15.0 }));
    let machine = &found["machine"];
    assert!(machine["cores"].as_u64() > Some(0) && machine["postgresql"].is_string() && machine["commit_ms"].is_number(), "{machine:#}");
    assert!(found["measured"].is_string(), "{found:#}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "slow"]
async fn fan_out_is_measured_beside_a_program_that_only_writes() {
    let found = measured(&["fanout", "--connections", "30", "--posts", "2", "--quiet", "1"]).await;
    assert!(value(&found, "socket_p50_ms") > 0.0 && value(&found, "plain_writer_p50_ms") > 0.0, "{found:#}");
    assert!(value(&found, "frame_bytes") > 300.0, "{found:#}");
    assert!(!found["notes"].to_string().contains("missing"), "{found:#}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "slow"]
async fn two_hubs_are_measured_beside_one() {
    let found = measured(&["pair", "--connections", "4", "--seconds", "1", "--rounds", "1", "--rate", "20"]).await;
    assert!(figure(&found, "two_hubs_posts_per_s")["ratio"].is_number(), "{found:#}");
    assert!(value(&found, "other_hub_p50_ms") > 0.0);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "slow"]
async fn curves_are_measured_and_drawn() {
    let found = measured(&["curves", "--connections", "5,20", "--accounts", "1,4", "--seconds", "1", "--rate", "20"]).await;
    let points = |curve: usize| found["curves"][curve]["series"][0]["points"].as_array().unwrap().iter().map(|p| p["size"].clone());
    assert_eq!(points(0).collect::<Vec<_>>(), [5.0, 20.0]);
    assert_eq!(points(1).collect::<Vec<_>>(), [1.0, 4.0]);
    let folder = tempfile::tempdir().unwrap();
    let kept = keep(folder.path(), "found.json", &found);
    let output = ended(bench(&["chart", &kept, "--out", &folder.path().display().to_string()])).await;
    assert!(output.status.success(), "{}", said(&output));
    for name in ["connections.svg", "accounts.svg"] {
        let svg = std::fs::read_to_string(folder.path().join(name)).unwrap();
        assert!(svg.starts_with("<svg ") && svg.contains("<polyline ") && svg.contains("bench curves (small)"), "{svg}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "slow"]
async fn logs_of_two_lengths_are_asked_in_turns() {
    let _turn = turn().await;
    let args = ["growth", "--small", "300", "--large", "3000", "--devices", "50", "--points", "2", "--rounds", "1", "--relaxed"];
    let output = ended(bench(&[&args[..], &["--json", "-"]].concat())).await;
    assert!(output.status.success(), "{}", said(&output));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    for question in ["append_1", "append_100", "resume_100", "newest_page", "why", "head", "place", "retention_look", "device_step"] {
        let [large, small] = ["large", "small"].map(|log| value(&found, &format!("{question}_{log}_p50_ms")));
        let growth = figure(&found, &format!("{question}_growth"));
        let ratio = growth["value"].as_f64().unwrap() / (large / small);
        assert!(growth["met"].is_boolean() && (0.99..1.01).contains(&ratio), "{question}: {found:#}");
    }
    // 200 users resume and each missed 100 rows; the round appends 76 single rows and 21 batches of a hundred, twice.
    let points = found["curves"][0]["series"][0]["points"].as_array().unwrap();
    let [small, large] = [300, 3000].map(|rows| (rows + 20_000, rows + 20_000 + 2 * (76 + 2100)));
    let middles = [small, large].map(|(first, last)| f64::from(first + last) / 2.0);
    assert_eq!(points.iter().map(|point| point["size"].as_f64().unwrap()).collect::<Vec<_>>(), middles);
    for (first, last) in [small, large] {
        let told = format!("{first} rows before the first question, {first} of them in its newest partition, {last} at the end");
        assert!(found["notes"].to_string().contains(&told), "{told}: {found:#}");
    }
}

/// Runs all of `peers` with sizes that a debug build manages, and compares what no clock decides.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "slow"]
async fn peers_counts_stay_within_the_baseline() {
    let _turn = turn().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("peers.json").display().to_string();
    let output = ended(bench(&["peers", "--quick", "--json", &file])).await;
    assert!(output.status.success(), "{}", said(&output));
    let table = String::from_utf8(output.stdout.clone()).unwrap();
    let found: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    for name in ["plain_insert_64_per_s", "publish_64_per_s", "publish_1_p50_ms", "receipt_p99_ms", "fanout_last_ms", "storm_large_s"] {
        assert!(value(&found, name) > 0.0 && table.contains(&format!("| {name} | ")), "{name}: {table}");
    }
    for name in ["publish_64_hub_cpu_s_per_1000", "connect_cpu_s_per_1000", "fanout_cpu_s_per_1000", "storm_large_cpu_s"] {
        assert!(value(&found, name) > 0.0, "{name}: {table}");
    }
    // Hub and database together cost more than the hub.
    assert!(value(&found, "publish_1_cpu_s_per_1000") > value(&found, "publish_1_hub_cpu_s_per_1000"), "{table}");
    assert!(value(&found, "kill_acknowledged") > 0.0, "{table}");
    for name in ["kill_lost", "paced_lost", "fanout_missing", "storm_large_posts_failed"] {
        assert_eq!(value(&found, name), 0.0, "{name}: {table}");
    }
    let baseline = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/internals/bench/counts.json").display().to_string();
    let compared = ended(bench(&["compare", "--counts", "--tolerance", "1.5", &baseline, &file])).await;
    assert!(compared.status.success(), "{}", said(&compared));
    assert!(said(&compared).contains("connect_statements"), "{}", said(&compared));
}

/// A hub whose database is out of reach is measured by its URL and the processes that are named.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "slow"]
async fn peers_measures_a_hub_by_its_url() {
    let _turn = turn().await;
    let folder = tempfile::tempdir().unwrap();
    let secret = "a-secret-of-at-least-32-bytes-for-tests";
    let mut hub = command(&Path::new(BENCH).with_file_name("recado"), &["serve", "--bind", "127.0.0.1", "--port", "0"]);
    hub.env("RECADO_DATA_DIR", folder.path().join("data")).env("RECADO_JWT_SECRET", secret).stderr(Stdio::null());
    let hub = ReadyProcess::spawn(hub, Duration::from_secs(90)).await.unwrap();
    let (url, pid) = (format!("http://{}", hub.address), hub.pid().unwrap().to_string());
    let args = ["peers", "--quick", "--url", &url, "--no-database", "--server-pid", &pid, "--json", "-"];
    let mut run = bench(&args);
    run.env("RECADO_JWT_SECRET", secret);
    let output = ended(run).await;
    let mut hub = hub;
    hub.terminate(Duration::from_secs(30)).await.unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    for name in ["publish_64_cpu_s_per_1000", "idle_hub_resident_kib", "storm_large_s", "connect_cpu_s_per_1000"] {
        assert!(value(&found, name) > 0.0, "{found:#}");
    }
    let names: Vec<_> = found["figures"].as_array().unwrap().iter().map(|figure| figure["name"].as_str().unwrap()).collect();
    assert!(!names.contains(&"post_transactions") && !names.contains(&"kill_lost"), "{names:?}");
}

fn keep(folder: &Path, name: &str, results: &Value) -> String {
    let path = folder.join(name);
    std::fs::write(&path, results.to_string()).unwrap();
    path.display().to_string()
}

/// A run in which a hub reached this share of plain SQL's rate.
fn run(part: f64) -> Value {
    let figure = json!({ "name": "posts_per_s", "value": part * 1000.0, "unit": "1/s", "ceiling": { "name": "plain", "value": 1000 },
                         "ratio": part, "goal": { "at_least": 0.3 }, "met": part >= 0.3 });
    json!({ "bench": "publish", "settings": {}, "figures": [figure], "notes": [], "measured": "2026-01-01T00:00:00Z", "version": "0.1.0",
            "machine": { "cores": 2, "postgresql": "15", "load": 0.1, "release": true } })
}

#[tokio::test]
#[ignore = "slow"]
async fn a_run_that_got_worse_fails_the_comparison() {
    let folder = tempfile::tempdir().unwrap();
    let baseline = keep(folder.path(), "baseline.json", &json!([run(0.6)]));
    for (part, args, code, verdict) in
        [(0.55, &[][..], 0, "same"), (0.4, &[], 1, "worse"), (0.4, &["--tolerance", "2"], 0, "same"), (0.9, &[], 0, "better")]
    {
        let new = keep(folder.path(), "new.json", &run(part));
        let output = ended(bench(&[&["compare", &baseline, &new], args].concat())).await;
        assert_eq!(output.status.code(), Some(code), "{part}: {}", said(&output));
        assert!(String::from_utf8_lossy(&output.stdout).contains(verdict), "{part}: {}", said(&output));
    }
    let other = keep(folder.path(), "other.json", &json!([]));
    assert_eq!(ended(bench(&["compare", &baseline, &other])).await.status.code(), Some(1), "nothing in common is no success");
}

#[tokio::test]
#[ignore = "slow"]
async fn without_a_hub_next_to_it_a_bench_says_what_to_build() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let alone = folder.path().join("recado-bench");
    std::fs::hard_link(BENCH, &alone).unwrap();
    let output = ended(command(&alone, &["publish"])).await;
    let hub = folder.path().join("recado").display().to_string();
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains(&hub) && said(&output).contains("cargo build"), "{}", said(&output));
}

/// A bench has dozens of flags; the --help of each bench lists them.
#[tokio::test]
async fn the_page_of_the_command_line_names_each_bench() {
    let output = ended(bench(&["--help"])).await;
    let said = String::from_utf8(output.stdout).unwrap();
    let listed = said.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let benches: Vec<&str> = listed.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help").collect();
    assert!(benches.len() > 10 && !benches.contains(&"plain-server"), "{benches:?}");
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/cli.md")).unwrap();
    let missing: Vec<_> = benches.into_iter().filter(|name| !page.contains(&format!("`recado-bench {name}`"))).collect();
    assert_eq!(missing, Vec::<&str>::new(), "missing in docs/reference/cli.md");
}
