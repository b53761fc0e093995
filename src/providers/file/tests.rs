//! Tests the checks of the provider file.

use super::*;
use crate::domain::UserId;
use crate::providers::Secret;
use crate::providers::provider::{DataForm, PingForm};

const GOOD: &str = r#"
[[provider]]
name = "games"
hosts = ["api.example.com", "games.example.com"]
[provider.sign_in]
url = "https://api.example.com/sign-in"
session = "/id"
[provider.socket]
url = "wss://games.example.com/ws?id={session}"
[provider.messages]
type = "game-data"
"#;

fn read(text: &str) -> Result<Providers, FileError> {
    parse(text, &|name| Ok((name == "KEY").then(|| Secret::new("k1"))))
}

fn errors(text: &str) -> Vec<String> {
    read(text).map(|_| ()).unwrap_err().0
}

/// The valid file with one line inserted after another.
fn with(after: &str, line: &str) -> String {
    assert!(GOOD.contains(after), "{after}");
    GOOD.replacen(after, &format!("{after}\n{line}"), 1)
}

/// The valid file with one text replaced.
fn instead(of: &str, by: &str) -> String {
    assert!(GOOD.contains(of), "{of}");
    GOOD.replacen(of, by, 1)
}

#[test]
fn what_is_not_said_has_its_default() {
    let all = read(GOOD).unwrap();
    let games = all.get("games").unwrap();
    assert_eq!(games.sign_in.method, hyper::Method::POST);
    assert_eq!((games.sign_in.deadline.as_secs(), games.idle_timeout.as_secs(), games.linger.as_secs()), (10, 600, 30));
    assert_eq!((games.keepalive.form, games.keepalive.interval.as_secs()), (PingForm::Ping, 30));
    assert_eq!((games.messages.data, games.messages.title.as_str()), (DataForm::Text, "games"));
    assert_eq!((games.backoff.first.as_secs(), games.backoff.most.as_secs(), games.backoff.tries), (2, 30, 5));
    assert_eq!(games.socket.max_message, 1024 * 1024);
    assert!(all.taking("bet").is_none());
}

#[test]
fn every_single_mistake_is_named_with_its_place_and_what_to_do() {
    for (text, path, advice) in [
        (instead("name = \"games\"", "name = \"Games\""), "provider[1].name", "characters of a-z"),
        (instead("name = \"games\"", ""), "provider[1].name", "is missing"),
        (with("name = \"games\"", "naem = 1"), "provider.games.naem", "did you mean name?"),
        (with("type = \"game-data\"", "[provider.soket]"), "provider.games.soket", "did you mean socket?"),
        (with("name = \"games\"", "linger = \"soon\""), "provider.games.linger", "\"30s\""),
        (with("name = \"games\"", "idle_timeout = \"1ms\""), "provider.games.idle_timeout", "from 1s"),
        (with("name = \"games\"", "insecure = 1"), "provider.games.insecure", "true or false"),
        (instead("hosts = [\"api.example.com\", \"games.example.com\"]", ""), "provider.games.hosts", "is missing"),
        (instead("[\"api.example.com\", \"games.example.com\"]", "[]"), "provider.games.hosts", "is empty"),
        (instead("\"api.example.com\", ", "\"API.example.com\", \"api.example.com\", "), "provider.games.hosts", "small letters"),
        (instead("\"api.example.com\", ", "\"10.0.0.1\", \"api.example.com\", "), "provider.games.hosts", "must be a name"),
        (instead("https://api.example.com/sign-in", "http://api.example.com/"), "provider.games.sign_in.url", "insecure = true"),
        (
            instead("https://api.example.com/sign-in", "https://other.example/"),
            "provider.games.sign_in.url",
            "not one of the provider's hosts",
        ),
        (instead("https://api.example.com/sign-in", "nonsense"), "provider.games.sign_in.url", "not a valid URL"),
        (
            instead("https://api.example.com/sign-in", "https://{user_id}.example.com/"),
            "provider.games.sign_in.url",
            "the host must be fixed",
        ),
        (instead("sign-in\"", "{sesion}\""), "provider.games.sign_in.url", "unknown here"),
        (instead("session = \"/id\"", "session = \"id\""), "provider.games.sign_in.session", "begins with /"),
        (instead("session = \"/id\"", ""), "provider.games.sign_in.session", "is missing"),
        (with("session = \"/id\"", "success = \"/~2\""), "provider.games.sign_in.success", "~0"),
        (with("session = \"/id\"", "method = \"DELETE\""), "provider.games.sign_in.method", "POST, GET, PUT"),
        (with("session = \"/id\"", "body = '{\"a\":\"{usr_id}\"}'"), "provider.games.sign_in.body", "did you mean {user_id}?"),
        (with("session = \"/id\"", "body = '{\"a\":'"), "provider.games.sign_in.body", "must be JSON"),
        (with("session = \"/id\"", "body = '\"{env:NONE}\"'"), "provider.games.sign_in.body", "NONE_FILE"),
        (with("session = \"/id\"", "headers = { \"a b\" = \"c\" }"), "provider.games.sign_in.headers.a b", "not a valid header name"),
        (with("session = \"/id\"", "headers = { a = \"b\\nc\" }"), "provider.games.sign_in.headers.a", "line break"),
        (with("session = \"/id\"", "headers = { Host = \"x\" }"), "provider.games.sign_in.headers.Host", "by the hub itself"),
        (with("session = \"/id\"", "headers = { a = 1 }"), "provider.games.sign_in.headers.a", "in quotes"),
        (with("session = \"/id\"", "refused = [200]"), "provider.games.sign_in.refused", "400 to 499"),
        (with("session = \"/id\"", "refused = [429]"), "provider.games.sign_in.refused", "remove it"),
        (with("session = \"/id\"", "deadline = \"2h\""), "provider.games.sign_in.deadline", "to 60s"),
        (instead("wss://games.example.com/ws?id={session}", "ws://games.example.com/"), "provider.games.socket.url", "insecure = true"),
        (with("?id={session}\"", "max_message = 9"), "provider.games.socket.max_message", "from 1024 to 1048576"),
        (with("?id={session}\"", "expired_codes = [\"4401\"]"), "provider.games.socket.expired_codes", "whole numbers"),
        (with("?id={session}\"", "subprotocol = \"a b\""), "provider.games.socket.subprotocol", "letters, digits"),
        (instead("type = \"game-data\"", "type = \"status\""), "provider.games.messages.type", "name of a frame"),
        (instead("type = \"game-data\"", "type = \"Game\""), "provider.games.messages.type", "a-z 0-9"),
        (with("type = \"game-data\"", "data = \"xml\""), "provider.games.messages.data", "text, json"),
        (with("type = \"game-data\"", "replay_false = [{ pointer = \"/a\" }]"), "provider.games.messages.replay_false", "equals"),
        (with("type = \"game-data\"", "[provider.commands]\ntypes = [\"ack\"]"), "provider.games.commands.types", "name of a frame"),
        (with("type = \"game-data\"", "[provider.commands]\nframe = \"BET {payload}\""), "provider.games.commands.frame", "must be JSON"),
        (with("type = \"game-data\"", "[provider.keepalive]\ntext = \"ping {session}\""), "provider.games.keepalive.text", "unknown here"),
        (with("type = \"game-data\"", "[provider.keepalive]\ninterval = \"10ms\""), "provider.games.keepalive.interval", "from 100ms"),
        (with("type = \"game-data\"", "[provider.keepalive]\nas = \"text\""), "provider.games.keepalive.text", "is missing"),
        (with("type = \"game-data\"", "[provider.backoff]\nfirst = \"1m\"\nmost = \"2s\""), "provider.games.backoff.most", "below first"),
        (with("type = \"game-data\"", "[provider.backoff]\ntries = 0"), "provider.games.backoff.tries", "from 1 to 1000"),
        (with("type = \"game-data\"", "[provider.texts]\nconnected = \"a\\nb\""), "provider.games.texts.connected", "line breaks"),
        (format!("{GOOD}{GOOD}"), "provider.games.name", "2 providers"),
        ("provider = 1".to_owned(), "provider", "[[provider]]"),
        ("a = 1\n".to_owned() + GOOD, "a", "unknown key"),
        (String::new(), "provider", "is missing"),
    ] {
        let found = errors(&text);
        assert_eq!(found.len(), 1, "{text}\n{found:#?}");
        let (at, said) = found[0].split_once(": ").unwrap();
        assert!(at == path && said.contains(advice), "expected {path} and {advice}: {found:?}");
    }
}

#[test]
fn all_mistakes_are_said_at_once() {
    let text = GOOD.replace("wss://", "ws://").replace("\"/id\"", "\"id\"").replace("game-data", "error").replace("name =", "nmae =");
    let found = errors(&text);
    assert_eq!(found.len(), 5, "{found:#?}");
}

#[test]
fn a_command_goes_to_one_provider() {
    let taking = with("type = \"game-data\"", "[provider.commands]\ntypes = [\"bet\"]");
    let two = format!("{taking}{}", taking.replace("\"games\"", "\"more\""));
    let found = errors(&two);
    assert!(found.len() == 1 && found[0].contains("taken by the provider games"), "{found:?}");
    assert_eq!(read(&taking).unwrap().taking("bet").unwrap().name.as_str(), "games");
}

/// The library shows the line at which it stopped, and that line may contain a credential.
#[test]
fn what_is_no_toml_is_said_without_showing_it() {
    let found = errors("[[provider]]\nname = \"a\"\nkey = \"hidden-1234");
    assert!(found.len() == 1 && found[0].starts_with("line 3: this is not TOML") && !found[0].contains("hidden"), "{found:?}");
}

#[test]
fn a_users_message_becomes_a_notification_to_that_user() {
    let rules = "data = \"json\"\nttl = \"1h\"\nreplay_false = [\"tick\", { pointer = \"/n\", equals = 7 }]";
    let all = read(&with("type = \"game-data\"", rules)).unwrap();
    let (games, user) = (all.get("games").unwrap(), UserId::parse("42").unwrap());
    let made = |text: &str| games.messages.notification(&games.name, &user, text);
    assert_eq!((made("{\"n\":1}").data.as_deref(), made("{\"n\":1}").replay), (Some("{\"n\":1}"), true));
    assert!(!made("{\"n\":7}").replay);
    assert_eq!(made("{\"n\":1,\"n\":2}").data.as_deref(), Some(r#""{\"n\":1,\"n\":2}""#), "which of the two a reader takes is not known");
    assert_eq!(made("a \0 tick").data.as_deref(), Some("\"a \u{fffd} tick\""));
    let one = made("x");
    assert_eq!((one.kind.as_str(), one.ttl_seconds, one.audience.topic()), ("game-data", Some(3600), "u/42".to_owned()));
}
