//! Measures what one check of a token costs, and what it adds to a reconnect.
//!
//! `cargo test --release --test suite token_cost -- --ignored --nocapture` prints both.

use std::path::Path;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use recado::config::JwtRules;
use recado::identity::{FileReaders, Identity, KeySetRules, OwnSecrets, TokenRules, parse};

use super::support::issuer::{ALGORITHMS, AUD, ISS, IssuerKey, KeyServer, claims};
use super::support::*;

/// Connections of one measurement.
const RECONNECTS: usize = 3000;
/// Time of one measurement.
const ROUND: Duration = Duration::from_millis(400);

fn rules(key: &IssuerKey) -> TokenRules {
    let file = format!(
        "[[issuer]]\niss = \"{ISS}\"\naud = \"{AUD}\"\n[[issuer.key]]\nkid = \"k\"\nalg = \"{:?}\"\npem = \"\"\"\n{}\"\"\"\n",
        key.algorithm, key.pem
    );
    let none = |_: &Path| Err("no other file".to_owned());
    let readers = FileReaders { credential: &|_| Ok(None), secret: &none, public: &none, check: &|_| Ok(()) };
    let defaults = KeySetRules { refresh: Duration::from_secs(600), max_stale: Duration::from_secs(600) };
    let issuers = parse(&file, defaults, &readers).unwrap_or_else(|error| panic!("{error}")).issuers;
    Identity::new(OwnSecrets::single(SECRET), JwtRules::default(), issuers).unwrap().tokens()
}

/// Microseconds of one check: the least of five rounds, because other programs only add to it.
fn cost(rules: &TokenRules, token: &str) -> f64 {
    let round = || {
        let (begun, mut count) = (Instant::now(), 0_u32);
        while begun.elapsed() < ROUND {
            for _ in 0..20 {
                rules.check(token).expect("the token is good");
            }
            count += 20;
        }
        begun.elapsed().as_secs_f64() * 1e6 / f64::from(count)
    };
    (0..5).map(|_| round()).fold(f64::INFINITY, f64::min)
}

#[test]
#[ignore = "measures"]
fn the_cost_of_one_check() {
    let key = EncodingKey::from_secret(SECRET.as_bytes()).unwrap();
    let own = jsonwebtoken::encode(&Header::default(), &claims("ann"), &key).unwrap();
    println!("| HS256, the own secret alone | {:.0} µs |", cost(&TokenRules::new(SECRET, JwtRules::default()), &own));
    for algorithm in ALGORITHMS {
        let key = IssuerKey::new(algorithm, "k");
        println!("| {algorithm:?} | {:.0} µs |", cost(&rules(&key), &key.token("ann")));
    }
}

/// Processor time of a hub so far, in seconds (proc(5): fields 14 and 15 of `stat`, in hundredths).
fn processor_seconds(hub: &TestHub) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", hub.pid())).unwrap();
    let (_, after_name) = stat.rsplit_once(')').unwrap();
    let ticks = after_name.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<f64>().unwrap());
    ticks.sum::<f64>() / 100.0
}

/// Opens this many sockets with one token, some at a time, and closes each after its first frame.
async fn reconnect(hub: &TestHub, token: &str) -> f64 {
    let before = processor_seconds(hub);
    let asked = TestClient::of("ann").bearer(token).query("since", "live").query("ack", "client");
    let one = || async { asked.open(hub).await.unwrap().close(None).await.unwrap() };
    futures_util::stream::iter(0..RECONNECTS).for_each_concurrent(20, |_| one()).await;
    processor_seconds(hub) - before
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures"]
async fn the_processor_time_of_reconnects_with_a_public_key() {
    let db = TestDb::new().await;
    let key = IssuerKey::new(Algorithm::ES256, "k");
    let server = KeyServer::start(&[&key]).await;
    let hub = TestHub::on(&db).with("RECADO_JWKS_URL", &server.url()).with("RECADO_JWT_ISSUER", ISS).with("RECADO_JWT_AUDIENCE", AUD);
    let hub = hub.with("RECADO_LOG", "warn").with("RECADO_MAX_CONNECTIONS_PER_USER", "100000").start().await;
    eventually("the hub has the keys", PATIENCE, async || hub.is_ready().await.then_some(())).await;
    let own = EncodingKey::from_secret(SECRET.as_bytes()).unwrap();
    let own = jsonwebtoken::encode(&Header::default(), &claims("ann"), &own).unwrap();
    let public = key.token("ann");
    reconnect(&hub, &own).await;
    for _ in 0..3 {
        let (secret, public) = (reconnect(&hub, &own).await, reconnect(&hub, &public).await);
        println!("{RECONNECTS} reconnects: HS256 {secret:.2} s, ES256 {public:.2} s, {:.2} times", public / secret);
    }
}

/// The keys of the guide are read in every form.
#[test]
fn a_public_key_in_pem_checks_each_of_its_algorithms() {
    for algorithm in ALGORITHMS {
        let (key, other) = (IssuerKey::new(algorithm, "k"), IssuerKey::new(Algorithm::ES256, "k"));
        let rules = rules(&key);
        assert_eq!(rules.check(&key.token("ann")).unwrap().who.user.as_str(), "ann", "{algorithm:?}");
        assert!(rules.check(&other.token("ann")).is_err(), "{algorithm:?}");
    }
}
