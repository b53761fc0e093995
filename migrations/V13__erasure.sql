-- What the log forgets in place: rows over their ttl, rows that somebody has asked to erase, and old rows of a partition that is not
-- full yet. Numbers stay dense: a row that is erased keeps its number, its id and its moment.

-- Append-only, but for three changes, each recognised by what it does: a row over its ttl loses its text, a row becomes the
-- tombstone of an erasure or loses a user of its list, and rows up to the floor go. Only the owner has the right to change anything here, and
-- the setting keeps a slip of the hand from being taken for one of them. Functions set it in their bodies and not among their
-- settings: PostgreSQL lets only a superuser put a setting that it does not know into a function's definition.
CREATE FUNCTION recado.allow_forgetting() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    has_no_text boolean;
BEGIN
    IF coalesce(current_setting('recado.forgetting', true), '') = 'on' AND NOT (TG_OP = 'UPDATE' AND TG_ARGV[0] = 'log_member') THEN
        IF TG_OP = 'DELETE' THEN
            -- A list's reader is taken from the list first; everything else goes below the floor alone.
            IF TG_ARGV[0] = 'log_member' OR old.seq <= (SELECT m.floor_seq FROM recado.meta m) THEN
                RETURN old;
            END IF;
        ELSIF (new.seq, new.id, new.created_at, new.source) = (old.seq, old.id, old.created_at, old.source) THEN
            has_no_text := new.title = '' AND new.message = '' AND new.data IS NULL AND new.bytes = 0;
            IF has_no_text AND new.type = 'erased' AND new.topic = 'u/-' AND NOT new.replay AND new.expires_at IS NULL THEN
                RETURN new;
            END IF;
            IF (new.type, new.topic, new.user_id, new.account_id, new.expires_at, new.replay)
               IS NOT DISTINCT FROM (old.type, old.topic, old.user_id, old.account_id, old.expires_at, old.replay) THEN
                IF has_no_text AND old.expires_at < statement_timestamp() AND new.user_ids IS NOT DISTINCT FROM old.user_ids THEN
                    RETURN new;
                END IF;
                IF new.user_ids <@ old.user_ids AND (new.title, new.message, new.data::text, new.bytes)
                                                   IS NOT DISTINCT FROM (old.title, old.message, old.data::text, old.bytes) THEN
                    RETURN new;
                END IF;
            END IF;
        END IF;
    END IF;
    RAISE EXCEPTION 'recado.log is append-only: % on % is refused', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'RC004', HINT = 'Rows leave the log by retention and by recado erase.';
END $$;

-- Refuses the statement as a whole, also one that changes no row.
CREATE FUNCTION recado.refuse_unless_forgetting() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP <> 'TRUNCATE' AND coalesce(current_setting('recado.forgetting', true), '') = 'on' THEN
        RETURN NULL;
    END IF;
    RAISE EXCEPTION 'recado.log is append-only: % on % is refused', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'RC004', HINT = 'Rows leave the log by retention and by recado erase.';
END $$;

-- A statement that names a partition is refused by the partition's own trigger, as before.
DROP TRIGGER log_is_append_only ON recado.log;
DROP TRIGGER log_member_is_append_only ON recado.log_member;
CREATE TRIGGER log_is_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON recado.log
    FOR EACH STATEMENT EXECUTE FUNCTION recado.refuse_unless_forgetting();
CREATE TRIGGER log_member_is_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON recado.log_member
    FOR EACH STATEMENT EXECUTE FUNCTION recado.refuse_unless_forgetting();
CREATE TRIGGER log_forgets BEFORE UPDATE OR DELETE ON recado.log
    FOR EACH ROW EXECUTE FUNCTION recado.allow_forgetting('log');
CREATE TRIGGER log_member_forgets BEFORE UPDATE OR DELETE ON recado.log_member
    FOR EACH ROW EXECUTE FUNCTION recado.allow_forgetting('log_member');

-- Serves the removal of texts: "which rows are over their ttl and have one". A row without is not in it.
CREATE INDEX log_expiring ON recado.log (expires_at) WHERE expires_at IS NOT NULL AND bytes > 0;

-- Takes the text of at most `p_most` rows that are over their ttl; how many that were. Ten minutes later than that: a hub that lags
-- behind delivers what had not expired when it was appended.
CREATE FUNCTION recado.erase_expired(p_most integer) RETURNS integer
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off
AS $$
DECLARE
    erased integer;
BEGIN
    PERFORM set_config('recado.forgetting', 'on', true);
    UPDATE recado.log l
       SET title = '', message = '', data = NULL, bytes = 0
      FROM (SELECT e.seq
              FROM recado.log e
             WHERE e.expires_at < statement_timestamp() - interval '10 minutes' AND e.expires_at IS NOT NULL AND e.bytes > 0
             ORDER BY e.expires_at
             LIMIT p_most) due
     WHERE l.seq = due.seq;
    GET DIAGNOSTICS erased = ROW_COUNT;
    PERFORM set_config('recado.forgetting', 'off', true);
    RETURN erased;
END $$;

-- Drops the oldest rows, at most `p_most`, that are older than that, one by one: those of a partition that cannot go as a whole because it
-- holds the head, or is not full. The head itself stays: the next number comes from it. The floor moves in the same commit, so
-- a reader sees either a row or that it is lost. Returns the new floor, or NULL: nothing was old enough.
CREATE FUNCTION recado.drop_old_rows(p_seconds double precision, p_most integer) RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off
AS $$
DECLARE
    before timestamptz := statement_timestamp() - make_interval(secs => p_seconds);
    was    bigint;
    head   bigint;
    oldest timestamptz;
    edge   bigint;
BEGIN
    SELECT m.floor_seq INTO was FROM recado.meta m;
    SELECT l.created_at INTO oldest FROM recado.log l WHERE l.seq > was ORDER BY l.seq LIMIT 1;
    IF oldest IS NULL OR oldest >= before THEN
        RETURN NULL;
    END IF;
    SELECT l.seq INTO head FROM recado.log l WHERE l.seq > was ORDER BY l.seq DESC LIMIT 1;
    SELECT coalesce(min(w.seq) FILTER (WHERE w.created_at >= before) - 1, max(w.seq)) INTO edge
      FROM (SELECT l.seq, l.created_at FROM recado.log l WHERE l.seq > was AND l.seq < head ORDER BY l.seq LIMIT p_most) w;
    IF edge IS NULL THEN
        RETURN NULL;
    END IF;
    UPDATE recado.meta SET floor_seq = edge WHERE floor_seq < edge;
    PERFORM set_config('recado.forgetting', 'on', true);
    DELETE FROM recado.log WHERE seq > was AND seq <= edge;
    DELETE FROM recado.log_member WHERE seq > was AND seq <= edge;
    DELETE FROM recado.idempotency WHERE seq > was AND seq <= edge;
    PERFORM set_config('recado.forgetting', 'off', true);
    RETURN edge;
END $$;

-- Who had what erased, when and why. Of a user that was erased nothing is kept here, no hash either: whoever has the id could find it again.
CREATE TABLE recado.erasure (
    erasure_id  bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    asked_at    timestamptz NOT NULL DEFAULT now(),
    asked_by    text        NOT NULL DEFAULT session_user,
    what        text        NOT NULL CONSTRAINT what_is_known CHECK (what IN ('user', 'seq')),
    seq         bigint      CONSTRAINT seq_is_told CHECK ((seq IS NULL) = (what = 'user')),
    reason      text        NOT NULL,
    finished_at timestamptz,
    erased      bigint      NOT NULL DEFAULT 0,
    unlisted    bigint      NOT NULL DEFAULT 0,
    traces      bigint      NOT NULL DEFAULT 0
);
COMMENT ON TABLE recado.erasure IS 'What was erased by request: who asked, when, why, and how much it was.';

-- Erases the rows above `p_after` and up to `p_upto`: all of them, or with `p_user_id` those that are addressed to this user alone; from a list
-- of several the user is taken off, and what it says stays for the others. A tombstone is addressed to nobody: '-' stands for no user.
CREATE FUNCTION recado.erase_rows(p_user_id text, p_after bigint, p_upto bigint, OUT erased bigint, OUT unlisted bigint)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    r record;
BEGIN
    erased := 0;
    unlisted := 0;
    PERFORM set_config('recado.forgetting', 'on', true);
    FOR r IN SELECT l.seq, l.id, l.account_id, l.user_ids,
                    coalesce(p_user_id IS NULL OR l.user_id = p_user_id OR array_remove(l.user_ids, p_user_id) = '{}', false) AS is_whole
               FROM recado.log l
              WHERE l.seq > p_after AND l.seq <= p_upto AND l.topic <> 'u/-'
                AND (p_user_id IS NULL OR l.user_id = p_user_id OR p_user_id = ANY (l.user_ids)) LOOP
        IF r.user_ids IS NOT NULL THEN
            DELETE FROM recado.log_member m
             USING unnest(CASE WHEN p_user_id IS NULL THEN r.user_ids ELSE ARRAY[p_user_id] END) AS u (user_id)
             WHERE m.topic = concat_ws('/', 'u', u.user_id, r.account_id) AND m.seq = r.seq;
        END IF;
        IF r.is_whole THEN
            UPDATE recado.log
               SET type = 'erased', title = '', message = '', data = NULL, topic = 'u/-', user_id = '-', account_id = NULL, user_ids = NULL,
                   expires_at = NULL, replay = false, bytes = 0
             WHERE seq = r.seq;
            -- What was moved lies in the outbox until its part is emptied.
            DELETE FROM recado.outbox o WHERE o.id = r.id;
            erased := erased + 1;
        ELSE
            UPDATE recado.log SET user_ids = array_remove(user_ids, p_user_id) WHERE seq = r.seq;
            unlisted := unlisted + 1;
        END IF;
    END LOOP;
    PERFORM set_config('recado.forgetting', 'off', true);
END $$;

-- Erases what else is known of a user: what waits in the outbox, sessions, facts, devices, provider sessions, commands, tickets. Says how
-- many rows that were. Idempotency keys stay: they are hashes of what a service chose.
CREATE FUNCTION recado.erase_traces(p_user_id text) RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    n     bigint;
    total bigint := 0;
BEGIN
    DELETE FROM recado.outbox o WHERE o.user_id = p_user_id OR array_remove(o.user_ids, p_user_id) = '{}';
    GET DIAGNOSTICS n = ROW_COUNT; total := total + n;
    UPDATE recado.outbox o SET user_ids = array_remove(o.user_ids, p_user_id) WHERE p_user_id = ANY (o.user_ids);
    GET DIAGNOSTICS n = ROW_COUNT; total := total + n;
    -- As text: what was refused may be no JSON that can be looked into.
    DELETE FROM recado.outbox_refused r WHERE strpos(r.notification::text, to_json(p_user_id)::text) > 0;
    GET DIAGNOSTICS n = ROW_COUNT; total := total + n;
    DELETE FROM recado.upstream_session s WHERE s.user_id = p_user_id;
    GET DIAGNOSTICS n = ROW_COUNT; total := total + n;
    DELETE FROM recado.upstream_command c WHERE c.user_id = p_user_id;
    GET DIAGNOSTICS n = ROW_COUNT; total := total + n;
    DELETE FROM recado.progress p WHERE p.user_id = p_user_id;
    GET DIAGNOSTICS n = ROW_COUNT; total := total + n;
    DELETE FROM recado.session s WHERE s.user_id = p_user_id;
    GET DIAGNOSTICS n = ROW_COUNT; total := total + n;
    DELETE FROM recado.cursor c WHERE c.user_id = p_user_id;
    GET DIAGNOSTICS n = ROW_COUNT; total := total + n;
    DELETE FROM recado.forgotten_device f WHERE f.user_id = p_user_id;
    GET DIAGNOSTICS n = ROW_COUNT; total := total + n;
    DELETE FROM recado.ticket t WHERE t.user_id = p_user_id;
    GET DIAGNOSTICS n = ROW_COUNT; total := total + n;
    -- The walks begin anew where they stand at this user.
    UPDATE recado.device_walk SET user_id = '', client_id = '' WHERE user_id = p_user_id;
    UPDATE recado.upstream_walk SET provider = '', user_id = '' WHERE user_id = p_user_id;
    RETURN total;
END $$;

-- By its owner alone.
REVOKE ALL ON recado.erasure FROM PUBLIC;
REVOKE ALL ON FUNCTION recado.allow_forgetting(), recado.refuse_unless_forgetting(), recado.erase_expired(integer), recado.drop_old_rows(double precision, integer),
                       recado.erase_rows(text, bigint, bigint), recado.erase_traces(text) FROM PUBLIC;

-- Lets an analyst's login in no more. A commit of its own before the login is dropped: a pool would come back between the
-- end of its sessions and the drop. False: there is none that create_analyst made.
CREATE FUNCTION recado.bar_analyst(p_name text) RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles r
                    WHERE r.rolname = p_name AND shobj_description(r.oid, 'pg_authid') = 'recado analyst') THEN
        RETURN false;
    END IF;
    EXECUTE format('ALTER ROLE %I NOLOGIN', p_name);
    RETURN true;
END $$;

-- Ends an analyst's sessions and drops the login, whatever it has made. False: there is none that create_analyst made.
CREATE OR REPLACE FUNCTION recado.drop_analyst(p_name text) RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles r
                    WHERE r.rolname = p_name AND shobj_description(r.oid, 'pg_authid') = 'recado analyst') THEN
        RETURN false;
    END IF;
    BEGIN
        PERFORM pg_terminate_backend(a.pid, 5000) FROM pg_catalog.pg_stat_activity a WHERE a.usename = p_name;
    EXCEPTION
        WHEN insufficient_privilege THEN NULL;  -- they run out of rights instead
    END;
    -- Large objects are what a login can make without any right. What it owns may be dropped by whoever is a member of it.
    BEGIN
        IF NOT pg_has_role(current_user, p_name, 'USAGE') THEN
            EXECUTE format('GRANT %I TO %I', p_name, current_user);
        END IF;
        EXECUTE format('DROP OWNED BY %I', p_name);
    EXCEPTION
        WHEN insufficient_privilege THEN NULL;  -- if it owns something, the next statement says so
    END;
    EXECUTE format('DROP ROLE %I', p_name);
    RETURN true;
END $$;
REVOKE ALL ON FUNCTION recado.bar_analyst(text), recado.drop_analyst(text) FROM PUBLIC;

-- How many connections an analyst's login may have at once; create_analyst gives it 5.
CREATE FUNCTION recado.limit_analyst(p_name text, p_connections integer) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('ALTER ROLE %I CONNECTION LIMIT %s', p_name, p_connections);
END $$;
REVOKE ALL ON FUNCTION recado.limit_analyst(text, integer) FROM PUBLIC;
