//! Fuzzes the parsers of queries and of `traceparent`.

use super::{head, refused};
use recado::delivery::ResumeFrom;
use recado::domain::{Principal, TokenOrigin, TraceContext, UserId};
use recado::http::fuzz_entry;
use recado::wire::history::{AckBody, HistoryQuery, LIMIT_MAX, PageOrder};

/// The query of a stream in the first line, its `Last-Event-ID` in the second.
pub fn stream_query(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let (query, header) = head(text);
    let header = Some(header).filter(|header| !header.is_empty());
    let Some(read) = fuzz_entry::wish(query, header) else { return };
    let wish = match read {
        Ok(wish) => wish,
        Err(problem) => return refused(&problem, &[(400, "bad_query")]),
    };
    let who = || Principal { user: UserId::parse("42").expect("a user id"), accounts: Vec::new() };
    let (ack_mode, message_layout, names_last) = (wish.ack_mode, wish.message_layout, wish.names_last);
    let opening = wish.of(who(), TokenOrigin::default(), "sse");
    assert!(!names_last || matches!(opening.since, ResumeFrom::Seq(_)));
    if let Some(header) = header {
        // Of several positions the highest counts.
        let header: Option<i64> = header.parse().ok();
        assert!(matches!(opening.since, ResumeFrom::Seq(seq) if header.is_some_and(|header| seq.get() >= header)));
    }
    let since = match opening.since {
        ResumeFrom::Ack => "ack".to_owned(),
        ResumeFrom::Live => "live".to_owned(),
        ResumeFrom::Earliest => "earliest".to_owned(),
        ResumeFrom::Seq(seq) => seq.to_string(),
        ResumeFrom::Time(time) => time.to_string(),
    };
    let mut written = format!("since={since}&client_id={}&ack={}", opening.client, format!("{ack_mode:?}").to_lowercase());
    opening.log_id.iter().for_each(|id| written.push_str(&format!("&log_id={id}")));
    opening.last_id.iter().for_each(|id| written.push_str(&format!("&last_id={id}")));
    opening.types.iter().for_each(|types| written.push_str(&format!("&types={types}")));
    if format!("{message_layout:?}") == "Lines" {
        written.push_str("&frames=lines");
    }
    let again = fuzz_entry::wish(&written, None).expect("a query").expect("one that was taken before");
    assert_eq!((again.ack_mode, again.message_layout), (ack_mode, message_layout));
    assert_eq!(format!("{:?}", again.of(who(), TokenOrigin::default(), "sse")), format!("{opening:?}"));
}

pub fn history_query(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let Some(pairs) = fuzz_entry::pairs(text) else { return };
    let query = match HistoryQuery::parse(&pairs) {
        Ok(query) => query,
        Err(problem) => return refused(&problem, &[(422, "invalid_field")]),
    };
    assert!((1..=LIMIT_MAX).contains(&query.limit));
    let pair = |name: &str, value: String| (name.to_owned(), value);
    let order = if query.order == PageOrder::Rising { "asc" } else { "desc" };
    let mut written = vec![pair("follow", u8::from(query.follow).to_string())];
    if !query.follow {
        written.extend([pair("limit", query.limit.to_string()), pair("order", order.to_owned())]);
    }
    written.extend(query.after.map(|after| pair("after", after.to_string())));
    written.extend(query.since.map(|since| pair("since", since.to_string())));
    written.extend(query.kind.clone().map(|kind| pair("type", kind)));
    written.extend(query.types.as_ref().map(|types| pair("types", types.to_string())));
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

/// The header `traceparent`.
pub fn trace_parent(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let Some(context) = TraceContext::parse(text) else { return };
    assert!(context.trace_id != 0 && context.span_id != 0, "{context:?}");
    let written = context.to_string();
    assert_eq!(TraceContext::parse(&written), Some(context));
    assert_eq!(written[3..52], text[3..52], "the ids are kept as they came");
}
