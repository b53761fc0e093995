//! Tests that an export holds every notification once, in order and unchanged.
//!
//! This holds wherever the export was interrupted.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use recado::store::{Database, read};
use serde_json::Value;
use tokio::process::Command;

use super::retention::{ALL_FULL, log_of, retain};
use super::support::*;

fn export(db: &TestDb, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_recado"));
    command.arg("export").args(args).env_clear().kill_on_drop(true).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.env("DATABASE_URL", db.url()).env("RECADO_ALLOW_UNSAFE_DURABILITY", "on");
    command
}

async fn run(db: &TestDb, args: &[&str]) -> Output {
    tokio::time::timeout(Duration::from_secs(120), export(db, args).output()).await.expect("the command ends").unwrap()
}

async fn done(db: &TestDb, args: &[&str]) -> String {
    let output = run(db, args).await;
    assert!(output.status.success(), "{args:?}: {}", said(&output));
    String::from_utf8(output.stdout).unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

fn seqs(text: &str) -> Vec<i64> {
    lines(text).iter().map(|line| line["seq"].as_i64().unwrap()).collect()
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

/// Writes rows directly to the database, because posting them would take long.
async fn fill(db: &TestDb, from: i64, to: i64, bytes: i64) {
    db.run(&format!(
        "INSERT INTO recado.log (seq, id, created_at, type, title, message, data, topic, replay, source, bytes)
         SELECT n, gen_random_uuid(), '2026-03-01'::timestamptz + n * interval '1 second', CASE WHEN n % 10 = 0 THEN 'rare' ELSE 'common' END,
                'two' || chr(10) || 'lines, \"quoted\"', repeat('x', {bytes}), ('{{\"n\":' || chr(10) || n || '}}')::json, '*', true, 's', {bytes} + 40
           FROM generate_series({from}, {to}) n"
    ))
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_formats_hold_everything_as_it_is() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let tricky = ["plain", "a \"quote\"", "comma, comma", "two\nlines", "cr\r\nlf", "ünï 😀", " spaces ", "\\.", "NULL", "'", "\t"];
    for text in tricky {
        hub.post(&note(text).message(text).to_user("ann").data("{\n \"n\": 1.0,\r\n \"t\": \"\\\"\\n\"}")).await;
        hub.post(&note(text).to_users(&["ann", "bob"]).account("7").ttl(60)).await;
    }
    hub.post(&note("live").to_everyone().never_replayed()).await;
    let head = db.head().await;
    let printed = done(&db, &[]).await;
    assert_eq!(seqs(&printed), (1..=head).collect::<Vec<_>>());
    let first = &lines(&printed)[6];
    assert_eq!((first["title"].as_str(), first["user_id"].as_str()), (Some("two\nlines"), Some("ann")));

    // PostgreSQL reads the CSV, and finds what the log has.
    let folder = Folder::new();
    let file = folder.file("log.csv");
    done(&db, &[file.to_str().unwrap(), "--format", "csv"]).await;
    db.run(
        "CREATE TABLE loaded (log_id uuid, seq bigint, id uuid, created_at timestamptz, type text, title text, message text, data text,
                              address text, user_id text, account_id text, user_ids json, expires_at timestamptz, replay boolean, source text)",
    )
    .await;
    let mut psql = Command::new(super::docs::psql());
    let copy = format!("\\copy loaded FROM '{}' WITH (FORMAT csv, HEADER match)", file.display());
    let loaded = psql.args(["-X", "-v", "ON_ERROR_STOP=1", "-d", &db.url(), "-c", &copy]).output().await.unwrap();
    assert!(loaded.status.success(), "{}", said(&loaded));
    let differ = "SELECT count(*) FROM recado.log l FULL JOIN loaded c USING (seq)
                   WHERE (l.id, l.created_at, l.type, l.title, l.message, l.data::text, l.topic, l.user_id, l.account_id, array_to_json(l.user_ids)::text,
                          l.expires_at, l.replay, l.source, (SELECT log_id FROM recado.meta))
                         IS DISTINCT FROM
                         (c.id, c.created_at, c.type, c.title, c.message, c.data, c.address, c.user_id, c.account_id, c.user_ids::text,
                          c.expires_at, c.replay, c.source, c.log_id)";
    assert_eq!(db.number(differ).await, 0);
    assert_eq!(db.number("SELECT count(*) FROM loaded").await, head);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_is_chosen_by_time_and_type() {
    let db = TestDb::new().await;
    fill(&db, 1, 9000, 10).await;
    let from = ["--since", "2026-03-01T00:10:00Z", "--until", "2026-03-01T01:00:00+00:00", "--type", "rare", "--type", "other"];
    assert_eq!(seqs(&done(&db, &from).await), (600..3600).step_by(10).collect::<Vec<_>>());
    assert_eq!(done(&db, &["--since", "2026-03-02"]).await, "");
    assert_eq!(seqs(&done(&db, &["--until", "2026-03-02"]).await).len(), 9000);
    for wrong in [&["--since", "yesterday"][..], &["--format", "xml"], &["--resume"], &["-", "--resume"]] {
        assert_eq!(run(&db, wrong).await.status.code(), Some(2), "{wrong:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn killed_again_and_again_and_resumed_it_is_as_if_it_had_not_been() {
    let _turn = heavy().await;
    let db = TestDb::new().await;
    fill(&db, 1, 30_000, 500).await;
    let folder = Folder::new();
    for format in ["ndjson", "csv"] {
        let (whole, broken) = (folder.file("whole"), folder.file("broken"));
        done(&db, &[whole.to_str().unwrap(), "--format", format]).await;
        let mut kills = 0;
        loop {
            let before = length(&broken);
            let mut child = export(&db, &[broken.to_str().unwrap(), "--format", format, "--resume"]).spawn().unwrap();
            // Kills the export at another offset each time; without a pause, or the page would be complete.
            let goal = before + 1_000_000 + kills * 333_333;
            let ended = loop {
                if let Some(ended) = child.try_wait().unwrap() {
                    break Some(ended);
                }
                if length(&broken) > goal {
                    break None;
                }
                tokio::task::yield_now().await;
            };
            if let Some(ended) = ended {
                assert!(ended.success());
                break;
            }
            child.kill().await.unwrap();
            kills += 1;
            // A kill within a write leaves half a record.
            let torn = length(&broken) - 1 - kills * 7 % 300;
            std::fs::OpenOptions::new().write(true).open(&broken).unwrap().set_len(torn).unwrap();
        }
        assert!(kills >= 3, "{format}: it was killed {kills} times only");
        assert!(std::fs::read(&whole).unwrap() == std::fs::read(&broken).unwrap(), "{format}: the files differ");
        fill(&db, db.head().await + 1, db.head().await + 5, 500).await;
        let resumed = run(&db, &[broken.to_str().unwrap(), "--format", format, "--resume"]).await;
        assert!(said(&resumed).contains("5 records"), "{}", said(&resumed));
        std::fs::remove_file(&whole).unwrap();
        std::fs::remove_file(&broken).unwrap();
    }
}

fn length(file: &Path) -> u64 {
    std::fs::metadata(file).map_or(0, |meta| meta.len())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_of_another_history_or_with_a_gap_is_left_as_it_is() {
    let db = log_of(10).await;
    let hub = TestHub::on(&db).start().await;
    for n in 1..=5 {
        hub.post(&note(&n.to_string()).to_everyone()).await;
    }
    let folder = Folder::new();
    let path = folder.file("log");
    let file = path.to_str().unwrap();
    done(&db, &[file]).await;
    let before = std::fs::read(&path).unwrap();
    let refused = async |args: &[&str], code: i32, text: &str| {
        let output = run(&db, args).await;
        assert!(output.status.code() == Some(code) && said(&output).contains(text), "{args:?}: {:?} {}", output.status, said(&output));
        assert_eq!(std::fs::read(&path).unwrap(), before, "{args:?}");
    };
    refused(&[file], 1, "continue it with --resume").await;
    refused(&[file, "--resume", "--format", "csv"], 78, "not written by").await;
    {
        let held = std::fs::File::open(&path).unwrap();
        held.lock().unwrap();
        refused(&[file, "--resume"], 1, "another export").await;
    }
    for n in 6..=25 {
        hub.post(&note(&n.to_string()).to_everyone()).await;
    }
    assert_eq!(retain(&db, ALL_FULL).await.partitions_dropped, 2);
    refused(&[file, "--resume"], 1, "retention dropped 6 to 19").await;
    let kept = folder.file("kept");
    done(&db, &[kept.to_str().unwrap()]).await;
    assert_eq!(seqs(&std::fs::read_to_string(&kept).unwrap()), (20..=25).collect::<Vec<_>>());
    // The log was restored without the hub's knowledge, under the same name: the number exists, and is another
    // notification.
    let mut forged = String::from_utf8(std::fs::read(&kept).unwrap()).unwrap();
    let id = lines(&forged).last().unwrap()["id"].as_str().unwrap().to_owned();
    forged = forged.replace(&id, "0198b8c4-0000-7000-8000-000000000000");
    std::fs::write(&kept, &forged).unwrap();
    let output = run(&db, &[kept.to_str().unwrap(), "--resume"]).await;
    assert!(output.status.code() == Some(78) && said(&output).contains("restored"), "{}", said(&output));
    assert_eq!(std::fs::read_to_string(&kept).unwrap(), forged);

    let mut connection = db.connect().await;
    let old = read::state(&mut connection).await.unwrap().log_id;
    read::renew_log_id(&mut connection, old).await.unwrap();
    refused(&[file, "--resume"], 78, "the database now has").await;
    let absent = Database::parse("postgres://nobody@127.0.0.1:1/nowhere", None).unwrap();
    drop(absent);
    let mut away = export(&db, &[]);
    away.env("DATABASE_URL", "postgres://nobody@127.0.0.1:1/nowhere");
    assert_eq!(away.output().await.unwrap().status.code(), Some(69));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn a_large_log_takes_little_memory_and_no_transaction() {
    let _turn = heavy().await;
    let db = TestDb::new().await;
    fill(&db, 1, 1500, 100_000).await;
    let mut child = export(&db, &[]).spawn().unwrap();
    let status = format!("/proc/{}/status", child.id().unwrap());
    let mut out = child.stdout.take().unwrap();
    let mut taken = 0_u64;
    let mut peak = 0;
    let mut piece = vec![0; 1 << 20];
    loop {
        let read = tokio::time::timeout(PATIENCE, tokio::io::AsyncReadExt::read(&mut out, &mut piece)).await.expect("it goes on").unwrap();
        if read == 0 {
            break;
        }
        taken += read as u64;
        let high = std::fs::read_to_string(&status).unwrap_or_default();
        let high =
            high.lines().find_map(|line| line.strip_prefix("VmHWM:")).and_then(|kb| kb.trim().trim_end_matches(" kB").parse::<u64>().ok());
        peak = peak.max(high.unwrap_or(0));
        // While the export waits for its reader, it holds no transaction open.
        if taken < 3_000_000 {
            let open = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'recado export' AND state LIKE 'idle in%'";
            assert_eq!(db.number(open).await, 0);
        }
    }
    assert!(child.wait().await.unwrap().success());
    assert!(taken > 150_000_000, "{taken}");
    assert!(peak > 0 && peak < 60_000, "{peak} kB for {taken} bytes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn csv_has_its_header_everywhere_and_a_file_is_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    hub.post(&note("=HYPERLINK(\"http://evil\")").to_user("ann")).await;
    let folder = Folder::new();
    let file = folder.file("log.csv");
    done(&db, &[file.to_str().unwrap(), "--format", "csv"]).await;
    let written = std::fs::read_to_string(&file).unwrap();
    assert!(written.starts_with("log_id,seq,id,") && written.contains(",\"=HYPERLINK"), "{written}");
    assert_eq!(done(&db, &["--format", "csv"]).await, written, "stdout gets the same");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let safe = done(&db, &["--format", "csv", "--spreadsheet-safe"]).await;
    assert!(safe.contains(",\"'=HYPERLINK"), "{safe}");
    assert_eq!(run(&db, &["--spreadsheet-safe"]).await.status.code(), Some(2), "it is for CSV");
}
