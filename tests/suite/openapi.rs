//! Tests the document `/openapi.json` itself, and that its examples work.
//!
//! Every answer of the whole suite is checked against it in `support/contract.rs`.

use std::collections::BTreeSet;
use std::time::Duration;

use recado::identity::{OwnSecret, sign_in_link};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Value, json};

use super::support::*;

#[path = "../../api/bundle.rs"]
mod bundle;

/// Every operation: path, method, and its description.
fn operations() -> impl Iterator<Item = (&'static str, &'static str, &'static Value)> {
    let paths = document()["paths"].as_object().unwrap();
    paths.iter().flat_map(|(path, methods)| {
        methods.as_object().unwrap().iter().map(move |(method, operation)| (path.as_str(), method.as_str(), operation))
    })
}

/// The credential that an operation requires, or none.
fn bearer(operation: &Value, db: &TestDb) -> Option<String> {
    let first = operation["security"].as_array().expect("each operation says who may").first()?.as_object().unwrap();
    Some(match first.keys().next()?.as_str() {
        "serviceKey" => db.key(),
        "adminKey" => db.admin_key(),
        "userToken" => token("42", &["7"]),
        other => panic!("a scheme of which the test knows nothing: {other}"),
    })
}

fn resolved(value: &'static Value) -> &'static Value {
    value["$ref"].as_str().map_or(value, |to| document().pointer(&to[1..]).unwrap_or_else(|| panic!("{to} leads nowhere")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_hub_serves_the_document() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let (status, body) = hub.get("/openapi.json", None).await.unwrap();
    assert_eq!((status, &serde_json::from_str::<Value>(&body).unwrap()), (200, document()));
    let client = http_client();
    for (path, method, operation) in operations() {
        let request = client.request(method.to_uppercase().parse().unwrap(), format!("http://{}{path}", hub.address));
        let answer = request.send().await.unwrap();
        // A request without a credential is refused, unless the operation needs none.
        let status = answer.status().as_u16();
        let open = operation["security"].as_array().unwrap().iter().all(|way| way == &serde_json::json!({}));
        assert_eq!(status == 401, !open && path != "/ws" && path != "/", "{method} {path}: {status}");
        let media = answer.headers().get("content-type").map(|media| media.to_str().unwrap().to_owned());
        matches_document(method, path, status, media.as_deref(), &answer.text().await.unwrap());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_example_of_a_request_is_taken() {
    let db = TestDb::new().await;
    // What the examples of acts name.
    want(&db, &["81"]).await;
    db.run(
        "INSERT INTO recado.instance (instance_id, address, version, seen_at, sample)
         VALUES ('01935a6e-9f0c-7b3a-8c21-0d2f5a1b9c44', '10.0.0.5:8080', '0.1.0', now() + interval '1 hour', '{}')",
    )
    .await;
    // An admin sets the position of a device that exists.
    db.run("INSERT INTO recado.cursor (user_id, client_id, log_id, acked_seq) SELECT '42', 'web-9f3c', log_id, 0 FROM recado.meta").await;
    let hub = TestHub::on(&db).start().await;
    eventually("the first heartbeat", PATIENCE, async || {
        (hub.get("/api/admin/instances", Some(&db.admin_key())).await.unwrap().0 == 200).then_some(())
    })
    .await;
    // The first number of the log is an item of the user.
    hub.post(&note("order_created").to_user("42")).await;
    let client = http_client();
    let mut sent = 0;
    for (path, method, operation) in operations() {
        let examples = || operation["parameters"].as_array().into_iter().flatten().map(resolved).filter(|p| !p["example"].is_null());
        let mut url = format!("http://{}{path}", hub.address);
        for parameter in examples().filter(|p| p["in"] == "path") {
            url = url.replace(&format!("{{{}}}", parameter["name"].as_str().unwrap()), parameter["example"].as_str().unwrap());
        }
        let mut requests = Vec::new();
        for (media, content) in operation["requestBody"]["content"].as_object().into_iter().flatten() {
            for (name, example) in content["examples"].as_object().unwrap_or_else(|| panic!("{path} {media} has no examples")) {
                let body = &example["value"];
                fits_request(path, method, media, body);
                // A link works for minutes, so the one of the example does not.
                let link = (path == "/api/admin/sign-in").then(|| json!({ "link": fresh_link() }));
                let body = link.as_ref().unwrap_or(body);
                let body = body.as_str().map_or_else(|| body.to_string(), str::to_owned);
                requests.push((
                    format!("{media} {name}"),
                    client.request(method.to_uppercase().parse().unwrap(), &url).header("content-type", media).body(body),
                ));
            }
        }
        if method == "get" && path != "/ws" && path != "/" {
            let query: Vec<(&str, String)> = examples()
                .filter(|p| p["in"] != "path")
                .map(|p| (p["name"].as_str().unwrap(), p["example"].as_str().map_or_else(|| p["example"].to_string(), str::to_owned)))
                .collect();
            let query: Vec<String> = query.iter().map(|(name, value)| format!("{name}={value}")).collect();
            requests.push(("the query".to_owned(), client.get(format!("{url}?{}", query.join("&")))));
        }
        if matches!(method, "put" | "delete") && operation["requestBody"].is_null() {
            requests.push(("the path".to_owned(), client.request(method.to_uppercase().parse().unwrap(), &url)));
        }
        for (what, mut request) in requests {
            if path.starts_with("/api/internal/consumers/") {
                db.run(CONSUMER).await;
            }
            if let Some(bearer) = bearer(operation, &db) {
                request = request.bearer_auth(bearer);
            }
            let answer = request.send().await.unwrap();
            let status = answer.status().as_u16();
            let media = answer.headers()["content-type"].to_str().unwrap().to_owned();
            assert!(matches!(status, 200..=202), "{method} {path} {what}: {status} {}", answer.text().await.unwrap());
            sent += 1;
            if media == "text/event-stream" {
                continue;
            }
            let body = answer.text().await.unwrap();
            assert!(!(media.contains("ndjson") && body.contains("\"error\"")), "{path} {what}: {body}");
            matches_document(method, path, status, Some(&media), &body);
        }
    }
    assert!(sent > 15, "{sent} examples");
    assert!(db.head().await >= 8, "what was posted is in the log");
}

/// The consumer of the examples, whose owner was given a batch.
const CONSUMER: &str =
    "INSERT INTO recado.consumer (name, types, log_id, acked_seq, given_seq, owner, term, lease_until)
     SELECT 'billing', '{order_*}', log_id, 0, 10493, 'billing-1', 1795884000000, now() + interval '20 s' FROM recado.meta
     ON CONFLICT (name) DO UPDATE SET acked_seq = 0, given_seq = excluded.given_seq, owner = excluded.owner, term = excluded.term, lease_until = excluded.lease_until";

/// A link to the console that was made just now.
fn fresh_link() -> String {
    let secret = OwnSecret { kid: None, secret: SECRET.to_owned() };
    sign_in_link::make(&secret, chrono::Utc::now(), Duration::from_secs(3600))
}

fn fits_request(path: &str, method: &str, media: &str, body: &Value) {
    let at = format!("/paths/{}/{method}/requestBody/content/{}/schema", path.replace('/', "~1"), media.replace('/', "~1"));
    fits(&at, body).unwrap_or_else(|why| panic!("an example of {path} does not fit its own schema: {why}"));
}

#[test]
fn every_example_of_an_answer_fits_its_schema() {
    let mut seen = 0;
    let mut look = |at: String, response: &Value| {
        for (media, content) in response["content"].as_object().into_iter().flatten() {
            if let Some(example) = content.get("example") {
                fits(&format!("{at}/content/{}/schema", media.replace('/', "~1")), example).unwrap_or_else(|why| panic!("{at}: {why}"));
                seen += 1;
            }
        }
    };
    for (name, response) in document()["components"]["responses"].as_object().unwrap() {
        look(format!("/components/responses/{name}"), response);
    }
    for (path, method, operation) in operations() {
        for (status, response) in operation["responses"].as_object().unwrap() {
            look(format!("/paths/{}/{method}/responses/{status}", path.replace('/', "~1")), response);
        }
    }
    assert!(seen > 20, "{seen} examples");
}

/// Generators make one function of an operation. With several media types its body or its result is a union: misspelled
/// fields compile, correct calls do not.
#[test]
fn each_request_and_each_success_has_one_media_type() {
    for (path, method, operation) in operations() {
        let answers = operation["responses"].as_object().unwrap().iter().filter(|(status, _)| status.starts_with('2'));
        let contents = answers.map(|(_, answer)| &answer["content"]).chain([&operation["requestBody"]["content"]]);
        let most = contents.filter_map(Value::as_object).map(serde_json::Map::len).max().unwrap_or(0);
        assert!(most <= 1 || path == "/readyz", "{method} {path} has {most} media types");
    }
}

/// What went wrong: openapi-python-client refused the document for `"user_id": false`, openapi-typescript made `replay`
/// required because it had a default, and in Go `seq` and `ttl` were an `int32`.
#[test]
fn no_schema_is_one_that_a_generator_reads_wrongly() {
    fn look(at: &str, value: &Value, found: &mut Vec<String>) {
        if let Some(properties) = value["properties"].as_object() {
            found.extend(
                properties.iter().filter(|(_, is)| is.is_boolean()).map(|(name, _)| format!("{at}/properties/{name} is a boolean")),
            );
        }
        let is_integer = value["type"] == "integer" || value["type"].as_array().is_some_and(|types| types.contains(&json!("integer")));
        let most = value["maximum"].as_i64().or_else(|| is_count(at).then_some(0)).unwrap_or(i64::MAX);
        if is_integer && most > i64::from(i32::MAX) && value["format"] != "int64" {
            found.push(format!("{at} needs format int64, or a maximum"));
        }
        match value {
            Value::Object(members) => members.iter().for_each(|(name, member)| look(&format!("{at}/{name}"), member, found)),
            Value::Array(list) => list.iter().enumerate().for_each(|(index, member)| look(&format!("{at}/{index}"), member, found)),
            _ => {}
        }
    }
    /// Numbers without a limit in the document that stay small.
    fn is_count(at: &str) -> bool {
        ["/RetryAfter/schema", "/activeConnections", "/totalConnections", "/attempts"].iter().any(|end| at.ends_with(end))
    }
    let mut found = Vec::new();
    look("", document(), &mut found);
    for name in ["Notify", "Batch", "CloudEvent", "Ack"] {
        let properties = document()["components"]["schemas"][name]["properties"].as_object().unwrap();
        found
            .extend(properties.iter().filter(|(_, is)| !is["default"].is_null()).map(|(field, _)| format!("{name}.{field} has a default")));
    }
    assert!(found.is_empty(), "{found:#?}");
}

/// What went wrong: an operation listed a status twice, and openapi-typescript refused the document.
#[test]
fn no_key_occurs_twice_in_a_document() {
    let mut folders = vec![std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("api")];
    let mut read = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|kind| kind == "json") {
                let text = std::fs::read_to_string(&path).unwrap();
                serde_json::from_str::<UniqueKeys>(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                read += 1;
            }
        }
    }
    assert!(read > 10, "{read} files");
    assert!(serde_json::from_str::<UniqueKeys>(r#"[{"a":1,"b":{"c":1,"c":2}}]"#).is_err());
}

/// Any JSON in which no object has a key twice.
struct UniqueKeys;

impl<'de> Deserialize<'de> for UniqueKeys {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Self)
    }
}

impl<'de> Visitor<'de> for UniqueKeys {
    type Value = Self;

    fn expecting(&self, to: &mut std::fmt::Formatter) -> std::fmt::Result {
        to.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self, A::Error> {
        let mut keys = BTreeSet::new();
        while let Some(key) = map.next_key::<String>()? {
            map.next_value::<Self>()?;
            if let Some(twice) = keys.replace(key) {
                return Err(A::Error::custom(format!("duplicate key {twice}")));
            }
        }
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self, A::Error> {
        while list.next_element::<Self>()?.is_some() {}
        Ok(self)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }
}

/// The check must notice another status, another type, a field more, a field less, and a wrong format.
#[test]
fn an_answer_that_is_not_documented_is_noticed() {
    let good = r#"{"acked":7}"#;
    let noticed = |method: &str, path: &str, status: u16, media: &str, body: &str| {
        std::panic::catch_unwind(|| matches_document(method, path, status, Some(media), body)).is_err()
    };
    let ack = "/api/notifications/ack?x=1";
    assert!(!noticed("POST", ack, 200, "application/json", good));
    for (status, media, body) in [
        (202, "application/json", good),
        (200, "text/plain", good),
        (200, "application/json", r#"{"acked":7,"more":1}"#),
        (200, "application/json", "{}"),
        (200, "application/json", r#"{"acked":"7"}"#),
        (401, "application/problem+json", good),
    ] {
        assert!(noticed("POST", ack, status, media, body), "{status} {media} {body}");
    }
    assert!(noticed("GET", "/nothing", 200, "application/json", "{}"));
}

#[test]
fn every_reference_leads_somewhere() {
    fn look(value: &Value, document: &Value, seen: &mut u32) {
        match value {
            Value::Object(members) => {
                if let Some(Value::String(to)) = members.get("$ref") {
                    let to = to.strip_prefix('#').unwrap_or_else(|| panic!("{to} is not in the bundle"));
                    assert!(document.pointer(to).is_some(), "{to} leads nowhere");
                    *seen += 1;
                }
                members.values().for_each(|member| look(member, document, seen));
            }
            Value::Array(list) => list.iter().for_each(|member| look(member, document, seen)),
            _ => {}
        }
    }
    for document in [document(), frames_document()] {
        let mut seen = 0;
        look(document, document, &mut seen);
        assert!(seen > 50, "{seen} references");
    }
}

#[test]
fn the_bundle_has_each_part_once_and_refuses_what_fits_nowhere() {
    const ROOT: &str = r##"{"paths": {"/a": {"$ref": "paths/a.json#/a"}, "/b": {"$ref": "paths/a.json#/b"}},
        "components": {"schemas": {"Id": {"$ref": "schemas.json#/Id"}, "List": {"items": {"$ref": "#/components/schemas/Id"}}}}}"##;
    const PATHS: &str = r##"{"a": {"get": {"$ref": "../schemas.json#/Id"}}, "b": {}}"##;
    let bundled = |root: &str, paths: &str, schemas: &str| {
        let folder = tempfile::tempdir().unwrap();
        let api = folder.path().join("api");
        std::fs::create_dir_all(api.join("paths")).unwrap();
        for (name, text) in [("api.json", root), ("paths/a.json", paths), ("schemas.json", schemas)] {
            std::fs::write(api.join(name), text).unwrap();
        }
        bundle::bundle(&api)
    };
    let good = bundled(ROOT, PATHS, r#"{"Id": {"type": "string"}}"#).unwrap();
    let to_id = json!({"$ref": "#/components/schemas/Id"});
    let components = json!({"schemas": {"Id": {"type": "string"}, "List": {"items": to_id}}});
    assert_eq!(good, json!({"paths": {"/a": {"get": to_id}, "/b": {}}, "components": components}));

    for (paths, schemas, refusal) in [
        (r#"{"a": {}}"#, r#"{"Id": {}}"#, "api.json names paths/a.json#/b, but there is no such part"),
        (
            PATHS,
            r#"{"Id": {}, "More": {}}"#,
            "api.json does not name schemas.json#/More: add it under `paths` or `components`, or delete it",
        ),
        (PATHS, r##"{"Id": {"$ref": "#/More"}}"##, "schemas.json refers to #/More, which api.json does not name"),
        (PATHS, "[]", "api.json names schemas.json#/Id, but there is no such part"),
    ] {
        assert_eq!(bundled(ROOT, paths, schemas).unwrap_err(), refusal);
    }
    let broken = bundled(ROOT, PATHS, "{").unwrap_err();
    assert!(broken.contains("schemas.json: EOF while parsing"), "{broken}");
}

#[test]
fn a_frame_that_its_document_does_not_describe_is_noticed() {
    let heartbeat = json!({"type": "heartbeat", "seq": 7, "prev": 3});
    assert_eq!(frame_matches(&heartbeat), Ok(()));
    for (field, value) in [("seq", json!(-1)), ("prev", Value::Null), ("at", json!("now"))] {
        let mut wrong = heartbeat.clone();
        wrong[field] = value;
        assert!(frame_matches(&wrong).is_err(), "{wrong}");
    }
    assert!(frame_matches(&json!({"type": "order_created", "seq": 7, "prev": 3})).is_err(), "a notification without its fields");
    let counts = json!({"type": "inbox_counts", "unread": 1000, "unseen": 0, "as_of": 7});
    assert_eq!(frame_matches(&counts), Ok(()));
    for (field, value) in [("unread", json!(1001)), ("as_of", Value::Null), ("seq", json!(7))] {
        let mut wrong = counts.clone();
        wrong[field] = value;
        assert!(frame_matches(&wrong).is_err(), "{wrong}");
    }
    let change = |data: Value| {
        json!({"type": "inbox", "seq": 7, "prev": 3, "title": "", "message": "", "data": data, "to": "user",
               "id": "01935a6e-9f0c-7b3a-8c21-0d2f5a1b9c44", "created_at": "2026-11-21T16:39:58.120Z"})
    };
    assert_eq!(frame_matches(&change(json!({"op": "read", "seqs": [1]}))), Ok(()));
    assert_eq!(frame_matches(&change(json!({"op": "seen", "up_to": 1}))), Ok(()));
    for data in [json!({"op": "seen", "seqs": [1]}), json!({"op": "read"}), json!({"op": "read", "seqs": [1], "up_to": 1}), Value::Null] {
        assert!(frame_matches(&change(data.clone())).is_err(), "{data}");
    }
}

#[test]
fn the_page_of_the_websocket_names_every_frame() {
    let page = include_str!("../../docs/reference/websocket.md");
    let messages = frames_document()["components"]["messages"].as_object().unwrap();
    assert!(messages.len() > 10, "{}", messages.len());
    for name in
        messages.values().map(|message| message["name"].as_str().unwrap()).filter(|name| !matches!(*name, "notification" | "command"))
    {
        assert!(page.contains(&format!("`{name}`")) || page.contains(&format!("\"type\":\"{name}\"")), "{name}");
    }
}
