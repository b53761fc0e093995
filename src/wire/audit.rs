//! Reads the query of `GET /api/admin/audit`, and encodes its answer.

use serde_json::{Value, json};

use super::problem::{FieldError, Problem};
use super::server_frame::timestamp;
use crate::domain::StartTime;
use crate::domain::audit::{AuditFilter, AuditRow, Pattern};

/// Most rows of one page.
pub const PAGE_MAX: i64 = 1000;
const PAGE_DEFAULT: i64 = 100;
const PATTERN_RULE: &str = "must be a text, or the beginning of texts and a *, such as key.*";

/// The query of a page.
#[derive(Debug, PartialEq, Eq)]
pub struct AuditQuery {
    pub filter: AuditFilter,
    pub limit: i64,
}

impl AuditQuery {
    /// # Errors
    /// 422 with every broken rule.
    pub fn parse(pairs: &[(String, String)]) -> Result<Self, Problem> {
        let (mut filter, mut limit, mut errors) = (AuditFilter::default(), PAGE_DEFAULT, Vec::new());
        let mut seen: Vec<&str> = Vec::new();
        for (name, value) in pairs {
            if seen.contains(&name.as_str()) {
                errors.push(FieldError::new(format!("/{name}"), "duplicate parameter"));
                continue;
            }
            seen.push(name);
            let broken = match name.as_str() {
                "since" => set(&mut filter.since, StartTime::parse(value), "must be a duration such as 7d, or a time of RFC 3339"),
                "who" => set(&mut filter.who, Pattern::parse(value), PATTERN_RULE),
                "what" => set(&mut filter.what, Pattern::parse(value), PATTERN_RULE),
                "before" => set(&mut filter.before, value.parse().ok().filter(|id| *id > 0), "must be a number from 1 up"),
                "limit" => match value.parse().ok().filter(|limit| (1..=PAGE_MAX).contains(limit)) {
                    Some(number) => {
                        limit = number;
                        None
                    }
                    None => Some(format!("must be a number from 1 to {PAGE_MAX}")),
                },
                _ => {
                    errors.push(FieldError::new("", "the parameters are since, who, what, before and limit"));
                    None
                }
            };
            errors.extend(broken.map(|rule| FieldError::new(format!("/{name}"), rule)));
        }
        if errors.is_empty() {
            return Ok(Self { filter, limit });
        }
        Err(Problem::new(422, "invalid_field", "the query breaks the rules listed in errors").with_errors(errors))
    }
}

/// Stores a value that was read. Returns the rule that a missing one breaks.
fn set<T>(place: &mut Option<T>, value: Option<T>, rule: &str) -> Option<String> {
    *place = value;
    place.is_none().then(|| rule.to_owned())
}

/// Encodes a page. `next`: the `before` of the following page.
pub fn body(rows: &[AuditRow], next: Option<i64>) -> Value {
    let shown = |row: &AuditRow| {
        json!({
            "audit_id": row.audit_id, "at": timestamp(row.at), "who": row.who, "login": row.login, "via": row.via, "address": row.address,
            "what": row.what, "object": row.object, "user_id": row.user_id, "outcome": row.outcome, "reason": row.reason,
            "count": row.count, "details": row.details, "link": row.link,
        })
    };
    json!({ "acts": rows.iter().map(shown).collect::<Vec<_>>(), "next": next })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_of_a_page_is_strict() {
        let parse = |pairs: &[(&str, &str)]| {
            let pairs: Vec<_> = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            AuditQuery::parse(&pairs).map_err(|problem| problem.errors.into_iter().map(|e| e.pointer).collect::<Vec<_>>())
        };
        assert_eq!(parse(&[]).unwrap(), AuditQuery { filter: AuditFilter::default(), limit: 100 });
        let full = parse(&[("since", "7d"), ("who", "os:*"), ("what", "key.create"), ("before", "9"), ("limit", "5")]).unwrap();
        assert_eq!((full.filter.before, full.limit), (Some(9), 5));
        assert_eq!(parse(&[("since", "soon"), ("what", "*.x"), ("before", "0"), ("limit", "0"), ("x", "")]).unwrap_err().len(), 5);
        assert_eq!(parse(&[("limit", "1"), ("limit", "2")]).unwrap_err(), ["/limit"]);
    }
}
