-- Locks that need a privilege, a mover that nothing in the outbox stops, and an identity for every row.

-- Any login of a database may take any advisory lock, and hold up whoever rests on it. A lock of a relation needs a
-- privilege on it. These relations hold nothing; only their owner, who owns the functions below, may lock them.
-- SHARE UPDATE EXCLUSIVE conflicts with itself, and with no reader: a dump or an analyst holds nothing up. Each has a key,
-- as every table here: a publication of all tables refuses changes of a table without one.
CREATE TABLE recado.append_lock (one boolean PRIMARY KEY);
CREATE TABLE recado.partition_lock (one boolean PRIMARY KEY);
CREATE TABLE recado.outbox_lock (one boolean PRIMARY KEY);
REVOKE ALL ON recado.append_lock, recado.partition_lock, recado.outbox_lock FROM PUBLIC;

-- Who does what one hub at a time does. A row and not a session's lock: a pooler keeps a session after its client has died.
-- Time is the database's. A time further ahead than any lease is of a clock that was set back, and is not believed.
CREATE TABLE recado.lease (
    name   text        PRIMARY KEY,
    holder uuid        NOT NULL,
    until  timestamptz NOT NULL
);
REVOKE ALL ON recado.lease FROM PUBLIC;

-- Takes or renews a lease; whether it is the holder's now.
CREATE FUNCTION recado.take_lease(p_name text, p_holder uuid, p_seconds integer) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- One that is lost in a crash of the server is taken anew.
    PERFORM set_config('synchronous_commit', 'off', true);
    INSERT INTO recado.lease AS l (name, holder, until)
    VALUES (p_name, p_holder, clock_timestamp() + make_interval(secs => p_seconds))
    ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, until = excluded.until
     WHERE l.holder = excluded.holder OR l.until < clock_timestamp() OR l.until > clock_timestamp() + interval '10 minutes';
    RETURN FOUND;
END $$;

CREATE FUNCTION recado.give_lease(p_name text, p_holder uuid) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    DELETE FROM recado.lease WHERE name = p_name AND holder = p_holder;
$$;

-- The lock of a move, if nobody has it. The block keeps the rest of the caller's transaction where it is not had.
CREATE FUNCTION recado.try_outbox_lock() RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    LOCK TABLE recado.outbox_lock IN SHARE UPDATE EXCLUSIVE MODE NOWAIT;
    RETURN true;
EXCEPTION WHEN lock_not_available THEN
    RETURN false;
END $$;

-- Appends and moves that run now are waited for. An append by the old body that waits meanwhile goes on when this is
-- committed, beside the new body: both would give the same next number. The key of the log refuses the second (23505),
-- which hubs take as "surely not appended, try again".
SELECT pg_advisory_xact_lock('recado.log'::regclass::integer, 1);
SELECT pg_advisory_xact_lock('recado.outbox_tick'::regclass::integer, 1);

-- The note of a move by the old body has no `mover`, so two bodies at once cannot move the same rows twice.
ALTER TABLE recado.outbox_tick ADD COLUMN mover smallint NOT NULL DEFAULT 1;
ALTER TABLE recado.outbox_tick ALTER COLUMN mover DROP DEFAULT;

-- Rows of these tables are changed or deleted, and have no key that would be worth its writes.
ALTER TABLE recado.progress REPLICA IDENTITY FULL;
ALTER TABLE recado.outbox REPLICA IDENTITY FULL;
ALTER TABLE recado.outbox_0 REPLICA IDENTITY FULL;
ALTER TABLE recado.outbox_1 REPLICA IDENTITY FULL;
ALTER TABLE recado.outbox_2 REPLICA IDENTITY FULL;
ALTER TABLE recado.outbox_3 REPLICA IDENTITY FULL;

-- As in V10, but for the lock.
CREATE OR REPLACE FUNCTION recado.append(
    p_hint bigint, p_hint_id uuid, p_origin text,
    p_id uuid[], p_type text[], p_title text[], p_message text[], p_data text[],
    p_topic text[], p_user_id text[], p_account_id text[], p_user_ids text[],
    p_ttl_seconds integer[], p_replay boolean[], p_source text[], p_key uuid[], p_body bigint[],
    p_all_or_nothing boolean DEFAULT false,
    OUT first_seq bigint, OUT appended integer, OUT created_at timestamptz,
    OUT known_place integer[], OUT known_seq bigint[], OUT known_id uuid[], OUT known_created_at timestamptz[], OUT known_same_body boolean[])
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan  -- without it every small call is planned anew, at twice the time
SET enable_seqscan = off
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    head     bigint;
    head_id  uuid;
    t        timestamptz;
    has_keys boolean := array_remove(p_key, NULL) <> '{}';
    known    integer[] := '{}';
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'recado.append needs READ COMMITTED, not %', current_setting('transaction_isolation') USING ERRCODE = 'RC002';
    END IF;
    -- Of the transaction, first come, first served. Only the owner of this function may take it.
    LOCK TABLE recado.append_lock IN SHARE UPDATE EXCLUSIVE MODE;

    SELECT l.seq, l.id INTO head, head_id FROM recado.log l WHERE l.seq >= p_hint ORDER BY l.seq DESC LIMIT 1;
    IF head IS NULL THEN
        SELECT greatest(coalesce((SELECT l.seq FROM recado.log l ORDER BY l.seq DESC LIMIT 1), 0), m.floor_seq) INTO head FROM recado.meta m;
        IF head < p_hint THEN
            RAISE EXCEPTION 'the log ends at %, before %, which it once held', head, p_hint USING ERRCODE = 'RC001';
        END IF;
    END IF;

    -- Mostly the head is what was seen last, and nothing more has to be read.
    IF p_hint_id IS NOT NULL AND (head <> p_hint OR head_id IS DISTINCT FROM p_hint_id) THEN
        IF NOT EXISTS (SELECT FROM recado.log l WHERE l.seq = p_hint AND l.id = p_hint_id)
           AND (SELECT m.floor_seq < p_hint FROM recado.meta m) THEN
            RAISE EXCEPTION 'the log holds another notification at % than it once did', p_hint USING ERRCODE = 'RC001';
        END IF;
    END IF;

    IF has_keys THEN
        SELECT array_agg(u.place ORDER BY u.place), array_agg(i.seq ORDER BY u.place), array_agg(l.id ORDER BY u.place),
               array_agg(l.created_at ORDER BY u.place), array_agg(i.body = u.body ORDER BY u.place)
          INTO known_place, known_seq, known_id, known_created_at, known_same_body
          FROM unnest(p_key, p_body) WITH ORDINALITY AS u (key, body, place)
          CROSS JOIN LATERAL (SELECT k.seq, k.body FROM recado.idempotency k WHERE k.key = u.key LIMIT 1) i
          CROSS JOIN LATERAL (SELECT o.id, o.created_at FROM recado.log o WHERE o.seq = i.seq LIMIT 1) l;
        IF p_all_or_nothing AND false = ANY (known_same_body) THEN
            RAISE EXCEPTION 'a key of the batch is known with another body' USING ERRCODE = 'RC005', DETAIL = (
                SELECT string_agg(k.place::text, ',' ORDER BY k.place)
                  FROM unnest(known_place, known_same_body) AS k (place, same_body)
                 WHERE NOT k.same_body);
        END IF;
        known := coalesce(known_place, '{}');
    END IF;

    -- After the lock, so that it never runs back against seq; now() was taken before the wait.
    t := clock_timestamp();
    -- The number of a new row: its place, less the known ones before it. Plain inserts, two of them only where there is
    -- something to insert: one statement for all three would keep the rows and read them three times.
    IF cardinality(p_id) = 1 AND known = '{}' THEN
        -- One that is posted alone: as values it takes a tenth less of the whole call than as a table of one row.
        INSERT INTO recado.log (seq, id, created_at, type, title, message, data, topic, user_id, account_id, user_ids,
                                expires_at, replay, source, bytes)
        VALUES (head + 1, p_id[1], t, p_type[1], p_title[1], p_message[1], p_data[1]::json, p_topic[1], p_user_id[1],
                p_account_id[1], p_user_ids[1]::text[], t + p_ttl_seconds[1] * interval '1 second', p_replay[1], p_source[1],
                octet_length(p_title[1]) + octet_length(p_message[1]) + coalesce(octet_length(p_data[1]), 0));
    ELSE
        INSERT INTO recado.log (seq, id, created_at, type, title, message, data, topic, user_id, account_id, user_ids,
                                expires_at, replay, source, bytes)
        SELECT head + place - width_bucket(place::integer, known), id, t, type, title, message, data::json, topic, user_id,
               account_id, user_ids::text[], t + ttl_seconds * interval '1 second', replay, source,
               octet_length(title) + octet_length(message) + coalesce(octet_length(data), 0)
          FROM unnest(p_id, p_type, p_title, p_message, p_data, p_topic, p_user_id, p_account_id, p_user_ids,
                      p_ttl_seconds, p_replay, p_source)
               WITH ORDINALITY AS u (id, type, title, message, data, topic, user_id, account_id, user_ids,
                                     ttl_seconds, replay, source, place)
         WHERE place <> ALL (known);
    END IF;
    GET DIAGNOSTICS appended = ROW_COUNT;
    IF 'l' = ANY (p_topic) THEN
        INSERT INTO recado.log_member (topic, seq)
        SELECT DISTINCT concat_ws('/', 'u', m, u.account_id), head + u.place - width_bucket(u.place::integer, known)
          FROM unnest(p_topic, p_account_id, p_user_ids, p_replay)
               WITH ORDINALITY AS u (topic, account_id, user_ids, replay, place),
               unnest(u.user_ids::text[]) m
         WHERE u.topic = 'l' AND u.replay AND u.place <> ALL (known);
    END IF;
    IF has_keys THEN
        INSERT INTO recado.idempotency (key, seq, body)
        SELECT key, head + place - width_bucket(place::integer, known), body
          FROM unnest(p_key, p_body) WITH ORDINALITY AS u (key, body, place)
         WHERE key IS NOT NULL AND place <> ALL (known)
        -- A key that outlived its row (retention drops the row first) is as good as new.
        ON CONFLICT (key) DO UPDATE SET seq = excluded.seq, body = excluded.body;
    END IF;

    first_seq := head + 1;
    created_at := t;
    IF appended > 0 THEN
        PERFORM pg_notify('recado', (head + appended)::text || ' ' || p_origin);
    END IF;
END $$;

-- As in V1, but for the lock.
CREATE OR REPLACE FUNCTION recado.ensure_partitions() RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    m     recado.meta%ROWTYPE;
    head  bigint;
    edge  bigint;
    made  integer := 0;
BEGIN
    LOCK TABLE recado.partition_lock IN SHARE UPDATE EXCLUSIVE MODE;
    SELECT * INTO m FROM recado.meta;
    SELECT greatest(coalesce(max(l.seq), 0), m.floor_seq) INTO head FROM recado.log l;
    SELECT coalesce(max(p.hi), 0) INTO edge FROM recado.partition p;
    WHILE edge <= head + 2 * m.partition_rows LOOP
        PERFORM recado.add_partition('log', edge, edge + m.partition_rows);
        PERFORM recado.add_partition('log_member', edge, edge + m.partition_rows);
        INSERT INTO recado.partition (lo, hi) VALUES (edge, edge + m.partition_rows);
        edge := edge + m.partition_rows;
        made := made + 1;
    END LOOP;
    RETURN made;
END $$;

-- Why a row that was written past recado.notify must not come into the log: the rules of recado.notify that the log itself
-- does not check. NULL for a good row.
CREATE FUNCTION recado.outbox_fault(o recado.outbox) RETURNS text
LANGUAGE sql STABLE
RETURN CASE
        WHEN o.type COLLATE "C" !~ '^[a-z0-9][a-z0-9._-]{0,63}$' THEN 'type is not one that recado.notify takes'
        WHEN o.user_id COLLATE "C" !~ '^[A-Za-z0-9._:|@+=~-]{1,128}$' THEN 'user_id is not one that recado.notify takes'
        WHEN o.account_id COLLATE "C" !~ '^[A-Za-z0-9._:|@+=~-]{1,128}$' THEN 'account_id is not one that recado.notify takes'
        WHEN o.user_ids IS NOT NULL AND (array_ndims(o.user_ids) <> 1 OR cardinality(o.user_ids) > 10001
             OR EXISTS (SELECT FROM unnest(o.user_ids) u WHERE u IS NULL OR u COLLATE "C" !~ '^[A-Za-z0-9._:|@+=~-]{1,128}$'))
            THEN 'user_ids is not a list that recado.notify takes'
        WHEN octet_length(o.title) + octet_length(o.message) + coalesce(octet_length(o.data), 0) > 262144
            THEN 'title, message and data have more than 262144 bytes'
        WHEN o.data ~ '(^|[^\\])(\\\\)*\\u0000' THEN 'data holds \u0000, which not every reader takes'
        WHEN o.ttl_seconds < 1 THEN 'ttl is below 1'
    END;

-- As in V4, but for the lock, and that a row that the log does not take is set aside alone: first what no hub could read,
-- then, when the page is refused, by appending its rows one by one. p_set_aside is not looked at any more.
CREATE OR REPLACE FUNCTION recado.outbox_move(
    p_hint bigint, p_hint_id uuid, p_origin text, p_rows integer, p_set_aside boolean DEFAULT false,
    OUT moved integer, OUT refused uuid[], OUT is_more boolean, OUT oldest_running text)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off  -- an outbox that was just emptied has no statistics
SET enable_bitmapscan = off  -- would gather a whole backlog before the first row
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    t        recado.outbox_tick%ROWTYPE;
    now_is   pg_snapshot;
    few      boolean;
    found_in integer;
    last     bigint;
    places   bigint[];
    b        record;
    same     boolean[];
    by_one   boolean := false;
    why      text;
    what     text;
    bad      bigint[] := '{}';
    reasons  text[] := '{}';
BEGIN
    moved := 0;
    refused := '{}';
    is_more := false;
    IF NOT recado.try_outbox_lock() THEN
        RETURN;
    END IF;
    SELECT * INTO STRICT t FROM recado.outbox_tick ORDER BY tick DESC LIMIT 1;
    SELECT pg_current_snapshot() INTO now_is;
    SELECT min(x)::text INTO oldest_running FROM pg_snapshot_xip(now_is) x;

    IF t.moving IS NULL THEN
        SELECT count(*) INTO found_in
          FROM (SELECT FROM recado.outbox_after(t.done) o WHERE pg_visible_in_snapshot(o.xid, now_is) LIMIT p_rows + 1) first_ones;
        IF found_in = 0 THEN
            -- Rows that were rolled back are met at every look until `done` is past them.
            IF pg_snapshot_xmax(now_is)::text::bigint - pg_snapshot_xmax(t.done)::text::bigint > 1000
               OR pg_snapshot_xmax(now_is) > pg_snapshot_xmax(t.done) AND clock_timestamp() - t.at > interval '10 seconds' THEN
                PERFORM set_config('synchronous_commit', 'off', true);
                INSERT INTO recado.outbox_tick (done, cluster, mover) VALUES (now_is, t.cluster, 2);
                -- recado.outbox_tidy is not called while nobody notifies.
                DELETE FROM recado.outbox_tick WHERE tick < t.tick - 100;
            END IF;
            RETURN;
        END IF;
        t.moving := now_is;
        few := found_in <= p_rows;
        IF NOT few THEN
            -- Its ends. Not by the index of places at once: what is moved and cannot be emptied (a dump runs, perhaps, for
            -- hours) would be read through.
            SELECT count(*), min(c.place) - 1, max(c.place) INTO found_in, t.after_place, t.upto_place
              FROM (SELECT o.place FROM recado.outbox_after(t.done) o WHERE pg_visible_in_snapshot(o.xid, t.moving) LIMIT 100000) c;
        END IF;
        IF found_in = 100000 THEN
            -- By the index of places after all: a backlog of days is not read through.
            SELECT o.place - 1 INTO t.after_place FROM recado.outbox o
             WHERE NOT pg_visible_in_snapshot(o.xid, t.done) AND pg_visible_in_snapshot(o.xid, t.moving) ORDER BY o.place LIMIT 1;
            SELECT o.place INTO t.upto_place FROM recado.outbox o
             WHERE NOT pg_visible_in_snapshot(o.xid, t.done) AND pg_visible_in_snapshot(o.xid, t.moving) ORDER BY o.place DESC LIMIT 1;
        END IF;
    END IF;

    -- The page. A few rows are found by their transactions, many by their places.
    IF few THEN
        SELECT array_agg(c.place ORDER BY c.place) FILTER (WHERE c.sum <= 1048576 OR c.sum = c.bytes), max(c.place)
          INTO places, t.upto_place
          FROM (SELECT s.place, s.bytes, sum(s.bytes) OVER (ORDER BY s.place) AS sum
                  FROM (SELECT o.place, octet_length(o.title) + octet_length(o.message) + coalesce(octet_length(o.data), 0) AS bytes
                          FROM recado.outbox_after(t.done) o WHERE pg_visible_in_snapshot(o.xid, t.moving)) s) c;
    ELSE
        SELECT array_agg(c.place ORDER BY c.place) INTO places
          FROM (SELECT o.place, o.bytes, sum(o.bytes) OVER (ORDER BY o.place) AS sum
                  FROM (SELECT o.place, octet_length(o.title) + octet_length(o.message) + coalesce(octet_length(o.data), 0) AS bytes
                          FROM recado.outbox o
                         WHERE o.place > t.after_place AND o.place <= t.upto_place
                           AND NOT pg_visible_in_snapshot(o.xid, t.done) AND pg_visible_in_snapshot(o.xid, t.moving)
                         ORDER BY o.place LIMIT p_rows) o) c
         WHERE c.sum <= 1048576 OR c.sum = c.bytes;
    END IF;
    last := places[cardinality(places)];

    IF places IS NOT NULL THEN
        -- What the log would take and no hub could read is set aside before; what the log refuses, below.
        SELECT coalesce(array_agg(f.place ORDER BY f.place), '{}'), coalesce(array_agg(f.fault ORDER BY f.place), '{}')
          INTO bad, reasons
          FROM (SELECT o.place, recado.outbox_fault(o) AS fault FROM recado.outbox o WHERE o.place = ANY (places)) f
         WHERE f.fault IS NOT NULL;
        -- A key that stands twice in the page goes once.
        SELECT array_agg(r.place ORDER BY r.place) AS place, array_agg(r.id ORDER BY r.place) AS id, array_agg(r.type ORDER BY r.place) AS type,
               array_agg(r.title ORDER BY r.place) AS title, array_agg(r.message ORDER BY r.place) AS message,
               array_agg(r.data ORDER BY r.place) AS data, array_agg(r.topic ORDER BY r.place) AS topic,
               array_agg(r.user_id ORDER BY r.place) AS user_id, array_agg(r.account_id ORDER BY r.place) AS account_id,
               array_agg(r.user_ids::text ORDER BY r.place) AS user_ids, array_agg(r.ttl_seconds ORDER BY r.place) AS ttl_seconds,
               array_agg(r.replay ORDER BY r.place) AS replay, array_agg(r.source ORDER BY r.place) AS source,
               array_agg(r.key ORDER BY r.place) AS key, array_agg(r.body ORDER BY r.place) AS body
          INTO b
          FROM (SELECT o.*, row_number() OVER (PARTITION BY coalesce(o.key, o.id) ORDER BY o.place) AS nth
                  FROM recado.outbox o WHERE o.place = ANY (places) AND o.place <> ALL (bad)) r
         WHERE r.nth = 1;
        IF cardinality(b.place) > 0 THEN
            BEGIN
                SELECT x.known_same_body INTO same
                  FROM recado.append(p_hint, p_hint_id, p_origin, b.id, b.type, b.title, b.message, b.data, b.topic, b.user_id, b.account_id,
                                     b.user_ids, b.ttl_seconds, b.replay, b.source, b.key, b.body) x;
            EXCEPTION WHEN data_exception OR integrity_constraint_violation OR program_limit_exceeded THEN
                -- A constraint without a name: the log has no partition for the next number. A number that is there already:
                -- another body of recado.append ran at the same time, see V11. Both pass.
                GET STACKED DIAGNOSTICS what = CONSTRAINT_NAME;
                IF SQLSTATE = '23514' AND what = '' OR SQLSTATE = '23505' THEN
                    RAISE;
                END IF;
                by_one := true;
                -- One by one, so that a row that the log refuses is set aside alone, with its own reason.
                FOR one IN 1..cardinality(b.place) LOOP
                    BEGIN
                        PERFORM FROM recado.append(p_hint, p_hint_id, p_origin, b.id[one:one], b.type[one:one], b.title[one:one], b.message[one:one],
                                                   b.data[one:one], b.topic[one:one], b.user_id[one:one], b.account_id[one:one], b.user_ids[one:one],
                                                   b.ttl_seconds[one:one], b.replay[one:one], b.source[one:one], b.key[one:one], b.body[one:one]);
                    EXCEPTION WHEN data_exception OR integrity_constraint_violation OR program_limit_exceeded THEN
                        GET STACKED DIAGNOSTICS why = MESSAGE_TEXT, what = CONSTRAINT_NAME;
                        IF SQLSTATE = '23514' AND what = '' OR SQLSTATE = '23505' THEN
                            RAISE;
                        END IF;
                        bad := bad || b.place[one];
                        reasons := reasons || left(why, 1000);
                    END;
                END LOOP;
            END;
            -- What the log has now decides which body a key is for.
            IF by_one OR false = ANY (same) OR cardinality(b.place) + cardinality(bad) < cardinality(places) THEN
                SELECT bad || coalesce(array_agg(o.place), '{}'), reasons || coalesce(array_agg('the key was used before with another body'::text), '{}')
                  INTO bad, reasons
                  FROM recado.outbox o JOIN recado.idempotency i ON i.key = o.key
                 WHERE o.place = ANY (places) AND o.place <> ALL (bad) AND i.body <> o.body;
            END IF;
        END IF;
    END IF;

    IF cardinality(bad) > 0 THEN
        WITH gone AS (
            INSERT INTO recado.outbox_refused (place, called_at, source, id, reason, notification)
            SELECT o.place, o.at, o.source, o.id, u.reason, row_to_json(o)
              FROM unnest(bad, reasons) AS u (place, reason) JOIN recado.outbox o ON o.place = u.place
            ON CONFLICT (place) DO NOTHING
            RETURNING id
        )
        SELECT coalesce(array_agg(id), '{}') INTO refused FROM gone;
    END IF;

    moved := coalesce(cardinality(places), 0);
    is_more := last < t.upto_place;
    IF is_more THEN
        INSERT INTO recado.outbox_tick (done, moving, after_place, upto_place, cluster, mover)
        VALUES (t.done, t.moving, last, t.upto_place, t.cluster, 2);
    ELSE
        is_more := false;
        INSERT INTO recado.outbox_tick (done, cluster, mover) VALUES (t.moving, t.cluster, 2);
    END IF;
END $$;

-- As in V4, but for the lock.
CREATE OR REPLACE FUNCTION recado.outbox_adopt() RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    t     recado.outbox_tick%ROWTYPE;
    here  bigint := (SELECT c.system_identifier FROM pg_control_system() c);
    first xid8;
BEGIN
    LOCK TABLE recado.outbox_lock IN SHARE UPDATE EXCLUSIVE MODE;
    SELECT * INTO STRICT t FROM recado.outbox_tick ORDER BY tick DESC LIMIT 1;
    IF t.cluster = here THEN
        RETURN false;
    END IF;
    SELECT pg_snapshot_xmin(pg_current_snapshot()) INTO first;
    DELETE FROM recado.outbox o
     WHERE o.at <= t.at
       AND (pg_visible_in_snapshot(o.xid, t.done)
            OR t.moving IS NOT NULL AND pg_visible_in_snapshot(o.xid, t.moving) AND o.place <= t.after_place);
    UPDATE recado.outbox SET xid = pg_current_xact_id();
    INSERT INTO recado.outbox_tick (done, cluster, mover) VALUES (format('%s:%s:', first, first)::pg_snapshot, here, 2);
    RETURN true;
END $$;

-- As in V4, but for the lock.
CREATE OR REPLACE FUNCTION recado.outbox_tidy(p_quiet boolean) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
SET enable_bitmapscan = off
SET jit = off
AS $$
DECLARE
    t       recado.outbox_tick%ROWTYPE;
    at_slot smallint;
    child   text;
    emptied integer := 0;
BEGIN
    IF NOT recado.try_outbox_lock() THEN
        RETURN 0;
    END IF;
    SELECT * INTO STRICT t FROM recado.outbox_tick ORDER BY tick DESC LIMIT 1;
    DELETE FROM recado.outbox_tick WHERE tick < t.tick - 100;
    DELETE FROM recado.outbox_refused r
     WHERE r.refused_at < clock_timestamp() - interval '30 days'
        OR r.place < (SELECT n.place FROM recado.outbox_refused n ORDER BY n.place DESC OFFSET 10000 LIMIT 1);
    SELECT (p.last_value / 16384) % 4 INTO at_slot FROM recado.outbox_place p;
    FOR n IN 0..3 LOOP
        child := format('recado.outbox_%s', n);
        CONTINUE WHEN n = at_slot AND NOT p_quiet OR pg_relation_size(child::regclass) = 0;
        CONTINUE WHEN EXISTS (SELECT FROM recado.outbox_after(t.done) o WHERE o.slot = n);
        BEGIN
            EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE NOWAIT', child);
            CONTINUE WHEN EXISTS (SELECT FROM recado.outbox_after(t.done) o WHERE o.slot = n);
            EXECUTE format('TRUNCATE %s', child);
            emptied := emptied + 1;
        EXCEPTION WHEN lock_not_available THEN NULL;
        END;
    END LOOP;
    RETURN emptied;
END $$;

-- The call that waits longest to be moved, of those that were committed: its place, and how long ago it was made. NULL:
-- nothing waits. Asked by every hub, whoever moves.
CREATE FUNCTION recado.outbox_waiting(OUT place bigint, OUT age_seconds double precision)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
SET enable_bitmapscan = off
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    t  recado.outbox_tick%ROWTYPE;
    at timestamptz;
BEGIN
    SELECT * INTO STRICT t FROM recado.outbox_tick ORDER BY tick DESC LIMIT 1;
    IF t.moving IS NULL THEN
        SELECT o.place, o.at INTO place, at FROM recado.outbox o WHERE o.xid >= pg_snapshot_xmax(t.done) ORDER BY o.xid LIMIT 1;
        IF NOT FOUND THEN
            SELECT o.place, o.at INTO place, at FROM recado.outbox o WHERE o.xid = ANY (ARRAY(SELECT pg_snapshot_xip(t.done))) LIMIT 1;
        END IF;
    ELSE
        SELECT o.place, o.at INTO place, at FROM recado.outbox o
         WHERE o.place > t.after_place AND NOT pg_visible_in_snapshot(o.xid, t.done) ORDER BY o.place LIMIT 1;
    END IF;
    age_seconds := CASE WHEN at IS NOT NULL THEN greatest(extract(epoch FROM clock_timestamp() - at), 0) END;
END $$;

-- As in V4, but that a list of users is a list, and that the types of the hub's own notifications are refused. `inbox` and
-- `preferences` are among them, so that no such row is in the log when a later hub appends them. `recado_member` changes
-- the membership of accounts (V19). '-' stands for no user: tombstones and such changes are addressed to it.
CREATE OR REPLACE FUNCTION recado.notify(
    type text, title text, message text, data text DEFAULT NULL,
    user_id text DEFAULT NULL, user_ids text[] DEFAULT NULL, account_id text DEFAULT NULL, broadcast boolean DEFAULT false,
    ttl bigint DEFAULT NULL, replay boolean DEFAULT true, idempotency_key text DEFAULT NULL)
RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    an_id  constant text := '^[A-Za-z0-9._:|@+=~-]{1,128}$';
    rule   constant text := 'must be 1 to 128 characters of A-Z a-z 0-9 . _ : - | @ + = ~';
    a_key  constant text := '^[ -~]{1,255}$';
    reserved constant text[] := '{connection_established,caught_up,heartbeat,ping,pong,ack,auth,auth_ok,auth_expiring,status,error,command_result,goodbye}';
    own    constant text[] := '{inbox,preferences,recado_member}';
    json   text;
    users  text[];
    topic  text;
    bytes  integer;
    hashed uuid;
    body   bigint := 0;
    before record;
    logged record;
    is_known boolean;
    place  bigint;
    id     uuid;
    parsed jsonb;
BEGIN
    -- Nearly every call ends with this one statement. Each expression of a function is set up anew in each transaction,
    -- which costs more than the expression itself, so that a caller pays half of what the rest costs. A call that may
    -- break a rule goes on to the rest, which looks at rule by rule. The conditions on data: no escape, so that colons
    -- can be counted (see check_data); too few brackets to be deep; too short, and without an exponent, for a number
    -- out of range.
    BEGIN
        parsed := notify.data::jsonb;
    EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
        parsed := NULL;
    END;
    INSERT INTO recado.outbox AS o (place, slot, xid, at, id, type, title, message, data, topic, user_id, account_id,
                                    ttl_seconds, replay, source, body, bytes)
    SELECT p.place, (p.place / 16384) % 4, pg_current_xact_id(), clock_timestamp(), recado.new_id(), notify.type, notify.title, notify.message, p.json,
           CASE WHEN notify.broadcast THEN '*'
                WHEN notify.user_id IS NULL THEN 'a/' || notify.account_id
                ELSE concat_ws('/', 'u', notify.user_id, notify.account_id)
           END,
           notify.user_id, notify.account_id, notify.ttl, coalesce(notify.replay, true), session_user, 0,
           octet_length(notify.title) + octet_length(notify.message) + coalesce(octet_length(p.json), 0)
      FROM (SELECT nextval('recado.outbox_place') AS place, nullif(btrim(notify.data, E' \t\n\r'), 'null') AS json) p
     WHERE notify.idempotency_key IS NULL AND notify.user_ids IS NULL
       AND notify.type COLLATE "C" ~ '^[a-z0-9][a-z0-9._-]{0,63}$' AND notify.type <> ALL (reserved || own) AND NOT starts_with(notify.type, 'upstream_')
       AND notify.title IS NOT NULL AND notify.message IS NOT NULL
       AND (notify.user_id IS NULL OR notify.user_id COLLATE "C" ~ an_id AND notify.user_id <> '-')
       AND (notify.account_id IS NULL OR notify.account_id COLLATE "C" ~ an_id)
       AND coalesce(notify.broadcast, false) = (num_nonnulls(notify.user_id, notify.account_id) = 0)
       AND (notify.ttl IS NULL OR notify.ttl BETWEEN 1 AND 2147483647)
       AND 6 * (octet_length(notify.title) + octet_length(notify.message)) <= 65000
       AND (p.json IS NULL
            OR octet_length(p.json) < 300 AND strpos(p.json, '\') = 0 AND p.json !~ '[0-9][eE]'
               AND length(p.json) - length(translate(p.json, '[{', '')) <= 32
               AND length(replace(p.json, ':', '')) - length(p.json) = length(replace(parsed::text, ':', '')) - length(parsed::text))
    RETURNING o.id INTO id;
    IF FOUND THEN
        RETURN id;
    END IF;

    IF (notify.type COLLATE "C" ~ '^[a-z0-9][a-z0-9._-]{0,63}$'
        AND notify.type <> ALL (reserved || own) AND NOT starts_with(notify.type, 'upstream_')
        AND notify.title IS NOT NULL AND notify.message IS NOT NULL
        AND (notify.user_id IS NULL OR notify.user_id COLLATE "C" ~ an_id AND notify.user_id <> '-')
        AND (notify.account_id IS NULL OR notify.account_id COLLATE "C" ~ an_id)
        AND (notify.ttl IS NULL OR notify.ttl BETWEEN 1 AND 2147483647)
        AND (notify.idempotency_key IS NULL OR notify.idempotency_key COLLATE "C" ~ a_key)) IS NOT TRUE THEN
        IF notify.type IS NULL OR notify.type COLLATE "C" !~ '^[a-z0-9][a-z0-9._-]{0,63}$' THEN
            PERFORM recado.refuse_argument('RC010', 'type', 'must be 1 to 64 characters of a-z 0-9 . _ - and begin with a letter or digit');
        END IF;
        IF notify.type = ANY (reserved) THEN
            PERFORM recado.refuse_argument('RC011', 'type', 'is the name of a frame of the protocol; choose another');
        END IF;
        IF starts_with(notify.type, 'upstream_') THEN
            PERFORM recado.refuse_argument('RC011', 'type', 'begins with upstream_, which only the hub may say; choose another');
        END IF;
        IF notify.type = ANY (own) THEN
            PERFORM recado.refuse_argument('RC011', 'type', 'is reserved for the hub''s own notifications; choose another');
        END IF;
        IF notify.title IS NULL THEN
            PERFORM recado.refuse_argument('RC010', 'title', 'is required');
        END IF;
        IF notify.message IS NULL THEN
            PERFORM recado.refuse_argument('RC010', 'message', 'is required');
        END IF;
        IF notify.user_id COLLATE "C" !~ an_id THEN
            PERFORM recado.refuse_argument('RC010', 'user_id', rule);
        END IF;
        IF notify.user_id = '-' THEN
            PERFORM recado.refuse_argument('RC010', 'user_id', 'must not be - alone: it stands for no user');
        END IF;
        IF notify.account_id COLLATE "C" !~ an_id THEN
            PERFORM recado.refuse_argument('RC010', 'account_id', rule);
        END IF;
        IF notify.ttl NOT BETWEEN 1 AND 2147483647 THEN
            PERFORM recado.refuse_argument('RC010', 'ttl', 'must be a whole number of seconds from 1 to 2147483647');
        END IF;
        IF notify.idempotency_key COLLATE "C" !~ a_key THEN
            PERFORM recado.refuse_argument('RC010', 'idempotency_key', 'must be 1 to 255 printable ASCII characters');
        END IF;
    END IF;
    IF notify.user_ids IS NOT NULL THEN
        IF array_ndims(notify.user_ids) > 1 THEN
            PERFORM recado.refuse_argument('RC010', 'user_ids', 'must be a list, and has ' || array_ndims(notify.user_ids) || ' dimensions');
        END IF;
        IF cardinality(notify.user_ids) NOT BETWEEN 1 AND 10000 THEN
            PERFORM recado.refuse_argument('RC010', 'user_ids', 'must hold 1 to 10000 users');
        END IF;
        IF EXISTS (SELECT FROM unnest(notify.user_ids) u WHERE u IS NULL OR u COLLATE "C" !~ an_id) THEN
            PERFORM recado.refuse_argument('RC010', 'user_ids', 'each ' || rule);
        END IF;
        IF '-' = ANY (notify.user_ids) THEN
            PERFORM recado.refuse_argument('RC010', 'user_ids', 'must not hold - alone: it stands for no user');
        END IF;
        users := ARRAY(SELECT DISTINCT u COLLATE "C" FROM unnest(notify.user_ids || notify.user_id) u WHERE u IS NOT NULL ORDER BY 1);
    END IF;

    topic := CASE
        WHEN coalesce(notify.broadcast, false) THEN '*'
        WHEN users IS NOT NULL THEN 'l'
        WHEN notify.user_id IS NULL THEN 'a/' || notify.account_id
        ELSE concat_ws('/', 'u', notify.user_id, notify.account_id)
    END;
    IF topic IS NULL THEN
        PERFORM recado.refuse_argument('RC012', 'user_id', 'is not given, nor is anyone else: nobody is addressed',
            'Give user_id, user_ids, account_id, or broadcast => true.');
    END IF;
    IF topic = '*' AND num_nonnulls(notify.user_id, users, notify.account_id) > 0 THEN
        PERFORM recado.refuse_argument('RC012', 'broadcast', 'addresses everyone, and somebody is named beside it',
            'Leave user_id, user_ids and account_id out, or broadcast.');
    END IF;

    json := nullif(btrim(notify.data, E' \t\n\r'), 'null');
    -- As in a body: the strings with their quotes and escapes.
    bytes := octet_length(to_json(notify.title)::text) + octet_length(to_json(notify.message)::text) + coalesce(octet_length(json), 0)
             + coalesce(octet_length(users::text), 0);
    IF bytes > 65536 THEN
        PERFORM recado.refuse_argument('RC014', 'data', format('and the other arguments have %s bytes; at most 65536 go into one notification', bytes),
            'Send what names the thing, and let the reader fetch the rest.');
    END IF;
    IF json IS NOT NULL THEN
        PERFORM recado.check_data(json);
    END IF;

    IF notify.idempotency_key IS NOT NULL THEN
        -- The same hashes as the hub's: a service of the same name means the same key.
        hashed := encode(substr(sha256(convert_to(session_user, 'UTF8') || '\x00' || convert_to(notify.idempotency_key, 'UTF8')), 1, 16), 'hex')::uuid;
        SELECT ('x' || encode(substr(sha256(string_agg(int8send(octet_length(p.part)) || p.part, ''::bytea ORDER BY p.n)), 1, 8), 'hex'))::bit(64)::bigint
          INTO body
          FROM unnest(ARRAY[convert_to(notify.type, 'UTF8'), convert_to(notify.title, 'UTF8'), convert_to(notify.message, 'UTF8'),
                            convert_to(coalesce(json, 'null'), 'UTF8'), convert_to(topic, 'UTF8'),
                            convert_to(coalesce(notify.account_id, ''), 'UTF8'), convert_to(coalesce(array_to_string(users, ','), ''), 'UTF8'),
                            int4send(coalesce(notify.ttl, 0)::integer), CASE WHEN coalesce(notify.replay, true) THEN '\x01'::bytea ELSE '\x00' END])
               WITH ORDINALITY AS p (part, n);
        -- The outbox first: a row that is moved in between is then found in the log. The log decides: of two calls that
        -- did not see each other, it may have the one whose place is higher.
        SELECT o.id, o.body INTO before FROM recado.outbox o
         WHERE o.key = hashed AND NOT EXISTS (SELECT FROM recado.outbox_refused r WHERE r.place = o.place)
         ORDER BY o.place LIMIT 1;
        is_known := FOUND;
        -- A key that outlived its row is as good as new.
        SELECT l.id, i.body INTO logged
          FROM recado.idempotency i CROSS JOIN LATERAL (SELECT o.id FROM recado.log o WHERE o.seq = i.seq LIMIT 1) l
         WHERE i.key = hashed;
        IF FOUND THEN
            before := logged;
            is_known := true;
        END IF;
        IF is_known THEN
            IF before.body <> body THEN
                PERFORM recado.refuse_argument('RC015', 'idempotency_key', 'was used before with another body',
                    'A repeat must be equal in every argument. Data counts as text: give the same type, json, jsonb or text.');
            END IF;
            RETURN before.id;
        END IF;
    END IF;

    place := nextval('recado.outbox_place');
    id := recado.new_id();
    INSERT INTO recado.outbox (place, slot, xid, at, id, type, title, message, data, topic, user_id, account_id, user_ids,
                               ttl_seconds, replay, source, key, body, bytes)
    VALUES (place, (place / 16384) % 4, pg_current_xact_id(), clock_timestamp(), id, notify.type, notify.title, notify.message, json, topic,
            CASE WHEN users IS NULL THEN notify.user_id END, notify.account_id, users,
            notify.ttl, coalesce(notify.replay, true), session_user, hashed, body, bytes);
    RETURN id;
END $$;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA recado FROM PUBLIC;

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'recado_hub') THEN
        GRANT EXECUTE ON FUNCTION recado.take_lease(text, uuid, integer), recado.give_lease(text, uuid), recado.outbox_waiting() TO recado_hub;
    END IF;
EXCEPTION
    WHEN insufficient_privilege THEN NULL;
END $$;
