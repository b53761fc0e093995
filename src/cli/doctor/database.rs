//! Checks the database: what `recado serve` checks at its start, and what makes trouble later.

use super::report::Report;
use crate::app::database_connections;
use crate::cli::error::CliFailure;
use crate::config::Config;
use crate::startup::{self, Startup};
use crate::store::installation::{self, Inspection, ServerFacts};
use crate::store::migrate::SchemaVersions;
use crate::store::{Database, StoreError};

/// Clocks further apart than this are reported, in seconds: tokens and start times depend on them.
const CLOCK_APART_SECONDS: f64 = 2.0;
/// A row of the outbox that waits for longer is reported, in seconds.
const OUTBOX_LATE_SECONDS: f64 = 15.0;
/// Free space on the disk of a private server below which it is reported.
const DISK_LEFT_BYTES: u64 = 2 << 30;
/// Keys that expire within this time are reported.
const KEY_DAYS: f64 = 14.0;

/// Makes all checks of the database.
pub async fn check(config: &Config, hubs: Option<u32>, report: &mut Report) {
    if config.database_url.is_none() && !startup::state_dir(config).is_ok_and(|folder| folder.join("data").is_dir()) {
        report.fix(
            "database",
            "no database is set, and the data folder holds no private server",
            "set DATABASE_URL (or DATABASE_URL_FILE), or start a hub with a private server: recado serve",
        );
        return;
    }
    let startup = match Startup::open(config).await {
        Ok(startup) => startup,
        Err(error) => {
            report.fix("database", error.to_string(), "correct DATABASE_URL; it looks like postgres://user:password@host:5432/database");
            return;
        }
    };
    let database = startup.as_owner();
    if let Err(error) = connected(config, &database, hubs, report).await {
        report.fix(
            "database",
            format!("a check was cut off: {}", CliFailure::from(error).message),
            "run recado doctor again; see the server's log if it repeats",
        );
    }
    startup.close().await;
}

/// # Errors
/// When the database fails while it is checked.
async fn connected(config: &Config, database: &Database, hubs: Option<u32>, report: &mut Report) -> Result<(), StoreError> {
    if database.would_show_its_password().await {
        report.fix(
            "database",
            "the server requests the password in clear text, and sslmode=disable would send it unencrypted",
            "use sslmode=verify-full in DATABASE_URL, or scram-sha-256 in pg_hba.conf",
        );
        return Ok(());
    }
    let mut one = match Inspection::begin(database).await {
        Ok(one) => one,
        Err(error) => {
            report.fix( "database", error.to_string(), "check that the server runs and that host, port, login and password of DATABASE_URL are right: psql \"$DATABASE_URL\" -c 'SELECT 1'", );
            report.skipped("schema", "the database was not reached");
            return Ok(());
        }
    };
    let server = one.server().await?;
    report.ok("database", format!("PostgreSQL {}, database {}, login {}", server.version, server.database, server.login));
    if !fitness(config, &mut one, report).await? {
        return Ok(());
    }
    if one.is_pooled().await? {
        report.fix(
            "pooler",
            "DATABASE_URL leads through a pooler that gives one server connection to several clients (transaction or statement pooling)",
            "set pool_mode = session for this database in the pooler, or point DATABASE_URL at the server itself",
        );
    } else {
        report.ok("pooler", "each connection has a server connection of its own");
    }
    notify(database, report).await;
    clock(&mut one, report).await?;
    let versions = one.versions().await?;
    if !schema(versions, report) {
        return Ok(());
    }
    rights(&mut one, report).await?;
    operation(config, &mut one, &server, hubs, report).await
}

/// The checks that refuse a hub at its start. Returns whether the other checks can be made.
async fn fitness(config: &Config, database: &mut Inspection, report: &mut Report) -> Result<bool, StoreError> {
    let findings = database.preflight().await?;
    findings.unfit.iter().for_each(|finding| report.finding("server", finding));
    if findings.unfit.is_empty() {
        report.ok("server", "takes writes, UTF8, read committed");
    }
    for finding in &findings.unsafe_durability {
        if config.allow_unsafe_durability {
            report.fix("durability", finding.clone(), "turn the setting on, and unset RECADO_ALLOW_UNSAFE_DURABILITY");
        } else {
            report.finding("durability", finding);
        }
    }
    if findings.unsafe_durability.is_empty() {
        report.ok("durability", "fsync, full_page_writes and synchronous_commit are on");
    }
    for warning in &findings.warnings {
        report.skipped("server", warning.clone());
    }
    Ok(findings.unfit.is_empty())
}

async fn notify(database: &Database, report: &mut Report) {
    match installation::hears_notify(database).await {
        Ok(true) => report.ok("listen", "a NOTIFY arrives on the connection that listens"),
        Ok(false) => report.fix(
            "listen",
            "a NOTIFY does not arrive: LISTEN leads through a pooler, or to another server; a hub would deliver up to a second late",
            "set RECADO_LISTEN_DATABASE_URL to the server itself, without the pooler",
        ),
        Err(error) => report.fix(
            "listen",
            format!("the connection for LISTEN cannot be used: {error}"),
            "correct RECADO_LISTEN_DATABASE_URL, or unset it so that DATABASE_URL is used",
        ),
    }
}

async fn clock(database: &mut Inspection, report: &mut Report) -> Result<(), StoreError> {
    let (ahead, took) = database.clock().await?;
    let found = format!("the database's clock is {:.1} s {} this machine's", ahead.abs(), if ahead < 0.0 { "behind" } else { "ahead of" });
    if ahead.abs() > CLOCK_APART_SECONDS + took.as_secs_f64() {
        report.fix("clock", found, "synchronise both machines by NTP: timedatectl set-ntp true");
    } else {
        report.ok("clock", found);
    }
    Ok(())
}

/// Returns whether the schema is the program's, so that its tables can be read.
fn schema(SchemaVersions { database, program }: SchemaVersions, report: &mut Report) -> bool {
    match database {
        0 => report.fix("schema", "the database has never been migrated", "recado migrate"),
        older if older < program => {
            report.fix("schema", format!("the schema has version {older}, this program needs {program}"), "recado migrate");
        }
        newer if newer > program => report.fix(
            "schema",
            format!("the schema has version {newer}, this program knows {program}"),
            "install the release of the newest hub; hubs of this release may go on until then",
        ),
        same => report.ok("schema", format!("version {same}, as this program")),
    }
    database == program
}

async fn rights(database: &mut Inspection, report: &mut Report) -> Result<(), StoreError> {
    let (role, shared) = database.roles().await?;
    match role {
        Some(role) => report.ok("role", format!("the hub serves as {role}")),
        None => report.fix(
            "role",
            "the hub's role is missing, or this login is not a member of it; a hub would serve with the login's own rights",
            "run recado migrate as the schema's owner with CREATEROLE, or as a superuser",
        ),
    }
    if let Some(databases) = shared {
        report.fix(
            "role",
            format!("other databases of this cluster use the same roles: {databases}"),
            "stop the hubs, and run recado migrate --own-roles",
        );
    }
    Ok(())
}

/// What makes trouble while hubs run.
async fn operation(
    config: &Config,
    database: &mut Inspection,
    server: &ServerFacts,
    hubs: Option<u32>,
    report: &mut Report,
) -> Result<(), StoreError> {
    let known = database.hubs().await?;
    let planned = hubs.map_or(known.live.max(1), i64::from);
    room(config, server, planned, report);
    if known.left_sessions > 0 || known.dead > 0 {
        let found = format!("dead hubs: {}, open sessions of hubs that have ended: {}", known.dead, known.left_sessions);
        if known.live > 0 {
            report.ok("instances", format!("{found}; a running hub ends them within 30 s"));
        } else {
            report.fix("instances", found, "start a hub (recado serve); it ends them within 30 s");
        }
    } else {
        report.ok("instances", format!("running hubs: {}, no sessions of dead hubs", known.live));
    }
    retention(config, database, server, report).await?;
    let held = database.holdbacks().await?;
    for one in &held {
        report.fix("holdbacks", format!("{} {}: {}", one.kind, one.name, one.detail), one.fix.clone());
    }
    if held.is_empty() {
        report.ok("holdbacks", "no long transaction, no forgotten prepared transaction, no unused replication slot");
    }
    match database.outbox_age().await? {
        Some(age) if age > OUTBOX_LATE_SECONDS => report.fix(
            "outbox",
            format!("a row of recado.notify has waited for {age:.0} s"),
            if known.live == 0 { "start a hub: recado serve" } else { "read the log of the hub whose metric recado_outbox_moves is 1" },
        ),
        Some(age) => report.ok("outbox", format!("the oldest row has waited for {age:.1} s")),
        None => report.ok("outbox", "no row waits"),
    }
    let keys = database.expiring_keys(KEY_DAYS).await?;
    for (name, days) in &keys {
        let found =
            if *days < 0.0 { format!("service key {name} has expired") } else { format!("service key {name} expires in {days:.0} days") };
        report.fix(
            "service keys",
            found,
            format!("make a new one and give it to the service: recado key create {name}-2; then recado key revoke {name}"),
        );
    }
    if keys.is_empty() {
        report.ok("service keys", format!("none expires within {KEY_DAYS:.0} days"));
    }
    Ok(())
}

fn room(config: &Config, server: &ServerFacts, planned: i64, report: &mut Report) {
    let of_each = i64::from(database_connections(config));
    let (needed, others) = (planned * of_each, server.used - server.used_by_hubs);
    let found = format!("hubs: {planned}, connections for them: {needed}, of other programs: {others}, allowed: {}", server.room);
    if needed + others > i64::from(server.room) {
        report.fix(
            "connections",
            found,
            format!(
                "ALTER SYSTEM SET max_connections = {}; and restart the server, or lower RECADO_READ_CONNECTIONS",
                needed + others + 20
            ),
        );
    } else {
        report.ok("connections", found);
    }
}

async fn retention(config: &Config, database: &mut Inspection, server: &ServerFacts, report: &mut Report) -> Result<(), StoreError> {
    let log = database.partitions().await?;
    let mib = log.bytes >> 20;
    let oldest = log.oldest_days.map_or_else(|| "the log is empty".to_owned(), |days| format!("the oldest row is {days:.0} days old"));
    if log.ahead == 0 {
        report.fix(
            "partitions",
            "no partition is ready for the next numbers",
            "start a hub (recado serve), which makes them; or SELECT recado.ensure_partitions();",
        );
    } else {
        report.ok("partitions", format!("{} of {} are ahead of the log; {oldest}; the database has {mib} MiB", log.ahead, log.all));
    }
    match database.retention_is_done().await? {
        (true, _) => {}
        (false, true) => report.ok("retention", "recado log retain has run within a day; hubs with this login delete nothing"),
        (false, false) => report.fix(
            "retention",
            "this login does not own the tables, so hubs with it delete nothing, not even texts over their ttl",
            "run recado log retain every hour with the DATABASE_URL of the user who migrated, or serve with that login",
        ),
    }
    let limit = config.retention.age.map(|age| age.as_secs_f64() / 86_400.0);
    if let (Some(limit), Some(oldest)) = (limit, log.oldest_days)
        && oldest > limit * 1.25 + 2.0
    {
        report.fix(
            "retention",
            format!("the oldest row is {oldest:.0} days old, and RECADO_RETENTION_AGE is {limit:.0} days"),
            "recado log retain",
        );
    }
    // Only the private server's disk is known to be this machine's.
    if config.database_url.is_none()
        && let Some(folder) = &server.data_directory
        && let Some(left) = startup::disk_left(folder.as_ref())
    {
        let found = format!("{} MiB are left on the disk of the database", left >> 20);
        if left < DISK_LEFT_BYTES {
            report.fix("disk", found, "free space, or set RECADO_RETENTION_AGE or RECADO_RETENTION_SIZE lower");
        } else {
            report.ok("disk", found);
        }
    }
    Ok(())
}
