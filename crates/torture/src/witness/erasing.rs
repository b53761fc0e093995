//! Reads erasures from the database: the former content of rows, and remnants of it.

use std::collections::BTreeMap;

use recado::domain::{Seq, UserId};
use recado::store::erase::{self, EraseTarget};
use recado_torture_check::fact::RunFact;
use sqlx::{Connection, PgConnection, Row};

use super::{Text, tables_with};
use crate::RunError;
use crate::book::Recorder;

/// Records the former content of each changed row of the log, and the titles erased in the outbox.
pub(super) const AUDIT: &str = "
CREATE TABLE torture.erased (n bigserial PRIMARY KEY, at timestamptz DEFAULT clock_timestamp(), seq bigint, title text, message text,
                             data text, type text, user_id text, is_whole boolean);
CREATE FUNCTION torture.note_erased() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO torture.erased (seq, title, message, data, type, user_id, is_whole)
    VALUES (OLD.seq, OLD.title, OLD.message, OLD.data::text, OLD.type, OLD.user_id, NEW.type = 'erased');
    RETURN NULL;
END $$;
CREATE TRIGGER torture_note_erased AFTER UPDATE ON recado.log FOR EACH ROW EXECUTE FUNCTION torture.note_erased();
CREATE TABLE torture.unposted (title text);
CREATE FUNCTION torture.note_unposted() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO torture.unposted VALUES (OLD.title);
    RETURN NULL;
END $$;
CREATE TRIGGER torture_note_unposted AFTER DELETE ON recado.outbox FOR EACH ROW EXECUTE FUNCTION torture.note_unposted();
";

/// The mutant that reports an erasure and erases nothing.
pub(super) const ERASE_NOTHING: &str = "
CREATE OR REPLACE FUNCTION recado.erase_rows(p_user_id text, p_after bigint, p_upto bigint, OUT erased bigint, OUT unlisted bigint)
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$ SELECT 1::bigint, 0::bigint $$;
";

/// Most erased texts to search for; each is searched for in every row of every table.
const LOOKED_FOR: i64 = 30;
/// Least length of such a text: a shorter one may occur by chance.
const LONG_ENOUGH: i32 = 40;

/// Erases all of a user, or one number, as `recado erase` does.
pub async fn erase(url: &str, user: Option<&str>, seq: Option<i64>) -> Result<(), RunError> {
    let what = match (user, seq) {
        (Some(user), _) => EraseTarget::User(UserId::parse(user)?),
        (None, seq) => EraseTarget::Seq(Seq::from_db(seq.unwrap_or_default())),
    };
    erase::erase(&mut PgConnection::connect(url).await?, &what, "the torture run").await?;
    Ok(())
}

/// Writes the audit into the history. Returns the first content of the changed rows.
pub(super) async fn testify(connection: &mut PgConnection, book: &Recorder) -> Result<BTreeMap<i64, Text>, RunError> {
    let sql = "SELECT seq, title, message, data, type, user_id, is_whole, floor(extract(epoch FROM at) * 1000)::bigint
                 FROM torture.erased ORDER BY n";
    let mut first: BTreeMap<i64, Text> = BTreeMap::new();
    for row in sqlx::query(sql).fetch_all(&mut *connection).await? {
        let seq: i64 = row.get(0);
        let text = Text { title: row.get(1), message: row.get(2), data: row.get(3), kind: row.get(4), user: row.get(5) };
        if row.get(6) {
            book.note(RunFact::Erased { seq, at: row.get(7) });
        }
        first.entry(seq).or_insert(text);
    }
    for title in sqlx::query_scalar("SELECT title FROM torture.unposted").fetch_all(connection).await? {
        book.note(RunFact::Unposted { title });
    }
    Ok(first)
}

/// Searches all tables of the hub for the data of some erased rows. Skips the provider's messages: each repeats one
/// letter.
pub(super) async fn look_for_remnants(url: &str, book: &Recorder, connection: &mut PgConnection) -> Result<(), RunError> {
    let sql = "SELECT substring(data FROM '\"blob\":\"([a-z]+)\"') FROM torture.erased
                WHERE is_whole AND data !~ '\"blob\":\"x+\"' AND length(substring(data FROM '\"blob\":\"([a-z]+)\"')) >= $1 ORDER BY random() LIMIT $2";
    let blobs: Vec<String> = sqlx::query_scalar(sql).bind(LONG_ENOUGH).bind(LOOKED_FOR).fetch_all(connection).await?;
    for (blob, table) in tables_with(url, &blobs).await? {
        book.note(RunFact::Remnant { what: format!("data with {}...", &blob[..12]), place: format!("the table {table}") });
    }
    Ok(())
}
