//! Parses and checks the identity file (TOML) and reports all errors at once.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jsonwebtoken::Algorithm;
use serde_json::Value as Json;
use toml::Value;

use super::claim_path::ClaimPath;
use super::issuer::{Issuer, IssuerRules, LEEWAY, ROLE_CLAIM};
use super::key_set::{KeySet, KeySetRules, check_address};
use super::verification_key::{ALGORITHMS, VerificationKey, algorithm, is_secret};
use super::{OwnSecret, OwnSecrets, pem};
use crate::domain::UserId;
use crate::toml_table::{Table, TableErrors, not_toml};

/// Most issuers of one file.
const ISSUERS_MAX: usize = 32;
/// Most keys of one issuer in the file, and most secrets of the hub.
const KEYS_MAX: usize = 16;
const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);

/// Reads what the file refers to.
pub struct FileReaders<'a> {
    /// The value of an environment variable that holds a secret.
    pub credential: &'a dyn Fn(&str) -> Result<Option<String>, String>,
    /// The content of a file that holds a secret.
    pub secret: &'a dyn Fn(&Path) -> Result<String, String>,
    /// The content of a file that holds a public key.
    pub public: &'a dyn Fn(&Path) -> Result<String, String>,
    /// Says what is wrong with a secret.
    pub check: &'a dyn Fn(&str) -> Result<(), String>,
}

/// The content of an identity file.
pub struct IdentityFile {
    pub issuers: Vec<Issuer>,
    /// The hub's own secrets, if the file names them.
    pub secrets: Option<OwnSecrets>,
}

/// All errors of the file, each with the path of its key and how to fix it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct IdentityFileError(pub Vec<String>);

/// Parses an identity file. Key sets without times of their own get `defaults`.
///
/// # Errors
/// All errors of the file.
pub fn parse(text: &str, defaults: KeySetRules, readers: &FileReaders<'_>) -> Result<IdentityFile, IdentityFileError> {
    let values: toml::Table = toml::from_str(text).map_err(|error| IdentityFileError(vec![not_toml(text, &error)]))?;
    let errors = TableErrors::default();
    let root = Table::new("", values, &errors);
    let entries = tables(&root, "issuer", ISSUERS_MAX);
    let issuers: Vec<Option<Issuer>> =
        entries.into_iter().enumerate().map(|(at, entry)| issuer(at, entry, &errors, defaults, readers)).collect();
    let own = tables(&root, "secret", KEYS_MAX);
    let own: Vec<Option<OwnSecret>> = own.into_iter().enumerate().map(|(at, entry)| own_secret(at, entry, &errors, readers)).collect();
    if issuers.is_empty() && own.is_empty() {
        root.wrong("issuer", "is missing; begin each issuer with [[issuer]], and each secret of the hub with [[secret]]");
    }
    root.finish();
    let issuers: Vec<Issuer> = issuers.into_iter().flatten().collect();
    let mut own = own.into_iter().flatten();
    let secrets = own.next().map(|current| OwnSecrets { current, accepted: own.collect() });
    let mut errors = errors.into_inner();
    errors.extend(clashes(&issuers, secrets.as_ref()));
    if errors.is_empty() { Ok(IdentityFile { issuers, secrets }) } else { Err(IdentityFileError(errors)) }
}

/// The tables of a list, such as `[[issuer]]`.
fn tables(parent: &Table<'_>, key: &'static str, most: usize) -> Vec<toml::Table> {
    let Some(value) = parent.value(key) else { return Vec::new() };
    let all = |value: &Value| value.as_array()?.iter().map(|entry| entry.as_table().cloned()).collect::<Option<Vec<_>>>();
    match all(value) {
        Some(found) if found.len() > most => {
            parent.wrong(key, format_args!("has {} entries; at most {most} are allowed", found.len()));
            Vec::new()
        }
        Some(found) => found,
        None => {
            let path = if parent.path.is_empty() { key.to_owned() } else { format!("issuer.{key}") };
            parent.wrong(key, format_args!("must be a list of tables: begin each entry with [[{path}]]"));
            Vec::new()
        }
    }
}

fn issuer(at: usize, entry: toml::Table, errors: &TableErrors, defaults: KeySetRules, readers: &FileReaders<'_>) -> Option<Issuer> {
    let before = errors.borrow().len();
    let path = match entry.get("name").and_then(Value::as_str) {
        Some(name) => format!("issuer.{name}"),
        None => format!("issuer[{}]", at + 1),
    };
    let table = Table::new(path, entry, errors);
    let iss = table.text("iss").filter(|iss| !iss.is_empty());
    let name = table.text("name").or_else(|| iss.clone()).unwrap_or_else(|| format!("issuer {}", at + 1));
    let audiences = audiences(&table);
    let rules = KeySetRules {
        refresh: table.duration("refresh", defaults.refresh, SECOND, DAY),
        max_stale: table.duration("max_stale", defaults.max_stale, SECOND, 30 * DAY),
    };
    let published = published(&table, &name, rules);
    let entries = tables(&table, "key", KEYS_MAX);
    let keys: Vec<VerificationKey> =
        entries.into_iter().enumerate().filter_map(|(at, entry)| key(&table, at, entry, errors, readers)).collect();
    if published.is_none() && !table.has("jwks_url") && !table.has("jwks_file") && !table.has("key") {
        table.wrong("jwks_url", "is missing; give jwks_url, jwks_file, or keys that begin with [[issuer.key]]");
    }
    // Without these, a token that a public issuer made for any other service would open streams here.
    if published.is_some() || keys.iter().any(|key| !is_secret(key.algorithm)) {
        if iss.is_none() {
            table.wrong("iss", "is missing; an issuer with public keys needs the iss of its tokens");
        }
        if audiences.is_empty() {
            table.wrong("aud", "is missing; an issuer with public keys needs the audience that stands for this hub in its tokens");
        }
    }
    let claim = |key: &'static str, default: &str| {
        let text = table.text(key).unwrap_or_else(|| default.to_owned());
        if let Err(why) = ClaimPath::check(&text) {
            table.wrong(key, why);
        }
        ClaimPath::of(&text)
    };
    let rules = IssuerRules {
        name,
        iss,
        audiences,
        audience: claim("audience_claim", "aud"),
        user: claim("user", "sub"),
        account: claim("account", "account_id"),
        accounts: claim("accounts", "account_ids"),
        reads_accounts: true,
        role: claim("role", ROLE_CLAIM),
        prefix: prefix(&table),
        grants_roles: table.switch("roles"),
        required: required(&table),
        leeway: table.duration("leeway", LEEWAY, Duration::ZERO, Duration::from_secs(300)),
        max_lifetime: table.duration("max_lifetime", DAY, SECOND, 3660 * DAY),
    };
    table.finish();
    (errors.borrow().len() == before).then_some(Issuer { rules, keys, published })
}

/// One audience, or a list.
fn audiences(table: &Table<'_>) -> Vec<String> {
    let found = match table.value("aud") {
        Some(Value::Array(_)) => table.texts("aud"),
        _ => table.text("aud").into_iter().collect(),
    };
    if table.has("aud") && found.iter().any(String::is_empty) {
        table.wrong("aud", "contains an empty text; name the audience that stands for this hub in the tokens");
    }
    found
}

fn published(table: &Table<'_>, name: &str, rules: KeySetRules) -> Option<std::sync::Arc<KeySet>> {
    let (url, file) = (table.text("jwks_url"), table.text("jwks_file"));
    match (url, file) {
        (Some(_), Some(_)) => {
            table.wrong("jwks_file", "stands next to jwks_url; leave one out");
            None
        }
        (Some(url), None) => match check_address(&url).and_then(|url| KeySet::at(name, url, rules)) {
            Ok(set) => Some(set),
            Err(why) => {
                table.wrong("jwks_url", why);
                None
            }
        },
        (None, Some(file)) if file.is_empty() => {
            table.wrong("jwks_file", "is empty; name a file or leave it out");
            None
        }
        (None, Some(file)) => Some(KeySet::in_file(name, PathBuf::from(file), rules)),
        (None, None) => None,
    }
}

/// What stands before the ids of this issuer. It must be the beginning of an id.
fn prefix(table: &Table<'_>) -> String {
    let prefix = table.text("prefix").unwrap_or_default();
    if table.has("prefix") && UserId::parse(&prefix).is_err() {
        table.wrong("prefix", format_args!("is {prefix:?}; it must consist of characters that ids may have, such as \"shop:\""));
    }
    prefix
}

/// Claims that must have exactly these values.
fn required(table: &Table<'_>) -> Vec<(ClaimPath, Json)> {
    if !table.has("require") {
        return Vec::new();
    }
    let mut found = Vec::new();
    for (claim, value) in table.table("require").into_values() {
        let value = match value {
            Value::String(text) => Json::from(text),
            Value::Integer(number) => Json::from(number),
            Value::Boolean(truth) => Json::from(truth),
            _ => {
                table.wrong("require", format_args!("{claim:?} must be a string, a whole number, true or false"));
                continue;
            }
        };
        if let Err(why) = ClaimPath::check(&claim) {
            table.wrong("require", format_args!("{claim:?} {why}"));
        }
        found.push((ClaimPath::of(&claim), value));
    }
    found
}

fn key(parent: &Table<'_>, at: usize, entry: toml::Table, errors: &TableErrors, readers: &FileReaders<'_>) -> Option<VerificationKey> {
    let table = Table::new(format!("{}.key[{}]", parent.path, at + 1), entry, errors);
    let kid = table.text("kid");
    let wanted = table.text("alg").map(|name| (algorithm(&name), name));
    if let Some((None, name)) = &wanted {
        let names: Vec<_> = ALGORITHMS.iter().map(|(name, _)| *name).collect();
        table.wrong("alg", format_args!("is {name:?}; it must be one of {}", names.join(", ")));
    }
    let wanted = wanted.and_then(|(algorithm, _)| algorithm);
    let pem = (table.text("pem"), table.text("pem_file"));
    let secret = secret(&table, "secret_env", "secret_file", readers);
    let given = ["pem", "pem_file", "secret_env", "secret_file"].into_iter().filter(|key| table.has(key)).count();
    if given != 1 {
        table.wrong("pem", "a key needs exactly one of pem, pem_file, secret_env and secret_file");
        table.finish();
        return None;
    }
    let key = match (pem, secret) {
        ((Some(text), _), _) => public("pem", &text, kid, wanted),
        ((_, Some(file)), _) => match (readers.public)(Path::new(&file)) {
            Ok(text) => public("pem_file", &text, kid, wanted),
            Err(why) => Err(("pem_file", why)),
        },
        (_, Some((name, secret))) => {
            VerificationKey::of_secret(kid, wanted.unwrap_or(Algorithm::HS256), &secret).map_err(|why| (name, why))
        }
        _ => {
            table.finish();
            return None;
        }
    };
    let key = key.map_err(|(name, why)| table.wrong(name, why)).ok();
    table.finish();
    key
}

fn public(
    name: &'static str,
    text: &str,
    kid: Option<String>,
    wanted: Option<Algorithm>,
) -> Result<VerificationKey, (&'static str, String)> {
    let key = pem::public_key(text).and_then(|public| VerificationKey::of_public(kid, wanted, &public));
    key.map_err(|why| (name, why))
}

/// The secret of the variable or file that one of these two keys names, and the key.
fn secret(table: &Table<'_>, env: &'static str, file: &'static str, readers: &FileReaders<'_>) -> Option<(&'static str, String)> {
    let (variable, path) = (table.text(env), table.text(file));
    let (name, found) = match (variable, path) {
        (Some(variable), None) => match (readers.credential)(&variable) {
            Ok(Some(secret)) => (env, Ok(secret)),
            Ok(None) => (env, Err(format!("{variable} is not set; set it to the secret, or {variable}_FILE to a file that holds it"))),
            Err(why) => (env, Err(why)),
        },
        (None, Some(path)) => (file, (readers.secret)(Path::new(&path))),
        _ => return None,
    };
    let checked = found.and_then(|secret| (readers.check)(&secret).map(|()| secret));
    match checked {
        Ok(secret) => Some((name, secret)),
        Err(why) => {
            table.wrong(name, why);
            None
        }
    }
}

fn own_secret(at: usize, entry: toml::Table, errors: &TableErrors, readers: &FileReaders<'_>) -> Option<OwnSecret> {
    let table = Table::new(format!("secret[{}]", at + 1), entry, errors);
    let kid = table.text("kid");
    if kid.as_deref() == Some("") {
        table.wrong("kid", "is empty; name the secret or leave it out");
    }
    let secret = secret(&table, "env", "file", readers);
    if table.has("env") == table.has("file") {
        table.wrong("file", "a secret needs exactly one of env and file");
    }
    table.finish();
    secret.map(|(_, secret)| OwnSecret { kid, secret })
}

/// Reports duplicate names, issuers and secrets.
fn clashes(issuers: &[Issuer], secrets: Option<&OwnSecrets>) -> Vec<String> {
    let mut errors = Vec::new();
    let (mut names, mut seen) = (BTreeSet::new(), BTreeSet::new());
    for issuer in issuers {
        let name = &issuer.rules.name;
        if !names.insert(name) {
            errors.push(format!("issuer.{name}.name: another issuer has this name; each needs its own"));
        }
        if let Some(iss) = &issuer.rules.iss
            && !seen.insert(iss)
        {
            errors.push(format!(
                "issuer.{name}.iss: another issuer has this iss; put their keys into one entry, and their audiences into a list"
            ));
        }
    }
    let mut kids = BTreeSet::new();
    for own in secrets.into_iter().flat_map(OwnSecrets::all) {
        if let Some(kid) = &own.kid
            && !kids.insert(kid)
        {
            errors.push(format!("secret.kid: {kid:?} names two secrets; each needs its own name"));
        }
    }
    errors
}

#[cfg(test)]
mod tests;
