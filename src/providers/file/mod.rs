//! Parses and checks the provider file (TOML) and reports all errors at once.

mod part;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use toml::Value;

use super::provider::{Provider, Providers};
use super::template::Credentials;
use crate::toml_table::{Table, TableErrors, not_toml};

/// Most providers of one file.
const MOST: usize = 32;

/// All errors of the file, each with the path of its key and how to fix it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct FileError(pub Vec<String>);

/// Parses a provider file; `credentials` resolves `{env:NAME}`.
///
/// # Errors
/// All errors of the file.
pub fn parse(text: &str, credentials: Credentials<'_>) -> Result<Providers, FileError> {
    let values: toml::Table = toml::from_str(text).map_err(|error| FileError(vec![not_toml(text, &error)]))?;
    let errors = TableErrors::default();
    let root = Table::new("", values, &errors);
    let found = entries(&root).into_iter().enumerate().map(|(i, entry)| provider(i, entry, &errors, credentials)).collect::<Vec<_>>();
    root.finish();
    let found: Vec<Provider> = found.into_iter().flatten().collect();
    let errors = errors.into_inner().into_iter().chain(clashes(&found)).collect::<Vec<_>>();
    if errors.is_empty() { Ok(Providers::new(found)) } else { Err(FileError(errors)) }
}

fn entries(root: &Table<'_>) -> Vec<toml::Table> {
    let tables = |value: &Value| value.as_array()?.iter().map(|entry| entry.as_table().cloned()).collect::<Option<Vec<_>>>();
    let found = match root.value("provider") {
        None => None,
        Some(value) => match tables(value) {
            Some(found) => Some(found),
            None => {
                root.wrong("provider", "must be a list of tables: begin each provider with [[provider]]");
                return Vec::new();
            }
        },
    };
    let found = found.unwrap_or_default();
    match found.len() {
        0 => root.wrong("provider", "is missing; begin each provider with [[provider]]"),
        n if n > MOST => root.wrong("provider", format_args!("has {n} entries; at most {MOST} are allowed")),
        _ => {}
    }
    found
}

fn provider(index: usize, entry: toml::Table, errors: &TableErrors, credentials: Credentials<'_>) -> Option<Provider> {
    let label = entry.get("name").and_then(Value::as_str).filter(|name| crate::domain::ProviderName::parse(name).is_ok());
    let path = label.map_or_else(|| format!("provider[{}]", index + 1), |name| format!("provider.{name}"));
    let before = errors.borrow().len();
    let table = Table::new(path, entry, errors);
    let provider = part::provider(&table, credentials);
    table.finish();
    provider.filter(|_| errors.borrow().len() == before)
}

/// Reports names and command types that two providers share.
fn clashes(all: &[Provider]) -> Vec<String> {
    let mut errors = Vec::new();
    let mut names: BTreeMap<&str, usize> = BTreeMap::new();
    let mut types: BTreeMap<&str, &str> = BTreeMap::new();
    for provider in all {
        let name = provider.name.as_str();
        *names.entry(name).or_default() += 1;
        for kind in &provider.commands.types {
            if let Some(other) = types.insert(kind, name).filter(|other| *other != name) {
                errors.push(format!(
                    "provider.{name}.commands.types: {kind:?} is taken by the provider {other}; a command goes to one provider"
                ));
            }
        }
    }
    let twice = names.into_iter().filter(|(_, times)| *times > 1);
    errors.extend(twice.map(|(name, times)| format!("provider.{name}.name: {times} providers have this name; each needs its own")));
    errors
}
