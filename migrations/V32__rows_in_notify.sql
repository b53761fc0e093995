-- Other hubs get small commits with the NOTIFY, and do not have to read them (decision 0068).

-- Seals those rows: every login may listen, and only hubs may read this. Two random ids hold 244 random bits. Renewed
-- by UPDATE and a restart of the hubs; while their keys differ, they read the table.
ALTER TABLE recado.meta ADD COLUMN row_key bytea NOT NULL
    DEFAULT sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())) CHECK (octet_length(row_key) = 32);
COMMENT ON COLUMN recado.meta.row_key IS 'Key for the rows in the payload of NOTIFY. Secret: only hubs read it.';

-- As in V30, but that an origin with sealed rows is followed by the first number and the time in microseconds.
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
    traces   text[] := nullif(current_setting('recado.traces', true), '')::text[];
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
                                expires_at, replay, source, bytes, trace)
        VALUES (head + 1, p_id[1], t, p_type[1], p_title[1], p_message[1], p_data[1]::json, p_topic[1], p_user_id[1],
                p_account_id[1], p_user_ids[1]::text[], t + p_ttl_seconds[1] * interval '1 second', p_replay[1], p_source[1],
                octet_length(p_title[1]) + octet_length(p_message[1]) + coalesce(octet_length(p_data[1]), 0), traces[1]);
    ELSE
        INSERT INTO recado.log (seq, id, created_at, type, title, message, data, topic, user_id, account_id, user_ids,
                                expires_at, replay, source, bytes, trace)
        SELECT head + place - width_bucket(place::integer, known), id, t, type, title, message, data::json, topic, user_id,
               account_id, user_ids::text[], t + ttl_seconds * interval '1 second', replay, source,
               octet_length(title) + octet_length(message) + coalesce(octet_length(data), 0), traces[place::integer]
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
        PERFORM pg_notify('recado', CASE WHEN strpos(p_origin, ' ') = 0 THEN (head + appended)::text || ' ' || p_origin
            ELSE concat_ws(' ', head + appended, p_origin, first_seq, (extract(epoch FROM t) * 1000000)::bigint) END);
    END IF;
END $$;
