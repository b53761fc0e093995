-- Stores which users belong to which accounts, as intervals of the log's numbers.

-- A membership change is a row of the log: type `recado_member`, topic `u/-`, which no connection has, and data
-- {"op":"add"|"remove","user_id":…,"account_id":…}. So it has a number, is in order with all notifications, and reaches
-- every hub. A user in an account receives the rows above `since_seq` and below `until_seq`.
CREATE TABLE recado.member (
    user_id    text   NOT NULL,
    account_id text   NOT NULL,
    since_seq  bigint NOT NULL,
    until_seq  bigint,
    PRIMARY KEY (user_id, account_id, since_seq),
    CONSTRAINT interval_is_not_reversed CHECK (until_seq > since_seq)
);
COMMENT ON TABLE recado.member IS 'Which user belonged to which account between which numbers. Written by a trigger of recado.log alone.';
-- Serves the list of an account's members, and keeps one open interval for each user and account.
CREATE UNIQUE INDEX member_open ON recado.member (account_id, user_id) WHERE until_seq IS NULL;
-- Serves retention: "the intervals that end at the floor or below".
CREATE INDEX member_closed ON recado.member (until_seq) WHERE until_seq IS NOT NULL;
REVOKE ALL ON recado.member FROM PUBLIC;

-- Whether the accounts of recado.member count for this connection, in addition to account_ids.
ALTER TABLE recado.session ADD COLUMN follows_members boolean NOT NULL DEFAULT false;

-- The types that the client of this connection asked for, as in its query; NULL: all, or not known of a hub of an
-- earlier version.
ALTER TABLE recado.session ADD COLUMN types text;

-- Whether a client that asked for these types receives this one (src/wire/type_filter.rs).
CREATE FUNCTION recado_views.takes(types text, type text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT pg_catalog.starts_with(type, 'upstream_') OR EXISTS (
        SELECT FROM pg_catalog.unnest(pg_catalog.string_to_array(types, ',')) AS t (pattern)
         WHERE CASE WHEN pg_catalog.right(pattern, 1) OPERATOR(pg_catalog.=) '*'
                    THEN pg_catalog.starts_with(type, pg_catalog.left(pattern, -1)) ELSE pattern OPERATOR(pg_catalog.=) type END);
$$;
COMMENT ON FUNCTION recado_views.takes(text, text) IS 'Whether a client that asked for these types receives notifications of this type.';
REVOKE ALL ON FUNCTION recado_views.takes(text, text) FROM PUBLIC;

-- Applies a membership change in the transaction that appends its row, whichever function appends it. A row that is not
-- such a change has no effect: hubs of an earlier version do not refuse the type in a post.
CREATE FUNCTION recado.apply_member_change() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    op      constant text := new.data ->> 'op';
    who     constant text := new.data ->> 'user_id';
    account constant text := new.data ->> 'account_id';
    an_id   constant text := '^[A-Za-z0-9._:|@+=~-]{1,128}$';
BEGIN
    IF (who COLLATE "C" ~ an_id AND who <> '-' AND account COLLATE "C" ~ an_id) IS NOT TRUE THEN
        RETURN NULL;
    END IF;
    IF op = 'add' THEN
        INSERT INTO recado.member AS m (user_id, account_id, since_seq) VALUES (who, account, new.seq)
            ON CONFLICT (account_id, user_id) WHERE until_seq IS NULL DO NOTHING;
    ELSIF op = 'remove' THEN
        UPDATE recado.member m SET until_seq = new.seq
         WHERE m.user_id = who AND m.account_id = account AND m.until_seq IS NULL;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER log_changes_members AFTER INSERT ON recado.log
    FOR EACH ROW WHEN (new.type = 'recado_member' AND new.topic = 'u/-') EXECUTE FUNCTION recado.apply_member_change();

-- Keeps the intervals within the log. Retention drops the rows of closed intervals: the intervals go too. A log that
-- lost its end starts over under a new id: intervals that begin or end behind its head are shortened to the head.
CREATE FUNCTION recado.keep_members_in_log() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    head bigint;
BEGIN
    IF new.floor_seq > old.floor_seq THEN
        DELETE FROM recado.member m WHERE m.until_seq <= new.floor_seq + 1;
    END IF;
    IF new.log_id <> old.log_id THEN
        SELECT greatest(new.floor_seq, coalesce((SELECT l.seq FROM recado.log l ORDER BY l.seq DESC LIMIT 1), 0)) INTO head;
        DELETE FROM recado.member m WHERE m.until_seq IS NOT NULL AND m.since_seq >= head;
        UPDATE recado.member m SET until_seq = head + 1 WHERE m.until_seq > head + 1;
        UPDATE recado.member m SET since_seq = head WHERE m.since_seq > head;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER members_stay_in_log AFTER UPDATE OF floor_seq, log_id ON recado.meta
    FOR EACH ROW EXECUTE FUNCTION recado.keep_members_in_log();

-- Writes a change into the outbox. The transaction's later notifications to the account follow it in the log.
CREATE FUNCTION recado.change_member(p_op text, p_user_id text, p_account_id text) RETURNS uuid
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
    said := format('{"op":"%s","user_id":"%s","account_id":"%s"}', p_op, p_user_id, p_account_id);
    INSERT INTO recado.outbox AS o (place, slot, xid, at, id, type, title, message, data, topic, user_id, replay, source, body, bytes)
    SELECT p.place, (p.place / 16384) % 4, pg_current_xact_id(), clock_timestamp(), recado.new_id(), 'recado_member', '', '', said,
           'u/-', '-', false, session_user, 0, octet_length(said)
      FROM (SELECT nextval('recado.outbox_place') AS place) p
    RETURNING o.id INTO id;
    RETURN id;
END $$;

-- The user receives what is addressed to the account from the change on, and nothing from before. Adding a member
-- again has no effect. Returns the id of the change's row.
CREATE FUNCTION recado.add_member(user_id text, account_id text) RETURNS uuid
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT recado.change_member('add', user_id, account_id);
$$;

-- The user receives nothing that is addressed to the account after the change. Removing a user who is not a member has
-- no effect. Returns the id of the change's row.
CREATE FUNCTION recado.remove_member(user_id text, account_id text) RETURNS uuid
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT recado.change_member('remove', user_id, account_id);
$$;

-- As in V14, for a connection to which the accounts of recado.member count. Hubs of an earlier version call the other.
CREATE FUNCTION recado.connection_begin(
    p_user_id text, p_client_id text, p_log_id uuid, p_start bigint,
    p_session_id uuid, p_instance_id uuid, p_account_ids text[], p_transport text, p_follows_members boolean)
RETURNS TABLE (
    log_id uuid, acked_seq bigint, is_new boolean, is_forgotten boolean,
    session_id uuid, instance_id uuid, session_log_id uuid, from_seq bigint, own_acked_seq bigint, device_seq bigint,
    shared_seq bigint, has_resumed boolean, lowered smallint, end_reason text,
    began_age bigint, active_age bigint, ended_age bigint, gone_age bigint, began_shared boolean)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
        SELECT * FROM recado.connection_begin(p_user_id, p_client_id, p_log_id, p_start, p_session_id, p_instance_id, p_account_ids, p_transport);
    IF p_follows_members THEN
        UPDATE recado.session s SET follows_members = true WHERE s.session_id = p_session_id AND NOT s.follows_members;
    END IF;
END $$;

-- Erases a user's membership: the intervals, and the changes that wait in the outbox. The changes in the log become
-- tombstones (recado.erase_member_changes). Returns how many rows were erased here.
CREATE FUNCTION recado.erase_members(p_user_id text) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    n     bigint;
    total bigint := 0;
BEGIN
    DELETE FROM recado.outbox o WHERE o.type = 'recado_member' AND o.topic = 'u/-' AND strpos(o.data, format('"user_id":"%s"', p_user_id)) > 0;
    GET DIAGNOSTICS n = ROW_COUNT; total := total + n;
    DELETE FROM recado.member m WHERE m.user_id = p_user_id;
    GET DIAGNOSTICS n = ROW_COUNT; total := total + n;
    RETURN total;
END $$;

-- Makes tombstones of a user's membership changes above `p_after` and up to `p_upto`. Returns how many.
CREATE FUNCTION recado.erase_member_changes(p_user_id text, p_after bigint, p_upto bigint) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    erased uuid[];
BEGIN
    PERFORM set_config('recado.forgetting', 'on', true);
    WITH gone AS (
        UPDATE recado.log l
           SET type = 'erased', data = NULL, title = '', message = '', bytes = 0
         WHERE l.seq > p_after AND l.seq <= p_upto
           AND CASE WHEN l.type = 'recado_member' AND l.topic = 'u/-' THEN l.data ->> 'user_id' = p_user_id ELSE false END
        RETURNING l.id)
    SELECT coalesce(array_agg(g.id), '{}') INTO erased FROM gone g;
    PERFORM set_config('recado.forgetting', 'off', true);
    -- What was moved lies in the outbox until its part is emptied.
    DELETE FROM recado.outbox o WHERE o.id = ANY (erased);
    RETURN cardinality(erased);
END $$;

REVOKE ALL ON FUNCTION recado.apply_member_change(), recado.keep_members_in_log(), recado.change_member(text, text, text),
    recado.add_member(text, text), recado.remove_member(text, text), recado.erase_members(text),
    recado.erase_member_changes(text, bigint, bigint),
    recado.connection_begin(text, text, uuid, bigint, uuid, uuid, text[], text, boolean) FROM PUBLIC;

-- The views judge by the intervals where a connection follows them.
CREATE OR REPLACE VIEW recado_views.sessions AS
SELECT s.session_id, s.user_id, s.account_ids, s.client_id, s.transport, s.instance_id, s.from_seq, s.sent_seq, s.acked_seq,
       s.connected_at, s.last_activity_at, s.ended_at, s.end_reason, s.ended_at IS NULL AS is_live,
       coalesce(s.ended_at, s.last_activity_at) - s.connected_at AS lasted, s.log_id = m.log_id AS is_of_this_log, s.follows_members,
       s.types
  FROM recado.session s
 CROSS JOIN recado.meta m;

-- As in V6, but for members of accounts, and for the types that a connection asked for.
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

-- As in V6, but that each address has a range of numbers: an account of recado.member counts within its interval. What
-- the device's last connection did not ask for counts as acknowledged.
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

CREATE VIEW recado_views.members AS
SELECT m.user_id, m.account_id, m.since_seq, b.created_at AS since_at, m.until_seq, e.created_at AS until_at,
       m.until_seq IS NULL AS is_member
  FROM recado.member m
  LEFT JOIN LATERAL (SELECT l.created_at FROM recado.log l WHERE l.seq = m.since_seq LIMIT 1) b ON true
  LEFT JOIN LATERAL (SELECT l.created_at FROM recado.log l WHERE l.seq = m.until_seq LIMIT 1) e ON true;
REVOKE ALL ON recado_views.members FROM PUBLIC;

COMMENT ON VIEW recado_views.members IS 'Which user belonged to which account, one row an interval. Kept while the account''s rows of that time are kept.';
COMMENT ON COLUMN recado_views.members.user_id IS 'The user.';
COMMENT ON COLUMN recado_views.members.account_id IS 'The account.';
COMMENT ON COLUMN recado_views.members.since_seq IS 'The number of the change that added the user. Notifications to the account above it are the user''s.';
COMMENT ON COLUMN recado_views.members.since_at IS 'When the user was added; NULL when retention has dropped the change.';
COMMENT ON COLUMN recado_views.members.until_seq IS 'The number of the change that removed the user; NULL while the user is a member.';
COMMENT ON COLUMN recado_views.members.until_at IS 'When the user was removed; NULL while the user is a member.';
COMMENT ON COLUMN recado_views.members.is_member IS 'Whether the user is a member now.';
COMMENT ON COLUMN recado_views.sessions.follows_members IS 'Whether the accounts of the view members count as well, each within its interval.';
COMMENT ON COLUMN recado_views.sessions.types IS 'The types that the client asked for, separated by commas; NULL: all.';
COMMENT ON COLUMN recado_views.sessions.account_ids IS 'The user''s accounts, by the token of this connection.';

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'recado_hub') THEN
        GRANT SELECT ON recado.member TO recado_hub;
        GRANT EXECUTE ON FUNCTION recado.connection_begin(text, text, uuid, bigint, uuid, uuid, text[], text, boolean) TO recado_hub;
    END IF;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'recado_analyst') THEN
        GRANT SELECT ON recado_views.members TO recado_analyst;
        GRANT EXECUTE ON FUNCTION recado_views.takes(text, text) TO recado_analyst;
    END IF;
EXCEPTION
    WHEN insufficient_privilege THEN NULL;
END $$;
