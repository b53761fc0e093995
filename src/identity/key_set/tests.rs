//! Tests key sets that are fetched.

use super::*;

const RULES: KeySetRules = KeySetRules { refresh: Duration::from_secs(600), max_stale: Duration::from_secs(60) };

fn ed(first: char, kid: &str) -> String {
    format!(r#"{{"kty":"OKP","crv":"Ed25519","kid":"{kid}","x":"{first}{}"}}"#, "A".repeat(42))
}

fn set(keys: &[String]) -> Vec<u8> {
    format!("{{\"keys\":[{}]}}", keys.join(",")).into_bytes()
}

#[test]
fn a_set_is_read_leniently_for_its_keys_and_strictly_for_itself() {
    let good = set(&[ed('A', "a"), r#"{"kty":"AKP","alg":"ML-DSA-44"}"#.into(), r#"{"kty":"oct","k":"AAAA"}"#.into(), ed('B', "a")]);
    let keys = parse(&good).unwrap();
    assert_eq!(keys.iter().map(|key| key.kid.as_deref()).collect::<Vec<_>>(), [Some("a"), Some("a")]);
    assert_ne!(keys[0].tag, keys[1].tag);
    let many: Vec<String> = (0..101).map(|n| ed('A', &n.to_string())).collect();
    for (bad, outcome) in [
        (b"".to_vec(), "malformed"),
        (b"[]".to_vec(), "malformed"),
        (b"{\"keys\":{}}".to_vec(), "malformed"),
        (b"{\"keys\":[],\"keys\":[]}".to_vec(), "malformed"),
        (b"\xff".to_vec(), "malformed"),
        (set(&many), "malformed"),
        (set(&[]), "no_usable_key"),
        (set(&[r#"{"kty":"oct","k":"AAAA"}"#.into()]), "no_usable_key"),
    ] {
        assert_eq!(parse(&bad).unwrap_err().outcome(), outcome, "{}", String::from_utf8_lossy(&bad));
    }
}

#[test]
fn keys_come_over_tls_or_from_this_machine() {
    for good in ["https://id.example.com/jwks", "http://127.0.0.1:1/x", "http://localhost/x", "http://[::1]:8/x"] {
        assert!(check_address(good).is_ok(), "{good}");
    }
    for bad in [
        "http://id.example.com/",
        "http://localhost.example.com/",
        "file:///etc/jwks",
        "id.example.com",
        "https://a:b@c/",
        "https://a@c/",
        "",
    ] {
        assert!(check_address(bad).is_err(), "{bad}");
    }
}

#[test]
fn the_next_fetch_is_spread_and_follows_max_age_within_bounds() {
    let keys = KeySet::in_file("test", PathBuf::new(), RULES);
    for (max_age, base) in [(None, 600.0), (Some(3600), 3600.0), (Some(1), 60.0), (Some(9_999_999), 86_400.0)] {
        for _ in 0..20 {
            let pause = keys.pause(max_age.map(Duration::from_secs)).as_secs_f64();
            assert!((base * 0.89..=base * 1.11).contains(&pause), "{max_age:?}: {pause}");
        }
    }
    assert_eq!(max_age("public, Max-Age=300, must-revalidate"), Some(Duration::from_secs(300)));
    assert_eq!(max_age("no-store"), None);
    assert_eq!(max_age("s-maxage=5"), None);
}

#[tokio::test]
async fn a_set_serves_until_it_is_stale_and_a_failure_changes_nothing() {
    let keys = KeySet::in_file("test", PathBuf::new(), RULES);
    let ago = |time: Duration| Instant::now().checked_sub(time).expect("the machine runs for longer");
    assert!(keys.keys().is_none() && !keys.has_begun());
    assert_eq!(keys.unknown_key(), UnknownKey::Ask);
    let first = parse(&set(&[ed('A', "a"), ed('B', "b")])).unwrap();
    let tags: Vec<KeyTag> = first.iter().map(|key| key.tag).collect();
    assert_eq!(keys.swap(first.clone(), Instant::now()), KeyChange { removed: vec![], added: tags.clone() });
    assert_eq!(keys.unknown_key(), UnknownKey::Refused);
    assert!(keys.attempt().await.is_err(), "there is no such file");
    assert_eq!((keys.unknown_key(), keys.keys().unwrap().len()), (UnknownKey::Unavailable, 2));
    assert_eq!(keys.swap(first, ago(SPACING)), KeyChange::default());
    assert_eq!(keys.unknown_key(), UnknownKey::Ask);
    let second = parse(&set(&[ed('A', "renamed")])).unwrap();
    let change = KeyChange { removed: vec![tags[1]], added: vec![] };
    assert_eq!(keys.swap(second.clone(), Instant::now()), change, "a key is its material, not its name");
    keys.swap(second, ago(RULES.max_stale));
    assert!(keys.keys().is_none() && keys.has_begun());
}
