//! Encodes a stored row of the log for services and admins.

use serde_json::value::RawValue;

use crate::store::console::log::LogRow;
use crate::wire::console::log::LogLine;
use crate::wire::console::users::optional_time;
use crate::wire::server_frame::timestamp;

/// The row with everything that is stored, also what clients are not told.
pub fn log_line(row: &LogRow) -> LogLine<'_> {
    LogLine {
        seq: row.seq,
        id: row.id,
        r#type: &row.kind,
        title: &row.title,
        message: &row.message,
        // A column of JSON: the database has checked it.
        data: row.data.as_deref().and_then(|data| serde_json::from_str::<&RawValue>(data).ok()),
        created_at: timestamp(row.created_at),
        user_ids: &row.user_ids,
        account_id: row.account_id.as_deref(),
        broadcast: row.broadcast,
        source: &row.source,
        expires_at: optional_time(row.expires_at),
        replay: row.replay,
        bytes: row.bytes,
    }
}
