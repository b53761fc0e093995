-- The log: one row a notification, numbered 1, 2, 3 … without a hole, in the order in which the commits became visible.

-- Made by the migration runner already, which keeps its own table there.
CREATE SCHEMA IF NOT EXISTS recado;
COMMENT ON SCHEMA recado IS 'Recado, a durable notification hub. Rows are written by the functions of this schema alone.';

-- One row. `log_id` names this history: a database that was restored to an earlier state gets a new one, so that a
-- client that remembers a number of the old history is told so. `floor_seq` is the highest number that retention has
-- dropped; numbers go on above it even when no row is left. `partition_rows` is how many numbers one partition holds.
CREATE TABLE recado.meta (
    one            boolean     PRIMARY KEY DEFAULT true CHECK (one),
    log_id         uuid        NOT NULL DEFAULT gen_random_uuid(),
    log_started_at timestamptz NOT NULL DEFAULT now(),
    floor_seq      bigint      NOT NULL DEFAULT 0 CONSTRAINT floor_is_not_negative CHECK (floor_seq >= 0),
    partition_rows bigint      NOT NULL DEFAULT 5000000 CONSTRAINT partition_holds_rows CHECK (partition_rows > 0)
);
INSERT INTO recado.meta DEFAULT VALUES;

-- `topic` is the one address that a reader looks a row up by: '*' everyone, 'a/ACCOUNT' an account, 'u/USER' a user,
-- 'u/USER/ACCOUNT' a user in that account only, 'l' a list of users, who find it through log_member. Ids hold no '/'.
-- `data` is json, not jsonb: what was posted is what is delivered, byte for byte.
-- `bytes` is the size of title, message and data: pages are cut by it, and retention by size sums it.
-- `replay` false and a passed `expires_at` mean: delivered live, not given to a client that resumes.
CREATE TABLE recado.log (
    seq        bigint      NOT NULL,
    id         uuid        NOT NULL,
    created_at timestamptz NOT NULL,
    type       text        NOT NULL,
    title      text        NOT NULL,
    message    text        NOT NULL,
    data       json,
    topic      text        NOT NULL,
    user_id    text,
    account_id text,
    user_ids   text[],
    expires_at timestamptz,
    replay     boolean     NOT NULL,
    source     text        NOT NULL,
    bytes      integer     NOT NULL,
    PRIMARY KEY (seq),
    -- `IS TRUE`: a comparison with NULL yields NULL, and a CHECK lets NULL pass.
    CONSTRAINT topic_agrees_with_audience CHECK ((CASE
        WHEN topic = '*' THEN user_id IS NULL AND account_id IS NULL AND user_ids IS NULL
        WHEN topic = 'l' THEN user_id IS NULL AND cardinality(user_ids) > 0
        WHEN user_ids IS NOT NULL THEN false
        WHEN user_id IS NULL THEN topic = 'a/' || account_id
        WHEN account_id IS NULL THEN topic = 'u/' || user_id
        ELSE topic = 'u/' || user_id || '/' || account_id
    END) IS TRUE)
) PARTITION BY RANGE (seq);

-- Serves a resuming client: "what is addressed to this topic after N, in order". Rows that are never replayed and
-- lists, which have no reader under their own topic, stay out of it.
CREATE INDEX log_replay ON recado.log (topic, seq) WHERE replay AND topic <> 'l';
-- Serves analysts' questions by time and retention by age; a few pages for millions of rows.
CREATE INDEX log_created_at ON recado.log USING brin (created_at);

-- Who is on the list of a notification to several users, for replay. The row itself keeps the list as well, so that
-- the live path reads one table.
CREATE TABLE recado.log_member (
    topic text   NOT NULL,
    seq   bigint NOT NULL,
    PRIMARY KEY (topic, seq)
) PARTITION BY RANGE (seq);

-- Idempotency keys, kept as long as their row. Not in the log itself: a unique index on a partitioned table has to
-- contain the partition key. `key` is a hash of the source and the caller's key, `body` a hash of the posted body.
CREATE TABLE recado.idempotency (
    key  uuid   PRIMARY KEY,
    seq  bigint NOT NULL,
    body bigint NOT NULL
);
-- Serves retention: "the keys of the rows that go".
CREATE INDEX idempotency_seq ON recado.idempotency USING brin (seq);

-- The partitions that exist: [lo, hi) of seq, for both recado.log and recado.log_member.
CREATE TABLE recado.partition (
    lo         bigint      PRIMARY KEY,
    hi         bigint      NOT NULL UNIQUE,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT partition_is_not_empty CHECK (lo < hi)
);

CREATE FUNCTION recado.refuse_change() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'recado.log is append-only: % on % is refused', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'RC004', HINT = 'Rows leave the log only when retention drops a whole partition.';
END $$;

CREATE TRIGGER log_is_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON recado.log
    FOR EACH STATEMENT EXECUTE FUNCTION recado.refuse_change();
CREATE TRIGGER log_member_is_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON recado.log_member
    FOR EACH STATEMENT EXECUTE FUNCTION recado.refuse_change();

-- Made with CREATE .. LIKE and ATTACH: CREATE .. PARTITION OF takes an ACCESS EXCLUSIVE lock on the parent, behind
-- which every append would queue as soon as one long reader is there. The CHECK spares ATTACH the scan. A statement
-- trigger of the parent does not fire for a statement that names a partition, so each partition has its own.
CREATE FUNCTION recado.add_partition(p_parent text, p_lo bigint, p_hi bigint) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    child text := format('%s_p%s', p_parent, lpad(p_lo::text, 12, '0'));
BEGIN
    EXECUTE format(
        'CREATE TABLE recado.%1$I (LIKE recado.%2$I INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING STORAGE, CHECK (seq >= %3$s AND seq < %4$s))',
        child, p_parent, p_lo, p_hi);
    EXECUTE format('ALTER TABLE recado.%I ATTACH PARTITION recado.%I FOR VALUES FROM (%s) TO (%s)', p_parent, child, p_lo, p_hi);
    EXECUTE format(
        'CREATE TRIGGER %1$I BEFORE UPDATE OR DELETE OR TRUNCATE ON recado.%2$I FOR EACH STATEMENT EXECUTE FUNCTION recado.refuse_change()',
        p_parent || '_is_append_only', child);
END $$;

-- Makes partitions until two whole ones lie ahead of the head. Called at start, each minute, and by an append that
-- found none. The lock keeps two instances from making the same one. Returns how many it made.
CREATE FUNCTION recado.ensure_partitions() RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    m     recado.meta%ROWTYPE;
    head  bigint;
    edge  bigint;
    made  integer := 0;
BEGIN
    PERFORM pg_advisory_xact_lock('recado.partition'::regclass::integer, 1);
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

-- Appends a batch and returns the numbers. The only writer of the log.
--
-- The lock is an advisory lock of the transaction, first come, first served, held until the commit is visible: nobody
-- who has seen N will see a lower number appear later. The number is the log's own highest plus one, so a rollback
-- leaves no hole. The hub calls this as a whole transaction of one statement: a hub that stops cannot hold the lock.
--
-- Each statement in here takes its snapshot after the lock; a single statement that locks, looks the keys up and
-- inserts would look them up in the snapshot from before the wait, and write one key twice.
--
-- p_hint is the highest number that the caller has seen in this log (0: none), and p_hint_id the id there (NULL: not
-- known); the number lets the planner skip old partitions. A log that ends below it, or has another notification there,
-- was restored or lost its tail: RC001, nothing appended.
--
-- New rows are numbered first_seq, first_seq + 1, … in the order of the arrays, rows with a known key left out; those
-- are listed in known_*, by their place in the arrays (1-based). A key may stand only once in the arrays.
--
-- p_all_or_nothing: a known key with another body refuses the whole call: RC005, the places in DETAIL, nothing appended.
-- The keys are looked up under the lock, so that no such key can appear between the look and the insert.
CREATE FUNCTION recado.append(
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
AS $$
#variable_conflict use_column
DECLARE
    head     bigint;
    t        timestamptz;
    has_keys boolean := array_remove(p_key, NULL) <> '{}';
    known    integer[] := '{}';
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'recado.append needs READ COMMITTED, not %', current_setting('transaction_isolation') USING ERRCODE = 'RC002';
    END IF;
    PERFORM pg_advisory_xact_lock('recado.log'::regclass::integer, 1);

    SELECT l.seq INTO head FROM recado.log l WHERE l.seq >= p_hint ORDER BY l.seq DESC LIMIT 1;
    IF head IS NULL THEN
        SELECT greatest(coalesce((SELECT l.seq FROM recado.log l ORDER BY l.seq DESC LIMIT 1), 0), m.floor_seq) INTO head FROM recado.meta m;
        IF head < p_hint THEN
            RAISE EXCEPTION 'the log ends at %, before %, which it once held', head, p_hint USING ERRCODE = 'RC001';
        END IF;
    END IF;

    IF p_hint_id IS NOT NULL AND NOT EXISTS (SELECT FROM recado.log l WHERE l.seq = p_hint AND l.id = p_hint_id)
       AND (SELECT m.floor_seq < p_hint FROM recado.meta m) THEN
        RAISE EXCEPTION 'the log holds another notification at % than it once did', p_hint USING ERRCODE = 'RC001';
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

SELECT recado.ensure_partitions();
