//! Parses the tables of one provider. Each function reads all of its keys first, to report all errors.

use std::time::Duration;

use hyper::Method;
use hyper::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderName, HeaderValue, TRANSFER_ENCODING, UPGRADE};
use toml::Value;

use crate::domain::ProviderName;
use crate::providers::hosts::{Hosts, Scheme, UrlTemplate};
use crate::providers::matcher::{Matcher, Pointer};
use crate::providers::provider::{
    BackoffRules, DataForm, Header, Keepalive, PingForm, Provider, ProviderCommands, ProviderMessages, ProviderSocketRules, ProviderTexts,
    SignInRules,
};
use crate::providers::template::{Credentials, NOT_JSON, Template, TemplateContext, TemplateName, TemplateValues};
use crate::toml_table::Table;
use crate::wire::{RESERVED_TYPES, TYPE_RULE, is_type, why_own};

const MS: Duration = Duration::from_millis(100);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);
/// Longest message that is read from a provider's socket, in bytes.
const LONGEST_MESSAGE: i64 = 1024 * 1024;
/// Default limit of a message's `data` as JSON, in bytes.
const DEFAULT_MAX_BYTES: i64 = 256 * 1024;
/// Longest text for the user, in characters.
const LONGEST_TEXT: usize = 500;
/// Longest payload of a protocol ping, in bytes (RFC 6455 section 5.5).
const LONGEST_PING: usize = 125;

pub(super) fn provider(table: &Table<'_>, credentials: Credentials<'_>) -> Option<Provider> {
    let name = table.needed("name", "a name of a-z 0-9 _ -, which is also stored in the database");
    let name = name.and_then(|name| match ProviderName::parse(&name) {
        Ok(name) => Some(name),
        Err(error) => report(table, "name", error),
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

/// Reads a table within this one, and reports its unknown keys.
fn within<T>(table: &Table<'_>, key: &'static str, read: impl FnOnce(&Table<'_>) -> Option<T>) -> Option<T> {
    let part = table.table(key);
    let found = read(&part);
    part.finish();
    found
}

fn report<T>(table: &Table<'_>, key: &str, what: impl std::fmt::Display) -> Option<T> {
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

fn url(
    table: &Table<'_>,
    scheme: Scheme,
    hosts: Option<&Hosts>,
    allowed: &[TemplateName],
    credentials: Credentials<'_>,
) -> Option<UrlTemplate> {
    let example = match scheme {
        Scheme::Http => "the URL that signs a user in, such as https://api.example.com/sign-in",
        Scheme::Socket => "the socket's URL, such as wss://games.example.com/socket?id={session}",
    };
    let text = table.needed("url", example)?;
    // Without hosts there is nothing to compare with, and the missing hosts are reported already.
    match UrlTemplate::parse(&text, scheme, hosts?, allowed, credentials) {
        Ok(url) => Some(url),
        Err(errors) => report_all(table, "url", errors),
    }
}

fn report_all<T>(table: &Table<'_>, key: &str, errors: Vec<String>) -> Option<T> {
    errors.into_iter().for_each(|error| table.wrong(key, error));
    None
}

fn template(
    table: &Table<'_>,
    key: &str,
    text: &str,
    context: TemplateContext,
    allowed: &[TemplateName],
    credentials: Credentials<'_>,
) -> Option<Template> {
    Template::parse(text, context, allowed, credentials).map_or_else(|errors| report_all(table, key, errors), Some)
}

fn headers(table: &Table<'_>, allowed: &[TemplateName], credentials: Credentials<'_>) -> Option<Vec<Header>> {
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

fn header(table: &Table<'_>, key: &str, value: &Value, allowed: &[TemplateName], credentials: Credentials<'_>) -> Option<Header> {
    let Ok(name) = HeaderName::from_bytes(key.as_bytes()) else { return report(table, key, "is not a valid header name") };
    let ours =
        [HOST, CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE].contains(&name) || name.as_str().starts_with("sec-websocket-");
    if ours {
        return report(table, key, "is set by the hub itself; leave it out");
    }
    let Some(text) = value.as_str() else { return report(table, key, "must be a string in quotes") };
    let value = template(table, key, text, TemplateContext::Plain, allowed, credentials)?;
    if HeaderValue::from_str(&value.fill(&TemplateValues::default())).is_err() {
        return report(table, key, "contains a character that headers do not allow, such as a line break");
    }
    Some(Header { name, value })
}

fn pointer(table: &Table<'_>, key: &'static str) -> Option<Option<Pointer>> {
    match table.text(key).map(|text| Pointer::parse(&text)) {
        None => Some(None),
        Some(Ok(pointer)) => Some(Some(pointer)),
        Some(Err(error)) => report(table, key, error),
    }
}

fn sign_in(table: &Table<'_>, hosts: Option<&Hosts>, credentials: Credentials<'_>) -> Option<SignInRules> {
    let allowed = [TemplateName::UserId, TemplateName::Timestamp];
    let url = url(table, Scheme::Http, hosts, &allowed, credentials);
    let headers = headers(table, &allowed, credentials);
    let is_form = |header: &Header| {
        header.name == CONTENT_TYPE && header.value.fill(&TemplateValues::default()).starts_with("application/x-www-form-urlencoded")
    };
    let context = if headers.iter().flatten().any(is_form) { TemplateContext::Encoded } else { TemplateContext::Json };
    let body = table.text("body").map(|text| template(table, "body", &text, context, &allowed, credentials));
    let session = table.needed("session", "the JSON pointer of the session id in the answer, such as /data/sessionId");
    let session = session.and_then(|text| Pointer::parse(&text).map_or_else(|error| report(table, "session", error), Some));
    let (success, error) = (pointer(table, "success"), pointer(table, "error"));
    let method = table.choice("method", &[("POST", 0), ("GET", 1), ("PUT", 2)]);
    let refused = table.numbers("refused", &[401, 403], 400, 499);
    if refused.contains(&429) {
        table.wrong("refused", "contains 429 (Too Many Requests), which is not a refusal; remove it");
    }
    let failure_is_final = table.choice("failure", &[("final", true), ("temporary", false)]);
    let deadline = table.duration("deadline", 10 * SECOND, MS, MINUTE);
    let body = match body {
        Some(body) => Some(body?),
        None => None,
    };
    Some(SignInRules {
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

fn socket(table: &Table<'_>, hosts: Option<&Hosts>, credentials: Credentials<'_>) -> Option<ProviderSocketRules> {
    let allowed = [TemplateName::UserId, TemplateName::Session, TemplateName::Timestamp];
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
    Some(ProviderSocketRules {
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

/// JSON may contain any value, escaped; other text only values that need no escaping.
fn keepalive_text(table: &Table<'_>, text: &str, form: PingForm, credentials: Credentials<'_>) -> Option<Template> {
    if form == PingForm::Ping {
        let found = template(table, "text", text, TemplateContext::Plain, &[TemplateName::Timestamp], credentials)?;
        let longest = found.fill(&TemplateValues { timestamp_ms: i64::MAX, ..TemplateValues::default() }).len();
        return if longest <= LONGEST_PING {
            Some(found)
        } else {
            report(table, "text", "is longer than the 125 bytes of a protocol ping")
        };
    }
    match Template::parse(text, TemplateContext::Json, &[TemplateName::UserId, TemplateName::Session, TemplateName::Timestamp], credentials)
    {
        Ok(found) => Some(found),
        Err(errors) if errors == [NOT_JSON] => {
            template(table, "text", text, TemplateContext::Plain, &[TemplateName::UserId, TemplateName::Timestamp], credentials)
        }
        Err(errors) => report_all(table, "text", errors),
    }
}

fn rules(table: &Table<'_>, key: &'static str) -> Option<Vec<Matcher>> {
    let Some(value) = table.value(key) else { return Some(Vec::new()) };
    let wrong = "must be a list; each entry is a string that the message contains, or { pointer = \"/method\", equals = \"pong\" }";
    let Some(items) = value.as_array() else { return report(table, key, wrong) };
    let read = items.iter().map(|item| match item {
        Value::String(text) if !text.is_empty() => Some(Matcher::Contains(text.clone())),
        Value::Table(pair) if pair.len() == 2 => {
            let (pointer, equals) = (pair.get("pointer")?.as_str()?, pair.get("equals")?);
            match Pointer::parse(pointer) {
                Ok(pointer) => Some(Matcher::Equals(pointer, serde_json::to_value(equals).ok()?)),
                Err(error) => report(table, key, error),
            }
        }
        _ => None,
    });
    let read: Vec<Option<Matcher>> = read.collect();
    read.into_iter().collect::<Option<Vec<Matcher>>>().or_else(|| report(table, key, wrong))
}

/// Checks a type of notifications or commands: clients must be able to tell it from the hub's own frames.
fn check_type(table: &Table<'_>, key: &str, kind: &str) -> bool {
    if !is_type(kind) {
        table.wrong(key, format_args!("{kind:?} {TYPE_RULE}"));
    } else if RESERVED_TYPES.contains(&kind) {
        table.wrong(key, format_args!("{kind:?} is the name of a frame of the hub's own protocol; choose another"));
    }
    is_type(kind) && !RESERVED_TYPES.contains(&kind)
}

/// Checks that the hub does not use the type for notifications of its own, such as `upstream_gap`.
fn check_not_own(table: &Table<'_>, key: &str, kind: &str) -> bool {
    let why = why_own(kind);
    if let Some(why) = why {
        table.wrong(key, format_args!("{kind:?} {why}; choose another"));
    }
    why.is_none()
}

fn messages(table: &Table<'_>, default_title: &str) -> Option<ProviderMessages> {
    let kind = table.needed("type", "the type of the notifications that the provider's messages become, such as game-data");
    let kind = kind.filter(|kind| check_type(table, "type", kind) && check_not_own(table, "type", kind));
    let title = text(table, "title", default_title);
    let message = text(table, "message", "");
    let data = table.choice("data", &[("text", DataForm::Text), ("json", DataForm::Json)]);
    let ttl = table.has("ttl").then(|| table.duration("ttl", HOUR, SECOND, 365 * DAY));
    let max_bytes = usize::try_from(table.number("max_bytes", DEFAULT_MAX_BYTES, 1024, LONGEST_MESSAGE));
    let replay_false = rules(table, "replay_false");
    let ttl_seconds = ttl.and_then(|ttl| i32::try_from(ttl.as_secs()).ok());
    Some(ProviderMessages { kind: kind?, title, message, data, ttl_seconds, max_bytes: max_bytes.ok()?, replay_false: replay_false? })
}

fn commands(table: &Table<'_>, credentials: Credentials<'_>) -> Option<ProviderCommands> {
    let types = table.texts("types");
    // Every type is checked, so that every error is reported.
    let fit = types.iter().filter(|kind| !check_type(table, "types", kind)).count() == 0;
    let payload = pointer(table, "payload");
    let allowed =
        [TemplateName::Payload, TemplateName::Id, TemplateName::Type, TemplateName::UserId, TemplateName::Session, TemplateName::Timestamp];
    let frame = table.text("frame").unwrap_or_else(|| "{payload}".to_owned());
    let frame = template(table, "frame", &frame, TemplateContext::Json, &allowed, credentials);
    let payload = match payload? {
        Some(pointer) => pointer,
        None => Pointer::parse("/payload").ok()?,
    };
    fit.then_some(ProviderCommands { types, payload, frame: frame? })
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

fn texts(table: &Table<'_>, name: &str) -> ProviderTexts {
    ProviderTexts {
        connected: text(table, "connected", &format!("Connected to {name}")),
        gap: text(table, "gap", "Some messages may be missing"),
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
