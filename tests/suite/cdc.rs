//! Tests change data capture: a publication of the log, decoded as Debezium does it (`pgoutput`).

use std::collections::HashMap;

use sqlx::{PgConnection, Row};

use super::support::cluster::TestCluster;
use super::support::host::given;
use super::support::*;

/// What `pgoutput` says of one row.
#[derive(Debug, PartialEq, Eq)]
struct Change {
    /// `I`, `U` or `D`.
    what: char,
    relation: String,
    columns: HashMap<String, Option<String>>,
}

impl Change {
    fn text(&self, column: &str) -> &str {
        self.columns[column].as_deref().unwrap_or_default()
    }

    fn seq(&self) -> i64 {
        self.text("seq").parse().unwrap()
    }
}

/// Reads the messages of version 1 of the protocol:
/// <https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html>.
struct Message<'a>(&'a [u8]);

impl<'a> Message<'a> {
    fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count);
        self.0 = rest;
        taken
    }

    fn byte(&mut self) -> u8 {
        self.bytes(1)[0]
    }

    fn int16(&mut self) -> usize {
        usize::from(u16::from_be_bytes(self.bytes(2).try_into().unwrap()))
    }

    fn int32(&mut self) -> u32 {
        u32::from_be_bytes(self.bytes(4).try_into().unwrap())
    }

    fn string(&mut self) -> String {
        let end = self.0.iter().position(|byte| *byte == 0).unwrap();
        let text = String::from_utf8(self.bytes(end).to_vec()).unwrap();
        self.byte();
        text
    }

    fn tuple(&mut self, names: &[String]) -> HashMap<String, Option<String>> {
        let count = self.int16();
        assert_eq!(count, names.len());
        let value = |this: &mut Self| match this.byte() {
            b't' => {
                let length = usize::try_from(this.int32()).unwrap();
                Some(String::from_utf8(this.bytes(length).to_vec()).unwrap())
            }
            _ => None,
        };
        names.iter().map(|name| (name.clone(), value(self))).collect()
    }
}

/// The relations that the stream has described, by their oid: name and columns.
type Relations = HashMap<u32, (String, Vec<String>)>;

fn change(data: &[u8], relations: &mut Relations) -> Option<Change> {
    let mut message = Message(data);
    let what = char::from(message.byte());
    if !matches!(what, 'R' | 'I' | 'U' | 'D') {
        return None;
    }
    let oid = message.int32();
    if what == 'R' {
        let name = format!("{}.{}", message.string(), message.string());
        message.byte();
        let count = message.int16();
        let column = |message: &mut Message<'_>| {
            message.byte();
            let name = message.string();
            message.bytes(8);
            name
        };
        let columns = (0..count).map(|_| column(&mut message)).collect();
        relations.insert(oid, (name, columns));
        return None;
    }
    let (relation, names) = relations[&oid].clone();
    let mut columns = HashMap::new();
    // Of an update the old key may come first; the new row is last.
    while !message.0.is_empty() {
        message.byte();
        columns = message.tuple(&names);
    }
    Some(Change { what, relation, columns })
}

async fn changes(sql: &mut PgConnection, relations: &mut Relations) -> Vec<Change> {
    let read =
        "SELECT data FROM pg_logical_slot_get_binary_changes('cdc', NULL, NULL, 'proto_version', '1', 'publication_names', 'recado_log')";
    let rows = sqlx::query(read).fetch_all(sql).await.unwrap();
    rows.iter().filter_map(|row| change(row.get::<&[u8], _>(0), relations)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn a_publication_of_the_log_gives_each_row_once_in_order_and_each_erasure() {
    const COUNT: i64 = 60;
    let Some(mut cluster) = given("N13c", TestCluster::make()) else { return };
    cluster.set("wal_level=logical");
    cluster.start().await;
    let hub = TestHub::at(&cluster.url());
    let (one, two) = (hub.start().await, hub.start().await);
    // As the guide says it.
    cluster
        .execute("CREATE PUBLICATION recado_log FOR TABLE recado.log WITH (publish = 'insert, update', publish_via_partition_root = true)")
        .await;
    cluster.execute("SELECT pg_create_logical_replication_slot('cdc', 'pgoutput')").await;
    let mut sql = cluster.try_connect().await.unwrap();
    let mut relations = Relations::new();

    let post = async |hub: &TestHub, user: &str| {
        for n in 0..COUNT / 2 {
            hub.post(&note(&format!("{user} {n}")).to_user(user).data(&format!("{{\"n\": {n}}}"))).await;
        }
    };
    tokio::join!(post(&one, "ann"), post(&two, "bob"));
    let first = changes(&mut sql, &mut relations).await;
    assert!(first.iter().all(|change| change.what == 'I' && change.relation == "recado.log"), "by the name of the whole table: {first:?}");
    assert_eq!(first.iter().map(Change::seq).collect::<Vec<_>>(), (1..=COUNT).collect::<Vec<_>>(), "in the order of the numbers");
    let ann = first.iter().find(|change| change.text("title") == "ann 3").unwrap();
    assert_eq!((ann.text("user_id"), ann.text("data"), ann.text("type")), ("ann", "{\"n\": 3}", "order_created"));

    // The hub goes on while a publication exists: acknowledgements, erasures, sessions.
    let mut client = TestClient::of("ann").device("d").connect(&one).await;
    let last = two.post(&note("last").to_user("ann")).await.seq;
    client.until_seq(last).await;
    client.ack(last).await;
    hub.run(&["erase", "--seq", &ann.seq().to_string(), "--reason", "a test"]).await;
    let second = changes(&mut sql, &mut relations).await;
    let seen: Vec<(char, i64)> = second.iter().map(|change| (change.what, change.seq())).collect();
    assert_eq!(seen, [('I', last), ('U', ann.seq())]);
    assert_eq!((second[1].text("type"), second[1].text("title"), second[1].text("user_id")), ("erased", "", "-"));
    assert_eq!(changes(&mut sql, &mut relations).await, []);
}
