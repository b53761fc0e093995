//! Tests that docs/guides/analysts.md prints the answers that an analyst's login gets.
//!
//! The log is filled through a hub. Its times, and the facts about connections and devices, are then set, so that
//! answers are the same each time. The correct page is written to the test's output folder, to be copied.

use std::collections::BTreeSet;
use std::path::Path;

use recado::store::analysts;
use tokio::process::Command;

use super::retention::{ALL_FULL, log_of, retain};
use super::support::*;

/// Numbers 10 to 21, each with its time.
fn story() -> Vec<(&'static str, Note)> {
    let of = |kind: &str, title: &str, data: &str| note(title).raw("type", &format!("\"{kind}\"")).data(data);
    vec![
        (
            "2026-03-02 09:00:00",
            of("order_created", "New order", r#"{"order_id":"1001","customer_id":"42","total":59.90,"currency":"EUR","items":2}"#)
                .to_user("42"),
        ),
        (
            "2026-03-02 09:05:00",
            of("payment_confirmed", "Paid", r#"{"order_id":"1001","payment_id":"p-1","amount":59.90,"currency":"EUR"}"#).to_user("42"),
        ),
        (
            "2026-03-02 09:30:00",
            of("stock_alert", "Few lamps left", r#"{"product_id":"77","sku":"LAMP","quantity":3,"threshold":5}"#).account("7"),
        ),
        (
            "2026-03-02 16:00:00",
            of("order_updated", "Shipped", r#"{"order_id":"1001","status":"shipped","previous_status":"paid"}"#).to_user("42"),
        ),
        (
            "2026-03-03 09:10:00",
            of("product_added", "A new lamp", r#"{"product_id":"78","name":"Lamp","price":24.5,"currency":"EUR"}"#).to_everyone(),
        ),
        (
            "2026-03-03 09:20:00",
            of("order_created", "New order", r#"{"order_id":"1002","total":"120.00","currency":"EUR","items":"1"}"#).to_user("43"),
        ),
        ("2026-03-03 11:00:00", of("cart_updated", "Your cart", r#"{"cart_id":"c-1","items":4}"#).to_users(&["42", "43"])),
        (
            "2026-03-03 15:00:00",
            of("order_updated", "Delivered", r#"{"order_id":"1001","status":"delivered","previous_status":"shipped"}"#).to_user("42"),
        ),
        (
            "2026-03-03 16:30:00",
            of("order_created", "New order", r#"{"order_id":"1003","total":null,"items":{"a":1}}"#).to_user("43").account("7"),
        ),
        ("2026-03-04 08:00:00", of("stock_alert", "Few lamps left", r#"["not", "an object"]"#).account("7")),
        (
            "2026-03-04 09:45:00",
            of("payment_confirmed", "Paid", r#"{"order_id":"1002","payment_id":"p-2","amount":"120.00"}"#).to_user("43"),
        ),
        ("2026-03-04 10:00:00", of("profile_updated", "Profile", r#"{"field":"email"}"#).to_user("42").account("7")),
    ]
}

/// What connections and devices did: (session, user, device, from, sent, acked, connected, ended, reason), then when
/// each number was sent and acknowledged, in seconds after its append.
const DELIVERED: &str = "
    INSERT INTO recado.session (session_id, instance_id, user_id, account_ids, client_id, transport, log_id, from_seq, sent_seq, acked_seq,
                                connected_at, last_activity_at, ended_at, end_reason)
    SELECT id::uuid, gen_random_uuid(), user_id, '{7}', client_id, transport, m.log_id, from_seq, sent_seq, acked_seq,
           connected::timestamptz, ended::timestamptz, ended::timestamptz, reason
      FROM recado.meta m, (VALUES
           ('00000000-0000-0000-0000-000000000001', '42', 'web',    'websocket', 9, 17, 17, '2026-03-02 08:00', '2026-03-03 18:00', 'closed_by_client'),
           ('00000000-0000-0000-0000-000000000002', '42', 'tablet', 'sse',       9, 12,  9, '2026-03-02 08:30', '2026-03-02 12:00', 'lost'),
           ('00000000-0000-0000-0000-000000000003', '43', 'phone',  'websocket', 9, 16, 15, '2026-03-02 09:15', '2026-03-03 12:00', 'lost'),
           ('00000000-0000-0000-0000-000000000004', '42', 'web',    'websocket', 17, 21, 19, '2026-03-04 07:00', '2026-03-04 10:30', 'closed_by_client'))
           AS s (id, user_id, client_id, transport, from_seq, sent_seq, acked_seq, connected, ended, reason);
    INSERT INTO recado.progress (session_id, user_id, client_id, log_id, sent_seq, sent_at, acked_seq, acked_at)
    SELECT s.session_id, s.user_id, s.client_id, s.log_id, l.seq, greatest(l.created_at, s.connected_at) + interval '1 second',
           CASE WHEN l.seq <= s.acked_seq THEN l.seq END,
           CASE WHEN l.seq <= s.acked_seq THEN greatest(l.created_at, s.connected_at) + interval '1 second' + l.seq % 5 * interval '1.5 seconds' END
      FROM recado.session s JOIN recado.log l ON l.seq > s.from_seq AND l.seq <= s.sent_seq;
    INSERT INTO recado.cursor (user_id, client_id, log_id, acked_seq, acked_at, created_at)
    SELECT user_id, client_id, m.log_id, acked_seq, acked::timestamptz, made::timestamptz
      FROM recado.meta m, (VALUES
           ('42', 'web',    19, '2026-03-04 08:00:07', '2026-03-02 08:00'),
           ('42', 'tablet',  4, '2026-02-28 20:00:00', '2026-02-01 08:00'),
           ('43', 'phone',  15, '2026-03-03 09:20:01', '2026-03-02 09:15')) AS c (user_id, client_id, acked_seq, acked, made);
    INSERT INTO recado.upstream_session (provider, user_id, state, attempts, error, last_message_at, wanted_until)
    VALUES ('games', '42', 'idle', 0, NULL, '2026-03-04 10:20', '2026-03-04 10:30'),
           ('games', '43', 'refused', 3, 'no such player', NULL, '2026-03-03 12:00');
    INSERT INTO recado.upstream_command (command_id, provider, user_id, client_id, session_id, id, type, payload, state, term, accepted_at,
                                         reject_at, taken_at, settled_at, detail)
    SELECT gen_random_uuid(), 'games', user_id, client_id, '00000000-0000-0000-0000-000000000001', id, 'bet', '{\"chip\":5}', state,
           CASE WHEN state <> 'rejected' THEN 1 END, at::timestamptz, at::timestamptz + interval '10 seconds',
           CASE WHEN state <> 'rejected' THEN at::timestamptz + interval '0.01 seconds' END, at::timestamptz + took::interval, detail
      FROM (VALUES
           ('42', 'web',   'b-1', 'sent',     '2026-03-02 09:10:00', '0.02 seconds', NULL),
           ('42', 'web',   'b-2', 'sent',     '2026-03-02 09:11:00', '0.03 seconds', NULL),
           ('42', 'web',   'b-3', 'unknown',  '2026-03-02 09:12:00', '7 seconds',    'owner_lost'),
           ('43', 'phone', 'b-1', 'rejected', '2026-03-03 09:30:00', '10 seconds',   'not_taken')) AS c (user_id, client_id, id, state, at, took, detail);";

/// What users did with their inboxes, at 22 and above.
const CHANGES: [(&str, &str, &str); 3] = [
    ("2026-03-04 10:20:00", "42", r#"{"op":"read","seqs":[10,17,21]}"#),
    ("2026-03-04 10:25:00", "43", r#"{"op":"read","up_to":16}"#),
    ("2026-03-04 10:30:00", "42", r#"{"op":"archive","seqs":[12]}"#),
];

/// A log whose first nine notifications retention has dropped, and whose story begins at 10.
async fn told() -> TestDb {
    let db = log_of(10).await;
    let hub = TestHub::on(&db).start().await;
    for _ in 0..9 {
        hub.post(&note("long ago").to_user("42")).await;
    }
    let story = story();
    for (at, (_, note)) in story.iter().enumerate() {
        assert_eq!(hub.post(note).await.seq, 10 + at as i64);
        if at == 0 {
            assert_eq!(retain(&db, ALL_FULL).await.partitions_dropped, 1);
        }
    }
    // A hub would end sessions of a hub that it does not know.
    hub.kill().await;
    db.run(
        "INSERT INTO recado.inbox_since (user_id, topic, seq) VALUES ('42', '*', 9), ('42', 'a/7', 9), ('43', '*', 9), ('43', 'a/7', 9)",
    )
    .await;
    for (_, user, change) in CHANGES {
        db.run(&format!("SELECT recado.append_inbox_change(0, NULL, 'test', '{user}', 'inbox', '{change}')")).await;
    }
    let all_times = story.iter().map(|(time, _)| *time).chain(CHANGES.map(|(time, ..)| time));
    let times: Vec<String> = all_times.enumerate().map(|(at, time)| format!("({}, '{time}+00')", at + 10)).collect();
    let set = "UPDATE recado.log l SET created_at = t.at::timestamptz FROM (VALUES";
    db.run(&format!(
        "SET session_replication_role = replica; SET TimeZone = 'UTC'; {set} {}) AS t (seq, at) WHERE t.seq = l.seq; {DELIVERED}",
        times.join(",")
    ))
    .await;
    db
}

/// The page with correct answers: each `sql` block is followed by one fenced `text`.
async fn answered(page: &str, url: &str) -> String {
    let mut out = String::new();
    let mut rest = page;
    while let Some((before, after)) = rest.split_once("```sql\n") {
        let (question, after) = after.split_once("```\n").unwrap();
        // A block with an expectation is not an analyst's question; the test of the pages runs it.
        if before.ends_with("-->\n") {
            out.push_str(&format!("{before}```sql\n{question}```\n"));
            rest = after;
            continue;
        }
        out.push_str(&format!("{before}```sql\n{question}```\n\n```text\n{}```\n", answer(url, question).await));
        // Skips an answer that is on the page already.
        rest = match after.strip_prefix("\n```text\n") {
            Some(old) => old.split_once("```\n").unwrap().1,
            None => after,
        };
    }
    out + rest
}

async fn answer(url: &str, question: &str) -> String {
    let mut psql = Command::new(super::docs::psql());
    psql.args(["-X", "-v", "ON_ERROR_STOP=1", "-P", "pager=off", "-d", url, "-c", question]).env_clear();
    let output = tokio::time::timeout(PATIENCE * 2, psql.output()).await.expect("it answers").unwrap();
    assert!(output.status.success(), "{question}\n{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.trim_end().lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn every_question_of_the_pages_is_answered_as_printed() {
    let db = told().await;
    let name = format!("page-{}", db.name);
    analysts::create(&mut db.connect().await, &name, "secret").await.unwrap();
    let url = db.url_of(&name, "secret");
    let mut wrong = Vec::new();
    let mut asked = 0;
    for page in ["docs/guides/analysts.md"] {
        let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(page)).unwrap();
        asked += text.matches("```sql\n").count();
        let should = answered(&text, &url).await;
        if should != text {
            let correct = Path::new(env!("CARGO_TARGET_TMPDIR")).join(page.replace('/', "-"));
            std::fs::write(&correct, &should).unwrap();
            let differs = text.lines().zip(should.lines()).position(|(is, should)| is != should).unwrap_or_default();
            wrong.push(format!(
                "{page}:{}: should be {:?}; the whole page is in {}",
                differs + 1,
                should.lines().nth(differs),
                correct.display()
            ));
        }
    }
    analysts::drop(&mut db.connect().await, &name).await.unwrap();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(asked >= 17, "{asked}");
}

/// Each view with its columns, as docs/reference/sql-views.md lists them.
fn listed(page: &str) -> BTreeSet<(String, String)> {
    let (views, types) = page.split_once("## Views of one type").unwrap();
    let quoted = |text: &str| text.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    let cell = |line: &str, at: usize| line.split('|').nth(at).unwrap_or_default().to_owned();
    let mut found = BTreeSet::new();
    for section in views.split("\n## ").skip(1) {
        let view = quoted(section.lines().next().unwrap()).remove(0);
        let columns = section.lines().filter(|line| line.starts_with("| `")).flat_map(|line| quoted(&cell(line, 1)));
        found.extend(columns.map(|column| (view.clone(), column)));
    }
    let (common, table) = types.split_once("\n| view").unwrap();
    let common: Vec<String> = quoted(common).into_iter().filter(|word| word != "notifications").collect();
    for line in table.lines().filter(|line| line.starts_with("| `")) {
        let view = quoted(&cell(line, 1)).remove(0);
        // The introduction names `data` twice.
        found.extend(quoted(&cell(line, 2)).into_iter().chain(common.iter().cloned()).map(|column| (view.clone(), column)));
    }
    found
}

#[tokio::test]
async fn the_page_of_views_lists_each_view_and_column() {
    let db = TestDb::new().await;
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference/sql-views.md")).unwrap();
    let there: Vec<(String, String)> =
        sqlx::query_as("SELECT table_name::text, column_name::text FROM information_schema.columns WHERE table_schema = 'recado_views'")
            .fetch_all(&mut db.connect().await)
            .await
            .unwrap();
    assert!(there.len() > 100, "{}", there.len());
    assert_eq!(listed(&page), there.into_iter().collect(), "on the left docs/reference/sql-views.md, on the right the database");
}
