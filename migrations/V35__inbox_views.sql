-- Lets services mark items as read in SQL, and shows inboxes to analysts (decision 0070).

-- Writes a change of an inbox into the outbox. The relay appends its row, and the trigger of the log applies it there
-- (recado.apply_inbox_change), after the notifications that the transaction posted before. Looks at no row of the log:
-- a call would lock its partitions until the transaction of the caller ends. So a number that is no item of the user
-- has no effect, and an `up_to` above the head stands for all items so far.
CREATE FUNCTION recado.change_inbox(p_call text, p_op text, p_user_id text, p_seqs bigint[], p_up_to bigint) RETURNS uuid
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    most     constant integer := 1000;
    argument text;
    problem  text;
    advice   text := '';
    said     text;
    id       uuid;
BEGIN
    IF (p_user_id COLLATE "C" ~ '^[A-Za-z0-9._:|@+=~-]{1,128}$' AND p_user_id <> '-') IS NOT TRUE THEN
        argument := 'user_id'; problem := 'must be 1 to 128 characters of A-Z a-z 0-9 . _ : - | @ + = ~, and not - alone';
    ELSIF p_seqs IS NULL AND p_op IN ('unread', 'unarchive') THEN
        argument := 'seqs'; problem := 'is required';
    ELSIF p_up_to IS NULL AND p_op = 'seen' THEN
        argument := 'up_to'; problem := 'is required';
    ELSIF num_nonnulls(p_seqs, p_up_to) <> 1 THEN
        argument := 'seqs'; problem := CASE WHEN p_seqs IS NULL THEN 'or up_to is required' ELSE 'and up_to must not both be given' END;
        advice := ' Give seqs to change these items, or up_to to change all items up to a number.';
    ELSIF array_ndims(p_seqs) > 1 THEN
        argument := 'seqs'; problem := 'must be a list, and has ' || array_ndims(p_seqs) || ' dimensions';
    ELSIF cardinality(p_seqs) NOT BETWEEN 1 AND most THEN
        argument := 'seqs'; problem := format('must hold 1 to %s numbers, and holds %s', most, cardinality(p_seqs));
        IF cardinality(p_seqs) > most THEN
            advice := CASE WHEN p_op IN ('read', 'archive') THEN ' Give up_to, or call the function several times.' ELSE ' Call the function several times.' END;
        END IF;
    ELSIF EXISTS (SELECT FROM unnest(p_seqs) s WHERE (s > 0) IS NOT TRUE) THEN
        argument := 'seqs'; problem := 'must hold sequence numbers, which are 1 or higher';
    ELSIF p_up_to < 0 THEN
        argument := 'up_to'; problem := 'must be a sequence number, or 0';
    END IF;
    IF problem IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'RC010', COLUMN = argument, HINT = 'Nothing was written.' || advice,
            MESSAGE = format('recado.%s: %s %s', p_call, argument, problem);
    END IF;
    -- As a notification of type `inbox` to the user, in any account.
    IF EXISTS (SELECT FROM recado.producer_scope s WHERE s.login = session_user) THEN
        PERFORM recado.check_producer(p_call, 'inbox', false, NULL, ARRAY[p_user_id], false);
    END IF;
    said := CASE WHEN p_seqs IS NULL THEN format('{"op":"%s","up_to":%s}', p_op, p_up_to)
                 ELSE format('{"op":"%s","seqs":[%s]}', p_op, (SELECT string_agg(s::text, ',' ORDER BY s) FROM (SELECT DISTINCT unnest(p_seqs)) u (s))) END;
    INSERT INTO recado.outbox AS o (place, slot, xid, at, id, type, title, message, data, topic, user_id, replay, source, body, bytes, inbox)
    SELECT p.place, (p.place / 16384) % 4, pg_current_xact_id(), clock_timestamp(), recado.new_id(), 'inbox', '', '', said,
           'u/' || p_user_id, p_user_id, true, session_user, 0, octet_length(said), false
      FROM (SELECT nextval('recado.outbox_place') AS place) p
    RETURNING o.id INTO id;
    RETURN id;
END $$;

-- Marks items of a user as read: those with the numbers `seqs`, or all up to `up_to`. Returns the id of the change's
-- row. A repeat changes no item.
CREATE FUNCTION recado.mark_read(user_id text, seqs bigint[] DEFAULT NULL, up_to bigint DEFAULT NULL) RETURNS uuid
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT recado.change_inbox('mark_read', 'read', user_id, seqs, up_to);
$$;

-- Marks items of a user as unread.
CREATE FUNCTION recado.mark_unread(user_id text, seqs bigint[]) RETURNS uuid
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT recado.change_inbox('mark_unread', 'unread', user_id, seqs, NULL);
$$;

-- Archives items of a user: those with the numbers `seqs`, or all up to `up_to`.
CREATE FUNCTION recado.archive_items(user_id text, seqs bigint[] DEFAULT NULL, up_to bigint DEFAULT NULL) RETURNS uuid
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT recado.change_inbox('archive_items', 'archive', user_id, seqs, up_to);
$$;

-- Takes items of a user out of the archive.
CREATE FUNCTION recado.unarchive_items(user_id text, seqs bigint[]) RETURNS uuid
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT recado.change_inbox('unarchive_items', 'unarchive', user_id, seqs, NULL);
$$;

-- Marks all items of a user up to `up_to` as seen.
CREATE FUNCTION recado.mark_seen(user_id text, up_to bigint) RETURNS uuid
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT recado.change_inbox('mark_seen', 'seen', user_id, NULL, up_to);
$$;

REVOKE ALL ON FUNCTION recado.change_inbox(text, text, text, bigint[], bigint), recado.mark_read(text, bigint[], bigint),
    recado.mark_unread(text, bigint[]), recado.archive_items(text, bigint[], bigint), recado.unarchive_items(text, bigint[]),
    recado.mark_seen(text, bigint) FROM PUBLIC;

-- As in V21, but that it takes the right to change inboxes too. An administrator grants that right:
-- recado.grant_producer does not give it.
CREATE OR REPLACE FUNCTION recado.revoke_producer(p_login text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    role constant text := recado.role_name('producer');
BEGIN
    IF EXISTS (SELECT FROM pg_roles r WHERE r.rolname = role) THEN
        EXECUTE format('REVOKE %I FROM %I', role, p_login);
    END IF;
    EXECUTE format('REVOKE EXECUTE ON FUNCTION recado.add_member(text, text), recado.remove_member(text, text),
        recado.mark_read(text, bigint[], bigint), recado.mark_unread(text, bigint[]), recado.archive_items(text, bigint[], bigint),
        recado.unarchive_items(text, bigint[]), recado.mark_seen(text, bigint) FROM %I', p_login);
    PERFORM recado.audit('producer.revoke', p_login);
END $$;

-- A change of an inbox is a row of the log, and the view notifications has it, so that a copy by number has no holes.
-- The other views show what was sent to users, and leave changes out: a connection without `inbox` does not receive
-- them. As before otherwise. Changes are rows for one user, so the branches for accounts, everyone and lists need no
-- condition.
CREATE OR REPLACE VIEW recado_views.recipients AS
SELECT l.seq, l.created_at, l.type, l.title,
       CASE WHEN u.user_id IS NOT NULL THEN 'user' WHEN l.account_id IS NOT NULL THEN 'account' ELSE 'everyone' END AS recipient,
       u.user_id, l.account_id
  FROM recado.log l
 CROSS JOIN LATERAL (SELECT DISTINCT m AS user_id FROM unnest(coalesce(l.user_ids, ARRAY[l.user_id])) m) u
 WHERE l.type <> ALL ('{inbox,preferences}');

CREATE OR REPLACE VIEW recado_views.inbox AS
SELECT l.topic AS address, l.seq, l.id, l.created_at, l.type, l.title, l.message, recado_views.jsonb_of(l.data) AS data, l.expires_at
  FROM recado.log l
 WHERE l.replay AND l.topic <> 'l' AND l.type <> ALL ('{inbox,preferences}')
 UNION ALL
SELECT m.topic, m.seq, l.id, l.created_at, l.type, l.title, l.message, recado_views.jsonb_of(l.data), l.expires_at
  FROM recado.log_member m
 CROSS JOIN LATERAL (SELECT * FROM recado.log x WHERE x.seq = m.seq LIMIT 1) l;

CREATE OR REPLACE VIEW recado_views.daily_counts AS
SELECT d.day::date AS day, c.type, c.audience, c.notifications, c.bytes, c.first_seq, c.last_seq
  FROM generate_series(
       (SELECT date_trunc('day', l.created_at AT TIME ZONE 'UTC') - interval '1 day' FROM recado.log l ORDER BY l.seq LIMIT 1),
       (SELECT date_trunc('day', l.created_at AT TIME ZONE 'UTC') + interval '1 day' FROM recado.log l ORDER BY l.seq DESC LIMIT 1),
       interval '1 day') AS d (day)
 CROSS JOIN LATERAL (
       SELECT n.type, n.audience, count(*) AS notifications, sum(n.bytes)::bigint AS bytes, min(n.seq) AS first_seq, max(n.seq) AS last_seq
         FROM recado_views.notifications n
        WHERE n.created_at >= d.day AT TIME ZONE 'UTC' AND n.created_at < (d.day + interval '1 day') AT TIME ZONE 'UTC'
          AND n.type <> ALL ('{inbox,preferences}')
        GROUP BY n.type, n.audience) c;

CREATE OR REPLACE VIEW recado_views.deliveries AS
SELECT d.seq, d.id, d.created_at, d.type, d.title, d.audience, d.user_id, d.client_id, d.session_id, d.transport,
       p.sent_at, a.acked_at,
       CASE WHEN p.sent_at IS NOT NULL THEN greatest(p.sent_at - d.created_at, interval '0') END AS time_to_send,
       CASE WHEN a.acked_at IS NOT NULL AND p.sent_at IS NOT NULL THEN greatest(a.acked_at - p.sent_at, interval '0') END AS time_to_ack
  FROM (SELECT l.seq, l.id, l.created_at, l.type, l.title, CASE WHEN l.topic = 'l' THEN 'users' ELSE 'user' END AS audience,
               u.user_id, s.client_id, s.session_id, s.transport, s.log_id
          FROM recado.log l
         CROSS JOIN LATERAL (SELECT DISTINCT m AS user_id FROM unnest(coalesce(l.user_ids, ARRAY[l.user_id])) m) u
          JOIN recado.session s ON s.user_id = u.user_id AND l.seq > s.from_seq AND l.seq <= s.sent_seq
                               AND (l.account_id IS NULL OR l.account_id = ANY (s.account_ids)
                                    OR s.follows_members AND EXISTS (
                                       SELECT FROM recado.member b
                                        WHERE b.user_id = s.user_id AND b.account_id = l.account_id AND b.since_seq < l.seq
                                          AND (b.until_seq IS NULL OR b.until_seq > l.seq)))
                               AND (l.replay OR l.created_at >= s.connected_at)
                               AND (l.expires_at IS NULL OR l.expires_at > s.connected_at)
                               AND (s.types IS NULL OR recado_views.takes(s.types, l.type))
         WHERE l.type <> ALL ('{inbox,preferences}')
         UNION ALL
        SELECT l.seq, l.id, l.created_at, l.type, l.title, CASE WHEN l.topic = '*' THEN 'everyone' ELSE 'account' END,
               s.user_id, s.client_id, s.session_id, s.transport, s.log_id
          FROM recado.log l
          JOIN recado.session s ON l.seq > s.from_seq AND l.seq <= s.sent_seq
                               AND (l.account_id IS NULL OR l.account_id = ANY (s.account_ids)
                                    OR s.follows_members AND EXISTS (
                                       SELECT FROM recado.member b
                                        WHERE b.user_id = s.user_id AND b.account_id = l.account_id AND b.since_seq < l.seq
                                          AND (b.until_seq IS NULL OR b.until_seq > l.seq)))
                               AND (l.replay OR l.created_at >= s.connected_at)
                               AND (l.expires_at IS NULL OR l.expires_at > s.connected_at)
                               AND (s.types IS NULL OR recado_views.takes(s.types, l.type))
         WHERE l.user_id IS NULL AND l.user_ids IS NULL) d
  JOIN recado.meta m ON m.log_id = d.log_id
  LEFT JOIN LATERAL (SELECT r.sent_at
                       FROM recado.progress r
                      WHERE r.session_id = d.session_id AND r.sent_seq >= d.seq
                      ORDER BY r.sent_seq
                      LIMIT 1) p ON true
  LEFT JOIN LATERAL (SELECT min(f.acked_at) AS acked_at
                       FROM (SELECT r.acked_at
                               FROM recado.progress r
                              WHERE r.user_id = d.user_id AND r.client_id = d.client_id AND r.log_id = d.log_id AND r.acked_seq >= d.seq
                              ORDER BY r.acked_seq, r.acked_at
                              LIMIT 8) f) a ON true;

CREATE OR REPLACE VIEW recado_views.unacked AS
SELECT c.user_id, c.client_id, c.acked_seq, u.unacked, u.oldest_seq, u.oldest_at AS since, u.oldest_type, u.oldest_title
  FROM recado.cursor c
  JOIN recado.meta m ON m.log_id = c.log_id
  LEFT JOIN LATERAL (SELECT s.account_ids, s.follows_members, s.types FROM recado.session s
                      WHERE s.user_id = c.user_id AND s.client_id = c.client_id
                      ORDER BY s.connected_at DESC LIMIT 1) s ON true
 CROSS JOIN LATERAL (
       SELECT count(*) AS unacked, min(b.seq) AS oldest_seq, (array_agg(b.created_at ORDER BY b.seq))[1] AS oldest_at,
              (array_agg(b.type ORDER BY b.seq))[1] AS oldest_type, (array_agg(b.title ORDER BY b.seq))[1] AS oldest_title
         FROM (SELECT '*' AS topic, c.acked_seq AS low, 9223372036854775807 AS high
                UNION ALL SELECT 'u/' || c.user_id, c.acked_seq, 9223372036854775807
                UNION ALL SELECT 'a/' || a, c.acked_seq, 9223372036854775807 FROM unnest(s.account_ids) a
                UNION ALL SELECT 'u/' || c.user_id || '/' || a, c.acked_seq, 9223372036854775807 FROM unnest(s.account_ids) a
                UNION ALL
               SELECT x.topic, greatest(c.acked_seq, b.since_seq), coalesce(b.until_seq, 9223372036854775807)
                 FROM recado.member b
                CROSS JOIN LATERAL (VALUES ('a/' || b.account_id), ('u/' || b.user_id || '/' || b.account_id)) x (topic)
                WHERE s.follows_members AND b.user_id = c.user_id AND (b.until_seq IS NULL OR b.until_seq > c.acked_seq)
                  AND b.account_id <> ALL (s.account_ids)) t
        CROSS JOIN LATERAL (
              (SELECT l.seq, l.created_at, l.type, l.title
                 FROM recado.log l
                WHERE l.topic = t.topic AND l.replay AND l.topic <> 'l' AND l.seq > c.acked_seq AND l.seq > t.low AND l.seq < t.high
                  AND l.type <> ALL ('{inbox,preferences}')
                  AND (l.expires_at IS NULL OR l.expires_at > now())
                  AND (s.types IS NULL OR recado_views.takes(s.types, l.type))
                ORDER BY l.seq
                LIMIT 10000)
              UNION ALL
              (SELECT l.seq, l.created_at, l.type, l.title
                 FROM recado.log_member b
                CROSS JOIN LATERAL (SELECT * FROM recado.log x WHERE x.seq = b.seq LIMIT 1) l
                WHERE b.topic = t.topic AND b.seq > c.acked_seq AND b.seq > t.low AND b.seq < t.high
                  AND (l.expires_at IS NULL OR l.expires_at > now())
                  AND (s.types IS NULL OR recado_views.takes(s.types, l.type))
                ORDER BY b.seq
                LIMIT 10000)) b) u
 WHERE u.unacked > 0;

-- The states of all items of each user with an inbox, in all accounts that the user came with and within all
-- memberships (recado.inbox_reach, written out here: functions in a view run with the rights of the reader). No LIMIT
-- and no OFFSET over the log: conditions on seq and created_at reach its indexes. `= ANY (ARRAY[…])` and not `=`: the
-- planner knows neither the user nor the topics, and must not read the whole log for a hash join.
CREATE VIEW recado_views.inbox_states AS
SELECT u.user_id, s.seq, s.id, s.type, s.title, s.created_at,
       coalesce(e.is_read, s.seq <= coalesce(i.read_seq, 0)) AS is_read,
       coalesce(e.is_archived, s.seq <= coalesce(i.archived_seq, 0)) AS is_archived,
       s.seq <= coalesce(i.seen_seq, 0) AS is_seen,
       EXISTS (SELECT FROM unnest(i.muted) AS p (pattern)
                WHERE CASE WHEN right(p.pattern, 1) = '*' THEN starts_with(s.type, left(p.pattern, -1)) ELSE p.pattern = s.type END) AS is_muted,
       -- The change that made it read is a row for the user alone, so the index on topic and seq finds it. Looked up
       -- only where the column is asked for.
       CASE WHEN coalesce(e.is_read, s.seq <= coalesce(i.read_seq, 0)) THEN (
           SELECT l.created_at
             FROM recado.log l
            WHERE l.topic = 'u/' || u.user_id AND l.topic <> 'l' AND l.replay AND l.seq > s.seq AND l.type = 'inbox' AND NOT l.inbox
              AND l.data ->> 'op' = 'read'
              AND (recado_views.number_of(recado_views.jsonb_of(l.data), 'up_to') >= s.seq
                   OR recado_views.jsonb_of(l.data) -> 'seqs' @> to_jsonb(s.seq))
            ORDER BY l.seq
            LIMIT 1) END AS read_at
  FROM (SELECT x.user_id FROM recado.inbox_since x WHERE x.topic = '*' UNION SELECT y.user_id FROM recado.inbox y) u
 CROSS JOIN recado.meta m
  LEFT JOIN recado.inbox i ON i.user_id = u.user_id
 CROSS JOIN LATERAL (
       SELECT c.topic, c.seq, 9223372036854775807
         FROM recado.inbox_since c
        WHERE c.user_id = u.user_id
        UNION ALL
       SELECT 'u/' || u.user_id, 0, 9223372036854775807
        UNION ALL
       SELECT 'u/' || u.user_id || '/' || substr(c.topic, 3), 0, 9223372036854775807
         FROM recado.inbox_since c
        WHERE c.user_id = u.user_id AND c.topic <> '*'
        UNION ALL
       SELECT 'a/' || b.account_id, greatest(b.since_seq, c.seq), coalesce(b.until_seq - 1, 9223372036854775807)
         FROM recado.member b
         JOIN recado.inbox_since c ON c.user_id = b.user_id AND c.topic = '*'
        WHERE b.user_id = u.user_id
          AND NOT EXISTS (SELECT FROM recado.inbox_since k WHERE k.user_id = b.user_id AND k.topic = 'a/' || b.account_id)
        UNION ALL
       SELECT 'u/' || b.user_id || '/' || b.account_id, b.since_seq, coalesce(b.until_seq - 1, 9223372036854775807)
         FROM recado.member b
        WHERE b.user_id = u.user_id
          AND NOT EXISTS (SELECT FROM recado.inbox_since k WHERE k.user_id = b.user_id AND k.topic = 'a/' || b.account_id)) t (topic, low, high)
 CROSS JOIN LATERAL (
       SELECT a.seq, a.id, a.type, a.title, a.created_at
         FROM recado.log a
        WHERE a.topic = ANY (ARRAY[t.topic]) AND a.topic <> 'l' AND a.replay AND a.inbox
          AND a.seq > t.low AND a.seq <= t.high AND a.seq > m.floor_seq
        UNION ALL
       SELECT b.seq, l.id, l.type, l.title, l.created_at
         FROM recado.log_member b
        CROSS JOIN LATERAL (SELECT c.id, c.type, c.title, c.created_at
                              FROM recado.log c
                             WHERE c.seq = b.seq AND c.inbox AND c.replay
                             LIMIT 1) l
        WHERE b.topic = ANY (ARRAY[t.topic]) AND b.seq > t.low AND b.seq <= t.high AND b.seq > m.floor_seq) s
  LEFT JOIN LATERAL (SELECT x.is_read, x.is_archived
                       FROM recado.inbox_item x
                      WHERE x.user_id = u.user_id AND x.seq = s.seq
                      LIMIT 1) e ON true;

-- The counts of a user as the user sees them, for the view: it runs with the rights of its reader, who may not call
-- recado.inbox_counts.
CREATE FUNCTION recado_views.inbox_counts_of(user_id text, OUT unread integer, OUT unseen integer, OUT as_of bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT c.unread, c.unseen, c.as_of FROM recado.inbox_counts(user_id, recado.inbox_accounts(user_id), true) c;
$$;
COMMENT ON FUNCTION recado_views.inbox_counts_of(text) IS 'How many items a user has not read and not seen, at most 1000 each, and the number of the log at which that holds.';

CREATE VIEW recado_views.inbox_counts AS
SELECT u.user_id, c.unread, c.unseen, c.as_of, coalesce(i.read_seq, 0) AS read_seq, coalesce(i.seen_seq, 0) AS seen_seq,
       coalesce(i.archived_seq, 0) AS archived_seq, coalesce(i.muted, '{}') AS muted
  FROM (SELECT x.user_id FROM recado.inbox_since x WHERE x.topic = '*' UNION SELECT y.user_id FROM recado.inbox y) u
  LEFT JOIN recado.inbox i ON i.user_id = u.user_id
 CROSS JOIN LATERAL recado_views.inbox_counts_of(u.user_id) c;

REVOKE ALL ON recado_views.inbox_states, recado_views.inbox_counts FROM PUBLIC;
REVOKE ALL ON FUNCTION recado_views.inbox_counts_of(text) FROM PUBLIC;

COMMENT ON VIEW recado_views.inbox_states IS 'Items of the inboxes of users, and whether each is read, archived, seen and muted. Give it a user_id, or a range of seq or created_at.';
COMMENT ON COLUMN recado_views.inbox_states.user_id IS 'The user.';
COMMENT ON COLUMN recado_views.inbox_states.seq IS 'The number of the notification.';
COMMENT ON COLUMN recado_views.inbox_states.id IS 'Its id.';
COMMENT ON COLUMN recado_views.inbox_states.type IS 'Its type.';
COMMENT ON COLUMN recado_views.inbox_states.title IS 'Its title.';
COMMENT ON COLUMN recado_views.inbox_states.created_at IS 'When it was appended.';
COMMENT ON COLUMN recado_views.inbox_states.is_read IS 'Whether it is read.';
COMMENT ON COLUMN recado_views.inbox_states.is_archived IS 'Whether it is archived.';
COMMENT ON COLUMN recado_views.inbox_states.is_seen IS 'Whether the user opened the inbox after it came.';
COMMENT ON COLUMN recado_views.inbox_states.is_muted IS 'Whether the user has muted its type now. A muted item is not counted.';
COMMENT ON COLUMN recado_views.inbox_states.read_at IS 'When it was first marked as read; NULL: it is unread, or no change of the user names it.';
COMMENT ON VIEW recado_views.inbox_counts IS 'Counts of each user with an inbox, over all accounts that the user came with. Give it a user_id: each user is counted.';
COMMENT ON COLUMN recado_views.inbox_counts.user_id IS 'The user.';
COMMENT ON COLUMN recado_views.inbox_counts.unread IS 'Items that are neither read nor archived nor muted. 1000: 1000 or more.';
COMMENT ON COLUMN recado_views.inbox_counts.unseen IS 'Items that are neither seen nor archived nor muted. 1000: 1000 or more.';
COMMENT ON COLUMN recado_views.inbox_counts.as_of IS 'The number of the log at which the counts hold.';
COMMENT ON COLUMN recado_views.inbox_counts.read_seq IS 'Items up to this number are read, but for exceptions.';
COMMENT ON COLUMN recado_views.inbox_counts.seen_seq IS 'Items up to this number are seen.';
COMMENT ON COLUMN recado_views.inbox_counts.archived_seq IS 'Items up to this number are archived, but for exceptions.';
COMMENT ON COLUMN recado_views.inbox_counts.muted IS 'The types that the user muted. A * at the end stands for any rest.';

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'recado_analyst') THEN
        GRANT SELECT ON recado_views.inbox_states, recado_views.inbox_counts TO recado_analyst;
        GRANT EXECUTE ON FUNCTION recado_views.inbox_counts_of(text) TO recado_analyst;
    END IF;
EXCEPTION
    WHEN insufficient_privilege THEN NULL;
END $$;
