-- Devices that nobody uses any more are forgotten, and whoever comes back after that is told so.

-- When the device was last known to be connected, to within a day: a write a device and day, not one a connection.
-- Everyone who is there now counts as seen now, so that nobody is forgotten sooner than the setting says.
ALTER TABLE recado.cursor ADD COLUMN seen_at timestamptz NOT NULL DEFAULT now();

-- Serves the forgetting: "is this device connected somewhere".
CREATE INDEX session_live_device ON recado.session (user_id, client_id) WHERE ended_at IS NULL;

-- What stays of forgotten devices: one row a user, of at most 8 KB. A device that is unknown and stands here is told that it
-- has lost something; without this it would be taken for a new one. `from_seq` is the lowest place that one of them had.
-- Past 1,000 devices of one user `clients` is emptied and `any_client` set: every unknown device of the user may be one.
CREATE TABLE recado.forgotten_device (
    user_id    text     PRIMARY KEY,
    log_id     uuid     NOT NULL,
    from_seq   bigint   NOT NULL CONSTRAINT from_is_not_negative CHECK (from_seq >= 0),
    clients    bigint[] NOT NULL,
    any_client boolean  NOT NULL DEFAULT false
);

-- How far the forgetting has come in its walk through recado.cursor; one row. It goes on there after a restart and on
-- another instance. There is no index by time: it would have to be written with each acknowledgement.
CREATE TABLE recado.device_walk (
    one       boolean PRIMARY KEY DEFAULT true CHECK (one),
    user_id   text    NOT NULL DEFAULT '',
    client_id text    NOT NULL DEFAULT ''
);
INSERT INTO recado.device_walk DEFAULT VALUES;

-- Eight bytes that stand for a client id; the same in every version of PostgreSQL, unlike hashtext.
CREATE FUNCTION recado.device_hash(client_id text) RETURNS bigint
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN ('x' || encode(substr(sha256(convert_to(client_id, 'UTF8')), 1, 8), 'hex'))::bit(64)::bigint;

-- The place of a device that connects, in one call: its stored one, or `p_start` for a new one, stored for good; or, for
-- a forgotten one, the place that it had at least, and nothing is stored: it is told the loss until it acknowledges something.
--
-- Each statement takes its own snapshot. A device that is being forgotten just now is locked: the UPDATE waits for the end
-- of that, finds the row gone, and the statements after it see the mark.
CREATE FUNCTION recado.device_place(
    p_user_id text, p_client_id text, p_log_id uuid, p_start bigint,
    OUT log_id uuid, OUT acked_seq bigint, OUT is_new boolean, OUT is_forgotten boolean)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $$
#variable_conflict use_column
DECLARE
    known_log uuid;
    known_seq bigint;
    is_due    boolean;
BEGIN
    is_new := false;
    is_forgotten := false;
    -- The second time round: another connection of the device has made its row meanwhile.
    FOR attempt IN 1..3 LOOP
        SELECT c.log_id, c.acked_seq, c.seen_at < clock_timestamp() - interval '1 day' INTO known_log, known_seq, is_due
          FROM recado.cursor c
         WHERE c.user_id = p_user_id AND c.client_id = p_client_id;
        IF FOUND AND is_due THEN
            UPDATE recado.cursor c SET seen_at = clock_timestamp()
             WHERE c.user_id = p_user_id AND c.client_id = p_client_id
            RETURNING c.log_id, c.acked_seq INTO known_log, known_seq;
        END IF;
        IF FOUND THEN
            log_id := known_log;
            acked_seq := known_seq;
            RETURN;
        END IF;

        SELECT f.log_id, f.from_seq INTO known_log, known_seq
          FROM recado.forgotten_device f
         WHERE f.user_id = p_user_id AND (f.any_client OR recado.device_hash(p_client_id) = ANY (f.clients));
        IF FOUND THEN
            log_id := known_log;
            acked_seq := known_seq;
            is_forgotten := true;
            RETURN;
        END IF;

        INSERT INTO recado.cursor (user_id, client_id, log_id, acked_seq) VALUES (p_user_id, p_client_id, p_log_id, p_start)
        ON CONFLICT (user_id, client_id) DO NOTHING;
        IF FOUND THEN
            log_id := p_log_id;
            acked_seq := p_start;
            is_new := true;
            RETURN;
        END IF;
    END LOOP;
    RAISE EXCEPTION 'the device is made and forgotten again and again' USING ERRCODE = 'serialization_failure';
END $$;

-- Looks at the next `p_rows` devices after the given one and forgets those that were not seen for so long and are not
-- connected. The only writer of recado.forgotten_device; called by one instance at a time (lock of retention).
--
-- It waits for no lock of a row: what somebody holds is being acknowledged or seen, and is skipped. So it cannot be part of
-- a deadlock, in whatever order it takes its rows.
CREATE FUNCTION recado.forget_devices(
    p_user_id text, p_client_id text, p_rows integer, p_seconds double precision,
    OUT looked integer, OUT forgotten integer, OUT last_user_id text, OUT last_client_id text)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
-- A step finds its rows by their keys, however few they are thought to be: the whole of a table is never read.
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    most CONSTANT integer := 1000;  -- client ids that are remembered one by one, a user
BEGIN
    forgotten := 0;
    SELECT count(*), (array_agg(k.user_id ORDER BY k.place DESC))[1], (array_agg(k.client_id ORDER BY k.place DESC))[1]
      INTO looked, last_user_id, last_client_id
      FROM (SELECT c.user_id, c.client_id, row_number() OVER (ORDER BY c.user_id, c.client_id) AS place
              FROM recado.cursor c
             WHERE (c.user_id, c.client_id) > (p_user_id, p_client_id)
             ORDER BY c.user_id, c.client_id
             LIMIT p_rows) k;
    IF looked = 0 THEN
        RETURN;
    END IF;

    -- A hash of a device that is known again has done its work.
    UPDATE recado.forgotten_device f
       SET clients = ARRAY(SELECT unnest(f.clients) EXCEPT SELECT unnest(k.hashes))
      FROM (SELECT c.user_id, array_agg(recado.device_hash(c.client_id)) AS hashes
              FROM recado.cursor c
             WHERE (c.user_id, c.client_id) > (p_user_id, p_client_id)
               AND (c.user_id, c.client_id) <= (last_user_id, last_client_id)
               AND EXISTS (SELECT FROM recado.forgotten_device o WHERE o.user_id = c.user_id AND o.clients <> '{}')
             GROUP BY c.user_id) k
     WHERE f.user_id = k.user_id AND f.clients && k.hashes;
    IF FOUND THEN
        DELETE FROM recado.forgotten_device f
         WHERE f.user_id >= p_user_id AND f.user_id <= last_user_id AND f.clients = '{}' AND NOT f.any_client;
    END IF;

    WITH idle AS (
        SELECT c.user_id, c.client_id
          FROM recado.cursor c
         WHERE (c.user_id, c.client_id) > (p_user_id, p_client_id)
           AND (c.user_id, c.client_id) <= (last_user_id, last_client_id)
           AND greatest(c.acked_at, c.seen_at) < clock_timestamp() - make_interval(secs => p_seconds)
           AND NOT EXISTS (SELECT FROM recado.session s
                            WHERE s.user_id = c.user_id AND s.client_id = c.client_id AND s.ended_at IS NULL)
           FOR UPDATE OF c SKIP LOCKED
    ), gone AS (
        DELETE FROM recado.cursor c
         USING idle i
         WHERE c.user_id = i.user_id AND c.client_id = i.client_id
        -- A place of another history says nothing in this one: all of this one may be lost to the device.
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
    SELECT count(*) INTO forgotten FROM gone;
END $$;

-- The function keeps its plans. One that was made when the partition of the head was known to be empty (a nightly VACUUM ANALYZE
-- tells the partitions that lie ahead) reads it from end to end, and goes on doing so while it fills. Compiling pays for
-- none of its statements; that some scan of one row has no index would look expensive enough to try.
ALTER FUNCTION recado.append(
    bigint, uuid, text, uuid[], text[], text[], text[], text[], text[], text[], text[], text[],
    integer[], boolean[], text[], uuid[], bigint[], boolean) SET enable_seqscan = off;
ALTER FUNCTION recado.append(
    bigint, uuid, text, uuid[], text[], text[], text[], text[], text[], text[], text[], text[],
    integer[], boolean[], text[], uuid[], bigint[], boolean) SET jit = off;

-- Serves retention: "the keys of these numbers". The BRIN index of before led to them only while the rows lay in the order
-- of seq: what is deleted makes room for new keys among the old ones, and each step then read most of the table. New
-- entries go to the right end, so an append pays little for it.
CREATE INDEX idempotency_by_seq ON recado.idempotency (seq);
DROP INDEX recado.idempotency_seq;

REVOKE ALL ON recado.forgotten_device, recado.device_walk FROM PUBLIC;
REVOKE ALL ON FUNCTION recado.device_hash(text), recado.device_place(text, text, uuid, bigint),
                       recado.forget_devices(text, text, integer, double precision) FROM PUBLIC;

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'recado_hub') THEN
        GRANT SELECT ON recado.forgotten_device, recado.device_walk TO recado_hub;
        GRANT EXECUTE ON FUNCTION recado.device_place(text, text, uuid, bigint) TO recado_hub;
    END IF;
EXCEPTION
    WHEN insufficient_privilege THEN NULL;
END $$;
