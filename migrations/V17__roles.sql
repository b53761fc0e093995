-- Gives each further database of a cluster roles of its own. Roles belong to the cluster. With own roles, the login of
-- one hub has no rights in the database of another. The first database keeps the plain names recado_hub,
-- recado_producer and recado_analyst.
--
-- Migrations grant to the plain names, before and after this one. In a database with roles of its own,
-- recado.equip_roles() moves those grants after each migration.

-- The names in use in this database. No rows: the names are not decided yet. A NULL name: this database gets a role of
-- its own, but the user who migrated could not create it.
CREATE TABLE recado.role (
    purpose text PRIMARY KEY CONSTRAINT purpose_is_known CHECK (purpose IN ('hub', 'producer', 'analyst')),
    name    text UNIQUE
);
COMMENT ON TABLE recado.role IS 'Names of the roles that this database uses: GRANT the producer role to programs that call recado.notify.';
REVOKE ALL ON recado.role FROM PUBLIC;

-- Returns the role's name for a purpose; NULL while the database's own role is missing.
CREATE FUNCTION recado.role_name(p_purpose text) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN EXISTS (SELECT FROM recado.role r WHERE r.purpose = p_purpose)
                THEN (SELECT r.name FROM recado.role r WHERE r.purpose = p_purpose)
                ELSE 'recado_' || p_purpose END;
$$;

-- Returns the grants of a role in this database, as statements that grant them to `p_to`. Partitions are left out: they
-- are read through their tables.
CREATE FUNCTION recado.grants_of(p_role text, p_to text) RETURNS SETOF text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH spaces AS (SELECT * FROM pg_namespace n WHERE n.nspname IN ('recado', 'recado_views')),
    me AS (SELECT r.oid FROM pg_roles r WHERE r.rolname = p_role)
    SELECT format('GRANT %s ON SCHEMA %I TO %I', a.privilege_type, n.nspname, p_to)
      FROM me, spaces n, aclexplode(n.nspacl) a
     WHERE a.grantee = me.oid
    UNION
    SELECT format('GRANT %s ON %s %I.%I TO %I', a.privilege_type, CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END,
                  n.nspname, c.relname, p_to)
      FROM me, pg_class c JOIN spaces n ON n.oid = c.relnamespace, aclexplode(c.relacl) a
     WHERE NOT c.relispartition AND a.grantee = me.oid
    UNION
    SELECT format('GRANT %s (%I) ON TABLE %I.%I TO %I', a.privilege_type, t.attname, n.nspname, c.relname, p_to)
      FROM me, pg_attribute t JOIN pg_class c ON c.oid = t.attrelid JOIN spaces n ON n.oid = c.relnamespace, aclexplode(t.attacl) a
     WHERE NOT c.relispartition AND NOT t.attisdropped AND a.grantee = me.oid
    UNION
    SELECT format('GRANT %s ON FUNCTION %I.%I(%s) TO %I', a.privilege_type, n.nspname, p.proname,
                  pg_get_function_identity_arguments(p.oid), p_to)
      FROM me, pg_proc p JOIN spaces n ON n.oid = p.pronamespace, aclexplode(p.proacl) a
     WHERE a.grantee = me.oid;
$$;

COMMENT ON TABLE recado.role_grant IS 'What a role of each purpose is granted in this database, under the plain name of the role; written after each migration.';

-- Records the present grants of the roles under their plain names. The records of a role that has lost all grants stay.
CREATE OR REPLACE FUNCTION recado.note_grants() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    p record;
BEGIN
    FOR p IN SELECT v.purpose, 'recado_' || v.purpose AS plain FROM (VALUES ('hub'), ('producer'), ('analyst')) AS v (purpose) LOOP
        IF EXISTS (SELECT FROM recado.grants_of(recado.role_name(p.purpose), p.plain)) THEN
            DELETE FROM recado.role_grant g WHERE g.role = p.plain;
        END IF;
        INSERT INTO recado.role_grant (role, statement)
        SELECT p.plain, s FROM recado.grants_of(recado.role_name(p.purpose), p.plain) s
         UNION
        SELECT p.plain, s FROM recado.grants_of(p.plain, p.plain) s
            ON CONFLICT DO NOTHING;
    END LOOP;
END $$;

-- Revokes all grants of a role in this database.
CREATE FUNCTION recado.revoke_grants(p_role text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    EXECUTE format('REVOKE ALL ON ALL TABLES IN SCHEMA recado, recado_views FROM %I', p_role);
    EXECUTE format('REVOKE ALL ON ALL SEQUENCES IN SCHEMA recado, recado_views FROM %I', p_role);
    EXECUTE format('REVOKE ALL ON ALL FUNCTIONS IN SCHEMA recado, recado_views FROM %I', p_role);
    EXECUTE format('REVOKE ALL ON SCHEMA recado, recado_views FROM %I', p_role);
    IF (SELECT pg_has_role(d.datdba, 'USAGE') FROM pg_database d WHERE d.datname = current_database()) THEN
        EXECUTE format('REVOKE CONNECT ON DATABASE %I FROM %I', current_database(), p_role);
    END IF;
END $$;

-- Creates the three roles of this database and records their names. It skips a name that already exists: that role may
-- have members. Returns false if this user may not create roles.
CREATE FUNCTION recado.make_own_roles() RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    -- A role's name has at most 63 bytes, and recado_producer_ is the longest prefix.
    longest  constant integer := 63 - length('recado_producer_');
    base     text;
    ending   text;
    p        text;
    purposes constant text[] := ARRAY['hub', 'producer', 'analyst'];
BEGIN
    FOR n IN 1..10000 LOOP
        ending := CASE n WHEN 1 THEN '' ELSE '_' || n END;
        base := current_database();
        WHILE octet_length(base || ending) > longest LOOP
            base := left(base, -1);
        END LOOP;
        CONTINUE WHEN EXISTS (SELECT FROM pg_roles r, unnest(purposes) u WHERE r.rolname = format('recado_%s_%s%s', u, base, ending));
        BEGIN
            FOREACH p IN ARRAY purposes LOOP
                EXECUTE format('CREATE ROLE %I NOLOGIN', format('recado_%s_%s%s', p, base, ending));
                EXECUTE format('COMMENT ON ROLE %I IS %L', format('recado_%s_%s%s', p, base, ending),
                               format('Recado: the %s role of database %s', p, current_database()));
            END LOOP;
            UPDATE recado.role r SET name = format('recado_%s_%s%s', r.purpose, base, ending);
            RETURN true;
        EXCEPTION
            -- Another database of the cluster has created one of the names since the check.
            WHEN duplicate_object OR unique_violation THEN CONTINUE;
            WHEN insufficient_privilege THEN RETURN false;
        END;
    END LOOP;
    RETURN false;
END $$;

-- Creates missing roles and grants the recorded rights. Returns the roles that it changed. A role with any right in
-- this database is not changed, because an administrator may have adjusted it. Exception: grants that a migration has
-- made to the plain name since are moved.
CREATE OR REPLACE FUNCTION recado.equip_roles() RETURNS text[]
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    p        record;
    again    record;
    to_move  boolean;
    is_owner boolean := (SELECT pg_has_role(d.datdba, 'USAGE') FROM pg_database d WHERE d.datname = current_database());
    equipped text[] := '{}';
BEGIN
    IF EXISTS (SELECT FROM recado.role r WHERE r.name IS NULL) THEN
        PERFORM recado.make_own_roles();
    END IF;
    FOR p IN
        SELECT v.purpose, 'recado_' || v.purpose AS plain, recado.role_name(v.purpose) AS name
          FROM (VALUES ('analyst'), ('hub'), ('producer')) AS v (purpose)
    LOOP
        to_move := p.name IS DISTINCT FROM p.plain AND EXISTS (SELECT FROM recado.grants_of(p.plain, p.plain));
        IF to_move THEN
            PERFORM recado.note_grants();
            PERFORM recado.revoke_grants(p.plain);
        END IF;
        CONTINUE WHEN p.name IS NULL;
        CONTINUE WHEN NOT to_move AND EXISTS (SELECT FROM recado.grants_of(p.name, p.name));
        CONTINUE WHEN NOT EXISTS (SELECT FROM recado.role_grant g WHERE g.role = p.plain);
        IF NOT EXISTS (SELECT FROM pg_roles r WHERE r.rolname = p.name) THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I NOLOGIN', p.name);
            EXCEPTION
                -- Another database of the cluster creates the same role now.
                WHEN duplicate_object OR unique_violation THEN NULL;
                -- The hub serves without the role, and logs it.
                WHEN insufficient_privilege THEN CONTINUE;
            END;
        END IF;
        FOR again IN SELECT g.statement FROM recado.role_grant g WHERE g.role = p.plain LOOP
            BEGIN
                EXECUTE left(again.statement, -length(p.plain)) || quote_ident(p.name);
            EXCEPTION
                WHEN undefined_table OR undefined_function OR undefined_column OR undefined_object OR invalid_schema_name THEN NULL;
            END;
        END LOOP;
        IF p.purpose = 'hub' THEN
            PERFORM recado.enter_hub_role(p.name);
        END IF;
        IF p.name <> p.plain AND is_owner THEN
            EXECUTE format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), p.name);
        END IF;
        equipped := equipped || p.name;
    END LOOP;
    RETURN equipped;
END $$;

-- Makes this user and the schema's owner members of the hub's role: hubs connect as one of these users.
CREATE FUNCTION recado.enter_hub_role(p_role text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    login text;
BEGIN
    FOR login IN
        SELECT current_user::text UNION SELECT pg_get_userbyid(n.nspowner)::text FROM pg_namespace n WHERE n.nspname = 'recado'
    LOOP
        BEGIN
            EXECUTE format('GRANT %I TO %I', p_role, login);
        EXCEPTION
            WHEN insufficient_privilege OR invalid_grant_operation THEN NULL;
        END;
    END LOOP;
END $$;

-- Closes the database to all roles but the hub's. Acts only if this user owns the database, and not on the databases
-- that initdb created. Returns false if it changed nothing.
CREATE FUNCTION recado.close_database() RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    -- Objects that initdb created have lower numbers.
    first_own constant oid := 16384;
    role      text;
BEGIN
    IF NOT (SELECT pg_has_role(d.datdba, 'USAGE') AND d.oid >= first_own FROM pg_database d WHERE d.datname = current_database()) THEN
        RETURN false;
    END IF;
    EXECUTE format('REVOKE CONNECT, TEMPORARY ON DATABASE %I FROM PUBLIC', current_database());
    FOR role IN SELECT r.rolname FROM recado.role n JOIN pg_roles r ON r.rolname = n.name LOOP
        EXECUTE format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), role);
    END LOOP;
    RETURN true;
END $$;

-- Whether the database holds only the hub's objects: then no other program loses access when the database is closed.
CREATE FUNCTION recado.is_alone() RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT NOT EXISTS (
        SELECT FROM pg_class c
          JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE n.nspname NOT IN ('recado', 'recado_views', 'information_schema') AND n.nspname !~ '^pg_'
           AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'));
$$;

-- Decides once which roles this database uses, and equips them. Called after each run of the migrations. A database
-- that no hub has used yet gets roles of its own if another database uses one of the plain names. Two databases that
-- are created at the same time may both get their own: the grants to the plain names are committed before this check.
-- p_was_member: this user was a member of recado_hub before the first migration made it a member.
CREATE FUNCTION recado.settle_roles(p_was_member boolean) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    is_undecided boolean := NOT EXISTS (SELECT FROM recado.role);
    is_new       boolean := NOT EXISTS (SELECT FROM recado.instance) AND NOT EXISTS (SELECT FROM recado.service_key)
                            AND NOT EXISTS (SELECT FROM recado.log) AND NOT EXISTS (SELECT FROM recado.outbox);
    has_own      boolean;
BEGIN
    IF is_undecided THEN
        has_own := is_new AND EXISTS (
            SELECT FROM pg_shdepend s
              JOIN pg_roles r ON r.oid = s.refobjid AND s.refclassid = 'pg_authid'::regclass
             WHERE r.rolname IN ('recado_hub', 'recado_producer', 'recado_analyst')
               AND s.dbid NOT IN (0, (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())));
        INSERT INTO recado.role (purpose, name)
        SELECT v.purpose, CASE WHEN NOT has_own THEN 'recado_' || v.purpose END
          FROM (VALUES ('hub'), ('producer'), ('analyst')) AS v (purpose);
        IF has_own AND NOT p_was_member THEN
            -- The third migration made this user a member, and so gave it the rights of the other hub.
            BEGIN
                EXECUTE format('REVOKE recado_hub FROM %I', current_user);
            EXCEPTION
                WHEN insufficient_privilege OR undefined_object THEN NULL;
            END;
        END IF;
    END IF;
    PERFORM recado.note_grants();
    PERFORM recado.equip_roles();
    IF is_undecided AND is_new AND recado.is_alone() THEN
        PERFORM recado.close_database();
    END IF;
END $$;

-- Gives a database that is in use roles of its own, and closes it to other logins if this user owns it. No hub may run,
-- because hubs hold connections under the old role.
CREATE FUNCTION recado.own_roles() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    old text;
BEGIN
    IF EXISTS (SELECT FROM recado.instance i WHERE i.ended_at IS NULL AND i.seen_at > statement_timestamp() - interval '15 s') THEN
        RAISE EXCEPTION 'a hub runs on this database' USING ERRCODE = 'object_in_use';
    END IF;
    PERFORM recado.note_grants();
    FOR old IN SELECT r.rolname FROM recado.role n JOIN pg_roles r ON r.rolname = n.name LOOP
        PERFORM recado.revoke_grants(old);
    END LOOP;
    UPDATE recado.role SET name = NULL;
    PERFORM recado.equip_roles();
    IF EXISTS (SELECT FROM recado.role r WHERE r.name IS NULL) THEN
        RAISE EXCEPTION 'this user may not make roles' USING ERRCODE = 'insufficient_privilege';
    END IF;
    PERFORM recado.close_database();
END $$;

-- Unchanged except for the recorded name of the role.
CREATE OR REPLACE FUNCTION recado.equip_analysts() RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    role text := recado.role_name('analyst');
BEGIN
    IF role IS NULL THEN
        PERFORM recado.equip_roles();
        role := recado.role_name('analyst');
    END IF;
    IF role IS NULL THEN
        RAISE EXCEPTION 'this user may not make roles' USING ERRCODE = 'insufficient_privilege';
    END IF;
    BEGIN
        IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.rolname = role) THEN
            EXECUTE format('CREATE ROLE %I NOLOGIN', role);
        END IF;
    EXCEPTION
        -- Another database of the cluster creates the same role now.
        WHEN duplicate_object OR unique_violation THEN NULL;
    END;
    EXECUTE format('GRANT USAGE ON SCHEMA recado_views TO %I', role);
    EXECUTE format('GRANT SELECT ON ALL TABLES IN SCHEMA recado_views TO %I', role);
    EXECUTE format('GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA recado_views TO %I', role);
END $$;

-- Unchanged except for the recorded name of the role.
CREATE OR REPLACE FUNCTION recado.create_analyst(p_name text, p_password text) RETURNS text[]
LANGUAGE plpgsql AS $$
DECLARE
    s       record;
    left_out text[] := '{}';
BEGIN
    PERFORM recado.equip_analysts();
    EXECUTE format('CREATE ROLE %I LOGIN PASSWORD %L CONNECTION LIMIT 5 IN ROLE %I', p_name, p_password, recado.role_name('analyst'));
    EXECUTE format('COMMENT ON ROLE %I IS %L', p_name, 'recado analyst');
    FOR s IN SELECT * FROM (VALUES
        ('default_transaction_read_only', 'on'),
        -- Retention waits for old readers; appends never wait for them. These limits bound that wait.
        ('statement_timeout', '30s'),
        ('transaction_timeout', '60s'),
        ('idle_in_transaction_session_timeout', '10s'),
        ('idle_session_timeout', '30min'),
        -- A waiting lock request blocks all later ones.
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
        EXECUTE format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), recado.role_name('analyst'));
    EXCEPTION
        WHEN insufficient_privilege THEN NULL;  -- every login may connect, unless an administrator has changed that
    END;
    RETURN left_out;
END $$;

REVOKE ALL ON FUNCTION recado.role_name(text), recado.grants_of(text, text), recado.note_grants(), recado.revoke_grants(text),
    recado.make_own_roles(), recado.equip_roles(), recado.enter_hub_role(text), recado.close_database(), recado.is_alone(),
    recado.settle_roles(boolean), recado.own_roles(), recado.equip_analysts() FROM PUBLIC;

-- Repeats the grants of migration 3 where they are missing: PostgreSQL 16 and newer refuse its last statement to a user
-- who did not create the role, and the refusal rolled back the other grants.
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'recado_hub') THEN
        IF NOT has_schema_privilege('recado_hub', 'recado', 'USAGE') THEN
            GRANT USAGE ON SCHEMA recado TO recado_hub;
            GRANT SELECT ON recado.cursor, recado.idempotency, recado.instance, recado.log, recado.log_member, recado.meta, recado.partition, recado.service_key,
                            recado.session TO recado_hub;
            GRANT INSERT, UPDATE ON recado.cursor, recado.instance, recado.session TO recado_hub;
            GRANT UPDATE (log_id, log_started_at) ON recado.meta TO recado_hub;
            GRANT EXECUTE ON FUNCTION recado.ensure_partitions() TO recado_hub;
            GRANT EXECUTE ON FUNCTION recado.append(
                bigint, uuid, text, uuid[], text[], text[], text[], text[], text[], text[], text[], text[],
                integer[], boolean[], text[], uuid[], bigint[], boolean) TO recado_hub;
            GRANT SELECT, INSERT, UPDATE ON recado.server_identity, recado.secret_fingerprint TO recado_hub;
            IF to_regclass('recado.schema_history') IS NOT NULL THEN
                GRANT SELECT ON recado.schema_history TO recado_hub;
            END IF;
        END IF;
        GRANT SELECT ON recado.role TO recado_hub;
        GRANT EXECUTE ON FUNCTION recado.role_name(text) TO recado_hub;
    END IF;
EXCEPTION
    WHEN insufficient_privilege THEN NULL;
END $$;
