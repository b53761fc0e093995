//! What clients ask for: places in queries and headers, pages of the history, acknowledgements.

use super::{head, refused};
use crate::delivery::Since;
use crate::domain::{Principal, UserId};
use crate::http::door;
use crate::wire::history::{AckBody, HistoryQuery, LIMIT_MAX, Order};

/// A stream's query in the first line, its `Last-Event-ID` in the second.
pub fn stream_query(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let (query, header) = head(text);
    let header = Some(header).filter(|header| !header.is_empty());
    let Some(read) = door::wish(query, header) else { return };
    let (wish, last) = match read {
        Ok(read) => read,
        Err(problem) => return refused(&problem, &[(400, "bad_query")]),
    };
    let who = || Principal { user: UserId::parse("42").expect("a user id"), accounts: Vec::new() };
    let ack_mode = wish.ack_mode;
    let opening = wish.of(who(), "sse");
    assert!(last.is_none_or(|last| opening.since == Since::Seq(last)));
    if let Some(header) = header {
        // The newer word wins, whatever the address says.
        assert_eq!(last.map(|last| last.get()), header.parse().ok());
        assert_eq!(opening.last_id, None);
    }
    let since = match opening.since {
        Since::Ack => "ack".to_owned(),
        Since::Live => "live".to_owned(),
        Since::Earliest => "earliest".to_owned(),
        Since::Seq(seq) => seq.to_string(),
    };
    let mut written = format!("since={since}&client_id={}&ack={}", opening.client, format!("{ack_mode:?}").to_lowercase());
    opening.log_id.iter().for_each(|id| written.push_str(&format!("&log_id={id}")));
    opening.last_id.iter().for_each(|id| written.push_str(&format!("&last_id={id}")));
    let (again, _) = door::wish(&written, None).expect("a query").expect("one that was taken before");
    assert_eq!(again.ack_mode, ack_mode);
    assert_eq!(format!("{:?}", again.of(who(), "sse")), format!("{opening:?}"));
}

pub fn history_query(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let Some(pairs) = door::pairs(text) else { return };
    let query = match HistoryQuery::parse(&pairs) {
        Ok(query) => query,
        Err(problem) => return refused(&problem, &[(422, "invalid_field")]),
    };
    assert!((1..=LIMIT_MAX).contains(&query.limit));
    let pair = |name: &str, value: String| (name.to_owned(), value);
    let order = if query.order == Order::Rising { "asc" } else { "desc" };
    let mut written = vec![pair("follow", u8::from(query.follow).to_string())];
    if !query.follow {
        written.extend([pair("limit", query.limit.to_string()), pair("order", order.to_owned())]);
    }
    written.extend(query.after.map(|after| pair("after", after.to_string())));
    written.extend(query.kind.clone().map(|kind| pair("type", kind)));
    written.extend(query.log_id.map(|log_id| pair("log_id", log_id.to_string())));
    assert_eq!(HistoryQuery::parse(&written), Ok(query));
}

pub fn ack_body(input: &[u8]) {
    match AckBody::parse(input) {
        Ok(body) => {
            let again = AckBody::parse(format!("{{\"client_id\":\"{}\",\"seq\":{}}}", body.client, body.seq).as_bytes());
            let again = again.expect("one that was taken before");
            assert_eq!((again.client, again.seq), (body.client, body.seq));
        }
        Err(problem) => refused(&problem, &[(400, "malformed_json"), (422, "invalid_field")]),
    }
}
