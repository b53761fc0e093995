//! Checks the database before the first client connects, and refuses an unsafe one.

use std::sync::Arc;

use sqlx::PgConnection;

use super::StoreError;
use super::time_limit::{ASK_LIMIT, limited};

/// What about the server or the role would break a promise. Each names the setting and the way out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreflightFindings {
    /// Reasons to refuse to serve.
    pub unsafe_durability: Vec<String>,
    /// Reasons to refuse that no setting of the hub overrules.
    pub unfit: Vec<String>,
    /// Findings that are logged only.
    pub warnings: Vec<String>,
    /// The clocks of this machine and of the database differ. Logged only.
    pub clock: Option<String>,
}

/// Checks the server before anything is written to it.
///
/// # Errors
/// When the database cannot be queried.
pub async fn inspect(connection: &mut PgConnection) -> Result<PreflightFindings, StoreError> {
    let server = sqlx::query!(
        r#"SELECT current_setting('server_version_num')::integer AS "version!",
                  current_setting('server_version') AS "version_text!",
                  current_setting('fsync') AS "fsync!",
                  current_setting('full_page_writes') AS "full_page_writes!",
                  current_setting('synchronous_commit') AS "synchronous_commit!",
                  current_setting('data_checksums') AS "data_checksums!",
                  current_setting('server_encoding') AS "encoding!",
                  current_setting('default_transaction_isolation') AS "isolation!",
                  current_setting('default_transaction_read_only') = 'on' AS "read_only!",
                  pg_is_in_recovery() AS "standby!", session_user::text AS "login!",
                  coalesce((SELECT shobj_description(r.oid, 'pg_authid') = 'recado analyst' FROM pg_roles r WHERE r.rolname = session_user), false)
                      AS "analyst!",
                  abs(extract(epoch FROM clock_timestamp()) - $1::double precision)::double precision AS "clock_off!""#,
        unix_now(),
    )
    .fetch_one(&mut *connection);
    let server = limited(ASK_LIMIT, server).await?;

    let mut unsafe_durability = Vec::new();
    for (name, value, good) in [
        ("fsync", &server.fsync, &["on"][..]),
        ("full_page_writes", &server.full_page_writes, &["on"]),
        ("synchronous_commit", &server.synchronous_commit, &["on", "remote_apply"]),
    ] {
        if !good.contains(&value.as_str()) {
            unsafe_durability
                .push(format!("{name} is {value}: a notification answered with 201 could be lost in a crash; set {name} = on"));
        }
    }
    let mut unfit = Vec::new();
    if server.version < 150_000 {
        unfit.push(format!("the server is PostgreSQL {}; 15 or newer is needed", server.version_text));
    }
    if server.analyst {
        unfit.push(format!(
            "{} is the login of an analyst, which only reads views: set DATABASE_URL to the hub's own login (an analyst exports a view with \\copy \
             of psql)",
            server.login
        ));
    } else if server.standby || server.read_only {
        unfit.push(
            "the server takes no writes (a standby, or default_transaction_read_only is on); point DATABASE_URL at the primary".to_owned(),
        );
    }
    if server.encoding != "UTF8" {
        unfit.push(format!("the database's encoding is {}; make it with ENCODING 'UTF8'", server.encoding));
    }
    if server.isolation != "read committed" {
        unfit.push(format!("default_transaction_isolation is {}; set it to read committed for the hub's role", server.isolation));
    }
    let mut warnings = Vec::new();
    if server.data_checksums != "on" {
        warnings.push("data_checksums is off: a bit that flips on disk would go unseen (initdb -k turns it on)".to_owned());
    }
    let clock =
        (server.clock_off > 5.0).then(|| format!("the clocks of this machine and of the database are {:.0} s apart", server.clock_off));
    Ok(PreflightFindings { unsafe_durability, unfit, warnings, clock })
}

/// Whether one server process answers two connections that are open at the same time. Then a pooler shares it between
/// them (transaction or statement pooling), and no setting, role or lock of a session stays with the hub.
///
/// # Errors
/// When the database cannot be queried.
pub async fn is_pooled(one: &mut PgConnection, other: &mut PgConnection) -> Result<bool, StoreError> {
    const PID: &str = "SELECT pg_backend_pid()";
    for _ in 0..3 {
        let first: i32 = limited(ASK_LIMIT, sqlx::query_scalar(PID).persistent(false).fetch_one(&mut *one)).await?;
        let second: i32 = limited(ASK_LIMIT, sqlx::query_scalar(PID).persistent(false).fetch_one(&mut *other)).await?;
        let again: i32 = limited(ASK_LIMIT, sqlx::query_scalar(PID).persistent(false).fetch_one(&mut *one)).await?;
        if first == second || first != again {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The role to serve under, once the schema is there; `None` where there is none for this user.
///
/// # Errors
/// When the database cannot be asked.
pub async fn hub_role(connection: &mut PgConnection) -> Result<Option<Arc<str>>, StoreError> {
    let usable = sqlx::query_scalar!(
        r#"SELECT r.rolname::text AS "name!"
             FROM pg_roles r
            WHERE r.rolname = recado.role_name('hub') AND pg_has_role(r.oid, 'MEMBER') AND has_schema_privilege(r.oid, 'recado', 'USAGE')"#
    )
    .fetch_optional(connection);
    Ok(limited(ASK_LIMIT, usable).await?.map(Arc::from))
}

fn unix_now() -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "milliseconds of this century fit a double exactly")]
    let millis = chrono::Utc::now().timestamp_millis() as f64;
    millis / 1000.0
}
