//! Promise: an admin sees the sessions of all hubs, every user and the whole log, and every act leaves its row.

mod close;
mod cost;
mod devices;
mod follow;
mod log;
mod rights;
mod sessions;
mod users;

use serde_json::{Value, json};

use super::support::*;

/// Asks as the admin of the database.
async fn read(db: &TestDb, hub: &TestHub, path: &str) -> (u16, Value) {
    let (status, body) = hub.get(path, Some(&db.admin_key())).await.unwrap();
    (status, serde_json::from_str(&body).unwrap_or_else(|error| panic!("{path}: {error}: {body}")))
}

/// Asks, and requires 200.
async fn shown(db: &TestDb, hub: &TestHub, path: &str) -> Value {
    let (status, answer) = read(db, hub, path).await;
    assert_eq!(status, 200, "{path}: {answer}");
    answer
}

async fn post(hub: &TestHub, path: &str, bearer: &str, body: &Value) -> (u16, Value) {
    let response = http_client().post(format!("http://{}{path}", hub.address)).bearer_auth(bearer).json(body).send().await.unwrap();
    let (status, media) = (response.status().as_u16(), response.headers()["content-type"].to_str().unwrap().to_owned());
    let body = response.text().await.unwrap();
    matches_document("POST", path, status, Some(&media), &body);
    (status, serde_json::from_str(&body).unwrap())
}

/// The rows of a list of sessions, with their names.
fn named(answer: &Value) -> Vec<Value> {
    let columns: Vec<&str> = answer["columns"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    let row = |row: &Value| -> Value {
        let values = row.as_array().unwrap();
        assert_eq!(values.len(), columns.len(), "{row}");
        columns.iter().zip(values).map(|(name, value)| ((*name).to_owned(), value.clone())).collect::<serde_json::Map<_, _>>().into()
    };
    answer["rows"].as_array().unwrap().iter().map(row).collect()
}

fn users(answer: &Value) -> Vec<String> {
    named(answer).iter().map(|row| row["user_id"].as_str().unwrap().to_owned()).collect()
}

/// The acts of the audit of this kind, oldest first.
async fn acts(db: &TestDb, hub: &TestHub, what: &str) -> Vec<Value> {
    let mut acts = shown(db, hub, &format!("/api/admin/audit?what={what}")).await["acts"].as_array().unwrap().clone();
    acts.reverse();
    acts
}

/// Appends rows to a user: `count` texts of so many bytes.
async fn append(db: &TestDb, user: &str, count: i64, bytes: usize) {
    db.run(&format!(
        "SELECT recado.append(0, NULL, 'test', array_agg(gen_random_uuid()), array_agg('t'::text), array_agg('title'::text),
                array_agg(repeat('x', {bytes})), array_agg(NULL::text), array_agg('u/{user}'::text), array_agg('{user}'::text),
                array_agg(NULL::text), array_agg(NULL::text), array_agg(NULL::integer), array_agg(true), array_agg('test'::text),
                array_agg(NULL::uuid), array_agg(0::bigint))
           FROM generate_series(1, {count})"
    ))
    .await;
}

/// Stores open sessions of another instance, whose heartbeat lies in the future. Returns its id.
async fn another_instance(db: &TestDb, select: &str) -> String {
    let id = uuid::Uuid::new_v4().to_string();
    db.run(&format!(
        "INSERT INTO recado.instance (instance_id, address, version, seen_at) VALUES ('{id}', '192.0.2.1:3000', 'test', now() + interval '1 day');
         INSERT INTO recado.session (session_id, instance_id, user_id, account_ids, client_id, transport, log_id, from_seq, sent_seq, acked_seq,
                                     connected_at, last_activity_at, own_acked_seq, device_seq, is_kept)
         SELECT gen_random_uuid(), '{id}', r.user_id, r.account_ids, r.client_id, r.transport, m.log_id, 0, r.acked, r.acked, r.at, r.at,
                r.acked, r.acked, false
           FROM recado.meta m, ({select}) r (user_id, account_ids, client_id, transport, acked, at)"
    ))
    .await;
    id
}

/// The body that closes sessions by a filter.
fn closing(filter: &Value, expect: i64) -> Value {
    json!({ "filter": filter, "expect": expect })
}
