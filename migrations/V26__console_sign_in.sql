-- Links that sign in to the console once, sessions of the playground, and closings that count each session once.

-- Links to the console that were used. A link has its own time and is good for minutes. Its row here makes it good
-- once, on all hubs. The table is logged, unlike recado.ticket: after a crash of the server, a used link must stay
-- used. A row stays for a day, so that a hub whose clock is hours behind takes no link twice.
CREATE TABLE recado.used_sign_in_link (
    hash    bytea       PRIMARY KEY,
    used_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE recado.used_sign_in_link IS 'Links to the console that were used in the last day, as hashes. Written by recado.use_sign_in_link alone.';
-- Serves the removal of old rows.
CREATE INDEX used_sign_in_link_used ON recado.used_sign_in_link (used_at);
REVOKE ALL ON recado.used_sign_in_link FROM PUBLIC;

-- Uses a link of this time. Returns `done`, `used` (it was used before) or `revoked` (the tokens that `p_subject` got
-- before that time or later are refused). Two hubs that use one link at the same time insert the same row: the second
-- waits for the first. The act and its row in the audit are one transaction, and the hub hands out a token after it.
CREATE FUNCTION recado.use_sign_in_link(
    p_hash bytea, p_subject text, p_issued_at timestamptz, p_details jsonb,
    p_who text DEFAULT NULL, p_via text DEFAULT NULL, p_address text DEFAULT NULL) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF EXISTS (SELECT FROM recado.revocation r WHERE r.user_id = p_subject AND r.not_before > p_issued_at) THEN
        RETURN 'revoked';
    END IF;
    INSERT INTO recado.used_sign_in_link (hash) VALUES (p_hash) ON CONFLICT (hash) DO NOTHING;
    IF NOT FOUND THEN
        RETURN 'used';
    END IF;
    PERFORM recado.audit('admin.sign_in', p_details => p_details, p_who => p_who, p_via => p_via, p_address => p_address);
    RETURN 'done';
END $$;

-- Also removes old rows of used links.
CREATE OR REPLACE FUNCTION recado.trim_access_changes() RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    DELETE FROM recado.access_change c
     WHERE c.made_at < statement_timestamp() - interval '1 day' AND c.revision < (SELECT s.revision FROM recado.access_state s);
    DELETE FROM recado.token_renewal r WHERE r.made_at < statement_timestamp() - interval '1 minute';
    DELETE FROM recado.used_sign_in_link l WHERE l.used_at < statement_timestamp() - interval '1 day';
$$;

-- Whether the token was made for the playground of the console. Hubs of an earlier version write false.
ALTER TABLE recado.session ADD COLUMN is_playground boolean NOT NULL DEFAULT false;
ALTER TABLE recado.ticket ADD COLUMN is_playground boolean NOT NULL DEFAULT false;
ALTER TABLE recado.token_renewal ADD COLUMN is_playground boolean NOT NULL DEFAULT false;

-- Sessions whose closing was ordered a moment ago: their hubs apply it within two seconds. After half a minute a
-- session that is still open is closed, and counted, again: its hub may have missed the order.
CREATE FUNCTION recado.sessions_being_closed() RETURNS TABLE (session_id uuid)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT c.subject::uuid FROM recado.access_change c
     WHERE c.kind = 'close_session' AND c.made_at > statement_timestamp() - interval '30 seconds';
$$;

-- Closes the open sessions that match every given condition, if they are `p_expect`. `matching` counts those that are
-- open. `closed` counts those whose closing this call ordered: not those that are being closed already. Nothing is
-- closed if another number matches.
--
-- Each session gets a change of its own, of a kind that hubs of an earlier version apply as well. A session's tickets
-- stay: a ticket names no session.
CREATE FUNCTION recado.close_matching(
    p_user_id text, p_account_id text, p_client_id text, p_instance_id uuid, p_transport text, p_min_lag bigint, p_expect bigint,
    p_who text DEFAULT NULL, p_via text DEFAULT NULL, p_address text DEFAULT NULL,
    OUT matching bigint, OUT closed bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found_ids uuid[];
    head      bigint;
    last      bigint;
    last_id   uuid;
BEGIN
    closed := 0;
    IF num_nonnulls(p_user_id, p_account_id, p_client_id, p_instance_id, p_transport, p_min_lag) = 0 THEN
        RAISE EXCEPTION 'a filter without a condition matches every session' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    -- Two closings at once go one after the other: the second sees the orders of the first.
    PERFORM FROM recado.access_state FOR UPDATE;
    SELECT greatest(m.floor_seq, coalesce((SELECT l.seq FROM recado.log l ORDER BY l.seq DESC LIMIT 1), 0)) INTO head FROM recado.meta m;
    SELECT count(*), coalesce(array_agg(s.session_id) FILTER (WHERE s.session_id NOT IN (SELECT c.session_id FROM recado.sessions_being_closed() c)), '{}')
      INTO matching, found_ids
      FROM recado.session s
     WHERE s.ended_at IS NULL
       AND (p_user_id IS NULL OR s.user_id = p_user_id)
       AND (p_client_id IS NULL OR s.client_id = p_client_id)
       AND (p_instance_id IS NULL OR s.instance_id = p_instance_id)
       AND (p_transport IS NULL OR s.transport = p_transport)
       AND (p_min_lag IS NULL OR head - s.acked_seq >= p_min_lag)
       AND (p_account_id IS NULL
            OR p_account_id = ANY (s.account_ids)
            OR s.follows_members AND EXISTS (
               SELECT FROM recado.member m
                WHERE m.user_id = s.user_id AND m.account_id = p_account_id AND m.until_seq IS NULL));
    IF matching <> p_expect OR p_expect IS NULL THEN
        RETURN;
    END IF;
    closed := cardinality(found_ids);
    IF closed > 0 THEN
        UPDATE recado.access_state s SET revision = s.revision + closed, change_id = gen_random_uuid()
        RETURNING s.revision, s.change_id INTO last, last_id;
        INSERT INTO recado.access_change (revision, change_id, kind, subject)
        SELECT last - closed + f.place, CASE WHEN f.place = closed THEN last_id ELSE gen_random_uuid() END, 'close_session', f.id::text
          FROM unnest(found_ids) WITH ORDINALITY AS f (id, place);
        PERFORM pg_notify('recado', 'access');
    END IF;
    -- The user has a column of its own, from which an erasure removes the id.
    PERFORM recado.audit('session.close', 'filter',
                         jsonb_build_object('sessions', closed, 'filter', jsonb_strip_nulls(jsonb_build_object(
                             'account', p_account_id, 'client', p_client_id, 'instance', p_instance_id, 'transport', p_transport,
                             'min_lag', p_min_lag))),
                         p_user_id => p_user_id, p_who => p_who, p_via => p_via, p_address => p_address);
END $$;

-- For hubs of an earlier version, which ask for the number that matches.
CREATE OR REPLACE FUNCTION recado.close_matching_sessions(
    p_user_id text, p_account_id text, p_client_id text, p_instance_id uuid, p_transport text, p_min_lag bigint, p_expect bigint,
    p_who text DEFAULT NULL, p_via text DEFAULT NULL, p_address text DEFAULT NULL) RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT c.matching
      FROM recado.close_matching(p_user_id, p_account_id, p_client_id, p_instance_id, p_transport, p_min_lag, p_expect,
                                 p_who, p_via, p_address) c;
$$;

-- Closes a session, or all sessions of a user or of an account, once. Their tickets are deleted. Returns how many
-- sessions were open, as far as the hubs have stored them, without those that are being closed already: by an order for
-- the session, or by the same order of a moment ago.
CREATE OR REPLACE FUNCTION recado.close_sessions(
    p_kind text, p_subject text, p_who text DEFAULT NULL, p_via text DEFAULT NULL, p_address text DEFAULT NULL) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    n       bigint;
    ordered timestamptz;
BEGIN
    -- Tickets before the lock, as in recado.revoke_user.
    CASE p_kind
        WHEN 'session' THEN NULL;
        WHEN 'user' THEN
            DELETE FROM recado.ticket t WHERE t.user_id = p_subject;
        WHEN 'account' THEN
            DELETE FROM recado.ticket t
             WHERE p_subject = ANY (t.account_ids)
                OR EXISTS (SELECT FROM recado.member m
                            WHERE m.user_id = t.user_id AND m.account_id = p_subject AND m.until_seq IS NULL);
    END CASE;
    PERFORM FROM recado.access_state FOR UPDATE;
    SELECT coalesce(max(c.made_at), '-infinity') INTO ordered
      FROM recado.access_change c
     WHERE c.kind = 'close_' || p_kind AND c.subject = p_subject AND c.made_at > statement_timestamp() - interval '30 seconds';
    CASE p_kind
        WHEN 'session' THEN
            SELECT count(*) INTO n FROM recado.session s
             WHERE s.session_id = p_subject::uuid AND s.ended_at IS NULL
               AND s.session_id NOT IN (SELECT c.session_id FROM recado.sessions_being_closed() c);
        WHEN 'user' THEN
            SELECT count(*) INTO n FROM recado.session s
             WHERE s.user_id = p_subject AND s.ended_at IS NULL AND s.connected_at > ordered
               AND s.session_id NOT IN (SELECT c.session_id FROM recado.sessions_being_closed() c);
        WHEN 'account' THEN
            SELECT count(*) INTO n FROM recado.session s
             WHERE s.ended_at IS NULL AND s.connected_at > ordered
               AND s.session_id NOT IN (SELECT c.session_id FROM recado.sessions_being_closed() c)
               AND (p_subject = ANY (s.account_ids)
                    OR s.follows_members AND EXISTS (
                       SELECT FROM recado.member m
                        WHERE m.user_id = s.user_id AND m.account_id = p_subject AND m.until_seq IS NULL));
    END CASE;
    -- Gives the order even if the same one was given a moment ago: a hub may have sessions that it has not stored yet.
    PERFORM recado.note_access_change('close_' || p_kind, p_subject, NULL);
    PERFORM recado.audit('session.close', CASE WHEN p_kind <> 'user' THEN p_kind || '/' || p_subject END,
                         jsonb_build_object('sessions', n), p_user_id => CASE WHEN p_kind = 'user' THEN p_subject END,
                         p_who => p_who, p_via => p_via, p_address => p_address);
    RETURN n;
END $$;

REVOKE ALL ON FUNCTION
    recado.use_sign_in_link(bytea, text, timestamptz, jsonb, text, text, text), recado.sessions_being_closed(),
    recado.close_matching(text, text, text, uuid, text, bigint, bigint, text, text, text) FROM PUBLIC;

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'recado_hub') THEN
        GRANT EXECUTE ON FUNCTION
            recado.use_sign_in_link(bytea, text, timestamptz, jsonb, text, text, text),
            recado.close_matching(text, text, text, uuid, text, bigint, bigint, text, text, text) TO recado_hub;
    END IF;
EXCEPTION
    WHEN insufficient_privilege THEN NULL;
END $$;
