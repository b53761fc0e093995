//! Fuzzes the parsers of posts.

use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::{head, refused};
use recado::domain::Audience;
use recado::http::fuzz_entry;
use recado::wire::batch::{self, ITEM_MAX_BYTES, ITEMS_MAX, LISTED_USERS_MAX};
use recado::wire::lines::{LineSplitter, TooLong};
use recado::wire::notify::{self, NotifyBody, USER_IDS_MAX};
use recado::wire::{RESERVED_TYPES, cloudevents, is_type, json, why_own};

const CODES: [(u16, &str); 5] =
    [(400, "malformed_json"), (422, "invalid_body"), (422, "invalid_field"), (422, "no_audience"), (422, "reserved_type")];

/// Asserts that an accepted body keeps the rules, and is the same after it is written and read again.
fn taken(body: &NotifyBody) {
    assert!(is_type(&body.kind) && !RESERVED_TYPES.contains(&body.kind.as_str()) && why_own(&body.kind).is_none(), "{body:?}");
    assert!(!body.title.contains('\0') && !body.message.contains('\0'), "{body:?}");
    assert!(body.ttl_seconds.is_none_or(|seconds| seconds > 0), "{body:?}");
    assert!(body.listed_users() <= USER_IDS_MAX + 1, "{} users", body.listed_users());
    if let Some(data) = &body.data {
        assert_eq!(json::check(data), Ok(()));
    }
    let again = NotifyBody { idempotency_key: None, ..body.clone() };
    assert_eq!(notify::parse_text(&written(body)), Ok(again));
}

fn written(body: &NotifyBody) -> String {
    let mut fields = json!({ "type": body.kind, "title": body.title, "message": body.message, "replay": body.replay });
    if let Some(seconds) = body.ttl_seconds {
        fields["ttl"] = seconds.into();
    }
    match &body.audience {
        Audience::Everyone => fields["broadcast"] = true.into(),
        Audience::Account(_) => {}
        Audience::User { user, .. } => fields["user_id"] = user.as_str().into(),
        Audience::Users { users, .. } => fields["user_ids"] = users.iter().map(|user| user.as_str()).collect(),
    }
    if let Some(account) = body.audience.account() {
        fields["account_id"] = account.as_str().into();
    }
    let fields = fields.to_string();
    let data = body.data.as_deref().unwrap_or("null");
    format!("{},\"data\":{data}}}", fields.strip_suffix('}').unwrap_or(&fields))
}

/// `POST /api/internal/notify`.
pub fn notify(input: &[u8]) {
    match notify::parse(input) {
        Ok(body) => {
            taken(&body);
            // Byte for byte, at any position of the input.
            let data = body.data.as_deref().unwrap_or_default();
            assert!(String::from_utf8_lossy(input).contains(data));
            if let Some(key) = &body.idempotency_key {
                assert_eq!(notify::check_key(key), Ok(()));
            }
            // As an item of a batch it gives the same notification.
            let alone = [b"{\"items\":[".as_slice(), input, b"]}"].concat();
            if input.trim_ascii().len() <= ITEM_MAX_BYTES {
                assert_eq!(batch::parse(&alone), Ok(vec![body]));
            }
        }
        Err(problem) => refused(&problem, &CODES),
    }
}

/// `POST /api/internal/notify/batch` in JSON, with notifications and with events.
pub fn batch(input: &[u8]) {
    match batch::parse(input) {
        Ok(bodies) => {
            batch_taken(&bodies);
            #[derive(serde::Deserialize)]
            struct Whole<'a> {
                #[serde(borrow)]
                items: Vec<&'a RawValue>,
            }
            let whole: Whole<'_> = serde_json::from_slice(input).expect("what was taken is JSON");
            let each: Result<Vec<_>, _> = whole.items.iter().map(|item| notify::parse_text(item.get())).collect();
            assert_eq!(each.as_ref(), Ok(&bodies));
            assert!(!bodies.is_empty());
        }
        Err(problem) => refused(&problem, &CODES),
    }
    match batch::parse_events(input) {
        Ok(bodies) => batch_taken(&bodies),
        Err(problem) => refused(&problem, &CODES),
    }
}

fn batch_taken(bodies: &[NotifyBody]) {
    assert!(bodies.len() <= ITEMS_MAX);
    assert!(bodies.iter().map(NotifyBody::listed_users).sum::<usize>() <= LISTED_USERS_MAX);
    bodies.iter().for_each(taken);
}

fn cut(pieces: impl Iterator<Item = Vec<u8>>, most: usize) -> Result<Vec<Vec<u8>>, TooLong> {
    let mut lines = LineSplitter::new(most);
    let mut all = Vec::new();
    for piece in pieces {
        lines.give(&piece);
        while let Some(line) = lines.take(false)? {
            all.push(line.bytes.to_vec());
            assert_eq!(line.number, all.len() as u64);
        }
    }
    all.extend(lines.take(true)?.map(|line| line.bytes.to_vec()));
    Ok(all)
}

/// The same route as NDJSON. The first byte gives the length of the chunks of the rest.
pub fn ndjson(input: &[u8]) {
    let Some((size, stream)) = input.split_first() else { return };
    let pieces = || stream.chunks(usize::from(*size).max(1)).map(<[u8]>::to_vec);
    for most in [16, ITEM_MAX_BYTES] {
        let lines = cut(pieces(), most);
        assert_eq!(lines, cut(std::iter::once(stream.to_vec()), most), "where it is cut makes a difference");
        let Ok(lines) = lines else { continue };
        assert!(lines.iter().all(|line| line.len() <= most || most < stream.len()));
        let mut joined = lines.join(&b'\n');
        joined.extend(stream.ends_with(b"\n").then_some(b'\n'));
        assert_eq!(joined, stream, "something was lost");
        for line in &lines {
            match fuzz_entry::line(line) {
                Ok(Some(body)) => taken(&body),
                Ok(None) => assert!(line.trim_ascii().is_empty()),
                Err(problem) => refused(&problem, &CODES),
            }
        }
    }
}

/// Asserts that an accepted event is a notification with a key that no other event and no service can have.
fn event_taken(body: &NotifyBody) {
    taken(body);
    let key = body.idempotency_key.as_deref().expect("an event has a key");
    let (source, id) = key.split_once('\0').expect("its source and its id");
    assert!(!source.is_empty() && !id.is_empty() && !id.contains('\0') && notify::check_key(key).is_err());
}

/// An event in JSON.
pub fn cloud_event(input: &[u8]) {
    match cloudevents::parse(input) {
        Ok(body) => {
            event_taken(&body);
            let event: Value = serde_json::from_slice(input).expect("what was taken is JSON");
            let (source, id) = (event["source"].as_str(), event["id"].as_str());
            assert_eq!(source.zip(id).map(|(source, id)| format!("{source}\0{id}")), body.idempotency_key);
            assert!(String::from_utf8_lossy(input).contains(body.data.as_deref().unwrap_or_default()));
        }
        Err(problem) => refused(&problem, &CODES),
    }
}

/// An event in headers, one `name value` per line; its data follows an empty line.
pub fn cloud_event_headers(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let (fields, data) = text.split_once("\n\n").unwrap_or((&text, ""));
    let headers: Vec<(&str, &[u8])> = fields.lines().filter_map(|line| line.split_once(' ')).map(|(n, v)| (n, v.as_bytes())).collect();
    match cloudevents::parse_binary(headers.iter().copied(), data.as_bytes()) {
        Ok(body) => {
            event_taken(&body);
            let given = Some(data.trim_matches([' ', '\t', '\r', '\n'])).filter(|data| !data.is_empty() && *data != "null");
            assert_eq!(body.data.as_deref(), given);
        }
        Err(problem) => refused(&problem, &CODES),
    }
    let (name, value) = head(&text);
    let event = [("specversion", "1.0"), ("id", "1"), ("source", "/"), ("type", "a"), ("userid", "42"), (name, value)];
    if let Err(problem) = cloudevents::parse_binary(event.iter().map(|(name, value)| (*name, value.as_bytes())), b"") {
        refused(&problem, &CODES);
    }
}
