-- Acts of the console: closes the sessions that match a filter, and moves the position of a device forward.

-- Closes the open sessions that match every given condition, if they are `p_expect`. One statement finds them: those
-- that are counted are those that are closed. Returns how many match; nothing is closed if that is another number.
--
-- Each session gets a change of its own, of a kind that hubs of an earlier version apply as well. A session's tickets
-- stay: a ticket names no session.
CREATE FUNCTION recado.close_matching_sessions(
    p_user_id text, p_account_id text, p_client_id text, p_instance_id uuid, p_transport text, p_min_lag bigint, p_expect bigint,
    p_who text DEFAULT NULL, p_via text DEFAULT NULL, p_address text DEFAULT NULL) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found_ids uuid[];
    n         bigint;
    head      bigint;
    last      bigint;
    last_id   uuid;
BEGIN
    IF num_nonnulls(p_user_id, p_account_id, p_client_id, p_instance_id, p_transport, p_min_lag) = 0 THEN
        RAISE EXCEPTION 'a filter without a condition matches every session' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    SELECT greatest(m.floor_seq, coalesce((SELECT l.seq FROM recado.log l ORDER BY l.seq DESC LIMIT 1), 0)) INTO head FROM recado.meta m;
    SELECT coalesce(array_agg(s.session_id), '{}') INTO found_ids
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
    n := cardinality(found_ids);
    IF n <> p_expect OR p_expect IS NULL THEN
        RETURN n;
    END IF;
    IF n > 0 THEN
        UPDATE recado.access_state s SET revision = s.revision + n, change_id = gen_random_uuid()
        RETURNING s.revision, s.change_id INTO last, last_id;
        INSERT INTO recado.access_change (revision, change_id, kind, subject)
        SELECT last - n + f.place, CASE WHEN f.place = n THEN last_id ELSE gen_random_uuid() END, 'close_session', f.id::text
          FROM unnest(found_ids) WITH ORDINALITY AS f (id, place);
        PERFORM pg_notify('recado', 'access');
    END IF;
    -- The user has a column of its own, from which an erasure removes the id.
    PERFORM recado.audit('session.close', 'filter',
                         jsonb_build_object('sessions', n, 'filter', jsonb_strip_nulls(jsonb_build_object(
                             'account', p_account_id, 'client', p_client_id, 'instance', p_instance_id, 'transport', p_transport,
                             'min_lag', p_min_lag))),
                         p_user_id => p_user_id, p_who => p_who, p_via => p_via, p_address => p_address);
    RETURN n;
END $$;

-- Moves the position of a device forward to `p_seq`, and never backward. `acked` is the position after that; NULL: the
-- user has no such device. Nothing moves if `p_log_id` is not the present log.
CREATE FUNCTION recado.ack_device(
    p_user_id text, p_client_id text, p_log_id uuid, p_seq bigint,
    p_who text DEFAULT NULL, p_via text DEFAULT NULL, p_address text DEFAULT NULL,
    OUT acked bigint, OUT moved boolean)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    was bigint;
BEGIN
    moved := false;
    SELECT CASE WHEN c.log_id = p_log_id THEN c.acked_seq ELSE 0 END INTO was
      FROM recado.cursor c
     WHERE c.user_id = p_user_id AND c.client_id = p_client_id
       FOR UPDATE;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    acked := was;
    IF was >= p_seq OR NOT EXISTS (SELECT FROM recado.meta m WHERE m.log_id = p_log_id) THEN
        RETURN;
    END IF;
    UPDATE recado.cursor c SET acked_seq = p_seq, log_id = p_log_id, acked_at = clock_timestamp()
     WHERE c.user_id = p_user_id AND c.client_id = p_client_id;
    acked := p_seq;
    moved := true;
    PERFORM recado.audit('device.ack', 'device/' || p_client_id, jsonb_build_object('seq', p_seq, 'was', was),
                         p_user_id => p_user_id, p_who => p_who, p_via => p_via, p_address => p_address);
END $$;

REVOKE ALL ON FUNCTION
    recado.close_matching_sessions(text, text, text, uuid, text, bigint, bigint, text, text, text),
    recado.ack_device(text, text, uuid, bigint, text, text, text) FROM PUBLIC;

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'recado_hub') THEN
        GRANT EXECUTE ON FUNCTION
            recado.close_matching_sessions(text, text, text, uuid, text, bigint, bigint, text, text, text),
            recado.ack_device(text, text, uuid, bigint, text, text, text) TO recado_hub;
    END IF;
EXCEPTION
    WHEN insufficient_privilege THEN NULL;
END $$;
