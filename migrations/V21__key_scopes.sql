-- Limits what a service key and a login that posts in SQL may do.

-- The defaults limit nothing: a key that exists, and a key that an earlier version creates, keeps all its rights. A
-- list that is NULL does not limit.
ALTER TABLE recado.service_key
    -- Types that may be posted. A `*` at the end stands for any rest.
    ADD COLUMN types text[] CONSTRAINT types_are_a_list CHECK (cardinality(types) BETWEEN 1 AND 1000 AND array_position(types, NULL) IS NULL),
    -- Accounts that each post must be within.
    ADD COLUMN accounts text[] CONSTRAINT accounts_are_a_list CHECK (cardinality(accounts) BETWEEN 1 AND 1000 AND array_position(accounts, NULL) IS NULL),
    -- Users that each post must name, and no others.
    ADD COLUMN users text[] CONSTRAINT users_are_a_list CHECK (cardinality(users) BETWEEN 1 AND 1000 AND array_position(users, NULL) IS NULL),
    ADD COLUMN broadcast boolean NOT NULL DEFAULT true,
    ADD COLUMN members boolean NOT NULL DEFAULT true,
    ADD COLUMN read boolean NOT NULL DEFAULT true,
    -- Posts per second.
    ADD COLUMN rate integer CONSTRAINT rate_is_positive CHECK (rate > 0),
    ADD COLUMN expires_at timestamptz,
    -- Where the key may be used from.
    ADD COLUMN networks cidr[] CONSTRAINT networks_are_a_list CHECK (cardinality(networks) BETWEEN 1 AND 1000 AND array_position(networks, NULL) IS NULL),
    ADD COLUMN last_used_at timestamptz;

-- A change of scopes reaches the hubs as a revocation does. The time of the last use is no change.
DROP TRIGGER key_changes_are_noted ON recado.service_key;
CREATE TRIGGER key_changes_are_noted
    AFTER UPDATE OF revoked_at, role, types, accounts, users, broadcast, members, read, rate, expires_at, networks OR DELETE
    ON recado.service_key FOR EACH ROW EXECUTE FUNCTION recado.note_key_change();

-- Records that keys were used, at most once a minute for each key, however many hubs say so. A hub's role may change no
-- key otherwise. Waits for no lock of a row and for no flush: the times are a help for people, and must delay nothing.
CREATE FUNCTION recado.note_key_use(p_names text[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    UPDATE recado.service_key k SET last_used_at = clock_timestamp()
     WHERE k.key_id IN (SELECT l.key_id
                          FROM recado.service_key l
                         WHERE l.name = ANY (p_names) AND l.revoked_at IS NULL
                           AND (l.last_used_at IS NULL OR l.last_used_at < statement_timestamp() - interval '1 minute')
                           FOR NO KEY UPDATE SKIP LOCKED);
END $$;

-- The scopes of a login that posts in SQL. A login without a row may do what it is granted. It has no rate, and no
-- networks: pg_hba.conf decides where a login connects from.
CREATE TABLE recado.producer_scope (
    -- The role that logs in (session_user), which is the source of its rows.
    login      text        PRIMARY KEY,
    types      text[]      CONSTRAINT types_are_a_list CHECK (cardinality(types) BETWEEN 1 AND 1000 AND array_position(types, NULL) IS NULL),
    accounts   text[]      CONSTRAINT accounts_are_a_list CHECK (cardinality(accounts) BETWEEN 1 AND 1000 AND array_position(accounts, NULL) IS NULL),
    users      text[]      CONSTRAINT users_are_a_list CHECK (cardinality(users) BETWEEN 1 AND 1000 AND array_position(users, NULL) IS NULL),
    broadcast  boolean     NOT NULL,
    members    boolean     NOT NULL,
    expires_at timestamptz,
    changed_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE recado.producer_scope IS 'What a login may post with recado.notify. A login without a row is not limited.';
REVOKE ALL ON recado.producer_scope FROM PUBLIC;

-- Raises RC016 if the login lacks a scope, and RC017 if its rights have expired. The rules are those of service keys
-- (src/domain/scopes.rs). p_type: NULL for a membership change. p_users: the users that are named, or a single NULL.
CREATE FUNCTION recado.check_producer(
    p_call text, p_type text, p_everyone boolean, p_account text, p_users text[], p_is_list boolean) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    s        recado.producer_scope%ROWTYPE;
    missing  text;
    argument text;
    stranger text;
BEGIN
    SELECT * INTO s FROM recado.producer_scope p WHERE p.login = session_user;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    IF s.expires_at <= statement_timestamp() THEN
        RAISE EXCEPTION USING ERRCODE = 'RC017',
            MESSAGE = format('recado.%s: the rights of this login expired at %s', p_call,
                             to_char(s.expires_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')),
            HINT = 'Nothing was written. An administrator renews them: recado producer limit LOGIN.';
    END IF;
    stranger := (SELECT u FROM unnest(p_users) u WHERE u <> ALL (s.users) LIMIT 1);
    IF p_type IS NULL AND NOT s.members THEN
        argument := 'user_id'; missing := 'members';
    ELSIF s.types IS NOT NULL AND p_type IS NOT NULL AND NOT EXISTS (
        SELECT FROM unnest(s.types) t
         WHERE CASE WHEN right(t, 1) = '*' THEN starts_with(p_type, left(t, -1)) ELSE t = p_type END) THEN
        argument := 'type'; missing := 'type:' || p_type;
    ELSIF p_everyone THEN
        IF NOT s.broadcast THEN
            argument := 'broadcast'; missing := 'broadcast';
        END IF;
    ELSIF s.accounts IS NOT NULL AND p_account IS NULL THEN
        argument := 'account_id'; missing := 'account:* (it names no account)';
    ELSIF s.accounts IS NOT NULL AND p_account <> ALL (s.accounts) THEN
        argument := 'account_id'; missing := 'account:' || p_account;
    ELSIF s.users IS NOT NULL AND array_position(p_users, NULL) IS NOT NULL THEN
        argument := 'user_id'; missing := 'user:* (it names no user)';
    ELSIF stranger IS NOT NULL THEN
        argument := CASE WHEN p_is_list THEN 'user_ids' ELSE 'user_id' END; missing := 'user:' || stranger;
    END IF;
    IF missing IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'RC016', COLUMN = argument,
            MESSAGE = format('recado.%s: this call needs the scope %s, which the login lacks', p_call, missing),
            HINT = 'Nothing was written. An administrator changes the scopes: recado producer limit LOGIN.';
    END IF;
END $$;

-- As in V11, but that the scopes of the login are judged. A login with scopes takes the longer way through the rules.
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
       AND NOT EXISTS (SELECT FROM recado.producer_scope s WHERE s.login = session_user)
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

    IF EXISTS (SELECT FROM recado.producer_scope s WHERE s.login = session_user) THEN
        PERFORM recado.check_producer('notify', notify.type, topic = '*', notify.account_id, coalesce(users, ARRAY[notify.user_id]), users IS NOT NULL);
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

-- As in V19, but that the scopes of the login are judged.
CREATE OR REPLACE FUNCTION recado.change_member(p_op text, p_user_id text, p_account_id text) RETURNS uuid
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    an_id constant text := '^[A-Za-z0-9._:|@+=~-]{1,128}$';
    rule  constant text := 'must be 1 to 128 characters of A-Z a-z 0-9 . _ : - | @ + = ~';
    said  text;
    id    uuid;
BEGIN
    IF (p_user_id COLLATE "C" ~ an_id AND p_user_id <> '-') IS NOT TRUE THEN
        RAISE EXCEPTION USING ERRCODE = 'RC010', COLUMN = 'user_id', HINT = 'Nothing was written.',
            MESSAGE = format('recado.%s_member: user_id %s', p_op, rule || ', and not - alone');
    END IF;
    IF (p_account_id COLLATE "C" ~ an_id) IS NOT TRUE THEN
        RAISE EXCEPTION USING ERRCODE = 'RC010', COLUMN = 'account_id', HINT = 'Nothing was written.',
            MESSAGE = format('recado.%s_member: account_id %s', p_op, rule);
    END IF;
    IF EXISTS (SELECT FROM recado.producer_scope s WHERE s.login = session_user) THEN
        PERFORM recado.check_producer(p_op || '_member', NULL, false, p_account_id, ARRAY[p_user_id], false);
    END IF;
    said := format('{"op":"%s","user_id":"%s","account_id":"%s"}', p_op, p_user_id, p_account_id);
    INSERT INTO recado.outbox AS o (place, slot, xid, at, id, type, title, message, data, topic, user_id, replay, source, body, bytes)
    SELECT p.place, (p.place / 16384) % 4, pg_current_xact_id(), clock_timestamp(), recado.new_id(), 'recado_member', '', '', said,
           'u/-', '-', false, session_user, 0, octet_length(said)
      FROM (SELECT nextval('recado.outbox_place') AS place) p
    RETURNING o.id INTO id;
    RETURN id;
END $$;

-- Lets a login post in SQL, and with p_members change memberships. Takes nothing that the login has. Called by an
-- administrator's command.
CREATE FUNCTION recado.grant_producer(p_login text, p_members boolean) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    role constant text := recado.role_name('producer');
BEGIN
    IF role IS NULL OR NOT EXISTS (SELECT FROM pg_roles r WHERE r.rolname = role) THEN
        RAISE EXCEPTION 'this database has no role of producers' USING ERRCODE = 'insufficient_privilege';
    END IF;
    EXECUTE format('GRANT %I TO %I', role, p_login);
    IF p_members THEN
        EXECUTE format('GRANT EXECUTE ON FUNCTION recado.add_member(text, text), recado.remove_member(text, text) TO %I', p_login);
    END IF;
    PERFORM recado.audit('producer.grant', p_login, jsonb_build_object('members', p_members));
END $$;

-- Takes from a login what recado.grant_producer gave it.
CREATE FUNCTION recado.revoke_producer(p_login text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    role constant text := recado.role_name('producer');
BEGIN
    IF EXISTS (SELECT FROM pg_roles r WHERE r.rolname = role) THEN
        EXECUTE format('REVOKE %I FROM %I', role, p_login);
    END IF;
    EXECUTE format('REVOKE EXECUTE ON FUNCTION recado.add_member(text, text), recado.remove_member(text, text) FROM %I', p_login);
    PERFORM recado.audit('producer.revoke', p_login);
END $$;

REVOKE ALL ON FUNCTION recado.note_key_use(text[]),
    recado.check_producer(text, text, boolean, text, text[], boolean), recado.grant_producer(text, boolean),
    recado.revoke_producer(text) FROM PUBLIC;

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'recado_hub') THEN
        GRANT EXECUTE ON FUNCTION recado.note_key_use(text[]) TO recado_hub;
    END IF;
EXCEPTION
    WHEN insufficient_privilege THEN NULL;
END $$;
