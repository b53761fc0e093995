//! Defines the queries, bodies and answers about one user.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{each_once, number};
use crate::domain::why::{WhyAnswer, WhyFacts};
use crate::domain::{ClientId, InboxFacts, Notification, Seq, UserId};
use crate::wire::history::{self, wrong};
use crate::wire::problem::{Problem, read_body};
use crate::wire::server_frame::{notification_record, timestamp};
use crate::wire::why::verdict_word;

/// Most notifications of one page: each costs several looks into the database.
const PAGE_MAX: i64 = 100;
const PAGE_DEFAULT: i64 = 50;
/// Up to here, unacknowledged notifications are counted.
pub const UNACKED_MAX: usize = 1000;

/// A device in an answer.
#[derive(Debug, Serialize)]
pub struct DeviceBody {
    pub client_id: String,
    pub acked: Seq,
    pub lag: i64,
    /// Notifications above the position that the device would be sent, at most [`UNACKED_MAX`].
    pub unacked: usize,
    /// There are more.
    pub unacked_more: bool,
    pub seen_at: String,
    pub connected: bool,
    /// Why it lags, in words.
    pub why: String,
}

/// An open session in an answer.
#[derive(Debug, Serialize)]
pub struct UserSessionBody {
    pub session_id: String,
    pub user_id: String,
    pub account_ids: Vec<String>,
    pub client_id: String,
    pub instance: String,
    pub transport: String,
    pub connected_at: String,
    pub last_activity_at: String,
    pub sent: Seq,
    pub acked: Seq,
    pub upstream: bool,
    pub playground: bool,
}

/// What is left of devices whose positions were deleted.
#[derive(Debug, Serialize)]
pub struct ForgottenBody {
    /// The lowest position that one of them had.
    pub from_seq: Seq,
    /// `None`: more than the hub remembers one by one.
    pub devices: Option<i32>,
}

/// The answer of `GET /api/admin/users/{id}`. `P` is a provider session.
#[derive(Debug, Serialize)]
pub struct UserBody<P> {
    pub user_id: UserId,
    pub as_of: String,
    pub head: Seq,
    pub devices: Vec<DeviceBody>,
    pub forgotten: Option<ForgottenBody>,
    pub sessions: Vec<UserSessionBody>,
    pub upstream: Vec<P>,
    pub members_of: Vec<String>,
    /// `None`: the user has never opened an inbox.
    pub inbox: Option<InboxFacts>,
    pub revoked_before: Option<String>,
    pub revoked_reason: Option<String>,
}

/// Formats a time that may be missing.
pub fn optional_time(at: Option<DateTime<Utc>>) -> Option<String> {
    at.map(timestamp)
}

/// The query of a user's notifications.
#[derive(Debug, PartialEq, Eq)]
pub struct UserPageQuery {
    /// Only lower numbers.
    pub before: Option<Seq>,
    pub limit: i64,
}

impl UserPageQuery {
    /// # Errors
    /// 422 with every broken rule.
    pub fn parse(pairs: &[(String, String)]) -> Result<Self, Problem> {
        let mut query = Self { before: None, limit: PAGE_DEFAULT };
        each_once(pairs, |name, value| {
            match name {
                "before" => query.before = Some(history::seq(value).filter(|seq| *seq > Seq::ZERO).ok_or("must be a number from 1 up")?),
                "limit" => query.limit = number(value, 1, PAGE_MAX)?,
                _ => return Err("is not a parameter; they are before and limit".to_owned()),
            }
            Ok(())
        })?;
        Ok(query)
    }
}

/// A notification, and what is known of it by number.
#[derive(Debug)]
pub struct JudgedNotification {
    pub notification: Notification,
    pub facts: WhyFacts,
}

/// Encodes a page. `next`: the `before` of the following page. The records are inserted as they are, so that `data`
/// stays byte for byte as it was posted.
pub fn notifications(page: &[JudgedNotification], next: Option<Seq>) -> String {
    let records: Vec<String> = page.iter().map(judged).collect();
    let next = next.map_or_else(|| "null".to_owned(), |next| next.to_string());
    format!("{{\"notifications\":[{}],\"next\":{next}}}", records.join(","))
}

fn judged(JudgedNotification { notification, facts }: &JudgedNotification) -> String {
    #[derive(Serialize)]
    struct DeviceVerdictBody<'a> {
        client_id: &'a str,
        verdict: &'static str,
    }
    let why = facts.why();
    let devices = match &why {
        WhyAnswer::Addressed(devices) => devices.as_slice(),
        _ => &[],
    };
    let devices: Vec<DeviceVerdictBody<'_>> =
        devices.iter().map(|device| DeviceVerdictBody { client_id: &device.client, verdict: verdict_word(device.verdict) }).collect();
    // Plain structs of texts.
    let devices = serde_json::to_string(&devices).expect("texts are always JSON");
    let record = notification_record(notification);
    format!("{},\"devices\":{devices}}}", record.strip_suffix('}').unwrap_or(&record))
}

/// The body of `POST /api/admin/users/{id}/ack`.
#[derive(Debug, PartialEq, Eq)]
pub struct DeviceAckBody {
    pub client: ClientId,
    pub seq: Seq,
}

impl DeviceAckBody {
    /// Reads `{"client_id":"…","seq":N}`.
    ///
    /// # Errors
    /// 400 for malformed JSON, 422 for any other body.
    pub fn parse(body: &[u8]) -> Result<Self, Problem> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Fields {
            client_id: String,
            seq: i64,
        }
        let fields: Fields = read_body(body, r#"the body is {"client_id":"…","seq":N} and nothing else, with N a whole number"#)?;
        match (ClientId::parse(&fields.client_id), Seq::new(fields.seq)) {
            (Ok(client), Some(seq)) => Ok(Self { client, seq }),
            (client, seq) => {
                let client = client.err().map(|error| wrong("client_id", &error.to_string()));
                let seq = seq.is_none().then(|| wrong("seq", "must be zero or more"));
                Err(Problem::new(422, "invalid_field", "the body breaks the rules listed in errors")
                    .with_errors(client.into_iter().chain(seq).collect()))
            }
        }
    }
}

/// The answer to a position that was set.
#[derive(Debug, Serialize)]
pub struct DeviceAckedBody {
    pub success: bool,
    /// The position after that.
    pub acked: Seq,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_of_a_users_page_is_strict() {
        let parse = |pairs: &[(&str, &str)]| {
            let pairs: Vec<_> = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            UserPageQuery::parse(&pairs).map_err(|problem| problem.errors.into_iter().map(|e| e.pointer).collect::<Vec<_>>())
        };
        assert_eq!(parse(&[]), Ok(UserPageQuery { before: None, limit: 50 }));
        assert_eq!(parse(&[("before", "9"), ("limit", "100")]), Ok(UserPageQuery { before: Some(Seq::from_db(9)), limit: 100 }));
        assert_eq!(parse(&[("before", "0"), ("limit", "101"), ("x", "")]).unwrap_err(), ["/before", "/limit", "/x"]);
    }

    #[test]
    fn a_position_names_a_device_and_a_number() {
        let read = |text: &str| DeviceAckBody::parse(text.as_bytes());
        assert_eq!(read(r#"{"client_id":"web","seq":7}"#).unwrap().seq, Seq::from_db(7));
        for (text, status) in [("", 400), ("{}", 422), (r#"{"seq":7}"#, 422), (r#"{"client_id":"web","seq":"7"}"#, 422)] {
            assert_eq!(read(text).unwrap_err().status, status, "{text}");
        }
        let all = read(r#"{"client_id":"a b","seq":-1}"#).unwrap_err();
        assert_eq!(all.errors.iter().map(|e| e.pointer.as_str()).collect::<Vec<_>>(), ["/client_id", "/seq"]);
    }
}
