//! Reads provider sessions from the database: claims, results of commands, messages.

use recado_torture_check::fact::{FactAudience, RunFact};
use serde_json::Value;
use sqlx::{Connection, PgConnection, Row};

use crate::RunError;
use crate::book::Recorder;
use crate::hubs::Roll;
use crate::provider;

/// Records the owners of provider sessions: the sessions' own rows do not keep earlier owners.
pub(super) const AUDIT: &str = "
CREATE TABLE torture.claim (n bigserial PRIMARY KEY, user_id text, term bigint, owner text, at timestamptz, old_owner text, old_lease_until timestamptz);
CREATE FUNCTION torture.note_claim() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO torture.claim (user_id, term, owner, at, old_owner, old_lease_until)
    VALUES (NEW.user_id, NEW.term, NEW.owner::text, clock_timestamp(), OLD.owner::text, OLD.lease_until);
    RETURN NEW;
END $$;
CREATE TRIGGER torture_note_claim AFTER UPDATE ON recado.upstream_session
    FOR EACH ROW WHEN (NEW.term <> OLD.term) EXECUTE FUNCTION torture.note_claim();
";

/// The mutant whose database does not check whether the caller still owns the session.
pub(super) const NO_FENCE: &str = "
CREATE OR REPLACE FUNCTION recado.upstream_hold(p_instance uuid, p_provider text[], p_user_id text[], p_term bigint[])
RETURNS TABLE (provider text, user_id text, term bigint)
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    SELECT DISTINCT u.provider, u.user_id, u.term FROM unnest(p_provider, p_user_id, p_term) AS u (provider, user_id, term)
     ORDER BY 1, 2
$$;
";

/// Returns the instance that holds the most provider sessions now.
pub async fn busiest(url: &str) -> Result<Option<String>, RunError> {
    let sql = "SELECT owner::text FROM recado.upstream_session WHERE state = 'live' AND lease_until > clock_timestamp()
                GROUP BY owner ORDER BY count(*) DESC LIMIT 1";
    Ok(sqlx::query_scalar(sql).fetch_optional(&mut PgConnection::connect(url).await?).await?)
}

/// Counts the sessions that other instances have taken over from this one.
pub async fn taken_from(url: &str, instance: &str) -> Result<i64, RunError> {
    let sql = "SELECT count(*) FROM torture.claim WHERE old_owner = $1 AND owner <> $1";
    Ok(sqlx::query_scalar(sql).bind(instance).fetch_one(&mut PgConnection::connect(url).await?).await?)
}

/// Counts the commands without a known result.
pub async fn unsettled(url: &str) -> Result<i64, RunError> {
    let sql = "SELECT count(*) FROM recado.upstream_command WHERE settled_at IS NULL";
    Ok(sqlx::query_scalar(sql).fetch_one(&mut PgConnection::connect(url).await?).await?)
}

/// The history's name of a row from the provider: its socket and its number on the socket. A gap notification is named
/// by its own number.
pub(super) fn name(book: &Recorder, seq: i64, kind: &str, user: String, data: &str, hash: &str) -> String {
    let value: Value = serde_json::from_str(data).unwrap_or_default();
    let said = value["link"].as_u64().zip(value["n"].as_u64()).map(|(link, n)| (usize::try_from(link).unwrap_or(usize::MAX), n));
    let title = said.map_or_else(|| format!("up/{seq}"), |(link, n)| format!("up/{link}-{n}"));
    if kind == "upstream_gap" {
        let (title, audience, hash) = (title.clone(), FactAudience::Users(vec![user.clone()]), hash.to_owned());
        book.note(RunFact::UpGap { title, audience, hash });
    }
    book.note(RunFact::UpEntry { seq, user, said });
    title
}

pub(super) async fn testify(connection: &mut PgConnection, book: &Recorder, roll: &Roll) -> Result<(), RunError> {
    let sql = "SELECT user_id, term, owner, floor(extract(epoch FROM at) * 1000)::bigint, old_owner,
                      floor(extract(epoch FROM old_lease_until) * 1000)::bigint
                 FROM torture.claim ORDER BY n";
    for row in sqlx::query(sql).fetch_all(&mut *connection).await? {
        let (owner, old): (String, Option<String>) = (row.get(2), row.get(4));
        let taken_over = old.is_some_and(|old| old != owner);
        let process = roll.process_of(&owner);
        book.note(RunFact::UpTerm { user: row.get(0), term: row.get(1), process, at: row.get(3), old_lease_until: row.get(5), taken_over });
    }
    let sql = "SELECT user_id, id, state, term, floor(extract(epoch FROM settled_at) * 1000)::bigint
                 FROM recado.upstream_command WHERE provider = $1 ORDER BY place";
    for row in sqlx::query(sql).bind(provider::NAME).fetch_all(connection).await? {
        book.note(RunFact::UpCommand { user: row.get(0), command: row.get(1), state: row.get(2), term: row.get(3), settled: row.get(4) });
    }
    Ok(())
}
