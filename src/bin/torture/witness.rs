//! What the database itself says, asked over its own socket: the log, the places, who is connected.

pub mod upstream;

use std::str::FromStr;

use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};

use crate::Trouble;
use crate::book::Book;
use crate::fact::{self, Fact};
use crate::hubs::Roll;

/// Writes down every change of a place, as an auditor would, whatever the hub means by it.
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

/// The mutant that takes numbers before it knows whether they are needed, as a sequence would be asked.
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

pub fn user_of(url: &str) -> Result<String, Trouble> {
    Ok(PgConnectOptions::from_str(url)?.get_username().to_owned())
}

pub async fn prepare(url: &str, mutant: Option<&str>) -> Result<(), Trouble> {
    run(url, AUDIT).await?;
    run(url, upstream::AUDIT).await?;
    match mutant {
        Some("sequence") => run(url, NUMBERS_FROM_A_SEQUENCE).await,
        Some("no-fence") => run(url, upstream::NO_FENCE).await,
        _ => Ok(()),
    }
}

async fn run(url: &str, sql: &'static str) -> Result<(), Trouble> {
    sqlx::raw_sql(sql).execute(&mut PgConnection::connect(url).await?).await?;
    Ok(())
}

pub async fn head(url: &str) -> Result<i64, Trouble> {
    let mut connection = PgConnection::connect(url).await?;
    Ok(sqlx::query_scalar("SELECT coalesce(max(seq), 0) FROM recado.log").fetch_one(&mut connection).await?)
}

/// The backend of a hub's connection of this name.
pub async fn backend(url: &str, name: &str) -> Result<Option<u32>, Trouble> {
    let mut connection = PgConnection::connect(url).await?;
    let sql = "SELECT pid FROM pg_stat_activity WHERE application_name = $1 ORDER BY random() LIMIT 1";
    let pid: Option<i32> = sqlx::query_scalar(sql).bind(name).fetch_optional(&mut connection).await?;
    Ok(pid.and_then(|pid| u32::try_from(pid).ok()))
}

/// Connections of hubs.
pub async fn connections(url: &str) -> Result<u64, Trouble> {
    let mut connection = PgConnection::connect(url).await?;
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'recado %'";
    let count: i64 = sqlx::query_scalar(sql).fetch_one(&mut connection).await?;
    Ok(u64::try_from(count).unwrap_or(0))
}

/// Writes the whole log and the audits into the history.
pub async fn testify(url: &str, book: &Book, roll: &Roll) -> Result<(), Trouble> {
    let mut connection = PgConnection::connect(url).await?;
    let meta = sqlx::query("SELECT log_id::text, floor_seq, greatest(floor_seq, (SELECT max(seq) FROM recado.log)) FROM recado.meta");
    let meta = meta.fetch_one(&mut connection).await?;
    book.note(Fact::Log { log_id: meta.get(0), floor: meta.get(1), head: meta.get::<Option<i64>, _>(2).unwrap_or(0) });
    let rows = sqlx::query("SELECT seq, id::text, title, message, data::text, source, type, user_id FROM recado.log ORDER BY seq");
    for row in rows.fetch_all(&mut connection).await? {
        let (seq, title, message): (i64, String, String) = (row.get(0), row.get(2), row.get(3));
        let data: Option<String> = row.get(4);
        let data = data.as_deref().unwrap_or("null");
        let hash = fact::hash(&[&title, &message, data]);
        let (source, kind, user): (Option<String>, String, Option<String>) = (row.get(5), row.get(6), row.get(7));
        let title = if source.is_some_and(|source| source.starts_with("upstream/")) {
            upstream::name(book, seq, &kind, user.unwrap_or_default(), data, &hash)
        } else {
            title
        };
        book.note(Fact::Row { seq, id: row.get(1), title, hash });
    }
    upstream::testify(&mut connection, book, roll).await?;
    for row in sqlx::query("SELECT device, before, after FROM torture.place ORDER BY n").fetch_all(&mut connection).await? {
        book.note(Fact::Place { device: row.get(0), before: row.get(1), after: row.get(2) });
    }
    Ok(())
}

/// How many of these are in the log.
pub async fn count(url: &str, titles: &[String]) -> Result<usize, Trouble> {
    let mut connection = PgConnection::connect(url).await?;
    let sql = "SELECT count(DISTINCT title) FROM recado.log WHERE title = ANY ($1)";
    let count: i64 = sqlx::query_scalar(sql).bind(titles).fetch_one(&mut connection).await?;
    Ok(usize::try_from(count)?)
}

/// A program that notifies inside transactions of its own.
pub struct Ledger(PgConnection);

/// What `recado.notify` is called with.
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

impl Ledger {
    pub async fn open(url: &str) -> Result<Self, Trouble> {
        Ok(Self(PgConnection::connect(url).await?))
    }

    pub async fn begin(&mut self) -> Result<(), Trouble> {
        sqlx::raw_sql("BEGIN").execute(&mut self.0).await?;
        Ok(())
    }

    /// The id that the notification will have.
    pub async fn notify(&mut self, call: &Call<'_>) -> Result<String, Trouble> {
        let sql = "SELECT recado.notify('torture', $1, $2, $3::text, user_id => $4, user_ids => $5, account_id => $6,
                                        broadcast => $7, ttl => $8, replay => $9, idempotency_key => $10)::text";
        let query = sqlx::query_scalar(sql).bind(call.title).bind(call.message).bind(call.data).bind(call.user).bind(call.users);
        let query = query.bind(call.account).bind(call.everyone).bind(call.ttl).bind(call.replay).bind(call.key);
        Ok(query.fetch_one(&mut self.0).await?)
    }

    pub async fn commit(&mut self) -> Result<(), Trouble> {
        sqlx::raw_sql("COMMIT").execute(&mut self.0).await?;
        Ok(())
    }

    pub async fn rollback(&mut self) -> Result<(), Trouble> {
        sqlx::raw_sql("ROLLBACK").execute(&mut self.0).await?;
        Ok(())
    }
}

/// The tables in which one of these texts stands.
pub async fn tables_with(url: &str, texts: &[String]) -> Result<Vec<(String, String)>, Trouble> {
    let mut connection = PgConnection::connect(url).await?;
    let list = "SELECT c.relname FROM pg_class c WHERE c.relnamespace = 'recado'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition";
    let tables: Vec<String> = sqlx::query_scalar(list).fetch_all(&mut connection).await?;
    let mut found = Vec::new();
    for table in tables {
        // The names come from the catalogue. A row is made a text once, not for each that is looked for.
        let sql = format!(
            "WITH line AS MATERIALIZED (SELECT t::text AS text FROM recado.\"{table}\" t)
             SELECT s FROM unnest($1::text[]) AS s WHERE EXISTS (SELECT FROM line WHERE position(s IN line.text) > 0)"
        );
        let texts: Vec<String> = sqlx::query_scalar(AssertSqlSafe(sql)).bind(texts).fetch_all(&mut connection).await?;
        found.extend(texts.into_iter().map(|text| (text, table.clone())));
    }
    Ok(found)
}
