//! Tests the checks of tokens.

use std::time::Duration;

use jsonwebtoken::{EncodingKey, Header};
use serde_json::json;

use super::super::issuer::LAST_SECOND;
use super::*;
use crate::domain::{AccountId, UserId};
use crate::domain::{Principal, Role};
use crate::identity::mint;

const SECRET: &str = "a-secret-of-at-least-thirty-two-bytes!";

fn rules() -> JwtRules {
    JwtRules::default()
}

fn sign(header: &Header, claims: &Value) -> String {
    jsonwebtoken::encode(header, claims, &EncodingKey::from_secret(SECRET.as_bytes()).unwrap()).unwrap()
}

fn check(claims: &Value) -> Result<Claims, TokenError> {
    TokenRules::new(SECRET, rules()).check(&sign(&Header::default(), claims))
}

fn soon() -> i64 {
    Utc::now().timestamp() + 60
}

#[test]
fn a_minted_token_says_what_it_was_minted_for() {
    let who =
        Principal { user: UserId::parse("42").unwrap(), accounts: vec![AccountId::parse("7").unwrap(), AccountId::parse("8").unwrap()] };
    let token = mint(SECRET, &rules(), &who, None, Duration::from_secs(60)).unwrap();
    let claims = TokenRules::new(SECRET, rules()).check(&token).unwrap();
    assert_eq!((claims.who, claims.role), (who, None));
    assert!(TokenRules::new("another-secret-of-thirty-two-bytes!!!", rules()).check(&token).is_err());
}

#[test]
fn times_are_checked_strictly() {
    let now = Utc::now().timestamp();
    assert!(check(&json!({"sub":"1","exp":now + 60})).is_ok());
    assert_eq!(check(&json!({"sub":"1","exp":now - 6})), Err(TokenError::Expired));
    for exp in [json!("soon"), json!(1e308), json!(now + 60 * 60 * 25), json!(253_402_300_799_i64), json!(null), json!(true)] {
        assert!(matches!(check(&json!({"sub":"1","exp":exp})), Err(TokenError::Invalid(_))), "{exp}");
    }
    for exp in [json!(0), json!(-1), json!(-1.5)] {
        assert_eq!(check(&json!({"sub":"1","exp":exp})), Err(TokenError::Expired));
    }
    let fraction = check(&json!({"sub":"1","exp":now as f64 + 60.75})).unwrap();
    assert_eq!(fraction.expires_at.timestamp(), now + 60, "the fraction is cut off");
    for nbf in [json!(null), json!(now), json!(now as f64 + 0.5)] {
        assert!(check(&json!({"sub":"1","exp":soon(),"nbf":nbf})).is_ok(), "{nbf}");
    }
    assert!(check(&json!({"sub":"1"})).is_err());
    assert!(check(&json!({"sub":"1","exp":soon(),"nbf":now + 3600})).is_err());
    assert!(check(&json!({"sub":"1","exp":soon(),"nbf":"now"})).is_err());
}

#[test]
fn identities_are_checked_strictly() {
    for sub in [json!(null), json!(4.5), json!(1e30), json!(true), json!(""), json!("a\nb"), json!(["42"])] {
        assert!(check(&json!({"sub":sub,"exp":soon()})).is_err(), "{sub}");
    }
    for account in [json!(7.5), json!(false), json!(""), json!("a b"), json!(["7"])] {
        assert!(check(&json!({"sub":"1","account_id":account,"exp":soon()})).is_err(), "{account}");
    }
    assert!(check(&json!({"sub":"1","account_ids":"7","exp":soon()})).is_err());
    assert!(check(&json!({"sub":"1","account_ids":[[7]],"exp":soon()})).is_err());
    let numbered = check(&json!({"sub":42,"account_id":7,"account_ids":[8,"9"],"exp":soon()})).unwrap().who;
    assert_eq!((numbered.user.as_str(), numbered.topics().len()), ("42", 8));
    assert_eq!(numbered.accounts.iter().map(AccountId::as_str).collect::<Vec<_>>(), ["7", "8", "9"]);
    assert_eq!(
        check(&json!({"sub":"auth0|507f1f77bcf86cd799439011","exp":soon()})).unwrap().who.user.as_str(),
        "auth0|507f1f77bcf86cd799439011"
    );
}

#[test]
fn headers_that_ask_for_something_else_are_refused() {
    let rules = TokenRules::new(SECRET, rules());
    let claims = json!({"sub":"1","exp":soon()});
    assert!(rules.check(&sign(&Header::new(Algorithm::HS256), &claims)).is_ok());
    assert!(rules.check(&sign(&Header::new(Algorithm::HS384), &claims)).is_err());
    let header = Header { crit: Some(vec!["x".into()]), ..Header::default() };
    assert!(rules.check(&sign(&header, &claims)).is_err());
    for typ in ["id+jwt", "application/id+jwt", "", "jwt2", "application/"] {
        let header = Header { typ: Some(typ.into()), ..Header::default() };
        assert!(rules.check(&sign(&header, &claims)).is_err(), "{typ}");
    }
    for typ in ["jwt", "at+JWT", "application/at+jwt", "application/jwt"] {
        let header = Header { typ: Some(typ.into()), ..Header::default() };
        assert!(rules.check(&sign(&header, &claims)).is_ok(), "{typ}");
    }
    // {"alg":"none"} . {"sub":"1","exp":4102444800} .
    assert!(rules.check("eyJhbGciOiJub25lIn0.eyJzdWIiOiIxIiwiZXhwIjo0MTAyNDQ0ODAwfQ.").is_err());
    for garbage in ["", ".", "..", "a.b", "a.b.c", "a.b.c.d", " ", &"x".repeat(100_000)] {
        assert!(rules.check(garbage).is_err());
    }
}

/// Signs a header and claims as they are written.
fn sign_text(header: &str, claims: &str) -> String {
    let text = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, SECRET.as_bytes());
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(aws_lc_rs::hmac::sign(&key, text.as_bytes())))
}

/// The largest time that the library can hold, and one second before and after it: adding to one of them
/// panicked.
#[test]
fn no_number_of_a_token_overflows() {
    let forever = JwtRules { max_lifetime: Duration::MAX, ..rules() };
    let rules = TokenRules::new(SECRET, forever);
    let edges = [8_210_266_876_798, 8_210_266_876_799, 8_210_266_876_800, i64::MAX, i64::MAX - 5, i64::MIN, -8_334_601_228_800];
    for seconds in edges {
        for name in ["exp", "nbf", "iat"] {
            let mut claims = json!({"sub":"1","exp":soon()});
            claims[name] = seconds.into();
            let checked = rules.check(&sign(&Header::default(), &claims));
            // `iat` decides about revocations only.
            assert_eq!(matches!(checked, Err(TokenError::Invalid(_))), name != "iat", "{name} {seconds}: {checked:?}");
        }
    }
    for number in ["18446744073709551615", "1e400", "-0", "1e-400", "99999999999999999999999999"] {
        for name in ["exp", "nbf"] {
            let rest = if name == "exp" { String::new() } else { format!(",\"exp\":{}", soon()) };
            let _ = rules.check(&sign_text(r#"{"alg":"HS256"}"#, &format!("{{\"sub\":\"1\",\"{name}\":{number}{rest}}}")));
        }
    }
    let last = rules.check(&sign(&Header::default(), &json!({"sub":"1","exp":LAST_SECOND}))).unwrap();
    assert_eq!(last.expires_at.to_rfc3339(), "9999-12-31T23:59:59+00:00");
}

#[test]
fn a_header_with_any_crit_and_a_role_that_is_none_are_refused() {
    let rules = TokenRules::new(SECRET, rules());
    let claims = json!({"sub":"1","exp":soon()}).to_string();
    assert!(rules.check(&sign_text(r#"{"alg":"HS256","kid":"a","x":1}"#, &claims)).is_ok());
    for header in [
        r#"{"alg":"HS256","crit":null}"#,
        r#"{"alg":"HS256","crit":[]}"#,
        r#"{"alg":"HS256","crit":"x"}"#,
        r#"{"alg":"HS256","crit":{}}"#,
        r#"{"alg":"HS256","\u0063rit":null}"#,
        r#"{"alg":"HS256","x":1,"x":2}"#,
    ] {
        assert!(matches!(rules.check(&sign_text(header, &claims)), Err(TokenError::Invalid(_))), "{header}");
    }
    for role in [json!("superuser"), json!("Admin"), json!(""), json!(null), json!(1), json!(["admin"]), json!("user")] {
        let checked = check(&json!({"sub":"1","exp":soon(),"recado_role":role}));
        assert!(matches!(checked, Err(TokenError::Invalid(_))), "{role}: {checked:?}");
    }
    assert_eq!(check(&json!({"sub":"1","exp":soon(),"recado_role":"admin"})).unwrap().role, Some(Role::Admin));
}

#[test]
fn too_many_accounts_are_called_so() {
    let accounts: Vec<String> = (0..101).map(|n| n.to_string()).collect();
    let error = check(&json!({"sub":"1","exp":soon(),"account_ids":accounts})).unwrap_err();
    assert!(error.to_string().contains("more than 100 accounts"), "{error}");
    assert_eq!(check(&json!({"sub":"1","exp":soon(),"account_ids":accounts[1..]})).unwrap().who.accounts.len(), 100);
}

#[tokio::test]
async fn a_good_token_in_the_query_counts_where_the_header_brings_none_of_ours() {
    let rules = TokenRules::new(SECRET, rules());
    let token = |user: &str, exp: i64| sign(&Header::default(), &json!({"sub":user,"exp":exp}));
    let (ann, bob, old) = (token("ann", soon()), token("bob", soon()), token("ann", 1));
    let user = async |sent, asked| rules.verify_either(sent, asked).await.map(|claims| claims.who.user.to_string());
    assert_eq!(user(Some("of-a-proxy"), Some(&bob)).await, Ok("bob".into()));
    assert_eq!(user(Some(&ann), Some(&bob)).await, Ok("ann".into()));
    assert_eq!(user(None, Some(&bob)).await, Ok("bob".into()));
    assert_eq!(user(Some(&old), Some(&bob)).await, Err(TokenError::Expired), "it is ours: a new one is needed there");
    assert!(user(Some("of-a-proxy"), None).await.is_err() && user(None, None).await.is_err());
}

#[test]
fn issuer_and_audience_are_demanded_when_configured() {
    let strict = JwtRules { issuer: Some("us".into()), audience: Some("hub".into()), ..rules() };
    let rules = TokenRules::new(SECRET, strict);
    let check =
        |iss: Value, aud: Value| rules.check(&sign(&Header::default(), &json!({"sub":"1","exp":soon(),"iss":iss,"aud":aud}))).is_ok();
    assert!(check(json!("us"), json!("hub")));
    assert!(check(json!("us"), json!(["other", "hub"])));
    assert!(!check(json!(["us"]), json!("hub")));
    assert!(!check(json!("them"), json!("hub")));
    assert!(!check(json!("us"), json!("other")));
    assert!(!check(json!("us"), json!(null)));
}
