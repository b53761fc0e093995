//! The tables of one provider, each to its type. Each reads all of its keys before it gives up, so that all is said.

use std::time::Duration;

use hyper::Method;
use hyper::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderName, HeaderValue, TRANSFER_ENCODING, UPGRADE};
use toml::Value;

use super::table::Table;
use crate::domain::ProviderName;
use crate::upstream::hosts::{Hosts, Scheme, UrlTemplate};
use crate::upstream::provider::{
    BackoffRules, Commands, DataForm, Header, Keepalive, Messages, PingForm, Provider, SignIn, SocketRules, Texts,
};
use crate::upstream::rule::{Pointer, Rule};
use crate::upstream::template::{Credentials, Filling, NOT_JSON, Place, Template, What};
use crate::wire::{RESERVED_TYPES, TYPE_RULE, is_type};

const MS: Duration = Duration::from_millis(100);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);
/// A message becomes one notification, and those have this size at most.
const LONGEST_MESSAGE: i64 = 1024 * 1024;
/// Longest text for the user, in characters.
const LONGEST_TEXT: usize = 500;
/// Longest payload of a protocol ping, in bytes (RFC 6455 section 5.5).
const LONGEST_PING: usize = 125;

pub(super) fn provider(table: &Table<'_>, credentials: Credentials<'_>) -> Option<Provider> {
    let name = table.needed("name", "a name of a-z 0-9 _ -, which also stands in the database");
    let name = name.and_then(|name| match ProviderName::parse(&name) {
        Ok(name) => Some(name),
        Err(error) => said(table, "name", error),
    });
    let hosts = hosts(table);
    let sign_in = within(table, "sign_in", |part| sign_in(part, hosts.as_ref(), credentials));
    let socket = within(table, "socket", |part| socket(part, hosts.as_ref(), credentials));
    let keepalive = within(table, "keepalive", |part| keepalive(part, credentials));
    let title = name.as_ref().map_or("", ProviderName::as_str);
    let messages = within(table, "messages", |part| messages(part, title));
    let commands = within(table, "commands", |part| commands(part, credentials));
    let backoff = within(table, "backoff", |part| Some(backoff(part)));
    let texts = within(table, "texts", |part| Some(texts(part, title)));
    let idle_timeout = table.duration("idle_timeout", 10 * MINUTE, SECOND, DAY);
    let linger = table.duration("linger", 30 * SECOND, Duration::ZERO, DAY);
    Some(Provider {
        name: name?,
        hosts: hosts?,
        sign_in: sign_in?,
        socket: socket?,
        keepalive: keepalive?,
        messages: messages?,
        commands: commands?,
        backoff: backoff?,
        idle_timeout,
        linger,
        texts: texts?,
    })
}

/// Reads a table within this one, and says what it holds that nobody asked for.
fn within<T>(table: &Table<'_>, key: &'static str, read: impl FnOnce(&Table<'_>) -> Option<T>) -> Option<T> {
    let part = table.table(key);
    let found = read(&part);
    part.finish();
    found
}

fn said<T>(table: &Table<'_>, key: &str, what: impl std::fmt::Display) -> Option<T> {
    table.wrong(key, what);
    None
}

fn hosts(table: &Table<'_>) -> Option<Hosts> {
    if !table.has("hosts") {
        table.wrong("hosts", "is missing; list every host that may be dialled, such as [\"games.example.com\"]");
    }
    let entries = table.texts("hosts");
    if entries.is_empty() && table.value("hosts").and_then(Value::as_array).is_some_and(Vec::is_empty) {
        table.wrong("hosts", "is empty; list every host that may be dialled, such as [\"games.example.com\"]");
    }
    match Hosts::parse(&entries, table.switch("insecure")) {
        Ok(hosts) => (!entries.is_empty()).then_some(hosts),
        Err(errors) => {
            errors.into_iter().for_each(|(i, error)| table.wrong("hosts", format_args!("{:?} {error}", entries[i])));
            None
        }
    }
}

fn url(table: &Table<'_>, scheme: Scheme, hosts: Option<&Hosts>, allowed: &[What], credentials: Credentials<'_>) -> Option<UrlTemplate> {
    let example = match scheme {
        Scheme::Http => "the URL that signs a user in, such as https://api.example.com/sign-in",
        Scheme::Socket => "the socket's URL, such as wss://games.example.com/socket?id={session}",
    };
    let text = table.needed("url", example)?;
    // Without hosts there is nothing to compare with, and that is said already.
    match UrlTemplate::parse(&text, scheme, hosts?, allowed, credentials) {
        Ok(url) => Some(url),
        Err(errors) => all_said(table, "url", errors),
    }
}

fn all_said<T>(table: &Table<'_>, key: &str, errors: Vec<String>) -> Option<T> {
    errors.into_iter().for_each(|error| table.wrong(key, error));
    None
}

fn template(table: &Table<'_>, key: &str, text: &str, place: Place, allowed: &[What], credentials: Credentials<'_>) -> Option<Template> {
    Template::parse(text, place, allowed, credentials).map_or_else(|errors| all_said(table, key, errors), Some)
}

fn headers(table: &Table<'_>, allowed: &[What], credentials: Credentials<'_>) -> Option<Vec<Header>> {
    let table = table.table("headers");
    let mut found = Some(Vec::new());
    let path = table.path.clone();
    let inner = Table::new(path, toml::Table::new(), table.errors);
    for (name, value) in table.into_values() {
        match header(&inner, &name, &value, allowed, credentials) {
            Some(header) => found.iter_mut().for_each(|all: &mut Vec<Header>| all.push(header.clone())),
            None => found = None,
        }
    }
    found
}

fn header(table: &Table<'_>, key: &str, value: &Value, allowed: &[What], credentials: Credentials<'_>) -> Option<Header> {
    let Ok(name) = HeaderName::from_bytes(key.as_bytes()) else { return said(table, key, "is no name of a header") };
    let ours =
        [HOST, CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE].contains(&name) || name.as_str().starts_with("sec-websocket-");
    if ours {
        return said(table, key, "is set by the hub itself; leave it out");
    }
    let Some(text) = value.as_str() else { return said(table, key, "must be a text in quotes") };
    let value = template(table, key, text, Place::Plain, allowed, credentials)?;
    if HeaderValue::from_str(&value.fill(&Filling::default())).is_err() {
        return said(table, key, "holds a character that no header may, such as a line break");
    }
    Some(Header { name, value })
}

fn pointer(table: &Table<'_>, key: &'static str) -> Option<Option<Pointer>> {
    match table.text(key).map(|text| Pointer::parse(&text)) {
        None => Some(None),
        Some(Ok(pointer)) => Some(Some(pointer)),
        Some(Err(error)) => said(table, key, error),
    }
}

fn sign_in(table: &Table<'_>, hosts: Option<&Hosts>, credentials: Credentials<'_>) -> Option<SignIn> {
    let allowed = [What::UserId, What::Timestamp];
    let url = url(table, Scheme::Http, hosts, &allowed, credentials);
    let headers = headers(table, &allowed, credentials);
    let is_form = |header: &Header| {
        header.name == CONTENT_TYPE && header.value.fill(&Filling::default()).starts_with("application/x-www-form-urlencoded")
    };
    let place = if headers.iter().flatten().any(is_form) { Place::Encoded } else { Place::Json };
    let body = table.text("body").map(|text| template(table, "body", &text, place, &allowed, credentials));
    let session = table.needed("session", "the JSON pointer of the session id in the answer, such as /data/sessionId");
    let session = session.and_then(|text| Pointer::parse(&text).map_or_else(|error| said(table, "session", error), Some));
    let (success, error) = (pointer(table, "success"), pointer(table, "error"));
    let method = table.choice("method", &[("POST", 0), ("GET", 1), ("PUT", 2)]);
    let refused = table.numbers("refused", &[401, 403], 400, 499);
    if refused.contains(&429) {
        table.wrong("refused", "holds 429, which asks for patience and is no refusal");
    }
    let failure_is_final = table.choice("failure", &[("final", true), ("temporary", false)]);
    let deadline = table.duration("deadline", 10 * SECOND, MS, MINUTE);
    let body = match body {
        Some(body) => Some(body?),
        None => None,
    };
    Some(SignIn {
        method: [Method::POST, Method::GET, Method::PUT][method].clone(),
        url: url?,
        headers: headers?,
        body,
        session: session?,
        success: success?,
        error: error?,
        refused,
        failure_is_final,
        deadline,
    })
}

fn socket(table: &Table<'_>, hosts: Option<&Hosts>, credentials: Credentials<'_>) -> Option<SocketRules> {
    let allowed = [What::UserId, What::Session, What::Timestamp];
    let url = url(table, Scheme::Socket, hosts, &allowed, credentials);
    let headers = headers(table, &allowed, credentials);
    let subprotocol = table.text("subprotocol");
    if subprotocol.as_ref().is_some_and(|name| HeaderName::from_bytes(name.as_bytes()).is_err()) {
        table.wrong("subprotocol", "must be one name of letters, digits and dashes");
    }
    let connect_deadline = table.duration("connect_deadline", 10 * SECOND, MS, MINUTE);
    let max_message = table.number("max_message", LONGEST_MESSAGE, 1024, LONGEST_MESSAGE);
    let expired_statuses = table.numbers("expired_statuses", &[401, 403], 400, 499);
    let expired_codes = table.numbers("expired_codes", &[], 1000, 4999);
    Some(SocketRules {
        url: url?,
        headers: headers?,
        subprotocol,
        connect_deadline,
        max_message: usize::try_from(max_message).ok()?,
        expired_statuses,
        expired_codes,
    })
}

fn keepalive(table: &Table<'_>, credentials: Credentials<'_>) -> Option<Keepalive> {
    let given = table.text("text");
    let form = match given {
        Some(_) => table.choice("as", &[("text", PingForm::Text), ("ping", PingForm::Ping)]),
        None => table.choice("as", &[("ping", PingForm::Ping), ("text", PingForm::Text)]),
    };
    if given.is_none() && form == PingForm::Text {
        table.wrong("text", "is missing; give the text that the provider takes as a ping, or as = \"ping\"");
    }
    let text = keepalive_text(table, &given.unwrap_or_default(), form, credentials);
    let interval = table.duration("interval", 30 * SECOND, MS, HOUR);
    let deadline = table.duration("deadline", 15 * SECOND, MS, 10 * MINUTE);
    let answers = rules(table, "answers");
    Some(Keepalive { text: text?, form, interval, deadline, answers: answers? })
}

/// JSON may hold every value, escaped; any other text only what needs no escaping.
fn keepalive_text(table: &Table<'_>, text: &str, form: PingForm, credentials: Credentials<'_>) -> Option<Template> {
    if form == PingForm::Ping {
        let found = template(table, "text", text, Place::Plain, &[What::Timestamp], credentials)?;
        let longest = found.fill(&Filling { timestamp_ms: i64::MAX, ..Filling::default() }).len();
        return if longest <= LONGEST_PING { Some(found) } else { said(table, "text", "is longer than the 125 bytes of a protocol ping") };
    }
    match Template::parse(text, Place::Json, &[What::UserId, What::Session, What::Timestamp], credentials) {
        Ok(found) => Some(found),
        Err(errors) if errors == [NOT_JSON] => template(table, "text", text, Place::Plain, &[What::UserId, What::Timestamp], credentials),
        Err(errors) => all_said(table, "text", errors),
    }
}

fn rules(table: &Table<'_>, key: &'static str) -> Option<Vec<Rule>> {
    let Some(value) = table.value(key) else { return Some(Vec::new()) };
    let wrong = "must be a list; each a text that the message holds, or { pointer = \"/method\", equals = \"pong\" }";
    let Some(items) = value.as_array() else { return said(table, key, wrong) };
    let read = items.iter().map(|item| match item {
        Value::String(text) if !text.is_empty() => Some(Rule::Contains(text.clone())),
        Value::Table(pair) if pair.len() == 2 => {
            let (pointer, equals) = (pair.get("pointer")?.as_str()?, pair.get("equals")?);
            match Pointer::parse(pointer) {
                Ok(pointer) => Some(Rule::Equals(pointer, serde_json::to_value(equals).ok()?)),
                Err(error) => said(table, key, error),
            }
        }
        _ => None,
    });
    let read: Vec<Option<Rule>> = read.collect();
    read.into_iter().collect::<Option<Vec<Rule>>>().or_else(|| said(table, key, wrong))
}

/// A type of notifications or commands: one that clients can tell from our own frames.
fn check_type(table: &Table<'_>, key: &str, kind: &str) -> bool {
    if !is_type(kind) {
        table.wrong(key, format_args!("{kind:?} {TYPE_RULE}"));
    } else if RESERVED_TYPES.contains(&kind) {
        table.wrong(key, format_args!("{kind:?} is the name of a frame of the hub's own protocol; choose another"));
    }
    is_type(kind) && !RESERVED_TYPES.contains(&kind)
}

fn messages(table: &Table<'_>, default_title: &str) -> Option<Messages> {
    let kind = table.needed("type", "the type of the notifications that the provider's messages become, such as game-data");
    let kind = kind.filter(|kind| check_type(table, "type", kind));
    let title = text(table, "title", default_title);
    let message = text(table, "message", "");
    let data = table.choice("data", &[("text", DataForm::Text), ("json", DataForm::Json)]);
    let ttl = table.has("ttl").then(|| table.duration("ttl", HOUR, SECOND, 365 * DAY));
    let replay_false = rules(table, "replay_false");
    let ttl_seconds = ttl.and_then(|ttl| i32::try_from(ttl.as_secs()).ok());
    Some(Messages { kind: kind?, title, message, data, ttl_seconds, replay_false: replay_false? })
}

fn commands(table: &Table<'_>, credentials: Credentials<'_>) -> Option<Commands> {
    let types = table.texts("types");
    // Each is looked at, so that each is said.
    let fit = types.iter().filter(|kind| !check_type(table, "types", kind)).count() == 0;
    let payload = pointer(table, "payload");
    let allowed = [What::Payload, What::Id, What::Type, What::UserId, What::Session, What::Timestamp];
    let frame = table.text("frame").unwrap_or_else(|| "{payload}".to_owned());
    let frame = template(table, "frame", &frame, Place::Json, &allowed, credentials);
    let payload = match payload? {
        Some(pointer) => pointer,
        None => Pointer::parse("/payload").ok()?,
    };
    fit.then_some(Commands { types, payload, frame: frame? })
}

fn backoff(table: &Table<'_>) -> BackoffRules {
    let first = table.duration("first", 2 * SECOND, MS, HOUR);
    let most = table.duration("most", (30 * SECOND).max(first), MS, HOUR);
    if most < first {
        table.wrong("most", format_args!("is {most:?}; it must not be below first, which is {first:?}"));
    }
    let tries = table.number("tries", 5, 1, 1000);
    let reset_after = table.duration("reset_after", MINUTE, MS, DAY);
    BackoffRules { first, most, tries: u32::try_from(tries).unwrap_or(1), reset_after }
}

fn texts(table: &Table<'_>, name: &str) -> Texts {
    Texts {
        connected: text(table, "connected", &format!("Connected to {name}")),
        disconnected: text(table, "disconnected", &format!("Disconnected from {name}")),
        refused: text(table, "refused", "Sign-in refused"),
        error: text(table, "error", "Connection error: {reason}"),
    }
}

/// A text that a user reads.
fn text(table: &Table<'_>, key: &'static str, default: &str) -> String {
    let text = table.text(key).unwrap_or_else(|| default.to_owned());
    if text.chars().count() > LONGEST_TEXT || text.chars().any(char::is_control) {
        table.wrong(key, format_args!("must be at most {LONGEST_TEXT} characters, without line breaks"));
    }
    text
}
