//! Measures what one check of a token costs, for each algorithm.
//!
//! `cargo test --release --test suite token_cost -- --ignored --nocapture` prints the table of
//! docs/internals/performance.md.

use std::path::Path;
use std::time::{Duration, Instant};

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use recado::config::JwtRules;
use recado::identity::{FileReaders, Identity, KeySetRules, OwnSecrets, TokenRules, parse};

use super::support::SECRET;
use super::support::issuer::{AUD, ISS, IssuerKey, claims};

/// Time of one measurement.
const ROUND: Duration = Duration::from_millis(400);
const PUBLIC: [Algorithm; 9] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];

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
    for algorithm in PUBLIC {
        let key = IssuerKey::new(algorithm, "k");
        println!("| {algorithm:?} | {:.0} µs |", cost(&rules(&key), &key.token("ann")));
    }
}

/// The keys of the guide are read in every form.
#[test]
fn a_public_key_in_pem_checks_each_of_its_algorithms() {
    for algorithm in PUBLIC {
        let (key, other) = (IssuerKey::new(algorithm, "k"), IssuerKey::new(Algorithm::ES256, "k"));
        let rules = rules(&key);
        assert_eq!(rules.check(&key.token("ann")).unwrap().who.user.as_str(), "ann", "{algorithm:?}");
        assert!(rules.check(&other.token("ann")).is_err(), "{algorithm:?}");
    }
}
