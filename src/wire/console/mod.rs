//! Defines queries, bodies and answers of the console's routes.

pub mod analysts;
pub mod devices;
pub mod instances;
pub mod keys;
pub mod log;
pub mod sessions;
pub mod settings;
pub mod sign_in;
pub mod tokens;
pub mod upstream;
pub mod users;

use super::history::{refuse, wrong};
use super::problem::Problem;

const BROKEN: &str = "the query breaks the rules listed in errors";

/// Reads a query in which each parameter may occur once. `take` says which rule a value breaks.
fn each_once(pairs: &[(String, String)], mut take: impl FnMut(&str, &str) -> Result<(), String>) -> Result<(), Problem> {
    let mut errors = Vec::new();
    for (at, (name, value)) in pairs.iter().enumerate() {
        let is_again = pairs.iter().take(at).any(|(other, _)| other == name);
        let taken = if is_again { Err("duplicate parameter".to_owned()) } else { take(name, value) };
        if let Err(detail) = taken {
            errors.push(wrong(name, &detail));
        }
    }
    refuse(errors, BROKEN)
}

/// Reads a whole number within limits.
fn number(value: &str, least: i64, most: i64) -> Result<i64, String> {
    let is_plain = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
    let number = if is_plain { value.parse().ok() } else { None };
    let limits = if most == i64::MAX { format!("{least} up") } else { format!("{least} to {most}") };
    number.filter(|number| (least..=most).contains(number)).ok_or_else(|| format!("must be a whole number from {limits}"))
}
