-- Three repairs of how a connection begins. Else recado.connection_begin is the function of V14.
--
-- 1. Dates the end of a killed instance by the first client that came back, not by the first one that wrote it down. A
--    connection whose instance ended after a new connection began counts as another client, whose position is kept. Of
--    the clients that came back at once, one that waited for a lock found the time of a later one. The next connection
--    of its device then repeated what the device had acknowledged.
-- 2. The commit waits for the disk. A crash of the server lost entries of the last half second. The hub stores them
--    again, but then does not know what the device had acknowledged when the connection began. So a client of a device
--    with several clients missed rows.
-- 3. A client that named a start below its device's position was taken to have acknowledged what the device had, even
--    if another client had acknowledged it. The hub now keeps both facts of such a connection.

ALTER TABLE recado.session
    -- The client named the position where the connection began. False again once the hub knows that another connection
    -- of the device was there.
    ADD COLUMN names_start boolean NOT NULL DEFAULT false;

CREATE OR REPLACE FUNCTION recado.connection_begin(
    p_user_id text, p_client_id text, p_log_id uuid, p_start bigint,
    p_session_id uuid, p_instance_id uuid, p_account_ids text[], p_transport text)
RETURNS TABLE (
    log_id uuid, acked_seq bigint, is_new boolean, is_forgotten boolean,
    session_id uuid, instance_id uuid, session_log_id uuid, from_seq bigint, own_acked_seq bigint, device_seq bigint,
    shared_seq bigint, has_resumed boolean, lowered smallint, end_reason text,
    began_age bigint, active_age bigint, ended_age bigint, gone_age bigint)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    most CONSTANT integer := 64;  -- kept connections of a device that count
    place record;
    gone uuid[];
BEGIN
    -- First, because what follows may wait for locks. The time of the statement is when the client came.
    gone := ARRAY(
        SELECT i.instance_id
          FROM recado.instance i
         WHERE i.instance_id IN (SELECT s.instance_id
                                   FROM recado.session s
                                  WHERE s.user_id = p_user_id AND s.client_id = p_client_id AND s.is_kept
                                    AND s.instance_id <> p_instance_id
                                    AND (s.ended_at IS NULL OR s.end_reason = 'instance_lost'))
           AND (i.gone_at IS NULL OR i.gone_at > statement_timestamp())
           AND i.backend_pid IS NOT NULL
           AND NOT EXISTS (SELECT FROM pg_stat_get_activity(i.backend_pid)));

    SELECT d.log_id, d.acked_seq, d.is_new, d.is_forgotten INTO place
      FROM recado.device_place(p_user_id, p_client_id, p_log_id, p_start) d;

    INSERT INTO recado.session (session_id, instance_id, user_id, account_ids, client_id, transport, log_id, from_seq, sent_seq,
                                acked_seq, connected_at, last_activity_at, device_seq, is_kept)
    VALUES (p_session_id, p_instance_id, p_user_id, p_account_ids, p_client_id, p_transport, p_log_id, place.acked_seq,
            place.acked_seq, place.acked_seq, statement_timestamp(), statement_timestamp(), place.acked_seq, true)
    ON CONFLICT (session_id) DO NOTHING;

    -- The earliest time counts. Of many clients that come back at once, one that came later may have written first.
    IF cardinality(gone) > 0 THEN
        PERFORM 1 FROM recado.instance i WHERE i.instance_id = ANY(gone) ORDER BY i.instance_id FOR UPDATE;
        UPDATE recado.instance i
           SET gone_at = statement_timestamp()
         WHERE i.instance_id = ANY(gone) AND (i.gone_at IS NULL OR i.gone_at > statement_timestamp());
    END IF;

    RETURN QUERY
        SELECT place.log_id, place.acked_seq, place.is_new, place.is_forgotten,
               s.session_id, s.instance_id, s.log_id, s.from_seq, s.own_acked_seq, s.device_seq,
               s.shared_seq, s.has_resumed, s.lowered, s.end_reason,
               (extract(epoch FROM statement_timestamp() - s.connected_at) * 1000000)::bigint,
               (extract(epoch FROM statement_timestamp() - s.last_activity_at) * 1000000)::bigint,
               (extract(epoch FROM statement_timestamp() - s.ended_at) * 1000000)::bigint,
               (extract(epoch FROM statement_timestamp() - i.gone_at) * 1000000)::bigint
          FROM recado.session s
          LEFT JOIN recado.instance i ON i.instance_id = s.instance_id
         WHERE s.user_id = p_user_id AND s.client_id = p_client_id AND s.is_kept
         ORDER BY s.connected_at DESC
         LIMIT most + 1;
END $$;
