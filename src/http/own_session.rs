//! Describes a connection of this instance as the database describes those of others.

use crate::delivery::Connection;
use crate::domain::InstanceId;
use crate::store::sessions::StoredSession;

/// The session of a connection, as of now.
pub fn own_session(connection: &Connection, instance: InstanceId) -> StoredSession {
    StoredSession {
        session: connection.session.0,
        instance: instance.0,
        user: connection.who.user.to_string(),
        accounts: connection.accounts().iter().map(ToString::to_string).collect(),
        client: connection.client.to_string(),
        transport: connection.transport.to_owned(),
        sent: connection.delivered(),
        acked: connection.acked(),
        connected_at: connection.connected_at,
        last_activity_at: connection.connected_at + connection.last_activity(),
        is_playground: connection.origin().is_playground,
    }
}
