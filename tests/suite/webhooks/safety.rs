//! Which addresses are dialled, and what other receivers and rights allow.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use recado::domain::{Network, WebhookName};
use recado::outgoing::{Connector, Resolver};
use recado::webhooks::message::Message;
use recado::webhooks::{PostOutcome, Poster, TargetRules, WebhookSecret};
use sqlx::AssertSqlSafe;
use tokio::net::TcpListener;

use super::*;

/// A resolver that gives each answer once; the last one repeats.
struct Scripted {
    answers: Vec<Vec<SocketAddr>>,
    asked: AtomicUsize,
}

impl Resolver for Scripted {
    fn addresses<'a>(&'a self, _: &'a str, _: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        let turn = self.asked.fetch_add(1, Ordering::Relaxed).min(self.answers.len() - 1);
        let answer = self.answers[turn].clone();
        async move { Ok(answer) }.boxed()
    }
}

fn poster(answers: &[&[String]], networks: &[&str]) -> (Poster, Arc<Scripted>) {
    let answers = answers.iter().map(|answer| answer.iter().map(|address| address.parse().unwrap()).collect()).collect();
    let names = Arc::new(Scripted { answers, asked: AtomicUsize::new(0) });
    let roots = rustls::RootCertStore::empty();
    (poster_of(&names, roots, networks), names)
}

fn poster_of(names: &Arc<Scripted>, roots: rustls::RootCertStore, networks: &[&str]) -> Poster {
    let connector = Connector::with(Arc::clone(names) as Arc<dyn Resolver>, roots).unwrap();
    let networks = networks.iter().map(|network| Network::parse(network).unwrap()).collect();
    Poster::new(connector, Arc::new(TargetRules::new(networks)))
}

async fn post(poster: &Poster, url: &str) -> PostOutcome {
    let (secret, message) = (WebhookSecret::make().unwrap(), Message::test(&WebhookName::parse("w").unwrap()));
    poster.post(url, &message, &[secret], None).await
}

fn why(outcome: PostOutcome) -> String {
    match outcome {
        PostOutcome::Failed { error, status: None, .. } => error,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn internal_addresses_are_not_dialled_under_any_name() {
    // Something listens there, so a connection would be seen.
    let inside = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = inside.local_addr().unwrap().port();
    for address in [
        "127.0.0.1",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.0.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "[::1]",
        "[::]",
        "[fe80::1]",
        "[fd00:ec2::254]",
        "[ff02::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:169.254.169.254]",
        "[64:ff9b::7f00:1]",
    ] {
        let answer = [format!("{address}:{port}")];
        let error = why(post(&poster(&[&answer], &[]).0, "https://hooks.example.com/").await);
        assert!(error.contains("internal address") && !error.contains(address.trim_matches(['[', ']'])), "{address}: {error}");
        // Also next to a public one.
        let answer = ["1.1.1.1:443".to_owned(), format!("{address}:{port}")];
        assert!(why(post(&poster(&[&answer], &[]).0, "https://hooks.example.com/").await).contains("internal address"), "{address}");
    }
    assert!(inside.accept().now_or_never().is_none(), "nothing was dialled");
}

/// DNS rebinding: the hub resolves the name once, and dials the address that it has checked.
#[tokio::test]
async fn a_name_is_resolved_once_and_the_checked_address_is_dialled() {
    let (receiver, internal) = (Receiver::start().await, TcpListener::bind("127.0.0.2:0").await.unwrap());
    let address = receiver.url.split('/').nth(2).unwrap().to_owned();
    let other = internal.local_addr().unwrap().to_string();
    let (poster, names) = poster(&[&[address], &[other]], &["127.0.0.1"]);
    assert_eq!(post(&poster, "http://hooks.example.com/").await, PostOutcome::Accepted(204));
    assert_eq!(names.asked.load(Ordering::Relaxed), 1);
    assert_eq!(receiver.got()[0].header("host"), "hooks.example.com");
    assert!(why(post(&poster, "http://hooks.example.com/").await).contains("internal address"), "now the name leads elsewhere");
    assert!(internal.accept().now_or_never().is_none());
}

#[tokio::test]
async fn over_tls_the_certificate_must_be_trusted_and_for_the_name_of_the_url() {
    let receiver = Receiver::start().await;
    let (port, certificate) = behind_tls("hooks.example.com", receiver.url.split('/').nth(2).unwrap()).await;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate).unwrap();
    let (_, names) = poster(&[&[format!("127.0.0.1:{port}")]], &[]);
    let trusting = poster_of(&names, roots, &["127.0.0.1"]);
    assert_eq!(post(&trusting, "https://hooks.example.com/").await, PostOutcome::Accepted(204));
    assert!(why(post(&trusting, "https://other.example.com/").await).contains("TLS with other.example.com"));
    let strange = poster_of(&names, rustls::RootCertStore::empty(), &["127.0.0.1"]);
    assert!(why(post(&strange, "https://hooks.example.com/").await).contains("TLS with hooks.example.com"));
    assert_eq!(receiver.got().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_without_the_setting_dials_nothing_on_its_own_networks() {
    let (db, receiver) = (TestDb::new().await, Receiver::start().await);
    let strict = TestHub::on(&db).with("RECADO_UPSTREAM_KEY", KEY);
    let hub = strict.start().await;
    let port = receiver.url.split([':', '/']).nth(4).unwrap();
    for url in [receiver.url.clone(), format!("http://localhost:{port}/")] {
        let (code, _, said) = strict.try_run(&["webhook", "create", "w", &url]).await;
        assert!(code == Some(2) && said.contains("RECADO_WEBHOOK_NETWORKS"), "{url}: {said}");
    }
    let urls = ["https://u:p@hooks.example.com/", "https://hooks.example.com/#x", "ftp://hooks.example.com/", "https://0x7f.1/"];
    for url in urls {
        let (code, out, said) = strict.try_run(&["webhook", "create", "w", url]).await;
        assert!(code == Some(2) && out.is_empty(), "{url}: {said}");
    }
    strict.run(&["webhook", "create", "w", &format!("https://localhost:{port}/secret-path?token=secret-query")]).await;
    hub.post(&order("paid")).await;
    failed(&db, 1).await;
    let seen: Value = serde_json::from_str(&strict.run(&["webhook", "show", "w", "-o", "json"]).await).unwrap();
    assert_eq!(seen["last_error"], "localhost resolves to an internal address, which may not be dialled");
    let (code, _, said) = strict.try_run(&["webhook", "test", "w"]).await;
    assert!(code == Some(1) && said.contains("internal address"), "{said}");
    assert!(receiver.got().is_empty());
    let log = hub.said();
    assert!(log.contains("internal address") && !log.contains("secret-path") && !log.contains("secret-query"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_role_of_the_hub_reads_no_secret_and_makes_no_webhook() {
    let (db, receiver) = (TestDb::new().await, Receiver::start().await);
    create(&db, "gateway", &receiver.url, &[]).await;
    let mut sql = db.connect().await;
    let role: String = sqlx::query_scalar("SELECT recado.role_name('hub')").fetch_one(&mut sql).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(format!("SET ROLE {role}"))).execute(&mut sql).await.unwrap();
    for statement in [
        "SELECT secret FROM recado.webhook",
        "UPDATE recado.webhook SET url = 'https://evil.example'",
        "DELETE FROM recado.webhook_post",
        "SELECT recado.create_webhook('w', 'https://a.example', 'a', NULL, NULL, NULL, NULL, NULL, 'x', 'now')",
        "SELECT recado.rotate_webhook('gateway', 'x', 0)",
        "SELECT recado.delete_webhook('gateway')",
    ] {
        let error = sqlx::raw_sql(statement).execute(&mut sql).await.expect_err(statement);
        assert_eq!(error.as_database_error().and_then(|error| error.code()).as_deref(), Some("42501"), "{statement}: {error}");
    }
}
