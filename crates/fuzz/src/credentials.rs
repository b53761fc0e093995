//! Fuzzes the parsers of credentials: tokens, tickets, and the headers that carry them.

use std::sync::OnceLock;
use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::Utc;
use serde_json::Value;

use super::{head, refused};
use recado::config::JwtRules;
use recado::http::fuzz_entry;
use recado::http::fuzz_entry::TokenError;
use recado::identity::{Claims, TokenRules};
use recado::wire::notify;

const SECRET: &str = "a secret of the fuzz targets that opens nothing";
/// Maximum accounts of a token: a full list, and one in the single claim.
const ACCOUNTS_MAX: usize = 101;

fn rules(issuer: Option<&str>, audience: Option<&str>, max_lifetime: Duration) -> TokenRules {
    let rules = JwtRules { issuer: issuer.map(str::to_owned), audience: audience.map(str::to_owned), max_lifetime, ..JwtRules::default() };
    TokenRules::new(SECRET, rules)
}

fn signed(header: &str, claims: &str) -> String {
    let text = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes()), text.as_bytes());
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// A token's header in the first line, its claims in the rest, both as they are. The target signs them correctly,
/// signs them wrongly, and also uses the input itself as a token.
pub fn token(input: &[u8]) {
    static LOOSE: OnceLock<TokenRules> = OnceLock::new();
    static STRICT: OnceLock<TokenRules> = OnceLock::new();
    let loose = LOOSE.get_or_init(|| rules(None, None, Duration::MAX));
    let strict = STRICT.get_or_init(|| rules(Some("us"), Some("hub"), Duration::from_secs(3600)));
    let text = String::from_utf8_lossy(input);
    // Random input never has a valid signature.
    assert!(loose.check(&text).is_err());
    let (header, claims) = head(&text);
    let token = signed(header, claims);
    let (first, rest) = token.rsplit_once('.').expect("a token has dots");
    let turned = if rest.starts_with('A') { "B" } else { "A" };
    for forged in [format!("{first}.{turned}{}", &rest[1..]), format!("{first}."), format!("{token}A"), format!("{token}.")] {
        assert!(matches!(loose.check(&forged), Err(TokenError::Invalid(_))), "{forged} is taken");
    }
    match loose.check(&token) {
        Ok(taken) => holds(&taken, header, claims),
        Err(error) => {
            assert!(strict.check(&token).is_err());
            assert!(error.to_string().len() < 200);
        }
    }
    if let Ok(taken) = strict.check(&token) {
        let claims: Value = serde_json::from_str(claims).expect("claims that were taken");
        assert_eq!(claims["iss"], "us");
        assert!(claims["aud"] == "hub" || claims["aud"].as_array().is_some_and(|list| list.contains(&"hub".into())));
        assert!(taken.expires_at <= Utc::now() + Duration::from_secs(3606));
    }
}

fn holds(taken: &Claims, header: &str, claims: &str) {
    let (header, claims): (Value, Value) = (serde_json::from_str(header).expect("JSON"), serde_json::from_str(claims).expect("JSON"));
    assert_eq!(header["alg"], "HS256");
    assert!(header.get("crit").is_none_or(Value::is_null), "{header}");
    assert_eq!(id(&claims["sub"]).as_deref(), Some(taken.who.user.as_str()));
    assert_eq!(claims["exp"].as_f64().map(f64::floor), Some(taken.expires_at.timestamp() as f64));
    assert!(taken.expires_at + Duration::from_secs(5) > Utc::now());
    assert!(
        claims
            .get("nbf")
            .is_none_or(|nbf| nbf.is_null() || nbf.as_f64().is_some_and(|from| from.floor() <= (Utc::now().timestamp() + 5) as f64))
    );
    assert!(taken.role.is_none_or(|role| claims["recado_role"] == role.as_str()));
    assert!(taken.who.accounts.len() <= ACCOUNTS_MAX && taken.who.accounts.is_sorted());
    let listed =
        |account: &str| claims["account_ids"].as_array().is_some_and(|list| list.iter().any(|one| id(one).as_deref() == Some(account)));
    let named = |account: &str| id(&claims["account_id"]).as_deref() == Some(account) || listed(account);
    assert!(taken.who.accounts.iter().all(|account| named(account.as_str())));
}

/// An id is a string or a whole number.
fn id(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned).or_else(|| value.as_i64().map(|n| n.to_string())).or_else(|| value.as_u64().map(|n| n.to_string()))
}

pub fn ticket(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    if let Some(end) = fuzz_entry::ticket_end(&text) {
        assert!(text.starts_with(&format!("rct_{:010x}", end.timestamp())), "{text} ends at {end}");
        assert!(text.len() == 62 && text.is_ascii());
    }
}

/// Header fields, one `name: value` per line.
pub fn request_headers(input: &[u8]) {
    let Some(headers) = fuzz_entry::headers(input) else { return };
    match fuzz_entry::key(&headers) {
        Ok(None) => assert!(!headers.contains_key("idempotency-key")),
        Ok(Some(key)) => {
            assert_eq!(notify::check_key(&key), Ok(()));
            let quoted = fuzz_entry::headers(format!("idempotency-key: \"{key}\"").as_bytes()).expect("a key is a header's value");
            assert_eq!(fuzz_entry::key(&quoted), Ok(Some(key)));
        }
        Err(problem) => refused(&problem, &[(400, "idempotency_key")]),
    }
    if let Err(problem) = fuzz_entry::media(&headers) {
        refused(&problem, &[(415, "unsupported_media_type")]);
    }
    if let Some(token) = fuzz_entry::socket_token(&headers) {
        let brought = |value: &str| value.contains(token);
        assert!(headers.values().any(|value| value.to_str().is_ok_and(brought)), "{token} was made up");
    }
    let origin = headers.get("origin").map(|origin| origin.to_str().unwrap_or_default());
    if fuzz_entry::is_own_page(&headers) {
        let host = |origin: &str| {
            let rest = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://")).unwrap_or_default();
            ["localhost", "127.0.0.1", "[::1]"]
                .into_iter()
                .any(|host| rest.strip_prefix(host).is_some_and(|port| port.is_empty() || port[1..].parse::<u16>().is_ok()))
        };
        let own_host = headers.get("host").and_then(|host| host.to_str().ok()).map(|host| host.to_ascii_lowercase());
        let is_own = |origin: &str| {
            let rest = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://")).unwrap_or_default().to_ascii_lowercase();
            let name = |authority: &str| authority.trim_end_matches(|c: char| c.is_ascii_digit()).trim_end_matches(':').to_owned();
            own_host.as_deref().is_some_and(|host| !host.is_empty() && (rest == host || name(&rest) == name(host)))
        };
        assert!(origin.is_none_or(|origin| host(origin) || is_own(origin)), "{origin:?} may come in");
    }
}
