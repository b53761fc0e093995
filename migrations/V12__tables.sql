-- Times that an index can be asked for, and tables that do not grow for ever.

-- clock_timestamp() is volatile: it has another value for each row, so no index condition can be made of it. What compares a
-- column with the time uses statement_timestamp(), or a variable of the function where it has waited for a lock before.
-- What holds a lease compares with clock_timestamp() still: a statement that waited for the row must not act after its end.

-- Serves retention: "which sessions ended before".
CREATE INDEX session_ended ON recado.session (ended_at) WHERE ended_at IS NOT NULL;
-- Serves the look for hubs that died, every few seconds on each hub. Not by seen_at, which changes as often.
CREATE INDEX instance_live ON recado.instance (instance_id) WHERE ended_at IS NULL;
-- Serves retention: "which hubs ended before".
CREATE INDEX instance_ended ON recado.instance (ended_at) WHERE ended_at IS NOT NULL;
-- Serves retention: "which commands were settled before". The BRIN index on accepted_at stays for questions by time: once
-- deleted rows have made room for new ones, it leads to the whole of the table.
CREATE INDEX upstream_command_settled ON recado.upstream_command (settled_at) WHERE settled_at IS NOT NULL;

-- How far the look for sessions that nobody wants has come, as recado.device_walk. An index by wanted_until would have to be
-- written each time that somebody still wants one.
CREATE TABLE recado.upstream_walk (
    one      boolean PRIMARY KEY DEFAULT true CHECK (one),
    provider text    NOT NULL DEFAULT '',
    user_id  text    NOT NULL DEFAULT ''
);
INSERT INTO recado.upstream_walk DEFAULT VALUES;
REVOKE ALL ON recado.upstream_walk FROM PUBLIC;

-- One word changes in each; the rest of them stays as it is.
DO $$
DECLARE
    f record;
    made text;
BEGIN
    FOR f IN SELECT p.oid, v.old, v.new
               FROM (VALUES ('forget_devices', 'c.seen_at) < clock_timestamp()', 'c.seen_at) < statement_timestamp()'),
                            ('outbox_tidy', 'r.refused_at < clock_timestamp()', 'r.refused_at < statement_timestamp()')) AS v (name, old, new)
               JOIN pg_catalog.pg_proc p ON p.proname = v.name AND p.pronamespace = 'recado'::regnamespace LOOP
        made := pg_get_functiondef(f.oid);
        IF strpos(made, f.old) > 0 THEN
            EXECUTE replace(made, f.old, f.new);
        END IF;
    END LOOP;
END $$;

-- As in V8, but in two arms, each by its own index: who is free and due, and whose lease is over. As one condition it read
-- every session that ever was, each second on each hub. The moment is taken once: neither arm waits for a lock.
CREATE OR REPLACE FUNCTION recado.upstream_claim(p_instance uuid, p_lease_seconds double precision, p_most integer, p_providers text[])
RETURNS TABLE (provider text, user_id text, term bigint, secret bytea, attempts integer, state text, unknown integer, live_until timestamptz)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    due       record;
    new_term  bigint;
    marked    integer;
    t         timestamptz := clock_timestamp();
BEGIN
    FOR due IN
        WITH free AS (
            SELECT s.*
              FROM recado.upstream_session s
             WHERE s.owner IS NULL AND s.state NOT IN ('refused', 'idle', 'released')
               AND s.next_try_at <= t AND s.wanted_until > t AND s.provider = ANY (p_providers)
             ORDER BY s.next_try_at
             LIMIT p_most
               FOR UPDATE SKIP LOCKED
        ), left_behind AS (
            SELECT s.*
              FROM recado.upstream_session s
             WHERE s.owner IS NOT NULL AND s.lease_until <= t AND s.state NOT IN ('refused', 'idle', 'released')
               AND s.next_try_at <= t AND s.wanted_until > t AND s.provider = ANY (p_providers)
             ORDER BY s.next_try_at
             LIMIT p_most
               FOR UPDATE SKIP LOCKED
        )
        SELECT s.provider, s.user_id, s.state, s.secret, s.attempts,
               -- An owner that was lost may have been connected without having written so.
               CASE WHEN s.was_live OR s.owner IS NOT NULL AND s.state = 'connecting'
                    THEN coalesce(greatest(s.connected_at, s.last_message_at, s.last_ping_at), s.updated_at) END AS live_until
          FROM (SELECT * FROM free UNION ALL SELECT * FROM left_behind) s
         ORDER BY s.next_try_at
         LIMIT p_most
    LOOP
        new_term := nextval('recado.upstream_term');
        UPDATE recado.upstream_session s
           SET owner = p_instance, term = new_term, lease_until = clock_timestamp() + make_interval(secs => p_lease_seconds),
               state = 'waiting', updated_at = clock_timestamp(),
               version = CASE s.state WHEN 'waiting' THEN s.version ELSE nextval('recado.upstream_version') END
         WHERE s.provider = due.provider AND s.user_id = due.user_id;
        UPDATE recado.upstream_command c
           SET state = 'unknown', settled_at = clock_timestamp(), detail = 'owner_lost'
         WHERE c.provider = due.provider AND c.user_id = due.user_id AND c.state = 'sending' AND c.term < new_term;
        GET DIAGNOSTICS marked = ROW_COUNT;
        IF marked > 0 THEN
            PERFORM recado.upstream_hint('command', due.provider, due.user_id);
        END IF;
        RETURN QUERY SELECT due.provider, due.user_id, new_term, due.secret, due.attempts, due.state, marked, due.live_until;
    END LOOP;
END $$;

-- As in V8; the moment is taken after the wait for the sessions.
CREATE OR REPLACE FUNCTION recado.upstream_take(p_instance uuid, p_provider text[], p_user_id text[], p_term bigint[], p_most integer)
RETURNS TABLE (command_id uuid, provider text, user_id text, term bigint, place bigint, type text, payload text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    held_provider text[];
    held_user_id  text[];
    held_term     bigint[];
    t             timestamptz;
BEGIN
    SELECT array_agg(h.provider), array_agg(h.user_id), array_agg(h.term) INTO held_provider, held_user_id, held_term
      FROM recado.upstream_hold(p_instance, p_provider, p_user_id, p_term) h;
    t := clock_timestamp();
    RETURN QUERY
    WITH next AS (
        SELECT c.command_id, h.term
          FROM unnest(held_provider, held_user_id, held_term) AS h (provider, user_id, term)
          JOIN recado.upstream_command c ON c.provider = h.provider AND c.user_id = h.user_id
         WHERE c.state = 'accepted' AND c.reject_at > t
         ORDER BY c.provider, c.user_id, c.place
         LIMIT p_most
           FOR UPDATE OF c),
    taken AS (
        UPDATE recado.upstream_command c
           SET state = 'sending', term = n.term, taken_at = clock_timestamp()
          FROM next n
         WHERE c.command_id = n.command_id AND c.state = 'accepted'
        RETURNING c.command_id, c.provider, c.user_id, c.term, c.place, c.type, c.payload::text)
    SELECT * FROM taken t ORDER BY t.provider, t.user_id, t.place;
END $$;

-- Looks at the next `p_rows` sessions after the given one and deletes those that nobody holds and nobody has wanted for so long.
-- One that somebody has locked is wanted just now, and is skipped.
CREATE FUNCTION recado.forget_upstream_sessions(
    p_provider text, p_user_id text, p_rows integer, p_seconds double precision,
    OUT looked integer, OUT forgotten integer, OUT last_provider text, OUT last_user_id text)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off
AS $$
BEGIN
    forgotten := 0;
    SELECT count(*), (array_agg(k.provider ORDER BY k.place DESC))[1], (array_agg(k.user_id ORDER BY k.place DESC))[1]
      INTO looked, last_provider, last_user_id
      FROM (SELECT s.provider, s.user_id, row_number() OVER (ORDER BY s.provider, s.user_id) AS place
              FROM recado.upstream_session s
             WHERE (s.provider, s.user_id) > (p_provider, p_user_id)
             ORDER BY s.provider, s.user_id
             LIMIT p_rows) k;
    IF looked = 0 THEN
        RETURN;
    END IF;
    -- Ended by a LIMIT: of two bounds by both columns, an index scan stops at the upper one only where the first column changes.
    WITH looked_at AS (
        SELECT s.provider, s.user_id, s.owner, s.wanted_until
          FROM recado.upstream_session s
         WHERE (s.provider, s.user_id) > (p_provider, p_user_id)
         ORDER BY s.provider, s.user_id
         LIMIT looked
    ), old AS (
        SELECT s.provider, s.user_id
          FROM looked_at l
          JOIN recado.upstream_session s ON s.provider = l.provider AND s.user_id = l.user_id
         WHERE l.owner IS NULL AND l.wanted_until < statement_timestamp() - make_interval(secs => p_seconds)
           AND s.owner IS NULL AND s.wanted_until < statement_timestamp() - make_interval(secs => p_seconds)
           FOR UPDATE OF s SKIP LOCKED)
    DELETE FROM recado.upstream_session s
     USING old o
     WHERE s.provider = o.provider AND s.user_id = o.user_id;
    GET DIAGNOSTICS forgotten = ROW_COUNT;
END $$;
REVOKE ALL ON FUNCTION recado.forget_upstream_sessions(text, text, integer, double precision) FROM PUBLIC;

-- Forgets the devices of one user that were not used for longest, until `p_most` are left; called when a new one was stored.
-- Those that are connected stay. What goes leaves the same mark as in recado.forget_devices. Says how many went.
--
-- Two calls at once may each leave one too many; the next new device takes them along. No deadlock: it waits for no lock of a
-- device, as the forgetting, and the user's mark is the last that it asks for. One user a transaction: the forgetting holds marks.
CREATE FUNCTION recado.trim_devices(p_user_id text, p_most integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off
AS $$
DECLARE
    most CONSTANT integer := 1000;  -- client ids that are remembered one by one, as in recado.forget_devices
    known   integer;
    trimmed integer;
BEGIN
    SELECT count(*) INTO known FROM recado.cursor c WHERE c.user_id = p_user_id;
    IF known <= greatest(p_most, 1) THEN
        RETURN 0;
    END IF;
    WITH unused AS (
        SELECT c.user_id, c.client_id
          FROM recado.cursor c
         WHERE c.user_id = p_user_id
           AND NOT EXISTS (SELECT FROM recado.session s
                            WHERE s.user_id = c.user_id AND s.client_id = c.client_id AND s.ended_at IS NULL)
         ORDER BY greatest(c.acked_at, c.seen_at), c.created_at
         -- Some are held by others; more than some thousand at once would be a long transaction.
         LIMIT least(known - greatest(p_most, 1), 5000)
           FOR UPDATE OF c SKIP LOCKED
    ), gone AS (
        DELETE FROM recado.cursor c
         USING unused u
         WHERE c.user_id = u.user_id AND c.client_id = u.client_id
        RETURNING c.user_id, recado.device_hash(c.client_id) AS client,
                  CASE WHEN c.log_id = (SELECT m.log_id FROM recado.meta m) THEN c.acked_seq ELSE 0 END AS acked_seq
    ), marks AS (
        INSERT INTO recado.forgotten_device AS f (user_id, log_id, from_seq, clients, any_client)
        SELECT g.user_id, (SELECT m.log_id FROM recado.meta m), min(g.acked_seq),
               CASE WHEN count(*) > most THEN '{}' ELSE array_agg(g.client) END, count(*) > most
          FROM gone g
         GROUP BY g.user_id
        ON CONFLICT (user_id) DO UPDATE
           SET log_id = excluded.log_id,
               from_seq = CASE WHEN f.log_id = excluded.log_id THEN least(f.from_seq, excluded.from_seq) ELSE 0 END,
               (clients, any_client) = (
                   SELECT CASE WHEN f.any_client OR excluded.any_client OR count(*) > most THEN '{}'
                               ELSE coalesce(array_agg(u.client), '{}') END,
                          f.any_client OR excluded.any_client OR count(*) > most
                     FROM (SELECT DISTINCT unnest(f.clients || excluded.clients)) AS u (client))
    )
    SELECT count(*) INTO trimmed FROM gone;
    RETURN trimmed;
END $$;

REVOKE ALL ON FUNCTION recado.trim_devices(text, integer) FROM PUBLIC;

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'recado_hub') THEN
        GRANT SELECT ON recado.upstream_walk TO recado_hub;
        GRANT EXECUTE ON FUNCTION recado.trim_devices(text, integer) TO recado_hub;
    END IF;
EXCEPTION
    WHEN insufficient_privilege THEN NULL;
END $$;
