-- What analysts ask: views with comments on every column, and a role that can read them and nothing else.
--
-- A schema of its own, so that "may see the views, may not see the tables" is one grant, and named after the product:
-- `analytics` or `reporting` may well be taken in a database that a hub shares with a business.
--
-- The views read with their owner's rights (not security_invoker), so that their reader needs none on the tables. They are
-- no security barriers: they hide columns and tables, never rows, so a condition that is tried early sees nothing that it
-- may not see, and every condition may reach the partitions and the indexes. Functions in a view run with the reader's
-- rights: those below are granted.
CREATE SCHEMA recado_views;
COMMENT ON SCHEMA recado_views IS 'Recado for analysts: who was told what, when, and who has acknowledged it. Read only. Begin with notifications.';

-- Reading `data` safely: NULL instead of an error for whatever is not as expected. What came through the hub was checked;
-- what a service wrote in SQL was not: NUL and lone surrogates are JSON for PostgreSQL until somebody reads them.
-- plpgsql, because an SQL function that uses its argument twice is not inlined and costs more. No EXCEPTION blocks, which a
-- parallel worker may not enter.
CREATE FUNCTION recado_views.text_of(data json, key text) RETURNS text
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
BEGIN
    IF json_typeof(data) <> 'object' THEN
        RETURN NULL;
    END IF;
    -- Escaped backslashes and whole surrogate pairs are taken out; a NUL or half a pair must not be left.
    IF strpos(data::text, '\u') > 0
       AND regexp_replace(data::text, '\\\\|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}', '', 'g') ~ '\\u(0000|[dD][89a-fA-F])' THEN
        RETURN NULL;
    END IF;
    RETURN data ->> key;
END $$;
COMMENT ON FUNCTION recado_views.text_of(json, text) IS 'A field of data as text; NULL where data is no object, has no such field or cannot be read.';

CREATE FUNCTION recado_views.number_of(data json, key text) RETURNS numeric
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
DECLARE
    found text := recado_views.text_of(data, key);
BEGIN
    -- Any number that a double holds, and money as text; nothing that would fill a page.
    RETURN CASE WHEN found ~ '^-?[0-9]{1,100}(\.[0-9]{1,100})?([eE][-+]?[0-9]{1,2})?$' THEN found::numeric END;
END $$;
COMMENT ON FUNCTION recado_views.number_of(json, text) IS 'A field of data as a number, also where it is text such as "12.50"; NULL for anything else.';

CREATE FUNCTION recado_views.integer_of(data json, key text) RETURNS bigint
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
DECLARE
    found text := recado_views.text_of(data, key);
BEGIN
    RETURN CASE WHEN found ~ '^-?[0-9]{1,18}$' THEN found::bigint END;
END $$;
COMMENT ON FUNCTION recado_views.integer_of(json, text) IS 'A field of data as a whole number of at most 18 digits; NULL for anything else.';

CREATE VIEW recado_views.log AS
SELECT m.log_id, m.log_started_at, m.floor_seq + 1 AS earliest_seq, e.created_at AS earliest_at, m.floor_seq AS dropped,
       coalesce(h.seq, m.floor_seq) AS head_seq, h.created_at AS head_at
  FROM recado.meta m
  LEFT JOIN LATERAL (SELECT l.created_at FROM recado.log l WHERE l.seq > m.floor_seq ORDER BY l.seq LIMIT 1) e ON true
  LEFT JOIN LATERAL (SELECT l.seq, l.created_at FROM recado.log l ORDER BY l.seq DESC LIMIT 1) h ON true;

CREATE VIEW recado_views.notifications AS
SELECT l.seq, l.id, l.created_at, l.type, l.title, l.message, l.data,
       CASE WHEN l.topic = '*' THEN 'everyone' WHEN l.topic = 'l' THEN 'users' WHEN l.user_id IS NULL THEN 'account' ELSE 'user' END AS audience,
       l.topic AS address, l.user_id, l.account_id, l.user_ids, l.source, l.replay, l.expires_at,
       coalesce(l.expires_at <= now(), false) AS is_expired, l.bytes
  FROM recado.log l;

CREATE VIEW recado_views.recipients AS
SELECT l.seq, l.created_at, l.type, l.title,
       CASE WHEN u.user_id IS NOT NULL THEN 'user' WHEN l.account_id IS NOT NULL THEN 'account' ELSE 'everyone' END AS recipient,
       u.user_id, l.account_id
  FROM recado.log l
 CROSS JOIN LATERAL (SELECT DISTINCT m AS user_id FROM unnest(coalesce(l.user_ids, ARRAY[l.user_id])) m) u;

-- Both branches end in an index on (address, seq): the fast way to one reader's part of a large log.
CREATE VIEW recado_views.inbox AS
SELECT l.topic AS address, l.seq, l.id, l.created_at, l.type, l.title, l.message, l.data, l.expires_at
  FROM recado.log l
 WHERE l.replay AND l.topic <> 'l'
 UNION ALL
SELECT m.topic, m.seq, l.id, l.created_at, l.type, l.title, l.message, l.data, l.expires_at
  FROM recado.log_member m
 CROSS JOIN LATERAL (SELECT * FROM recado.log x WHERE x.seq = m.seq LIMIT 1) l;

CREATE VIEW recado_views.sessions AS
SELECT s.session_id, s.user_id, s.account_ids, s.client_id, s.transport, s.instance_id, s.from_seq, s.sent_seq, s.acked_seq,
       s.connected_at, s.last_activity_at, s.ended_at, s.end_reason, s.ended_at IS NULL AS is_live,
       coalesce(s.ended_at, s.last_activity_at) - s.connected_at AS lasted, s.log_id = m.log_id AS is_of_this_log
  FROM recado.session s
 CROSS JOIN recado.meta m;

CREATE VIEW recado_views.devices AS
SELECT c.user_id, c.client_id, CASE WHEN c.log_id = m.log_id THEN c.acked_seq END AS acked_seq, h.seq AS head_seq,
       CASE WHEN c.log_id = m.log_id THEN greatest(h.seq - c.acked_seq, 0) END AS lag,
       CASE WHEN c.acked_at > c.created_at THEN c.acked_at END AS last_acked_at, c.created_at AS first_seen_at,
       s.last_seen_at, coalesce(s.is_connected, false) AS is_connected,
       CASE WHEN c.log_id = m.log_id THEN greatest(m.floor_seq - c.acked_seq, 0) END AS dropped
  FROM recado.cursor c
 CROSS JOIN recado.meta m
 CROSS JOIN LATERAL (SELECT coalesce((SELECT l.seq FROM recado.log l ORDER BY l.seq DESC LIMIT 1), m.floor_seq) AS seq OFFSET 0) h
  LEFT JOIN LATERAL (SELECT max(s.last_activity_at) AS last_seen_at, bool_or(s.ended_at IS NULL) AS is_connected
                       FROM recado.session s
                      WHERE s.user_id = c.user_id AND s.client_id = c.client_id) s ON true;

-- One scan a day, each by the index on created_at: a condition on `day` takes whole days out before they are read.
-- A day more at both ends: a clock that was set back may have put a neighbour of the first or last row there.
CREATE VIEW recado_views.daily_counts AS
SELECT d.day::date AS day, c.type, c.audience, c.notifications, c.bytes, c.first_seq, c.last_seq
  FROM generate_series(
       (SELECT date_trunc('day', l.created_at AT TIME ZONE 'UTC') - interval '1 day' FROM recado.log l ORDER BY l.seq LIMIT 1),
       (SELECT date_trunc('day', l.created_at AT TIME ZONE 'UTC') + interval '1 day' FROM recado.log l ORDER BY l.seq DESC LIMIT 1),
       interval '1 day') AS d (day)
 CROSS JOIN LATERAL (
       SELECT n.type, n.audience, count(*) AS notifications, sum(n.bytes)::bigint AS bytes, min(n.seq) AS first_seq, max(n.seq) AS last_seq
         FROM recado_views.notifications n
        WHERE n.created_at >= d.day AT TIME ZONE 'UTC' AND n.created_at < (d.day + interval '1 day') AT TIME ZONE 'UTC'
        GROUP BY n.type, n.audience) c;

-- What a session was sent: addressed to its user or its accounts, above the place where it began, up to what was sent.
-- Two branches, so that the first is joined by the user's name. What is not replayed, or had expired, when the session
-- began is left out: it was passed over.
CREATE VIEW recado_views.deliveries AS
SELECT d.seq, d.id, d.created_at, d.type, d.title, d.audience, d.user_id, d.client_id, d.session_id, d.transport,
       p.sent_at, a.acked_at,
       -- greatest() alone would make 0 of what is not known.
       CASE WHEN p.sent_at IS NOT NULL THEN greatest(p.sent_at - d.created_at, interval '0') END AS time_to_send,
       CASE WHEN a.acked_at IS NOT NULL AND p.sent_at IS NOT NULL THEN greatest(a.acked_at - p.sent_at, interval '0') END AS time_to_ack
  FROM (SELECT l.seq, l.id, l.created_at, l.type, l.title, CASE WHEN l.topic = 'l' THEN 'users' ELSE 'user' END AS audience,
               u.user_id, s.client_id, s.session_id, s.transport, s.log_id
          FROM recado.log l
         CROSS JOIN LATERAL (SELECT DISTINCT m AS user_id FROM unnest(coalesce(l.user_ids, ARRAY[l.user_id])) m) u
          JOIN recado.session s ON s.user_id = u.user_id AND l.seq > s.from_seq AND l.seq <= s.sent_seq
                               AND (l.account_id IS NULL OR l.account_id = ANY (s.account_ids))
                               AND (l.replay OR l.created_at >= s.connected_at)
                               AND (l.expires_at IS NULL OR l.expires_at > s.connected_at)
         UNION ALL
        SELECT l.seq, l.id, l.created_at, l.type, l.title, CASE WHEN l.topic = '*' THEN 'everyone' ELSE 'account' END,
               s.user_id, s.client_id, s.session_id, s.transport, s.log_id
          FROM recado.log l
          JOIN recado.session s ON l.seq > s.from_seq AND l.seq <= s.sent_seq
                               AND (l.account_id IS NULL OR l.account_id = ANY (s.account_ids))
                               AND (l.replay OR l.created_at >= s.connected_at)
                               AND (l.expires_at IS NULL OR l.expires_at > s.connected_at)
         WHERE l.user_id IS NULL AND l.user_ids IS NULL) d
  JOIN recado.meta m ON m.log_id = d.log_id
  LEFT JOIN LATERAL (SELECT r.sent_at
                       FROM recado.progress r
                      WHERE r.session_id = d.session_id AND r.sent_seq >= d.seq
                      ORDER BY r.sent_seq
                      LIMIT 1) p ON true
  -- Two connections of a device may write side by side, so the lowest number is not always the earliest; but it is
  -- among the first few.
  LEFT JOIN LATERAL (SELECT min(f.acked_at) AS acked_at
                       FROM (SELECT r.acked_at
                               FROM recado.progress r
                              WHERE r.user_id = d.user_id AND r.client_id = d.client_id AND r.log_id = d.log_id AND r.acked_seq >= d.seq
                              ORDER BY r.acked_seq, r.acked_at
                              LIMIT 8) f) a ON true;

CREATE VIEW recado_views.time_to_ack AS
SELECT d.day::date AS day, t.type, t.notifications, t.devices, t.acked,
       round(t.p[1]::numeric, 3) AS p50_seconds, round(t.p[2]::numeric, 3) AS p95_seconds, round(t.p[3]::numeric, 3) AS p99_seconds,
       round(t.p[4]::numeric, 3) AS max_seconds
  FROM generate_series(
       (SELECT date_trunc('day', l.created_at AT TIME ZONE 'UTC') - interval '1 day' FROM recado.log l ORDER BY l.seq LIMIT 1),
       (SELECT date_trunc('day', l.created_at AT TIME ZONE 'UTC') + interval '1 day' FROM recado.log l ORDER BY l.seq DESC LIMIT 1),
       interval '1 day') AS d (day)
 CROSS JOIN LATERAL (
       SELECT f.type, count(DISTINCT f.seq) AS notifications, count(*) AS devices, count(f.acked_at) AS acked,
              percentile_cont(ARRAY[0.5, 0.95, 0.99, 1]) WITHIN GROUP (ORDER BY extract(epoch FROM greatest(f.acked_at - f.sent_at, interval '0')))
              FILTER (WHERE f.acked_at IS NOT NULL AND f.sent_at IS NOT NULL) AS p
         FROM (SELECT v.seq, v.type, v.user_id, v.client_id, min(v.sent_at) AS sent_at, min(v.acked_at) AS acked_at
                 FROM recado_views.deliveries v
                WHERE v.created_at >= d.day AT TIME ZONE 'UTC' AND v.created_at < (d.day + interval '1 day') AT TIME ZONE 'UTC'
                GROUP BY v.seq, v.type, v.user_id, v.client_id) f
        GROUP BY f.type) t;

-- For each device its addresses, as its user's last session had them, and on each what lies above its place: an index
-- scan in order that stops at 10,000, so that a device that was away for a year costs no more than that.
CREATE VIEW recado_views.unacked AS
SELECT c.user_id, c.client_id, c.acked_seq, u.unacked, u.oldest_seq, u.oldest_at AS since, u.oldest_type, u.oldest_title
  FROM recado.cursor c
  JOIN recado.meta m ON m.log_id = c.log_id
 CROSS JOIN LATERAL (
       SELECT coalesce((SELECT s.account_ids FROM recado.session s
                         WHERE s.user_id = c.user_id AND s.client_id = c.client_id
                         ORDER BY s.connected_at DESC LIMIT 1), '{}') AS account_ids OFFSET 0) s
 CROSS JOIN LATERAL (
       SELECT count(*) AS unacked, min(b.seq) AS oldest_seq, (array_agg(b.created_at ORDER BY b.seq))[1] AS oldest_at,
              (array_agg(b.type ORDER BY b.seq))[1] AS oldest_type, (array_agg(b.title ORDER BY b.seq))[1] AS oldest_title
         FROM (SELECT '*' AS topic
                UNION ALL SELECT 'u/' || c.user_id
                UNION ALL SELECT 'a/' || a FROM unnest(s.account_ids) a
                UNION ALL SELECT 'u/' || c.user_id || '/' || a FROM unnest(s.account_ids) a) t
        CROSS JOIN LATERAL (
              (SELECT l.seq, l.created_at, l.type, l.title
                 FROM recado.log l
                WHERE l.topic = t.topic AND l.replay AND l.topic <> 'l' AND l.seq > c.acked_seq AND (l.expires_at IS NULL OR l.expires_at > now())
                ORDER BY l.seq
                LIMIT 10000)
              UNION ALL
              (SELECT l.seq, l.created_at, l.type, l.title
                 FROM recado.log_member b
                CROSS JOIN LATERAL (SELECT * FROM recado.log x WHERE x.seq = b.seq LIMIT 1) l
                WHERE b.topic = t.topic AND b.seq > c.acked_seq AND (l.expires_at IS NULL OR l.expires_at > now())
                ORDER BY b.seq
                LIMIT 10000)) b) u
 WHERE u.unacked > 0;

-- The comments: each line is view, column (NULL: the view itself), text.
DO $$
DECLARE
    c record;
BEGIN
    FOR c IN SELECT * FROM (VALUES
        ('log', NULL, 'One row: the log as a whole.'),
        ('log', 'log_id', 'The name of this history. It changes when the database was restored to an earlier state; numbers of two histories must not be mixed.'),
        ('log', 'log_started_at', 'When this history began.'),
        ('log', 'earliest_seq', 'The lowest number that retention has left.'),
        ('log', 'earliest_at', 'When the earliest notification was appended; NULL in an empty log.'),
        ('log', 'dropped', 'How many notifications retention has dropped: numbers have no holes, so it is also the highest number that is gone.'),
        ('log', 'head_seq', 'The highest number.'),
        ('log', 'head_at', 'When the newest notification was appended; NULL in an empty log.'),
        ('notifications', NULL, 'Every notification that is kept, one row each. Ask with a range of seq or of created_at: both are indexed.'),
        ('notifications', 'seq', 'Its number: 1, 2, 3 … without a hole, in the order of the commits. Who has seen N never sees a lower one appear.'),
        ('notifications', 'id', 'Its id, as clients are told it.'),
        ('notifications', 'created_at', 'When it was appended, by the clock of the database.'),
        ('notifications', 'type', 'What kind of notification, as the service called it.'),
        ('notifications', 'title', 'Its title.'),
        ('notifications', 'message', 'Its message.'),
        ('notifications', 'data', 'Its data as JSON, byte for byte as posted; NULL when there is none. recado_views.text_of, number_of and integer_of read it safely.'),
        ('notifications', 'audience', 'Whom it is for: everyone, account, user, or users (a list).'),
        ('notifications', 'address', 'The same as one address: * everyone, a/ACCOUNT, u/USER, u/USER/ACCOUNT (that user in that account only), l for a list.'),
        ('notifications', 'user_id', 'The one user it is for; NULL for other audiences.'),
        ('notifications', 'account_id', 'The account it is for, or to which its users are narrowed; NULL when any.'),
        ('notifications', 'user_ids', 'The users of a list; NULL for other audiences.'),
        ('notifications', 'source', 'The service that posted it: the name of its key, or the source of a CloudEvent.'),
        ('notifications', 'replay', 'False: only those who were connected got it.'),
        ('notifications', 'expires_at', 'From then on it is not given to a client that resumes; NULL: never.'),
        ('notifications', 'is_expired', 'Whether that time has passed.'),
        ('notifications', 'bytes', 'The size of title, message and data.'),
        ('recipients', NULL, 'Whom each notification names: one row a user of a list, one row for an account or for everyone. Ask with a range of seq or created_at.'),
        ('recipients', 'seq', 'The number of the notification.'),
        ('recipients', 'created_at', 'When it was appended.'),
        ('recipients', 'type', 'Its type.'),
        ('recipients', 'title', 'Its title.'),
        ('recipients', 'recipient', 'What this row names: user, account or everyone.'),
        ('recipients', 'user_id', 'The user; NULL for an account or everyone.'),
        ('recipients', 'account_id', 'The account; beside a user, the account to which it is narrowed. NULL: any.'),
        ('inbox', NULL, 'What is kept under an address, for readers that resume: the fast way to one user in a large log. WHERE address IN (''*'', ''u/42'', ''a/7'', ''u/42/7'') is what user 42 in account 7 is given. What is never replayed is not here.'),
        ('inbox', 'address', '* everyone, a/ACCOUNT, u/USER, u/USER/ACCOUNT. A notification to a list stands here once for each of its users.'),
        ('inbox', 'seq', 'The number of the notification.'),
        ('inbox', 'id', 'Its id.'),
        ('inbox', 'created_at', 'When it was appended.'),
        ('inbox', 'type', 'Its type.'),
        ('inbox', 'title', 'Its title.'),
        ('inbox', 'message', 'Its message.'),
        ('inbox', 'data', 'Its data as JSON.'),
        ('inbox', 'expires_at', 'From then on it is not given to a client that resumes; NULL: never.'),
        ('sessions', NULL, 'Every connection, as a fact: who, where, from when to when, how far. Retention drops ended ones in time, if told to.'),
        ('sessions', 'session_id', 'The connection''s id, as its client was told it.'),
        ('sessions', 'user_id', 'The user.'),
        ('sessions', 'account_ids', 'The user''s accounts, by the token of this connection.'),
        ('sessions', 'client_id', 'The device.'),
        ('sessions', 'transport', 'How: websocket, sse, ….'),
        ('sessions', 'instance_id', 'The hub that it was connected to.'),
        ('sessions', 'from_seq', 'The place where it began: what is above was to be sent.'),
        ('sessions', 'sent_seq', 'How far it was sent.'),
        ('sessions', 'acked_seq', 'How far it has acknowledged.'),
        ('sessions', 'connected_at', 'When it began.'),
        ('sessions', 'last_activity_at', 'When it was last heard of.'),
        ('sessions', 'ended_at', 'When it ended; NULL while it lives.'),
        ('sessions', 'end_reason', 'Why it ended; NULL while it lives.'),
        ('sessions', 'is_live', 'Whether it is connected now.'),
        ('sessions', 'lasted', 'How long it lasted, or has lasted until it was last heard of.'),
        ('sessions', 'is_of_this_log', 'False for one of a former history, whose numbers mean nothing today.'),
        ('devices', NULL, 'Every device that ever connected, one row each: its place, how far behind it is, when it last acknowledged.'),
        ('devices', 'user_id', 'The user.'),
        ('devices', 'client_id', 'The device.'),
        ('devices', 'acked_seq', 'Its place: everything up to here is acknowledged. NULL when the place is one of a former history.'),
        ('devices', 'head_seq', 'The highest number of the log.'),
        ('devices', 'lag', 'How many numbers lie between: of all notifications, for whomever they are. See unacked for what is its own.'),
        ('devices', 'last_acked_at', 'When it last acknowledged; NULL: never.'),
        ('devices', 'first_seen_at', 'When it first connected.'),
        ('devices', 'last_seen_at', 'When it was last heard of, in the sessions that are kept.'),
        ('devices', 'is_connected', 'Whether it is connected now.'),
        ('devices', 'dropped', 'How many numbers above its place retention has dropped: it will be told a gap.'),
        ('daily_counts', NULL, 'Notifications by day, type and audience. A condition on day is fast.'),
        ('daily_counts', 'day', 'The day, in UTC.'),
        ('daily_counts', 'type', 'The type.'),
        ('daily_counts', 'audience', 'everyone, account, user or users.'),
        ('daily_counts', 'notifications', 'How many were appended.'),
        ('daily_counts', 'bytes', 'The size of their titles, messages and data.'),
        ('daily_counts', 'first_seq', 'The lowest number among them.'),
        ('daily_counts', 'last_seq', 'The highest number among them.'),
        ('deliveries', NULL, 'What each connection was sent: a row a notification and session. One that was sent again after a break has two rows. Ask with a range of seq or created_at. Times come from records that are written about once a second: exact for the last of a burst, at most one record late for those before it, never early.'),
        ('deliveries', 'seq', 'The number of the notification.'),
        ('deliveries', 'id', 'Its id.'),
        ('deliveries', 'created_at', 'When it was appended.'),
        ('deliveries', 'type', 'Its type.'),
        ('deliveries', 'title', 'Its title.'),
        ('deliveries', 'audience', 'everyone, account, user or users.'),
        ('deliveries', 'user_id', 'To whom it was sent.'),
        ('deliveries', 'client_id', 'To which device.'),
        ('deliveries', 'session_id', 'Over which connection; join sessions for more.'),
        ('deliveries', 'transport', 'How: websocket, sse, ….'),
        ('deliveries', 'sent_at', 'When it was sent; NULL when the record of it is gone or not written yet.'),
        ('deliveries', 'acked_at', 'When the device acknowledged it, over any connection; NULL: not yet.'),
        ('deliveries', 'time_to_send', 'From the append to the sending.'),
        ('deliveries', 'time_to_ack', 'From the sending to the acknowledgement.'),
        ('time_to_ack', NULL, 'How long devices took to acknowledge, by day and type: from the first sending to the first acknowledgement. A condition on day is fast.'),
        ('time_to_ack', 'day', 'The day of the append, in UTC.'),
        ('time_to_ack', 'type', 'The type.'),
        ('time_to_ack', 'notifications', 'How many notifications were sent to somebody.'),
        ('time_to_ack', 'devices', 'How many devices they were sent to, added up over the notifications.'),
        ('time_to_ack', 'acked', 'How many of those have acknowledged.'),
        ('time_to_ack', 'p50_seconds', 'Half of those took no longer.'),
        ('time_to_ack', 'p95_seconds', '95 in 100 took no longer.'),
        ('time_to_ack', 'p99_seconds', '99 in 100 took no longer.'),
        ('time_to_ack', 'max_seconds', 'The longest.'),
        ('unacked', NULL, 'Devices with notifications of their own that they have not acknowledged. What is never replayed or has expired does not count. Accounts are those of the device''s last session.'),
        ('unacked', 'user_id', 'The user.'),
        ('unacked', 'client_id', 'The device.'),
        ('unacked', 'acked_seq', 'Its place: everything up to here is acknowledged.'),
        ('unacked', 'unacked', 'How many wait; each address is counted up to 10,000.'),
        ('unacked', 'oldest_seq', 'The oldest of them.'),
        ('unacked', 'since', 'Since when it waits.'),
        ('unacked', 'oldest_type', 'Its type.'),
        ('unacked', 'oldest_title', 'Its title.')
    ) AS v (name, col, said) LOOP
        IF c.col IS NULL THEN
            EXECUTE format('COMMENT ON VIEW recado_views.%I IS %L', c.name, c.said);
        ELSE
            EXECUTE format('COMMENT ON COLUMN recado_views.%I.%I IS %L', c.name, c.col, c.said);
        END IF;
    END LOOP;
END $$;

-- The eleven types of the hub that Recado replaces, a view each. A line is type, column, how it is read from the field of
-- data with the same name, comment. Nobody is held to these fields: what a notification does not have is NULL.
DO $$
DECLARE
    t record;
    c record;
    fields constant jsonb := '[
        ["connection_established", "client_id", "text", "The device that connected."],
        ["connection_established", "session_id", "text", "The connection."],
        ["order_created", "order_id", "text", "The order."],
        ["order_created", "customer_id", "text", "Who ordered."],
        ["order_created", "total", "number", "What it costs."],
        ["order_created", "currency", "text", "In which currency."],
        ["order_created", "items", "integer", "How many items."],
        ["payment_confirmed", "payment_id", "text", "The payment."],
        ["payment_confirmed", "order_id", "text", "The order that was paid."],
        ["payment_confirmed", "amount", "number", "How much."],
        ["payment_confirmed", "currency", "text", "In which currency."],
        ["payment_confirmed", "method", "text", "How it was paid."],
        ["order_updated", "order_id", "text", "The order."],
        ["order_updated", "status", "text", "Its state now."],
        ["order_updated", "previous_status", "text", "Its state before."],
        ["stock_alert", "product_id", "text", "The product."],
        ["stock_alert", "sku", "text", "Its number in stock."],
        ["stock_alert", "quantity", "number", "How much is left."],
        ["stock_alert", "threshold", "number", "Below how much there is an alert."],
        ["cart_updated", "cart_id", "text", "The cart."],
        ["cart_updated", "items", "integer", "How many items are in it."],
        ["cart_updated", "total", "number", "What they cost."],
        ["cart_updated", "currency", "text", "In which currency."],
        ["product_added", "product_id", "text", "The product."],
        ["product_added", "sku", "text", "Its number in stock."],
        ["product_added", "name", "text", "Its name."],
        ["product_added", "price", "number", "Its price."],
        ["product_added", "currency", "text", "In which currency."],
        ["product_updated", "product_id", "text", "The product."],
        ["product_updated", "sku", "text", "Its number in stock."],
        ["product_updated", "name", "text", "Its name."],
        ["product_updated", "price", "number", "Its price now."],
        ["product_updated", "currency", "text", "In which currency."],
        ["product_deleted", "product_id", "text", "The product."],
        ["product_deleted", "sku", "text", "Its number in stock."],
        ["product_deleted", "name", "text", "Its name."],
        ["transaction_created", "transaction_id", "text", "The transaction."],
        ["transaction_created", "amount", "number", "How much."],
        ["transaction_created", "currency", "text", "In which currency."],
        ["transaction_created", "status", "text", "Its state."],
        ["profile_updated", "profile_id", "text", "Whose profile."],
        ["profile_updated", "field", "text", "What was changed."]
    ]';
BEGIN
    FOR t IN SELECT f.value ->> 0 AS name, string_agg(format('recado_views.%s_of(n.data, %L) AS %I', f.value ->> 2, f.value ->> 1, f.value ->> 1), ', ' ORDER BY f.ordinality) AS columns
               FROM jsonb_array_elements(fields) WITH ORDINALITY f GROUP BY 1 LOOP
        EXECUTE format('CREATE VIEW recado_views.%1$I AS
            SELECT n.seq, n.id, n.created_at, n.audience, n.user_id, n.account_id, n.user_ids, %2$s, n.title, n.message, n.data
              FROM recado_views.notifications n WHERE n.type = %1$L', t.name, t.columns);
        EXECUTE format('COMMENT ON VIEW recado_views.%I IS %L', t.name,
            format('Notifications of the type %s, with the fields of their data as columns. A field that is missing or not of the expected kind is NULL.', t.name));
        FOR c IN SELECT a.attname, d.description
                   FROM pg_attribute a
                   JOIN pg_attribute o ON o.attrelid = 'recado_views.notifications'::regclass AND o.attname = a.attname
                   JOIN pg_description d ON d.objoid = o.attrelid AND d.objsubid = o.attnum
                  WHERE a.attrelid = format('recado_views.%I', t.name)::regclass LOOP
            EXECUTE format('COMMENT ON COLUMN recado_views.%I.%I IS %L', t.name, c.attname, c.description);
        END LOOP;
    END LOOP;
    FOR c IN SELECT f ->> 0 AS name, f ->> 1 AS col, f ->> 3 AS said FROM jsonb_array_elements(fields) f LOOP
        EXECUTE format('COMMENT ON COLUMN recado_views.%I.%I IS %L', c.name, c.col, c.said);
    END LOOP;
END $$;

REVOKE ALL ON ALL TABLES IN SCHEMA recado_views FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA recado_views FROM PUBLIC;

-- The role that may read the views, and nothing of the schema recado. Also called by create_analyst: on a database whose
-- migrating user could make no roles, the first one who can makes up for it.
CREATE FUNCTION recado.equip_analysts() RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    BEGIN
        IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'recado_analyst') THEN
            CREATE ROLE recado_analyst NOLOGIN;
        END IF;
    EXCEPTION
        -- Another database of the cluster is doing the same.
        WHEN duplicate_object OR unique_violation THEN NULL;
    END;
    GRANT USAGE ON SCHEMA recado_views TO recado_analyst;
    GRANT SELECT ON ALL TABLES IN SCHEMA recado_views TO recado_analyst;
    GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA recado_views TO recado_analyst;
END $$;

-- Makes a login of an analyst. The settings hold for each of its sessions and keep a mistake from holding others up; who
-- means harm can lift most of them. What the caller may not set is left out and returned. One that this server does not
-- know is left out as well (transaction_timeout came with PostgreSQL 17).
CREATE FUNCTION recado.create_analyst(p_name text, p_password text) RETURNS text[]
LANGUAGE plpgsql AS $$
DECLARE
    s       record;
    left_out text[] := '{}';
BEGIN
    PERFORM recado.equip_analysts();
    EXECUTE format('CREATE ROLE %I LOGIN PASSWORD %L CONNECTION LIMIT 5 IN ROLE recado_analyst', p_name, p_password);
    EXECUTE format('COMMENT ON ROLE %I IS %L', p_name, 'recado analyst');
    FOR s IN SELECT * FROM (VALUES
        ('default_transaction_read_only', 'on'),
        -- Retention waits for old readers, and an append for nobody: these say how long.
        ('statement_timeout', '30s'),
        ('transaction_timeout', '60s'),
        ('idle_in_transaction_session_timeout', '10s'),
        ('idle_session_timeout', '30min'),
        -- Behind a lock that is waited for, others queue.
        ('lock_timeout', '1s'),
        ('work_mem', '32MB'),
        ('temp_file_limit', '2GB'),
        ('max_parallel_workers_per_gather', '1'),
        ('search_path', 'recado_views'),
        ('TimeZone', 'UTC')
    ) AS v (name, value) LOOP
        CONTINUE WHEN NOT EXISTS (SELECT FROM pg_catalog.pg_settings g WHERE lower(g.name) = lower(s.name));
        BEGIN
            EXECUTE format('ALTER ROLE %I SET %I = %L', p_name, s.name, s.value);
        EXCEPTION
            WHEN insufficient_privilege THEN left_out := left_out || s.name;
        END;
    END LOOP;
    BEGIN
        EXECUTE format('GRANT CONNECT ON DATABASE %I TO recado_analyst', current_database());
    EXCEPTION
        WHEN insufficient_privilege THEN NULL;  -- everybody may connect, unless somebody has changed that
    END;
    RETURN left_out;
END $$;

-- Ends an analyst's sessions and drops the login. False: there is none that create_analyst made.
CREATE FUNCTION recado.drop_analyst(p_name text) RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles r
                    WHERE r.rolname = p_name AND r.rolcanlogin AND shobj_description(r.oid, 'pg_authid') = 'recado analyst') THEN
        RETURN false;
    END IF;
    BEGIN
        PERFORM pg_terminate_backend(a.pid, 5000) FROM pg_catalog.pg_stat_activity a WHERE a.usename = p_name;
    EXCEPTION
        WHEN insufficient_privilege THEN NULL;  -- they run out of rights instead
    END;
    EXECUTE format('DROP ROLE %I', p_name);
    RETURN true;
END $$;

REVOKE ALL ON FUNCTION recado.equip_analysts(), recado.create_analyst(text, text), recado.drop_analyst(text) FROM PUBLIC;

DO $$
BEGIN
    PERFORM recado.equip_analysts();
EXCEPTION
    WHEN insufficient_privilege THEN NULL;
END $$;
