//! Tests the reading of identity files.

use super::*;

const DEFAULTS: KeySetRules = KeySetRules { refresh: Duration::from_secs(600), max_stale: Duration::from_secs(86_400) };
const SECRET: &str = "a-secret-of-at-least-thirty-two-bytes!";
const PEM: &str = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----";

fn read(text: &str) -> Result<IdentityFile, Vec<String>> {
    let credential = |name: &str| match name {
        "A_SECRET" => Ok(Some(SECRET.to_owned())),
        "SHORT" => Ok(Some("short".to_owned())),
        name if name.starts_with("RECADO_") => Err(format!("{name}: a setting of the hub")),
        _ => Ok(None),
    };
    let file = |path: &Path| match path.to_str() {
        Some("/secret") => Ok(SECRET.to_owned()),
        Some("/pem") => Ok(PEM.to_owned()),
        _ => Err(format!("cannot read {}", path.display())),
    };
    let readers = FileReaders { credential: &credential, secret: &file, public: &file, check: &crate_check };
    parse(text, DEFAULTS, &readers).map_err(|error| error.0)
}

fn crate_check(secret: &str) -> Result<(), String> {
    if secret.len() < 32 { Err("is too short".to_owned()) } else { Ok(()) }
}

fn full() -> String {
    format!(
        "[[secret]]\nkid = \"2026-11\"\nfile = \"/secret\"\n[[secret]]\nkid = \"2026-05\"\nenv = \"A_SECRET\"\n\
             [[issuer]]\nname = \"one\"\niss = \"https://one/\"\naud = [\"a\", \"b\"]\njwks_url = \"https://one/jwks\"\n\
             refresh = \"5m\"\nmax_stale = \"1h\"\naudience_claim = \"azp\"\nuser = \"/user/id\"\naccount = \"org\"\naccounts = \"/orgs\"\n\
             role = \"/app/role\"\nprefix = \"one:\"\nroles = true\nleeway = \"30s\"\nmax_lifetime = \"1h\"\nrequire = {{ typ = \"Bearer\", v = 2, ok = true }}\n\
             [[issuer]]\niss = \"https://two/\"\naud = \"a\"\n[[issuer.key]]\npem = \"\"\"\n{PEM}\"\"\"\n[[issuer.key]]\nkid = \"k\"\npem_file = \"/pem\"\n\
             [[issuer]]\niss = \"backend\"\n[[issuer.key]]\nsecret_env = \"A_SECRET\"\n"
    )
}

#[test]
fn a_file_with_everything_is_read() {
    let file = read(&full()).unwrap_or_else(|errors| panic!("{errors:?}"));
    let secrets = file.secrets.unwrap();
    assert_eq!((secrets.current.kid.as_deref(), secrets.accepted.len()), (Some("2026-11"), 1));
    let [one, two, backend] = &file.issuers[..] else { panic!("three issuers") };
    assert!(one.published.is_some() && one.keys.is_empty() && one.rules.grants_roles);
    assert_eq!((one.rules.prefix.as_str(), two.rules.prefix.as_str()), ("one:", ""));
    assert_eq!((one.rules.audiences.len(), one.rules.required.len(), one.rules.leeway), (2, 3, Duration::from_secs(30)));
    assert_eq!((one.rules.user.clone(), one.rules.audience.clone()), (ClaimPath::of("/user/id"), ClaimPath::of("azp")));
    assert_eq!((two.rules.name.as_str(), two.keys.len(), two.rules.grants_roles), ("https://two/", 2, false));
    assert_eq!(two.keys[0].algorithm, Algorithm::EdDSA);
    assert!(backend.rules.audiences.is_empty() && backend.keys[0].algorithm == Algorithm::HS256);
}

#[test]
fn each_error_is_reported_with_its_place_and_what_to_do() {
    let one = "[[issuer]]\nname = \"one\"\niss = \"https://one/\"\naud = \"a\"\n";
    let url = "jwks_url = \"https://one/jwks\"\n";
    for (text, expected) in [
        (String::new(), "begin each issuer with [[issuer]]"),
        ("[issuer]\niss = \"x\"\n".to_owned(), "must be a list of tables: begin each entry with [[issuer]]"),
        ("x =".to_owned(), "line 1: this is not TOML"),
        (one.to_owned(), "issuer.one.jwks_url: is missing"),
        (format!("{one}{url}isss = 1\n"), "did you mean iss?"),
        (format!("[[issuer]]\nname = \"one\"\naud = \"a\"\n{url}"), "issuer.one.iss: is missing"),
        (format!("[[issuer]]\nname = \"one\"\niss = \"i\"\n{url}"), "issuer.one.aud: is missing"),
        (format!("[[issuer]]\nname = \"one\"\niss = \"i\"\naud = []\n{url}"), "issuer.one.aud: is missing"),
        (format!("[[issuer]]\niss = \"i\"\naud = \"\"\n{url}"), "aud: contains an empty text"),
        (format!("[[issuer]]\niss = \"i\"\n[[issuer.key]]\npem = \"\"\"{PEM}\"\"\"\n"), "aud: is missing"),
        (format!("{one}jwks_url = \"http://one/jwks\"\n"), "https://"),
        (format!("{one}{url}jwks_file = \"/f\"\n"), "leave one out"),
        (format!("{one}jwks_file = \"\"\n"), "is empty"),
        (format!("{one}{url}refresh = \"0s\"\n"), "issuer.one.refresh"),
        (format!("{one}{url}leeway = \"1h\"\n"), "issuer.one.leeway"),
        (format!("{one}{url}user = \"/a~\"\n"), "issuer.one.user: in a JSON pointer"),
        (format!("{one}{url}prefix = \"a/\"\n"), "issuer.one.prefix: is \"a/\""),
        (format!("{one}{url}prefix = \"\"\n"), "issuer.one.prefix"),
        (format!("{one}{url}require = {{ a = 1.5 }}\n"), "must be a string, a whole number, true or false"),
        (format!("{one}[[issuer.key]]\nkid = \"k\"\n"), "exactly one of pem"),
        (format!("{one}[[issuer.key]]\npem = \"x\"\n"), "issuer.one.key[1].pem: must be a PEM text"),
        (format!("{one}[[issuer.key]]\npem_file = \"/none\"\n"), "issuer.one.key[1].pem_file: cannot read /none"),
        (format!("{one}[[issuer.key]]\npem_file = \"/pem\"\nalg = \"RS256\"\n"), "cannot check RS256; a key of its kind checks EdDSA"),
        (format!("{one}[[issuer.key]]\npem_file = \"/pem\"\nalg = \"none\"\n"), "must be one of HS256"),
        (format!("{one}[[issuer.key]]\npem_file = \"/pem\"\nalg = \"HS256\"\n"), "cannot check HS256"),
        (format!("{one}[[issuer.key]]\nsecret_env = \"A_SECRET\"\nalg = \"RS256\"\n"), "a secret cannot check RS256"),
        (format!("{one}[[issuer.key]]\nsecret_env = \"A_SECRET\"\nalg = \"HS512\"\n"), "HS512 needs 64 or more"),
        (format!("{one}[[issuer.key]]\nsecret_env = \"SHORT\"\n"), "issuer.one.key[1].secret_env: is too short"),
        (format!("{one}[[issuer.key]]\nsecret_env = \"UNSET\"\n"), "UNSET is not set"),
        (format!("{one}[[issuer.key]]\nsecret_env = \"RECADO_X\"\n"), "a setting of the hub"),
        (format!("{one}{url}{one}{url}"), "another issuer has this name"),
        (format!("{one}{url}[[issuer]]\niss = \"https://one/\"\naud = \"b\"\n{url}"), "another issuer has this iss"),
        ("[[secret]]\nkid = \"a\"\n".to_owned(), "exactly one of env and file"),
        ("[[secret]]\nkid = \"\"\nfile = \"/secret\"\n".to_owned(), "secret[1].kid: is empty"),
        ("[[secret]]\nkid = \"a\"\nfile = \"/secret\"\n[[secret]]\nkid = \"a\"\nenv = \"A_SECRET\"\n".to_owned(), "names two secrets"),
    ] {
        let errors = read(&text).err().unwrap_or_else(|| panic!("accepted: {text}"));
        assert!(errors.iter().any(|error| error.contains(expected)), "{text}: {errors:?}");
        assert!(!errors.concat().contains(SECRET), "{errors:?}");
    }
}
