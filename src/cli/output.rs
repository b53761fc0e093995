//! One way to print results: for people as a table, for programs as JSON.

use std::io::{self, Write};

use clap::ValueEnum;
use comfy_table::{Table, presets};
use serde::Serialize;
use serde_json::Value;

use super::error::Failure;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    Table,
    /// One JSON value
    Json,
    /// One JSON value a line
    Ndjson,
}

/// Prints rows. A table has a column a field, in the order of the first row.
pub fn rows<T: Serialize>(format: Format, rows: &[T]) -> Result<(), Failure> {
    let values: Vec<Value> = rows.iter().map(serde_json::to_value).collect::<Result<_, _>>().map_err(|e| Failure::other(e.to_string()))?;
    match format {
        Format::Json => line(&Value::Array(values).to_string()),
        Format::Ndjson => values.iter().try_for_each(|value| line(&value.to_string())),
        Format::Table => line(&table(&values)),
    }
}

/// Prints one result. A table has a line a field.
pub fn one<T: Serialize>(format: Format, result: &T) -> Result<(), Failure> {
    let value = serde_json::to_value(result).map_err(|e| Failure::other(e.to_string()))?;
    let text = match (format, &value) {
        (Format::Table, Value::Object(fields)) => {
            let width = fields.keys().map(String::len).max().unwrap_or(0);
            fields.iter().map(|(name, value)| format!("{name:width$}  {}", cell(value))).collect::<Vec<_>>().join("\n")
        }
        _ => value.to_string(),
    };
    line(&text)
}

/// Prints a line, at once. A reader that has gone away (such as `head`) ends the command quietly.
pub fn line(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    let written = writeln!(out, "{text}").and_then(|()| out.flush());
    written.map_err(|error| Failure { message: format!("stdout: {error}"), code: i32::from(error.kind() != io::ErrorKind::BrokenPipe) })
}

fn table(rows: &[Value]) -> String {
    let Some(Value::Object(first)) = rows.first() else { return "none".to_owned() };
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(first.keys());
    for row in rows {
        table.add_row(first.keys().map(|name| cell(&row[name])));
    }
    table.trim_fmt()
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.escape_debug().to_string().replace("\\'", "'").replace("\\\"", "\""),
        Value::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}
