-- What the hub needs to let several connections of one device resume without a loss (decision 0038).

ALTER TABLE recado.session
    -- Acknowledged on this connection itself; acked_seq also counts what its device acknowledged by POST. NULL: not told yet.
    ADD COLUMN own_acked_seq bigint,
    -- What the device had acknowledged when the connection began, and when the connection was no longer alone on its device.
    ADD COLUMN device_seq bigint,
    ADD COLUMN shared_seq bigint,
    -- Whether a returning connection of the device may still have to start at this one's position.
    ADD COLUMN is_kept boolean NOT NULL DEFAULT false,
    -- Whether this connection used up the position of an earlier one.
    ADD COLUMN has_resumed boolean NOT NULL DEFAULT false,
    -- How many connections started at its position while it was open.
    ADD COLUMN lowered smallint NOT NULL DEFAULT 0,
    -- Whether another client of the device was connected or expected back when it began.
    ADD COLUMN began_shared boolean NOT NULL DEFAULT false;
-- Connections of hubs of an earlier version count as well: those that are open, and those that still come.
ALTER TABLE recado.session ALTER COLUMN is_kept SET DEFAULT true;
UPDATE recado.session SET is_kept = true WHERE ended_at IS NULL;

-- Serves each connect: the kept connections of a device, newest first. Small: what is resumed leaves it.
CREATE INDEX session_kept ON recado.session (user_id, client_id, connected_at DESC) WHERE is_kept;

-- The backend of the connection over which the instance renews its sign of life. A process that is killed loses its
-- connections at once, while its sign of life goes on for 15 s. `gone_at`: when the first client came back
-- that found it gone.
ALTER TABLE recado.instance
    ADD COLUMN backend_pid integer,
    ADD COLUMN gone_at timestamptz;

-- A connection begins: enters it, and gives the position of its device (as recado.device_place does) with the kept
-- connections of the device, newest first; the new one is among them. One call, so that a connect costs one round trip.
--
-- The commit waits for the disk. After a crash of the server the hub could store a lost entry again, but not what the
-- device had acknowledged when the connection began.
CREATE FUNCTION recado.connection_begin(
    p_user_id text, p_client_id text, p_log_id uuid, p_start bigint,
    p_session_id uuid, p_instance_id uuid, p_account_ids text[], p_transport text)
RETURNS TABLE (
    log_id uuid, acked_seq bigint, is_new boolean, is_forgotten boolean,
    session_id uuid, instance_id uuid, session_log_id uuid, from_seq bigint, own_acked_seq bigint, device_seq bigint,
    shared_seq bigint, has_resumed boolean, lowered smallint, end_reason text,
    began_age bigint, active_age bigint, ended_age bigint, gone_age bigint, began_shared boolean)
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
               (extract(epoch FROM statement_timestamp() - i.gone_at) * 1000000)::bigint,
               s.began_shared
          FROM recado.session s
          LEFT JOIN recado.instance i ON i.instance_id = s.instance_id
         WHERE s.user_id = p_user_id AND s.client_id = p_client_id AND s.is_kept
         ORDER BY s.connected_at DESC
         LIMIT most + 1;
END $$;

REVOKE ALL ON FUNCTION recado.connection_begin(text, text, uuid, bigint, uuid, uuid, text[], text) FROM PUBLIC;

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'recado_hub') THEN
        GRANT EXECUTE ON FUNCTION recado.connection_begin(text, text, uuid, bigint, uuid, uuid, text[], text) TO recado_hub;
    END IF;
EXCEPTION
    WHEN insufficient_privilege THEN NULL;
END $$;
