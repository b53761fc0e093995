-- Serves the console: what each hub tells with its heartbeat, orders to drain a hub, acts on provider sessions.

-- Counters, gauges and readiness of the instance, as of `seen_at`. Each hub writes it every 5 s and reads those of all
-- hubs in the same statement, so that the console of one hub shows all. NULL: a hub of an earlier version.
ALTER TABLE recado.instance ADD COLUMN sample jsonb;
COMMENT ON COLUMN recado.instance.sample IS 'What the instance told with its last heartbeat: counters, gauges, readiness. NULL: a hub that tells nothing.';
-- Each heartbeat is an update of one row, in which no indexed column changes. With room in the page it stays HOT: no
-- index is written, and the old version of the row is removed when the page is next read.
ALTER TABLE recado.instance SET (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);

-- A hub that drains asks its clients to connect again, spread over this time, and goes on serving. Hubs of an earlier
-- version pass over a kind that they do not know.
ALTER TABLE recado.access_change ADD COLUMN window_ms integer;
ALTER TABLE recado.access_change DROP CONSTRAINT kind_is_known;
ALTER TABLE recado.access_change ADD CONSTRAINT kind_is_known
    CHECK (kind IN ('revoke_user', 'lift_revocation', 'close_session', 'close_user', 'close_account', 'change_keys', 'drain_instance'));

-- Orders an instance to drain. Returns how many sessions it has, as far as it has stored them; NULL if no live instance
-- has this id, or if it is of an earlier version, which would pass over the order.
CREATE FUNCTION recado.drain_instance(
    p_instance uuid, p_window_ms integer, p_who text DEFAULT NULL, p_via text DEFAULT NULL, p_address text DEFAULT NULL) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    n      bigint;
    change bigint;
BEGIN
    IF NOT EXISTS (SELECT FROM recado.instance i WHERE i.instance_id = p_instance AND i.ended_at IS NULL AND i.sample IS NOT NULL) THEN
        RETURN NULL;
    END IF;
    SELECT count(*) INTO n FROM recado.session s WHERE s.instance_id = p_instance AND s.ended_at IS NULL;
    change := recado.note_access_change('drain_instance', p_instance::text, NULL);
    UPDATE recado.access_change c SET window_ms = p_window_ms WHERE c.revision = change;
    PERFORM recado.audit('instance.drain', 'instance/' || p_instance, jsonb_build_object('sessions', n, 'window_ms', p_window_ms),
                         p_who => p_who, p_via => p_via, p_address => p_address);
    RETURN n;
END $$;

-- Asks the owners of a user's provider sessions, with one provider or all (NULL), for something. Without an owner, it
-- is done at once. Returns the number of sessions. A released session stays so until the user's next connection.
CREATE FUNCTION recado.ask_upstream(
    p_user_id text, p_provider text, p_asked text,
    p_who text DEFAULT NULL, p_via text DEFAULT NULL, p_address text DEFAULT NULL) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    n bigint;
BEGIN
    WITH asked AS (
        UPDATE recado.upstream_session s
           SET asked = CASE WHEN s.lease_until > clock_timestamp() THEN p_asked END,
               state = CASE WHEN s.lease_until > clock_timestamp() THEN s.state WHEN p_asked = 'release' THEN 'released' ELSE 'waiting' END,
               owner = CASE WHEN s.lease_until > clock_timestamp() THEN s.owner END,
               lease_until = CASE WHEN s.lease_until > clock_timestamp() THEN s.lease_until END,
               attempts = CASE WHEN s.lease_until > clock_timestamp() THEN s.attempts ELSE 0 END,
               next_try_at = CASE WHEN s.lease_until > clock_timestamp() THEN s.next_try_at ELSE clock_timestamp() END,
               -- Anew means a new sign-in, too.
               secret = CASE WHEN s.lease_until > clock_timestamp() THEN s.secret END,
               error = CASE WHEN s.lease_until > clock_timestamp() THEN s.error END,
               version = nextval('recado.upstream_version'), updated_at = clock_timestamp()
         WHERE s.user_id = p_user_id AND (s.provider = p_provider OR p_provider IS NULL)
     RETURNING s.provider, s.user_id)
    SELECT count(recado.upstream_hint('ask') AND recado.upstream_hint('want') AND recado.upstream_hint('state', a.provider, a.user_id))
      INTO n FROM asked a;
    PERFORM recado.audit('upstream.' || p_asked, coalesce(p_provider, '*'), jsonb_build_object('sessions', n),
                         CASE WHEN n > 0 THEN 'done' ELSE 'failed' END, CASE WHEN n = 0 THEN 'the user has no such session' END,
                         p_user_id, p_who, p_via, p_address);
    RETURN n;
END $$;

-- Lists the logins that can read the views. A function, so that hubs need no right on the accounts of tenants.
CREATE FUNCTION recado.list_analysts() RETURNS TABLE (name text, connections bigint, made_here boolean, accounts text[])
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    WITH tenant AS (SELECT recado.tenants() AS name)
    SELECT r.rolname::text,
           (SELECT count(*) FROM pg_stat_activity a WHERE a.usesysid = r.oid),
           coalesce(shobj_description(r.oid, 'pg_authid') = 'recado analyst', false),
           CASE WHEN NOT l.reads_everything THEN
                ARRAY(SELECT a.account_id FROM recado.analyst_account a WHERE a.login = r.rolname ORDER BY 1) END
      FROM pg_roles r
     CROSS JOIN LATERAL (SELECT EXISTS (SELECT FROM pg_auth_members m
                                          JOIN pg_roles g ON g.oid = m.roleid
                                         WHERE m.member = r.oid AND g.rolname = recado.role_name('analyst')) AS reads_everything) l
     WHERE r.rolcanlogin AND NOT r.rolsuper AND (l.reads_everything OR r.rolname IN (SELECT t.name FROM tenant t))
     ORDER BY 1
     LIMIT 1000;
$$;

REVOKE ALL ON FUNCTION recado.drain_instance(uuid, integer, text, text, text), recado.ask_upstream(text, text, text, text, text, text),
    recado.list_analysts() FROM PUBLIC;

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'recado_hub') THEN
        GRANT EXECUTE ON FUNCTION recado.drain_instance(uuid, integer, text, text, text),
            recado.ask_upstream(text, text, text, text, text, text), recado.list_analysts() TO recado_hub;
    END IF;
EXCEPTION
    WHEN insufficient_privilege THEN NULL;
END $$;
