//! Tests what a new connection knows of the others of its device.

use super::*;
use crate::delivery::pending_sessions::PendingSessions;
use crate::domain::{ClientId, Principal, UserId};

/// Its position, the beginning of the log, counted as one of the device, so the next connection began there.
#[test]
fn a_connection_that_never_began_has_no_position_before_its_end_is_stored() {
    let who = Principal { user: UserId::parse("ann").unwrap(), accounts: Vec::new() };
    let mut connection = Connection::new(who, ClientId::default_device(), "test");
    connection.is_kept = true;
    let kept = KeptPosition {
        session: connection.session,
        began: 100,
        seen: 100,
        over: None,
        left: None,
        is_final: false,
        from: Seq::from_db(7),
        acked: None,
        device: Some(Seq::from_db(7)),
        began_shared: false,
        shared: None,
        has_resumed: false,
        lowered: 0,
    };
    let (sessions, log_id) = (PendingSessions::default(), LogId::new());
    sessions.ended(&connection, log_id, "lost");
    let ended = with_end(kept.clone(), &sessions.ended_fact(connection.session).unwrap()).unwrap();
    assert!(ended.over.is_some() && ended.acked.is_some());
    sessions.never_began(&connection, log_id);
    assert_eq!(with_end(kept, &sessions.ended_fact(connection.session).unwrap()), None);
}
