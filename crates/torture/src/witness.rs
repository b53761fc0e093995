//! Reads the log, the positions and the connections from the database, over its own socket.

pub mod erasing;
mod parsed;
pub mod upstream;

use std::str::FromStr;
use std::time::Duration;

use recado_torture_check::fact::{self, RunFact};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};
use tokio::time::{Instant, sleep};

use crate::RunError;
use crate::book::Recorder;
use crate::consumers::CONSUMER;
use crate::hubs::Roll;
use crate::receiver::WEBHOOK;

/// Records every change of a stored position, independently of the hub.
const AUDIT: &str = "
CREATE SCHEMA torture;
CREATE TABLE torture.place (n bigserial PRIMARY KEY, device text, before bigint, after bigint);
CREATE FUNCTION torture.note_place() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO torture.place (device, before, after)
    VALUES (NEW.user_id || '/' || NEW.client_id, CASE WHEN TG_OP = 'UPDATE' THEN OLD.acked_seq END, NEW.acked_seq);
    RETURN NEW;
END $$;
CREATE TRIGGER torture_note_place AFTER INSERT OR UPDATE OF acked_seq ON recado.cursor
    FOR EACH ROW EXECUTE FUNCTION torture.note_place();
";

/// The mutant whose appends rest on an advisory lock, as they did before version 11 of the schema.
const APPENDS_BY_ADVISORY_LOCK: ChangedFunction = ChangedFunction {
    name: "append",
    mark: "LOCK TABLE recado.append_lock IN SHARE UPDATE EXCLUSIVE MODE;",
    instead: "PERFORM pg_advisory_xact_lock('recado.log'::regclass::integer, 1);",
};

/// The mutant that takes numbers before it knows whether it needs them, like a PostgreSQL sequence.
const NUMBERS_FROM_A_SEQUENCE: &str = "
CREATE SEQUENCE recado.number;
DO $$
DECLARE source text := pg_get_functiondef((SELECT oid FROM pg_proc WHERE pronamespace = 'recado'::regnamespace AND proname = 'append'));
        mark text := 'IF has_keys THEN';
BEGIN
    IF position(mark IN source) = 0 THEN RAISE EXCEPTION 'recado.append has changed, and the mutant has not'; END IF;
    source := regexp_replace(source, mark,
        'head := greatest(head, (SELECT last_value FROM recado.number WHERE is_called)); PERFORM setval(''recado.number'', head + cardinality(p_id)); ' || mark);
    EXECUTE source;
END $$;
";

/// The mutant that counts each post of a webhook as accepted, whatever the receiver answers.
const POSTS_ACCEPTED: ChangedFunction =
    ChangedFunction { name: "settle_webhook_posts", mark: "p.seq = r.seq AND r.is_done", instead: "p.seq = r.seq" };

/// The mutant whose consumers acknowledge under any term.
const STALE_CONSUMERS: ChangedFunction =
    ChangedFunction { name: "hold_consumer", mark: "c.owner IS NULL OR c.term IS DISTINCT FROM p_term", instead: "false" };

/// A function of the schema with another text in it.
struct ChangedFunction {
    name: &'static str,
    mark: &'static str,
    instead: &'static str,
}

impl ChangedFunction {
    async fn put(&self, url: &str) -> Result<(), RunError> {
        let mut connection = PgConnection::connect(url).await?;
        let sql = "SELECT pg_get_functiondef((SELECT oid FROM pg_proc WHERE pronamespace = 'recado'::regnamespace AND proname = $1))";
        let source: String = sqlx::query_scalar(sql).bind(self.name).fetch_one(&mut connection).await?;
        if !source.contains(self.mark) {
            return Err(format!("recado.{} has changed, and the mutant has not", self.name).into());
        }
        sqlx::raw_sql(AssertSqlSafe(source.replace(self.mark, self.instead))).execute(&mut connection).await?;
        Ok(())
    }
}

pub fn user_of(url: &str) -> Result<String, RunError> {
    Ok(PgConnectOptions::from_str(url)?.get_username().to_owned())
}

pub async fn prepare(url: &str, mutant: Option<&str>) -> Result<(), RunError> {
    run(url, AUDIT).await?;
    run(url, upstream::AUDIT).await?;
    run(url, erasing::AUDIT).await?;
    match mutant {
        Some("sequence") => run(url, NUMBERS_FROM_A_SEQUENCE).await,
        Some("advisory-locks") => APPENDS_BY_ADVISORY_LOCK.put(url).await,
        Some("erase-nothing") => run(url, erasing::ERASE_NOTHING).await,
        Some("webhook-accepts") => POSTS_ACCEPTED.put(url).await,
        Some("stale-consumers") => STALE_CONSUMERS.put(url).await,
        Some("no-fence") => run(url, upstream::NO_FENCE).await,
        _ => Ok(()),
    }
}

async fn run(url: &str, sql: &'static str) -> Result<(), RunError> {
    sqlx::raw_sql(sql).execute(&mut PgConnection::connect(url).await?).await?;
    Ok(())
}

/// How long a question is repeated. Loaded machines need seconds for a recovery after a crash.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// Repeats a question until the server answers: another fault may have ended its processes at this moment.
pub async fn answered<T>(ask: impl AsyncFn() -> Result<T, RunError>) -> Result<T, RunError> {
    let end = Instant::now() + ANSWER_LIMIT;
    loop {
        match ask().await {
            Err(_) if Instant::now() < end => sleep(Duration::from_millis(100)).await,
            answer => return answer,
        }
    }
}

pub async fn head(url: &str) -> Result<i64, RunError> {
    let mut connection = PgConnection::connect(url).await?;
    Ok(sqlx::query_scalar("SELECT coalesce(max(seq), 0) FROM recado.log").fetch_one(&mut connection).await?)
}

/// The position of the run's consumer; 0 if no owner could create it.
pub async fn consumer_place(url: &str) -> Result<i64, RunError> {
    let mut connection = PgConnection::connect(url).await?;
    let place: Option<i64> =
        sqlx::query_scalar("SELECT acked_seq FROM recado.consumer WHERE name = $1").bind(CONSUMER).fetch_optional(&mut connection).await?;
    Ok(place.unwrap_or(0))
}

/// How far the run's webhook is.
pub async fn webhook_place(url: &str) -> Result<RunFact, RunError> {
    let mut connection = PgConnection::connect(url).await?;
    let sql = "SELECT w.passed_seq, count(p.seq) FILTER (WHERE NOT p.is_dead), count(p.seq) FILTER (WHERE p.is_dead)
                 FROM recado.webhook w LEFT JOIN recado.webhook_post p ON p.webhook = w.name
                WHERE w.name = $1 GROUP BY w.passed_seq";
    let (passed, waiting, dead) = sqlx::query_as(sql).bind(WEBHOOK).fetch_one(&mut connection).await?;
    Ok(RunFact::WebhookPlace { passed, waiting, dead })
}

/// Returns the process id of a database connection with this application name.
pub async fn backend(url: &str, name: &str) -> Result<Option<u32>, RunError> {
    let mut connection = PgConnection::connect(url).await?;
    let sql = "SELECT pid FROM pg_stat_activity WHERE application_name = $1 ORDER BY random() LIMIT 1";
    let pid: Option<i32> = sqlx::query_scalar(sql).bind(name).fetch_optional(&mut connection).await?;
    Ok(pid.and_then(|pid| u32::try_from(pid).ok()))
}

/// The database connections of hubs: their number, and a list by name. Without those that a hub has to a standby: after
/// a failover that server is the primary, and they stay for a while.
pub async fn connections(url: &str) -> Result<(u64, String), RunError> {
    let mut connection = PgConnection::connect(url).await?;
    let sql = "SELECT coalesce(sum(n), 0)::bigint, coalesce(string_agg(format('%s %s', n, name), ', ' ORDER BY name), '')
                 FROM (SELECT application_name, count(*) FROM pg_stat_activity
                        WHERE application_name LIKE 'recado %' AND application_name NOT LIKE 'recado standby %' GROUP BY 1) a (name, n)";
    let (count, names): (i64, String) = sqlx::query_as(sql).fetch_one(&mut connection).await?;
    Ok((u64::try_from(count).unwrap_or(0), names))
}

/// Writes the whole log and the audits into the history; `with_parsed`: also what programs see that parse the data.
pub async fn testify(url: &str, book: &Recorder, roll: &Roll, with_parsed: bool) -> Result<(), RunError> {
    let mut connection = PgConnection::connect(url).await?;
    let meta = sqlx::query("SELECT log_id::text, floor_seq, greatest(floor_seq, (SELECT max(seq) FROM recado.log)) FROM recado.meta");
    let meta = meta.fetch_one(&mut connection).await?;
    book.note(RunFact::Log { log_id: meta.get(0), floor: meta.get(1), head: meta.get::<Option<i64>, _>(2).unwrap_or(0) });
    let erased = erasing::testify(&mut connection, book).await?;
    let rows = sqlx::query(
        "SELECT seq, id::text, title, message, data::text, source, type, user_id,
                CASE WHEN type = 'erased' THEN concat_ws(' ', NULLIF(title, ''), NULLIF(message, ''), data, NULLIF(topic, 'u/-'),
                                                         NULLIF(user_id, '-'), account_id, user_ids::text) END
           FROM recado.log ORDER BY seq",
    );
    for row in rows.fetch_all(&mut connection).await? {
        let (seq, id, source): (i64, String, Option<String>) = (row.get(0), row.get(1), row.get(5));
        let stands = Text { title: row.get(2), message: row.get(3), data: row.get(4), kind: row.get(6), user: row.get(7) };
        // The history names a row by its first content.
        let text = erased.get(&seq).unwrap_or(&stands);
        let title = text.name(book, seq, source.as_deref());
        book.note(RunFact::Row { seq, id, title, hash: text.hash(), tombstone: row.get(8) });
        if with_parsed {
            book.note(RunFact::Parsed { seq, hash: parsed::hash(&text.title, &text.message, text.data()) });
        }
    }
    erasing::look_for_remnants(url, book, &mut connection).await?;
    upstream::testify(&mut connection, book, roll).await?;
    for row in sqlx::query("SELECT device, before, after FROM torture.place ORDER BY n").fetch_all(&mut connection).await? {
        book.note(RunFact::Place { device: row.get(0), before: row.get(1), after: row.get(2) });
    }
    Ok(())
}

/// The content of a row, and its user.
pub struct Text {
    title: String,
    message: String,
    data: Option<String>,
    kind: String,
    user: Option<String>,
}

impl Text {
    fn data(&self) -> &str {
        self.data.as_deref().unwrap_or("null")
    }

    fn hash(&self) -> String {
        fact::hash(&[&self.title, &self.message, self.data()])
    }

    /// The row's name in the history.
    fn name(&self, book: &Recorder, seq: i64, source: Option<&str>) -> String {
        if source.is_some_and(|source| source.starts_with("upstream/")) {
            upstream::name(book, seq, &self.kind, self.user.clone().unwrap_or_default(), self.data(), &self.hash())
        } else {
            self.title.clone()
        }
    }
}

/// Counts the titles that are in the log or were erased.
pub async fn count(url: &str, titles: &[String]) -> Result<usize, RunError> {
    let mut connection = PgConnection::connect(url).await?;
    let sql = "SELECT count(DISTINCT title) FROM (SELECT title FROM recado.log UNION ALL SELECT title FROM torture.erased
                UNION ALL SELECT title FROM torture.unposted) t WHERE title = ANY ($1)";
    let count: i64 = sqlx::query_scalar(sql).bind(titles).fetch_one(&mut connection).await?;
    Ok(usize::try_from(count)?)
}

/// How often the login tries to get a lock that another session holds.
const LOCK_TRIES: usize = 200;

/// A login without any right in the database.
pub struct Stranger(PgConnection);

impl Stranger {
    pub async fn open(url: &str) -> Result<Self, RunError> {
        let mut connection = PgConnection::connect(url).await?;
        let role = "DO $$ BEGIN CREATE ROLE torture_stranger; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$";
        sqlx::raw_sql(role).execute(&mut connection).await?;
        Ok(Self(connection))
    }

    /// Takes the locks that any login could derive from the names of the schema. Returns how many it holds. It retries
    /// a lock that another session holds for a while and then skips it, so it never waits for long.
    pub async fn take_locks(&mut self) -> Result<i64, RunError> {
        let relations: Vec<i32> =
            sqlx::query_scalar("SELECT oid::int FROM pg_class WHERE relnamespace = 'recado'::regnamespace").fetch_all(&mut self.0).await?;
        sqlx::raw_sql("SET SESSION AUTHORIZATION torture_stranger").execute(&mut self.0).await?;
        let wanted: Vec<(i32, i32)> = relations.iter().flat_map(|oid| (0..4).map(|n| (*oid, n))).collect();
        let mut left = wanted.clone();
        for _ in 0..LOCK_TRIES {
            let (oids, numbers): (Vec<i32>, Vec<i32>) = left.iter().copied().unzip();
            let sql = "SELECT oid, n FROM unnest($1::int[], $2::int[]) AS l (oid, n) WHERE NOT pg_try_advisory_lock(oid, n)";
            left = sqlx::query_as(sql).bind(&oids).bind(&numbers).fetch_all(&mut self.0).await?;
            if left.is_empty() {
                break;
            }
        }
        Ok(i64::try_from(wanted.len() - left.len())?)
    }
}

/// A SQL producer: it calls `recado.notify` inside its own transactions.
pub struct ProducerConnection(PgConnection);

/// The arguments of `recado.notify`.
pub struct Call<'a> {
    pub title: &'a str,
    pub message: &'a str,
    pub data: &'a str,
    pub user: Option<&'a str>,
    pub users: Option<&'a [String]>,
    pub account: Option<&'a str>,
    pub everyone: bool,
    pub ttl: Option<i64>,
    pub replay: bool,
    pub key: Option<&'a str>,
}

impl ProducerConnection {
    pub async fn open(url: &str) -> Result<Self, RunError> {
        Ok(Self(PgConnection::connect(url).await?))
    }

    pub async fn begin(&mut self) -> Result<(), RunError> {
        sqlx::raw_sql("BEGIN").execute(&mut self.0).await?;
        Ok(())
    }

    /// Calls `recado.notify`. Returns the id that the notification will have.
    pub async fn notify(&mut self, call: &Call<'_>) -> Result<String, RunError> {
        let sql = "SELECT recado.notify('torture', $1, $2, $3::text, user_id => $4, user_ids => $5, account_id => $6,
                                        broadcast => $7, ttl => $8, replay => $9, idempotency_key => $10)::text";
        let query = sqlx::query_scalar(sql).bind(call.title).bind(call.message).bind(call.data).bind(call.user).bind(call.users);
        let query = query.bind(call.account).bind(call.everyone).bind(call.ttl).bind(call.replay).bind(call.key);
        Ok(query.fetch_one(&mut self.0).await?)
    }

    pub async fn commit(&mut self) -> Result<(), RunError> {
        sqlx::raw_sql("COMMIT").execute(&mut self.0).await?;
        Ok(())
    }

    pub async fn rollback(&mut self) -> Result<(), RunError> {
        sqlx::raw_sql("ROLLBACK").execute(&mut self.0).await?;
        Ok(())
    }
}

/// Finds the tables that contain one of these texts.
pub async fn tables_with(url: &str, texts: &[String]) -> Result<Vec<(String, String)>, RunError> {
    let mut connection = PgConnection::connect(url).await?;
    let list = "SELECT c.relname FROM pg_class c WHERE c.relnamespace = 'recado'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition";
    let tables: Vec<String> = sqlx::query_scalar(list).fetch_all(&mut connection).await?;
    let mut found = Vec::new();
    for table in tables {
        // The names come from the catalogue. A row is converted to text once, not once for each text.
        let sql = format!(
            "WITH line AS MATERIALIZED (SELECT t::text AS text FROM recado.\"{table}\" t)
             SELECT s FROM unnest($1::text[]) AS s WHERE EXISTS (SELECT FROM line WHERE position(s IN line.text) > 0)"
        );
        let texts: Vec<String> = sqlx::query_scalar(AssertSqlSafe(sql)).bind(texts).fetch_all(&mut connection).await?;
        found.extend(texts.into_iter().map(|text| (text, table.clone())));
    }
    Ok(found)
}
