//! Promise: no token opens anything that no key of its issuer has signed with that key's own algorithm.
//!
//! Each attempt confuses algorithms, keys, issuers or claims. All of them are refused, and a good token of every key is
//! accepted before and after.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::{Algorithm, EncodingKey, crypto};
use serde_json::{Value, json};

use super::support::issuer::{IssuerKey, KeyAnswer, KeyServer, base64url, now};
use super::support::*;

const ALPHA: &str = "https://alpha.example.com/";
const BETA: &str = "https://beta.example.com/";
const GAMMA: &str = "gamma";
const SHARED: &str = "a-secret-of-the-hub-and-one-backend-which-has-sixty-four-bytes-or-more";

/// Everything that can sign, and the issuer of each.
struct Cast {
    alpha: Vec<IssuerKey>,
    beta: Vec<IssuerKey>,
}

impl Cast {
    fn new() -> Self {
        let key = IssuerKey::new;
        let mut nameless = key(Algorithm::PS256, "beta-ps");
        nameless.kid = None;
        Self {
            alpha: vec![key(Algorithm::RS256, "alpha-rs"), key(Algorithm::ES256, "alpha-es"), key(Algorithm::EdDSA, "alpha-ed")],
            beta: vec![key(Algorithm::ES384, "beta-es"), nameless],
        }
    }

    fn all(&self) -> impl Iterator<Item = (&IssuerKey, Value)> {
        let alpha = self.alpha.iter().map(|key| (key, claims(ALPHA)));
        alpha.chain(self.beta.iter().map(|key| (key, claims(BETA))))
    }

    fn file(&self, url: &str, secret: &str) -> String {
        format!(
            "[[issuer]]\nname = \"alpha\"\niss = \"{ALPHA}\"\naud = \"hub\"\njwks_url = \"{url}\"\n\
             [[issuer]]\nname = \"beta\"\niss = \"{BETA}\"\naud = [\"hub\", \"hub-2\"]\n\
             [[issuer.key]]\nkid = \"beta-es\"\npem = \"\"\"\n{}\"\"\"\n[[issuer.key]]\nalg = \"PS256\"\npem = \"\"\"\n{}\"\"\"\n\
             [[issuer]]\nname = \"gamma\"\niss = \"{GAMMA}\"\n[[issuer.key]]\nkid = \"gamma\"\nalg = \"HS512\"\nsecret_file = \"{secret}\"\n",
            self.beta[0].pem, self.beta[1].pem
        )
    }
}

fn claims(iss: &str) -> Value {
    json!({"iss": iss, "aud": "hub", "sub": "ann", "exp": now() + 600})
}

fn with(mut claims: Value, name: &str, value: Value) -> Value {
    claims[name] = value;
    claims
}

fn by_secret(header: &Value, claims: &str, secret: &[u8], algorithm: Algorithm) -> String {
    let message = format!("{}.{}", base64url(header.to_string()), base64url(claims));
    let signature = crypto::sign(message.as_bytes(), &EncodingKey::from_secret(secret).unwrap(), algorithm).unwrap();
    format!("{message}.{signature}")
}

/// The forms in which programs hold a public key, each of which has been used as a secret somewhere.
fn as_secrets(key: &IssuerKey) -> Vec<Vec<u8>> {
    let der: String = key.pem.lines().filter(|line| !line.starts_with('-')).collect();
    let mut forms = vec![
        key.pem.clone().into_bytes(),
        key.pem.trim_end().as_bytes().to_vec(),
        STANDARD.decode(&der).unwrap(),
        der.into_bytes(),
        key.jwk.to_string().into_bytes(),
    ];
    for name in ["n", "x", "y"] {
        if let Some(text) = key.jwk[name].as_str() {
            forms.push(text.as_bytes().to_vec());
            forms.push(base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(text).unwrap());
        }
    }
    forms
}

const HMACS: [(&str, Algorithm); 3] = [("HS256", Algorithm::HS256), ("HS384", Algorithm::HS384), ("HS512", Algorithm::HS512)];
const NAMES: [&str; 13] =
    ["HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"];

/// A header names another algorithm than the key's.
fn algorithm_confusions(cast: &Cast) -> Vec<(String, String)> {
    let mut attempts = Vec::new();
    for (key, claims) in cast.all() {
        let kid = key.kid.clone();
        for (name, algorithm) in HMACS {
            for (form, secret) in as_secrets(key).iter().enumerate() {
                let what = format!("{name} by form {form} of the public key {:?}", key.algorithm);
                attempts.push((what, by_secret(&json!({"alg": name, "kid": kid}), &claims.to_string(), secret, algorithm)));
                let nameless = by_secret(&json!({"alg": name}), &claims.to_string(), secret, algorithm);
                attempts.push((format!("{name} by form {form} of {:?}, without kid", key.algorithm), nameless));
            }
        }
        for name in NAMES.into_iter().filter(|name| *name != format!("{:?}", key.algorithm)) {
            let header = json!({"alg": name, "kid": kid}).to_string();
            attempts.push((format!("{:?} said to be {name}", key.algorithm), key.sign_text(&header, &claims.to_string())));
        }
        // The same RSA key with another padding or hash.
        for (name, algorithm) in [("RS384", Algorithm::RS384), ("PS384", Algorithm::PS384), ("PS512", Algorithm::PS512)] {
            if matches!(key.algorithm, Algorithm::RS256 | Algorithm::PS256) {
                let other = IssuerKey { algorithm, ..key.clone() };
                attempts.push((format!("{name} by the key of {:?}", key.algorithm), other.sign(&claims)));
            }
        }
        for none in ["none", "None", "NONE", "nOnE", "", "null"] {
            let message = format!("{}.{}", base64url(json!({"alg": none, "kid": kid}).to_string()), base64url(claims.to_string()));
            attempts.push((format!("alg {none:?}, unsigned"), format!("{message}.")));
            attempts.push((format!("alg {none:?}, with a signature"), format!("{message}.{}", base64url("signature"))));
        }
        for header in [
            json!({"alg": null, "kid": kid}),
            json!({"alg": [format!("{:?}", key.algorithm)], "kid": kid}),
            json!({"kid": kid}),
            json!({"alg": format!("{:?}", key.algorithm).to_lowercase(), "kid": kid}),
            json!({"alg": format!("{:?}", key.algorithm), "kid": kid, "crit": ["exp"]}),
            json!({"alg": format!("{:?}", key.algorithm), "kid": kid, "b64": false, "crit": ["b64"]}),
            json!({"alg": format!("{:?}", key.algorithm), "kid": kid, "typ": "id_token"}),
            json!({"alg": format!("{:?}", key.algorithm), "kid": kid, "typ": "logout+jwt"}),
            json!({"alg": format!("{:?}", key.algorithm), "kid": [kid]}),
            json!({"alg": format!("{:?}", key.algorithm), "kid": 1}),
        ] {
            attempts.push((format!("header {header}"), key.sign_text(&header.to_string(), &claims.to_string())));
        }
        let twice = format!(r#"{{"alg":"HS256","alg":"{:?}","kid":{}}}"#, key.algorithm, json!(kid));
        attempts.push(("two alg".to_owned(), key.sign_text(&twice, &claims.to_string())));
    }
    attempts
}

/// The token brings, or points to, a key of the attacker.
fn key_confusions(cast: &Cast) -> Vec<(String, String)> {
    let mut attempts = Vec::new();
    for (key, claims) in cast.all() {
        // The RSA key is the same in all tests, so the attacker's is another one.
        let mine = IssuerKey::new(if key.algorithm == Algorithm::ES384 { Algorithm::ES384 } else { Algorithm::ES256 }, "mine");
        let alg = format!("{:?}", mine.algorithm);
        let kid = key.kid.clone();
        for (what, header) in [
            ("its own kid", json!({"alg": alg, "kid": "mine"})),
            ("the issuer's kid", json!({"alg": alg, "kid": kid})),
            ("no kid", json!({"alg": alg})),
            ("jwk in the header", json!({"alg": alg, "kid": kid, "jwk": mine.jwk})),
            ("jku in the header", json!({"alg": alg, "kid": "mine", "jku": "http://127.0.0.1:1/jwks"})),
            ("x5u in the header", json!({"alg": alg, "kid": "mine", "x5u": "http://127.0.0.1:1/x5u"})),
            ("x5c in the header", json!({"alg": alg, "kid": kid, "x5c": [STANDARD.encode("certificate")]})),
            ("a path as kid", json!({"alg": alg, "kid": "../../../../dev/null"})),
            ("SQL as kid", json!({"alg": alg, "kid": "' UNION SELECT 'secret' --"})),
            ("an empty kid", json!({"alg": alg, "kid": ""})),
        ] {
            attempts.push((format!("another key of {alg} with {what}"), mine.sign_text(&header.to_string(), &claims.to_string())));
        }
        // An empty secret, and secrets that a path as kid would lead to.
        for secret in [&b"\0"[..], b"0", b"secret", b"null"] {
            let header = json!({"alg": "HS256", "kid": "/dev/null"});
            attempts.push((format!("the secret {secret:?}"), by_secret(&header, &claims.to_string(), secret, Algorithm::HS256)));
        }
        let good = key.sign(&claims);
        let (message, signature) = good.rsplit_once('.').unwrap();
        let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(signature).unwrap();
        let mut turned = bytes.clone();
        turned[0] ^= 1;
        for (what, signature) in [
            ("no signature", String::new()),
            ("zeros for a signature", base64url(vec![0; bytes.len()])),
            ("a signature of one bit more", base64url(&turned)),
            ("half a signature", base64url(&bytes[..bytes.len() / 2])),
            ("a longer signature", base64url([bytes.clone(), vec![0]].concat())),
            ("a padded signature", format!("{signature}==")),
            ("a signature in DER", base64url([&[0x30, 0x44, 0x02, 0x20], &bytes[..bytes.len().min(64)]].concat())),
        ] {
            attempts.push((format!("{:?} with {what}", key.algorithm), format!("{message}.{signature}")));
        }
        let other = base64url(with(claims.clone(), "sub", json!("root")).to_string());
        let (header, _) = message.split_once('.').unwrap();
        attempts.push(("other claims under the same signature".to_owned(), format!("{header}.{other}.{signature}")));
        attempts.push(("four parts".to_owned(), format!("{good}.x")));
        attempts.push(("five parts".to_owned(), format!("{header}.a.b.c.d")));
    }
    attempts
}

/// A key proves the token of an issuer whose key it is not, or claims that two readers read differently.
fn claim_confusions(cast: &Cast) -> Vec<(String, String)> {
    let mut attempts = Vec::new();
    let issuers = [ALPHA, BETA, GAMMA, "https://unknown.example.com/", ""];
    for (key, own) in cast.all() {
        for iss in issuers.into_iter().filter(|iss| own["iss"] != *iss) {
            attempts.push((format!("a key of {} for {iss:?}", own["iss"]), key.sign(&with(own.clone(), "iss", json!(iss)))));
        }
        let iss = own["iss"].as_str().unwrap();
        for (name, value) in [
            ("iss", json!([iss])),
            ("iss", json!({"iss": iss})),
            ("iss", json!(null)),
            ("iss", json!(iss.trim_end_matches('/'))),
            ("iss", json!(iss.to_uppercase())),
            ("iss", json!(format!("{iss} "))),
            ("iss", json!(format!("{iss}\u{0000}"))),
            ("aud", json!("other")),
            ("aud", json!("HUB")),
            ("aud", json!(["other"])),
            ("aud", json!([["hub"]])),
            ("aud", json!({"hub": true})),
            ("aud", json!(null)),
            ("aud", json!("")),
            ("sub", json!(null)),
            ("sub", json!(["ann"])),
            ("sub", json!({"id": "ann"})),
            ("sub", json!("ann/7")),
            ("sub", json!("*")),
            ("sub", json!("ann\",\"bob")),
            ("account_ids", json!("7")),
            ("account_ids", json!({"0": "7"})),
            ("account_id", json!("*")),
            ("account_id", json!("a/b")),
            ("exp", json!("4102444800")),
            ("exp", json!(null)),
            ("exp", json!(4_102_444_800_i64)),
            ("nbf", json!("0")),
            ("nbf", json!(now() + 3600)),
            ("recado_role", json!("admin")),
            ("recado_role", json!("service")),
            ("recado_role", json!(null)),
        ] {
            attempts.push((format!("{name} {value} by {:?}", key.algorithm), key.sign(&with(own.clone(), name, value))));
        }
        let header = json!({"alg": format!("{:?}", key.algorithm), "kid": key.kid}).to_string();
        let exp = now() + 600;
        for text in [
            format!(r#"{{"iss":"{ALPHA}","iss":"{BETA}","aud":"hub","sub":"ann","exp":{exp}}}"#),
            format!(r#"{{"iss":"{BETA}","iss":"{ALPHA}","aud":"hub","sub":"ann","exp":{exp}}}"#),
            format!(r#"{{"iss":"{iss}","aud":"other","aud":"hub","sub":"ann","exp":{exp}}}"#),
            format!(r#"{{"iss":"{iss}","aud":"hub","sub":"ann","\u0073ub":"root","exp":{exp}}}"#),
            format!(r#"{{"iss":"{iss}","aud":"hub","sub":"ann","exp":1,"exp":{exp}}}"#),
            format!(r#"{{"iss":"{iss}","aud":"hub","sub":"ann","exp":{exp}}} x"#),
            format!(r#"[{{"iss":"{iss}","aud":"hub","sub":"ann","exp":{exp}}}]"#),
            format!("\u{feff}{{\"iss\":\"{iss}\",\"aud\":\"hub\",\"sub\":\"ann\",\"exp\":{exp}}}"),
        ] {
            attempts.push((format!("claims {text}"), key.sign_text(&header, &text)));
        }
    }
    // A secret of one backend: only its algorithm, only its issuer, no role.
    let gamma = |name: &str, algorithm, claims: &Value| {
        let header = json!({"alg": name, "kid": "gamma"});
        by_secret(&header, &claims.to_string(), SHARED.as_bytes(), algorithm)
    };
    attempts.push(("the shared secret with HS256".to_owned(), gamma("HS256", Algorithm::HS256, &claims(GAMMA))));
    attempts.push(("the shared secret with HS384".to_owned(), gamma("HS384", Algorithm::HS384, &claims(GAMMA))));
    attempts.push(("the shared secret for alpha".to_owned(), gamma("HS512", Algorithm::HS512, &claims(ALPHA))));
    attempts.push(("the shared secret for nobody".to_owned(), gamma("HS512", Algorithm::HS512, &with(claims(GAMMA), "iss", json!(null)))));
    for role in ["service", "admin"] {
        let claims = with(claims(GAMMA), "recado_role", json!(role));
        attempts.push((format!("the shared secret as {role}"), gamma("HS512", Algorithm::HS512, &claims)));
    }
    let kid = by_secret(&json!({"alg": "HS512", "kid": "other"}), &claims(GAMMA).to_string(), SHARED.as_bytes(), Algorithm::HS512);
    attempts.push(("the shared secret under another name".to_owned(), kid));
    for (name, algorithm) in &HMACS[1..] {
        let token = by_secret(&json!({"alg": name}), &claims(ALPHA).to_string(), SECRET.as_bytes(), *algorithm);
        attempts.push((format!("the hub's own secret with {name}"), token));
    }
    attempts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_confusion_of_algorithms_keys_and_claims_is_refused() {
    let db = TestDb::new().await;
    let cast = Cast::new();
    let server = KeyServer::start(&cast.alpha.iter().collect::<Vec<_>>()).await;
    // The RSA key of the set says which algorithm it is for, as those of most providers do.
    server.answer(KeyAnswer::Set(cast.alpha.iter().map(|key| key.jwk.clone()).collect()));
    let folder = tempfile::tempdir().unwrap();
    let (file, secret) = (folder.path().join("identity.toml"), folder.path().join("gamma"));
    std::fs::write(&secret, SHARED).unwrap();
    std::fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    std::fs::write(&file, cast.file(&server.url(), secret.to_str().unwrap())).unwrap();
    let hub = TestHub::on(&db).with("RECADO_IDENTITY_FILE", file.to_str().unwrap()).with("RECADO_ADDRESS_REQUESTS", "0").start().await;
    eventually("the hub has the keys", PATIENCE, async || hub.is_ready().await.then_some(())).await;
    let good = async || {
        for (key, claims) in cast.all() {
            assert_eq!(hub.get("/api/whoami", Some(&key.sign(&claims))).await.unwrap().0, 200, "{:?}", key.algorithm);
        }
        let own = by_secret(&json!({"alg": "HS256"}), &claims("any").to_string(), SECRET.as_bytes(), Algorithm::HS256);
        let shared = by_secret(&json!({"alg": "HS512", "kid": "gamma"}), &claims(GAMMA).to_string(), SHARED.as_bytes(), Algorithm::HS512);
        for token in [own, shared] {
            assert_eq!(hub.get("/api/whoami", Some(&token)).await.unwrap().0, 200);
        }
    };
    good().await;
    let mut attempts = algorithm_confusions(&cast);
    attempts.extend(key_confusions(&cast));
    attempts.extend(claim_confusions(&cast));
    assert!(attempts.len() > 600, "{}", attempts.len());
    for (what, token) in &attempts {
        let (status, body) = hub.get("/api/whoami", Some(token)).await.unwrap();
        assert!(status == 401 && body.contains("\"unauthorized\""), "{what}: {status} {body}");
    }
    good().await;
}
