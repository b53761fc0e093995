-- Webhooks: the hub posts rows of the log to HTTPS addresses, signed, until they are accepted (decision 0069).

-- One row for each webhook.
--
-- `types`, `user_id`, `account_id`, `audience`: which rows it wants; NULL does not limit. `unacked_seconds`: a row is
-- posted only if after this time a user whom it names has not acknowledged it. `secret` and `old_secret` are sealed by
-- the hub. `passed_seq`: the position; everything up to it was posted, is in recado.webhook_post, or is of no interest.
-- `log_id`: the log that the numbers belong to. `missed`: how many numbers retention dropped before they were passed,
-- and how many posts with their rows.
--
-- `owner` and `term` are the fence, as for a consumer: a term belongs to one instance and never comes again, and only
-- the present term may change the position and the posts. `lease_until` only decides when another hub may take over.
--
-- fillfactor 50, and no index on what a commit of the log changes: updates stay on their page (HOT).
CREATE TABLE recado.webhook (
    name             text        PRIMARY KEY CONSTRAINT name_is_plain CHECK (name COLLATE "C" ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$'),
    url              text        NOT NULL CONSTRAINT url_has_a_length CHECK (length(url) BETWEEN 1 AND 2000),
    types            text[]      CONSTRAINT types_are_a_list CHECK (cardinality(types) BETWEEN 1 AND 32 AND array_position(types, NULL) IS NULL),
    user_id          text,
    account_id       text,
    audience         text        CONSTRAINT audience_is_known CHECK (audience IN ('users', 'account', 'everyone')),
    unacked_seconds  integer     CONSTRAINT unacked_has_a_length CHECK (unacked_seconds BETWEEN 1 AND 2592000),
    secret           bytea       NOT NULL,
    old_secret       bytea,
    old_secret_until timestamptz,
    log_id           uuid        NOT NULL,
    passed_seq       bigint      NOT NULL CONSTRAINT passed_is_not_negative CHECK (passed_seq >= 0),
    missed           bigint      NOT NULL DEFAULT 0,
    state            text        NOT NULL DEFAULT 'active' CONSTRAINT state_is_known CHECK (state IN ('active', 'paused', 'disabled')),
    owner            uuid,
    term             bigint      NOT NULL DEFAULT 0,
    lease_until      timestamptz,
    posted_at        timestamptz,
    created_at       timestamptz NOT NULL DEFAULT now(),
    created_by       text        NOT NULL DEFAULT session_user,
    CONSTRAINT owner_has_a_lease CHECK ((owner IS NULL) = (lease_until IS NULL)),
    CONSTRAINT only_an_active_one_has_an_owner CHECK (owner IS NULL OR state = 'active'),
    CONSTRAINT old_secret_has_an_end CHECK ((old_secret IS NULL) = (old_secret_until IS NULL)),
    -- A row to an account or to everyone names no user who could acknowledge it.
    CONSTRAINT unacked_needs_users CHECK (unacked_seconds IS NULL OR audience = 'users')
) WITH (fillfactor = 50);
COMMENT ON TABLE recado.webhook IS 'Addresses to which the hub posts rows of the log. Changed by functions of this schema alone.';
REVOKE ALL ON recado.webhook FROM PUBLIC;

-- Posts that wait for an attempt, and posts that were given up. A post that was accepted is deleted.
CREATE TABLE recado.webhook_post (
    webhook   text        NOT NULL REFERENCES recado.webhook ON DELETE CASCADE,
    seq       bigint      NOT NULL,
    queued_at timestamptz NOT NULL,
    due_at    timestamptz NOT NULL,
    attempts  integer     NOT NULL DEFAULT 0,
    is_dead   boolean     NOT NULL DEFAULT false,
    tried_at  timestamptz,
    status    integer,
    error     text        CONSTRAINT error_has_a_length CHECK (length(error) <= 300),
    PRIMARY KEY (webhook, seq)
) WITH (autovacuum_vacuum_scale_factor = 0.05);
COMMENT ON TABLE recado.webhook_post IS 'Posts of webhooks that wait for an attempt, or were given up. Changed by functions of this schema alone.';
-- Finds the posts that are due, and counts those that wait.
CREATE INDEX webhook_post_due ON recado.webhook_post (webhook, due_at, seq) WHERE NOT is_dead;
-- Serves the list and the count of dead letters.
CREATE INDEX webhook_post_dead ON recado.webhook_post (webhook, seq) WHERE is_dead;
REVOKE ALL ON recado.webhook_post FROM PUBLIC;

-- Stops the caller with a sentence, a code and the fix.
CREATE FUNCTION recado.refuse_webhook(p_code text, p_name text, p_message text, p_hint text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = p_code, MESSAGE = format('webhook %s: %s', coalesce(p_name, 'NULL'), p_message), HINT = p_hint;
END $$;

-- Tells every hub that webhooks have changed. The channel is the one that all hubs listen on; hubs of an earlier
-- version ignore the payload.
CREATE FUNCTION recado.webhooks_changed() RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    SELECT pg_notify('recado', 'webhooks');
$$;

-- The position that a text names: earliest, now, or the number after which a webhook begins.
CREATE FUNCTION recado.webhook_start(p_name text, p_start text, OUT log_id uuid, OUT place bigint)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    floor bigint;
    head  bigint;
BEGIN
    SELECT m.log_id, m.floor_seq INTO log_id, floor FROM recado.meta m;
    SELECT greatest(floor, coalesce((SELECT l.seq FROM recado.log l ORDER BY l.seq DESC LIMIT 1), 0)) INTO head;
    place := CASE WHEN p_start = 'earliest' THEN floor WHEN p_start = 'now' THEN head WHEN p_start ~ '^[0-9]{1,18}$' THEN p_start::bigint END;
    IF place IS NULL THEN
        PERFORM recado.refuse_webhook('RC010', p_name, 'start must be earliest, now, or a sequence number', 'Nothing was changed.');
    ELSIF place NOT BETWEEN floor AND head THEN
        PERFORM recado.refuse_webhook('RC024', p_name, format('rows from %s to %s are kept', floor + 1, head), 'Start at earliest or now.');
    END IF;
END $$;

-- Creates a webhook. The caller has checked the conditions and sealed the secret. Refuses a name that is in use.
CREATE FUNCTION recado.create_webhook(
    p_name text, p_url text, p_origin text, p_types text[], p_user_id text, p_account_id text, p_audience text, p_unacked_seconds integer,
    p_secret bytea, p_start text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    -- Each one is looked at with each beat of each hub.
    most constant integer := 200;
    s    record;
BEGIN
    IF (SELECT count(*) FROM recado.webhook) >= most THEN
        PERFORM recado.refuse_webhook('RC010', p_name, format('there are %s webhooks already', most), 'Delete one, or give one wider conditions.');
    END IF;
    SELECT * INTO s FROM recado.webhook_start(p_name, p_start);
    INSERT INTO recado.webhook (name, url, types, user_id, account_id, audience, unacked_seconds, secret, log_id, passed_seq, created_by)
    VALUES (p_name, p_url, p_types, p_user_id, p_account_id, p_audience, p_unacked_seconds, p_secret, s.log_id, s.place,
            left(coalesce(nullif(current_setting('recado.actor_who', true), ''), 'login:' || session_user), 200))
    ON CONFLICT (name) DO NOTHING;
    IF NOT FOUND THEN
        PERFORM recado.refuse_webhook('RC025', p_name, 'exists', 'Use another name, or delete it: recado webhook delete NAME.');
    END IF;
    -- The user has a column of its own, from which an erasure removes the id. The path of a URL may be a secret.
    PERFORM recado.audit('webhook.create', p_name,
        jsonb_strip_nulls(jsonb_build_object('origin', p_origin, 'types', to_jsonb(p_types), 'account', p_account_id, 'audience', p_audience,
                                             'unacked_seconds', p_unacked_seconds, 'after', s.place)),
        p_user_id => p_user_id);
    PERFORM recado.webhooks_changed();
END $$;

-- Locks a webhook for a change by an administrator.
CREATE FUNCTION recado.lock_webhook(p_name text) RETURNS recado.webhook
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    w recado.webhook%ROWTYPE;
BEGIN
    SELECT * INTO w FROM recado.webhook k WHERE k.name = p_name FOR UPDATE;
    IF NOT FOUND THEN
        PERFORM recado.refuse_webhook('RC020', p_name, 'does not exist', 'recado webhook list shows them.');
    END IF;
    RETURN w;
END $$;

-- Stops a webhook until it is resumed. Its owner loses the lease.
CREATE FUNCTION recado.pause_webhook(p_name text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    w recado.webhook%ROWTYPE := recado.lock_webhook(p_name);
BEGIN
    UPDATE recado.webhook k SET state = 'paused', owner = NULL, lease_until = NULL, term = k.term + 1 WHERE k.name = p_name;
    PERFORM recado.audit('webhook.pause', p_name, jsonb_build_object('was', w.state));
    PERFORM recado.webhooks_changed();
END $$;

-- Lets a webhook go on, also one that was disabled. With `p_start`, its position is moved. Posts of another log are
-- dropped then: their numbers name other rows.
CREATE FUNCTION recado.resume_webhook(p_name text, p_start text) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    w   recado.webhook%ROWTYPE := recado.lock_webhook(p_name);
    log uuid := (SELECT m.log_id FROM recado.meta m);
    s   record;
BEGIN
    IF p_start IS NULL THEN
        IF w.log_id <> log THEN
            PERFORM recado.refuse_webhook('RC021', p_name, 'its position belongs to another log: the database was restored',
                'Decide where to go on: recado webhook resume NAME --start now.');
        END IF;
        SELECT w.log_id, w.passed_seq AS place INTO s;
    ELSE
        SELECT * INTO s FROM recado.webhook_start(p_name, p_start);
        DELETE FROM recado.webhook_post p WHERE p.webhook = p_name AND w.log_id <> log;
    END IF;
    UPDATE recado.webhook k
       SET state = 'active', log_id = s.log_id, passed_seq = s.place, owner = NULL, lease_until = NULL, term = k.term + 1
     WHERE k.name = p_name;
    PERFORM recado.audit('webhook.resume', p_name, jsonb_build_object('was', w.state, 'after', s.place));
    PERFORM recado.webhooks_changed();
    RETURN s.place;
END $$;

-- Replaces the secret. The old one signs as well, until the given time is over.
CREATE FUNCTION recado.rotate_webhook(p_name text, p_secret bytea, p_keep_seconds integer) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    w recado.webhook%ROWTYPE := recado.lock_webhook(p_name);
BEGIN
    UPDATE recado.webhook k
       SET secret = p_secret, old_secret = CASE WHEN p_keep_seconds > 0 THEN w.secret END,
           old_secret_until = CASE WHEN p_keep_seconds > 0 THEN clock_timestamp() + make_interval(secs => p_keep_seconds) END,
           -- The owner reads the secrets with its claim.
           owner = NULL, lease_until = NULL, term = k.term + 1
     WHERE k.name = p_name;
    PERFORM recado.audit('webhook.rotate', p_name, jsonb_build_object('keep_seconds', p_keep_seconds));
    PERFORM recado.webhooks_changed();
END $$;

-- Makes dead letters due: one, or all if `p_seq` is NULL. Their attempts begin anew. Returns how many.
CREATE FUNCTION recado.retry_webhook(p_name text, p_seq bigint) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    w recado.webhook%ROWTYPE := recado.lock_webhook(p_name);
    n bigint;
BEGIN
    UPDATE recado.webhook_post p
       SET is_dead = false, attempts = 0, due_at = clock_timestamp(), queued_at = clock_timestamp()
     WHERE p.webhook = p_name AND p.is_dead AND (p_seq IS NULL OR p.seq = p_seq);
    GET DIAGNOSTICS n = ROW_COUNT;
    IF n > 0 THEN
        PERFORM recado.audit('webhook.retry', p_name, jsonb_strip_nulls(jsonb_build_object('seq', p_seq, 'posts', n)));
        PERFORM recado.webhooks_changed();
    END IF;
    RETURN n;
END $$;

-- Deletes a webhook with its posts. Returns whether there was one.
CREATE FUNCTION recado.delete_webhook(p_name text) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    place bigint;
BEGIN
    DELETE FROM recado.webhook k WHERE k.name = p_name RETURNING k.passed_seq INTO place;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    PERFORM recado.audit('webhook.delete', p_name, jsonb_build_object('after', place));
    PERFORM recado.webhooks_changed();
    RETURN true;
END $$;

-- Renews the leases of an instance, takes those that no instance has, and returns all webhooks with what the metrics
-- show. A `term` that is NULL: the instance does not own it. `p_skip`: webhooks that this instance cannot post for.
--
-- Instances lock disjoint rows, or skip locked ones, so no two wait for each other.
CREATE FUNCTION recado.webhook_beat(p_owner uuid, p_lease_seconds integer, p_skip text[])
RETURNS TABLE (
    name text, term bigint, url text, user_id text, unacked_seconds integer, secret bytea, old_secret bytea, old_left double precision,
    state text, dead bigint, lag double precision)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    lease constant interval := make_interval(secs => p_lease_seconds);
    t     timestamptz;
    log   uuid;
BEGIN
    IF NOT EXISTS (SELECT FROM recado.webhook) THEN
        RETURN;
    END IF;
    t := clock_timestamp();
    log := (SELECT m.log_id FROM recado.meta m);
    UPDATE recado.webhook w SET lease_until = t + lease WHERE w.owner = p_owner AND w.log_id = log AND w.name <> ALL (p_skip);
    UPDATE recado.webhook w
       SET owner = p_owner, lease_until = t + lease, term = greatest(w.term + 1, (extract(epoch FROM t) * 1000)::bigint)
      FROM (SELECT k.name
              FROM recado.webhook k
             WHERE k.state = 'active' AND k.log_id = log AND k.name <> ALL (p_skip)
               -- A lease that is longer than it was taken for comes from a clock that was set back.
               AND (k.owner IS NULL OR k.owner <> p_owner AND k.lease_until NOT BETWEEN t AND t + lease)
             ORDER BY k.name
               FOR UPDATE SKIP LOCKED) free
     WHERE w.name = free.name;
    RETURN QUERY
        SELECT w.name, CASE WHEN w.owner = p_owner AND w.log_id = log AND w.name <> ALL (p_skip) THEN w.term END, w.url, w.user_id, w.unacked_seconds, w.secret,
               CASE WHEN w.old_secret_until > t THEN w.old_secret END, extract(epoch FROM w.old_secret_until - t)::double precision,
               CASE WHEN w.log_id <> log THEN 'reset' ELSE w.state END,
               (SELECT count(*) FROM recado.webhook_post p WHERE p.webhook = w.name AND p.is_dead),
               CASE WHEN w.state = 'active' AND w.log_id = log THEN greatest(0, extract(epoch FROM t - least(
                   (SELECT min(p.queued_at) FROM recado.webhook_post p WHERE p.webhook = w.name AND NOT p.is_dead),
                   (SELECT l.created_at FROM recado.log l WHERE l.seq > w.passed_seq ORDER BY l.seq LIMIT 1)
                       + make_interval(secs => coalesce(w.unacked_seconds, 0)))))::double precision END
          FROM recado.webhook w
         ORDER BY w.name;
END $$;

-- Gives back the leases of an instance that stops, so that the next owner need not wait until they end.
CREATE FUNCTION recado.release_webhooks(p_owner uuid) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE recado.webhook w SET owner = NULL, lease_until = NULL WHERE w.owner = p_owner;
    IF FOUND THEN
        PERFORM recado.webhooks_changed();
    END IF;
END $$;

-- Locks a webhook for the owner of the present term, and refuses any other.
CREATE FUNCTION recado.hold_webhook(p_name text, p_term bigint) RETURNS recado.webhook
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    w recado.webhook%ROWTYPE;
BEGIN
    SELECT * INTO w FROM recado.webhook k WHERE k.name = p_name FOR UPDATE;
    IF NOT FOUND OR w.owner IS NULL OR w.term IS DISTINCT FROM p_term OR NOT EXISTS (SELECT FROM recado.meta m WHERE m.log_id = w.log_id) THEN
        PERFORM recado.refuse_webhook('RC023', p_name, format('the term %s has ended', p_term), 'Nothing was changed.');
    END IF;
    RETURN w;
END $$;

-- The users of a list who have not acknowledged a row. A device that was created after the row began beyond it, and its
-- position says nothing, unless one of its connections began before the row.
CREATE FUNCTION recado.unacked_users(p_log_id uuid, p_seq bigint, p_created_at timestamptz, p_users text[]) RETURNS text[]
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(array_agg(u.id ORDER BY u.place), '{}')
      FROM unnest(p_users) WITH ORDINALITY AS u (id, place)
     WHERE u.id <> '-' AND NOT EXISTS (
           SELECT FROM recado.cursor c
            WHERE c.user_id = u.id AND c.log_id = p_log_id AND c.acked_seq >= p_seq
              AND (c.created_at <= p_created_at OR EXISTS (
                  SELECT FROM recado.session s
                   WHERE s.user_id = u.id AND s.client_id = c.client_id AND s.connected_at >= p_created_at
                     AND s.log_id = p_log_id AND s.from_seq < p_seq AND s.acked_seq >= p_seq)));
$$;

-- The users of a row whose acknowledgement a webhook waits for: all that are named, or the one of its condition.
CREATE FUNCTION recado.awaited_users(p_only text, p_user_id text, p_user_ids text[]) RETURNS text[]
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN p_only IS NOT NULL THEN ARRAY[p_only] ELSE coalesce(p_user_ids, ARRAY[p_user_id]) END;
$$;

-- Queues the rows that follow the position, and returns posts that are due, without those in `p_busy`.
--
-- There is at least one row, with the state; the columns from `seq` on are NULL if nothing is due. `has_more`: call
-- again now. `wait_seconds`: something is due then, without a new row; NULL: nothing is. `head`: the end of the log at
-- this call. `skipped`: numbers, and posts, that retention dropped before.
--
-- As in recado.fetch_batch, numbers are dense and in commit order, and each statement has a snapshot: the head first,
-- then the rows, then the floor, which retention raises before it drops rows.
CREATE FUNCTION recado.webhook_next(p_name text, p_term bigint, p_rows integer, p_busy bigint[])
RETURNS TABLE (
    log_id uuid, head bigint, has_more boolean, wait_seconds double precision, skipped bigint,
    seq bigint, id uuid, created_at timestamptz, type text, title text, message text, data json, user_ids text[],
    account_id text, broadcast boolean, source text, expires_at timestamptz, replay boolean, attempts integer, unacked text[])
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    -- Numbers of one look, and looks of one call. They limit how long rows of no interest hold the row's lock.
    looks_at   constant integer := 2000;
    looks_max  constant integer := 10;
    -- Posts that wait. While the address accepts nothing, the position stays, and the log is the queue.
    waiting_max constant integer := 1000;
    queue_max  constant integer := 200;
    w        recado.webhook%ROWTYPE := recado.hold_webhook(p_name, p_term);
    t        constant timestamptz := clock_timestamp();
    patterns text[];
    floor    bigint;
    last     bigint;
    ends     bigint;
    place    bigint;
    upto     bigint;
    room     integer;
    rows_at  bigint[] := '{}';
    young    record;
BEGIN
    SELECT m.floor_seq INTO floor FROM recado.meta m;
    skipped := 0;
    -- Dead letters go with their rows as well.
    WITH gone AS (DELETE FROM recado.webhook_post p WHERE p.webhook = p_name AND p.seq <= floor RETURNING 1)
    SELECT count(*) INTO skipped FROM gone;
    IF floor > w.passed_seq THEN
        skipped := skipped + floor - w.passed_seq;
        w.passed_seq := floor;
    END IF;
    SELECT greatest(floor, coalesce((SELECT l.seq FROM recado.log l ORDER BY l.seq DESC LIMIT 1), 0)) INTO last;
    ends := last;
    -- In LIKE, `_` stands for any character, and types have it.
    patterns := (SELECT array_agg(replace(CASE WHEN right(p, 1) = '*' THEN left(p, -1) ELSE p END, '_', '\_') || CASE WHEN right(p, 1) = '*' THEN '%' ELSE '' END)
                   FROM unnest(w.types) p);
    room := waiting_max - (SELECT count(*) FROM (SELECT FROM recado.webhook_post p WHERE p.webhook = p_name AND NOT p.is_dead LIMIT waiting_max) x);
    place := w.passed_seq;
    has_more := false;
    IF room > 0 THEN
        FOR n IN 1..looks_max LOOP
            upto := least(place + looks_at, ends);
            IF w.unacked_seconds IS NOT NULL THEN
                SELECT l.seq, l.created_at INTO young
                  FROM recado.log l
                 WHERE l.seq > place AND l.seq <= upto AND l.created_at > t - make_interval(secs => w.unacked_seconds)
                 ORDER BY l.seq LIMIT 1;
                IF FOUND THEN
                    upto := young.seq - 1;
                    ends := upto;
                    wait_seconds := extract(epoch FROM young.created_at - t) + w.unacked_seconds;
                END IF;
            END IF;
            SELECT coalesce(array_agg(f.seq ORDER BY f.seq), '{}') INTO rows_at
              FROM (SELECT l.seq
                      FROM recado.log l
                     WHERE l.seq > place AND l.seq <= upto AND l.topic <> 'u/-'
                       AND (l.expires_at IS NULL OR l.expires_at > t)
                       AND (patterns IS NULL OR l.type LIKE ANY (patterns))
                       AND (w.user_id IS NULL OR l.user_id = w.user_id OR w.user_id = ANY (l.user_ids))
                       AND (w.account_id IS NULL OR l.account_id = w.account_id)
                       AND (w.audience IS NULL OR w.audience = CASE WHEN l.topic = '*' THEN 'everyone'
                                WHEN l.user_id IS NULL AND l.user_ids IS NULL THEN 'account' ELSE 'users' END)
                       AND (w.unacked_seconds IS NULL OR cardinality(recado.unacked_users(w.log_id, l.seq, l.created_at,
                                recado.awaited_users(w.user_id, l.user_id, l.user_ids))) > 0)
                     ORDER BY l.seq
                     LIMIT least(room, queue_max)) f;
            IF cardinality(rows_at) = least(room, queue_max) THEN
                upto := rows_at[cardinality(rows_at)];
            END IF;
            has_more := upto < ends;
            place := upto;
            EXIT WHEN cardinality(rows_at) > 0 OR upto >= ends;
        END LOOP;
        SELECT m.floor_seq INTO floor FROM recado.meta m;
        IF floor > w.passed_seq THEN
            -- Retention dropped rows between the statements, and the list of rows may have a hole: look again.
            rows_at := '{}';
            place := w.passed_seq;
            has_more := true;
        END IF;
        INSERT INTO recado.webhook_post (webhook, seq, queued_at, due_at) SELECT p_name, s, t, t FROM unnest(rows_at) s ON CONFLICT DO NOTHING;
        has_more := has_more AND room > cardinality(rows_at);
    END IF;
    UPDATE recado.webhook k SET passed_seq = place, missed = k.missed + skipped
     WHERE k.name = p_name AND (k.passed_seq, 0) IS DISTINCT FROM (place, skipped);

    -- What has been erased, has expired or was acknowledged since needs no post.
    DELETE FROM recado.webhook_post p
     USING (SELECT d.seq FROM recado.webhook_post d
             WHERE d.webhook = p_name AND NOT d.is_dead AND d.due_at <= t AND d.seq <> ALL (p_busy)
             ORDER BY d.due_at, d.seq LIMIT p_rows) due
      LEFT JOIN recado.log l ON l.seq = due.seq
     WHERE p.webhook = p_name AND p.seq = due.seq
       AND (l.seq IS NULL OR l.topic = 'u/-' OR l.expires_at <= t
            OR w.unacked_seconds IS NOT NULL AND cardinality(recado.unacked_users(w.log_id, l.seq, l.created_at,
                   recado.awaited_users(w.user_id, l.user_id, l.user_ids))) = 0);
    has_more := has_more OR FOUND;

    log_id := w.log_id;
    head := last;
    wait_seconds := least(wait_seconds, (SELECT extract(epoch FROM min(p.due_at) - t) FROM recado.webhook_post p
                                          WHERE p.webhook = p_name AND NOT p.is_dead AND p.due_at > t AND p.seq <> ALL (p_busy)));
    FOR seq, id, created_at, type, title, message, data, user_ids, account_id, broadcast, source, expires_at, replay, attempts, unacked IN
        SELECT l.seq, l.id, l.created_at, l.type, l.title, l.message, l.data,
               coalesce(l.user_ids, array_remove(ARRAY[l.user_id], NULL)), l.account_id, l.topic = '*', l.source, l.expires_at, l.replay, due.attempts,
               CASE WHEN w.unacked_seconds IS NOT NULL THEN recado.unacked_users(w.log_id, l.seq, l.created_at,
                   recado.awaited_users(w.user_id, l.user_id, l.user_ids)) END
          FROM (SELECT d.seq, d.due_at, d.attempts FROM recado.webhook_post d
                 WHERE d.webhook = p_name AND NOT d.is_dead AND d.due_at <= t AND d.seq <> ALL (p_busy)
                 ORDER BY d.due_at, d.seq LIMIT p_rows) due
          JOIN recado.log l ON l.seq = due.seq
         ORDER BY due.due_at, due.seq
    LOOP
        RETURN NEXT;
    END LOOP;
    IF NOT FOUND THEN
        RETURN NEXT;
    END IF;
END $$;

-- Stores the results of posts. An element of `p_wait` is the seconds until the next attempt; NULL with `p_is_done`
-- false makes the post a dead letter.
CREATE FUNCTION recado.settle_webhook_posts(
    p_name text, p_term bigint, p_seq bigint[], p_is_done boolean[], p_status integer[], p_error text[], p_wait double precision[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    w recado.webhook%ROWTYPE := recado.hold_webhook(p_name, p_term);
    t constant timestamptz := clock_timestamp();
BEGIN
    DELETE FROM recado.webhook_post p USING unnest(p_seq, p_is_done) AS r (seq, is_done)
     WHERE p.webhook = p_name AND p.seq = r.seq AND r.is_done;
    IF FOUND THEN
        UPDATE recado.webhook k SET posted_at = t WHERE k.name = p_name;
    END IF;
    UPDATE recado.webhook_post p
       SET attempts = p.attempts + 1, tried_at = t, status = r.status, error = left(r.error, 300), is_dead = r.wait IS NULL,
           due_at = t + make_interval(secs => coalesce(r.wait, 0))
      FROM unnest(p_seq, p_is_done, p_status, p_error, p_wait) AS r (seq, is_done, status, error, wait)
     WHERE p.webhook = p_name AND p.seq = r.seq AND NOT r.is_done;
END $$;

-- Disables a webhook whose address is gone. The post stays.
CREATE FUNCTION recado.disable_webhook(p_name text, p_term bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    w recado.webhook%ROWTYPE := recado.hold_webhook(p_name, p_term);
BEGIN
    UPDATE recado.webhook k SET state = 'disabled', owner = NULL, lease_until = NULL, term = k.term + 1 WHERE k.name = p_name;
    PERFORM recado.audit('webhook.disable', p_name, jsonb_build_object('status', 410));
END $$;

-- Stores secrets that were sealed with a newer key.
CREATE FUNCTION recado.reseal_webhook(p_name text, p_term bigint, p_secret bytea, p_old_secret bytea) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    w recado.webhook%ROWTYPE := recado.hold_webhook(p_name, p_term);
BEGIN
    UPDATE recado.webhook k SET secret = p_secret, old_secret = p_old_secret,
           old_secret_until = CASE WHEN p_old_secret IS NOT NULL THEN k.old_secret_until END
     WHERE k.name = p_name;
END $$;

-- As in V31, and a webhook of the erased user posts nothing more.
CREATE OR REPLACE FUNCTION recado.erase_traces(p_user_id text) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    traces bigint;
    n      bigint;
BEGIN
    traces := recado.erase_traces_unaudited(p_user_id) + recado.erase_audit(p_user_id);
    -- The rows stay: hubs read all of them in order. A revocation stays whole, and its change goes within a day:
    -- erasing a user gives no access back.
    UPDATE recado.access_change c SET subject = '-' WHERE c.subject = p_user_id AND c.kind IN ('close_user', 'lift_revocation');
    DELETE FROM recado.token_renewal r WHERE r.user_id = p_user_id;
    UPDATE recado.consumer k SET user_id = '-' WHERE k.user_id = p_user_id;
    GET DIAGNOSTICS n = ROW_COUNT;
    traces := traces + n;
    UPDATE recado.webhook k SET user_id = '-' WHERE k.user_id = p_user_id;
    GET DIAGNOSTICS n = ROW_COUNT;
    traces := traces + n;
    IF traces > 0 AND coalesce(current_setting('recado.open_erasure', true), '') = '' THEN
        PERFORM recado.audit('user.erase', NULL, jsonb_build_object('traces', traces));
    END IF;
    RETURN traces;
END $$;

REVOKE ALL ON FUNCTION
    recado.refuse_webhook(text, text, text, text), recado.webhooks_changed(), recado.webhook_start(text, text),
    recado.create_webhook(text, text, text, text[], text, text, text, integer, bytea, text), recado.lock_webhook(text), recado.pause_webhook(text),
    recado.resume_webhook(text, text), recado.rotate_webhook(text, bytea, integer), recado.retry_webhook(text, bigint), recado.delete_webhook(text),
    recado.webhook_beat(uuid, integer, text[]), recado.release_webhooks(uuid), recado.hold_webhook(text, bigint),
    recado.unacked_users(uuid, bigint, timestamptz, text[]), recado.awaited_users(text, text, text[]),
    recado.webhook_next(text, bigint, integer, bigint[]),
    recado.settle_webhook_posts(text, bigint, bigint[], boolean[], integer[], text[], double precision[]),
    recado.disable_webhook(text, bigint), recado.reseal_webhook(text, bigint, bytea, bytea) FROM PUBLIC;

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'recado_hub') THEN
        GRANT EXECUTE ON FUNCTION recado.webhook_beat(uuid, integer, text[]), recado.release_webhooks(uuid),
            recado.webhook_next(text, bigint, integer, bigint[]),
            recado.settle_webhook_posts(text, bigint, bigint[], boolean[], integer[], text[], double precision[]),
            recado.disable_webhook(text, bigint), recado.reseal_webhook(text, bigint, bytea, bytea) TO recado_hub;
    END IF;
EXCEPTION
    WHEN insufficient_privilege THEN NULL;
END $$;
