//! Promise: every secret can be replaced without a token, a ticket or a session being lost.

use std::process::Output;

use serde_json::Value;
use tokio::process::Command;

use super::support::*;

const NEXT: &str = "the-next-secret-of-the-suite-0123456789ab";

/// A token of this secret, with this `kid`.
fn signed_by(secret: &str, kid: Option<&str>, user: &str) -> String {
    let key = jsonwebtoken::EncodingKey::from_secret(secret.as_bytes()).unwrap();
    let header = jsonwebtoken::Header { kid: kid.map(str::to_owned), ..jsonwebtoken::Header::default() };
    let claims = serde_json::json!({"sub": user, "exp": issuer::now() + 600});
    jsonwebtoken::encode(&header, &claims, &key).unwrap()
}

async fn status(hub: &TestHub, token: &str) -> u16 {
    hub.get("/api/whoami", Some(token)).await.unwrap().0
}

async fn ticket(hub: &TestHub, bearer: &str) -> String {
    let request = http_client().post(format!("http://{}/api/ws-ticket", hub.address)).bearer_auth(bearer);
    let body: Value = request.send().await.unwrap().json().await.unwrap();
    body["ticket"].as_str().unwrap_or_else(|| panic!("{body}")).to_owned()
}

/// The three steps of the guide, one hub after the other, as a rolling update does them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_token_secret_is_rotated_hub_by_hub_without_a_refused_token() {
    let db = TestDb::new().await;
    let accepting = |current: &str, accepted: Option<&str>| {
        let hub = TestHub::on(&db).with("RECADO_JWT_SECRET", current);
        accepted.map_or(hub.clone(), |accepted| hub.with("RECADO_JWT_ACCEPTED_SECRETS", accepted))
    };
    let (old, new) = (signed_by(SECRET, None, "ann"), signed_by(NEXT, None, "ann"));
    let mut one = accepting(SECRET, None).start().await;
    let mut two = accepting(SECRET, None).start().await;
    assert_eq!((status(&one, &old).await, status(&one, &new).await), (200, 401));
    // Without the first step the others would refuse its tokens, so such a hub does not start.
    let (code, said) = run_to_the_end(&accepting(NEXT, None)).await;
    assert!(code == Some(78) && said.contains("RECADO_JWT_SECRET"), "{said}");
    for (current, accepted) in [(SECRET, Some(NEXT)), (NEXT, Some(SECRET))] {
        one = accepting(current, accepted).start().await;
        for hub in [&one, &two] {
            assert_eq!(status(hub, &old).await, 200);
        }
        two = accepting(current, accepted).start().await;
        for (maker, user) in [(&one, &two), (&two, &one)] {
            assert_eq!((status(maker, &old).await, status(maker, &new).await), (200, 200));
            for token in [&old, &new] {
                let ticket = ticket(maker, token).await;
                let client = TestClient::of("ann").without_header().query("ticket", &ticket).connect(user).await;
                assert_eq!(client.hello["user_id"], "ann");
            }
        }
    }
    // A hub that still signs with the old secret may come back late.
    let late = accepting(SECRET, Some(NEXT)).start().await;
    assert_eq!((status(&late, &old).await, status(&late, &new).await), (200, 200));
    drop(late);
    let one_again = accepting(NEXT, Some(SECRET)).start().await;
    drop(one);
    let last = accepting(NEXT, None).start().await;
    assert_eq!((status(&last, &old).await, status(&last, &new).await), (401, 200));
    assert_eq!(status(&one_again, &new).await, 200);
}

/// Named secrets: a token says which one signed it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_names_its_secret_when_the_secrets_have_names() {
    let db = TestDb::new().await;
    let folder = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &str| {
        let file = folder.path().join(name);
        std::fs::write(&file, text).unwrap();
        std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        file.to_str().unwrap().to_owned()
    };
    let (new, old) = (put("new", NEXT), put("old", SECRET));
    let file = put(
        "identity.toml",
        &format!("[[secret]]\nkid = \"2026-11\"\nfile = \"{new}\"\n\n[[secret]]\nkid = \"2026-05\"\nfile = \"{old}\"\n"),
    );
    let builder = TestHub::on(&db).without("RECADO_JWT_SECRET").with("RECADO_IDENTITY_FILE", &file);
    let hub = builder.start().await;
    let minted = builder.run(&["token", "--user", "ann"]).await;
    let header = jsonwebtoken::decode_header(minted.trim()).unwrap();
    assert_eq!(header.kid.as_deref(), Some("2026-11"));
    for (token, expected) in [
        (minted.trim().to_owned(), 200),
        (signed_by(SECRET, Some("2026-05"), "ann"), 200),
        (signed_by(SECRET, None, "ann"), 200),
        (signed_by(NEXT, None, "ann"), 200),
        (signed_by(SECRET, Some("2026-11"), "ann"), 401),
        (signed_by(NEXT, Some("2026-12"), "ann"), 401),
    ] {
        assert_eq!(status(&hub, &token).await, expected, "{token}");
    }
    let (code, said) = run_to_the_end(&builder.with("RECADO_JWT_SECRET", SECRET)).await;
    assert!(code == Some(78) && said.contains("leave one out"), "{said}");
}

fn recado(db: &TestDb, data: &std::path::Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_recado"));
    command.args(args).env_clear().kill_on_drop(true).env("DATABASE_URL", db.url()).env("RECADO_DATA_DIR", data);
    command
}

async fn run(mut command: Command) -> Output {
    tokio::time::timeout(PATIENCE, command.output()).await.expect("the command ends").unwrap()
}

async fn said(command: Command) -> String {
    let output = run(command).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// The secret that the hub made itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kept_secret_is_rotated_by_a_command() {
    let db = TestDb::new().await;
    let data = tempfile::tempdir().unwrap();
    let builder = TestHub::on(&db).without("RECADO_JWT_SECRET").with("RECADO_DATA_DIR", data.path().to_str().unwrap());
    let hub = builder.start().await;
    let old = said(recado(&db, data.path(), &["token", "--user", "ann"])).await;
    assert_eq!(status(&hub, &old).await, 200);
    assert!(run(recado(&db, data.path(), &["secret", "rotate", "jwt"])).await.status.success());
    let new = said(recado(&db, data.path(), &["token", "--user", "ann"])).await;
    assert_eq!(status(&hub, &new).await, 401, "the running hub knows the old secret only");
    drop(hub);
    let hub = builder.start().await;
    assert_eq!((status(&hub, &old).await, status(&hub, &new).await), (200, 200));
    let listed: Value = serde_json::from_str(&said(recado(&db, data.path(), &["secret", "list", "-o", "json"])).await).unwrap();
    assert!(listed.to_string().contains("\"accepted\":1"), "{listed}");
    assert!(run(recado(&db, data.path(), &["secret", "forget", "jwt"])).await.status.success());
    drop(hub);
    let hub = builder.start().await;
    assert_eq!((status(&hub, &old).await, status(&hub, &new).await), (401, 200));
    let output = run({
        let mut command = recado(&db, data.path(), &["secret", "rotate", "jwt"]);
        command.env("RECADO_JWT_SECRET", SECRET);
        command
    })
    .await;
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(78) && complaint.contains("RECADO_JWT_SECRET"), "{complaint}");
}
