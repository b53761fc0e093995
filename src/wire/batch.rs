//! Reads a batch of notifications: the body of `POST /api/internal/notify/batch`.

use serde::de::{Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::cloudevents;
use super::notify::{self, ERRORS_MAX, NotifyBody};
use super::problem::{FieldError, Problem};

/// Maximum items of a batch. All of them become one commit.
pub const ITEMS_MAX: usize = 1000;
/// Maximum length of an item, in bytes. A single notification's body has the same limit.
pub const ITEM_MAX_BYTES: usize = 64 << 10;
/// Maximum entries of all `user_ids` of a batch. Each entry is a row in an index, and the commit must not take
/// seconds.
pub const LISTED_USERS_MAX: usize = 50_000;
/// Reads `{"items":[…]}`.
///
/// # Errors
/// 400 `malformed_json` for malformed JSON; 422 when any item breaks a rule, with a pointer to each broken rule.
pub fn parse(body: &[u8]) -> Result<Vec<NotifyBody>, Problem> {
    let text = std::str::from_utf8(body).map_err(|_| notify::malformed("not UTF-8"))?;
    let mut items = None;
    for (name, value) in notify::members(text)?.0 {
        if &*name != "items" || items.replace(value).is_some() {
            let name: String = name.chars().take(64).collect();
            let error =
                FieldError::new(format!("/{}", notify::escape(&name)), "the body must have the field items, once, and no other field");
            return Err(Problem::new(422, "invalid_field", "a batch is {\"items\":[…]}; nothing was appended").with_errors(vec![error]));
        }
    }
    let items = Items::read(items.map_or("null", RawValue::get), "/items")?;
    if items.list.is_empty() {
        return Err(wrong_count("/items"));
    }
    items.each("/items", notify::parse_text)
}

/// Reads `[…]`, a list of events (`application/cloudevents-batch+json`). The list may be empty.
///
/// # Errors
/// As [`parse`].
pub fn parse_events(body: &[u8]) -> Result<Vec<NotifyBody>, Problem> {
    let text = std::str::from_utf8(body).map_err(|_| notify::malformed("not UTF-8"))?;
    Items::read(text, "")?.each("", cloudevents::parse_text)
}

fn wrong_count(pointer: &str) -> Problem {
    let error = FieldError::new(pointer, format!("must be a list of 1 to {ITEMS_MAX} notifications"));
    Problem::new(422, "invalid_field", error.detail.clone()).with_errors(vec![error])
}

/// The items of a batch, not parsed yet.
struct Items<'a> {
    list: Vec<&'a RawValue>,
}

impl<'a> Items<'a> {
    fn read(text: &'a str, pointer: &str) -> Result<Self, Problem> {
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let read = deserializer.deserialize_seq(ItemsVisitor).and_then(|list| deserializer.end().map(|()| list));
        match read {
            Ok(Some(list)) => Ok(Self { list }),
            Ok(None) => Err(wrong_count(pointer)),
            Err(error) if error.is_data() => Err(wrong_count(pointer)),
            Err(error) => Err(notify::malformed(format!("the body is not JSON: line {}, column {}", error.line(), error.column()))),
        }
    }

    fn each(self, pointer: &str, parse: impl Fn(&str) -> Result<NotifyBody, Problem>) -> Result<Vec<NotifyBody>, Problem> {
        let mut bodies = Vec::with_capacity(self.list.len());
        let mut errors = Vec::new();
        let mut alone = None;
        for (at, item) in self.list.iter().enumerate() {
            let refused = match check_length(item.get()).and_then(|()| parse(item.get())) {
                Ok(body) => {
                    bodies.push(body);
                    continue;
                }
                Err(problem) => problem.within(&format!("{pointer}/{at}")),
            };
            if refused.status == 400 {
                return Err(refused);
            }
            errors.extend(refused.errors.iter().cloned());
            alone = Some(refused);
            if errors.len() >= ERRORS_MAX {
                break;
            }
        }
        match alone {
            // A single broken rule keeps its own code.
            Some(refused) if errors.len() == 1 => return Err(refused),
            Some(_) => {
                errors.truncate(ERRORS_MAX);
                let detail = "items of the batch break the rules listed in errors; nothing was appended";
                return Err(Problem::new(422, "invalid_field", detail).with_errors(errors));
            }
            None => {}
        }
        if bodies.iter().map(NotifyBody::listed_users).sum::<usize>() > LISTED_USERS_MAX {
            let error = FieldError::new(pointer, format!("the lists of users may have at most {LISTED_USERS_MAX} entries in total"));
            return Err(Problem::new(422, "invalid_field", error.detail.clone()).with_errors(vec![error]));
        }
        Ok(bodies)
    }
}

/// Checks the length of one item.
///
/// # Errors
/// When the item is longer than [`ITEM_MAX_BYTES`].
pub fn check_length(item: &str) -> Result<(), Problem> {
    if item.len() <= ITEM_MAX_BYTES {
        return Ok(());
    }
    Err(Problem::new(422, "invalid_field", format!("a notification may have at most {ITEM_MAX_BYTES} bytes")))
}

/// Keeps at most [`ITEMS_MAX`] items, however long the list is. The value is `None` for a longer list.
struct ItemsVisitor;

impl<'de> Visitor<'de> for ItemsVisitor {
    type Value = Option<Vec<&'de RawValue>>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let mut list = Vec::new();
        while list.len() < ITEMS_MAX {
            let Some(item) = items.next_element()? else { return Ok(Some(list)) };
            list.push(item);
        }
        let mut more = false;
        while items.next_element::<IgnoredAny>()?.is_some() {
            more = true;
        }
        Ok((!more).then_some(list))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ITEM: &str = r#"{"type":"a","title":"t","message":"m","user_id":"1"}"#;

    fn refused(body: &str) -> (u16, &'static str, Vec<String>) {
        let problem = parse(body.as_bytes()).expect_err(body);
        (problem.status, problem.code, problem.errors.into_iter().map(|e| e.pointer).collect())
    }

    fn of(items: &[&str]) -> String {
        format!("{{\"items\":[{}]}}", items.join(","))
    }

    #[test]
    fn a_batch_holds_one_to_a_thousand() {
        assert_eq!(parse(of(&[ITEM; 1000]).as_bytes()).unwrap().len(), 1000);
        for body in [of(&[]), of(&[ITEM; 1001]), "{}".into(), r#"{"items":null}"#.into(), r#"{"items":{}}"#.into()] {
            assert_eq!(refused(&body), (422, "invalid_field", vec!["/items".into()]));
        }
    }

    #[test]
    fn each_broken_rule_is_pointed_at() {
        let no_title = r#"{"type":"a","message":"m","user_id":"1"}"#;
        let reserved = r#"{"type":"ack","title":"t","message":"m","user_id":"1"}"#;
        let nobody = r#"{"type":"a","title":"t","message":"m"}"#;
        assert_eq!(refused(&of(&[ITEM, ITEM, ITEM, no_title])), (422, "invalid_field", vec!["/items/3/title".into()]));
        assert_eq!(refused(&of(&[ITEM, reserved])), (422, "reserved_type", vec!["/items/1/type".into()]));
        assert_eq!(refused(&of(&[nobody, ITEM])), (422, "no_audience", vec!["/items/0".into()]));
        assert_eq!(refused(&of(&[no_title, "7"])), (422, "invalid_field", vec!["/items/0/title".into(), "/items/1".into()]));
        let long = format!(r#"{{"type":"a","title":"{}","message":"m","user_id":"1"}}"#, "x".repeat(ITEM_MAX_BYTES));
        assert_eq!(refused(&of(&[&long])), (422, "invalid_field", vec!["/items/0".into()]));
        assert_eq!(refused(&of(&[no_title; 1000])).2.len(), ERRORS_MAX);
        assert_eq!(refused(r#"{"items":[],"item":1}"#).2, ["/item"]);
        assert_eq!(refused(r#"{"items":[],"items":[]}"#).2, ["/items"]);
        assert_eq!(refused(&of(&[ITEM, r#"{"title":"\ud800"}"#])), (400, "malformed_json", vec!["/items/1".into()]));
        for body in ["", "{", r#"{"items":[}"#] {
            assert_eq!(refused(body), (400, "malformed_json", vec![]), "{body}");
        }
        assert_eq!(refused("[]").1, "invalid_body");
    }

    #[test]
    fn the_lists_of_users_are_bounded_together() {
        let users: Vec<String> = (0..9000).map(|n| format!("\"{n:x}\"")).collect();
        let item = format!(r#"{{"type":"a","title":"t","message":"m","user_ids":[{}]}}"#, users.join(","));
        assert_eq!(parse(of(&[item.as_str(); 5]).as_bytes()).unwrap().len(), 5);
        assert_eq!(refused(&of(&[item.as_str(); 6])), (422, "invalid_field", vec!["/items".into()]));
    }
}
