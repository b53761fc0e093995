-- Records administrative acts: who, from where, what, when, and with which outcome.

-- Rows are only ever added. Retention removes old ones (recado.retain_audit), and an erasure removes a user's id from
-- them (recado.erase_audit).
CREATE TABLE recado.audit (
    audit_id  bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- key:NAME, token:SUB, os:USER for a command line, hub, login:ROLE for SQL by hand, user or unknown for a refused
    -- attempt.
    who       text        NOT NULL CONSTRAINT who_has_a_length CHECK (length(who) BETWEEN 1 AND 200),
    -- The login of the database. A caller cannot choose it.
    login     text        NOT NULL DEFAULT session_user,
    via       text        NOT NULL CONSTRAINT via_is_known CHECK (via IN ('rest', 'cli', 'hub', 'sql')),
    -- A client's address, or the name of the machine on which the command ran.
    address   text,
    what      text        NOT NULL CONSTRAINT what_is_a_verb CHECK (what ~ '^[a-z][a-z_]*\.[a-z][a-z_]*$'),
    object    text,
    -- The user whom the act concerns. An erasure of this user removes the id and its salt; the digest stays, so that
    -- the row's own hash stays valid.
    user_id   text,
    user_salt bytea,
    user_hash bytea,
    outcome   text        NOT NULL CONSTRAINT outcome_is_known CHECK (outcome IN ('started', 'done', 'refused', 'failed')),
    reason    text,
    -- Above 1 for refused attempts that were counted together.
    count     integer     NOT NULL DEFAULT 1 CONSTRAINT count_is_positive CHECK (count > 0),
    details   jsonb       NOT NULL DEFAULT '{}' CONSTRAINT details_are_an_object CHECK (jsonb_typeof(details) = 'object'),
    CONSTRAINT user_has_a_digest CHECK ((user_id IS NULL) = (user_salt IS NULL) AND (user_id IS NULL OR user_hash IS NOT NULL))
);
COMMENT ON TABLE recado.audit IS 'Administrative acts. Append-only: see docs/guides/operate.md.';
-- Serves "acts since", and retention.
CREATE INDEX audit_at ON recado.audit (at);
-- Serves erasures.
CREATE INDEX audit_user ON recado.audit (user_id) WHERE user_id IS NOT NULL;
-- Serves a list without refused requests, which strangers can make many of.
CREATE INDEX audit_acts ON recado.audit (what, audit_id) WHERE what <> 'admin.request';

-- The hash chain. Rows are chained some time after their commit, so that no act waits for another one's transaction.
CREATE TABLE recado.audit_chain (
    link     bigint PRIMARY KEY,
    audit_id bigint NOT NULL UNIQUE,
    hash     bytea  NOT NULL
);
COMMENT ON TABLE recado.audit_chain IS 'Hash chain of recado.audit: each hash covers the hash before it and one row.';

-- Rows that are not chained yet.
CREATE TABLE recado.audit_unchained (
    audit_id bigint PRIMARY KEY
);
COMMENT ON TABLE recado.audit_unchained IS 'Rows of recado.audit that the hash chain does not cover yet.';
REVOKE ALL ON recado.audit, recado.audit_chain, recado.audit_unchained FROM PUBLIC;

CREATE FUNCTION recado.audit_is_unchained() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO recado.audit_unchained (audit_id) VALUES (new.audit_id);
    RETURN NULL;
END $$;
CREATE TRIGGER audit_awaits_chain AFTER INSERT ON recado.audit
    FOR EACH ROW EXECUTE FUNCTION recado.audit_is_unchained();

-- Two changes are allowed, and only while the setting is on: an erasure removes a user's id, and retention removes
-- rows. The setting keeps a mistake from being taken for one of them.
CREATE FUNCTION recado.refuse_audit_change() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    allowed constant text := coalesce(current_setting('recado.audit_change', true), '');
    erased  recado.audit;
BEGIN
    IF TG_OP = 'DELETE' AND allowed = 'retain' THEN
        RETURN old;
    END IF;
    IF TG_OP = 'UPDATE' AND TG_TABLE_NAME = 'audit' AND allowed = 'erase' THEN
        erased := old;
        erased.user_id := NULL;
        erased.user_salt := NULL;
        IF erased IS NOT DISTINCT FROM new THEN
            RETURN new;
        END IF;
    END IF;
    RAISE EXCEPTION 'recado.audit is append-only: % on % is refused', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'RC004', HINT = 'Rows leave the audit by retention (RECADO_RETENTION_AUDIT).';
END $$;

-- Refuses the statement as a whole, also one that changes no row.
CREATE FUNCTION recado.refuse_audit_statement() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP <> 'TRUNCATE' AND coalesce(current_setting('recado.audit_change', true), '') IN ('erase', 'retain') THEN
        RETURN NULL;
    END IF;
    RAISE EXCEPTION 'recado.audit is append-only: % on % is refused', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'RC004', HINT = 'Rows leave the audit by retention (RECADO_RETENTION_AUDIT).';
END $$;
CREATE TRIGGER audit_is_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON recado.audit
    FOR EACH STATEMENT EXECUTE FUNCTION recado.refuse_audit_statement();
CREATE TRIGGER audit_chain_is_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON recado.audit_chain
    FOR EACH STATEMENT EXECUTE FUNCTION recado.refuse_audit_statement();
CREATE TRIGGER audit_row_stays BEFORE UPDATE OR DELETE ON recado.audit
    FOR EACH ROW EXECUTE FUNCTION recado.refuse_audit_change();
CREATE TRIGGER audit_link_stays BEFORE UPDATE OR DELETE ON recado.audit_chain
    FOR EACH ROW EXECUTE FUNCTION recado.refuse_audit_change();

-- Records an act, in the transaction of the act. Without p_who, the row names who the session acts for: the settings
-- recado.actor_who, recado.actor_via and recado.actor_address, which hubs and command lines set for their sessions, or
-- else the login. Returns the row's number.
CREATE FUNCTION recado.audit(
    p_what text, p_object text DEFAULT NULL, p_details jsonb DEFAULT '{}', p_outcome text DEFAULT 'done', p_reason text DEFAULT NULL,
    p_user_id text DEFAULT NULL, p_who text DEFAULT NULL, p_via text DEFAULT NULL, p_address text DEFAULT NULL, p_count integer DEFAULT 1)
RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    who     text := p_who;
    via     text := p_via;
    address text := p_address;
    salt    constant bytea := CASE WHEN p_user_id IS NOT NULL THEN uuid_send(gen_random_uuid()) END;
    details constant jsonb := coalesce(p_details, '{}');
    id      bigint;
BEGIN
    IF p_what LIKE 'audit.%' THEN
        RAISE EXCEPTION 'recado.audit: % is reserved', p_what USING ERRCODE = 'RC011', HINT = 'recado.retain_audit records it.';
    END IF;
    IF who IS NULL THEN
        who := nullif(current_setting('recado.actor_who', true), '');
        IF who IS NOT NULL THEN
            via := nullif(current_setting('recado.actor_via', true), '');
            address := nullif(current_setting('recado.actor_address', true), '');
        END IF;
    END IF;
    INSERT INTO recado.audit AS a (who, via, address, what, object, user_id, user_salt, user_hash, outcome, reason, count, details)
    VALUES (left(coalesce(who, 'login:' || session_user), 200), coalesce(via, 'sql'), left(address, 255), p_what, left(p_object, 255),
            p_user_id, salt, sha256(salt || convert_to(p_user_id, 'UTF8')), p_outcome, left(p_reason, 1000), p_count,
            CASE WHEN octet_length(details::text) <= 32768 THEN details ELSE '{"details":"more than 32768 bytes"}' END)
    RETURNING a.audit_id INTO id;
    RETURN id;
END $$;

-- What a row's hash covers. Times are in microseconds, so that no setting of a session changes the text.
CREATE FUNCTION recado.audit_content(a recado.audit) RETURNS bytea
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT convert_to(jsonb_build_array(
        a.audit_id, (extract(epoch FROM a.at) * 1000000)::bigint, a.who, a.login, a.via, a.address, a.what, a.object,
        encode(a.user_hash, 'hex'), a.outcome, a.reason, a.count, a.details)::text, 'UTF8');
$$;

-- Adds the rows that wait to the hash chain, in the order of their numbers. Returns how many, and the end of the chain.
CREATE FUNCTION recado.chain_audit(OUT chained bigint, OUT link bigint, OUT hash bytea)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    r         record;
    next_link bigint;
    last_hash bytea;
BEGIN
    chained := 0;
    -- One at a time. Readers of the chain do not wait.
    LOCK TABLE recado.audit_chain IN SHARE ROW EXCLUSIVE MODE;
    SELECT c.link, c.hash INTO next_link, last_hash FROM recado.audit_chain c ORDER BY c.link DESC LIMIT 1;
    IF next_link IS NULL THEN
        SELECT a.link, a.hash INTO next_link, last_hash FROM recado.audit_anchor() a;
    END IF;
    FOR r IN SELECT u.audit_id, recado.audit_content(a) AS content
               FROM recado.audit_unchained u
               LEFT JOIN recado.audit a ON a.audit_id = u.audit_id
              ORDER BY u.audit_id LIMIT 10000 LOOP
        -- A row that was removed by force before it was chained has no content: verification reports it.
        next_link := next_link + 1;
        last_hash := sha256(last_hash || coalesce(r.content, ''));
        INSERT INTO recado.audit_chain (link, audit_id, hash) VALUES (next_link, r.audit_id, last_hash);
        DELETE FROM recado.audit_unchained u WHERE u.audit_id = r.audit_id;
        chained := chained + 1;
    END LOOP;
    link := next_link;
    hash := last_hash;
END $$;

-- The link before the first one that is kept: where the last retention ended, or the beginning.
CREATE FUNCTION recado.audit_anchor(OUT link bigint, OUT hash bytea)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    SELECT (a.details ->> 'through_link')::bigint, decode(a.details ->> 'hash', 'hex') INTO link, hash
      FROM recado.audit a WHERE a.what = 'audit.retain' AND a.outcome = 'done' ORDER BY a.audit_id DESC LIMIT 1;
    IF link IS NULL THEN
        link := 0;
        hash := '';
    END IF;
END $$;
-- Serves recado.audit_anchor.
CREATE INDEX audit_retained ON recado.audit (audit_id) WHERE what = 'audit.retain';

-- Compares the rows with the hash chain. Returns a row for each difference; none: the audit is as it was written, up to
-- the end of the chain.
CREATE FUNCTION recado.verify_audit() RETURNS TABLE (problem text, link bigint, audit_id bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    WITH chain AS (
        SELECT c.link, c.audit_id, c.hash, lag(c.link, 1, n.link) OVER w AS before_link, lag(c.hash, 1, n.hash) OVER w AS before_hash
          FROM recado.audit_chain c CROSS JOIN recado.audit_anchor() n
        WINDOW w AS (ORDER BY c.link))
    SELECT CASE WHEN a.audit_id IS NULL THEN 'the row was removed'
                WHEN c.link <> c.before_link + 1 THEN 'links before this one were removed'
                WHEN a.user_id IS NOT NULL AND a.user_hash IS DISTINCT FROM sha256(a.user_salt || convert_to(a.user_id, 'UTF8'))
                THEN 'the user of the row was changed'
                ELSE 'the row was changed' END, c.link, c.audit_id
      FROM chain c LEFT JOIN recado.audit a ON a.audit_id = c.audit_id
     WHERE a.audit_id IS NULL OR c.link <> c.before_link + 1
        OR c.hash <> sha256(c.before_hash || recado.audit_content(a))
        OR a.user_id IS NOT NULL AND a.user_hash IS DISTINCT FROM sha256(a.user_salt || convert_to(a.user_id, 'UTF8'))
    UNION ALL
    SELECT 'the row is in no link', NULL, a.audit_id
      FROM recado.audit a
     WHERE NOT EXISTS (SELECT FROM recado.audit_chain c WHERE c.audit_id = a.audit_id)
       AND NOT EXISTS (SELECT FROM recado.audit_unchained u WHERE u.audit_id = a.audit_id)
     ORDER BY 2 NULLS LAST, 3;
$$;

-- Removes rows that are older than that, at most `p_most`, from the start of the chain on, and records up to where.
-- Nothing is removed before the oldest row is also older by `p_slack_seconds`: each removal leaves a row. Returns how
-- many.
CREATE FUNCTION recado.retain_audit(p_seconds double precision, p_slack_seconds double precision, p_most integer) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    before  constant timestamptz := statement_timestamp() - make_interval(secs => p_seconds);
    first   bigint;
    edge    bigint;
    oldest  timestamptz;
    newest  timestamptz;
    removed integer;
    ends_as bytea;
BEGIN
    LOCK TABLE recado.audit_chain IN SHARE ROW EXCLUSIVE MODE;
    SELECT c.link, a.at INTO first, oldest
      FROM recado.audit_chain c LEFT JOIN recado.audit a ON a.audit_id = c.audit_id ORDER BY c.link LIMIT 1;
    IF first IS NULL OR oldest >= before - make_interval(secs => p_slack_seconds) THEN
        RETURN 0;
    END IF;
    SELECT coalesce(min(w.link) FILTER (WHERE w.at >= before) - 1, max(w.link)) INTO edge
      FROM (SELECT c.link, a.at FROM recado.audit_chain c LEFT JOIN recado.audit a ON a.audit_id = c.audit_id
             WHERE c.link >= first ORDER BY c.link LIMIT p_most) w;
    IF edge < first THEN
        RETURN 0;
    END IF;
    SELECT c.hash INTO ends_as FROM recado.audit_chain c WHERE c.link = edge;
    PERFORM set_config('recado.audit_change', 'retain', true);
    WITH gone AS (DELETE FROM recado.audit a USING recado.audit_chain c
                   WHERE c.link BETWEEN first AND edge AND a.audit_id = c.audit_id RETURNING a.at)
    SELECT count(*), max(g.at) INTO removed, newest FROM gone g;
    DELETE FROM recado.audit_chain c WHERE c.link BETWEEN first AND edge;
    PERFORM set_config('recado.audit_change', '', true);
    -- Not by recado.audit: the role that serves may call that, and must not be able to move the start of the chain.
    INSERT INTO recado.audit (who, via, what, object, outcome, details)
    VALUES (coalesce(nullif(current_setting('recado.actor_who', true), ''), 'login:' || session_user),
            coalesce(nullif(current_setting('recado.actor_via', true), ''), 'sql'), 'audit.retain', 'link/' || edge, 'done',
            jsonb_build_object('removed', removed, 'through_link', edge, 'hash', encode(ends_as, 'hex'), 'oldest_at', oldest, 'newest_at', newest));
    RETURN removed;
END $$;

-- Removes a user's id from all rows. Returns how many rows had it.
CREATE FUNCTION recado.erase_audit(p_user_id text) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    n bigint;
BEGIN
    PERFORM set_config('recado.audit_change', 'erase', true);
    UPDATE recado.audit a SET user_id = NULL, user_salt = NULL WHERE a.user_id = p_user_id;
    GET DIAGNOSTICS n = ROW_COUNT;
    PERFORM set_config('recado.audit_change', '', true);
    RETURN n;
END $$;

-- Acts that change a row of a table are recorded by triggers: no program can forget it, also not an earlier version.

-- The scopes of a key or a login, without what does not limit it. Ids of users are not recorded: an erasure could not
-- remove them.
CREATE FUNCTION recado.audited_scopes(p_row jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT jsonb_strip_nulls(jsonb_build_object(
        'types', p_row -> 'types', 'accounts', p_row -> 'accounts', 'users', jsonb_array_length(nullif(p_row -> 'users', 'null')),
        'broadcast', p_row -> 'broadcast', 'members', p_row -> 'members', 'read', p_row -> 'read', 'rate', p_row -> 'rate',
        'expires_at', p_row -> 'expires_at', 'networks', p_row -> 'networks'));
$$;

CREATE FUNCTION recado.audit_producer_scope() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        PERFORM recado.audit('producer.unlimit', old.login);
    ELSE
        PERFORM recado.audit('producer.limit', new.login, recado.audited_scopes(to_jsonb(new)));
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER producer_scope_is_audited AFTER INSERT OR UPDATE OR DELETE ON recado.producer_scope
    FOR EACH ROW EXECUTE FUNCTION recado.audit_producer_scope();

CREATE FUNCTION recado.audit_service_key() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    columns text[];
BEGIN
    IF TG_OP = 'INSERT' THEN
        PERFORM recado.audit('key.create', new.name, jsonb_build_object('role', new.role, 'scopes', recado.audited_scopes(to_jsonb(new))));
    ELSIF TG_OP = 'DELETE' THEN
        PERFORM recado.audit('key.delete', old.name, jsonb_build_object('role', old.role));
    ELSE
        IF old.revoked_at IS NULL AND new.revoked_at IS NOT NULL THEN
            PERFORM recado.audit('key.revoke', new.name, jsonb_build_object('role', new.role));
        END IF;
        -- The names of other changed columns. Values may be secret: the hash is one of them.
        SELECT array_agg(n.key ORDER BY n.key) INTO columns
          FROM jsonb_each(to_jsonb(new)) n
         WHERE n.value IS DISTINCT FROM to_jsonb(old) -> n.key AND NOT (n.key = 'revoked_at' AND old.revoked_at IS NULL)
           AND n.key <> 'last_used_at';
        IF columns IS NOT NULL THEN
            PERFORM recado.audit('key.change', new.name, jsonb_build_object('columns', to_jsonb(columns), 'scopes', recado.audited_scopes(to_jsonb(new))));
        END IF;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER service_key_is_audited AFTER INSERT OR UPDATE OR DELETE ON recado.service_key
    FOR EACH ROW EXECUTE FUNCTION recado.audit_service_key();

CREATE FUNCTION recado.audit_log_id() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM recado.audit('log.new_id', 'log/' || new.log_id, jsonb_build_object('old_log_id', old.log_id));
    RETURN NULL;
END $$;
CREATE TRIGGER log_id_is_audited AFTER UPDATE OF log_id ON recado.meta
    FOR EACH ROW WHEN (old.log_id <> new.log_id) EXECUTE FUNCTION recado.audit_log_id();

-- A secret of the hubs is another one than before. The fingerprint itself is not recorded.
CREATE FUNCTION recado.audit_secret() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM recado.audit('secret.change', new.secret, jsonb_build_object('first', TG_OP = 'INSERT'));
    RETURN NULL;
END $$;
CREATE TRIGGER secret_is_audited AFTER INSERT OR UPDATE OF fingerprint ON recado.secret_fingerprint
    FOR EACH ROW EXECUTE FUNCTION recado.audit_secret();

-- An erasure takes many transactions: a row when it starts, in the transaction of its record, and one when it is done.
-- Its steps are not recorded one by one while this session has an erasure open. Of an erased user no id is kept.
CREATE FUNCTION recado.audit_erasure() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    what    constant text := CASE new.what WHEN 'user' THEN 'user.erase' ELSE 'notification.erase' END;
    details jsonb := jsonb_strip_nulls(jsonb_build_object('seq', new.seq, 'reason', new.reason));
BEGIN
    IF TG_OP = 'INSERT' THEN
        PERFORM set_config('recado.open_erasure', new.erasure_id::text, false);
        PERFORM recado.audit(what, 'erasure/' || new.erasure_id, details, 'started');
    ELSE
        PERFORM set_config('recado.open_erasure', '', false);
        details := details || jsonb_build_object('erased', new.erased, 'unlisted', new.unlisted, 'traces', new.traces);
        PERFORM recado.audit(what, 'erasure/' || new.erasure_id, details);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER erasure_is_audited AFTER INSERT ON recado.erasure
    FOR EACH ROW EXECUTE FUNCTION recado.audit_erasure();
CREATE TRIGGER erasure_end_is_audited AFTER UPDATE OF finished_at ON recado.erasure
    FOR EACH ROW WHEN (old.finished_at IS NULL AND new.finished_at IS NOT NULL) EXECUTE FUNCTION recado.audit_erasure();

-- The functions that erase, and those that make and drop logins, keep their names and signatures, and record what they
-- did in the same transaction.

ALTER FUNCTION recado.erase_rows(text, bigint, bigint) RENAME TO erase_rows_unaudited;
CREATE FUNCTION recado.erase_rows(p_user_id text, p_after bigint, p_upto bigint, OUT erased bigint, OUT unlisted bigint)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    SELECT e.erased, e.unlisted INTO erased, unlisted FROM recado.erase_rows_unaudited(p_user_id, p_after, p_upto) e;
    IF erased + unlisted > 0 AND coalesce(current_setting('recado.open_erasure', true), '') = '' THEN
        PERFORM recado.audit(CASE WHEN p_user_id IS NULL THEN 'notification.erase' ELSE 'user.erase' END, NULL, jsonb_build_object(
            'after', p_after, 'upto', p_upto, 'erased', erased, 'unlisted', unlisted));
    END IF;
END $$;

ALTER FUNCTION recado.erase_traces(text) RENAME TO erase_traces_unaudited;
CREATE FUNCTION recado.erase_traces(p_user_id text) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    traces bigint;
BEGIN
    traces := recado.erase_traces_unaudited(p_user_id) + recado.erase_audit(p_user_id);
    -- The rows stay: hubs read all of them in order. A revocation stays whole, and its change goes within a day:
    -- erasing a user gives no access back.
    UPDATE recado.access_change c SET subject = '-' WHERE c.subject = p_user_id AND c.kind IN ('close_user', 'lift_revocation');
    DELETE FROM recado.token_renewal r WHERE r.user_id = p_user_id;
    IF traces > 0 AND coalesce(current_setting('recado.open_erasure', true), '') = '' THEN
        PERFORM recado.audit('user.erase', NULL, jsonb_build_object('traces', traces));
    END IF;
    RETURN traces;
END $$;

ALTER FUNCTION recado.create_analyst(text, text) RENAME TO create_analyst_unaudited;
CREATE FUNCTION recado.create_analyst(p_name text, p_password text) RETURNS text[]
LANGUAGE plpgsql AS $$
DECLARE
    left_out text[];
BEGIN
    left_out := recado.create_analyst_unaudited(p_name, p_password);
    PERFORM recado.audit('analyst.create', p_name);
    RETURN left_out;
END $$;

ALTER FUNCTION recado.limit_analyst(text, integer) RENAME TO limit_analyst_unaudited;
CREATE FUNCTION recado.limit_analyst(p_name text, p_connections integer) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM recado.limit_analyst_unaudited(p_name, p_connections);
    PERFORM recado.audit('analyst.limit', p_name, jsonb_build_object('connections', p_connections));
END $$;

ALTER FUNCTION recado.bar_analyst(text) RENAME TO bar_analyst_unaudited;
CREATE FUNCTION recado.bar_analyst(p_name text) RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
    IF NOT recado.bar_analyst_unaudited(p_name) THEN
        RETURN false;
    END IF;
    PERFORM recado.audit('analyst.bar', p_name);
    RETURN true;
END $$;

ALTER FUNCTION recado.drop_analyst(text) RENAME TO drop_analyst_unaudited;
CREATE FUNCTION recado.drop_analyst(p_name text) RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
    IF NOT recado.drop_analyst_unaudited(p_name) THEN
        RETURN false;
    END IF;
    PERFORM recado.audit('analyst.drop', p_name);
    RETURN true;
END $$;

-- A change of membership over REST names its caller in its data. One by SQL does not: the log has its login (source).
CREATE FUNCTION recado.audit_member_change() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF new.data ->> 'op' IN ('add', 'remove') AND new.data ->> 'user_id' IS NOT NULL AND new.data ->> 'by' IS NOT NULL THEN
        PERFORM recado.audit('member.' || (new.data ->> 'op'), 'account/' || (new.data ->> 'account_id'),
            jsonb_build_object('seq', new.seq), p_user_id => new.data ->> 'user_id', p_who => new.data ->> 'by', p_via => 'rest',
            p_address => new.data ->> 'from');
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER member_change_is_audited AFTER INSERT ON recado.log
    FOR EACH ROW WHEN (new.type = 'recado_member' AND new.topic = 'u/-')
    EXECUTE FUNCTION recado.audit_member_change();

-- For auditors. The role of analysts does not have it: rows hold addresses and names of people.
CREATE VIEW recado_views.audit AS
SELECT a.audit_id, a.at, a.who, a.login, a.via, a.address, a.what, a.object, a.user_id, a.outcome, a.reason, a.count, a.details,
       c.link, encode(c.hash, 'hex') AS hash
  FROM recado.audit a
  LEFT JOIN recado.audit_chain c ON c.audit_id = a.audit_id;
REVOKE ALL ON recado_views.audit FROM PUBLIC;

COMMENT ON VIEW recado_views.audit IS 'Administrative acts, one row an act. Needs a grant of its own: GRANT SELECT ON recado_views.audit TO the auditor''s login.';
COMMENT ON COLUMN recado_views.audit.audit_id IS 'The number of the row. Numbers may be missing: see link.';
COMMENT ON COLUMN recado_views.audit.at IS 'When the row was written.';
COMMENT ON COLUMN recado_views.audit.who IS 'Who acted: key:NAME, token:SUB, os:USER, login:ROLE, hub; user or unknown for a refused attempt.';
COMMENT ON COLUMN recado_views.audit.login IS 'The login of the database under which the row was written.';
COMMENT ON COLUMN recado_views.audit.via IS 'How: rest, cli, hub, or sql.';
COMMENT ON COLUMN recado_views.audit.address IS 'The client''s address, or the machine of a command line.';
COMMENT ON COLUMN recado_views.audit.what IS 'The act, such as key.create.';
COMMENT ON COLUMN recado_views.audit.object IS 'What the act was applied to, such as the name of a key.';
COMMENT ON COLUMN recado_views.audit.user_id IS 'The user whom the act concerns; NULL: none, or the user was erased.';
COMMENT ON COLUMN recado_views.audit.outcome IS 'started, done, refused or failed.';
COMMENT ON COLUMN recado_views.audit.reason IS 'Why the act was refused or failed.';
COMMENT ON COLUMN recado_views.audit.count IS 'How many refused attempts the row stands for; 1 for every other row.';
COMMENT ON COLUMN recado_views.audit.details IS 'Further facts of the act as JSON.';
COMMENT ON COLUMN recado_views.audit.link IS 'The row''s place in the hash chain, without gaps; NULL: not chained yet.';
COMMENT ON COLUMN recado_views.audit.hash IS 'The hash of this row and of all chained before it.';

-- The role of analysts gets all views, except the audit.
ALTER FUNCTION recado.equip_analysts() RENAME TO equip_analysts_with_audit;
CREATE FUNCTION recado.equip_analysts() RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM recado.equip_analysts_with_audit();
    EXECUTE format('REVOKE ALL ON recado_views.audit FROM %I', recado.role_name('analyst'));
END $$;

REVOKE ALL ON FUNCTION recado.audit_is_unchained(), recado.refuse_audit_change(), recado.refuse_audit_statement(),
    recado.audit(text, text, jsonb, text, text, text, text, text, text, integer), recado.audit_content(recado.audit),
    recado.chain_audit(), recado.audited_scopes(jsonb), recado.audit_producer_scope(), recado.audit_anchor(), recado.verify_audit(), recado.erase_audit(text),
    recado.retain_audit(double precision, double precision, integer), recado.audit_service_key(), recado.audit_log_id(),
    recado.audit_secret(), recado.audit_erasure(), recado.audit_member_change(), recado.erase_rows(text, bigint, bigint),
    recado.erase_traces(text), recado.create_analyst(text, text), recado.limit_analyst(text, integer), recado.bar_analyst(text),
    recado.drop_analyst(text), recado.equip_analysts() FROM PUBLIC;

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'recado_hub') THEN
        GRANT SELECT ON recado.audit, recado.audit_chain TO recado_hub;
        GRANT EXECUTE ON FUNCTION recado.audit(text, text, jsonb, text, text, text, text, text, text, integer),
            recado.chain_audit() TO recado_hub;
    END IF;
EXCEPTION
    WHEN insufficient_privilege THEN NULL;
END $$;
