//! Reads the facts by which `recado doctor` judges a database. Changes nothing.
//!
//! The queries are not checked at build time: they also run on the schema of another version.

use std::time::Duration;

use sqlx::PgConnection;
use sqlx::postgres::PgListener;
use tokio::time::Instant;
use uuid::Uuid;

use super::migrate::{self, SchemaVersions};
use super::preflight::{self, PreflightFindings};
use super::time_limit::{ASK_LIMIT, CONNECT_LIMIT, limited};
use super::{Database, StoreError, roles};

/// Longest wait for a NOTIFY that the same program has sent.
const HEARD_WITHIN: Duration = Duration::from_secs(3);
/// A transaction that is open for longer holds back vacuum, or its own notifications.
const LONG_TRANSACTION_SECONDS: f64 = 300.0;
/// A replication slot that keeps more WAL than this may fill the disk.
const SLOT_BYTES: i64 = 1 << 30;
/// Most transactions, slots and keys that are listed, each.
const LISTED: i64 = 5;

/// What the server says about itself.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct ServerFacts {
    pub version: String,
    pub login: String,
    pub database: String,
    /// Connections that logins without special rights may have.
    pub room: i32,
    /// Connections of clients that are open now.
    pub used: i64,
    /// Those of them that belong to hubs of this database.
    pub used_by_hubs: i64,
    /// The folder of the server's data; `None` if the login may not see it.
    pub data_directory: Option<String>,
}

/// Two connections to a database that is checked.
pub struct Inspection {
    one: PgConnection,
    other: PgConnection,
}

impl Inspection {
    /// Opens the connections.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn begin(database: &Database) -> Result<Self, StoreError> {
        Ok(Self { one: database.connect("doctor").await?, other: database.connect("doctor").await? })
    }

    /// The checks that a hub makes at its start.
    ///
    /// # Errors
    /// When the database is unavailable.
    pub async fn preflight(&mut self) -> Result<PreflightFindings, StoreError> {
        preflight::inspect(&mut self.one).await
    }

    /// See [`preflight::is_pooled`].
    ///
    /// # Errors
    /// When the database is unavailable.
    pub async fn is_pooled(&mut self) -> Result<bool, StoreError> {
        preflight::is_pooled(&mut self.one, &mut self.other).await
    }

    /// The versions of the schema.
    ///
    /// # Errors
    /// When the database is unavailable.
    pub async fn versions(&mut self) -> Result<SchemaVersions, StoreError> {
        migrate::versions(&mut self.one).await
    }

    /// The role that a hub serves as, and the other databases that share it.
    ///
    /// # Errors
    /// When the database is unavailable.
    pub async fn roles(&mut self) -> Result<(Option<String>, Option<String>), StoreError> {
        let role = preflight::hub_role(&mut self.one).await?;
        Ok((role.map(|role| role.to_string()), roles::shared_with(&mut self.one).await?.map(|names| names.to_string())))
    }

    /// Reads what the server says about itself.
    ///
    /// # Errors
    /// When the database is unavailable.
    pub async fn server(&mut self) -> Result<ServerFacts, StoreError> {
        let facts = sqlx::query_as(
            "SELECT current_setting('server_version') AS version, session_user::text AS login, current_database()::text AS database,
                    current_setting('max_connections')::integer - current_setting('superuser_reserved_connections')::integer AS room,
                    (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()) AS used,
                    (SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'recado %' AND pid <> pg_backend_pid()) AS used_by_hubs,
                    (SELECT s.setting FROM pg_settings s WHERE s.name = 'data_directory') AS data_directory", ) .persistent(false) .fetch_one(&mut self.one);
        limited(ASK_LIMIT, facts).await
    }

    /// How far the database's clock is ahead of this machine's, in seconds. The error is at most half of the round
    /// trip, which comes second.
    ///
    /// # Errors
    /// When the database is unavailable.
    pub async fn clock(&mut self) -> Result<(f64, Duration), StoreError> {
        let (before, asked) = (unix_seconds(), Instant::now());
        let there = sqlx::query_scalar("SELECT extract(epoch FROM clock_timestamp())::double precision").persistent(false);
        let there: f64 = limited(ASK_LIMIT, there.fetch_one(&mut self.one)).await?;
        let took = asked.elapsed();
        Ok((there - before - took.as_secs_f64() / 2.0, took))
    }

    /// The hubs that the database knows.
    ///
    /// # Errors
    /// When the database is unavailable.
    pub async fn hubs(&mut self) -> Result<HubFacts, StoreError> {
        let facts = sqlx::query_as(
            "SELECT count(*) FILTER (WHERE i.ended_at IS NULL AND i.seen_at >= statement_timestamp() - interval '15 seconds') AS live,
                    count(*) FILTER (WHERE i.ended_at IS NULL AND i.seen_at < statement_timestamp() - interval '15 seconds') AS dead,
                    (SELECT count(*) FROM recado.session s JOIN recado.instance e ON e.instance_id = s.instance_id WHERE s.ended_at IS NULL AND (e.ended_at IS NOT NULL OR e.seen_at < statement_timestamp() - interval '15 seconds')) AS left_sessions
              FROM recado.instance i", ) .persistent(false) .fetch_one(&mut self.one);
        limited(ASK_LIMIT, facts).await
    }

    /// The partitions of the log.
    ///
    /// # Errors
    /// When the database is unavailable.
    pub async fn partitions(&mut self) -> Result<PartitionFacts, StoreError> {
        let facts = sqlx::query_as(
            "SELECT count(*) FILTER (WHERE p.lo > h.head) AS ahead, count(*) AS all,
                    (SELECT extract(epoch FROM statement_timestamp() - l.created_at)::double precision / 86400 FROM recado.log l ORDER BY l.seq LIMIT 1) AS oldest_days,
                    pg_database_size(current_database()) AS bytes
              FROM recado.partition p
              CROSS JOIN (SELECT greatest(m.floor_seq, coalesce((SELECT l.seq FROM recado.log l ORDER BY l.seq DESC LIMIT 1), 0)) AS head FROM recado.meta m) h
              GROUP BY h.head", ) .persistent(false) .fetch_one(&mut self.one);
        limited(ASK_LIMIT * 3, facts).await
    }

    /// What holds back vacuum, the outbox or the removal of WAL.
    ///
    /// # Errors
    /// When the database is unavailable.
    pub async fn holdbacks(&mut self) -> Result<Vec<Holdback>, StoreError> {
        let found = sqlx::query_as(
            "(SELECT 'transaction' AS kind, a.pid::text AS name,
                    format('open for %s s, %s', extract(epoch FROM statement_timestamp() - a.xact_start)::bigint, coalesce(a.application_name, '')) AS detail,
                    format('SELECT pg_terminate_backend(%s);', a.pid) AS fix
              FROM pg_stat_activity a WHERE a.backend_type = 'client backend' AND a.datname = current_database() AND a.xact_start < statement_timestamp() - make_interval(secs => $1) ORDER BY a.xact_start LIMIT $3)
              UNION ALL (SELECT 'prepared transaction', p.gid, format('prepared at %s', p.prepared), format('ROLLBACK PREPARED %L;', p.gid)
              FROM pg_prepared_xacts p WHERE p.prepared < statement_timestamp() - make_interval(secs => $1) ORDER BY p.prepared LIMIT $3)
              UNION ALL (SELECT 'replication slot', s.slot_name::text, format('not in use, keeps %s of WAL', pg_size_pretty(pg_wal_lsn_diff(pg_current_wal_lsn(), s.restart_lsn))), format('SELECT pg_drop_replication_slot(%L);', s.slot_name)
              FROM pg_replication_slots s WHERE NOT s.active AND pg_wal_lsn_diff(pg_current_wal_lsn(), s.restart_lsn) > $2 LIMIT $3)", ) .persistent(false) .bind(LONG_TRANSACTION_SECONDS) .bind(SLOT_BYTES) .bind(LISTED) .fetch_all(&mut self.one);
        limited(ASK_LIMIT, found).await
    }

    /// Whether the hubs that use this login do retention, and if not, whether `recado log retain` did within a day.
    ///
    /// # Errors
    /// When the database is unavailable.
    pub async fn retention_is_done(&mut self) -> Result<(bool, bool), StoreError> {
        let sql = "SELECT pg_has_role(session_user, c.relowner, 'USAGE'),
                          EXISTS (SELECT FROM recado.audit a
                                   WHERE a.what = 'log.retain' AND a.outcome = 'done' AND a.at > statement_timestamp() - interval '1 day')
                     FROM pg_class c WHERE c.oid = 'recado.log'::regclass";
        limited(ASK_LIMIT, sqlx::query_as(sql).persistent(false).fetch_one(&mut self.one)).await
    }

    /// Age of the oldest committed row of the outbox, in seconds; `None` if no row waits.
    ///
    /// # Errors
    /// When the database is unavailable.
    pub async fn outbox_age(&mut self) -> Result<Option<f64>, StoreError> {
        let age = sqlx::query_scalar("SELECT age_seconds FROM recado.outbox_waiting()").persistent(false).fetch_one(&mut self.one);
        limited(ASK_LIMIT, age).await
    }

    /// Service keys that expire within this many days, with the days that are left.
    ///
    /// # Errors
    /// When the database is unavailable.
    pub async fn expiring_keys(&mut self, days: f64) -> Result<Vec<(String, f64)>, StoreError> {
        let keys = sqlx::query_as(
            "SELECT k.name, extract(epoch FROM k.expires_at - statement_timestamp())::double precision / 86400
               FROM recado.service_key k
              WHERE k.revoked_at IS NULL AND k.expires_at < statement_timestamp() + make_interval(secs => $1 * 86400)
              ORDER BY k.expires_at LIMIT $2",
        )
        .persistent(false)
        .bind(days)
        .bind(LISTED)
        .fetch_all(&mut self.one);
        limited(ASK_LIMIT, keys).await
    }
}

/// Whether a NOTIFY that the main connection sends arrives on the connection that listens. Behind a pooler that gives a
/// server connection to several clients, it does not.
///
/// # Errors
/// When the database is unavailable.
pub async fn hears_notify(database: &Database) -> Result<bool, StoreError> {
    const CHANNEL: &str = "recado_doctor";
    let pool = limited(CONNECT_LIMIT, database.listening()).await?;
    let mut listener = limited(CONNECT_LIMIT, PgListener::connect_with(&pool)).await?;
    listener.eager_reconnect(false);
    limited(ASK_LIMIT, listener.listen(CHANNEL)).await?;
    let mut connection = database.connect("doctor").await?;
    let mark = Uuid::new_v4().to_string();
    let sent = sqlx::query("SELECT pg_notify($1, $2)").persistent(false).bind(CHANNEL).bind(&mark).execute(&mut connection);
    limited(ASK_LIMIT, sent).await?;
    let heard = async {
        loop {
            match listener.try_recv().await {
                Ok(Some(notification)) if notification.payload() == mark => return true,
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => return false,
            }
        }
    };
    Ok(tokio::time::timeout(HEARD_WITHIN, heard).await.unwrap_or(false))
}

/// The hubs that the database knows.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct HubFacts {
    pub live: i64,
    /// Hubs that were killed, and whose end no other hub has noted yet.
    pub dead: i64,
    /// Open sessions of hubs that have ended.
    pub left_sessions: i64,
}

/// The partitions of the log.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct PartitionFacts {
    /// Partitions that are there for numbers after the head.
    pub ahead: i64,
    pub all: i64,
    /// Age of the oldest row, in days; `None` for an empty log.
    pub oldest_days: Option<f64>,
    pub bytes: i64,
}

/// Something that holds back vacuum, the outbox or the removal of WAL.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Holdback {
    /// `transaction`, `prepared transaction` or `replication slot`.
    pub kind: String,
    /// A process id, the name of a prepared transaction or of a slot.
    pub name: String,
    /// How long, or how much.
    pub detail: String,
    /// The statement that ends it.
    pub fix: String,
}

fn unix_seconds() -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "milliseconds of this century fit a double exactly")]
    let millis = chrono::Utc::now().timestamp_millis() as f64;
    millis / 1000.0
}
