-- The outbox: recado.notify writes into it inside the caller's own transaction, and a hub moves what was committed into
-- the log. A caller takes no lock that another caller waits for, and sends no NOTIFY: both would cost its commit rate.

-- The order of the calls. Not the order of the commits: of two rows that were committed, the one whose call came first
-- goes first, so a call that came after another transaction's commit stands behind it.
CREATE SEQUENCE recado.outbox_place;

-- `xid` is the transaction that called, never a subtransaction: a snapshot tells whether it had ended.
-- `slot` follows from `place`: 16,384 calls go into one partition, then into the next of four, and round again. What
-- is moved leaves by TRUNCATE of a partition that nobody uses; where that could not be done in time, the partition just
-- grows. So no call ever fails for want of a partition, however long no hub runs.
CREATE TABLE recado.outbox (
    place       bigint      NOT NULL,
    slot        smallint    NOT NULL,
    xid         xid8        NOT NULL,
    at          timestamptz NOT NULL,
    id          uuid        NOT NULL,
    type        text        NOT NULL,
    title       text        NOT NULL,
    message     text        NOT NULL,
    data        text,
    topic       text        NOT NULL,
    user_id     text,
    account_id  text,
    user_ids    text[],
    ttl_seconds integer,
    replay      boolean     NOT NULL,
    source      text        NOT NULL,
    key         uuid,
    body        bigint      NOT NULL,
    bytes       integer     NOT NULL
) PARTITION BY LIST (slot);
CREATE TABLE recado.outbox_0 PARTITION OF recado.outbox FOR VALUES IN (0);
CREATE TABLE recado.outbox_1 PARTITION OF recado.outbox FOR VALUES IN (1);
CREATE TABLE recado.outbox_2 PARTITION OF recado.outbox FOR VALUES IN (2);
CREATE TABLE recado.outbox_3 PARTITION OF recado.outbox FOR VALUES IN (3);
-- Serves the mover: "what transactions have written that had not ended when it last looked".
CREATE INDEX outbox_xid ON recado.outbox (xid);
-- Serves the mover's pages through a backlog.
CREATE INDEX outbox_order ON recado.outbox (place);
-- Serves a call that repeats a key before the first is moved.
CREATE INDEX outbox_key ON recado.outbox (key) WHERE key IS NOT NULL;

-- How far the mover is; the newest row counts. Rows are added, never changed: one row that is changed a hundred times a
-- second grows slow under any old snapshot. All that is visible in `done` is moved. While `moving` is set, the rows
-- that it shows beyond `done` are moved in pages, in the order of `place`, and those up to `after_place` are through.
-- `cluster` is whose transaction numbers these are.
CREATE TABLE recado.outbox_tick (
    tick        bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    done        pg_snapshot NOT NULL,
    moving      pg_snapshot,
    after_place bigint,
    upto_place  bigint,
    cluster     bigint      NOT NULL,
    at          timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT pages_have_ends CHECK (num_nulls(moving, after_place, upto_place) IN (0, 3))
);
INSERT INTO recado.outbox_tick (done, cluster) SELECT pg_current_snapshot(), c.system_identifier FROM pg_control_system() c;

-- What the log would not take, to be looked at: SELECT * FROM recado.outbox_refused.
CREATE TABLE recado.outbox_refused (
    place        bigint      PRIMARY KEY,
    refused_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    called_at    timestamptz NOT NULL,
    source       text        NOT NULL,
    id           uuid        NOT NULL,
    reason       text        NOT NULL,
    notification json        NOT NULL
);

-- The column of the error names the argument, for programs.
CREATE FUNCTION recado.refuse_argument(p_code text, p_argument text, p_message text, p_hint text DEFAULT NULL) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = p_code, COLUMN = p_argument, MESSAGE = format('recado.notify: %s %s', p_argument, p_message),
        HINT = coalesce(p_hint, 'Nothing was written. The rules are those of POST /api/internal/notify.');
END $$;

-- Whether every later reader takes this JSON text as it is: RC013 if not. jsonb refuses \u0000, half a surrogate pair
-- and numbers beyond all bounds, and drops a repeated key: its text then has fewer colons outside of strings.
-- Called under the search path of recado.notify.
CREATE FUNCTION recado.check_data(p_data text) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    parsed jsonb;
    again  text;
    given  text := p_data;
    why    text;
BEGIN
    BEGIN
        parsed := p_data::jsonb;
    EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
        GET STACKED DIAGNOSTICS why = MESSAGE_TEXT;
        PERFORM recado.refuse_argument('RC013', 'data', 'is no JSON that every reader takes: ' || why,
            'Plain text becomes JSON by to_jsonb(''…''::text).');
    END;
    IF jsonb_path_exists(parsed, 'strict $.**{32} ? (@.type() == "object" || @.type() == "array")') THEN
        PERFORM recado.refuse_argument('RC013', 'data', 'is nested deeper than 32');
    END IF;
    IF jsonb_path_exists(parsed, 'strict $.** ? (@ > 1.7976931348623157e308 || @ < -1.7976931348623157e308)') THEN
        PERFORM recado.refuse_argument('RC013', 'data', 'holds a number that is out of the range of a double');
    END IF;
    again := parsed::text;
    -- Only an escape lets a string gain or lose a colon or a quote.
    IF strpos(given, '\') > 0 THEN
        given := regexp_replace(given, '"(?:[^"\\]|\\.)*"', '', 'g');
        again := regexp_replace(again, '"(?:[^"\\]|\\.)*"', '', 'g');
    END IF;
    IF length(replace(given, ':', '')) - length(given) <> length(replace(again, ':', '')) - length(again) THEN
        PERFORM recado.refuse_argument('RC013', 'data', 'holds an object with the same key twice');
    END IF;
END $$;

-- A uuid of version 7 (RFC 9562): a random one whose first 48 bits are made the time in milliseconds. Inlined by the planner.
CREATE FUNCTION recado.new_id() RETURNS uuid LANGUAGE sql VOLATILE
RETURN encode(set_bit(set_bit(overlay(uuid_send(gen_random_uuid())
           PLACING substr(int8send((extract(epoch FROM clock_timestamp()) * 1000)::bigint), 3) FROM 1 FOR 6), 52, 1), 53, 1), 'hex')::uuid;

-- Notifies inside the caller's transaction: appended if and only if that commits. Returns the id that the notification
-- has in the log and on the wire. Every rule of POST /api/internal/notify holds; a broken one raises:
--   RC010 an argument is out of its bounds     RC011 the type is reserved     RC012 nobody, or two kinds, addressed
--   RC013 data is not JSON that every reader takes   RC014 too large   RC015 the key was used with another body
--
-- A key is one of the calling role (session_user) and is kept as long as its row in the log. Repeated with the same
-- body it returns the first id and writes nothing. What two open transactions do with one key can only be seen when
-- both have committed: then the mover keeps one, and lists another body in recado.outbox_refused.
CREATE FUNCTION recado.notify(
    type text, title text, message text, data text DEFAULT NULL,
    user_id text DEFAULT NULL, user_ids text[] DEFAULT NULL, account_id text DEFAULT NULL, broadcast boolean DEFAULT false,
    ttl bigint DEFAULT NULL, replay boolean DEFAULT true, idempotency_key text DEFAULT NULL)
RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    an_id  constant text := '^[A-Za-z0-9._:-]{1,128}$';
    rule   constant text := 'must be 1 to 128 characters of A-Z a-z 0-9 . _ : -';
    a_key  constant text := '^[ -~]{1,255}$';
    reserved constant text[] := '{connection_established,caught_up,heartbeat,ping,pong,ack,auth,auth_ok,auth_expiring,status,error,command_result,goodbye}';
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
    -- Nearly every call ends here. One statement, because each expression of a function is set up anew in each transaction,
    -- which costs more than what it does: a caller pays half of what it pays below. What is not surely right falls through,
    -- to be looked at rule by rule. Of data: no escape, so that colons can be counted (see check_data); too few brackets
    -- to be deep; too short, and without an exponent, for a number out of range.
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
       AND notify.type COLLATE "C" ~ '^[a-z0-9][a-z0-9._-]{0,63}$' AND notify.type <> ALL (reserved)
       AND notify.title IS NOT NULL AND notify.message IS NOT NULL
       AND (notify.user_id IS NULL OR notify.user_id COLLATE "C" ~ an_id)
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
        AND notify.type <> ALL (reserved)
        AND notify.title IS NOT NULL AND notify.message IS NOT NULL
        AND (notify.user_id IS NULL OR notify.user_id COLLATE "C" ~ an_id)
        AND (notify.account_id IS NULL OR notify.account_id COLLATE "C" ~ an_id)
        AND (notify.ttl IS NULL OR notify.ttl BETWEEN 1 AND 2147483647)
        AND (notify.idempotency_key IS NULL OR notify.idempotency_key COLLATE "C" ~ a_key)) IS NOT TRUE THEN
        IF notify.type IS NULL OR notify.type COLLATE "C" !~ '^[a-z0-9][a-z0-9._-]{0,63}$' THEN
            PERFORM recado.refuse_argument('RC010', 'type', 'must be 1 to 64 characters of a-z 0-9 . _ - and begin with a letter or digit');
        END IF;
        IF notify.type = ANY (reserved) THEN
            PERFORM recado.refuse_argument('RC011', 'type', 'is the name of a frame of the protocol; choose another');
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
        IF cardinality(notify.user_ids) NOT BETWEEN 1 AND 10000 THEN
            PERFORM recado.refuse_argument('RC010', 'user_ids', 'must hold 1 to 10000 users');
        END IF;
        IF EXISTS (SELECT FROM unnest(notify.user_ids) u WHERE u IS NULL OR u COLLATE "C" !~ an_id) THEN
            PERFORM recado.refuse_argument('RC010', 'user_ids', 'each ' || rule);
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
        -- In the outbox first: what is moved in between is then found in the log. What the log has decides: of two calls that
        -- did not see each other, the one whose place is higher may stand there.
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

-- A value of either JSON type. Not one function for all: a literal without a type is a text among these, and would be
-- neither json nor jsonb. A json value is kept byte for byte, as a text is; a jsonb value as jsonb prints it.
CREATE FUNCTION recado.notify(
    type text, title text, message text, data jsonb,
    user_id text DEFAULT NULL, user_ids text[] DEFAULT NULL, account_id text DEFAULT NULL, broadcast boolean DEFAULT false,
    ttl bigint DEFAULT NULL, replay boolean DEFAULT true, idempotency_key text DEFAULT NULL)
RETURNS uuid LANGUAGE sql
RETURN recado.notify(type, title, message, data::text, user_id, user_ids, account_id, broadcast, ttl, replay, idempotency_key);

CREATE FUNCTION recado.notify(
    type text, title text, message text, data json,
    user_id text DEFAULT NULL, user_ids text[] DEFAULT NULL, account_id text DEFAULT NULL, broadcast boolean DEFAULT false,
    ttl bigint DEFAULT NULL, replay boolean DEFAULT true, idempotency_key text DEFAULT NULL)
RETURNS uuid LANGUAGE sql
RETURN recado.notify(type, title, message, data::text, user_id, user_ids, account_id, broadcast, ttl, replay, idempotency_key);

-- The rows of transactions that had not ended in this snapshot: those that were running, by name, and all later ones.
-- Not "from the oldest running one on": one old transaction would then have every row since looked at again and again.
CREATE FUNCTION recado.outbox_after(p_done pg_snapshot) RETURNS SETOF recado.outbox LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT * FROM recado.outbox o WHERE o.xid >= pg_snapshot_xmax(p_done)
    UNION ALL
    SELECT * FROM recado.outbox o WHERE o.xid = ANY (ARRAY(SELECT pg_snapshot_xip(p_done)));
END;

-- Moves at most p_rows rows (and about 1 MiB) of committed transactions into the log, in one transaction with the note
-- of how far that is: a crash leaves both or neither. Called by one instance at a time; the lock in here makes a second
-- one harmless. Takes the append lock last, so nothing slow happens under it.
--
-- What is to be moved is fixed by two snapshots: not yet ended in `done`, ended in `moving`. Rows that ended stay as
-- they are, so the set does not change from page to page, and `after_place` cuts it. Only when it is empty does `done`
-- advance. A transaction that is still running is in neither set, holds nothing up, and is found by its number later.
--
-- p_set_aside: where the log refuses the page for what is in it, all of it is listed as refused; asked for with one row.
CREATE FUNCTION recado.outbox_move(
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
    a        record;
    others   bigint[];
    why      text := 'the key was used before with another body';
    what     text;
BEGIN
    moved := 0;
    refused := '{}';
    is_more := false;
    IF NOT pg_try_advisory_xact_lock('recado.outbox_tick'::regclass::integer, 1) THEN
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
                INSERT INTO recado.outbox_tick (done, cluster) VALUES (now_is, t.cluster);
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
          FROM (SELECT o.place, o.bytes, sum(o.bytes) OVER (ORDER BY o.place) AS sum
                  FROM recado.outbox_after(t.done) o WHERE pg_visible_in_snapshot(o.xid, t.moving)) c;
    ELSE
        SELECT array_agg(c.place ORDER BY c.place) INTO places
          FROM (SELECT o.place, o.bytes, sum(o.bytes) OVER (ORDER BY o.place) AS sum
                  FROM (SELECT o.place, o.bytes FROM recado.outbox o
                         WHERE o.place > t.after_place AND o.place <= t.upto_place
                           AND NOT pg_visible_in_snapshot(o.xid, t.done) AND pg_visible_in_snapshot(o.xid, t.moving)
                         ORDER BY o.place LIMIT p_rows) o) c
         WHERE c.sum <= 1048576 OR c.sum = c.bytes;
    END IF;
    last := places[cardinality(places)];

    IF places IS NOT NULL THEN
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
                  FROM recado.outbox o WHERE o.place = ANY (places)) r
         WHERE r.nth = 1;
        BEGIN
            SELECT * INTO a
              FROM recado.append(p_hint, p_hint_id, p_origin, b.id, b.type, b.title, b.message, b.data, b.topic, b.user_id, b.account_id,
                                 b.user_ids, b.ttl_seconds, b.replay, b.source, b.key, b.body);
            -- What the log has now decides which body a key is for.
            IF false = ANY (a.known_same_body) OR cardinality(b.place) < cardinality(places) THEN
                SELECT array_agg(o.place) INTO others
                  FROM recado.outbox o JOIN recado.idempotency i ON i.key = o.key
                 WHERE o.place = ANY (places) AND i.body <> o.body;
            END IF;
        EXCEPTION WHEN data_exception OR integrity_constraint_violation OR program_limit_exceeded THEN
            -- A constraint without a name: the log has no partition for the next number.
            GET STACKED DIAGNOSTICS why = MESSAGE_TEXT, what = CONSTRAINT_NAME;
            IF NOT p_set_aside OR SQLSTATE = '23514' AND what = '' THEN
                RAISE;
            END IF;
            others := places;
        END;
    END IF;

    IF cardinality(others) > 0 THEN
        WITH gone AS (
            INSERT INTO recado.outbox_refused (place, called_at, source, id, reason, notification)
            SELECT o.place, o.at, o.source, o.id, why, row_to_json(o)
              FROM recado.outbox o WHERE o.place = ANY (others)
            RETURNING id
        )
        SELECT array_agg(id) INTO refused FROM gone;
    END IF;

    moved := coalesce(cardinality(places), 0);
    is_more := last < t.upto_place;
    IF is_more THEN
        INSERT INTO recado.outbox_tick (done, moving, after_place, upto_place, cluster) VALUES (t.done, t.moving, last, t.upto_place, t.cluster);
    ELSE
        is_more := false;
        INSERT INTO recado.outbox_tick (done, cluster) VALUES (t.moving, t.cluster);
    END IF;
END $$;

-- After a dump was loaded into another cluster: transaction numbers mean nothing there. What the dump's own note does
-- not call moved, and what was written since, is taken over under this transaction's number; the rest goes. Returns
-- whether that was so. A transaction that runs meanwhile has a number above the note that is left.
CREATE FUNCTION recado.outbox_adopt() RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    t     recado.outbox_tick%ROWTYPE;
    here  bigint := (SELECT c.system_identifier FROM pg_control_system() c);
    first xid8;
BEGIN
    PERFORM pg_advisory_xact_lock('recado.outbox_tick'::regclass::integer, 1);
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
    INSERT INTO recado.outbox_tick (done, cluster) VALUES (format('%s:%s:', first, first)::pg_snapshot, here);
    RETURN true;
END $$;

-- Empties the partitions whose rows are all moved, and drops old notes. Waits for nobody: a partition that any
-- transaction uses is left for another time. Once the lock is had, no open transaction has a row there, so a look in a
-- new snapshot sees all. p_quiet: the partition that calls go to now is emptied as well. Returns how many it emptied.
CREATE FUNCTION recado.outbox_tidy(p_quiet boolean) RETURNS integer
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
    IF NOT pg_try_advisory_xact_lock('recado.outbox_tick'::regclass::integer, 1) THEN
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

REVOKE ALL ON recado.outbox, recado.outbox_0, recado.outbox_1, recado.outbox_2, recado.outbox_3, recado.outbox_tick, recado.outbox_refused FROM PUBLIC;
REVOKE ALL ON SEQUENCE recado.outbox_place FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA recado FROM PUBLIC;

-- Who notifies from SQL: GRANT recado_producer TO the role of your program. Made where that is allowed, as recado_hub is.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'recado_producer') THEN
        CREATE ROLE recado_producer NOLOGIN;
    END IF;
EXCEPTION
    WHEN insufficient_privilege OR duplicate_object OR unique_violation THEN NULL;
END $$;

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'recado_producer') THEN
        GRANT USAGE ON SCHEMA recado TO recado_producer;
        GRANT EXECUTE ON FUNCTION
            recado.notify(text, text, text, text, text, text[], text, boolean, bigint, boolean, text),
            recado.notify(text, text, text, jsonb, text, text[], text, boolean, bigint, boolean, text),
            recado.notify(text, text, text, json, text, text[], text, boolean, bigint, boolean, text) TO recado_producer;
    END IF;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'recado_hub') THEN
        GRANT SELECT ON recado.outbox_refused TO recado_hub;
        GRANT EXECUTE ON FUNCTION recado.outbox_move(bigint, uuid, text, integer, boolean), recado.outbox_adopt(), recado.outbox_tidy(boolean) TO recado_hub;
    END IF;
EXCEPTION
    WHEN insufficient_privilege THEN NULL;
END $$;
