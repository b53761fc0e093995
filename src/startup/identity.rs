//! Reads who may sign tokens: the hub's own secrets, the identity file, and the settings of one key set.

use std::path::Path;

use super::{StartupError, state_dir};
use crate::config::{Config, credential};
use crate::identity::{
    ClaimPath, FileReaders, Identity, IdentityFile, Issuer, IssuerRules, KeySet, KeySetRules, OwnSecret, OwnSecrets, check_address, parse,
};
use crate::secrets::{self, KeptSecret};

/// Most bytes of an identity file or of a public key.
const FILE_MAX_BYTES: usize = 256 << 10;

/// The identity settings of this hub.
///
/// # Errors
/// When a secret can neither be read nor created, and all errors of the settings and of the identity file.
pub fn identity(config: &Config) -> Result<Identity, StartupError> {
    let mut issuers = Vec::new();
    if let Some(issuer) = single_key_set(config)? {
        issuers.push(issuer);
    }
    let file = config.identity_file.as_deref().map(|path| identity_file(path, rules(config))).transpose()?;
    let (found, named) = file.map_or_else(|| (Vec::new(), None), |file| (file.issuers, file.secrets));
    if let Some(twice) = found.iter().find(|issuer| issuers.iter().any(|other| other.rules.iss == issuer.rules.iss)) {
        return Err(wrong(format!(
            "issuer.{}.iss: RECADO_JWKS_URL or RECADO_JWKS_FILE describes the same issuer (RECADO_JWT_ISSUER); leave one out",
            twice.rules.name
        )));
    }
    issuers.extend(found);
    for (setting, claim) in [
        ("RECADO_JWT_USER_CLAIM", &config.jwt.user_claim),
        ("RECADO_JWT_ACCOUNT_CLAIM", &config.jwt.account_claim),
        ("RECADO_JWT_ACCOUNTS_CLAIM", &config.jwt.accounts_claim),
    ] {
        ClaimPath::check(claim).map_err(|why| wrong(format!("{setting} is {claim:?}; it {why}")))?;
    }
    let secrets = choose(config, named)?;
    Identity::new(secrets, config.jwt.clone(), issuers).map_err(|why| wrong(format!("a secret of the hub {why}")))
}

/// The hub's own secrets: those of the identity file, the given ones, or those that are kept here.
///
/// # Errors
/// As [`identity`].
pub fn own_secrets(config: &Config) -> Result<OwnSecrets, StartupError> {
    let named = config.identity_file.as_deref().map(|path| identity_file(path, rules(config))).transpose()?;
    choose(config, named.and_then(|file| file.secrets))
}

/// Whether the identity file names the hub's own secrets.
///
/// # Errors
/// As [`identity`].
pub fn names_own_secrets(config: &Config) -> Result<bool, StartupError> {
    let file = config.identity_file.as_deref().map(|path| identity_file(path, rules(config))).transpose()?;
    Ok(file.is_some_and(|file| file.secrets.is_some()))
}

fn choose(config: &Config, named: Option<OwnSecrets>) -> Result<OwnSecrets, StartupError> {
    let unnamed = |secret: &String| OwnSecret { kid: None, secret: secret.clone() };
    let mut accepted: Vec<OwnSecret> = config.jwt_accepted_secrets.iter().map(unnamed).collect();
    if let Some(named) = named {
        if config.jwt_secret.is_some() || !accepted.is_empty() {
            return Err(wrong(
                "the identity file has [[secret]], and RECADO_JWT_SECRET or RECADO_JWT_ACCEPTED_SECRETS is set; leave one out".to_owned(),
            ));
        }
        return Ok(named);
    }
    let current = match &config.jwt_secret {
        Some(secret) => unnamed(secret),
        None => {
            let folder = state_dir(config)?;
            let current = secrets::jwt_secret(&folder)?;
            accepted.extend(secrets::previous(&folder, KeptSecret::Jwt)?.iter().map(unnamed));
            unnamed(&current)
        }
    };
    Ok(OwnSecrets { current, accepted })
}

/// The key set of the single settings.
fn single_key_set(config: &Config) -> Result<Option<Issuer>, StartupError> {
    let (name, set) = match (&config.jwks_url, &config.jwks_file) {
        (None, None) => return Ok(None),
        (Some(_), Some(_)) => return Err(wrong("RECADO_JWKS_URL and RECADO_JWKS_FILE are both set; leave one out".to_owned())),
        (Some(url), None) => {
            let set = check_address(url).and_then(|url| KeySet::at("jwks", url, rules(config)));
            ("RECADO_JWKS_URL", set.map_err(|why| wrong(format!("RECADO_JWKS_URL {why}")))?)
        }
        (None, Some(file)) => ("RECADO_JWKS_FILE", KeySet::in_file("jwks", file.clone(), rules(config))),
    };
    // Without these, a token that the provider made for any other service would open streams here.
    for (needed, value) in [("RECADO_JWT_ISSUER", &config.jwt.issuer), ("RECADO_JWT_AUDIENCE", &config.jwt.audience)] {
        if value.is_none() {
            return Err(wrong(format!("{name} needs {needed}: otherwise tokens that were made for other services would be accepted")));
        }
    }
    let rules = IssuerRules::of_settings("jwks", &config.jwt, config.jwks_grants_roles);
    Ok(Some(Issuer { rules, keys: Vec::new(), published: Some(set) }))
}

fn rules(config: &Config) -> KeySetRules {
    KeySetRules { refresh: config.jwks_refresh, max_stale: config.jwks_max_stale }
}

/// Reads an identity file, with the secrets and keys that it names.
///
/// # Errors
/// When it cannot be read, and all errors in it.
pub fn identity_file(path: &Path, defaults: KeySetRules) -> Result<IdentityFile, StartupError> {
    let shown = || path.display().to_string();
    let text = read_public(path).map_err(|why| StartupError::NoIdentityFile(shown(), why))?;
    let readers = FileReaders { credential: &credential, secret: &read_secret, public: &read_public, check: &secrets::check };
    parse(&text, defaults, &readers).map_err(|error| StartupError::IdentityFile(shown(), error))
}

fn read_secret(path: &Path) -> Result<String, String> {
    let text = secrets::read_given(path).map_err(|error| format!("cannot use {}: {error}", path.display()))?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

fn read_public(path: &Path) -> Result<String, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    if text.len() > FILE_MAX_BYTES {
        return Err(format!("{} is larger than {FILE_MAX_BYTES} bytes", path.display()));
    }
    Ok(text)
}

fn wrong(why: String) -> StartupError {
    StartupError::Identity(why)
}
