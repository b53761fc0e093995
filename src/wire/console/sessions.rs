//! Reads the query of the list of sessions, and encodes its rows straight into bytes.

use std::borrow::Cow;
use std::cmp::Ordering;

use serde::ser::{SerializeSeq, SerializeTuple, Serializer};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{each_once, number};
use crate::domain::{AccountId, ClientId, Seq, SessionFilter, Transport, UserId};
use crate::wire::history::wrong;
use crate::wire::problem::{FieldError, Problem};

/// Most rows of one answer.
pub const ROWS_MAX: i64 = 10_000;
const ROWS_DEFAULT: i64 = 1000;
const UUID_RULE: &str = "must be a UUID";
const TRANSPORT_RULE: &str = "must be websocket, sse or ndjson";
const SORT_RULE: &str = "must be lag, user, connected_at, last_activity_at, sent or acked, with - before it for descending";

/// The names of the values of a row.
const COLUMNS: [&str; 13] = [
    "session_id",
    "user_id",
    "account_ids",
    "client_id",
    "instance",
    "transport",
    "connected_at",
    "last_activity_at",
    "sent",
    "acked",
    "upstream",
    "types",
    "playground",
];

/// What an admin asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionsQuery {
    pub filter: SessionFilter,
    pub sort: SessionSort,
    pub limit: usize,
}

impl SessionsQuery {
    /// Reads the query of `GET /api/admin/sessions`.
    ///
    /// # Errors
    /// 422 with every broken rule.
    pub fn parse(pairs: &[(String, String)]) -> Result<Self, Problem> {
        let (mut filter, mut sort, mut limit) = (SessionFilter::default(), SessionSort::default(), ROWS_DEFAULT);
        each_once(pairs, |name, value| {
            match name {
                "sort" => sort = SessionSort::parse(value).ok_or(SORT_RULE)?,
                "limit" => limit = number(value, 1, ROWS_MAX)?,
                "min_lag" => filter.min_lag = Some(number(value, 0, i64::MAX)?),
                "user" | "account" | "client" | "instance" | "transport" => condition(&mut filter, name, value)?,
                _ => return Err("is not a parameter; they are user, account, client, instance, transport, min_lag, sort and limit".into()),
            }
            Ok(())
        })?;
        Ok(Self { filter, sort, limit: usize::try_from(limit).unwrap_or(usize::MAX) })
    }
}

/// Sets a condition whose value is a text.
fn condition(filter: &mut SessionFilter, name: &str, value: &str) -> Result<(), String> {
    match name {
        "user" => filter.user = Some(UserId::parse(value).map_err(|error| error.to_string())?),
        "account" => filter.account = Some(AccountId::parse(value).map_err(|error| error.to_string())?),
        "client" => filter.client = Some(ClientId::parse(value).map_err(|error| error.to_string())?),
        "instance" => filter.instance = Some(Uuid::parse_str(value).map_err(|_| UUID_RULE)?),
        _ => filter.transport = Some(Transport::parse(value).ok_or(TRANSPORT_RULE)?),
    }
    Ok(())
}

/// The conditions of a body that closes sessions.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FilterFields {
    user: Option<String>,
    account: Option<String>,
    client: Option<String>,
    instance: Option<String>,
    transport: Option<String>,
    min_lag: Option<i64>,
}

impl FilterFields {
    /// Checks the conditions. There must be at least one: without any, all sessions would match.
    ///
    /// # Errors
    /// Every broken rule.
    pub fn read(self) -> Result<SessionFilter, Vec<FieldError>> {
        let (mut filter, mut errors) = (SessionFilter::default(), Vec::new());
        let texts = [
            ("user", self.user),
            ("account", self.account),
            ("client", self.client),
            ("instance", self.instance),
            ("transport", self.transport),
        ];
        for (name, value) in texts {
            if let Some(Err(detail)) = value.map(|value| condition(&mut filter, name, &value)) {
                errors.push(FieldError::new(format!("/filter/{name}"), detail));
            }
        }
        match self.min_lag {
            // Every session has a lag of zero or more.
            Some(lag) if lag < 1 => errors.push(FieldError::new("/filter/min_lag", "must be a whole number from 1 up")),
            lag => filter.min_lag = lag,
        }
        if errors.is_empty() && filter.is_empty() {
            let mut error = wrong("filter", "must have a condition: user, account, client, instance, transport or min_lag");
            error.detail.push_str("; without one it would close every session");
            errors.push(error);
        }
        if errors.is_empty() { Ok(filter) } else { Err(errors) }
    }
}

/// The order of the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionSort {
    by: SortKey,
    falling: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SortKey {
    Lag,
    User,
    ConnectedAt,
    LastActivityAt,
    Sent,
    Acked,
}

/// The slowest first.
impl Default for SessionSort {
    fn default() -> Self {
        Self { by: SortKey::Lag, falling: true }
    }
}

impl SessionSort {
    fn parse(text: &str) -> Option<Self> {
        let (name, falling) = text.strip_prefix('-').map_or((text, false), |name| (name, true));
        let by = match name {
            "lag" => SortKey::Lag,
            "user" => SortKey::User,
            "connected_at" => SortKey::ConnectedAt,
            "last_activity_at" => SortKey::LastActivityAt,
            "sent" => SortKey::Sent,
            "acked" => SortKey::Acked,
            _ => return None,
        };
        Some(Self { by, falling })
    }

    /// Sorts the rows and keeps the first ones. Rows that are equal are in the order of their ids, so that two answers
    /// show them alike.
    pub fn first(self, rows: &mut Vec<SessionRow<'_>>, limit: usize) {
        if limit == 0 {
            rows.clear();
        } else if limit < rows.len() {
            rows.select_nth_unstable_by(limit - 1, |a, b| self.compare(a, b));
            rows.truncate(limit);
        }
        rows.sort_unstable_by(|a, b| self.compare(a, b));
    }

    fn compare(self, a: &SessionRow<'_>, b: &SessionRow<'_>) -> Ordering {
        let order = match self.by {
            // The head is the same for all.
            SortKey::Lag => b.acked.cmp(&a.acked),
            SortKey::User => a.user.cmp(b.user),
            SortKey::ConnectedAt => a.connected_at.cmp(&b.connected_at),
            SortKey::LastActivityAt => a.last_activity_at.cmp(&b.last_activity_at),
            SortKey::Sent => a.sent.cmp(&b.sent),
            SortKey::Acked => a.acked.cmp(&b.acked),
        };
        let order = if self.falling { order.reverse() } else { order };
        order.then_with(|| a.session.cmp(&b.session))
    }
}

/// The accounts of a session, as its source has them.
#[derive(Debug)]
pub enum Accounts<'a> {
    Ids(&'a [AccountId]),
    Read(Vec<AccountId>),
    /// Separated by commas.
    Joined(&'a str),
}

impl Accounts<'_> {
    /// Whether the account is among them.
    pub fn has(&self, account: &AccountId) -> bool {
        match self {
            Self::Ids(ids) => ids.contains(account),
            Self::Read(ids) => ids.contains(account),
            Self::Joined(texts) => texts.split(',').any(|text| text == account.as_str()),
        }
    }
}

impl Serialize for Accounts<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Ids(ids) => ids.serialize(serializer),
            Self::Read(ids) => ids.serialize(serializer),
            Self::Joined(texts) => {
                let mut list = serializer.serialize_seq(None)?;
                for text in texts.split(',').filter(|text| !text.is_empty()) {
                    list.serialize_element(text)?;
                }
                list.end()
            }
        }
    }
}

/// One session. Encoded as a list of the values that [`COLUMNS`] names.
#[derive(Debug)]
pub struct SessionRow<'a> {
    pub session: Uuid,
    pub user: &'a str,
    pub accounts: Accounts<'a>,
    pub client: &'a str,
    /// A place in the list of instances.
    pub instance: usize,
    pub transport: &'a str,
    /// Milliseconds since 1970.
    pub connected_at: i64,
    pub last_activity_at: i64,
    pub sent: Seq,
    pub acked: Seq,
    pub upstream: bool,
    /// The types that the client asked for; `None` for all.
    pub types: Option<Cow<'a, str>>,
    /// A token of the session was made for the playground of the console.
    pub playground: bool,
}

impl Serialize for SessionRow<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut row = serializer.serialize_tuple(COLUMNS.len())?;
        row.serialize_element(&self.session)?;
        row.serialize_element(self.user)?;
        row.serialize_element(&self.accounts)?;
        row.serialize_element(self.client)?;
        row.serialize_element(&self.instance)?;
        row.serialize_element(self.transport)?;
        row.serialize_element(&self.connected_at)?;
        row.serialize_element(&self.last_activity_at)?;
        row.serialize_element(&self.sent)?;
        row.serialize_element(&self.acked)?;
        row.serialize_element(&self.upstream)?;
        row.serialize_element(&self.types)?;
        row.serialize_element(&self.playground)?;
        row.end()
    }
}

/// The counts and names around the rows.
#[derive(Debug, Serialize)]
pub struct SessionsHead {
    pub as_of: String,
    pub head: Seq,
    /// Open sessions of all instances.
    pub total: usize,
    /// Those that meet the conditions.
    pub matching: usize,
    pub instances: Vec<Uuid>,
}

/// Bytes of a row, about. A buffer that is large enough is not copied while it is written.
const ROW_BYTES: usize = 192;

/// Encodes the answer.
pub fn body(head: &SessionsHead, rows: &[SessionRow<'_>]) -> Vec<u8> {
    #[derive(Serialize)]
    struct SessionsBody<'a> {
        #[serde(flatten)]
        head: &'a SessionsHead,
        columns: [&'static str; COLUMNS.len()],
        rows: &'a [SessionRow<'a>],
    }
    let mut out = Vec::with_capacity(512 + rows.len() * ROW_BYTES);
    // Plain structs of strings and numbers, and writing to a Vec cannot fail.
    serde_json::to_writer(&mut out, &SessionsBody { head, columns: COLUMNS, rows }).expect("plain fields are always JSON");
    // Answers in JSON end with a line feed. Added later, it would cost a copy of the answer.
    out.push(b'\n');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(session: u128, user: &str, acked: i64) -> SessionRow<'_> {
        SessionRow {
            session: Uuid::from_u128(session),
            user,
            accounts: Accounts::Joined(""),
            client: "web",
            instance: 0,
            transport: "sse",
            connected_at: 5,
            last_activity_at: 6,
            sent: Seq::from_db(9),
            acked: Seq::from_db(acked),
            upstream: false,
            types: None,
            playground: false,
        }
    }

    fn parse(query: &[(&str, &str)]) -> Result<SessionsQuery, Vec<String>> {
        let pairs: Vec<(String, String)> = query.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        SessionsQuery::parse(&pairs).map_err(|problem| problem.errors.into_iter().map(|e| e.pointer).collect())
    }

    #[test]
    fn the_query_is_strict_and_the_slowest_come_first_without_one() {
        let plain = parse(&[]).unwrap();
        assert_eq!((plain.sort, plain.limit), (SessionSort { by: SortKey::Lag, falling: true }, 1000));
        assert!(plain.filter.is_empty());
        let full = parse(&[("user", "ann"), ("sort", "user"), ("limit", "10000"), ("min_lag", "0"), ("transport", "ndjson")]).unwrap();
        assert_eq!((full.filter.min_lag, full.filter.transport, full.limit), (Some(0), Some(Transport::Ndjson), 10_000));
        let wrong = [
            ("user", "a b"),
            ("account", ""),
            ("client", "a|b"),
            ("instance", "1"),
            ("transport", "smoke"),
            ("min_lag", "-1"),
            ("sort", "size"),
            ("limit", "0"),
            ("page", "2"),
        ];
        let pointers: Vec<String> = wrong.iter().map(|(name, _)| format!("/{name}")).collect();
        assert_eq!(parse(&wrong).unwrap_err(), pointers);
        assert_eq!(parse(&[("limit", "10001"), ("limit", "1")]).unwrap_err(), ["/limit", "/limit"]);
    }

    #[test]
    fn the_first_rows_are_the_same_whatever_the_limit() {
        let rows = || vec![row(3, "b", 1), row(1, "c", 5), row(2, "a", 5), row(4, "d", 9)];
        let order = |sort: &str, limit| {
            let mut rows = rows();
            SessionSort::parse(sort).unwrap().first(&mut rows, limit);
            rows.iter().map(|row| row.session.as_u128()).collect::<Vec<_>>()
        };
        for (sort, sorted) in
            [("-lag", [3, 1, 2, 4]), ("lag", [4, 1, 2, 3]), ("acked", [3, 1, 2, 4]), ("user", [2, 3, 1, 4]), ("-sent", [1, 2, 3, 4])]
        {
            for limit in 0..=5 {
                assert_eq!(order(sort, limit), sorted[..limit.min(4)], "{sort} {limit}");
            }
        }
        assert_eq!(SessionSort::parse("--lag"), None);
    }

    #[test]
    fn a_row_has_its_columns() {
        let ids = [AccountId::parse("7").unwrap()];
        let rows = [SessionRow { accounts: Accounts::Ids(&ids), types: Some("order_*".into()), ..row(1, "ann", 7) }, row(2, "bob", 8)];
        let head = SessionsHead { as_of: "t".into(), head: Seq::from_db(9), total: 5, matching: 2, instances: vec![Uuid::nil()] };
        let answer: serde_json::Value = serde_json::from_slice(&body(&head, &rows)).unwrap();
        assert_eq!(answer["columns"].as_array().unwrap().len(), answer["rows"][0].as_array().unwrap().len());
        let first = serde_json::json!([Uuid::from_u128(1), "ann", ["7"], "web", 0, "sse", 5, 6, 9, 7, false, "order_*", false]);
        assert_eq!((&answer["rows"][0], &answer["rows"][1][2]), (&first, &serde_json::json!([])));
        assert!(Accounts::Joined("a,7").has(&ids[0]) && !Accounts::Joined("77").has(&ids[0]));
    }
}
