//! Reads a TOML table key by key and collects all errors under the key's path.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::time::Duration;

use toml::Value;

use crate::config::parse_duration;
use crate::spelling;

/// The errors so far, each with the path of its key and how to fix it.
pub type TableErrors = RefCell<Vec<String>>;

/// A table of the file. Dropping it is not enough: [`Table::finish`] reports unknown keys.
pub struct Table<'a> {
    pub path: String,
    values: toml::Table,
    asked: RefCell<BTreeSet<&'static str>>,
    pub errors: &'a TableErrors,
}

impl<'a> Table<'a> {
    pub fn new(path: impl Into<String>, values: toml::Table, errors: &'a TableErrors) -> Self {
        Self { path: path.into(), values, asked: RefCell::default(), errors }
    }

    pub fn wrong(&self, key: &str, what: impl std::fmt::Display) {
        let path = if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) };
        self.errors.borrow_mut().push(format!("{path}: {what}"));
    }

    pub fn value(&self, key: &'static str) -> Option<&Value> {
        self.asked.borrow_mut().insert(key);
        self.values.get(key)
    }

    /// Reads a value of one type; reports a value of another type with the expected one.
    fn read<T>(&self, key: &'static str, expected: &str, read: impl FnOnce(&Value) -> Option<T>) -> Option<T> {
        let value = self.value(key)?;
        let found = read(value);
        if found.is_none() {
            self.wrong(key, format_args!("must be {expected}; it is {}", kind(value)));
        }
        found
    }

    pub fn text(&self, key: &'static str) -> Option<String> {
        self.read(key, "a string in quotes", |value| value.as_str().map(str::to_owned))
    }

    pub fn needed(&self, key: &'static str, what: &str) -> Option<String> {
        if self.value(key).is_none() {
            self.wrong(key, format_args!("is missing; give {what}"));
        }
        self.text(key)
    }

    pub fn switch(&self, key: &'static str) -> bool {
        self.read(key, "true or false", Value::as_bool).unwrap_or(false)
    }

    pub fn choice<T: Copy>(&self, key: &'static str, choices: &[(&str, T)]) -> T {
        let Some(text) = self.text(key) else { return choices[0].1 };
        match choices.iter().find(|(word, _)| *word == text) {
            Some((_, value)) => *value,
            None => {
                let words: Vec<_> = choices.iter().map(|(word, _)| *word).collect();
                self.wrong(key, format_args!("is {text:?}; it must be one of {}", words.join(", ")));
                choices[0].1
            }
        }
    }

    pub fn number(&self, key: &'static str, default: i64, least: i64, most: i64) -> i64 {
        let Some(number) = self.read(key, "a whole number", Value::as_integer) else { return default };
        if !(least..=most).contains(&number) {
            self.wrong(key, format_args!("is {number}; it must be from {least} to {most}"));
            return default;
        }
        number
    }

    /// A time such as `"30s"`, or a number of seconds.
    pub fn duration(&self, key: &'static str, default: Duration, least: Duration, most: Duration) -> Duration {
        let written = self.read(key, "a time such as \"500ms\", \"30s\" or \"10m\"", |value| match value {
            Value::String(text) => Some(text.clone()),
            Value::Integer(seconds) => Some(seconds.to_string()),
            _ => None,
        });
        let Some(text) = written else { return default };
        match parse_duration(&text) {
            Some(duration) if (least..=most).contains(&duration) => duration,
            _ => {
                self.wrong(
                    key,
                    format_args!("is {text:?}; it must be a time such as \"500ms\", \"30s\" or \"10m\", from {least:?} to {most:?}"),
                );
                default
            }
        }
    }

    pub fn texts(&self, key: &'static str) -> Vec<String> {
        let all = |value: &Value| value.as_array()?.iter().map(|item| item.as_str().map(str::to_owned)).collect();
        self.read(key, "a list of strings such as [\"one\", \"two\"]", all).unwrap_or_default()
    }

    pub fn numbers(&self, key: &'static str, default: &[u16], least: u16, most: u16) -> Vec<u16> {
        let all = |value: &Value| value.as_array()?.iter().map(Value::as_integer).collect::<Option<Vec<i64>>>();
        let Some(numbers) = self.read(key, "a list of whole numbers such as [401, 403]", all) else { return default.to_vec() };
        let fits = |number: &i64| u16::try_from(*number).ok().filter(|number| (least..=most).contains(number));
        for number in numbers.iter().filter(|number| fits(number).is_none()) {
            self.wrong(key, format_args!("contains {number}; each must be from {least} to {most}"));
        }
        numbers.iter().filter_map(fits).collect()
    }

    /// A table within this one; empty if there is none.
    pub fn table(&self, key: &'static str) -> Table<'a> {
        let values = self.read(key, "a table", |value| value.as_table().cloned()).unwrap_or_default();
        Table::new(format!("{}.{key}", self.path), values, self.errors)
    }

    pub fn has(&self, key: &'static str) -> bool {
        self.value(key).is_some()
    }

    /// The keys and values of a table whose keys the file chooses.
    pub fn into_values(self) -> toml::Table {
        self.values
    }

    /// Reports keys that were never read: they are typing errors, which would otherwise be silent.
    pub fn finish(self) {
        let asked = self.asked.borrow();
        for key in self.values.keys().filter(|key| !asked.contains(key.as_str())) {
            match spelling::nearest(key, asked.iter().copied()) {
                Some(near) => self.wrong(key, format_args!("unknown key; did you mean {near}?")),
                None => self
                    .wrong(key, format_args!("unknown key; the known keys are {}", asked.iter().copied().collect::<Vec<_>>().join(", "))),
            }
        }
    }
}

/// Reports where the file stops being TOML. The library's own message shows the line, which may contain a credential.
pub fn not_toml(text: &str, error: &toml::de::Error) -> String {
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    format!("line {line}: this is not TOML: {}", error.message().lines().next().unwrap_or_default())
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "a string",
        Value::Integer(_) => "a whole number",
        Value::Float(_) => "a number with a fraction",
        Value::Boolean(_) => "true or false",
        Value::Datetime(_) => "a date",
        Value::Array(_) => "a list",
        Value::Table(_) => "a table",
    }
}
