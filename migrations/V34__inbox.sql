-- Keeps for each user which notifications are read, archived and seen, and which types are muted (decision 0070).
--
-- An item is a notification that is replayed, has no ttl, and was not posted with `inbox` false. So an inbox changes by
-- rows of the log alone, and never by the clock. A change is a row of type `inbox` or `preferences` for the user. The
-- tables below are the fold of those rows, in the order of the log.

-- Rows from before this version are no items: no user could have read them.
ALTER TABLE recado.log ADD COLUMN inbox boolean NOT NULL DEFAULT false;
ALTER TABLE recado.log ALTER COLUMN inbox SET DEFAULT true;
COMMENT ON COLUMN recado.log.inbox IS 'Whether the notification is an item of an inbox. Never with a ttl, and never without replay.';
-- Serves resuming clients as before, and the counts: "which items are addressed to this topic after N". The flag in the
-- key leaves out other rows without a look at the table. An index of items alone would cost each append more than the
-- counts.
CREATE INDEX log_replay_items ON recado.log (topic, seq, inbox) WHERE replay AND topic <> 'l';
DROP INDEX recado.log_replay;
ALTER INDEX recado.log_replay_items RENAME TO log_replay;

-- In SQL the flag comes in a setting of the transaction, so that recado.notify keeps its arguments.
ALTER TABLE recado.outbox ADD COLUMN inbox boolean NOT NULL DEFAULT true;
ALTER TABLE recado.outbox ALTER COLUMN inbox SET DEFAULT coalesce(current_setting('recado.notify_inbox', true), '') <> 'off';
-- As in V4, with the new column: a body that is parsed at creation keeps the columns of that time.
CREATE OR REPLACE FUNCTION recado.outbox_after(p_done pg_snapshot) RETURNS SETOF recado.outbox LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT * FROM recado.outbox o WHERE o.xid >= pg_snapshot_xmax(p_done)
    UNION ALL
    SELECT * FROM recado.outbox o WHERE o.xid = ANY (ARRAY(SELECT pg_snapshot_xip(p_done)));
END;

-- The watermarks of a user: what lies at or below one is seen, read or archived, unless recado.inbox_item says
-- otherwise.
CREATE TABLE recado.inbox (
    user_id      text   PRIMARY KEY,
    seen_seq     bigint NOT NULL DEFAULT 0,
    read_seq     bigint NOT NULL DEFAULT 0,
    archived_seq bigint NOT NULL DEFAULT 0,
    muted        text[] NOT NULL DEFAULT '{}'
) WITH (fillfactor = 70);
COMMENT ON TABLE recado.inbox IS 'Up to which number a user has seen, read and archived, and the types that the user muted.';

-- The exceptions from the watermarks. NULL: the watermark decides.
CREATE TABLE recado.inbox_item (
    user_id     text   NOT NULL,
    seq         bigint NOT NULL,
    is_read     boolean,
    is_archived boolean,
    PRIMARY KEY (user_id, seq),
    CONSTRAINT mark_is_some CHECK (is_read IS NOT NULL OR is_archived IS NOT NULL)
);
COMMENT ON TABLE recado.inbox_item IS 'Items that are read or archived, or are not, other than the watermarks say.';
-- Serves retention: "the exceptions at or below the floor". With the user, so that a look for one mark reads no marks
-- of others, whichever index the planner takes.
CREATE INDEX inbox_item_seq ON recado.inbox_item (seq, user_id);

-- From where on the items of everyone ('*') and of an account ('a/ACCOUNT') count: the head of the log when the user
-- first came with it. Items for the user alone count from the beginning.
CREATE TABLE recado.inbox_since (
    user_id text   NOT NULL,
    topic   text   NOT NULL,
    seq     bigint NOT NULL,
    PRIMARY KEY (user_id, topic)
);
COMMENT ON TABLE recado.inbox_since IS 'From which number on the items of everyone and of an account count for a user.';
REVOKE ALL ON recado.inbox, recado.inbox_item, recado.inbox_since FROM PUBLIC;

-- Changes the text of a function of an earlier migration, at one place. Fails where the text is not there exactly once.
CREATE FUNCTION pg_temp.amend(p_function text, p_old text, p_new text) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    source constant text := pg_get_functiondef(p_function::regprocedure);
BEGIN
    IF (length(source) - length(replace(source, p_old, ''))) <> length(p_old) THEN
        RAISE EXCEPTION '% does not hold this exactly once: %', p_function, p_old;
    END IF;
    EXECUTE replace(source, p_old, p_new);
END $$;

-- recado.append takes the flags from the setting recado.inbox of the transaction: the text of an array with a place for
-- each row. Without it each row is an item.
DO $$
DECLARE
    append   constant text := 'recado.append(bigint,uuid,text,uuid[],text[],text[],text[],text[],text[],text[],text[],text[],integer[],boolean[],text[],uuid[],bigint[],boolean)';
    received constant text := 'recado.upstream_append(uuid,text[],text[],bigint[],bigint,uuid,text,uuid[],text[],text[],text[],text[],text[],text[],integer[],boolean[],text[],uuid[],bigint[])';
    moved    constant text := 'recado.outbox_move(bigint,uuid,text,integer,boolean)';
    all_types constant text := 'AND (patterns IS NULL OR l.type LIKE ANY (patterns))';
    own_types constant text := 'AND CASE WHEN patterns IS NULL THEN l.type <> ALL (''{inbox,preferences}'') ELSE l.type LIKE ANY (patterns) END';
BEGIN
    PERFORM pg_temp.amend(append, 'traces   text[] := nullif(current_setting(''recado.traces'', true), '''')::text[];',
        'traces   text[] := nullif(current_setting(''recado.traces'', true), '''')::text[];
    items    boolean[] := nullif(current_setting(''recado.inbox'', true), '''')::boolean[];');
    PERFORM pg_temp.amend(append, 'coalesce(octet_length(p_data[1]), 0), traces[1]);', 'coalesce(octet_length(p_data[1]), 0), traces[1],
                coalesce(items[1], true) AND p_replay[1] AND p_ttl_seconds[1] IS NULL);');
    PERFORM pg_temp.amend(append, 'coalesce(octet_length(data), 0), traces[place::integer]',
        'coalesce(octet_length(data), 0), traces[place::integer],
               coalesce(items[place::integer], true) AND replay AND ttl_seconds IS NULL');
    PERFORM pg_temp.amend(append, 'expires_at, replay, source, bytes, trace)
        VALUES', 'expires_at, replay, source, bytes, trace, inbox)
        VALUES');
    PERFORM pg_temp.amend(append, 'expires_at, replay, source, bytes, trace)
        SELECT', 'expires_at, replay, source, bytes, trace, inbox)
        SELECT');

    -- What a provider sends is no item.
    PERFORM pg_temp.amend(received, 'SELECT a.* INTO done', 'PERFORM set_config(''recado.inbox'', array_fill(false, ARRAY[cardinality(p_id)])::text, true);
    SELECT a.* INTO done');
    PERFORM pg_temp.amend(received, 'first_seq := done.first_seq;', 'PERFORM set_config(''recado.inbox'', '''', true);
    first_seq := done.first_seq;');

    PERFORM pg_temp.amend(moved, 'array_agg(r.body ORDER BY r.place) AS body', 'array_agg(r.body ORDER BY r.place) AS body,
               array_agg(r.inbox ORDER BY r.place) AS inbox');
    PERFORM pg_temp.amend(moved, 'SELECT x.known_same_body INTO same',
        'PERFORM set_config(''recado.inbox'', CASE WHEN false = ANY (b.inbox) THEN b.inbox::text ELSE '''' END, true);
                SELECT x.known_same_body INTO same');
    PERFORM pg_temp.amend(moved, 'PERFORM FROM recado.append(p_hint, p_hint_id, p_origin, b.id[one:one]',
        'PERFORM set_config(''recado.inbox'', b.inbox[one:one]::text, true);
                        PERFORM FROM recado.append(p_hint, p_hint_id, p_origin, b.id[one:one]');
    PERFORM pg_temp.amend(moved, '-- What the log has now decides which body a key is for.',
        'PERFORM set_config(''recado.inbox'', '''', true);
            -- What the log has now decides which body a key is for.');

    -- Consumers and webhooks without a filter of types follow notifications, not what users do with them.
    PERFORM pg_temp.amend('recado.fetch_batch(text,text,integer,integer)', all_types, own_types);
    PERFORM pg_temp.amend('recado.webhook_next(text,bigint,integer,bigint[])', all_types, own_types);
END $$;

DO $$
DECLARE
    notify constant text := 'recado.notify(text,text,text,text,text,text[],text,boolean,bigint,boolean,text)';
BEGIN
    -- A frame with counts of an inbox has this name, so a notification may not have it as its type.
    PERFORM pg_temp.amend(notify, 'command_result,goodbye}', 'command_result,goodbye,inbox_counts}');
    -- A body that is no item is another body for its key, as in the hub. An item keeps the hash of earlier versions.
    PERFORM pg_temp.amend(notify, 'ELSE ''\x00'' END])', 'ELSE ''\x00'' END
                              || CASE WHEN current_setting(''recado.notify_inbox'', true) = ''off'' THEN ''\x00''::bytea ELSE '''' END])');
END $$;

-- recado.notify for a notification that is no item of an inbox (inbox => false), with otherwise the same arguments.
CREATE FUNCTION recado.notify(
    inbox boolean, type text, title text, message text, data text DEFAULT NULL,
    user_id text DEFAULT NULL, user_ids text[] DEFAULT NULL, account_id text DEFAULT NULL, broadcast boolean DEFAULT false,
    ttl bigint DEFAULT NULL, replay boolean DEFAULT true, idempotency_key text DEFAULT NULL)
RETURNS uuid
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    was constant text := coalesce(current_setting('recado.notify_inbox', true), '');
    id  uuid;
BEGIN
    PERFORM set_config('recado.notify_inbox', CASE WHEN notify.inbox THEN '' ELSE 'off' END, true);
    id := recado.notify(type => notify.type, title => notify.title, message => notify.message, data => notify.data,
                        user_id => notify.user_id, user_ids => notify.user_ids, account_id => notify.account_id,
                        broadcast => notify.broadcast, ttl => notify.ttl, replay => notify.replay,
                        idempotency_key => notify.idempotency_key);
    PERFORM set_config('recado.notify_inbox', was, true);
    RETURN id;
END $$;

-- Whether a type is muted: by its name, or by a pattern that ends in *.
CREATE FUNCTION recado.is_muted(p_type text, p_muted text[]) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN p_muted <> '{}' AND EXISTS (
    SELECT FROM unnest(p_muted) AS m (pattern)
     WHERE CASE WHEN right(m.pattern, 1) = '*' THEN starts_with(p_type, left(m.pattern, -1)) ELSE m.pattern = p_type END);

-- The same patterns for LIKE ANY, which takes a fraction of the time of recado.is_muted where many rows are looked at.
CREATE FUNCTION recado.muted_like(p_muted text[]) RETURNS text[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN ARRAY(
    SELECT regexp_replace(CASE WHEN right(m.pattern, 1) = '*' THEN left(m.pattern, -1) ELSE m.pattern END, '([\\%_])', '\\\1', 'g')
           || CASE WHEN right(m.pattern, 1) = '*' THEN '%' ELSE '' END
      FROM unnest(p_muted) AS m (pattern)
     WHERE m.pattern IS NOT NULL);

-- The topics whose items count for a user with these accounts, each with the numbers (low, high] that count. p_members:
-- the accounts of recado.member count as well, each within its interval.
CREATE FUNCTION recado.inbox_reach(p_user text, p_accounts text[], p_members boolean)
RETURNS TABLE (topic text, low bigint, high bigint)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
    SELECT s.topic, s.seq, 9223372036854775807
      FROM recado.inbox_since s
     WHERE s.user_id = p_user AND (s.topic = '*' OR s.topic = ANY (ARRAY(SELECT 'a/' || a FROM unnest(p_accounts) a)))
     UNION ALL
    SELECT concat_ws('/', 'u', p_user, a.account), 0, 9223372036854775807
      FROM (SELECT NULL AS account UNION SELECT unnest(p_accounts)) a
     UNION ALL
    SELECT x.topic, greatest(m.since_seq, x.low), coalesce(m.until_seq - 1, 9223372036854775807)
      FROM recado.member m
     CROSS JOIN LATERAL (
           SELECT 'a/' || m.account_id, s.seq FROM recado.inbox_since s WHERE s.user_id = p_user AND s.topic = '*'
            UNION ALL
           SELECT 'u/' || p_user || '/' || m.account_id, 0) x (topic, low)
     WHERE p_members AND m.user_id = p_user AND m.account_id <> ALL (p_accounts);
$$;

-- All accounts that the user ever came with.
CREATE FUNCTION recado.inbox_accounts(p_user text) RETURNS text[]
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(array_agg(substr(s.topic, 3) ORDER BY s.topic), '{}') FROM recado.inbox_since s WHERE s.user_id = p_user AND s.topic <> '*';
$$;

-- Whether a row is within one of these ranges. p_topic is the row's own; a row for a list is found through log_member.
-- Without settings of its own, which cost more than the rest: its callers set the search path.
CREATE FUNCTION recado.inbox_holds(p_topics text[], p_lows bigint[], p_highs bigint[], p_seq bigint, p_topic text) RETURNS boolean
LANGUAGE plpgsql STABLE AS $$
DECLARE
    place integer;
BEGIN
    IF p_topic = 'l' THEN
        RETURN EXISTS (
            SELECT FROM recado.log_member m
              JOIN unnest(p_topics, p_lows, p_highs) AS t (topic, low, high) ON t.topic = m.topic AND p_seq > t.low AND p_seq <= t.high
             WHERE m.seq = p_seq AND m.topic = ANY (p_topics));
    END IF;
    place := array_position(p_topics, p_topic);
    WHILE place IS NOT NULL LOOP
        IF p_seq > p_lows[place] AND p_seq <= p_highs[place] THEN
            RETURN true;
        END IF;
        place := array_position(p_topics, p_topic, place + 1);
    END LOOP;
    RETURN false;
END $$;

-- Begins to count what is addressed to everyone and to these accounts, where the user comes with them for the first
-- time.
CREATE FUNCTION recado.inbox_open(p_user text, p_accounts text[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    topics constant text[] := ARRAY(SELECT '*' UNION SELECT 'a/' || a FROM unnest(p_accounts) a ORDER BY 1);
BEGIN
    IF (SELECT count(*) FROM recado.inbox_since s WHERE s.user_id = p_user AND s.topic = ANY (topics)) < cardinality(topics) THEN
        INSERT INTO recado.inbox_since (user_id, topic, seq)
        SELECT p_user, u.topic, greatest(m.floor_seq, coalesce((SELECT l.seq FROM recado.log l ORDER BY l.seq DESC LIMIT 1), 0))
          FROM unnest(topics) AS u (topic) CROSS JOIN recado.meta m
         ORDER BY u.topic
        ON CONFLICT DO NOTHING;
    END IF;
END $$;

-- Each look at the log for one topic compares (topic, seq), which only the index of topics can serve. Where most rows
-- are of one topic, the planner takes the index of numbers otherwise, and reads all rows for each topic. A bitmap would
-- gather all rows before the first.

-- Counts of a user with these accounts, in one snapshot: they hold at the head of the log, `as_of`. Exact below 1000;
-- 1000 stands for 1000 or more, also where more than 20,000 muted items had to be passed over. `oldest` is the lowest
-- number that was counted, NULL when nothing was; what retention drops below it changes no count. 0: not known.
CREATE FUNCTION recado.inbox_counts(
    p_user text, p_accounts text[], p_members boolean,
    OUT unread integer, OUT unseen integer, OUT as_of bigint, OUT oldest bigint, OUT muted text[])
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    most  constant integer := 1000;
    looks constant integer := 20000;
    state     recado.inbox%ROWTYPE;
    floor     bigint;
    above     bigint;
    topics    text[];
    lows      bigint[];
    highs     bigint[];
    has_marks boolean;
    likes     text[];
    n_above   bigint;
    n_below   bigint;
    first     bigint[] := '{}';
BEGIN
    SELECT greatest(m.floor_seq, coalesce((SELECT l.seq FROM recado.log l ORDER BY l.seq DESC LIMIT 1), 0)), m.floor_seq
      INTO as_of, floor FROM recado.meta m;
    SELECT p_user, coalesce(i.seen_seq, 0), coalesce(i.read_seq, 0), coalesce(i.archived_seq, 0), coalesce(i.muted, '{}')
      INTO state FROM (SELECT 1) one LEFT JOIN recado.inbox i ON i.user_id = p_user;
    muted := state.muted;
    likes := recado.muted_like(state.muted);
    has_marks := EXISTS (SELECT FROM recado.inbox_item e WHERE e.user_id = p_user);
    SELECT array_agg(r.topic), array_agg(greatest(r.low, floor)), array_agg(r.high) INTO topics, lows, highs
      FROM recado.inbox_reach(p_user, p_accounts, p_members) r;

    -- Items without a mark are unread above both watermarks, and below only those with a mark.
    above := greatest(state.read_seq, state.archived_seq);
    SELECT coalesce(sum(CASE WHEN x.n > looks THEN most ELSE 1 END), 0), first || min(x.seq) INTO n_above, first
      FROM (SELECT w.seq, w.n
              FROM (SELECT s.seq, s.type, row_number() OVER () AS n
                      FROM unnest(topics, lows, highs) AS t (topic, low, high)
                     CROSS JOIN LATERAL (
                           (SELECT a.seq, a.type
                              FROM recado.log a
                             WHERE (a.topic, a.seq) > (t.topic, greatest(above, t.low)) AND (a.topic, a.seq) <= (t.topic, t.high)
                               AND a.topic <> 'l' AND a.replay AND a.inbox)
                           UNION ALL
                           (SELECT b.seq, l.type
                              FROM recado.log_member b
                             CROSS JOIN LATERAL (SELECT c.type FROM recado.log c WHERE c.seq = b.seq AND c.inbox AND c.replay LIMIT 1) l
                             WHERE b.topic = t.topic AND starts_with(t.topic, 'u/') AND b.seq > above AND b.seq > t.low AND b.seq <= t.high)) s
                     LIMIT looks + 1) w
             WHERE w.n > looks
                OR w.type NOT LIKE ALL (likes)
                   AND NOT (has_marks AND EXISTS (SELECT FROM recado.inbox_item e WHERE e.user_id = p_user AND e.seq = w.seq AND (e.is_read OR e.is_archived)))
             LIMIT most) x;
    n_below := 0;
    IF has_marks THEN
        SELECT count(*), first || min(x.seq) INTO n_below, first
          FROM (SELECT e.seq
                  FROM recado.inbox_item e
                 CROSS JOIN LATERAL (SELECT c.type, c.topic FROM recado.log c WHERE c.seq = e.seq AND c.inbox AND c.replay LIMIT 1) l
                 WHERE e.user_id = p_user AND e.seq <= above
                   AND NOT coalesce(e.is_read, e.seq <= state.read_seq) AND NOT coalesce(e.is_archived, e.seq <= state.archived_seq)
                   AND l.type NOT LIKE ALL (likes)
                   AND recado.inbox_holds(topics, lows, highs, e.seq, l.topic)
                 LIMIT most) x;
    END IF;
    unread := least(n_above + n_below, most);

    IF NOT has_marks AND above = greatest(state.seen_seq, state.archived_seq) THEN
        unseen := unread;
        oldest := CASE WHEN unread >= most THEN 0 ELSE first[1] END;
        RETURN;
    END IF;
    above := greatest(state.seen_seq, state.archived_seq);
    SELECT coalesce(sum(CASE WHEN x.n > looks THEN most ELSE 1 END), 0), first || min(x.seq) INTO n_above, first
      FROM (SELECT w.seq, w.n
              FROM (SELECT s.seq, s.type, row_number() OVER () AS n
                      FROM unnest(topics, lows, highs) AS t (topic, low, high)
                     CROSS JOIN LATERAL (
                           (SELECT a.seq, a.type
                              FROM recado.log a
                             WHERE (a.topic, a.seq) > (t.topic, greatest(above, t.low)) AND (a.topic, a.seq) <= (t.topic, t.high)
                               AND a.topic <> 'l' AND a.replay AND a.inbox)
                           UNION ALL
                           (SELECT b.seq, l.type
                              FROM recado.log_member b
                             CROSS JOIN LATERAL (SELECT c.type FROM recado.log c WHERE c.seq = b.seq AND c.inbox AND c.replay LIMIT 1) l
                             WHERE b.topic = t.topic AND starts_with(t.topic, 'u/') AND b.seq > above AND b.seq > t.low AND b.seq <= t.high)) s
                     WHERE above < as_of
                     LIMIT looks + 1) w
             WHERE w.n > looks
                OR w.type NOT LIKE ALL (likes)
                   AND NOT (has_marks AND EXISTS (SELECT FROM recado.inbox_item e WHERE e.user_id = p_user AND e.seq = w.seq AND e.is_archived))
             LIMIT most) x;
    n_below := 0;
    IF has_marks THEN
        SELECT count(*), first || min(x.seq) INTO n_below, first
          FROM (SELECT e.seq
                  FROM recado.inbox_item e
                 CROSS JOIN LATERAL (SELECT c.type, c.topic FROM recado.log c WHERE c.seq = e.seq AND c.inbox AND c.replay LIMIT 1) l
                 WHERE e.user_id = p_user AND e.seq <= above AND e.seq > state.seen_seq AND NOT coalesce(e.is_archived, e.seq <= state.archived_seq)
                   AND l.type NOT LIKE ALL (likes)
                   AND recado.inbox_holds(topics, lows, highs, e.seq, l.topic)
                 LIMIT most) x;
    END IF;
    unseen := least(n_above + n_below, most);
    oldest := CASE WHEN greatest(unread, unseen) >= most THEN 0 ELSE (SELECT min(s) FROM unnest(first) s) END;
END $$;

-- A page of a user's items below p_before, newest first. p_filter: `all` is what is not archived, `archived` the rest,
-- `unread` what the count of unread items counts.
CREATE FUNCTION recado.inbox_page(p_user text, p_accounts text[], p_members boolean, p_filter text, p_before bigint, p_most integer)
RETURNS TABLE (seq bigint, is_read boolean, is_archived boolean, is_muted boolean)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    state  recado.inbox%ROWTYPE;
    likes  text[];
    floor  bigint;
    topics text[];
    lows   bigint[];
    highs  bigint[];
    -- Without a mark an item is on the page if it lies in (above, upto].
    above  bigint;
    upto   bigint := p_before - 1;
BEGIN
    SELECT m.floor_seq INTO floor FROM recado.meta m;
    SELECT p_user, coalesce(i.seen_seq, 0), coalesce(i.read_seq, 0), coalesce(i.archived_seq, 0), coalesce(i.muted, '{}')
      INTO state FROM (SELECT 1) one LEFT JOIN recado.inbox i ON i.user_id = p_user;
    SELECT array_agg(r.topic), array_agg(greatest(r.low, floor)), array_agg(r.high) INTO topics, lows, highs
      FROM recado.inbox_reach(p_user, p_accounts, p_members) r;
    likes := recado.muted_like(state.muted);
    above := CASE p_filter WHEN 'unread' THEN greatest(state.read_seq, state.archived_seq) WHEN 'all' THEN state.archived_seq ELSE 0 END;
    IF p_filter = 'archived' THEN
        upto := least(upto, state.archived_seq);
    END IF;
    RETURN QUERY
        SELECT p.seq, coalesce(e.is_read, p.seq <= state.read_seq), coalesce(e.is_archived, p.seq <= state.archived_seq),
               p.type LIKE ANY (likes)
          FROM ((SELECT s.seq, s.type
                   FROM unnest(topics, lows, highs) AS t (topic, low, high)
                  CROSS JOIN LATERAL (
                        (SELECT a.seq, a.type
                           FROM recado.log a
                          WHERE (a.topic, a.seq) > (t.topic, greatest(above, t.low)) AND (a.topic, a.seq) <= (t.topic, least(upto, t.high))
                            AND a.topic <> 'l' AND a.replay AND a.inbox
                            AND NOT (p_filter = 'unread' AND a.type LIKE ANY (likes))
                            AND NOT EXISTS (SELECT FROM recado.inbox_item e WHERE e.user_id = p_user AND e.seq = a.seq)
                          ORDER BY a.topic DESC, a.seq DESC
                          LIMIT p_most)
                        UNION ALL
                        (SELECT b.seq, l.type
                           FROM recado.log_member b
                          CROSS JOIN LATERAL (SELECT c.type FROM recado.log c WHERE c.seq = b.seq AND c.inbox AND c.replay LIMIT 1) l
                          WHERE b.topic = t.topic AND starts_with(t.topic, 'u/')
                            AND b.seq > above AND b.seq <= upto AND b.seq > t.low AND b.seq <= t.high
                            AND NOT (p_filter = 'unread' AND l.type LIKE ANY (likes))
                            AND NOT EXISTS (SELECT FROM recado.inbox_item e WHERE e.user_id = p_user AND e.seq = b.seq)
                          ORDER BY b.seq DESC
                          LIMIT p_most)) s)
                 UNION ALL
                -- Items with a mark: at most 1000.
                (SELECT e.seq, l.type
                   FROM recado.inbox_item e
                  CROSS JOIN LATERAL (SELECT c.type, c.topic FROM recado.log c WHERE c.seq = e.seq AND c.inbox AND c.replay LIMIT 1) l
                  WHERE e.user_id = p_user AND e.seq < p_before
                    AND CASE p_filter
                            WHEN 'unread' THEN NOT coalesce(e.is_read, e.seq <= state.read_seq) AND NOT coalesce(e.is_archived, e.seq <= state.archived_seq)
                                               AND l.type NOT LIKE ALL (likes)
                            WHEN 'all' THEN NOT coalesce(e.is_archived, e.seq <= state.archived_seq)
                            ELSE coalesce(e.is_archived, e.seq <= state.archived_seq) END
                    AND recado.inbox_holds(topics, lows, highs, e.seq, l.topic)
                  ORDER BY e.seq DESC
                  LIMIT p_most)) p
          LEFT JOIN recado.inbox_item e ON e.user_id = p_user AND e.seq = p.seq
         ORDER BY p.seq DESC
         LIMIT p_most;
END $$;

-- The rows of such a page. A function, for its settings: the planner would scan a whole partition that had few rows
-- when it was last looked at, once for each item.
CREATE FUNCTION recado.inbox_rows(p_user text, p_accounts text[], p_members boolean, p_filter text, p_before bigint, p_most integer)
RETURNS TABLE (seq bigint, is_read boolean, is_archived boolean, is_muted boolean, id uuid, created_at timestamptz, type text, title text,
               message text, data json, topic text, user_id text, account_id text, user_ids text[])
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off
AS $$
    SELECT i.seq, i.is_read, i.is_archived, i.is_muted, l.id, l.created_at, l.type, l.title, l.message, l.data, l.topic, l.user_id, l.account_id, l.user_ids
      FROM recado.inbox_page(p_user, p_accounts, p_members, p_filter, p_before, p_most) i
     CROSS JOIN LATERAL (SELECT * FROM recado.log x WHERE x.seq = i.seq LIMIT 1) l;
$$;

-- Applies a change in the transaction that appends its row, whichever function appends it. Never fails: one row that no
-- hub could read must not stop the relay of the outbox. A number that is no item has no effect.
CREATE FUNCTION recado.apply_inbox_change() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off
AS $$
DECLARE
    who  constant text := new.user_id;
    op   constant text := new.data ->> 'op';
    up_to bigint;
    seqs  bigint[];
    marks boolean;
BEGIN
    INSERT INTO recado.inbox (user_id) VALUES (who) ON CONFLICT DO NOTHING;
    IF new.type = 'preferences' THEN
        IF json_typeof(new.data -> 'muted') = 'array' THEN
            UPDATE recado.inbox i SET muted = ARRAY(SELECT json_array_elements_text(new.data -> 'muted')) WHERE i.user_id = who;
        END IF;
        RETURN NULL;
    END IF;

    IF json_typeof(new.data -> 'up_to') = 'number' THEN
        up_to := least((new.data ->> 'up_to')::numeric, new.seq - 1)::bigint;
        UPDATE recado.inbox i
           SET read_seq = CASE WHEN op = 'read' THEN greatest(i.read_seq, up_to) ELSE i.read_seq END,
               archived_seq = CASE WHEN op = 'archive' THEN greatest(i.archived_seq, up_to) ELSE i.archived_seq END,
               -- Who marks all as read has seen them.
               seen_seq = CASE WHEN op IN ('seen', 'read', 'archive') THEN greatest(i.seen_seq, up_to) ELSE i.seen_seq END
         WHERE i.user_id = who;
        IF op = 'read' THEN
            DELETE FROM recado.inbox_item e WHERE e.user_id = who AND e.seq <= up_to AND e.is_archived IS NULL;
            UPDATE recado.inbox_item e SET is_read = NULL WHERE e.user_id = who AND e.seq <= up_to AND e.is_read IS NOT NULL;
        ELSIF op = 'archive' THEN
            DELETE FROM recado.inbox_item e WHERE e.user_id = who AND e.seq <= up_to AND e.is_read IS NULL;
            UPDATE recado.inbox_item e SET is_archived = NULL WHERE e.user_id = who AND e.seq <= up_to AND e.is_archived IS NOT NULL;
        END IF;
        RETURN NULL;
    END IF;

    IF json_typeof(new.data -> 'seqs') <> 'array' OR op NOT IN ('read', 'unread', 'archive', 'unarchive') THEN
        RETURN NULL;
    END IF;
    seqs := ARRAY(SELECT DISTINCT l.seq
                    FROM json_array_elements_text(new.data -> 'seqs') AS s (seq)
                   CROSS JOIN LATERAL (SELECT c.seq, c.topic, c.user_id, c.user_ids FROM recado.log c
                                        WHERE c.seq = CASE WHEN s.seq ~ '^[0-9]{1,18}$' THEN s.seq::bigint END
                                          AND c.inbox AND c.replay LIMIT 1) l
                   WHERE l.user_id IS NULL AND l.user_ids IS NULL OR l.user_id = who OR who = ANY (l.user_ids));
    marks := op IN ('read', 'archive');
    IF op IN ('read', 'unread') THEN
        INSERT INTO recado.inbox_item AS e (user_id, seq, is_read)
        SELECT who, s, marks FROM recado.inbox i, unnest(seqs) s WHERE i.user_id = who AND marks <> (s <= i.read_seq)
        ON CONFLICT (user_id, seq) DO UPDATE SET is_read = excluded.is_read;
        DELETE FROM recado.inbox_item e USING recado.inbox i
         WHERE i.user_id = who AND e.user_id = who AND e.seq = ANY (seqs) AND marks = (e.seq <= i.read_seq) AND e.is_archived IS NULL;
        UPDATE recado.inbox_item e SET is_read = NULL FROM recado.inbox i
         WHERE i.user_id = who AND e.user_id = who AND e.seq = ANY (seqs) AND marks = (e.seq <= i.read_seq) AND e.is_read IS NOT NULL;
    ELSE
        INSERT INTO recado.inbox_item AS e (user_id, seq, is_archived)
        SELECT who, s, marks FROM recado.inbox i, unnest(seqs) s WHERE i.user_id = who AND marks <> (s <= i.archived_seq)
        ON CONFLICT (user_id, seq) DO UPDATE SET is_archived = excluded.is_archived;
        DELETE FROM recado.inbox_item e USING recado.inbox i
         WHERE i.user_id = who AND e.user_id = who AND e.seq = ANY (seqs) AND marks = (e.seq <= i.archived_seq) AND e.is_read IS NULL;
        UPDATE recado.inbox_item e SET is_archived = NULL FROM recado.inbox i
         WHERE i.user_id = who AND e.user_id = who AND e.seq = ANY (seqs) AND marks = (e.seq <= i.archived_seq) AND e.is_archived IS NOT NULL;
    END IF;
    IF (SELECT count(*) FROM recado.inbox_item e WHERE e.user_id = who) > 500 THEN
        PERFORM recado.fold_inbox(who);
    END IF;
    RETURN NULL;
END $$;

-- Raises the watermark of reads over marks that agree with each other: to below the first unread item of all accounts
-- that the user ever came with. No state of an item changes.
CREATE FUNCTION recado.fold_inbox(p_user text) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off
AS $$
DECLARE
    was      bigint;
    edge     bigint;
BEGIN
    SELECT i.read_seq INTO was FROM recado.inbox i WHERE i.user_id = p_user;
    SELECT min(s.seq) - 1 INTO edge
      FROM recado.inbox_reach(p_user, recado.inbox_accounts(p_user), true) AS t
     CROSS JOIN LATERAL (
           (SELECT a.seq
              FROM recado.log a
             WHERE (a.topic, a.seq) > (t.topic, greatest(was, t.low)) AND (a.topic, a.seq) <= (t.topic, t.high)
               AND a.topic <> 'l' AND a.replay AND a.inbox
               AND NOT EXISTS (SELECT FROM recado.inbox_item e WHERE e.user_id = p_user AND e.seq = a.seq AND e.is_read)
             ORDER BY a.topic, a.seq
             LIMIT 1)
           UNION ALL
           (SELECT b.seq
              FROM recado.log_member b
             CROSS JOIN LATERAL (SELECT FROM recado.log c WHERE c.seq = b.seq AND c.inbox AND c.replay LIMIT 1) l
             WHERE b.topic = t.topic AND b.seq > was AND b.seq > t.low AND b.seq <= t.high
               AND NOT EXISTS (SELECT FROM recado.inbox_item e WHERE e.user_id = p_user AND e.seq = b.seq AND e.is_read)
             ORDER BY b.seq
             LIMIT 1)) s;
    -- Without an unread item: the last one that is marked.
    edge := coalesce(edge, (SELECT max(e.seq) FROM recado.inbox_item e WHERE e.user_id = p_user AND e.is_read));
    IF edge > was THEN
        UPDATE recado.inbox i SET read_seq = edge WHERE i.user_id = p_user;
        DELETE FROM recado.inbox_item e WHERE e.user_id = p_user AND e.seq <= edge AND e.is_read AND e.is_archived IS NULL;
        UPDATE recado.inbox_item e SET is_read = NULL WHERE e.user_id = p_user AND e.seq <= edge AND e.is_read;
    END IF;
END $$;

CREATE TRIGGER log_changes_inboxes AFTER INSERT ON recado.log
    FOR EACH ROW WHEN (new.type IN ('inbox', 'preferences') AND NOT new.inbox AND new.user_id IS NOT NULL AND new.account_id IS NULL)
    EXECUTE FUNCTION recado.apply_inbox_change();

-- Appends one row for a user, as a change of the inbox.
CREATE FUNCTION recado.append_inbox_change(p_hint bigint, p_hint_id uuid, p_origin text, p_user text, p_type text, p_data text) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    seq bigint;
BEGIN
    PERFORM set_config('recado.inbox', '{f}', true);
    SELECT a.first_seq INTO seq
      FROM recado.append(p_hint, p_hint_id, p_origin, ARRAY[recado.new_id()], ARRAY[p_type], ARRAY[''], ARRAY[''], ARRAY[p_data],
                         ARRAY['u/' || p_user], ARRAY[p_user], ARRAY[NULL::text], ARRAY[NULL::text], ARRAY[NULL::integer], ARRAY[true],
                         ARRAY['recado'], ARRAY[NULL::uuid], ARRAY[0::bigint]) a;
    PERFORM set_config('recado.inbox', '', true);
    RETURN seq;
END $$;

-- The places (from 0) of numbers that are no items of this user; NULL: each is one.
CREATE FUNCTION recado.inbox_no_items(p_user text, p_accounts text[], p_members boolean, p_seqs bigint[]) RETURNS integer[]
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off
AS $$
DECLARE
    topics text[];
    lows   bigint[];
    highs  bigint[];
BEGIN
    SELECT array_agg(r.topic), array_agg(greatest(r.low, m.floor_seq)), array_agg(r.high) INTO topics, lows, highs
      FROM recado.inbox_reach(p_user, p_accounts, p_members) r CROSS JOIN recado.meta m;
    RETURN (SELECT array_agg(u.place - 1 ORDER BY u.place)
              FROM unnest(p_seqs) WITH ORDINALITY AS u (seq, place)
              LEFT JOIN LATERAL (SELECT c.topic FROM recado.log c WHERE c.seq = u.seq AND c.inbox AND c.replay LIMIT 1) l ON true
             WHERE (recado.inbox_holds(topics, lows, highs, u.seq, l.topic)) IS NOT TRUE);
END $$;

-- Makes the changes that users asked for, in one commit under the lock of the log, so that the state is the fold of the
-- log. Each change: {"user", "accounts", "members", "op", "seqs" or "up_to" or "muted"}. The answers come in their
-- order: `seq` of the change's row, NULL when nothing changed; or a problem, and nothing was changed: `no_item` with
-- the places of the numbers that are no items of this user (from 0), `beyond` for a number above the head, `full` when
-- more than 1000 items would be read or archived one by one.
CREATE FUNCTION recado.change_inboxes(p_hint bigint, p_hint_id uuid, p_origin text, p_changes jsonb)
RETURNS TABLE (seq bigint, problem text, places integer[])
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    most constant integer := 1000;
    change   jsonb;
    who      text;
    op       text;
    up_to    bigint;
    seqs     bigint[];
    wanted   text[];
    head     bigint;
    state    recado.inbox%ROWTYPE;
    marks    boolean;
    needed   integer;
    faults   jsonb;
    n        integer := 0;
BEGIN
    -- Whose item a row is does not change, so this needs no lock. A thousand numbers take some milliseconds.
    SELECT jsonb_agg(to_jsonb(recado.inbox_no_items(
               c.change ->> 'user', ARRAY(SELECT jsonb_array_elements_text(c.change -> 'accounts')), (c.change ->> 'members')::boolean,
               ARRAY(SELECT s::bigint FROM jsonb_array_elements_text(c.change -> 'seqs') s))) ORDER BY c.place)
      INTO faults FROM jsonb_array_elements(p_changes) WITH ORDINALITY AS c (change, place);
    -- From here on, every look sees what the change will be applied to.
    LOCK TABLE recado.append_lock IN SHARE UPDATE EXCLUSIVE MODE;
    FOR change IN SELECT c FROM jsonb_array_elements(p_changes) c LOOP
        who := change ->> 'user';
        op := change ->> 'op';
        up_to := (change ->> 'up_to')::bigint;
        seqs := ARRAY(SELECT s::bigint FROM jsonb_array_elements_text(change -> 'seqs') s);
        n := n + 1;
        seq := NULL; problem := NULL; places := NULL;
        SELECT who, coalesce(i.seen_seq, 0), coalesce(i.read_seq, 0), coalesce(i.archived_seq, 0), coalesce(i.muted, '{}')
          INTO state FROM (SELECT 1) one LEFT JOIN recado.inbox i ON i.user_id = who;

        IF op = 'mute' THEN
            wanted := ARRAY(SELECT DISTINCT m FROM jsonb_array_elements_text(change -> 'muted') m ORDER BY m);
            IF wanted IS DISTINCT FROM ARRAY(SELECT m FROM unnest(state.muted) m ORDER BY m) THEN
                seq := recado.append_inbox_change(p_hint, p_hint_id, p_origin, who, 'preferences', format('{"muted":%s}', array_to_json(wanted)));
            END IF;
            RETURN NEXT;
            CONTINUE;
        END IF;

        IF up_to IS NOT NULL THEN
            SELECT greatest(m.floor_seq, coalesce((SELECT l.seq FROM recado.log l ORDER BY l.seq DESC LIMIT 1), 0)) INTO head FROM recado.meta m;
            IF up_to > head THEN
                problem := 'beyond';
            ELSIF up_to > (CASE op WHEN 'read' THEN least(state.read_seq, state.seen_seq)
                                   WHEN 'archive' THEN least(state.archived_seq, state.seen_seq) ELSE state.seen_seq END)
                  OR EXISTS (SELECT FROM recado.inbox_item e
                              WHERE e.user_id = who AND e.seq <= up_to
                                AND CASE op WHEN 'read' THEN e.is_read IS NOT NULL WHEN 'archive' THEN e.is_archived IS NOT NULL ELSE false END) THEN
                seq := recado.append_inbox_change(p_hint, p_hint_id, p_origin, who, 'inbox', format('{"op":"%s","up_to":%s}', op, up_to));
            END IF;
            RETURN NEXT;
            CONTINUE;
        END IF;

        IF jsonb_typeof(faults -> (n - 1)) = 'array' THEN
            places := ARRAY(SELECT f::integer FROM jsonb_array_elements_text(faults -> (n - 1)) f);
        END IF;
        IF places IS NOT NULL THEN
            problem := 'no_item';
            RETURN NEXT;
            CONTINUE;
        END IF;
        marks := op IN ('read', 'archive');
        SELECT array_agg(DISTINCT u.seq ORDER BY u.seq) INTO seqs
          FROM unnest(seqs) AS u (seq)
          LEFT JOIN recado.inbox_item e ON e.user_id = who AND e.seq = u.seq
         WHERE marks <> CASE WHEN op IN ('read', 'unread') THEN coalesce(e.is_read, u.seq <= state.read_seq)
                             ELSE coalesce(e.is_archived, u.seq <= state.archived_seq) END;
        IF seqs IS NULL THEN
            RETURN NEXT;
            CONTINUE;
        END IF;
        -- How many marks there would be. Those that go are not subtracted: the next change may bring them back.
        SELECT (SELECT count(*) FROM (SELECT FROM recado.inbox_item e WHERE e.user_id = who LIMIT most + 1) x)
               + (SELECT count(*) FROM unnest(seqs) s
                   WHERE marks <> (s <= CASE WHEN op IN ('read', 'unread') THEN state.read_seq ELSE state.archived_seq END)
                     AND NOT EXISTS (SELECT FROM recado.inbox_item e WHERE e.user_id = who AND e.seq = s))
          INTO needed;
        IF needed > most THEN
            problem := 'full';
            RETURN NEXT;
            CONTINUE;
        END IF;
        seq := recado.append_inbox_change(p_hint, p_hint_id, p_origin, who, 'inbox', format('{"op":"%s","seqs":%s}', op, array_to_json(seqs)));
        RETURN NEXT;
    END LOOP;
END $$;

-- Retention and erasure take items away. They tell it with a row of the log for no user, so that a hub knows from which
-- number on its counts are too high. `inboxes`: the state of an inbox is gone too. At the end of the transaction: the
-- lock of the log is held for the commit alone.
CREATE FUNCTION recado.recount_inboxes() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    inboxes constant boolean := coalesce(current_setting('recado.erased_inbox', true), '') = 'on';
BEGIN
    -- First: who holds it changes inboxes, and would wait for the marks that this deletes.
    LOCK TABLE recado.append_lock IN SHARE UPDATE EXCLUSIVE MODE;
    DELETE FROM recado.inbox_item e WHERE e.seq <= new.floor_seq;
    -- The erased inbox may have been the last one.
    IF inboxes OR EXISTS (SELECT FROM recado.inbox_since) THEN
        PERFORM set_config('recado.inbox', '{f}', true);
        PERFORM FROM recado.append(0, NULL, 'inbox', ARRAY[recado.new_id()], ARRAY['recado_recount'], ARRAY[''], ARRAY[''],
                                   ARRAY[json_build_object('floor', new.floor_seq, 'erased', new.erasures > old.erasures, 'inboxes', inboxes)::text],
                                   ARRAY['u/-'], ARRAY['-'], ARRAY[NULL::text], ARRAY[NULL::text], ARRAY[NULL::integer], ARRAY[false],
                                   ARRAY['recado'], ARRAY[NULL::uuid], ARRAY[0::bigint]);
        PERFORM set_config('recado.inbox', '', true);
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER inboxes_are_recounted AFTER UPDATE OF floor_seq, erasures ON recado.meta
    DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN (new.floor_seq > old.floor_seq OR new.erasures > old.erasures) EXECUTE FUNCTION recado.recount_inboxes();

-- A log that lost its end starts over under a new id: what lies behind its head is not read, seen or marked any more.
CREATE FUNCTION recado.keep_inboxes_in_log() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    head bigint;
BEGIN
    SELECT greatest(new.floor_seq, coalesce((SELECT l.seq FROM recado.log l ORDER BY l.seq DESC LIMIT 1), 0)) INTO head;
    UPDATE recado.inbox i SET seen_seq = least(i.seen_seq, head), read_seq = least(i.read_seq, head), archived_seq = least(i.archived_seq, head)
     WHERE greatest(i.seen_seq, i.read_seq, i.archived_seq) > head;
    DELETE FROM recado.inbox_item e WHERE e.seq > head;
    UPDATE recado.inbox_since s SET seq = head WHERE s.seq > head;
    RETURN NULL;
END $$;
CREATE TRIGGER inboxes_stay_in_log AFTER UPDATE OF log_id ON recado.meta
    FOR EACH ROW WHEN (new.log_id <> old.log_id) EXECUTE FUNCTION recado.keep_inboxes_in_log();

-- Erasing a user erases the inbox. As part of erase_traces, which each way to erase a user calls.
CREATE FUNCTION recado.erase_inbox(p_user_id text) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    n     bigint;
    total bigint := 0;
BEGIN
    -- The order of each transaction that takes items away: the row of recado.meta, the lock of the log, the tables of
    -- inboxes and members. A change of this inbox or of a membership holds the lock of the log while it waits for rows
    -- of these tables, and recado.recount_inboxes waits for that lock.
    PERFORM FROM recado.meta FOR UPDATE;
    LOCK TABLE recado.append_lock IN SHARE UPDATE EXCLUSIVE MODE;
    DELETE FROM recado.inbox i WHERE i.user_id = p_user_id;
    GET DIAGNOSTICS n = ROW_COUNT; total := total + n;
    DELETE FROM recado.inbox_item e WHERE e.user_id = p_user_id;
    GET DIAGNOSTICS n = ROW_COUNT; total := total + n;
    DELETE FROM recado.inbox_since s WHERE s.user_id = p_user_id;
    GET DIAGNOSTICS n = ROW_COUNT; total := total + n;
    IF total > 0 THEN
        PERFORM set_config('recado.erased_inbox', 'on', true);
        PERFORM recado.count_erasure();
    END IF;
    RETURN total;
END $$;
SELECT pg_temp.amend('recado.erase_traces(text)', 'recado.erase_audit(p_user_id);', 'recado.erase_audit(p_user_id) + recado.erase_inbox(p_user_id);');

REVOKE ALL ON FUNCTION
    recado.notify(boolean, text, text, text, text, text, text[], text, boolean, bigint, boolean, text), recado.is_muted(text, text[]),
    recado.muted_like(text[]), recado.inbox_reach(text, text[], boolean), recado.inbox_accounts(text), recado.inbox_holds(text[], bigint[], bigint[], bigint, text),
    recado.inbox_open(text, text[]), recado.inbox_counts(text, text[], boolean),
    recado.inbox_page(text, text[], boolean, text, bigint, integer),
    recado.inbox_rows(text, text[], boolean, text, bigint, integer), recado.apply_inbox_change(), recado.fold_inbox(text),
    recado.append_inbox_change(bigint, uuid, text, text, text, text),
    recado.inbox_no_items(text, text[], boolean, bigint[]), recado.change_inboxes(bigint, uuid, text, jsonb),
    recado.recount_inboxes(), recado.keep_inboxes_in_log(), recado.erase_inbox(text) FROM PUBLIC;

-- Who may call recado.notify may call it with `inbox` as well.
DO $$
DECLARE
    grantee text;
BEGIN
    FOR grantee IN SELECT a.grantee::regrole::text
                     FROM pg_proc p, aclexplode(p.proacl) a
                    WHERE p.oid = 'recado.notify(text,text,text,text,text,text[],text,boolean,bigint,boolean,text)'::regprocedure
                      AND a.grantee <> p.proowner AND a.grantee <> 0 LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION recado.notify(boolean, text, text, text, text, text, text[], text, boolean, bigint, boolean, text) TO %s', grantee);
    END LOOP;
END $$;

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'recado_hub') THEN
        GRANT SELECT ON recado.inbox, recado.inbox_item, recado.inbox_since TO recado_hub;
        GRANT EXECUTE ON FUNCTION recado.inbox_open(text, text[]), recado.inbox_counts(text, text[], boolean),
            recado.inbox_page(text, text[], boolean, text, bigint, integer),
    recado.inbox_rows(text, text[], boolean, text, bigint, integer), recado.inbox_accounts(text), recado.is_muted(text, text[]),
            recado.change_inboxes(bigint, uuid, text, jsonb) TO recado_hub;
    END IF;
EXCEPTION
    WHEN insufficient_privilege THEN NULL;
END $$;
