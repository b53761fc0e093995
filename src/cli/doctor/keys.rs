//! Checks the secrets, the published key sets and the allowed origins. Creates no secret.

use std::collections::HashMap;
use std::time::Duration;

use super::report::Report;
use crate::config::Config;
use crate::identity::KeySet;
use crate::startup;

/// A secret whose characters carry fewer bits than this is reported. 32 random hex digits have some more.
const LEAST_BITS: f64 = 112.0;
/// Longest wait for a published key set. The set's own limit is five seconds.
const KEYS_WITHIN: Duration = Duration::from_secs(6);

/// Makes all checks that need neither database nor hub.
pub async fn check(config: &Config, report: &mut Report) {
    // Reading a secret that is not there would make one. A file that cannot be read is reported by the reader.
    let is_given = config.jwt_secret.is_some() || startup::names_own_secrets(config).unwrap_or(true);
    let is_kept = startup::state_dir(config).is_ok_and(|folder| folder.join("secrets/jwt-secret").is_file());
    if is_given || is_kept {
        secret(config, report);
        if config.jwks_url.is_some() || config.jwks_file.is_some() || config.identity_file.is_some() {
            key_sets(config, report).await;
        }
    } else {
        report.skipped("secret", "no RECADO_JWT_SECRET is set; the first hub makes one and keeps it in its data folder");
    }
    origins(config, report);
}

fn secret(config: &Config, report: &mut Report) {
    match startup::own_secrets(config) {
        Ok(secrets) => match secrets.all().map(|own| bits(&own.secret)).fold(f64::INFINITY, f64::min) {
            weak if weak < LEAST_BITS => report.fix(
                "secret",
                format!("a secret of the hub is weak: its characters carry about {weak:.0} bits"),
                "set RECADO_JWT_SECRET to the output of: openssl rand -hex 32",
            ),
            _ => report.ok("secret", "the secrets of the hub are strong enough"),
        },
        Err(error) => report.fix("secret", error.to_string(), "correct the setting; make a secret with: openssl rand -hex 32"),
    }
}

/// The information in a text, if its characters were drawn independently: its length times their entropy.
fn bits(text: &str) -> f64 {
    let mut counts: HashMap<char, u32> = HashMap::new();
    text.chars().for_each(|character| *counts.entry(character).or_default() += 1);
    let all = f64::from(counts.values().sum::<u32>());
    counts.values().map(|count| f64::from(*count) * (all / f64::from(*count)).log2()).sum()
}

async fn key_sets(config: &Config, report: &mut Report) {
    let identity = match startup::identity(config) {
        Ok(identity) => identity,
        Err(error) => return report.fix("key sets", error.to_string(), "correct the setting or the identity file"),
    };
    for set in identity.key_sets() {
        match tokio::time::timeout(KEYS_WITHIN, set.fetch_once()).await {
            Ok(true) => report.ok("key sets", format!("{} has {} usable keys", set.issuer(), keys_of(set))),
            _ => report.fix(
                "key sets",
                format!("the key set {} cannot be read, or holds no usable key", set.issuer()),
                "check RECADO_JWKS_URL, RECADO_JWKS_FILE or the identity file: curl the address from this machine",
            ),
        }
    }
    if identity.key_sets().is_empty() {
        report.ok("key sets", "the identity file has its keys in itself");
    }
}

fn keys_of(set: &KeySet) -> usize {
    set.keys().map_or(0, |keys| keys.len())
}

fn origins(config: &Config, report: &mut Report) {
    let Some(allowed) = &config.allowed_origins else {
        return report.ok("origins", "pages of the hub's own host may connect (RECADO_ALLOWED_ORIGINS is not set)");
    };
    let open: Vec<&str> = allowed.iter().map(String::as_str).filter(|origin| is_open(origin)).collect();
    if open.is_empty() {
        report.ok("origins", format!("{} origins may connect", allowed.len()));
    } else {
        report.fix(
            "origins",
            format!("pages that anyone on the way can change may connect: {}", open.join(", ")),
            "name them with https:// in RECADO_ALLOWED_ORIGINS",
        );
    }
}

/// Whether pages of this origin travel unprotected over a network, or all pages are meant.
fn is_open(origin: &str) -> bool {
    let host = origin.strip_prefix("http://").map(|rest| rest.rsplit_once(':').map_or(rest, |(host, _)| host));
    origin == "*" || host.is_some_and(|host| !["localhost", "127.0.0.1", "[::1]"].contains(&host) && !host.ends_with(".localhost"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_random_secret_is_strong_and_a_repeated_one_is_not() {
        assert!(bits("6f1d0c5be29a48377de1f05c2b9a64836f1d0c5be29a48377de1f05c2b9a6483") > 200.0);
        assert!(bits(&"a".repeat(64)) < LEAST_BITS);
        assert!(bits(&"changeme".repeat(4)) < LEAST_BITS);
    }

    #[test]
    fn only_unprotected_origins_of_other_machines_are_reported() {
        for (origin, open) in
            [("https://app.example.com", false), ("http://app.example.com", true), ("http://localhost:5173", false), ("*", true)]
        {
            assert_eq!(is_open(origin), open, "{origin}");
        }
    }
}
