//! Tests that the console's routes are for admins.

use recado::domain::Role;
use serde_json::json;

use super::*;

const READS: [&str; 6] = [
    "/api/admin/sessions",
    "/api/admin/devices",
    "/api/admin/users/ann",
    "/api/admin/users/ann/notifications",
    "/api/admin/log",
    "/api/admin/log/partitions",
];
/// Those that answer with titles and messages.
const TEXTS: [&str; 2] = ["/api/admin/users/ann/notifications", "/api/admin/log"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_admins_read_and_act() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    TestClient::of("ann").device("web").connect(&hub).await.close().await;
    let (user, service, admin) = (token("ann", &[]), service_token("shop", Role::Service), service_token("boss", Role::Admin));
    let (key, admin_key) = (db.key(), db.admin_key());
    let reads_only = reading_key(&db).await;
    for (who, bearer, reads, acts) in [
        ("an unknown key", "rck_unknown", 401, 401),
        ("a user", user.as_str(), 403, 403),
        ("a service's token", &service, 403, 403),
        ("a service's key", &key, 403, 403),
        ("an admin's key that may read only", &reads_only, 200, 403),
        ("an admin's token", &admin, 200, 200),
        ("an admin's key", &admin_key, 200, 200),
    ] {
        for path in READS {
            let (status, body) = hub.get(path, Some(bearer)).await.unwrap();
            // The texts of all accounts are not for a key with limits.
            let is_refused = bearer == reads_only && TEXTS.contains(&path);
            assert_eq!(status, if is_refused { 403 } else { reads }, "{who}: {path}: {body}");
            assert!(status == 200 || body.contains("\"code\""), "{body}");
        }
        for (path, body) in [
            ("/api/admin/users/ann/ack", json!({ "client_id": "web", "seq": 0 })),
            ("/api/admin/sessions/close", closing(&json!({ "user": "nobody" }), 0)),
        ] {
            assert_eq!(post(&hub, path, bearer, &body).await.0, acts, "{who}: {path}");
        }
    }
    for path in READS {
        assert_eq!(hub.get(path, None).await.unwrap().0, 401, "{path}");
        // A token in the address would stand in logs of proxies.
        assert_eq!(hub.get(&format!("{path}?token={admin}"), None).await.unwrap().0, 401, "{path}");
    }
}

/// A key of an admin that may read, and post one type.
async fn reading_key(db: &TestDb) -> String {
    let made = TestHub::on(db).run(&["key", "create", "watcher", "--role", "admin", "--type", "order_*", "--read"]).await;
    made.split_whitespace().find(|word| word.starts_with("rck_")).unwrap_or_else(|| panic!("{made}")).to_owned()
}
