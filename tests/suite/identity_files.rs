//! Promise: the identity file that the guide shows for a provider accepts the tokens of that provider.
//!
//! The files are read from the guides for operators and for services. The tokens have the shape of the real ones:
//! headers, claims and lifetimes as each provider documents them.

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

use super::support::issuer::{IssuerKey, KeyServer, now};
use super::support::*;

/// The example of this name: a `toml` block of a guide that begins with `# NAME.toml`.
fn example(name: &str) -> String {
    let page = ["identity.md", "identity-services.md"]
        .map(|page| std::fs::read_to_string(format!("{}/docs/guides/{page}", env!("CARGO_MANIFEST_DIR"))).unwrap())
        .concat();
    let begin = format!("```toml\n# {name}.toml\n");
    let (_, rest) = page.split_once(&begin).unwrap_or_else(|| panic!("the guides have no example {name}.toml"));
    rest.split_once("```").unwrap().0.to_owned()
}

/// A provider: its example, the algorithm and claims of its tokens, and whom the hub sees.
struct ProviderCase {
    name: &'static str,
    algorithm: Algorithm,
    header: Value,
    claims: Value,
    user: &'static str,
    accounts: &'static [&'static str],
    /// Changes after which the token is refused.
    refused: Vec<(&'static str, Value)>,
}

fn cases() -> Vec<ProviderCase> {
    let (iat, hour) = (now(), now() + 3600);
    vec![
        ProviderCase {
            name: "auth0",
            algorithm: Algorithm::RS256,
            header: json!({"alg": "RS256", "typ": "JWT", "kid": "NkJCQzIyQzRBMEU4NjhGNUU4MzU4RkY0"}),
            claims: json!({
                "iss": "https://example.eu.auth0.com/", "sub": "auth0|507f1f77bcf86cd799439011",
                "aud": ["https://hub.example.com", "https://example.eu.auth0.com/userinfo"],
                "iat": iat, "exp": iat + 86_400, "azp": "my_client_id", "scope": "openid profile read:orders",
                "https://example.com/account": "org_9ybsU1dN2dKfDkBi"
            }),
            user: "auth0|507f1f77bcf86cd799439011",
            accounts: &["org_9ybsU1dN2dKfDkBi"],
            refused: vec![("aud", json!("https://other.example.com")), ("iss", json!("https://evil.eu.auth0.com/"))],
        },
        ProviderCase {
            name: "keycloak",
            algorithm: Algorithm::RS256,
            header: json!({"alg": "RS256", "typ": "JWT", "kid": "FJ86GcF3jTbNLOco4NvZkUCIUmfYCqoqtOQeMfbhNlE"}),
            claims: json!({
                "exp": iat + 300, "iat": iat, "auth_time": iat, "jti": "onrtac:0d2ab1f5-66e6-4b6d-a0ad-0f0b4b3f4f5c",
                "iss": "https://sso.example.com/realms/shop", "aud": ["recado", "account"],
                "sub": "0f0f3a2e-3b0a-4d8c-9d6f-2d6d1a4a6a5e", "typ": "Bearer", "azp": "shop-web",
                "sid": "c7c7b5a0-2b0e-4a0f-8f55-6b1a0a4d2c11", "acr": "1", "allowed-origins": ["https://shop.example.com"],
                "realm_access": {"roles": ["default-roles-shop", "offline_access", "admin"]},
                "resource_access": {"account": {"roles": ["manage-account"]}},
                "scope": "openid email profile", "email_verified": true, "preferred_username": "ann",
                "shop": {"accounts": ["7", "8"]}
            }),
            user: "0f0f3a2e-3b0a-4d8c-9d6f-2d6d1a4a6a5e",
            accounts: &["7", "8"],
            refused: vec![("aud", json!("account")), ("typ", json!("ID")), ("typ", json!("Refresh"))],
        },
        ProviderCase {
            name: "cognito",
            algorithm: Algorithm::RS256,
            header: json!({"kid": "1234example=", "alg": "RS256"}),
            claims: json!({
                "sub": "aaaaaaaa-bbbb-cccc-dddd-example00000", "cognito:groups": ["shop-7"],
                "iss": "https://cognito-idp.eu-central-1.amazonaws.com/eu-central-1_example", "version": 2,
                "client_id": "1example23456789", "origin_jti": "aaaaaaaa-bbbb-cccc-dddd-example",
                "event_id": "64f513be-32db-42b0-b78e-b02127b4f463", "token_use": "access", "scope": "phone openid profile email",
                "auth_time": iat, "exp": hour, "iat": iat, "jti": "aaaaaaaa-bbbb-cccc-dddd-example", "username": "ann"
            }),
            user: "aaaaaaaa-bbbb-cccc-dddd-example00000",
            accounts: &["shop-7"],
            refused: vec![("client_id", json!("another")), ("token_use", json!("id")), ("client_id", json!(null))],
        },
        ProviderCase {
            name: "firebase",
            algorithm: Algorithm::RS256,
            header: json!({"alg": "RS256", "kid": "f2e82732b971a135cf1416e8b46dae04d80894e7", "typ": "JWT"}),
            claims: json!({
                "name": "Ann", "iss": "https://securetoken.google.com/my-project", "aud": "my-project", "auth_time": iat,
                "user_id": "wcO6mTnRkIVpyuDPmGSJ5cVrXZ42", "sub": "wcO6mTnRkIVpyuDPmGSJ5cVrXZ42", "iat": iat, "exp": hour,
                "email": "ann@example.com", "email_verified": false,
                "firebase": {"identities": {"email": ["ann@example.com"]}, "sign_in_provider": "password", "tenant": "shop-7-x1y2z"}
            }),
            user: "wcO6mTnRkIVpyuDPmGSJ5cVrXZ42",
            accounts: &["shop-7-x1y2z"],
            refused: vec![("aud", json!("your-project")), ("iss", json!("https://securetoken.google.com/your-project"))],
        },
        ProviderCase {
            name: "supabase",
            algorithm: Algorithm::ES256,
            header: json!({"alg": "ES256", "kid": "b81269f1-21d8-4f2e-b719-c2240a840d90", "typ": "JWT"}),
            claims: json!({
                "iss": "https://example.supabase.co/auth/v1", "sub": "ef0493c9-3582-425f-a362-aef909588df7", "aud": "authenticated",
                "exp": hour, "iat": iat, "email": "ann@example.com", "phone": "",
                "app_metadata": {"provider": "email", "providers": ["email"], "account_ids": [7, 8]}, "user_metadata": {},
                "role": "authenticated", "aal": "aal1", "amr": [{"method": "password", "timestamp": iat}],
                "session_id": "5b1a5e0e-0a5b-4f0e-8b5a-0e0a5b4f0e8b", "is_anonymous": false
            }),
            user: "ef0493c9-3582-425f-a362-aef909588df7",
            accounts: &["7", "8"],
            refused: vec![("aud", json!("anon")), ("is_anonymous", json!(true))],
        },
        ProviderCase {
            name: "clerk",
            algorithm: Algorithm::RS256,
            header: json!({"alg": "RS256", "cat": "cl_B7d4PD111AAA", "kid": "ins_2GIoQhbUpy0hX7B2cVkuTMinXoD", "typ": "JWT"}),
            claims: json!({
                "azp": "https://app.example.com", "exp": iat + 60, "fva": [9, -1], "iat": iat, "iss": "https://clerk.example.com",
                "nbf": iat - 10, "o": {"id": "org_2hG6OE0bpYlw5GM", "rol": "admin", "slg": "shop"}, "sid": "sess_2GbDB4enNdCa5vS1zpC3Xzg9tK9",
                "sts": "active", "sub": "user_2GIpXOEpVyJw51rkZn9Kmnc6Sxr", "v": 2
            }),
            user: "user_2GIpXOEpVyJw51rkZn9Kmnc6Sxr",
            accounts: &["org_2hG6OE0bpYlw5GM"],
            refused: vec![("azp", json!("https://evil.example.com")), ("azp", json!(null)), ("sts", json!("pending"))],
        },
    ]
}

/// All providers at once, in one file.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_shaped_as_those_of_real_providers_are_accepted_by_the_files_of_the_guide() {
    let db = TestDb::new().await;
    let folder = tempfile::tempdir().unwrap();
    let (mut file, mut servers) = (String::new(), Vec::new());
    for case in cases() {
        let key = IssuerKey::new(case.algorithm, case.header["kid"].as_str().unwrap());
        let server = KeyServer::start(&[&key]).await;
        let text = example(case.name);
        let url = text.lines().find(|line| line.starts_with("jwks_url = \"https://")).expect("an example has a jwks_url");
        file.push_str(&text.replace(url, &format!("jwks_url = \"{}\"", server.url())));
        servers.push((case, key, server));
    }
    // The backend signs with a secret that both have.
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "the-secret-of-the-fastapi-backend-0123456789\n").unwrap();
    std::fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    file.push_str(&example("fastapi").replace("/run/secrets/backend-jwt", secret.to_str().unwrap()));
    let path = folder.path().join("identity.toml");
    std::fs::write(&path, &file).unwrap();
    let hub = TestHub::on(&db).with("RECADO_IDENTITY_FILE", path.to_str().unwrap()).start().await;
    eventually("the hub has all keys", PATIENCE, async || hub.is_ready().await.then_some(())).await;

    for (case, key, _) in &servers {
        let token = |claims: &Value| key.sign_text(&case.header.to_string(), &claims.to_string());
        let (status, body) = hub.get("/api/whoami", Some(&token(&case.claims))).await.unwrap();
        assert_eq!(status, 200, "{}: {body}", case.name);
        let who: Value = serde_json::from_str(&body).unwrap();
        assert_eq!((&who["user_id"], &who["account_ids"]), (&json!(case.user), &json!(case.accounts)), "{}", case.name);
        for (name, value) in &case.refused {
            let mut claims = case.claims.clone();
            claims[*name] = value.clone();
            assert_eq!(hub.get("/api/whoami", Some(&token(&claims))).await.unwrap().0, 401, "{}: {name} {value}", case.name);
        }
        // The key of this provider under the name of another one.
        for (other, ..) in servers.iter().filter(|(other, ..)| other.name != case.name) {
            assert_eq!(hub.get("/api/whoami", Some(&token(&other.claims))).await.unwrap().0, 401, "{} for {}", case.name, other.name);
        }
    }

    let backend = EncodingKey::from_secret(b"the-secret-of-the-fastapi-backend-0123456789").unwrap();
    let claims = json!({"sub": "ann@example.com", "user_id": 42, "account_id": 7, "exp": now() as f64 + 900.5});
    let token = jsonwebtoken::encode(&Header::default(), &claims, &backend).unwrap();
    let (_, body) = hub.get("/api/whoami", Some(&token)).await.unwrap();
    let who: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((&who["user_id"], &who["account_ids"]), (&json!("42"), &json!(["7"])), "{body}");
    let mut numbered = TestClient::of("42").bearer(&token).connect(&hub).await;
    hub.post(&note("to account 7").account("7")).await;
    numbered.until("to account 7").await;

    let mut auth0 =
        TestClient::of("auth0").bearer(&servers[0].1.sign_text(&servers[0].0.header.to_string(), &servers[0].0.claims.to_string()));
    auth0 = auth0.device("phone");
    let mut first = auth0.connect(&hub).await;
    hub.post(&note("to the Auth0 user").to_user("auth0|507f1f77bcf86cd799439011")).await;
    let got = first.until("to the Auth0 user").await;
    first.ack(got.last().unwrap().seq).await;
    first.close().await;
    hub.post(&note("while away").to_user("auth0|507f1f77bcf86cd799439011")).await;
    assert_eq!(auth0.connect(&hub).await.until("while away").await.len(), 1, "it resumes by its position");
}

/// An issuer that makes tokens for services: its example, and the claims of a service's token without the role.
fn service_cases() -> Vec<(&'static str, Value)> {
    let (iat, hour) = (now(), now() + 3600);
    vec![
        (
            "auth0-services",
            json!({
                "iss": "https://example.eu.auth0.com/", "sub": "my_service_id@clients", "aud": "https://hub.example.com", "iat": iat,
                "exp": iat + 86_400, "gty": "client-credentials", "azp": "my_service_id"
            }),
        ),
        (
            "keycloak-services",
            json!({
                "exp": iat + 300, "iat": iat, "iss": "https://sso.example.com/realms/shop", "aud": ["recado", "account"],
                "sub": "5b1d5a0e-3b0a-4d8c-9d6f-2d6d1a4a6a5e", "typ": "Bearer", "azp": "shop-api", "client_id": "shop-api",
                "preferred_username": "service-account-shop-api", "scope": "profile email"
            }),
        ),
        (
            "cognito-services",
            json!({
                "sub": "9exampleservice", "token_use": "access", "scope": "hub/post", "auth_time": iat, "exp": hour, "iat": iat,
                "iss": "https://cognito-idp.eu-central-1.amazonaws.com/eu-central-1_example", "version": 2,
                "jti": "aaaaaaaa-bbbb-cccc-dddd-example", "client_id": "9exampleservice"
            }),
        ),
        ("fastapi-services", json!({"user_id": "shop-api", "exp": hour})),
    ]
}

/// The claim that holds the role, as the example says.
fn role_claim(file: &str) -> &str {
    file.lines().find_map(|line| line.strip_prefix("role = \"")).map_or("recado_role", |rest| rest.trim_end_matches('"'))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_post_with_the_tokens_of_their_provider_by_the_files_of_the_guide() {
    let db = TestDb::new().await;
    let folder = tempfile::tempdir().unwrap();
    let secret = "the-secret-of-the-fastapi-backend-0123456789";
    let secret_file = folder.path().join("secret");
    std::fs::write(&secret_file, secret).unwrap();
    std::fs::set_permissions(&secret_file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let key = IssuerKey::new(Algorithm::RS256, "k");
    let server = KeyServer::start(&[&key]).await;
    let (mut trusting, mut distrusting) = (String::new(), String::new());
    for (name, _) in service_cases() {
        let mut text = example(name).replace("/run/secrets/backend-jwt", secret_file.to_str().unwrap());
        if let Some(url) = text.lines().find(|line| line.starts_with("jwks_url = ")).map(str::to_owned) {
            text = text.replace(&url, &format!("jwks_url = \"{}\"", server.url()));
        }
        assert!(text.contains("\nroles = true\n"), "{name}");
        distrusting.push_str(&text.replace("\nroles = true\n", "\n"));
        trusting.push_str(&text);
    }
    for (file, with_role, expected) in [(&trusting, true, 201), (&distrusting, true, 401), (&trusting, false, 403)] {
        let path = folder.path().join("identity.toml");
        std::fs::write(&path, file).unwrap();
        let hub = TestHub::on(&db).with("RECADO_IDENTITY_FILE", path.to_str().unwrap()).start().await;
        eventually("the hub has all keys", PATIENCE, async || hub.is_ready().await.then_some(())).await;
        for (name, mut claims) in service_cases() {
            if with_role {
                claims[role_claim(&example(name))] = json!("service");
            }
            let token = if name.starts_with("fastapi") {
                let backend = EncodingKey::from_secret(secret.as_bytes()).unwrap();
                jsonwebtoken::encode(&Header::default(), &claims, &backend).unwrap()
            } else {
                key.sign_text(&json!({"alg": "RS256", "typ": "JWT", "kid": "k"}).to_string(), &claims.to_string())
            };
            let answer = hub.post_as(&token, &note(name).to_user("42")).await.unwrap();
            assert_eq!(answer.status, expected, "{name}, with a role: {with_role}: {}", answer.body);
        }
    }
}
