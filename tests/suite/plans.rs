//! Tests that the store's queries cost the same in a log ten times as long.
//!
//! They look at the same number of pages, through the same indexes.
//!
//! The statements are those that the store sends, as the server reports them after execution; none is copied here.
//! Pages are counted, not seconds, so that a busy machine changes nothing.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use recado::domain::{
    AccountId, AskedChange, Audience, BodyHash, Changed, ClientId, IdempotencyKey, InboxChange, InstanceId, ItemOp, NewNotification,
    NotificationId, Principal, Seq, SessionId, StartTime, UpToOp, UserId,
};
use recado::store::acked_positions::{self, Ack, DevicePosition};
use recado::store::append::{self, Conflict, NewBatch};
use recado::store::device_expiry::{self, WalkPosition};
use recado::store::inbox::{self, InboxFilter};
use recado::store::log_watermark::WatermarkEnd;
use recado::store::resume::ConnectionBegin;
use recado::store::{self, Database, console, read, retention};

use super::support::*;

/// Number of partitions with rows, whatever the log's length. A backward search for a rare row looks into each
/// partition once, some pages in millions of rows; this test does not measure that.
const PARTITIONS: i64 = 4;
/// Users of the log. Each has one row in fifty, and is a listed recipient of one row in fifty-one.
const USERS: i64 = 50;

/// Plans of a question, inner statements first.
type Plans = BTreeMap<&'static str, Vec<ExecutedPlan>>;

fn user(n: i64) -> UserId {
    UserId::parse(&format!("u{}", n % USERS)).unwrap()
}

/// A log of so many rows, each with a key, three in ten with a list of recipients. One device for each five rows,
/// stored in the order of its key.
async fn filled(rows: i64) -> TestDb {
    let db = TestDb::new().await;
    let partition = rows / PARTITIONS;
    db.with_partitions(&format!("UPDATE recado.meta SET partition_rows = {partition}; SELECT recado.ensure_partitions();")).await;
    for first in (1..=rows).step_by(2500) {
        db.run(&format!(
            "SELECT recado.ensure_partitions();
             SELECT recado.append(0, NULL, 'test', array_agg(gen_random_uuid()), array_agg('t'::text), array_agg('title'::text), array_agg('m'::text),
                    array_agg(NULL::text), array_agg(CASE n % 10 WHEN 0 THEN 'l' ELSE 'u/u' || n % {USERS} END),
                    array_agg(CASE n % 10 WHEN 0 THEN NULL ELSE 'u' || n % {USERS} END), array_agg(NULL::text),
                    array_agg(CASE n % 10 WHEN 0 THEN format('{{u%s,u%s,u%s}}', n % {USERS}, n / 10 % {USERS}, n / 7 % {USERS}) END),
                    array_agg(NULL::integer), array_agg(true), array_agg('test'::text), array_agg(md5(n::text)::uuid), array_agg(0::bigint))
               FROM generate_series({first}, {}) n",
            first + 2499
        ))
        .await;
    }
    db.run(&format!(
        "INSERT INTO recado.cursor (user_id, client_id, log_id, acked_seq, acked_at, seen_at)
         SELECT 'u' || n % {USERS}, 'd' || n / {USERS}, log_id, n, t.at, t.at
           FROM recado.meta, generate_series(0, {} - 1) n,
                LATERAL (SELECT now() - CASE WHEN n / {USERS} % 20 = 7 THEN interval '30 days' ELSE interval '0' END) AS t (at)
          ORDER BY 1, 2",
        rows / 5
    ))
    .await;
    db.run(&format!(
        "INSERT INTO recado.session (session_id, instance_id, user_id, account_ids, client_id, transport, log_id, from_seq, sent_seq, acked_seq,
                                     connected_at, last_activity_at, ended_at, end_reason, own_acked_seq, device_seq, is_kept)
         SELECT gen_random_uuid(), gen_random_uuid(), 'u' || n % {USERS}, '{{}}', 'd' || n / {USERS}, 'test', log_id, 0, n, n,
                now(), now(), now(), 'lost', n, n, n / {USERS} % 20 = 3
           FROM recado.meta, generate_series(0, {} - 1) n",
        rows / 5
    ))
    .await;
    // One user was a member of an account a hundred times in the last 3,000 numbers, and others of others.
    db.run(&format!(
        "INSERT INTO recado.member (user_id, account_id, since_seq, until_seq)
         SELECT 'u7', 'm', {rows} - 3000 + 30 * n, {rows} - 3000 + 30 * n + 15 FROM generate_series(0, 99) n
          UNION ALL
         SELECT 'other' || n, 'm' || n % 50, n, n + 1000 FROM generate_series(1, {rows} / 10) n"
    ))
    .await;
    // Each user has read all but the last 3,000 numbers, and 20 items of those.
    db.run(&format!(
        "INSERT INTO recado.inbox (user_id, seen_seq, read_seq) SELECT 'u' || n, {rows} - 3000, {rows} - 3000 FROM generate_series(0, {USERS} - 1) n;
         INSERT INTO recado.inbox_item (user_id, seq, is_read)
         SELECT 'u' || n, {rows} - {USERS} * (1 + k) + n, true FROM generate_series(0, {USERS} - 1) n, generate_series(1, 20) k;
         SELECT recado.inbox_open('u' || n, '{{}}') FROM generate_series(0, {USERS} - 1) n"
    ))
    .await;
    // Vacuuming records that the partitions ahead are empty. A plan made for that is wrong when they fill.
    db.run("VACUUM ANALYZE").await;
    db
}

/// Asks each question twice and keeps the second plan: the first one fills the caches of its connection.
async fn ask_all(db: &TestDb) -> Plans {
    tell_plans(db).await;
    let listening = PlanListener::start();
    let database = Database::parse(&db.url(), None).unwrap();
    let mut connection = database.connect("test").await.unwrap();
    let reader = database.reader("test", 1);
    let by_table = database.reader("test of members", 1).with_members(true);
    let state = read::state(&mut connection).await.unwrap();
    let (log_id, head) = (state.log_id, state.head);
    let who = Principal { user: user(7), accounts: Vec::new() };
    let client = ClientId::parse("d3").unwrap();
    let start = DevicePosition { log_id, acked: head };
    let mut plans = Plans::new();
    for round in 0..2 {
        listening.take();
        let mut told = |name| {
            let found = listening.take();
            assert!(!found.is_empty(), "{name}: the server told no plan");
            plans.insert(name, found);
        };
        read::state(&mut connection).await.unwrap();
        told("state");
        read::tail(&mut connection, Seq::from_db(head.get() - 20), read::TailSize::WHOLE, None).await.unwrap();
        told("tail");
        let page = read::page(&reader, &who, Seq::from_db(head.get() - 3000), head).await.unwrap();
        assert!(page.notifications.len() > 50, "{}", page.notifications.len());
        told("page");
        let page = read::page(&by_table, &who, Seq::from_db(head.get() - 3000), head).await.unwrap();
        assert!(page.notifications.len() > 50, "{}", page.notifications.len());
        told("page_of_a_member");
        assert_eq!(read::page_before(&by_table, &who, head.next(), Seq::ZERO, 50).await.unwrap().notifications.len(), 50);
        told("page_before_of_a_member");
        assert_eq!(read::page_before(&reader, &who, head.next(), Seq::ZERO, 50).await.unwrap().notifications.len(), 50);
        told("page_before");
        assert_eq!(read::page_of(&reader, &who, Seq::ZERO, head, 50).await.unwrap().notifications.len(), 50);
        told("page_from_the_start");
        read::id_at(&reader, Seq::from_db(head.get() / 2)).await.unwrap().unwrap();
        told("id_at");
        let hour = StartTime::Ago(Duration::from_secs(3600));
        assert_eq!(read::last_before(&reader, hour, Seq::ZERO, head).await.unwrap(), Seq::ZERO);
        told("last_before");
        let instance = InstanceId::new();
        let begin = |who: &Principal, client: &ClientId| {
            let (who, client) = (who.clone(), client.clone());
            ConnectionBegin { session: SessionId::new(), instance, who, client, transport: "test", follows_members: true, start }
        };
        store::resume::begin(&reader, &begin(&who, &client)).await.unwrap();
        told("place");
        // Devices that are known, and as many new ones.
        let devices = (0..20).flat_map(|n| [(user(n), client.clone()), (user(n), ClientId::parse(&format!("new{round}")).unwrap())]);
        let mut new: Vec<_> = devices.map(|(user, client)| begin(&Principal { user, accounts: Vec::new() }, &client)).collect();
        new.sort_by(|a, b| a.device().cmp(&b.device()));
        let stored = store::resume::begin_many(&mut connection, Seq::ZERO, &new.iter().collect::<Vec<_>>()).await.unwrap();
        assert!(stored.iter().all(Option::is_some), "{stored:?}");
        told("places");
        acked_positions::store(&mut connection, log_id, &acks(head, round)).await.unwrap();
        told("acks");
        acked_positions::seen(&mut connection, &[(who.user.clone(), client.clone())]).await.unwrap();
        told("seen");
        retention::partitions(&mut connection).await.unwrap();
        told("partitions");
        let all = console::log::LogFilter::default();
        let before = Seq::from_db(head.get() - 3000);
        assert_eq!(console::log::page(&reader, before, head, &all, 500).await.unwrap().rows.len(), 500);
        told("console_log");
        let of_nobody = console::log::LogFilter { source: Some("nobody".to_owned()), ..console::log::LogFilter::default() };
        assert!(console::log::page(&reader, before, head, &of_nobody, 500).await.unwrap().rows.is_empty());
        told("console_log_of_nobody");
        console::log::before_last(&reader, &state, &all, 100, 5000).await.unwrap();
        told("console_log_end");
        console::log::partitions(&reader).await.unwrap();
        told("console_partitions");
        let newest = console::devices::newest_numbers(&by_table, &who, Seq::ZERO, head, 100).await.unwrap();
        assert_eq!(newest.above(Seq::ZERO).count, 100);
        told("console_unacked");
        console::sessions::of_user_elsewhere(&reader, &who.user, InstanceId::new(), 1000).await.unwrap();
        told("console_user_sessions");
        device_expiry::step(&mut connection, Duration::from_secs(86_400), &WalkPosition::default()).await.unwrap();
        told("idle");
        let counts = inbox::counts(&reader, &who).await.unwrap().counts;
        assert!((40..=130).contains(&counts.unread) && counts.unseen > counts.unread + 15, "{counts:?}");
        told("inbox_counts");
        assert_eq!(inbox::counts(&by_table, &who).await.unwrap().counts, counts);
        told("inbox_counts_of_a_member");
        assert_eq!(inbox::page(&reader, &who, InboxFilter::All, None, 50).await.unwrap().items.len(), 50);
        told("inbox_page");
        assert_eq!(inbox::page(&reader, &who, InboxFilter::Unread, Some(head), 50).await.unwrap().items.len(), 50);
        told("inbox_page_of_unread");
        assert_eq!(inbox::page(&reader, &who, InboxFilter::Archived, None, 50).await.unwrap().items.len(), 0);
        told("inbox_page_of_archived");
        change_inbox(&mut connection, head, round).await;
        told("inbox_change");
        append(&mut connection, round).await;
        told("append");
        append::ensure_partitions(&mut connection, append::PARTITIONS_LIMIT).await.unwrap();
        told("ensure_partitions");
    }
    reader.close().await;
    by_table.close().await;
    plans
}

fn acks(head: Seq, round: i64) -> Vec<Ack> {
    let ack = |n| Ack { user: user(n), client: ClientId::parse("d3").unwrap(), acked: Seq::from_db(head.get() - 1 + round) };
    let mut acks: Vec<Ack> = (0..20).map(ack).collect();
    acks.sort_unstable();
    acks
}

/// Marks an item and all up to a number, in one commit.
async fn change_inbox(connection: &mut sqlx::PgConnection, head: Seq, round: i64) {
    let item = Seq::from_db(head.get() - 143 - round * 50);
    let changes = [
        InboxChange::Items { op: ItemOp::Archive, seqs: vec![item] },
        InboxChange::Items { op: ItemOp::Unarchive, seqs: vec![item] },
        InboxChange::UpTo { op: UpToOp::Seen, up_to: Seq::from_db(head.get() - 2990 + round) },
    ];
    let asked = changes.map(|change| AskedChange { user: user(7), accounts: Vec::new(), change });
    let seen = WatermarkEnd { seq: head, id: None };
    let asked: Vec<&AskedChange> = asked.iter().collect();
    let made = inbox::change(connection, seen, InstanceId::new(), &asked, false, Duration::from_secs(10)).await.unwrap();
    assert!(made.iter().all(|made| matches!(made, Changed::Done(Some(_)))), "{made:?}");
}

/// Ten new rows with keys, and ten whose keys are known.
async fn append(connection: &mut sqlx::PgConnection, round: i64) {
    let hint = read::state(connection).await.unwrap().head;
    let row = |n: i64| NewNotification {
        id: NotificationId::new(),
        kind: "t".to_owned(),
        title: "title".to_owned(),
        message: "m".to_owned(),
        data: None,
        audience: Audience::User { user: user(n), account: None },
        ttl_seconds: None,
        replay: true,
        inbox: true,
        source: "test".to_owned(),
        key: Some(IdempotencyKey::new("test", &format!("{}", if n < 10 { n } else { round * 100 + n }))),
        body_hash: BodyHash(0),
    };
    let rows: Vec<NewNotification> = (0..20).map(row).collect();
    let refs: Vec<&NewNotification> = rows.iter().collect();
    let seen = WatermarkEnd { seq: hint, id: None };
    let batch = NewBatch { seen, origin: InstanceId::new(), sealed: None, rows: &refs, traces: &[], conflict: Conflict::LeavesOut };
    append::append(connection, batch, Duration::from_secs(10)).await.unwrap();
}

fn pages(plans: &[ExecutedPlan]) -> i64 {
    plans.last().map_or(0, ExecutedPlan::pages)
}

fn indexes(plans: &[ExecutedPlan]) -> Vec<String> {
    // Names of partitions' indexes begin with the partition's, of which only the number differs.
    let mut names: Vec<String> =
        plans.iter().flat_map(ExecutedPlan::scans).map(|(_, _, index)| index.replace(|c: char| c.is_ascii_digit(), "")).collect();
    names.retain(|name| !name.is_empty());
    names.sort_unstable();
    names.dedup();
    names
}

#[tokio::test]
#[ignore = "slow"]
async fn a_log_ten_times_as_long_costs_the_same_pages_by_the_same_indexes() {
    let _turn = heavy().await;
    let short = ask_all(&filled(10_000).await).await;
    let long = ask_all(&filled(100_000).await).await;
    let mut faults = Vec::new();
    for (name, plans) in &long {
        let (few, many) = (pages(&short[name]), pages(plans));
        eprintln!("{name}: {few} → {many} pages by {:?}", indexes(plans));
        for plan in plans {
            for (kind, table, _) in plan.scans() {
                let grows = ["log_p", "log_member_p", "idempotency", "cursor", "session", "member", "inbox_item"]
                    .iter()
                    .any(|big| table.starts_with(big));
                if kind == "Seq Scan" && (grows || table == "forgotten_device") {
                    faults.push(format!("{name} reads the whole of {table}: {}", plan.text()));
                }
            }
        }
        // Marks are looked up one by one, or all 20 of the user at once.
        let most = if name.starts_with("inbox_page") { 1.8 } else { 1.2 };
        if many as f64 > few as f64 * most + 10.0 {
            faults.push(format!("{name}: {few} pages in the short log, {many} in the long one: {}", plans.last().unwrap().text()));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    let by = |name: &str, index: &str| {
        let used = indexes(&long[name]);
        assert!(used.iter().any(|used| used.contains(index)), "{name} uses {used:?}, not {index}");
    };
    for name in ["page", "page_before", "page_from_the_start", "page_of_a_member", "page_before_of_a_member", "console_unacked"] {
        by(name, "topic_seq_inbox_idx");
        by(name, "log_member_p_pkey");
        by(name, "log_p_pkey");
    }
    let by_number = ["console_log", "console_log_of_nobody", "console_log_end", "console_partitions"];
    for name in ["state", "tail", "id_at", "last_before", "append", "partitions", "ensure_partitions"].into_iter().chain(by_number) {
        by(name, "log_p_pkey");
    }
    for name in ["inbox_counts", "inbox_counts_of_a_member", "inbox_page", "inbox_page_of_unread", "inbox_change"] {
        by(name, "inbox_item_pkey");
        by(name, "log_p_pkey");
    }
    for name in ["inbox_counts", "inbox_counts_of_a_member", "inbox_page", "inbox_page_of_unread"] {
        by(name, "topic_seq");
        by(name, "log_member_p_pkey");
    }
    by("append", "idempotency_pkey");
    by("place", "session_kept");
    for name in ["place", "seen", "idle"] {
        by(name, "cursor_pkey");
    }
}

/// Where nearly every user has one notification, the planner assumes that every user has.
#[tokio::test]
#[ignore = "slow"]
async fn a_page_of_a_busy_user_among_many_quiet_ones_reads_a_page() {
    let _turn = heavy().await;
    let db = TestDb::new().await;
    db.with_partitions("UPDATE recado.meta SET partition_rows = 10000; SELECT recado.ensure_partitions();").await;
    for first in (1..=20_000).step_by(2500) {
        db.run(&format!(
            "SELECT recado.ensure_partitions();
             SELECT recado.append(0, NULL, 'test', array_agg(gen_random_uuid()), array_agg('t'::text), array_agg('title'::text), array_agg('m'::text),
                    array_agg(NULL::text), array_agg(CASE n % 4 WHEN 0 THEN 'u/u0' WHEN 1 THEN 'l' ELSE 'u/q' || n END),
                    array_agg(CASE n % 4 WHEN 0 THEN 'u0' WHEN 1 THEN NULL ELSE 'q' || n END), array_agg(NULL::text),
                    array_agg(CASE n % 4 WHEN 1 THEN format('{{u0,q%s}}', n) END), array_agg(NULL::integer),
                    array_agg(true), array_agg('test'::text), array_agg(NULL::uuid), array_agg(0::bigint))
               FROM generate_series({first}, {}) n",
            first + 2499
        ))
        .await;
    }
    db.run("VACUUM ANALYZE").await;
    tell_plans(&db).await;
    let listening = PlanListener::start();
    let database = Database::parse(&db.url(), None).unwrap();
    let reader = database.reader("test", 1);
    let head = read::head(&reader).await.unwrap();
    let who = Principal { user: user(0), accounts: Vec::new() };
    let rows = |name: &str| {
        let plans = listening.take();
        let plan = plans.last().unwrap_or_else(|| panic!("{name}: the server told no plan"));
        // 20 rows for each form of address, and each of those on the page by its number.
        assert!((20..=100).contains(&plan.rows()), "{name}: {} rows: {}", plan.rows(), plan.text());
    };
    listening.take();
    assert_eq!(read::page_of(&reader, &who, Seq::ZERO, head, 20).await.unwrap().notifications.len(), 20);
    rows("page_of");
    assert_eq!(read::page_before(&reader, &who, head.next(), Seq::ZERO, 20).await.unwrap().notifications.len(), 20);
    rows("page_before");
    reader.close().await;
}

/// Counts at a million rows of a user with 100 accounts:
/// `cargo test --release --test suite -- plans::by_hand --ignored --nocapture`.
#[tokio::test]
#[ignore = "by hand"]
async fn by_hand_counts_of_a_user_with_a_hundred_accounts_in_a_million_rows() {
    const ROWS: i64 = 1_000_000;
    const CALLS: usize = 2000;
    let _turn = heavy().await;
    let db = TestDb::new().await;
    // Of 20 rows one is for everyone, four for one of 1,000 accounts, three for a list of three, the others for one of
    // 5,000 users, half of those in an account.
    for first in (1..=ROWS).step_by(2500) {
        db.run(&format!(
            "SELECT recado.ensure_partitions();
             SELECT recado.append(0, NULL, 'test', array_agg(gen_random_uuid()), array_agg('t'::text), array_agg('title'::text), array_agg('m'::text),
                    array_agg(NULL::text),
                    array_agg(CASE WHEN k = 0 THEN '*' WHEN k < 5 THEN 'a/' || a WHEN k < 8 THEN 'l' WHEN k < 14 THEN 'u/u' || u ELSE format('u/u%s/%s', u, a) END),
                    array_agg(CASE WHEN k >= 8 THEN 'u' || u END), array_agg(CASE WHEN k BETWEEN 1 AND 4 OR k >= 14 THEN a::text END),
                    array_agg(CASE WHEN k BETWEEN 5 AND 7 THEN format('{{u%s,u%s,u%s}}', u, (u + 1) % 5000, (u + 2) % 5000) END),
                    array_agg(NULL::integer), array_agg(true), array_agg('test'::text), array_agg(NULL::uuid), array_agg(0::bigint))
               FROM (SELECT n % 20 AS k, (n / 20 * 7) % 1000 AS a, (n::bigint * 7919) % 5000 AS u FROM generate_series({first}, {}) n) r",
            first + 2499
        ))
        .await;
    }
    // u7 reads now and then, u8 marks items one by one, u9 has never read any.
    db.run(&format!(
        "INSERT INTO recado.inbox_since (user_id, topic, seq)
         SELECT u, t, 0 FROM (VALUES ('u7'), ('u8'), ('u9')) x (u), (SELECT '*' UNION SELECT 'a/' || n FROM generate_series(0, 99) n) y (t);
         INSERT INTO recado.inbox (user_id, seen_seq, read_seq) VALUES ('u7', {ROWS} - 500, {ROWS} - 1500), ('u8', {ROWS} - 500, {ROWS} - 2500);
         INSERT INTO recado.inbox_item (user_id, seq, is_read)
         SELECT 'u8', l.seq, true FROM recado.log l
          WHERE l.seq > {ROWS} - 2500 AND l.topic IN (SELECT topic FROM recado.inbox_since) ORDER BY l.seq DESC LIMIT 100"
    ))
    .await;
    db.run("VACUUM ANALYZE").await;
    let reader = Database::parse(&db.url(), None).unwrap().reader("test", 1);
    let accounts = (0..100).map(|n| AccountId::parse(&n.to_string()).unwrap()).collect::<Vec<_>>();
    for (name, about) in [(7, "reads now and then"), (8, "marks one by one"), (9, "has never read any")] {
        let who = Principal { user: UserId::parse(&format!("u{name}")).unwrap(), accounts: accounts.clone() };
        let mut times = Vec::with_capacity(CALLS);
        let mut counts = inbox::counts(&reader, &who).await.unwrap().counts;
        for _ in 0..CALLS {
            let begun = Instant::now();
            counts = inbox::counts(&reader, &who).await.unwrap().counts;
            times.push(begun.elapsed());
        }
        times.sort_unstable();
        eprintln!(
            "{about}: {} unread, {} unseen: p50 {:?}, p99 {:?}",
            counts.unread,
            counts.unseen,
            times[CALLS / 2],
            times[CALLS * 99 / 100]
        );
    }
    reader.close().await;
}
