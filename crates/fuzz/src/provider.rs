//! Fuzzes the parsers of provider files and of the providers' answers.

use std::collections::HashSet;
use std::sync::OnceLock;

use serde_json::Value;

use super::head;
use recado::domain::{NewNotification, ProviderName, UserId};
use recado::providers::hosts::{Hosts, Scheme, UrlTemplate};
use recado::providers::provider::DataForm;
use recado::providers::template::{TemplateName, TemplateValues};
use recado::providers::{Provider, Secret, SignInOutcome, file, retry_after, sign_in};
use recado::wire::json;

/// Part of the credential. No output may contain it.
const MARK: &str = "~s3cr3t-m4rk~";
const PROVIDERS: &str = r#"
[[provider]]
name = "texts"
hosts = ["a.example"]
sign_in = { url = "https://a.example/", session = "/data/id", success = "/success", error = "/error" }
socket = { url = "wss://a.example/?id={session}" }
keepalive = { text = '{"ping":{timestamp}}', answers = ['"pong"', { pointer = "/method", equals = "pong" }] }
messages = { type = "game-data", data = "text", replay_false = ["tick", { pointer = "/params/kind", equals = "tick" }] }
commands = { types = ["bet"], frame = '{"do":"{type}","id":"{id}","user":"{user_id}","with":{payload},"text":"{payload}"}' }
[[provider]]
name = "values"
hosts = ["a.example"]
sign_in = { url = "https://a.example/", session = "/id", failure = "temporary", success = "/success" }
socket = { url = "{session}" }
messages = { type = "game-data", data = "json" }
"#;

fn credentials(name: &str) -> Result<Option<Secret>, String> {
    Ok((name == "KEY").then(|| Secret::new(MARK)))
}

fn provider(name: &str) -> &'static Provider {
    static ALL: OnceLock<recado::providers::Providers> = OnceLock::new();
    let all = ALL.get_or_init(|| file::parse(PROVIDERS, &credentials).expect("a provider file"));
    all.get(name).expect("one of the two")
}

fn user() -> UserId {
    UserId::parse("42").expect("a user id")
}

/// A provider file.
pub fn file(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let providers = match file::parse(text, &credentials) {
        Ok(providers) => providers,
        Err(wrong) => {
            assert!(!wrong.0.is_empty() && wrong.0.iter().all(|line| !line.is_empty()));
            assert!(text.contains(MARK) || !wrong.to_string().contains(MARK), "a credential is shown: {wrong}");
            return;
        }
    };
    let names = providers.names();
    assert!((1..=32).contains(&names.len()));
    assert_eq!(names.iter().collect::<HashSet<_>>().len(), names.len());
    let (strange, payload) = (Secret::new("\"}\n\u{0}é{session}&x=1#"), r#"{"a":"b\"c"}"#);
    for provider in providers.iter() {
        assert!(text.contains(MARK) || !format!("{provider:?}").contains(MARK), "a credential is shown");
        let frame = provider.commands.fill(&user(), &strange, "bet", "b-17", payload, 17);
        serde_json::from_str::<Value>(&frame).expect("a command is JSON, whatever is filled in");
        assert!((1024..=1024 * 1024).contains(&provider.socket.max_message));
        assert!(provider.backoff.first <= provider.backoff.most && provider.backoff.tries > 0);
        let values = TemplateValues { user: Some(&user()), session: Some(&strange), timestamp_ms: 17, ..TemplateValues::default() };
        if !provider.socket.url.is_given() {
            provider.socket.url.fill(&provider.hosts, &values).expect("a session id does not lead elsewhere");
        }
    }
}

/// A URL with placeholders in the first line, a session id in the rest.
pub fn url(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let (url, session) = head(text);
    let hosts = ["games.example.com", "games.example.com:8443"].map(str::to_owned);
    let hosts = Hosts::parse(&hosts, false).expect("two hosts");
    let session = Secret::new(session);
    let user = user();
    let values = TemplateValues { user: Some(&user), session: Some(&session), timestamp_ms: 17, ..TemplateValues::default() };
    let allowed = [TemplateName::UserId, TemplateName::Session, TemplateName::Timestamp];
    for (scheme, begins) in [(Scheme::Socket, "wss"), (Scheme::Http, "https")] {
        let template = match UrlTemplate::parse(url, scheme, &hosts, &allowed, &credentials) {
            Ok(template) => template,
            Err(errors) => {
                assert!(!errors.is_empty() && errors.iter().all(|error| !error.is_empty()));
                continue;
            }
        };
        assert!(template.is_given() || template.shown().starts_with(begins), "{}", template.shown());
        let Ok(target) = template.fill(&hosts, &values) else { continue };
        assert!(target.secure && target.host == "games.example.com" && matches!(target.port, 443 | 8443), "{target:?}");
        assert!(target.authority().starts_with("games.example.com"));
        // Only characters that are valid in a request line.
        assert!(target.path().starts_with('/') && target.path().bytes().all(|b| b.is_ascii_graphic()), "{}", target.path());
    }
}

/// A provider's message over its socket, and the same text as the payload of a command.
pub fn message(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    for name in ["texts", "values"] {
        let provider = provider(name);
        let said = provider.messages.notification(&provider.name, &user(), text);
        is_fit(&said, &provider.name);
        let data = said.data.as_deref().expect("a message has data");
        if provider.messages.data == DataForm::Json && json::check(text).is_ok() {
            assert_eq!(data, text);
        } else {
            let read: String = serde_json::from_str(data).expect("a text");
            assert_eq!(read, text.replace('\0', "\u{fffd}"));
        }
        if name == "texts" {
            assert_eq!(provider.keepalive.is_answer(text), text.contains("\"pong\"") || at(text, "/method", "pong"));
            assert_eq!(said.replay, !text.contains("tick") && !at(text, "/params/kind", "tick"));
        }
    }
    if json::check(text).is_ok() {
        let frame = provider("texts").commands.fill(&user(), &Secret::new(text), "bet", text, text, 17);
        let frame: Value = serde_json::from_str(&frame).expect("a command is JSON");
        let payload: Value = serde_json::from_str(text).expect("a payload is JSON");
        assert_eq!((&frame["with"], &frame["text"], &frame["id"]), (&payload, &text.into(), &text.into()));
    }
}

fn at(text: &str, pointer: &str, wanted: &str) -> bool {
    serde_json::from_str::<Value>(text).is_ok_and(|value| value.pointer(pointer).is_some_and(|found| found == wanted))
}

fn is_fit(said: &NewNotification, name: &ProviderName) {
    assert_eq!((said.source.as_str(), said.kind.as_str()), (format!("upstream/{name}").as_str(), "game-data"));
    assert_eq!(json::check(said.data.as_deref().unwrap_or_default()), Ok(()));
}

/// An answer to a sign-in: one byte for the status, then the body. The body's first line is also the `Retry-After`.
pub fn sign_in_answer(input: &[u8]) {
    const STATUSES: [u16; 6] = [200, 201, 400, 401, 403, 404];
    let Some((status, body)) = input.split_first() else { return };
    let status = STATUSES[usize::from(*status) % STATUSES.len()];
    let body = String::from_utf8(body.to_vec()).map_err(|_| "the sign-in's answer is not UTF-8".to_owned());
    let after = body.as_ref().ok().and_then(|text| retry_after(&head(text).0.parse().ok()?));
    assert!(after.is_none_or(|after| after.as_secs() <= 3600));
    for provider in [provider("texts"), provider("values")] {
        match sign_in::told(provider, status, after, body.clone()) {
            SignInOutcome::SignedIn { session } => {
                assert!((200..300).contains(&status));
                let id = session.expose();
                assert!(!id.is_empty() && id.len() <= 4096 && !id.contains(char::is_control));
            }
            SignInOutcome::RefusedForGood { reason } => {
                assert!(!reason.trim().is_empty() && reason.chars().count() <= 200 && !reason.contains(char::is_control), "{reason:?}");
            }
            SignInOutcome::TryLater { after: asked, why } => {
                assert!(asked.is_none() || asked == after);
                let known = ["the sign-in's answer is not ", "the sign-in was answered with ", "/data/id of ", "/id of ", "/success is "];
                assert!(known.iter().any(|known| why.starts_with(known)) && why.len() < 100, "{why}");
            }
        }
    }
}
