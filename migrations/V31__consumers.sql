-- Consumers: services that follow the log, each under a name with a durable position (decision 0067).

-- The scope of a key: the consumers that it may use and create. A `*` at the end stands for any rest. A key that
-- exists, and a key that an earlier version creates, may use none.
ALTER TABLE recado.service_key
    ADD COLUMN consumers text[] NOT NULL DEFAULT '{}'
        CONSTRAINT consumers_are_a_list CHECK (cardinality(consumers) <= 1000 AND array_position(consumers, NULL) IS NULL);

-- As in V21: a change of scopes reaches the hubs as a revocation does.
DROP TRIGGER key_changes_are_noted ON recado.service_key;
CREATE TRIGGER key_changes_are_noted
    AFTER UPDATE OF revoked_at, role, types, accounts, users, broadcast, members, read, rate, expires_at, networks, consumers OR DELETE
    ON recado.service_key FOR EACH ROW EXECUTE FUNCTION recado.note_key_change();

-- As in V23, with the consumers.
CREATE OR REPLACE FUNCTION recado.audited_scopes(p_row jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT jsonb_strip_nulls(jsonb_build_object(
        'types', p_row -> 'types', 'accounts', p_row -> 'accounts', 'users', jsonb_array_length(nullif(p_row -> 'users', 'null')),
        'broadcast', p_row -> 'broadcast', 'members', p_row -> 'members', 'read', p_row -> 'read', 'rate', p_row -> 'rate',
        'expires_at', p_row -> 'expires_at', 'networks', p_row -> 'networks', 'consumers', nullif(p_row -> 'consumers', '[]')));
$$;

-- One row for each consumer.
--
-- `types`, `user_id`, `account_id`: which rows it wants; NULL does not limit. `acked_seq`: the position; everything up
-- to it is acknowledged, or of no interest. `log_id`: the log that the numbers belong to. `given_seq`: the highest
-- number that the present term was given; no higher one may be acknowledged.
--
-- `owner` and `term` are the fence. A term belongs to one owner and never comes again: it rises, and it is at least
-- the present time in milliseconds, so neither a restored database nor a consumer that was created again repeats one.
-- An acknowledgement counts under the present term only. `lease_until` only decides when another owner may take over.
-- So an owner that was slow continues if no other owner has taken over.
--
-- fillfactor 50, and no index on what an acknowledgement changes: updates stay on their page (HOT).
CREATE TABLE recado.consumer (
    name          text        PRIMARY KEY CONSTRAINT name_is_plain CHECK (name COLLATE "C" ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$'),
    types         text[]      CONSTRAINT types_are_a_list CHECK (cardinality(types) BETWEEN 1 AND 32 AND array_position(types, NULL) IS NULL),
    user_id       text,
    account_id    text,
    log_id        uuid        NOT NULL,
    acked_seq     bigint      NOT NULL CONSTRAINT acked_is_not_negative CHECK (acked_seq >= 0),
    given_seq     bigint      NOT NULL,
    owner         text        CONSTRAINT owner_has_a_length CHECK (length(owner) BETWEEN 1 AND 128),
    term          bigint      NOT NULL DEFAULT 0,
    lease_until   timestamptz,
    lease_seconds integer     NOT NULL DEFAULT 30 CONSTRAINT lease_has_a_length CHECK (lease_seconds BETWEEN 1 AND 3600),
    acked_at      timestamptz,
    created_at    timestamptz NOT NULL DEFAULT now(),
    created_by    text        NOT NULL DEFAULT session_user,
    CONSTRAINT owner_has_a_lease CHECK ((owner IS NULL) = (lease_until IS NULL)),
    CONSTRAINT given_is_not_below_acked CHECK (given_seq >= acked_seq)
) WITH (fillfactor = 50);
COMMENT ON TABLE recado.consumer IS 'Services that follow the log, and how far each has come. Changed by functions of this schema alone.';
REVOKE ALL ON recado.consumer FROM PUBLIC;

-- The logins that may use a consumer in SQL.
CREATE TABLE recado.consumer_login (
    consumer text NOT NULL REFERENCES recado.consumer ON DELETE CASCADE,
    login    text NOT NULL,
    PRIMARY KEY (consumer, login)
);
COMMENT ON TABLE recado.consumer_login IS 'Logins that may use a consumer in SQL. Written by recado.grant_consumer.';
REVOKE ALL ON recado.consumer_login FROM PUBLIC;

-- Stops the caller with a sentence, a code and the fix.
CREATE FUNCTION recado.refuse_consumer(p_code text, p_name text, p_message text, p_hint text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = p_code, MESSAGE = format('consumer %s: %s', coalesce(p_name, 'NULL'), p_message), HINT = p_hint;
END $$;

CREATE FUNCTION recado.refuse_unknown_consumer(p_name text) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    SELECT recado.refuse_consumer('RC020', p_name, 'does not exist', 'recado consumer create makes one.');
$$;

-- The position that a text names: earliest, now, or the number after which a consumer begins.
CREATE FUNCTION recado.consumer_start(p_name text, p_start text, OUT log_id uuid, OUT place bigint)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    floor bigint;
    head  bigint;
BEGIN
    SELECT m.log_id, m.floor_seq INTO log_id, floor FROM recado.meta m;
    SELECT greatest(floor, coalesce((SELECT l.seq FROM recado.log l ORDER BY l.seq DESC LIMIT 1), 0)) INTO head;
    IF p_start = 'earliest' THEN
        place := floor;
    ELSIF p_start = 'now' THEN
        place := head;
    ELSIF p_start ~ '^[0-9]{1,18}$' THEN
        place := p_start::bigint;
        IF place < floor THEN
            PERFORM recado.refuse_consumer('RC022', p_name, format('rows up to %s are no longer kept', floor), 'Start at earliest.');
        END IF;
        IF place > head THEN
            PERFORM recado.refuse_consumer('RC024', p_name, format('the log ends at %s', head), 'Start at now.');
        END IF;
    ELSE
        PERFORM recado.refuse_consumer('RC010', p_name, 'start must be earliest, now, or a sequence number', 'Nothing was changed.');
    END IF;
END $$;

-- Creates a consumer. Returns false if it exists with the same conditions: then `p_start` has no effect. Other
-- conditions are refused (RC025). The last three parameters are for recado.audit.
CREATE FUNCTION recado.create_consumer(
    p_name text, p_types text[] DEFAULT NULL, p_user_id text DEFAULT NULL, p_account_id text DEFAULT NULL, p_start text DEFAULT 'earliest',
    p_who text DEFAULT NULL, p_via text DEFAULT NULL, p_address text DEFAULT NULL) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    an_id   constant text := '^[A-Za-z0-9._:|@+=~-]{1,128}$';
    wanted  constant text[] := (SELECT array_agg(DISTINCT t COLLATE "C" ORDER BY t COLLATE "C") FROM unnest(p_types) t);
    c       recado.consumer%ROWTYPE;
    s       record;
BEGIN
    IF (p_name COLLATE "C" ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$') IS NOT TRUE THEN
        PERFORM recado.refuse_consumer('RC010', p_name,
            'a name is 1 to 64 characters of A-Z a-z 0-9 . _ - and begins with a letter or digit', 'Nothing was changed.');
    END IF;
    IF p_types IS NOT NULL AND (cardinality(wanted) BETWEEN 1 AND 32
        AND NOT EXISTS (SELECT FROM unnest(p_types) t WHERE (t COLLATE "C" ~ '^([a-z0-9][a-z0-9._-]{0,62}[*]?|[a-z0-9][a-z0-9._-]{63}|[*])$') IS NOT TRUE)) IS NOT TRUE THEN
        PERFORM recado.refuse_consumer('RC010', p_name,
            'types must be 1 to 32 types, or first characters of types with a * at the end', 'Nothing was changed.');
    END IF;
    IF (p_user_id COLLATE "C" ~ an_id AND p_user_id <> '-') IS FALSE OR (p_account_id COLLATE "C" ~ an_id) IS FALSE THEN
        PERFORM recado.refuse_consumer('RC010', p_name,
            'user_id and account_id must be 1 to 128 characters of A-Z a-z 0-9 . _ : - | @ + = ~', 'Nothing was changed.');
    END IF;
    SELECT * INTO c FROM recado.consumer k WHERE k.name = p_name;
    IF NOT FOUND THEN
        SELECT * INTO s FROM recado.consumer_start(p_name, p_start);
        INSERT INTO recado.consumer (name, types, user_id, account_id, log_id, acked_seq, given_seq, created_by)
        VALUES (p_name, wanted, p_user_id, p_account_id, s.log_id, s.place, s.place,
                left(coalesce(p_who, nullif(current_setting('recado.actor_who', true), ''), 'login:' || session_user), 200))
        ON CONFLICT (name) DO NOTHING;
        IF FOUND THEN
            -- The user has a column of its own, from which an erasure removes the id.
            PERFORM recado.audit('consumer.create', p_name,
                jsonb_strip_nulls(jsonb_build_object('types', to_jsonb(wanted), 'account', p_account_id, 'after', s.place)),
                p_user_id => p_user_id, p_who => p_who, p_via => p_via, p_address => p_address);
            RETURN true;
        END IF;
        SELECT * INTO c FROM recado.consumer k WHERE k.name = p_name;
    END IF;
    IF (c.types, c.user_id, c.account_id) IS DISTINCT FROM (wanted, p_user_id, p_account_id) THEN
        PERFORM recado.refuse_consumer('RC025', p_name, 'exists with other conditions', 'Use another name, or delete it: recado consumer delete NAME.');
    END IF;
    RETURN false;
END $$;

-- Moves the position of a consumer, also backward, and ends the present term. Returns the position.
CREATE FUNCTION recado.seek_consumer(
    p_name text, p_start text, p_who text DEFAULT NULL, p_via text DEFAULT NULL, p_address text DEFAULT NULL) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    was bigint;
    s   record;
BEGIN
    SELECT k.acked_seq INTO was FROM recado.consumer k WHERE k.name = p_name FOR UPDATE;
    IF NOT FOUND THEN
        PERFORM recado.refuse_unknown_consumer(p_name);
    END IF;
    SELECT * INTO s FROM recado.consumer_start(p_name, p_start);
    UPDATE recado.consumer k
       SET acked_seq = s.place, given_seq = s.place, log_id = s.log_id, owner = NULL, lease_until = NULL, term = k.term + 1
     WHERE k.name = p_name;
    PERFORM recado.audit('consumer.seek', p_name, jsonb_build_object('after', s.place, 'was', was),
                         p_who => p_who, p_via => p_via, p_address => p_address);
    RETURN s.place;
END $$;

-- Takes or renews the lease for `p_owner`, and returns the rows that follow the position.
--
-- There is at least one row, with the state; the columns from `seq` on are NULL if there is nothing to do. A `term`
-- that is NULL: another owner has the lease, for `lease_left` more seconds. Every row of interest up to `through` is in
-- this answer. `through` is below `head` if the page is full, or if many rows without interest lie before it.
--
-- Numbers are dense and in commit order, so what is read up to the head has no hole. That needs a snapshot for each
-- statement: the head first, then the rows, then the floor, which retention raises before it drops rows.
CREATE FUNCTION recado.fetch_batch(p_name text, p_owner text, p_rows integer, p_lease_seconds integer)
RETURNS TABLE (
    term bigint, through bigint, head bigint, log_id uuid, lease_left double precision,
    seq bigint, id uuid, created_at timestamptz, type text, title text, message text, data json, user_ids text[],
    account_id text, broadcast boolean, source text, expires_at timestamptz, replay boolean, bytes integer)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    -- Numbers of one look, and looks of one call: what is of no interest does not hold the row's lock for long.
    looks_at   constant integer := 2000;
    looks_max  constant integer := 10;
    page_bytes constant integer := 1 << 20;
    c        recado.consumer%ROWTYPE;
    t        timestamptz;
    patterns text[];
    log      uuid;
    floor    bigint;
    ends     bigint;
    place    bigint;
    upto     bigint;
    rows_at  bigint[];
    matching bigint;
    my_term  bigint;
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        PERFORM recado.refuse_consumer('RC002', p_name, 'needs READ COMMITTED, not ' || current_setting('transaction_isolation'),
            'Begin the transaction with this isolation level.');
    END IF;
    IF (length(p_owner) BETWEEN 1 AND 128 AND p_rows BETWEEN 1 AND 1000 AND p_lease_seconds BETWEEN 1 AND 3600) IS NOT TRUE THEN
        PERFORM recado.refuse_consumer('RC010', p_name,
            'owner has 1 to 128 characters, a batch 1 to 1000 rows, a lease 1 s to 1 h', 'Nothing was changed.');
    END IF;
    -- A caller that holds the lock uses the consumer now.
    SELECT * INTO c FROM recado.consumer k WHERE k.name = p_name FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        IF NOT EXISTS (SELECT FROM recado.consumer k WHERE k.name = p_name) THEN
            PERFORM recado.refuse_unknown_consumer(p_name);
        END IF;
        lease_left := 0;
        RETURN NEXT;
        RETURN;
    END IF;
    t := clock_timestamp();
    through := c.acked_seq;
    -- A lease that is longer than it was taken for comes from a clock that was set back. The term protects its owner.
    IF c.owner <> p_owner AND c.lease_until BETWEEN t AND t + make_interval(secs => c.lease_seconds) THEN
        lease_left := extract(epoch FROM c.lease_until - t);
        RETURN NEXT;
        RETURN;
    END IF;

    SELECT m.log_id, greatest(m.floor_seq, coalesce((SELECT l.seq FROM recado.log l ORDER BY l.seq DESC LIMIT 1), 0)) INTO log, ends FROM recado.meta m;
    -- In LIKE, `_` stands for any character, and types have it.
    patterns := (SELECT array_agg(replace(CASE WHEN right(p, 1) = '*' THEN left(p, -1) ELSE p END, '_', '\_') || CASE WHEN right(p, 1) = '*' THEN '%' ELSE '' END)
                   FROM unnest(c.types) p);
    place := c.acked_seq;
    FOR n IN 1..looks_max LOOP
        upto := least(place + looks_at, ends);
        SELECT array_agg(w.seq ORDER BY w.seq) FILTER (WHERE w.weight_through <= page_bytes OR w.weight_through = w.weight), count(*)
          INTO rows_at, matching
          FROM (SELECT f.seq, f.weight, sum(f.weight) OVER (ORDER BY f.seq) AS weight_through
                  FROM (SELECT l.seq, l.bytes + coalesce(pg_column_size(l.user_ids), 0) AS weight
                          FROM recado.log l
                         WHERE l.seq > place AND l.seq <= upto AND l.topic <> 'u/-'
                           AND (l.expires_at IS NULL OR l.expires_at > t)
                           AND (patterns IS NULL OR l.type LIKE ANY (patterns))
                           AND (c.user_id IS NULL OR l.user_id = c.user_id OR c.user_id = ANY (l.user_ids))
                           AND (c.account_id IS NULL OR l.account_id = c.account_id)
                         ORDER BY l.seq
                         LIMIT p_rows) f) w;
        EXIT WHEN matching > 0 OR upto = ends OR n = looks_max;
        place := upto;
    END LOOP;
    IF matching = p_rows OR matching > cardinality(rows_at) THEN
        upto := rows_at[cardinality(rows_at)];
    END IF;

    SELECT m.floor_seq INTO floor FROM recado.meta m WHERE m.log_id = log;
    IF NOT FOUND OR c.log_id <> log OR c.acked_seq > ends THEN
        PERFORM recado.refuse_consumer('RC021', p_name, 'its position belongs to another log: the database was restored',
            'Decide where to go on: recado consumer seek NAME earliest.');
    END IF;
    IF floor > c.acked_seq THEN
        PERFORM recado.refuse_consumer('RC022', p_name, format('retention dropped %s to %s, which it has not acknowledged', c.acked_seq + 1, floor),
            'Accept the gap: recado consumer seek NAME earliest.');
    END IF;

    my_term := CASE WHEN c.owner = p_owner THEN c.term ELSE greatest(c.term + 1, (extract(epoch FROM t) * 1000)::bigint) END;
    UPDATE recado.consumer k
       SET owner = p_owner, term = my_term, lease_until = t + make_interval(secs => p_lease_seconds), lease_seconds = p_lease_seconds,
           -- What lies before the first row of interest needs no acknowledgement.
           acked_seq = coalesce(rows_at[1] - 1, upto),
           given_seq = greatest(upto, CASE WHEN k.term = my_term THEN k.given_seq END)
     WHERE k.name = p_name;

    term := my_term;
    through := upto;
    head := ends;
    log_id := log;
    lease_left := p_lease_seconds;
    FOR seq, id, created_at, type, title, message, data, user_ids, account_id, broadcast, source, expires_at, replay, bytes IN
        SELECT l.seq, l.id, l.created_at, l.type, l.title, l.message, l.data,
               coalesce(l.user_ids, array_remove(ARRAY[l.user_id], NULL)), l.account_id, l.topic = '*', l.source, l.expires_at, l.replay, l.bytes
          FROM unnest(rows_at) WITH ORDINALITY AS f (seq, place)
          -- Not a row that was erased since.
         CROSS JOIN LATERAL (SELECT * FROM recado.log x WHERE x.seq = f.seq AND x.topic <> 'u/-' LIMIT 1) l
         ORDER BY f.place
    LOOP
        RETURN NEXT;
    END LOOP;
    IF NOT FOUND THEN
        RETURN NEXT;
    END IF;
END $$;

-- Locks a consumer for the owner of the present term, and refuses any other.
CREATE FUNCTION recado.hold_consumer(p_name text, p_term bigint) RETURNS recado.consumer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    c recado.consumer%ROWTYPE;
BEGIN
    SELECT * INTO c FROM recado.consumer k WHERE k.name = p_name FOR UPDATE;
    IF NOT FOUND THEN
        PERFORM recado.refuse_unknown_consumer(p_name);
    END IF;
    IF c.owner IS NULL OR c.term IS DISTINCT FROM p_term THEN
        PERFORM recado.refuse_consumer('RC023', p_name, format('the term %s has ended', p_term),
            'Nothing was changed. Another owner has the lease, or it was given back. Fetch again.');
    END IF;
    IF NOT EXISTS (SELECT FROM recado.meta m WHERE m.log_id = c.log_id) THEN
        PERFORM recado.refuse_consumer('RC021', p_name, 'its position belongs to another log: the database was restored',
            'Decide where to go on: recado consumer seek NAME earliest.');
    END IF;
    RETURN c;
END $$;

-- Acknowledges everything up to `p_seq`, and renews the lease. Never moves backward. Returns the position.
CREATE FUNCTION recado.ack_batch(p_name text, p_term bigint, p_seq bigint) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    c     recado.consumer%ROWTYPE := recado.hold_consumer(p_name, p_term);
    t     constant timestamptz := clock_timestamp();
    place bigint;
BEGIN
    IF (p_seq BETWEEN 0 AND c.given_seq) IS NOT TRUE THEN
        PERFORM recado.refuse_consumer('RC024', p_name, format('the term was given rows up to %s only', c.given_seq), 'Acknowledge what was fetched.');
    END IF;
    UPDATE recado.consumer k
       SET acked_seq = greatest(k.acked_seq, p_seq), acked_at = t,
           lease_until = greatest(k.lease_until, t + make_interval(secs => k.lease_seconds))
     WHERE k.name = p_name
    RETURNING k.acked_seq INTO place;
    RETURN place;
END $$;

-- Renews the lease by its length. Returns when it ends.
CREATE FUNCTION recado.renew_consumer(p_name text, p_term bigint) RETURNS timestamptz
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    c     recado.consumer%ROWTYPE := recado.hold_consumer(p_name, p_term);
    until timestamptz := greatest(c.lease_until, clock_timestamp() + make_interval(secs => c.lease_seconds));
BEGIN
    UPDATE recado.consumer k SET lease_until = until WHERE k.name = p_name;
    RETURN until;
END $$;

-- Gives the lease back, so that the next owner need not wait until it ends. The term ends with it. Returns whether
-- the owner had it.
CREATE FUNCTION recado.release_consumer(p_name text, p_owner text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE recado.consumer k SET owner = NULL, lease_until = NULL WHERE k.name = p_name AND k.owner = p_owner;
    IF FOUND THEN
        RETURN true;
    END IF;
    IF NOT EXISTS (SELECT FROM recado.consumer k WHERE k.name = p_name) THEN
        PERFORM recado.refuse_unknown_consumer(p_name);
    END IF;
    RETURN false;
END $$;

-- What a service with a login calls, in its own transaction: an acknowledgement that is rolled back was never made.

-- Refuses a login that was not granted the consumer, and does not tell whether there is such a consumer. The owner of
-- the schema may use each.
CREATE FUNCTION recado.check_consumer_login(p_name text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM recado.consumer_login l WHERE l.consumer = p_name AND l.login = session_user)
       AND NOT pg_has_role(session_user, (SELECT n.nspowner FROM pg_namespace n WHERE n.nspname = 'recado'), 'MEMBER') THEN
        PERFORM recado.refuse_consumer('42501', p_name, format('login %s may not use it', session_user), 'An administrator allows it: recado consumer grant NAME LOGIN.');
    END IF;
END $$;

-- Rows that follow the position, under a lease. None: there is nothing to do, or another owner has the lease.
CREATE FUNCTION recado.consumer_fetch(consumer text, owner text, batch integer DEFAULT 100, lease interval DEFAULT '30 seconds')
RETURNS TABLE (
    term bigint, seq bigint, id uuid, created_at timestamptz, type text, title text, message text, data json, user_ids text[],
    account_id text, broadcast boolean, source text, expires_at timestamptz, replay boolean)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
    PERFORM recado.check_consumer_login(consumer_fetch.consumer);
    RETURN QUERY
        SELECT f.term, f.seq, f.id, f.created_at, f.type, f.title, f.message, f.data, f.user_ids, f.account_id, f.broadcast, f.source, f.expires_at, f.replay
          FROM recado.fetch_batch(consumer_fetch.consumer, consumer_fetch.owner, consumer_fetch.batch,
                                  ceil(extract(epoch FROM consumer_fetch.lease))::integer) f
         WHERE f.seq IS NOT NULL;
END $$;
COMMENT ON FUNCTION recado.consumer_fetch(text, text, integer, interval) IS
    'The rows that follow the position of a consumer, under a lease. No rows: nothing to do, or another owner has the lease.';

CREATE FUNCTION recado.consumer_ack(consumer text, term bigint, seq bigint) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM recado.check_consumer_login(consumer);
    RETURN recado.ack_batch(consumer, term, seq);
END $$;
COMMENT ON FUNCTION recado.consumer_ack(text, bigint, bigint) IS 'Acknowledges everything up to seq, under the term of the fetch. Returns the position.';

CREATE FUNCTION recado.consumer_renew(consumer text, term bigint) RETURNS timestamptz
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM recado.check_consumer_login(consumer);
    RETURN recado.renew_consumer(consumer, term);
END $$;
COMMENT ON FUNCTION recado.consumer_renew(text, bigint) IS 'Renews the lease. Returns when it ends.';

CREATE FUNCTION recado.consumer_release(consumer text, owner text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM recado.check_consumer_login(consumer);
    RETURN recado.release_consumer(consumer, owner);
END $$;
COMMENT ON FUNCTION recado.consumer_release(text, text) IS 'Gives the lease back. Returns whether the owner had it.';

-- Lets a login use a consumer in SQL. The rights are the login's own, as those of a tenant: a role would belong to the
-- cluster. Called by an administrator's command.
CREATE FUNCTION recado.grant_consumer(p_name text, p_login text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM recado.consumer k WHERE k.name = p_name) THEN
        PERFORM recado.refuse_unknown_consumer(p_name);
    END IF;
    EXECUTE format('GRANT USAGE ON SCHEMA recado TO %I', p_login);
    EXECUTE format('GRANT EXECUTE ON FUNCTION recado.consumer_fetch(text, text, integer, interval), recado.consumer_ack(text, bigint, bigint),
                        recado.consumer_renew(text, bigint), recado.consumer_release(text, text) TO %I', p_login);
    BEGIN
        EXECUTE format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), p_login);
    EXCEPTION
        WHEN insufficient_privilege THEN NULL;  -- every login may connect, unless an administrator has changed that
    END;
    INSERT INTO recado.consumer_login (consumer, login) VALUES (p_name, p_login) ON CONFLICT DO NOTHING;
    PERFORM recado.audit('consumer.grant', p_name, jsonb_build_object('login', p_login));
END $$;

-- Takes from a login the right to use a consumer, and with its last one the functions. Returns whether it had it.
CREATE FUNCTION recado.revoke_consumer(p_name text, p_login text) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM recado.consumer_login l WHERE l.consumer = p_name AND l.login = p_login;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    IF NOT EXISTS (SELECT FROM recado.consumer_login l WHERE l.login = p_login) AND EXISTS (SELECT FROM pg_roles r WHERE r.rolname = p_login) THEN
        EXECUTE format('REVOKE EXECUTE ON FUNCTION recado.consumer_fetch(text, text, integer, interval), recado.consumer_ack(text, bigint, bigint),
                            recado.consumer_renew(text, bigint), recado.consumer_release(text, text) FROM %I', p_login);
    END IF;
    PERFORM recado.audit('consumer.revoke', p_name, jsonb_build_object('login', p_login));
    RETURN true;
END $$;

-- Deletes a consumer with its position and its logins. Returns whether there was one.
CREATE FUNCTION recado.delete_consumer(p_name text) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    place bigint;
BEGIN
    PERFORM recado.revoke_consumer(l.consumer, l.login) FROM recado.consumer_login l WHERE l.consumer = p_name;
    DELETE FROM recado.consumer k WHERE k.name = p_name RETURNING k.acked_seq INTO place;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    PERFORM recado.audit('consumer.delete', p_name, jsonb_build_object('after', place));
    RETURN true;
END $$;

-- As in V23, and a consumer of the erased user gets no more rows: none that it receives names the user `-`.
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
    IF traces > 0 AND coalesce(current_setting('recado.open_erasure', true), '') = '' THEN
        PERFORM recado.audit('user.erase', NULL, jsonb_build_object('traces', traces));
    END IF;
    RETURN traces;
END $$;

REVOKE ALL ON FUNCTION
    recado.refuse_consumer(text, text, text, text), recado.refuse_unknown_consumer(text), recado.consumer_start(text, text),
    recado.create_consumer(text, text[], text, text, text, text, text, text), recado.seek_consumer(text, text, text, text, text),
    recado.fetch_batch(text, text, integer, integer), recado.hold_consumer(text, bigint), recado.ack_batch(text, bigint, bigint),
    recado.renew_consumer(text, bigint), recado.release_consumer(text, text), recado.check_consumer_login(text),
    recado.consumer_fetch(text, text, integer, interval), recado.consumer_ack(text, bigint, bigint),
    recado.consumer_renew(text, bigint), recado.consumer_release(text, text), recado.grant_consumer(text, text),
    recado.revoke_consumer(text, text), recado.delete_consumer(text) FROM PUBLIC;

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'recado_hub') THEN
        GRANT SELECT ON recado.consumer, recado.consumer_login TO recado_hub;
        GRANT EXECUTE ON FUNCTION recado.create_consumer(text, text[], text, text, text, text, text, text),
            recado.seek_consumer(text, text, text, text, text), recado.fetch_batch(text, text, integer, integer),
            recado.ack_batch(text, bigint, bigint), recado.renew_consumer(text, bigint), recado.release_consumer(text, text) TO recado_hub;
    END IF;
EXCEPTION
    WHEN insufficient_privilege THEN NULL;
END $$;
