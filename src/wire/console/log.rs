//! Reads the query of the log's rows, and encodes rows, notes and partitions.

use serde::Serialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::{each_once, number};
use crate::domain::{AccountId, LogId, Seq, UserId};
use crate::wire::history;
use crate::wire::problem::Problem;
use crate::wire::type_filter::{TYPES_RULE, TypeFilter};

/// Most rows of one answer.
const ROWS_MAX: i64 = 1000;
const ROWS_DEFAULT: i64 = 100;
/// Longest source, in bytes. Names of keys and of logins are shorter.
const SOURCE_MAX: usize = 200;

/// What an admin asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogQuery {
    /// Only higher numbers. `None`: the last rows.
    pub after: Option<Seq>,
    pub limit: i64,
    pub types: Option<TypeFilter>,
    pub user: Option<UserId>,
    pub account: Option<AccountId>,
    pub source: Option<String>,
    /// Go on with rows as they are committed.
    pub follow: bool,
}

impl LogQuery {
    /// Reads the query of `GET /api/admin/log`.
    ///
    /// # Errors
    /// 422 with every broken rule.
    pub fn parse(pairs: &[(String, String)]) -> Result<Self, Problem> {
        let mut query = Self { after: None, limit: ROWS_DEFAULT, types: None, user: None, account: None, source: None, follow: false };
        each_once(pairs, |name, value| query.take(name, value))?;
        Ok(query)
    }

    fn take(&mut self, name: &str, value: &str) -> Result<(), String> {
        match name {
            "after" => self.after = Some(history::seq(value).ok_or("must be a sequence number, zero or more")?),
            "limit" => self.limit = number(value, 1, ROWS_MAX)?,
            "type" => self.types = Some(TypeFilter::parse(value).ok_or(TYPES_RULE)?),
            "user" => self.user = Some(UserId::parse(value).map_err(|error| error.to_string())?),
            "account" => self.account = Some(AccountId::parse(value).map_err(|error| error.to_string())?),
            "source" if value.is_empty() || value.len() > SOURCE_MAX || value.contains('\0') => {
                return Err(format!("must have 1 to {SOURCE_MAX} bytes"));
            }
            "source" => self.source = Some(value.to_owned()),
            "follow" => {
                self.follow = match value {
                    "1" | "true" => true,
                    "0" | "false" => false,
                    _ => return Err("must be 1 or 0".into()),
                }
            }
            _ => return Err("is not a parameter; they are after, limit, type, user, account, source and follow".into()),
        }
        Ok(())
    }
}

/// One row of the log, with what clients are not told.
#[derive(Debug, Serialize)]
pub struct LogLine<'a> {
    pub seq: i64,
    pub id: Uuid,
    pub r#type: &'a str,
    pub title: &'a str,
    pub message: &'a str,
    /// As it was posted.
    pub data: Option<&'a RawValue>,
    pub created_at: String,
    pub user_ids: &'a [String],
    pub account_id: Option<&'a str>,
    pub broadcast: bool,
    pub source: &'a str,
    pub expires_at: Option<String>,
    pub replay: bool,
    /// Size of title, message and data.
    pub bytes: i32,
}

/// A line between rows.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LogNote {
    /// The reader was too slow for these numbers, or started below the rows that are kept.
    Skipped { from: Seq, to: Seq },
    /// Nothing else was sent for a while: the log ends here.
    Head(Seq),
    /// The last line of a page that does not reach the end of the log: the `after` of the next page.
    Next(Seq),
    /// The last line of a stream that was not ended by the reader: why it ends.
    End(LogEnd),
}

/// Why a stream ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LogEnd {
    /// The hub is stopping.
    Draining,
    /// The key or the token no longer counts.
    Unauthorized,
    /// The log was replaced: numbers belong to another one now.
    Reset,
    /// The database does not answer.
    Unavailable,
}

/// Appends a line.
pub fn push_line(out: &mut Vec<u8>, line: &impl Serialize) {
    // Plain structs of strings and numbers, and writing to a Vec cannot fail.
    serde_json::to_writer(&mut *out, line).expect("plain fields are always JSON");
    out.push(b'\n');
}

/// A partition of the log.
#[derive(Debug, Serialize)]
pub struct PartitionBody {
    pub name: String,
    /// First number, and the first number of the next partition.
    pub lo: i64,
    pub hi: i64,
    /// Rows that are kept.
    pub rows: i64,
    pub bytes: i64,
    /// When its first and its last row were appended.
    pub from: Option<String>,
    pub to: Option<String>,
    /// When retention by age drops it. `None`: not known, or never.
    pub drops_at: Option<String>,
}

/// The settings that decide what is kept. `None`: everything.
#[derive(Debug, Serialize)]
pub struct RetentionBody {
    pub retention_age_seconds: Option<u64>,
    pub retention_size_bytes: Option<u64>,
    pub retention_sessions_seconds: Option<u64>,
    pub retention_devices_seconds: Option<u64>,
    pub retention_upstream_seconds: Option<u64>,
    pub retention_audit_seconds: Option<u64>,
}

/// The answer of `GET /api/admin/log/partitions`.
#[derive(Debug, Serialize)]
pub struct PartitionsBody {
    pub log_id: LogId,
    pub floor: Seq,
    pub head: Seq,
    pub earliest: Seq,
    pub bytes: i64,
    pub partitions: Vec<PartitionBody>,
    pub settings: RetentionBody,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_of_the_log_is_strict() {
        let parse = |pairs: &[(&str, &str)]| {
            let pairs: Vec<_> = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            LogQuery::parse(&pairs).map_err(|problem| problem.errors.into_iter().map(|e| e.pointer).collect::<Vec<_>>())
        };
        let full = parse(&[("after", "0"), ("limit", "1000"), ("type", "order_*,x"), ("user", "ann"), ("source", "shop"), ("follow", "1")]);
        let full = full.unwrap();
        assert_eq!((full.after, full.limit, full.follow), (Some(Seq::ZERO), 1000, true));
        assert_eq!(parse(&[]).unwrap().limit, 100);
        let wrong = [("after", "x"), ("limit", "1001"), ("type", "A"), ("user", ""), ("account", "a b"), ("source", ""), ("follow", "yes")];
        let pointers: Vec<String> = wrong.iter().map(|(name, _)| format!("/{name}")).collect();
        assert_eq!(parse(&wrong).unwrap_err(), pointers);
        assert_eq!(parse(&[("before", "1"), ("limit", "1"), ("limit", "1")]).unwrap_err(), ["/before", "/limit"]);
    }

    #[test]
    fn lines_between_rows_have_one_field() {
        let mut out = Vec::new();
        push_line(&mut out, &LogNote::Skipped { from: Seq::from_db(3), to: Seq::from_db(9) });
        push_line(&mut out, &LogNote::Head(Seq::from_db(9)));
        push_line(&mut out, &LogNote::End(LogEnd::Draining));
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text, "{\"skipped\":{\"from\":3,\"to\":9}}\n{\"head\":9}\n{\"end\":\"draining\"}\n");
    }
}
