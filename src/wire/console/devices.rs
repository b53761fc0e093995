//! Reads the query of the list of devices, and encodes its rows.

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;
use serde::ser::{SerializeTuple, Serializer};

use super::{each_once, number};
use crate::domain::device_lag::{DeviceFilter, DeviceSort, DeviceState, ListedDevice};
use crate::domain::{AccountId, ClientId, Seq, UserId};
use crate::wire::problem::Problem;

/// Most rows of one answer: of each, the newest session is read.
pub const ROWS_MAX: i64 = 1000;
const ROWS_DEFAULT: i64 = 200;
const STATE_RULE: &str = "must be connected, away or forgotten";
const SORT_RULE: &str = "must be lag, seen_at or user, with - before it for descending";

/// The names of the values of a row.
const COLUMNS: [&str; 13] = [
    "user_id",
    "client_id",
    "state",
    "acked",
    "lag",
    "unacked",
    "unacked_more",
    "seen_at",
    "connected_at",
    "ended_at",
    "end_reason",
    "types",
    "why",
];

/// What an admin asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DevicesQuery {
    pub filter: DeviceFilter,
    pub sort: DeviceSort,
    pub limit: i64,
}

impl DevicesQuery {
    /// Reads the query of `GET /api/admin/devices`.
    ///
    /// # Errors
    /// 422 with every broken rule.
    pub fn parse(pairs: &[(String, String)]) -> Result<Self, Problem> {
        let mut query = Self { filter: DeviceFilter::default(), sort: DeviceSort::default(), limit: ROWS_DEFAULT };
        each_once(pairs, |name, value| {
            let filter = &mut query.filter;
            match name {
                "user" => filter.user = Some(UserId::parse(value).map_err(|error| error.to_string())?),
                "account" => filter.account = Some(AccountId::parse(value).map_err(|error| error.to_string())?),
                "client" => filter.client = Some(ClientId::parse(value).map_err(|error| error.to_string())?),
                "state" => filter.state = Some(DeviceState::parse(value).ok_or(STATE_RULE)?),
                "min_lag" => filter.min_lag = Some(number(value, 0, i64::MAX)?),
                "sort" => query.sort = DeviceSort::parse(value).ok_or(SORT_RULE)?,
                "limit" => query.limit = number(value, 1, ROWS_MAX)?,
                _ => return Err("is not a parameter; they are user, account, client, state, min_lag, sort and limit".into()),
            }
            Ok(())
        })?;
        Ok(query)
    }
}

/// The answer of `GET /api/admin/devices`.
#[derive(Debug, Serialize)]
pub struct DevicesBody<'a> {
    pub as_of: String,
    pub head: Seq,
    /// Others meet the conditions, too.
    pub more: bool,
    columns: [&'static str; COLUMNS.len()],
    rows: Vec<DeviceRow<'a>>,
}

impl<'a> DevicesBody<'a> {
    pub fn new(as_of: String, head: Seq, now: DateTime<Utc>, devices: &'a [ListedDevice], more: bool) -> Self {
        let rows = devices.iter().map(|device| DeviceRow { device, head, why: why(device, head, now) }).collect();
        Self { as_of, head, more, columns: COLUMNS, rows }
    }
}

/// One device. Encoded as a list of the values that [`COLUMNS`] names.
#[derive(Debug)]
struct DeviceRow<'a> {
    device: &'a ListedDevice,
    head: Seq,
    why: String,
}

impl Serialize for DeviceRow<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let ListedDevice { user, client, state, acked, seen_at, session, unacked, .. } = self.device;
        let ms = |at: DateTime<Utc>| at.timestamp_millis();
        let (ended_at, end_reason) = session.as_ref().and_then(|session| session.end.as_ref()).map(|(at, why)| (*at, why)).unzip();
        let mut row = serializer.serialize_tuple(COLUMNS.len())?;
        row.serialize_element(user)?;
        row.serialize_element(client)?;
        row.serialize_element(state.as_str())?;
        row.serialize_element(acked)?;
        row.serialize_element(&self.head.since(*acked))?;
        row.serialize_element(&unacked.map(|unacked| unacked.count))?;
        row.serialize_element(&unacked.map(|unacked| unacked.more))?;
        row.serialize_element(&seen_at.map(ms))?;
        row.serialize_element(&session.as_ref().map(|session| ms(session.connected_at)))?;
        row.serialize_element(&ended_at.map(ms))?;
        row.serialize_element(&end_reason)?;
        row.serialize_element(&session.as_ref().and_then(|session| session.types.as_deref()))?;
        row.serialize_element(&self.why)?;
        row.end()
    }
}

/// Says why a device lags.
pub fn why(device: &ListedDevice, head: Seq, now: DateTime<Utc>) -> String {
    let age = |at: DateTime<Utc>| span(now - at);
    let is_open = device.state == DeviceState::Connected;
    let lag = head.since(device.acked);
    let mut said = vec![match (&device.state, &device.session) {
        (DeviceState::Forgotten, _) => forgotten(device),
        (DeviceState::Connected, Some(session)) => format!("connected for {}", age(session.connected_at)),
        (DeviceState::Connected, None) => "connected".to_owned(),
        (DeviceState::Away, Some(session)) => match &session.end {
            Some((at, reason)) => format!("away for {}: the last session ended with {}", age(*at), ending(reason)),
            None => "away".to_owned(),
        },
        (DeviceState::Away, None) => {
            let seen = device.seen_at.map_or_else(String::new, |at| format!(" for about {}", age(at)));
            format!("away{seen}: its last session is no longer known")
        }
    }];
    if lag == 0 {
        said.push("it has acknowledged everything".to_owned());
    } else if device.unacked.is_some_and(|unacked| unacked.count == 0 && !unacked.more) {
        said.push("nothing waits for it: the lag counts notifications that are not for it".to_owned());
    } else if is_open && let Some(session) = &device.session {
        let since = device.acked_at.map_or(session.connected_at, |at| at.max(session.connected_at));
        said.push(format!("it has not acknowledged for {}", age(since)));
    }
    if lag > 0
        && let Some(types) = device.session.as_ref().and_then(|session| session.types.as_ref())
    {
        said.push(format!("it asked for types {types} only, and the lag counts all types"));
    }
    if !is_open && let Some(reason) = &device.revoked {
        let reason = if reason.is_empty() { String::new() } else { format!(" ({reason})") };
        said.push(format!("access of the user is revoked{reason}"));
    }
    said.join("; ")
}

/// A length of time in its two largest units.
fn span(span: TimeDelta) -> String {
    let (minutes, hours) = (span.num_minutes(), span.num_hours());
    match span.num_seconds() {
        seconds @ ..60 => format!("{} s", seconds.max(0)),
        seconds @ 60..3600 => format!("{minutes} min {} s", seconds % 60),
        3600..86_400 => format!("{hours} h {} min", minutes % 60),
        _ => format!("{} d {} h", hours / 24, hours % 24),
    }
}

fn forgotten(device: &ListedDevice) -> String {
    let devices = match device.forgotten {
        Some(1) => "1 device".to_owned(),
        Some(devices) => format!("{devices} devices"),
        None => "more than 1,000 devices".to_owned(),
    };
    format!("{devices} not seen for too long, or too many: one that returns is told gap after {}", device.acked)
}

/// The reason of a session's end, with its meaning where the word does not say it.
fn ending(reason: &str) -> String {
    let meaning = match reason {
        "no_pong" => "the client answered no ping",
        "slow_consumer" => "the client took nothing for too long, 4001",
        "closed_by_client" => "the client closed it",
        "lost" => "the connection broke",
        "instance_lost" => "the hub was killed or cut off",
        "draining" => "the hub stopped or drained",
        "session_replaced" => "a newer connection took its place",
        "closed_by_admin" => "the client does not come back by itself",
        _ => return reason.to_owned(),
    };
    format!("{reason} ({meaning})")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::device_lag::{LastSession, Unacked};

    const NOW: DateTime<Utc> = DateTime::UNIX_EPOCH;

    fn ago(seconds: i64) -> DateTime<Utc> {
        NOW - TimeDelta::seconds(seconds)
    }

    fn device(state: DeviceState, session: Option<LastSession>) -> ListedDevice {
        ListedDevice {
            user: "ann".to_owned(),
            client: Some("web".to_owned()),
            state,
            acked: Seq::from_db(7),
            acked_at: Some(ago(42)),
            seen_at: Some(ago(30)),
            forgotten: None,
            session,
            revoked: None,
            unacked: Some(Unacked { count: 3, more: false }),
        }
    }

    fn session(end: Option<(DateTime<Utc>, String)>) -> Option<LastSession> {
        Some(LastSession { accounts: Vec::new(), types: None, connected_at: ago(7200), end })
    }

    #[test]
    fn the_query_is_strict_and_the_slowest_come_first_without_one() {
        let parse = |query: &[(&str, &str)]| {
            let pairs: Vec<(String, String)> = query.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            DevicesQuery::parse(&pairs).map_err(|problem| problem.errors.into_iter().map(|e| e.pointer).collect::<Vec<_>>())
        };
        let plain = parse(&[]).unwrap();
        assert_eq!((plain.sort.as_str(), plain.limit, plain.filter), ("-lag", 200, DeviceFilter::default()));
        let full = parse(&[("user", ".."), ("state", "away"), ("min_lag", "5"), ("sort", "seen_at"), ("limit", "1000")]).unwrap();
        assert_eq!((full.filter.state, full.filter.min_lag, full.sort.as_str()), (Some(DeviceState::Away), Some(5), "seen_at"));
        let wrong =
            [("user", "-"), ("account", ""), ("client", "a|b"), ("state", "here"), ("min_lag", "-1"), ("sort", "acked"), ("limit", "1001")];
        assert_eq!(parse(&wrong).unwrap_err(), wrong.map(|(name, _)| format!("/{name}")));
        assert_eq!(parse(&[("page", "2"), ("user", "a"), ("user", "b")]).unwrap_err(), ["/page", "/user"]);
    }

    #[test]
    fn the_reason_of_a_lag_is_said_in_words() {
        let said = |device: &ListedDevice| why(device, Seq::from_db(10), NOW);
        let open = device(DeviceState::Connected, session(None));
        assert_eq!(said(&open), "connected for 2 h 0 min; it has not acknowledged for 42 s");
        let idle = ListedDevice { unacked: Some(Unacked { count: 0, more: false }), ..open.clone() };
        assert_eq!(said(&idle), "connected for 2 h 0 min; nothing waits for it: the lag counts notifications that are not for it");
        let done = ListedDevice { acked: Seq::from_db(10), ..open.clone() };
        assert_eq!(said(&done), "connected for 2 h 0 min; it has acknowledged everything");
        let mut choosy = open;
        choosy.session.as_mut().unwrap().types = Some("order_*".to_owned());
        assert!(said(&choosy).ends_with("; it asked for types order_* only, and the lag counts all types"), "{}", said(&choosy));
        let away = device(DeviceState::Away, session(Some((ago(61), "no_pong".to_owned()))));
        assert_eq!(said(&away), "away for 1 min 1 s: the last session ended with no_pong (the client answered no ping)");
        let revoked = ListedDevice { revoked: Some("left".to_owned()), ..device(DeviceState::Away, None) };
        assert_eq!(said(&revoked), "away for about 30 s: its last session is no longer known; access of the user is revoked (left)");
        let gone = ListedDevice { client: None, forgotten: Some(2), unacked: None, ..device(DeviceState::Forgotten, None) };
        assert_eq!(said(&gone), "2 devices not seen for too long, or too many: one that returns is told gap after 7");
    }

    #[test]
    fn a_row_has_its_columns() {
        let devices = [device(DeviceState::Away, session(Some((ago(61), "lost".to_owned())))), device(DeviceState::Away, None)];
        let body = DevicesBody::new("t".to_owned(), Seq::from_db(10), NOW, &devices, true);
        let answer = serde_json::to_value(&body).unwrap();
        let [ended, unknown] = [0, 1].map(|at| answer["rows"][at].as_array().unwrap().clone());
        assert_eq!((ended.len(), unknown.len()), (COLUMNS.len(), COLUMNS.len()));
        assert_eq!(ended[..8], serde_json::json!(["ann", "web", "away", 7, 3, 3, false, -30_000]).as_array().unwrap()[..]);
        assert_eq!(ended[8..12], serde_json::json!([-7_200_000, -61_000, "lost", null]).as_array().unwrap()[..]);
        assert_eq!(unknown[8..12], serde_json::json!([null, null, null, null]).as_array().unwrap()[..]);
    }
}
