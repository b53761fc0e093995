-- Enters many connections with one call, in one transaction. A hub that many clients reach at once waits for the disk
-- once for all of them, and plans and runs each query once (decision 0061).

-- As recado.connection_begin for each entry, and with the user's membership intervals that are open or end above
-- `p_after`, in the row of the new connection.
--
-- An entry is left out, and has no row in the answer, if its device was not seen for a day or is forgotten, or if
-- another transaction makes its device at the same time: recado.connection_begin handles these, and may wait for
-- locks on the way. This call waits only for transactions that make the same new device. The caller sorts the entries
-- by user and client, as it sorts acknowledgements, so that two calls cannot wait for each other. A device must not
-- stand in two entries.
CREATE FUNCTION recado.connections_begin(
    p_instance_id uuid, p_after bigint, p_session_ids uuid[], p_user_ids text[], p_client_ids text[], p_log_ids uuid[],
    p_starts bigint[], p_account_ids text[], p_transports text[], p_follows_members boolean[])
RETURNS TABLE (
    entry bigint, log_id uuid, acked_seq bigint, is_new boolean, is_forgotten boolean,
    session_id uuid, instance_id uuid, session_log_id uuid, from_seq bigint, own_acked_seq bigint, device_seq bigint,
    shared_seq bigint, has_resumed boolean, lowered smallint, end_reason text,
    began_age bigint, active_age bigint, ended_age bigint, gone_age bigint, began_shared boolean,
    member_accounts text[], member_since bigint[], member_until bigint[])
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    most CONSTANT integer := 64;  -- kept connections of a device that count
    gone   uuid[];
    logs   uuid[];
    acked  bigint[];
    is_new boolean[];
BEGIN
    -- First, for the reason that recado.connection_begin has.
    gone := ARRAY(
        SELECT i.instance_id
          FROM recado.instance i
         WHERE i.instance_id IN (SELECT s.instance_id
                                   FROM unnest(p_user_ids, p_client_ids) AS d (user_id, client_id)
                                   JOIN recado.session s ON s.user_id = d.user_id AND s.client_id = d.client_id AND s.is_kept
                                  WHERE s.instance_id <> p_instance_id
                                    AND (s.ended_at IS NULL OR s.end_reason = 'instance_lost'))
           AND (i.gone_at IS NULL OR i.gone_at > statement_timestamp())
           AND i.backend_pid IS NOT NULL
           AND NOT EXISTS (SELECT FROM pg_stat_get_activity(i.backend_pid)));

    SELECT array_agg(c.log_id ORDER BY d.entry), array_agg(c.acked_seq ORDER BY d.entry), array_agg(false ORDER BY d.entry)
      INTO logs, acked, is_new
      FROM unnest(p_user_ids, p_client_ids) WITH ORDINALITY AS d (user_id, client_id, entry)
      LEFT JOIN recado.cursor c ON c.user_id = d.user_id AND c.client_id = d.client_id
                               AND c.seen_at >= statement_timestamp() - interval '1 day';

    IF array_position(logs, NULL) IS NOT NULL THEN
        -- In the order of the entries, for the locks.
        INSERT INTO recado.cursor (user_id, client_id, log_id, acked_seq)
        SELECT d.user_id, d.client_id, d.log_id, d.start
          FROM unnest(p_user_ids, p_client_ids, p_log_ids, p_starts) WITH ORDINALITY AS d (user_id, client_id, log_id, start, entry)
         WHERE logs[d.entry] IS NULL
           AND NOT EXISTS (SELECT FROM recado.cursor c WHERE c.user_id = d.user_id AND c.client_id = d.client_id)
           AND NOT EXISTS (SELECT FROM recado.forgotten_device f
                            WHERE f.user_id = d.user_id AND (f.any_client OR recado.device_hash(d.client_id) = ANY (f.clients)))
         ORDER BY d.entry
        ON CONFLICT (user_id, client_id) DO NOTHING;
        -- A row of this transaction is a new device. One that another transaction has made meanwhile is left out.
        SELECT array_agg(coalesce(logs[d.entry], c.log_id) ORDER BY d.entry),
               array_agg(coalesce(acked[d.entry], c.acked_seq) ORDER BY d.entry),
               array_agg(c.user_id IS NOT NULL ORDER BY d.entry)
          INTO logs, acked, is_new
          FROM unnest(p_user_ids, p_client_ids) WITH ORDINALITY AS d (user_id, client_id, entry)
          LEFT JOIN recado.cursor c ON logs[d.entry] IS NULL AND c.user_id = d.user_id AND c.client_id = d.client_id
                                   AND c.xmin = pg_current_xact_id()::xid;
    END IF;

    INSERT INTO recado.session (session_id, instance_id, user_id, account_ids, client_id, transport, log_id, from_seq, sent_seq,
                                acked_seq, connected_at, last_activity_at, device_seq, is_kept, follows_members)
    SELECT d.session_id, p_instance_id, d.user_id, d.account_ids::text[], d.client_id, d.transport, d.log_id, d.acked_seq,
           d.acked_seq, d.acked_seq, statement_timestamp(), statement_timestamp(), d.acked_seq, true, d.follows_members
      FROM unnest(p_session_ids, p_user_ids, p_account_ids, p_client_ids, p_transports, p_log_ids, acked, p_follows_members)
           AS d (session_id, user_id, account_ids, client_id, transport, log_id, acked_seq, follows_members)
     WHERE d.acked_seq IS NOT NULL
    ON CONFLICT (session_id) DO NOTHING;

    -- The earliest time counts. Of many clients that come back at once, one that came later may have written first.
    IF cardinality(gone) > 0 THEN
        PERFORM 1 FROM recado.instance i WHERE i.instance_id = ANY(gone) ORDER BY i.instance_id FOR UPDATE;
        UPDATE recado.instance i
           SET gone_at = statement_timestamp()
         WHERE i.instance_id = ANY(gone) AND (i.gone_at IS NULL OR i.gone_at > statement_timestamp());
    END IF;

    RETURN QUERY
        SELECT d.entry, d.log_id, d.acked_seq, d.is_new, false,
               s.session_id, s.instance_id, s.log_id, s.from_seq, s.own_acked_seq, s.device_seq,
               s.shared_seq, s.has_resumed, s.lowered, s.end_reason,
               (extract(epoch FROM statement_timestamp() - s.connected_at) * 1000000)::bigint,
               (extract(epoch FROM statement_timestamp() - s.last_activity_at) * 1000000)::bigint,
               (extract(epoch FROM statement_timestamp() - s.ended_at) * 1000000)::bigint,
               (extract(epoch FROM statement_timestamp() - s.gone_at) * 1000000)::bigint,
               s.began_shared, m.accounts, m.since, m.until
          FROM unnest(p_session_ids, p_user_ids, p_client_ids, logs, acked, is_new, p_follows_members)
               WITH ORDINALITY AS d (session_id, user_id, client_id, log_id, acked_seq, is_new, follows_members, entry)
         CROSS JOIN LATERAL (
               SELECT s.*, i.gone_at
                 FROM recado.session s
                 LEFT JOIN recado.instance i ON i.instance_id = s.instance_id
                WHERE s.user_id = d.user_id AND s.client_id = d.client_id AND s.is_kept
                ORDER BY s.connected_at DESC
                LIMIT most + 1) s
          LEFT JOIN LATERAL (
               SELECT array_agg(o.account_id ORDER BY o.account_id, o.since_seq) AS accounts,
                      array_agg(o.since_seq ORDER BY o.account_id, o.since_seq) AS since,
                      array_agg(o.until_seq ORDER BY o.account_id, o.since_seq) AS until
                 FROM recado.member o
                WHERE d.follows_members AND s.session_id = d.session_id AND o.user_id = d.user_id
                  AND (o.until_seq IS NULL OR o.until_seq > p_after)) m ON true
         WHERE d.acked_seq IS NOT NULL
         ORDER BY d.entry, s.connected_at DESC;
END $$;

REVOKE ALL ON FUNCTION recado.connections_begin(uuid, bigint, uuid[], text[], text[], uuid[], bigint[], text[], text[], boolean[]) FROM PUBLIC;

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'recado_hub') THEN
        GRANT EXECUTE ON FUNCTION recado.connections_begin(uuid, bigint, uuid[], text[], text[], uuid[], bigint[], text[], text[], boolean[]) TO recado_hub;
    END IF;
EXCEPTION
    WHEN insufficient_privilege THEN NULL;
END $$;
