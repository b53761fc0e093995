//! Prints results: for people as a table, for programs as JSON.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, IsTerminal, Write};

use chrono::{DateTime, TimeZone, Utc};
use clap::ValueEnum;
use comfy_table::{CellAlignment, Table, presets};
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::error::CliFailure;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    Table,
    /// One JSON value
    Json,
    /// One JSON value per line
    Ndjson,
}

/// Prints rows. A table has a column for each field, in the order of the row's type.
pub fn rows<T: Serialize>(format: Format, rows: &[T]) -> Result<(), CliFailure> {
    let texts: Vec<String> =
        rows.iter().map(serde_json::to_string).collect::<Result<_, _>>().map_err(|e| CliFailure::other(e.to_string()))?;
    match format {
        Format::Json => line(&format!("[{}]", texts.join(","))),
        Format::Ndjson => texts.iter().try_for_each(|text| line(text)),
        Format::Table => {
            let rows: Vec<OrderedFields> =
                texts.iter().map(|text| serde_json::from_str(text)).collect::<Result<_, _>>().unwrap_or_default();
            let heads: Vec<String> = rows.first().map(|row| row.0.iter().map(|(name, _)| head(name)).collect()).unwrap_or_default();
            table(&heads, rows.iter().map(|row| row.0.iter().map(|(_, value)| cell(value)).collect()))
        }
    }
}

/// The fields of a JSON object in the order in which they are written.
struct OrderedFields(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for OrderedFields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = OrderedFields;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<OrderedFields, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(OrderedFields(fields))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

/// Prints a table for people. Without rows the message goes to stderr, so that stdout stays empty for a program that
/// counts lines.
pub fn table<R: AsRef<str>>(heads: &[R], rows: impl Iterator<Item = Vec<String>>) -> Result<(), CliFailure> {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(heads.iter().map(AsRef::as_ref));
    table.add_rows(rows);
    if table.is_empty() {
        eprintln!("nothing to show");
        return Ok(());
    }
    line(&table.trim_fmt())
}

/// Lays rows out in columns, indented by two spaces, with the columns of `numbers` aligned to the right. `None` without
/// rows.
pub fn columns(heads: &[&str], numbers: &[&str], rows: impl Iterator<Item = Vec<String>>) -> Option<String> {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(heads);
    // Escaped here too, because an escape is wider than the character that it replaces.
    table.add_rows(rows.map(|row| row.iter().map(|cell| harmless(cell).into_owned()).collect::<Vec<_>>()));
    for (column, head) in table.column_iter_mut().zip(heads) {
        column.set_padding((2, 0));
        if numbers.contains(head) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    (!table.is_empty()).then(|| table.trim_fmt())
}

/// The head of a column, made from a field name such as `created_at`.
fn head(name: &str) -> String {
    name.trim_end_matches("_at").replace('_', " ").to_uppercase()
}

/// Formats how long ago a time was, in its largest unit.
pub fn ago(at: DateTime<Utc>, now: DateTime<Utc>) -> String {
    format!("{} ago", length((now - at).num_seconds()))
}

/// Formats how far ahead a time is, in its largest unit.
pub fn ahead(at: DateTime<Utc>, now: DateTime<Utc>) -> String {
    format!("in {}", length((at - now).num_seconds()))
}

fn length(seconds: i64) -> String {
    match seconds.max(0) {
        seconds @ 0..60 => format!("{seconds} s"),
        seconds @ 60..3600 => format!("{} min", seconds / 60),
        seconds @ 3600..86_400 => format!("{} h", seconds / 3600),
        seconds @ 86_400..172_800 => format!("{} day", seconds / 86_400),
        seconds => format!("{} days", seconds / 86_400),
    }
}

/// Formats a time in the time zone of `now`, with how long ago it was. The date is left out for a time of today.
pub fn when<Z: TimeZone<Offset: fmt::Display>>(at: DateTime<Utc>, now: &DateTime<Z>) -> String {
    let local = at.with_timezone(&now.timezone());
    let format = if local.date_naive() == now.date_naive() { "%H:%M:%S" } else { "%Y-%m-%d %H:%M" };
    format!("{} ({})", local.format(format), ago(at, now.to_utc()))
}

/// Prints one result. A table has a line for each field.
pub fn one<T: Serialize>(format: Format, result: &T) -> Result<(), CliFailure> {
    let value = serde_json::to_value(result).map_err(|e| CliFailure::other(e.to_string()))?;
    let text = match (format, &value) {
        (Format::Table, Value::Object(fields)) => {
            let width = fields.keys().map(String::len).max().unwrap_or(0);
            fields.iter().map(|(name, value)| format!("{name:width$}  {}", cell(value))).collect::<Vec<_>>().join("\n")
        }
        _ => value.to_string(),
    };
    line(&text)
}

/// Prints a line at once. A closed stdout (for example `head` has ended) ends the command quietly.
pub fn line(text: &str) -> Result<(), CliFailure> {
    let mut out = io::stdout().lock();
    let written = writeln!(out, "{}", harmless(text)).and_then(|()| out.flush());
    written.map_err(|error| CliFailure { message: format!("stdout: {error}"), code: i32::from(error.kind() != io::ErrorKind::BrokenPipe) })
}

/// Whether a person reads stderr.
pub fn is_terminal() -> bool {
    io::stderr().is_terminal()
}

/// Whether a person reads stdout, and types at stdin.
pub fn is_interactive() -> bool {
    io::stdout().is_terminal() && io::stdin().is_terminal()
}

/// Prints a line for people on stderr. A line that cannot be written is dropped.
pub fn talk(text: &str) {
    let _ = writeln!(io::stderr(), "{}", harmless(text));
}

/// Writes to stdout: unchanged for a program, escaped for a terminal.
///
/// # Errors
/// If stdout cannot be written.
pub fn bytes(bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if out.is_terminal() {
        out.write_all(harmless(&String::from_utf8_lossy(bytes)).as_bytes())?;
    } else {
        out.write_all(bytes)?;
    }
    out.flush()
}

/// Escapes characters that control a terminal or change the order of a line: control characters except line feeds,
/// direction marks, invisible marks. The escapes are those of JSON, so that a JSON line stays valid, with the same
/// value.
pub fn harmless(text: &str) -> Cow<'_, str> {
    if !text.contains(is_harmful) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_harmful(c) {
            c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| out.push_str(&format!("\\u{unit:04x}")));
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

fn is_harmful(c: char) -> bool {
    c.is_control() && c != '\n'
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
        || matches!(c, '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Puts JSON on one line. Bare line ends and tabs occur only between its tokens.
pub fn one_line(json: &str) -> String {
    json.replace(['\n', '\r', '\t'], " ")
}

/// A text on one line, without characters that control a terminal.
pub fn visible(text: &str) -> String {
    text.escape_debug().to_string().replace("\\'", "'").replace("\\\"", "\"")
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        // Seconds are precise enough for people.
        Value::String(text) if text.len() > 19 && DateTime::parse_from_rfc3339(text).is_ok() => {
            let at = DateTime::parse_from_rfc3339(text).unwrap_or_default().to_utc();
            at.format("%Y-%m-%d %H:%M:%SZ").to_string()
        }
        Value::String(text) => visible(text),
        Value::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_terminal_acts_on_is_escaped_and_json_keeps_its_value() {
        let evil = "\u{1b}[2J \u{9b}31m \u{202e}txt\u{2066} \u{85} \u{7f} \u{200f} \u{2028} \u{e0041} \r \u{feff}";
        let shown = harmless(evil);
        assert!(shown.chars().all(|c| !c.is_control() && !is_harmful(c)), "{shown:?}");
        let text = json!({ "data": evil, "name\u{202e}": "é 😀 \u{200d} ok" }).to_string();
        let shown = harmless(&text).into_owned();
        assert!(!shown.contains(is_harmful), "{shown:?}");
        assert_eq!(serde_json::from_str::<Value>(&shown).unwrap(), serde_json::from_str::<Value>(&text).unwrap());
        assert!(matches!(harmless("plain\nlines é 😀"), Cow::Borrowed(_)));
        assert_eq!(one_line("{\"a\":\r\n\t1}"), "{\"a\":   1}");
    }

    #[test]
    fn cells_are_for_people() {
        assert_eq!(cell(&json!("2026-11-28T22:47:44.123456789Z")), "2026-11-28 22:47:44Z");
        assert_eq!(
            (cell(&json!(null)), cell(&json!(true)), cell(&json!(["a", "b"])), head("created_at")),
            ("-".into(), "yes".into(), "a,b".into(), "CREATED".into())
        );
        let fields: OrderedFields = serde_json::from_str(r#"{"z":1,"a":2}"#).unwrap();
        assert_eq!(fields.0.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["z", "a"]);
        let now = DateTime::UNIX_EPOCH + chrono::TimeDelta::days(2);
        assert_eq!((ago(DateTime::UNIX_EPOCH, now), ago(now, now)), ("2 days ago".into(), "0 s ago".into()));
        let east = now.with_timezone(&chrono::FixedOffset::east_opt(7200).expect("two hours"));
        assert_eq!(when(now - chrono::TimeDelta::minutes(90), &east), "00:30:00 (1 h ago)");
        assert_eq!(when(now - chrono::TimeDelta::hours(30), &east), "1970-01-01 20:00 (1 day ago)");
        assert_eq!(ahead(now + chrono::TimeDelta::seconds(70), now), "in 1 min");
    }

    #[test]
    fn columns_are_aligned_and_hold_no_terminal_escapes() {
        let rows = [vec!["a\u{1b}[2J".to_owned(), "7".to_owned()], vec!["bb".to_owned(), "123".to_owned()]];
        let shown = columns(&["NAME", "N"], &["N"], rows.into_iter()).unwrap();
        assert_eq!(shown, "  NAME          N\n  a\\u001b[2J    7\n  bb          123", "\n{shown}");
        assert_eq!(columns(&["NAME"], &[], std::iter::empty()), None);
    }
}
