//! Tests sealing: what opens, what does not, what fits.

use super::*;
use crate::domain::BodyHash;

fn row(title: &str, audience: Audience) -> NewNotification {
    NewNotification {
        id: NotificationId::new(),
        kind: "order_created".to_owned(),
        title: title.to_owned(),
        message: "\"quoted\"\n\u{1F4E8}".to_owned(),
        data: Some("{\"n\": 1.50}".to_owned()),
        audience,
        ttl_seconds: None,
        replay: true,
        inbox: true,
        source: "shop".to_owned(),
        key: None,
        body_hash: BodyHash(0),
    }
}

fn user(id: &str) -> UserId {
    UserId::parse(id).unwrap()
}

fn account(id: &str) -> AccountId {
    AccountId::parse(id).unwrap()
}

fn seal_of(key: u8) -> RowSeal {
    let seal = RowSeal::new(&[key; 32], 8192).unwrap();
    seal.has_readers(true);
    seal
}

fn end(seq: i64) -> WatermarkEnd {
    WatermarkEnd { seq: Seq::from_db(seq), id: Some(NotificationId::new()) }
}

/// What the listener reads, if the database gave the rows these numbers.
fn heard(sealed: &str, first: i64, last: i64) -> SealedRows {
    SealedRows::parse(&format!("{sealed} {first} 1700000000123456"), Seq::from_db(last)).unwrap()
}

#[test]
fn rows_of_every_audience_come_as_they_were_appended() {
    let audiences = [
        Audience::Everyone,
        Audience::Account(account("7")),
        Audience::User { user: user("42"), account: None },
        Audience::User { user: user("42"), account: Some(account("7")) },
        Audience::Users { users: vec![user("42"), user("43")], account: None },
        Audience::Users { users: vec![user("42")], account: Some(account("7")) },
        Audience::no_user(),
    ];
    let rows: Vec<NewNotification> = audiences.into_iter().map(|audience| row("t", audience)).collect();
    let mut rows_and_one = rows;
    rows_and_one.push(NewNotification { data: None, ..row("", Audience::Everyone) });
    let trace = TraceContext::parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    let traces: Vec<_> = rows_and_one.iter().enumerate().map(|(at, _)| trace.filter(|_| at == 2)).collect();
    let (seal, log_id, after) = (seal_of(7), LogId::new(), end(40));
    let borrowed: Vec<&NewNotification> = rows_and_one.iter().collect();
    let sealed = seal.seal(log_id, after, &borrowed, &traces).unwrap();

    let opened = seal.open(log_id, &heard(&sealed, 41, 48)).unwrap();
    assert_eq!(opened.after, (after.seq, after.id.unwrap()));
    let created_at = DateTime::from_timestamp_micros(1_700_000_000_123_456).unwrap();
    for (at, (got, sent)) in opened.rows.iter().zip(rows_and_one).enumerate() {
        let wanted = sent.appended(Seq::from_db(41 + i64::try_from(at).unwrap()), created_at, traces[at]);
        assert_eq!(format!("{got:?}"), format!("{wanted:?}"));
    }
    assert_eq!(opened.rows.len(), 8);
}

#[test]
fn rows_open_only_with_the_key_for_the_log_at_their_numbers_and_unchanged() {
    let (seal, log_id) = (seal_of(7), LogId::new());
    let one = row("secret title", Audience::Everyone);
    let sealed = seal.seal(log_id, end(40), &[&one], &[]).unwrap();
    assert!(!sealed.contains("secret") && sealed != seal.seal(log_id, end(40), &[&one], &[]).unwrap());
    assert!(seal.open(log_id, &heard(&sealed, 41, 41)).is_some());
    assert!(seal_of(8).open(log_id, &heard(&sealed, 41, 41)).is_none(), "another key");
    assert!(seal.open(LogId::new(), &heard(&sealed, 41, 41)).is_none(), "another log");
    for (first, last) in [(42, 42), (41, 42), (40, 41), (40, 40)] {
        assert!(seal.open(log_id, &heard(&sealed, first, last)).is_none(), "{first} to {last}");
    }
    let bytes = STANDARD_NO_PAD.decode(&sealed).unwrap();
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        assert!(seal.open(log_id, &heard(&STANDARD_NO_PAD.encode(changed), 41, 41)).is_none(), "byte {at}");
        assert!(seal.open(log_id, &heard(&STANDARD_NO_PAD.encode(&bytes[..at]), 41, 41)).is_none(), "length {at}");
    }
}

#[test]
fn rows_of_a_hub_that_does_not_tell_which_are_items_are_read_from_the_table() {
    let (seal, log_id, after) = (seal_of(7), LogId::new(), end(40));
    let posted = [row("item", Audience::Everyone), NewNotification { inbox: false, ..row("no item", Audience::Everyone) }];
    let sealed = |no_items: Option<Vec<usize>>| {
        let rows = posted.iter().map(|row| PlainRow::of(row, None)).collect();
        let plain = PlainRows { after: after.seq.get(), after_id: after.id.unwrap().0, rows, no_items };
        let mut plain = serde_json::to_value(&plain).unwrap();
        plain.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        STANDARD_NO_PAD.encode(sealing::seal(&seal.key, &bound_to(log_id), serde_json::to_vec(&plain).unwrap()).unwrap())
    };
    let opened = seal.open(log_id, &heard(&sealed(Some(vec![1])), 41, 42)).unwrap();
    assert_eq!(opened.rows.iter().map(|row| row.is_item).collect::<Vec<_>>(), [true, false]);
    assert!(seal.open(log_id, &heard(&sealed(None), 41, 42)).is_none());
}

#[test]
fn what_no_hub_reads_or_does_not_fit_is_not_sealed() {
    let (seal, log_id) = (seal_of(7), LogId::new());
    let of_size = |size: usize| row(&"x".repeat(size), Audience::Everyone);
    let sealed = |seal: &RowSeal, rows: &[&NewNotification]| seal.seal(log_id, end(1), rows, &[]);
    let largest = (0..8000).rev().find_map(|size| sealed(&seal, &[&of_size(size)])).unwrap();
    let other_words = format!("{} {} {} {}", i64::MAX, Uuid::max(), i64::MAX, i64::MAX);
    assert!(largest.len() + 1 + other_words.len() < 8000, "PostgreSQL refuses a payload of 8000 bytes: {}", largest.len());
    assert!(largest.len() > 7800);
    let small = of_size(10);
    assert!(sealed(&seal, &[&small; 30]).is_some());
    assert!(sealed(&seal, &[&small; 60]).is_none());
    assert!(seal.seal(log_id, WatermarkEnd { id: None, ..end(1) }, &[&small], &[]).is_none(), "the row before is not known");
    seal.has_readers(false);
    assert!(sealed(&seal, &[&small]).is_none());
    let little_room = RowSeal::new(&[7; 32], 256).unwrap();
    little_room.has_readers(true);
    assert!(sealed(&little_room, &[&small]).is_none());
    assert!(RowSeal::new(&[7; 16], 8192).is_none());
}

#[test]
fn other_words_are_no_sealed_rows() {
    for text in ["", "abc", "abc 1", "abc x 5", "abc 5 x", "abc 9 1", "abc 5 1 1", "abc -1 1", "abc 5 9223372036854775807"] {
        assert_eq!(SealedRows::parse(text, Seq::from_db(7)), None, "{text:?}");
    }
    assert!(SealedRows::parse("abc 5 1", Seq::from_db(7)).is_some());
    assert!(seal_of(7).open(LogId::new(), &heard("not-base64!", 5, 7)).is_none());
}
