//! Lists devices, those that lag most first, with what is known of why they lag.
//!
//! No index has the order of the list: it would have to be written with each acknowledgement. So a list of all users
//! reads `recado.cursor` once from its beginning to its end and keeps the first rows. The caller limits how often
//! (`http::scan_turns`). What is read after that is read for the rows of the answer only.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use crate::domain::device_lag::{DeviceFilter, DeviceSort, DeviceState, LastSession, ListedDevice, Unacked};
use crate::domain::{AccountId, ClientId, LogId, Seq, UserId};
use crate::store::StoreError;
use crate::store::database::Reader;
use crate::store::read::{self, LogState};
use crate::store::time_limit::{ASK_LIMIT, limited};

/// Longest time for the walk through all positions: some ten million devices.
const SCAN_LIMIT: std::time::Duration = std::time::Duration::from_secs(9);
/// The settings of the transaction. A plan for the given conditions alone uses the index of the user, if there is one.
/// One process and no compilation, so that a list costs the server one processor at most. The server itself stops a
/// statement that this side no longer waits for.
pub(super) const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
    SET LOCAL plan_cache_mode = force_custom_plan; SET LOCAL jit = off; SET LOCAL max_parallel_workers_per_gather = 0;
    SET LOCAL work_mem = '32MB'; SET LOCAL statement_timeout = '10s'";
/// The newest sessions of a user, among which the last one of a device is searched.
const SESSIONS_OF_USER: i64 = 200;
/// Sessions that ended lately, by which a user's accounts are known.
const ENDED_LATELY: i64 = 100_000;
/// Devices of an answer whose unacknowledged notifications are counted.
const COUNTED: usize = 200;
/// Up to here they are counted.
pub const UNACKED_MAX: usize = 100;

/// The devices that meet the conditions, as many as were asked for.
#[derive(Debug)]
pub struct DeviceList {
    pub log: LogState,
    /// On the clock of the database, as are all times of the devices.
    pub now: DateTime<Utc>,
    pub devices: Vec<ListedDevice>,
    /// Others meet the conditions, too.
    pub more: bool,
}

/// Lists devices, at most `most`.
///
/// # Errors
/// When the database is unavailable or slow.
pub async fn list(reader: &Reader, filter: &DeviceFilter, sort: DeviceSort, most: i64) -> Result<DeviceList, StoreError> {
    let mut checkout = reader.checkout().await?;
    let connection = checkout.connection();
    limited(ASK_LIMIT, sqlx::raw_sql(BEGIN).execute(&mut *connection)).await?;
    let log = read::state(connection).await?;
    let mut devices = match filter.state {
        Some(DeviceState::Forgotten) => marks(connection, filter, &log, sort, most + 1).await?,
        _ => positions(connection, filter, &log, sort, most + 1).await?,
    };
    let wanted = usize::try_from(most).unwrap_or(usize::MAX);
    let more = devices.len() > wanted;
    devices.truncate(wanted);
    let now = describe(connection, &mut devices).await?;
    count_unacked(connection, &mut devices, &log, reader.reads_members()).await?;
    limited(ASK_LIMIT, sqlx::raw_sql("COMMIT").execute(connection)).await?;
    checkout.done();
    Ok(DeviceList { log, now, devices, more })
}

/// The devices of a user with a stored position, without a count of what they have not acknowledged. Returns the time
/// as well.
pub(super) async fn of_user(
    connection: &mut PgConnection,
    user: &UserId,
    log: &LogState,
    most: i64,
) -> Result<(Vec<ListedDevice>, DateTime<Utc>), StoreError> {
    let filter = DeviceFilter { user: Some(user.clone()), ..DeviceFilter::default() };
    let by_user = DeviceSort::parse("user").unwrap_or_default();
    let mut devices = positions(connection, &filter, log, by_user, most).await?;
    let now = describe(connection, &mut devices).await?;
    Ok((devices, now))
}

/// The lowest position that a lag allows, or none.
fn acked_at_most(filter: &DeviceFilter, log: &LogState) -> Option<i64> {
    filter.min_lag.map(|lag| log.head.get().saturating_sub(lag))
}

/// Reads stored positions. An empty condition falls away when the statement is planned, and so do the orders that were
/// not asked for.
async fn positions(
    connection: &mut PgConnection,
    filter: &DeviceFilter,
    log: &LogState,
    sort: DeviceSort,
    most: i64,
) -> Result<Vec<ListedDevice>, StoreError> {
    let LogId(log_id) = log.log_id;
    let rows = sqlx::query!(
        r#"SELECT d.user_id, d.client_id, d.acked AS "acked!", d.acked_at, d.seen_at AS "seen_at!"
             FROM (SELECT c.user_id, c.client_id, CASE WHEN c.log_id = $1 THEN c.acked_seq ELSE 0 END AS acked, c.acked_at,
                          greatest(c.seen_at, c.acked_at) AS seen_at
                     FROM recado.cursor c
                    WHERE ($2::text IS NULL OR c.user_id = $2)
                      AND ($3::text IS NULL OR c.client_id = $3)
                      AND ($4::text IS NULL OR c.user_id IN (
                           SELECT m.user_id FROM recado.member m WHERE m.account_id = $4 AND m.until_seq IS NULL
                            UNION ALL
                           SELECT s.user_id FROM recado.session s WHERE s.ended_at IS NULL AND s.account_ids @> ARRAY[$4]
                            UNION ALL
                           SELECT e.user_id
                             FROM (SELECT s.user_id, s.account_ids
                                     FROM recado.session s
                                    WHERE s.ended_at IS NOT NULL
                                    ORDER BY s.ended_at DESC
                                    LIMIT $9) e
                            WHERE e.account_ids @> ARRAY[$4]))
                      AND ($5::boolean IS NULL OR $5 = EXISTS (
                           SELECT FROM recado.session s
                            WHERE s.user_id = c.user_id AND s.client_id = c.client_id AND s.ended_at IS NULL))) d
            WHERE ($6::bigint IS NULL OR d.acked <= $6)
            ORDER BY CASE $7::text WHEN '-lag' THEN d.acked END, CASE $7 WHEN 'lag' THEN d.acked END DESC,
                     CASE $7 WHEN 'seen_at' THEN d.seen_at END, CASE $7 WHEN '-seen_at' THEN d.seen_at END DESC,
                     CASE $7 WHEN '-user' THEN d.user_id END DESC, d.user_id, d.client_id
            LIMIT $8"#,
        log_id,
        filter.user.as_ref().map(UserId::as_str),
        filter.client.as_ref().map(ClientId::as_str),
        filter.account.as_ref().map(AccountId::as_str),
        filter.state.map(|state| state == DeviceState::Connected),
        acked_at_most(filter, log),
        sort.as_str(),
        most,
        ENDED_LATELY,
    )
    .fetch_all(connection);
    let rows = limited(SCAN_LIMIT, rows).await?;
    let device = |user, client, acked, acked_at, seen_at| ListedDevice {
        user,
        client: Some(client),
        state: DeviceState::Away,
        acked: Seq::from_db(acked),
        acked_at: Some(acked_at),
        seen_at: Some(seen_at),
        forgotten: None,
        session: None,
        revoked: None,
        unacked: None,
    };
    Ok(rows.into_iter().map(|row| device(row.user_id, row.client_id, row.acked, row.acked_at, row.seen_at)).collect())
}

/// Reads what is left of forgotten devices: a row for each user. It has no times, so by time they are in the order of
/// their users. The hash of a client id is that of `recado.device_hash`, which hubs may not call.
async fn marks(
    connection: &mut PgConnection,
    filter: &DeviceFilter,
    log: &LogState,
    sort: DeviceSort,
    most: i64,
) -> Result<Vec<ListedDevice>, StoreError> {
    let LogId(log_id) = log.log_id;
    let rows = sqlx::query!(
        r#"SELECT d.user_id, d.acked AS "acked!", d.devices AS "devices!", d.any_client
             FROM (SELECT f.user_id, CASE WHEN f.log_id = $1 THEN f.from_seq ELSE 0 END AS acked, cardinality(f.clients) AS devices,
                          f.any_client
                     FROM recado.forgotten_device f
                    WHERE ($2::text IS NULL OR f.user_id = $2)
                      AND ($3::text IS NULL OR f.any_client OR ('x' || encode(substr(sha256(convert_to($3, 'UTF8')), 1, 8), 'hex'))::bit(64)::bigint = ANY (f.clients))
                      AND ($4::text IS NULL OR f.user_id IN (
                           SELECT m.user_id FROM recado.member m WHERE m.account_id = $4 AND m.until_seq IS NULL))) d
            WHERE ($5::bigint IS NULL OR d.acked <= $5)
            ORDER BY CASE $6::text WHEN '-lag' THEN d.acked END, CASE $6 WHEN 'lag' THEN d.acked END DESC,
                     CASE $6 WHEN '-user' THEN d.user_id END DESC, d.user_id
            LIMIT $7"#,
        log_id,
        filter.user.as_ref().map(UserId::as_str),
        filter.client.as_ref().map(ClientId::as_str),
        filter.account.as_ref().map(AccountId::as_str),
        acked_at_most(filter, log),
        sort.as_str(),
        most,
    )
    .fetch_all(connection);
    let rows = limited(SCAN_LIMIT, rows).await?;
    let mark = |user, acked, devices, any: bool| ListedDevice {
        user,
        client: filter.client.as_ref().map(ToString::to_string),
        state: DeviceState::Forgotten,
        acked: Seq::from_db(acked),
        acked_at: None,
        seen_at: None,
        forgotten: (!any).then_some(devices),
        session: None,
        revoked: None,
        unacked: None,
    };
    Ok(rows.into_iter().map(|row| mark(row.user_id, row.acked, row.devices, row.any_client)).collect())
}

/// Adds the open or last session of each device, and revocations. Returns the time.
async fn describe(connection: &mut PgConnection, devices: &mut [ListedDevice]) -> Result<DateTime<Utc>, StoreError> {
    let users: Vec<&str> = devices.iter().map(|device| device.user.as_str()).collect();
    let clients: Vec<Option<&str>> = devices.iter().map(|device| device.client.as_deref()).collect();
    let rows = sqlx::query!(
        r#"SELECT clock_timestamp() AS "now!", k.place, s.account_ids AS "account_ids?", s.types, s.connected_at AS "connected_at?",
                  s.ended_at, s.end_reason, r.reason AS "revoked?"
             FROM (SELECT 1) one
             LEFT JOIN unnest($1::text[], $2::text[]) WITH ORDINALITY AS k (user_id, client_id, place) ON true
             LEFT JOIN LATERAL (
                   SELECT *
                     FROM ((SELECT o.* FROM recado.session o
                             WHERE o.user_id = k.user_id AND o.client_id = k.client_id AND o.ended_at IS NULL
                             LIMIT 1)
                           UNION ALL
                           (SELECT e.*
                              FROM (SELECT a.* FROM recado.session a
                                     WHERE a.user_id = k.user_id
                                     ORDER BY a.connected_at DESC
                                     LIMIT $3) e
                             WHERE e.client_id = k.client_id
                             ORDER BY e.connected_at DESC
                             LIMIT 1)) b
                    LIMIT 1) s
               ON true
             LEFT JOIN recado.revocation r ON r.user_id = k.user_id"#,
        &users as _,
        &clients as _,
        SESSIONS_OF_USER,
    )
    .fetch_all(connection);
    let rows = limited(ASK_LIMIT * 3, rows).await?;
    let mut now = DateTime::UNIX_EPOCH;
    for row in rows {
        now = row.now;
        let Some(device) = row.place.and_then(|place| usize::try_from(place - 1).ok()).and_then(|at| devices.get_mut(at)) else { continue };
        device.revoked = row.revoked;
        if let Some((accounts, connected_at)) = row.account_ids.zip(row.connected_at) {
            let end = row.ended_at.zip(row.end_reason);
            if device.state == DeviceState::Away && end.is_none() {
                device.state = DeviceState::Connected;
            }
            device.session = Some(LastSession { accounts, types: row.types, connected_at, end });
        }
    }
    Ok(now)
}

/// Counts, for the first devices, the notifications above the position that the device would be sent. Changes of an
/// inbox are none. Each topic is walked backward through its index and the walk ends at a limit, as in
/// [`super::devices::newest_numbers`].
async fn count_unacked(
    connection: &mut PgConnection,
    devices: &mut [ListedDevice],
    log: &LogState,
    reads_members: bool,
) -> Result<(), StoreError> {
    let counted: Vec<usize> = (0..devices.len().min(COUNTED)).filter(|at| devices[*at].client.is_some()).collect();
    let of = |at: &usize| &devices[*at];
    let users: Vec<&str> = counted.iter().map(|at| of(at).user.as_str()).collect();
    let accounts: Vec<String> =
        counted.iter().map(|at| of(at).session.as_ref().map_or_else(String::new, |session| session.accounts.join(","))).collect();
    let acked: Vec<i64> = counted.iter().map(|at| of(at).acked.max(log.floor).get()).collect();
    let types: Vec<Option<&str>> = counted.iter().map(|at| of(at).session.as_ref().and_then(|session| session.types.as_deref())).collect();
    let rows = sqlx::query!(
        r#"SELECT k.place AS "place!", count(*) AS "read!",
                  count(*) FILTER (WHERE (l.expires_at IS NULL OR l.expires_at > statement_timestamp())
                                     AND l.type <> ALL ('{inbox,preferences}')
                                     AND (k.types IS NULL OR starts_with(l.type, 'upstream_') OR EXISTS (
                                          SELECT FROM unnest(string_to_array(k.types, ',')) AS t (pattern)
                                           WHERE CASE WHEN right(pattern, 1) = '*' THEN starts_with(l.type, left(pattern, -1))
                                                      ELSE pattern = l.type END))) AS "count!"
             FROM unnest($1::text[], $2::text[], $3::bigint[], $4::text[])
                  WITH ORDINALITY AS k (user_id, accounts, acked, types, place)
            CROSS JOIN LATERAL (
                  SELECT s.seq
                    FROM (SELECT x.topic, k.acked AS low, 9223372036854775807 AS high
                            FROM (VALUES ('*'), ('u/' || k.user_id)) x (topic)
                           UNION ALL
                          SELECT x.topic, k.acked, 9223372036854775807
                            FROM unnest(string_to_array(k.accounts, ',')) AS a (account_id)
                           CROSS JOIN LATERAL (VALUES ('a/' || a.account_id), ('u/' || k.user_id || '/' || a.account_id)) x (topic)
                           UNION ALL
                          SELECT x.topic, greatest(i.since_seq, k.acked), coalesce(i.until_seq, 9223372036854775807)
                            FROM recado.member i
                           CROSS JOIN LATERAL (VALUES ('a/' || i.account_id), ('u/' || i.user_id || '/' || i.account_id)) x (topic)
                           WHERE $7 AND i.user_id = k.user_id AND (i.until_seq IS NULL OR i.until_seq > k.acked + 1)
                             AND i.account_id <> ALL (string_to_array(k.accounts, ','))) t
                   CROSS JOIN LATERAL (
                         (SELECT a.seq
                            FROM recado.log a
                           WHERE a.topic = t.topic AND a.replay AND a.topic <> 'l' AND a.seq <= $6 AND a.seq > t.low AND a.seq < t.high
                           ORDER BY a.seq DESC
                           LIMIT $5)
                         UNION ALL
                         (SELECT b.seq
                            FROM recado.log_member b
                           WHERE b.topic = t.topic AND b.seq <= $6 AND b.seq > t.low AND b.seq < t.high
                           ORDER BY b.seq DESC
                           LIMIT $5)) s
                   ORDER BY s.seq DESC
                   LIMIT $5) n
            CROSS JOIN LATERAL (SELECT x.type, x.expires_at FROM recado.log x WHERE x.seq = n.seq LIMIT 1) l
            GROUP BY k.place"#,
        &users as _,
        &accounts,
        &acked,
        &types as _,
        i64::try_from(UNACKED_MAX + 1).unwrap_or(i64::MAX),
        log.head.get(),
        reads_members,
    )
    .fetch_all(connection);
    let rows = limited(ASK_LIMIT * 3, rows).await?;
    for at in &counted {
        devices[*at].unacked = Some(Unacked { count: 0, more: false });
    }
    for row in rows {
        let Some(at) = usize::try_from(row.place - 1).ok().and_then(|place| counted.get(place)) else { continue };
        let count = usize::try_from(row.count).unwrap_or_default();
        let more = usize::try_from(row.read).is_ok_and(|read| read > UNACKED_MAX);
        devices[*at].unacked = Some(Unacked { count: count.min(UNACKED_MAX), more });
    }
    Ok(())
}
