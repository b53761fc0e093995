-- Lets an analyst's login read the rows of some accounts only. Such a login is a tenant.
--
-- A tenant reads the schema recado_tenant, which has the views of recado_views under the same names, and has no right
-- to recado_views. So a view that a later migration adds to recado_views is hidden from tenants until it gets a twin
-- here.
--
-- Views, not row-level security: RLS asks for the rights of a view's owner, and a superuser has no rows hidden. After
-- `pg_restore --no-owner` every view would show everything. The condition of a view is part of the view.
--
-- A tenant may write its own functions and operators, and PostgreSQL may call these before the condition of a view. Two
-- means keep other rows from them:
-- 1. Masks, for the log and the commands. Each column but seq and the time of the row is NULL unless the row is the
--    tenant's. Conditions on seq and the time still reach the partitions and the indexes. A security_barrier view would
--    stop ORDER BY seq LIMIT n and joins at its border. Masks also hide statistics: EXPLAIN guesses about an
--    expression.
-- 2. A fence (`OFFSET 0` in a security_barrier view), for the smaller tables. No condition goes below it, so EXPLAIN
--    ANALYZE cannot count the rows of another user.

-- The accounts of each tenant. A tenant without a row here sees nothing.
-- login has the collation of session_user, so the views find its rows by the index. EXPLAIN ANALYZE of a scan would
-- tell how many accounts other tenants have.
CREATE TABLE recado.analyst_account (
    login      text COLLATE "C" NOT NULL,
    account_id text NOT NULL CONSTRAINT account_is_an_id CHECK (account_id COLLATE "C" ~ '^[A-Za-z0-9._:|@+=~-]{1,128}$'),
    PRIMARY KEY (login, account_id)
);
COMMENT ON TABLE recado.analyst_account IS 'Which accounts the login of a tenant may see. Written by recado.limit_to_accounts and recado.drop_analyst.';
REVOKE ALL ON recado.analyst_account FROM PUBLIC;

CREATE SCHEMA recado_tenant;
COMMENT ON SCHEMA recado_tenant IS 'The views of recado_views for tenants: each shows only what belongs to the accounts of the login.';

-- The views differ from those of recado_views in their conditions. Placeholders:
--   {accounts}  the accounts of the login, an array; empty for other logins. session_user, because SET ROLE and
--               functions with the rights of their owner change current_user.
--   {log}       the log with the column `ok`: the row goes to an account of the login, or to everyone.
--   {mine}      the session `s` had one of the accounts: by its token, or by a membership that overlaps it.
--   {now}       the session `s`, the last one of a device or user, has one of the accounts now.
DO $$
DECLARE
    accounts constant text := 'ARRAY(SELECT t.account_id FROM recado.analyst_account t WHERE t.login = session_user::text)';
    log      constant text := '(SELECT x.*, CASE x.topic WHEN ''*'' THEN ''*'' ELSE x.account_id END = ANY (
                                   (SELECT CASE WHEN count(*) > 0 THEN array_append(array_agg(t.account_id), ''*'') END
                                      FROM recado.analyst_account t WHERE t.login = session_user::text)::text[]) AS ok
                                  FROM recado.log x)';
    mine     constant text := '(s.account_ids && {accounts}
                                OR s.follows_members AND s.log_id = (SELECT e.log_id FROM recado.meta e) AND EXISTS (
                                   SELECT FROM recado.member b
                                    WHERE b.user_id = s.user_id AND b.account_id = ANY ({accounts})
                                      AND (b.since_seq < s.sent_seq OR s.ended_at IS NULL)
                                      AND (b.until_seq IS NULL OR b.until_seq > s.from_seq)))';
    now_has  constant text := '(s.account_ids && {accounts}
                                OR s.follows_members AND EXISTS (
                                   SELECT FROM recado.member b
                                    WHERE b.user_id = s.user_id AND b.account_id = ANY ({accounts}) AND b.until_seq IS NULL))';
    -- Whether the session `s` was sent the row `l`. The row goes to one account, or to everyone: then any account of
    -- the login counts.
    hit      constant text := '(SELECT l.ok AND (s.types IS NULL OR recado_views.takes(s.types, l.type)) AND (s.account_ids && o.accounts OR s.follows_members AND EXISTS (
                                       SELECT FROM recado.member b
                                        WHERE b.user_id = s.user_id AND b.account_id = ANY (o.accounts) AND b.since_seq < l.seq
                                          AND (b.until_seq IS NULL OR b.until_seq > l.seq))) AS ok
                                  FROM (SELECT CASE WHEN l.account_id IS NULL THEN {accounts} ELSE ARRAY[l.account_id] END AS accounts OFFSET 0) o OFFSET 0)';
    v        record;
    c        record;
    path     constant text := current_setting('search_path');
BEGIN
    FOR v IN SELECT * FROM (VALUES
        ('log', '', 'SELECT g.* FROM recado_views.log g WHERE cardinality({accounts}) > 0'),
        ('notifications', '', $sql$
            SELECT l.seq, CASE WHEN l.ok THEN l.id END AS id, l.created_at, CASE WHEN l.ok THEN l.type END AS type,
                   CASE WHEN l.ok THEN l.title END AS title, CASE WHEN l.ok THEN l.message END AS message,
                   CASE WHEN l.ok THEN recado_views.jsonb_of(l.data) END AS data,
                   CASE WHEN l.ok THEN CASE WHEN l.topic = '*' THEN 'everyone' WHEN l.topic = 'l' THEN 'users'
                                            WHEN l.user_id IS NULL THEN 'account' ELSE 'user' END END AS audience,
                   CASE WHEN l.ok THEN l.topic END AS address, CASE WHEN l.ok THEN l.user_id END AS user_id,
                   CASE WHEN l.ok THEN l.account_id END AS account_id, CASE WHEN l.ok THEN l.user_ids END AS user_ids,
                   CASE WHEN l.ok THEN l.source END AS source, CASE WHEN l.ok THEN l.replay END AS replay,
                   CASE WHEN l.ok THEN l.expires_at END AS expires_at,
                   CASE WHEN l.ok THEN coalesce(l.expires_at <= now(), false) END AS is_expired, CASE WHEN l.ok THEN l.bytes END AS bytes
              FROM {log} l
             WHERE l.ok$sql$),
        ('recipients', '', $sql$
            SELECT l.seq, l.created_at, CASE WHEN l.ok THEN l.type END AS type, CASE WHEN l.ok THEN l.title END AS title,
                   CASE WHEN l.ok THEN CASE WHEN u.user_id IS NOT NULL THEN 'user' WHEN l.account_id IS NOT NULL THEN 'account'
                                            ELSE 'everyone' END END AS recipient,
                   u.user_id, CASE WHEN l.ok THEN l.account_id END AS account_id
              FROM {log} l
             CROSS JOIN LATERAL (SELECT DISTINCT m AS user_id
                                   FROM unnest(CASE WHEN l.ok THEN coalesce(l.user_ids, ARRAY[l.user_id]) END) m) u
             WHERE l.ok$sql$),
        -- Not by recado.log_member: only the row of the log names the account.
        ('inbox', '', $sql$
            SELECT CASE WHEN l.ok THEN l.topic END AS address, l.seq, CASE WHEN l.ok THEN l.id END AS id, l.created_at,
                   CASE WHEN l.ok THEN l.type END AS type, CASE WHEN l.ok THEN l.title END AS title,
                   CASE WHEN l.ok THEN l.message END AS message, CASE WHEN l.ok THEN recado_views.jsonb_of(l.data) END AS data,
                   CASE WHEN l.ok THEN l.expires_at END AS expires_at
              FROM {log} l
             WHERE l.ok AND l.replay AND l.topic <> 'l'
             UNION ALL
            SELECT u.address, l.seq, CASE WHEN l.ok THEN l.id END AS id, l.created_at,
                   CASE WHEN l.ok THEN l.type END AS type, CASE WHEN l.ok THEN l.title END AS title,
                   CASE WHEN l.ok THEN l.message END AS message, CASE WHEN l.ok THEN recado_views.jsonb_of(l.data) END AS data,
                   CASE WHEN l.ok THEN l.expires_at END AS expires_at
              FROM {log} l
             CROSS JOIN LATERAL (SELECT DISTINCT concat_ws('/', 'u', m, l.account_id) AS address
                                   FROM unnest(CASE WHEN l.ok THEN l.user_ids END) m) u
             WHERE l.ok AND l.replay AND l.topic = 'l'$sql$),
        ('sessions', 'WITH (security_barrier)', $sql$
            SELECT f.session_id, f.user_id, f.account_ids, f.client_id, f.transport, f.instance_id, f.from_seq, f.sent_seq, f.acked_seq,
                   f.connected_at, f.last_activity_at, f.ended_at, f.end_reason, f.ended_at IS NULL AS is_live,
                   coalesce(f.ended_at, f.last_activity_at) - f.connected_at AS lasted, f.is_of_this_log, f.follows_members, f.types
              FROM (SELECT s.session_id, s.user_id, ARRAY(SELECT a FROM unnest(s.account_ids) a WHERE a = ANY ({accounts})) AS account_ids,
                           s.client_id, s.transport, s.instance_id, s.from_seq, s.sent_seq, s.acked_seq, s.connected_at, s.last_activity_at,
                           s.ended_at, s.end_reason, s.log_id = (SELECT e.log_id FROM recado.meta e) AS is_of_this_log, s.follows_members, s.types
                      FROM recado.session s
                     WHERE {mine} OFFSET 0) f$sql$),
        ('members', 'WITH (security_barrier)', $sql$
            SELECT m.user_id, m.account_id, m.since_seq, b.created_at AS since_at, m.until_seq, e.created_at AS until_at,
                   m.until_seq IS NULL AS is_member
              FROM (SELECT * FROM recado.member x WHERE x.account_id = ANY ({accounts}) OFFSET 0) m
              LEFT JOIN LATERAL (SELECT l.created_at FROM recado.log l WHERE l.seq = m.since_seq LIMIT 1) b ON true
              LEFT JOIN LATERAL (SELECT l.created_at FROM recado.log l WHERE l.seq = m.until_seq LIMIT 1) e ON true$sql$),
        -- Activity on connections without an account of the login does not count.
        ('devices', 'WITH (security_barrier)', $sql$
            SELECT c.user_id, c.client_id, CASE WHEN c.log_id = m.log_id THEN c.acked_seq END AS acked_seq, h.seq AS head_seq,
                   CASE WHEN c.log_id = m.log_id THEN greatest(h.seq - c.acked_seq, 0) END AS lag,
                   CASE WHEN c.acked_at > c.created_at THEN c.acked_at END AS last_acked_at, c.created_at AS first_seen_at,
                   s.last_seen_at, coalesce(s.is_connected, false) AS is_connected,
                   CASE WHEN c.log_id = m.log_id THEN greatest(m.floor_seq - c.acked_seq, 0) END AS dropped
              FROM (SELECT x.user_id, x.client_id, x.log_id, x.acked_seq, x.acked_at, x.created_at
                      FROM recado.cursor x
                     WHERE (SELECT {now} FROM recado.session s WHERE s.user_id = x.user_id AND s.client_id = x.client_id
                             ORDER BY s.connected_at DESC LIMIT 1) OFFSET 0) c
             CROSS JOIN recado.meta m
             CROSS JOIN LATERAL (SELECT coalesce((SELECT l.seq FROM recado.log l ORDER BY l.seq DESC LIMIT 1), m.floor_seq) AS seq OFFSET 0) h
              LEFT JOIN LATERAL (SELECT max(s.last_activity_at) AS last_seen_at, bool_or(s.ended_at IS NULL) AS is_connected
                                   FROM recado.session s
                                  WHERE s.user_id = c.user_id AND s.client_id = c.client_id AND {mine}) s ON true$sql$),
        ('unacked', 'WITH (security_barrier)', $sql$
            SELECT c.user_id, c.client_id, c.acked_seq, u.unacked, u.oldest_seq, u.oldest_at AS since, u.oldest_type, u.oldest_title
              FROM (SELECT x.user_id, x.client_id, x.acked_seq, s.follows_members, s.types,
                           ARRAY(SELECT a FROM unnest(s.account_ids) a WHERE a = ANY ({accounts})) AS account_ids
                      FROM recado.cursor x
                      JOIN recado.meta m ON m.log_id = x.log_id
                     CROSS JOIN LATERAL (SELECT z.* FROM recado.session z WHERE z.user_id = x.user_id AND z.client_id = x.client_id
                                          ORDER BY z.connected_at DESC LIMIT 1) s
                     WHERE {now} OFFSET 0) c
             CROSS JOIN LATERAL (
                   SELECT count(*) AS unacked, min(b.seq) AS oldest_seq, (array_agg(b.created_at ORDER BY b.seq))[1] AS oldest_at,
                          (array_agg(b.type ORDER BY b.seq))[1] AS oldest_type, (array_agg(b.title ORDER BY b.seq))[1] AS oldest_title
                     FROM (SELECT '*' AS topic, c.acked_seq AS low, 9223372036854775807 AS high
                            UNION ALL SELECT 'a/' || a, c.acked_seq, 9223372036854775807 FROM unnest(c.account_ids) a
                            UNION ALL SELECT 'u/' || c.user_id || '/' || a, c.acked_seq, 9223372036854775807 FROM unnest(c.account_ids) a
                            UNION ALL
                           SELECT x.topic, greatest(c.acked_seq, b.since_seq), coalesce(b.until_seq, 9223372036854775807)
                             FROM recado.member b
                            CROSS JOIN LATERAL (VALUES ('a/' || b.account_id), ('u/' || b.user_id || '/' || b.account_id)) x (topic)
                            WHERE c.follows_members AND b.user_id = c.user_id AND (b.until_seq IS NULL OR b.until_seq > c.acked_seq)
                              AND b.account_id = ANY ({accounts}) AND b.account_id <> ALL (c.account_ids)) t
                    CROSS JOIN LATERAL (
                          (SELECT l.seq, l.created_at, l.type, l.title
                             FROM recado.log l
                            WHERE l.topic = t.topic AND l.replay AND l.topic <> 'l' AND l.seq > c.acked_seq AND l.seq > t.low AND l.seq < t.high
                              AND (l.expires_at IS NULL OR l.expires_at > now())
                              AND (c.types IS NULL OR recado_views.takes(c.types, l.type))
                            ORDER BY l.seq
                            LIMIT 10000)
                          UNION ALL
                          (SELECT l.seq, l.created_at, l.type, l.title
                             FROM recado.log_member b
                            CROSS JOIN LATERAL (SELECT * FROM recado.log x WHERE x.seq = b.seq LIMIT 1) l
                            WHERE b.topic = t.topic AND b.seq > c.acked_seq AND b.seq > t.low AND b.seq < t.high
                              AND (l.expires_at IS NULL OR l.expires_at > now())
                              AND (c.types IS NULL OR recado_views.takes(c.types, l.type))
                            ORDER BY b.seq
                            LIMIT 10000)) b) u
             WHERE u.unacked > 0$sql$),
        -- The masks need both: the row is the tenant's, and so is the session. The join alone may come after a
        -- condition.
        ('deliveries', '', $sql$
            SELECT d.seq, d.id, d.created_at, d.type, d.title, d.audience, d.user_id, d.client_id, d.session_id, d.transport,
                   p.sent_at, a.acked_at,
                   CASE WHEN p.sent_at IS NOT NULL THEN greatest(p.sent_at - d.created_at, interval '0') END AS time_to_send,
                   CASE WHEN a.acked_at IS NOT NULL AND p.sent_at IS NOT NULL THEN greatest(a.acked_at - p.sent_at, interval '0') END AS time_to_ack
              FROM (SELECT l.seq, CASE WHEN h.ok THEN l.id END AS id, l.created_at, CASE WHEN h.ok THEN l.type END AS type,
                           CASE WHEN h.ok THEN l.title END AS title, CASE WHEN h.ok THEN CASE WHEN l.topic = 'l' THEN 'users' ELSE 'user' END END AS audience,
                           CASE WHEN h.ok THEN s.user_id END AS user_id, CASE WHEN h.ok THEN s.client_id END AS client_id,
                           CASE WHEN h.ok THEN s.session_id END AS session_id, CASE WHEN h.ok THEN s.transport END AS transport,
                           CASE WHEN h.ok THEN s.log_id END AS log_id
                      FROM {log} l
                     CROSS JOIN LATERAL (SELECT DISTINCT m AS user_id
                                           FROM unnest(CASE WHEN l.ok THEN coalesce(l.user_ids, ARRAY[l.user_id]) END) m) u
                      JOIN recado.session s ON s.user_id = u.user_id AND l.seq > s.from_seq AND l.seq <= s.sent_seq
                                           AND (l.replay OR l.created_at >= s.connected_at)
                                           AND (l.expires_at IS NULL OR l.expires_at > s.connected_at)
                     CROSS JOIN LATERAL {hit} h
                     WHERE l.ok AND h.ok
                     UNION ALL
                    SELECT l.seq, CASE WHEN h.ok THEN l.id END AS id, l.created_at, CASE WHEN h.ok THEN l.type END AS type,
                           CASE WHEN h.ok THEN l.title END AS title, CASE WHEN h.ok THEN CASE WHEN l.topic = '*' THEN 'everyone' ELSE 'account' END END AS audience,
                           CASE WHEN h.ok THEN s.user_id END AS user_id, CASE WHEN h.ok THEN s.client_id END AS client_id,
                           CASE WHEN h.ok THEN s.session_id END AS session_id, CASE WHEN h.ok THEN s.transport END AS transport,
                           CASE WHEN h.ok THEN s.log_id END AS log_id
                      FROM {log} l
                      JOIN recado.session s ON l.seq > s.from_seq AND l.seq <= s.sent_seq
                                           AND (l.replay OR l.created_at >= s.connected_at)
                                           AND (l.expires_at IS NULL OR l.expires_at > s.connected_at)
                     CROSS JOIN LATERAL {hit} h
                     WHERE l.ok AND h.ok AND l.user_id IS NULL AND l.user_ids IS NULL) d
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
                                          LIMIT 8) f) a ON true$sql$),
        -- A command belongs to the accounts of the connection that it came on. A provider session belongs to a user in
        -- all accounts: upstream_sessions has no twin. Only the equality proves that the command is the tenant's.
        ('upstream_commands', '', $sql$
            SELECT CASE WHEN h.session_id = c.session_id THEN c.command_id END AS command_id,
                   CASE WHEN h.session_id = c.session_id THEN c.provider END AS provider,
                   CASE WHEN h.session_id = c.session_id THEN c.user_id END AS user_id,
                   CASE WHEN h.session_id = c.session_id THEN c.client_id END AS client_id,
                   CASE WHEN h.session_id = c.session_id THEN c.session_id END AS session_id,
                   CASE WHEN h.session_id = c.session_id THEN c.id END AS id, CASE WHEN h.session_id = c.session_id THEN c.type END AS type,
                   CASE WHEN h.session_id = c.session_id THEN c.state END AS state,
                   CASE WHEN h.session_id = c.session_id THEN c.detail END AS detail, c.accepted_at,
                   CASE WHEN h.session_id = c.session_id THEN c.taken_at END AS taken_at,
                   CASE WHEN h.session_id = c.session_id THEN c.settled_at END AS settled_at,
                   CASE WHEN h.session_id = c.session_id THEN c.settled_at - c.accepted_at END AS time_to_settle,
                   CASE WHEN h.session_id = c.session_id THEN c.term END AS term,
                   CASE WHEN h.session_id = c.session_id THEN octet_length(c.payload::text) END AS payload_bytes
              FROM recado.upstream_command c
              JOIN (SELECT s.session_id FROM recado.session s WHERE {mine} OFFSET 0) h ON h.session_id = c.session_id$sql$)
    ) AS w (name, options, definition) LOOP
        EXECUTE format('CREATE VIEW recado_tenant.%I %s AS %s', v.name, v.options,
            replace(replace(replace(replace(replace(v.definition, '{log}', log), '{mine}', mine), '{now}', now_has), '{hit}', hit), '{accounts}', accounts));
    END LOOP;

    -- The views that read no table with rows of their own: as they are, but on the tenant's notifications and
    -- deliveries. With this path, pg_get_viewdef names the schema of everything.
    PERFORM set_config('search_path', 'pg_catalog', true);
    FOR v IN SELECT k.relname AS name, pg_get_viewdef(k.oid) AS definition
               FROM pg_class k
              WHERE k.relnamespace = 'recado_views'::regnamespace AND k.relkind = 'v'
                AND (k.relname IN ('daily_counts', 'time_to_ack', 'connection_established', 'order_created', 'payment_confirmed', 'order_updated',
                                   'stock_alert', 'cart_updated', 'product_added', 'product_updated', 'product_deleted',
                                   'transaction_created', 'profile_updated')) LOOP
        EXECUTE format('CREATE VIEW recado_tenant.%I AS %s', v.name,
            replace(replace(v.definition, 'recado_views.notifications', 'recado_tenant.notifications'), 'recado_views.deliveries', 'recado_tenant.deliveries'));
    END LOOP;
    PERFORM set_config('search_path', path, true);

    FOR c IN SELECT t.relname, a.attname, d.description
               FROM pg_class t
               JOIN pg_class o ON o.relnamespace = 'recado_views'::regnamespace AND o.relname = t.relname
               JOIN pg_description d ON d.classoid = 'pg_class'::regclass AND d.objoid = o.oid
               LEFT JOIN pg_attribute a ON a.attrelid = o.oid AND a.attnum = d.objsubid AND a.attnum > 0
              WHERE t.relnamespace = 'recado_tenant'::regnamespace LOOP
        IF c.attname IS NULL THEN
            EXECUTE format('COMMENT ON VIEW recado_tenant.%I IS %L', c.relname, c.description || ' Only what belongs to the accounts of the login.');
        ELSE
            EXECUTE format('COMMENT ON COLUMN recado_tenant.%I.%I IS %L', c.relname, c.attname, c.description);
        END IF;
    END LOOP;
END $$;

-- The fast way to some addresses. A condition on `address` of the view inbox uses no index: EXPLAIN ANALYZE would count
-- the rows of an address of another account. This function looks up the addresses that belong to the login, and no
-- others.
CREATE FUNCTION recado_tenant.inbox_of(addresses text[], since timestamptz DEFAULT '-infinity', until timestamptz DEFAULT 'infinity')
RETURNS TABLE (address text, seq bigint, id uuid, created_at timestamptz, type text, title text, message text, expires_at timestamptz)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    accounts constant text[] := ARRAY(SELECT t.account_id FROM recado.analyst_account t WHERE t.login = session_user::text);
    own      constant text[] := ARRAY(
        SELECT DISTINCT a FROM unnest(addresses) a
         WHERE a = '*' AND accounts <> '{}'
            OR a LIKE 'a/%' AND substr(a, 3) = ANY (accounts)
            OR a LIKE 'u/%/%' AND split_part(a, '/', 3) = ANY (accounts));
BEGIN
    RETURN QUERY
        SELECT l.topic, l.seq, l.id, l.created_at, l.type, l.title, l.message, l.expires_at
          FROM recado.log l
         WHERE l.topic = ANY (own) AND l.replay AND l.topic <> 'l' AND l.created_at >= since AND l.created_at < until
         UNION ALL
        SELECT m.topic, m.seq, l.id, l.created_at, l.type, l.title, l.message, l.expires_at
          FROM recado.log_member m
         CROSS JOIN LATERAL (SELECT * FROM recado.log x WHERE x.seq = m.seq LIMIT 1) l
         WHERE m.topic = ANY (own) AND l.created_at >= since AND l.created_at < until;
END $$;
COMMENT ON FUNCTION recado_tenant.inbox_of(text[], timestamptz, timestamptz) IS
    'The rows of the view inbox with one of these addresses, without data, by an index. Addresses of other accounts have no rows.';

REVOKE ALL ON ALL TABLES IN SCHEMA recado_tenant FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA recado_tenant FROM PUBLIC;

-- Grants a tenant what it may read. The rights are the login's own: a role for tenants would belong to the cluster.
CREATE FUNCTION recado.equip_tenant(p_name text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    EXECUTE format('GRANT USAGE ON SCHEMA recado_tenant, recado_views TO %I', p_name);
    EXECUTE format('GRANT SELECT ON ALL TABLES IN SCHEMA recado_tenant TO %I', p_name);
    EXECUTE format('GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA recado_tenant TO %I', p_name);
    -- Only the functions that the views call: they do so with the rights of the reader.
    EXECUTE format('GRANT EXECUTE ON FUNCTION recado_views.jsonb_of(json), recado_views.text_of(jsonb, text),
                        recado_views.number_of(jsonb, text), recado_views.integer_of(jsonb, text), recado_views.takes(text, text) TO %I', p_name);
    BEGIN
        EXECUTE format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), p_name);
    EXCEPTION
        WHEN insufficient_privilege THEN NULL;  -- every login may connect, unless an administrator has changed that
    END;
END $$;

-- Returns the logins that read recado_tenant in this database.
CREATE FUNCTION recado.tenants() RETURNS SETOF text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT r.rolname::text
      FROM pg_namespace n, aclexplode(n.nspacl) a
      JOIN pg_roles r ON r.oid = a.grantee
     WHERE n.nspname = 'recado_tenant' AND a.privilege_type = 'USAGE' AND a.grantee <> n.nspowner;
$$;

-- For later migrations that add a view to recado_tenant: grants it to the tenants that exist.
CREATE FUNCTION recado.equip_tenants() RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    SELECT recado.equip_tenant(t) FROM recado.tenants() t;
$$;

-- Limits a login to these accounts, in place of those it had. Returns false if create_analyst made no login of this
-- name for this database. A login that could still read something else is refused: another grant gives it that.
CREATE FUNCTION recado.limit_to_accounts(p_name text, p_accounts text[]) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    everything constant text := recado.role_name('analyst');
    still      text;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles r
                    WHERE r.rolname = p_name AND shobj_description(r.oid, 'pg_authid') = 'recado analyst'
                      AND (p_name IN (SELECT recado.tenants())
                           OR EXISTS (SELECT FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid
                                       WHERE m.member = r.oid AND g.rolname = everything))) THEN
        RETURN false;
    END IF;
    DELETE FROM recado.analyst_account a WHERE a.login = p_name;
    INSERT INTO recado.analyst_account (login, account_id) SELECT DISTINCT p_name, a FROM unnest(p_accounts) a;
    PERFORM recado.equip_tenant(p_name);
    IF pg_has_role(p_name, everything, 'MEMBER') THEN
        EXECUTE format('REVOKE %I FROM %I', everything, p_name);
    END IF;
    EXECUTE format('ALTER ROLE %I SET search_path = recado_tenant, recado_views', p_name);
    -- The planner takes the conditions for more expensive than they are. Compiling them takes a second.
    EXECUTE format('ALTER ROLE %I SET jit = off', p_name);
    SELECT format('%I.%I', n.nspname, c.relname) INTO still
      FROM pg_class c
      JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE n.nspname IN ('recado', 'recado_views') AND c.relkind IN ('r', 'p', 'v', 'm')
       AND (has_table_privilege(p_name, c.oid, 'SELECT') OR has_any_column_privilege(p_name, c.oid, 'SELECT'))
     ORDER BY 1
     LIMIT 1;
    IF still IS NOT NULL THEN
        RAISE EXCEPTION 'login % can still read %', p_name, still USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    PERFORM recado.audit('analyst.limit', p_name, jsonb_build_object('accounts', to_jsonb(p_accounts)));
    RETURN true;
END $$;

-- Makes the login of a tenant. It has no right of an unlimited analyst at any time, because this is one transaction.
CREATE FUNCTION recado.create_analyst(p_name text, p_password text, p_accounts text[]) RETURNS text[]
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    left_out constant text[] := recado.create_analyst(p_name, p_password);
BEGIN
    IF NOT recado.limit_to_accounts(p_name, p_accounts) THEN
        RAISE EXCEPTION 'login % was not made', p_name;
    END IF;
    RETURN left_out;
END $$;

-- Ends the sessions of a login. A cursor that was opened before the login was limited goes on with its old rights.
CREATE FUNCTION recado.end_sessions_of(p_name text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pg_terminate_backend(a.pid, 5000) FROM pg_stat_activity a WHERE a.usename = p_name AND a.pid <> pg_backend_pid();
EXCEPTION
    WHEN insufficient_privilege THEN
        BEGIN
            EXECUTE format('GRANT %I TO %I', p_name, current_user);
            PERFORM pg_terminate_backend(a.pid, 5000) FROM pg_stat_activity a WHERE a.usename = p_name AND a.pid <> pg_backend_pid();
            EXECUTE format('REVOKE %I FROM %I', p_name, current_user);
        END;
END $$;

-- As in V13, and the accounts of the login and its rights in this database go with it.
CREATE OR REPLACE FUNCTION recado.drop_analyst(p_name text) RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles r
                    WHERE r.rolname = p_name AND shobj_description(r.oid, 'pg_authid') = 'recado analyst') THEN
        RETURN false;
    END IF;
    BEGIN
        PERFORM pg_terminate_backend(a.pid, 5000) FROM pg_catalog.pg_stat_activity a WHERE a.usename = p_name;
    EXCEPTION
        WHEN insufficient_privilege THEN NULL;  -- they run out of rights instead
    END;
    DELETE FROM recado.analyst_account a WHERE a.login = p_name;
    -- Large objects are what a login can make without any right. What it owns may be dropped by whoever is a member of
    -- it.
    BEGIN
        IF NOT pg_has_role(current_user, p_name, 'USAGE') THEN
            EXECUTE format('GRANT %I TO %I', p_name, current_user);
        END IF;
        EXECUTE format('DROP OWNED BY %I', p_name);
    EXCEPTION
        WHEN insufficient_privilege THEN NULL;  -- if it owns something, the next statement says so
    END;
    EXECUTE format('DROP ROLE %I', p_name);
    RETURN true;
END $$;

-- As in V17: the new schema is the hub's as well.
CREATE OR REPLACE FUNCTION recado.is_alone() RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT NOT EXISTS (
        SELECT FROM pg_class c
          JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE n.nspname NOT IN ('recado', 'recado_views', 'recado_tenant', 'information_schema') AND n.nspname !~ '^pg_'
           AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'));
$$;

REVOKE ALL ON FUNCTION recado.equip_tenant(text), recado.tenants(), recado.equip_tenants(), recado.limit_to_accounts(text, text[]),
    recado.create_analyst(text, text, text[]), recado.end_sessions_of(text) FROM PUBLIC;
