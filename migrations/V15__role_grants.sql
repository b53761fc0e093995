-- The roles of the hub belong to the cluster, and a dump does not bring them: restored into another cluster, a database has
-- lost all that they were granted. What they are granted is noted here, so that it can be granted again.
CREATE TABLE recado.role_grant (
    role      text NOT NULL,
    statement text NOT NULL,
    PRIMARY KEY (role, statement)
);
COMMENT ON TABLE recado.role_grant IS 'What the roles of the cluster are granted in this database; written after each migration.';
REVOKE ALL ON recado.role_grant FROM PUBLIC;

-- Notes what the roles are granted now; of a role that has lost everything, the notes stay. Partitions are left out: they are read through their tables.
CREATE FUNCTION recado.note_grants() RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    DELETE FROM recado.role_grant g
     WHERE EXISTS (SELECT FROM pg_roles r, pg_namespace n, aclexplode(n.nspacl) a
                    WHERE r.rolname = g.role AND n.nspname IN ('recado', 'recado_views') AND a.grantee = r.oid);
    INSERT INTO recado.role_grant (role, statement)
    SELECT DISTINCT r.rolname, g.statement
      FROM pg_roles r
     CROSS JOIN LATERAL (
        SELECT format('GRANT %s ON SCHEMA %I TO %I', a.privilege_type, n.nspname, r.rolname)
          FROM pg_namespace n, aclexplode(n.nspacl) a
         WHERE n.nspname IN ('recado', 'recado_views') AND a.grantee = r.oid
        UNION ALL
        SELECT format('GRANT %s ON %s %I.%I TO %I', a.privilege_type, CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END,
                      n.nspname, c.relname, r.rolname)
          FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace, aclexplode(c.relacl) a
         WHERE n.nspname IN ('recado', 'recado_views') AND NOT c.relispartition AND a.grantee = r.oid
        UNION ALL
        SELECT format('GRANT %s (%I) ON TABLE %I.%I TO %I', a.privilege_type, t.attname, n.nspname, c.relname, r.rolname)
          FROM pg_attribute t JOIN pg_class c ON c.oid = t.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace, aclexplode(t.attacl) a
         WHERE n.nspname IN ('recado', 'recado_views') AND NOT c.relispartition AND NOT t.attisdropped AND a.grantee = r.oid
        UNION ALL
        SELECT format('GRANT %s ON FUNCTION %I.%I(%s) TO %I', a.privilege_type, n.nspname, p.proname,
                      pg_get_function_identity_arguments(p.oid), r.rolname)
          FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace, aclexplode(p.proacl) a
         WHERE n.nspname IN ('recado', 'recado_views') AND a.grantee = r.oid
     ) g (statement)
     WHERE r.rolname IN ('recado_hub', 'recado_producer', 'recado_analyst')
        ON CONFLICT DO NOTHING;
$$;

-- Makes the roles that were noted and are missing, and grants them again what they had. Returns the roles that it was done for.
-- A role that has any right in this database is left as an administrator may have changed it.
CREATE FUNCTION recado.equip_roles() RETURNS text[]
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    noted    record;
    again    record;
    equipped text[] := '{}';
BEGIN
    FOR noted IN SELECT DISTINCT g.role FROM recado.role_grant g ORDER BY 1 LOOP
        CONTINUE WHEN EXISTS (SELECT FROM pg_roles r, pg_namespace n, aclexplode(n.nspacl) a
                               WHERE r.rolname = noted.role AND n.nspname IN ('recado', 'recado_views') AND a.grantee = r.oid);
        IF NOT EXISTS (SELECT FROM pg_roles r WHERE r.rolname = noted.role) THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I NOLOGIN', noted.role);
            EXCEPTION
                -- Another database of the cluster is doing the same.
                WHEN duplicate_object OR unique_violation THEN NULL;
                -- The hub serves without it, and says so.
                WHEN insufficient_privilege THEN CONTINUE;
            END;
        END IF;
        FOR again IN SELECT g.statement FROM recado.role_grant g WHERE g.role = noted.role LOOP
            BEGIN
                EXECUTE again.statement;
            EXCEPTION
                WHEN undefined_table OR undefined_function OR undefined_column OR undefined_object OR invalid_schema_name THEN NULL;
            END;
        END LOOP;
        IF noted.role = 'recado_hub' THEN
            BEGIN
                EXECUTE format('GRANT recado_hub TO %I', current_user);
            EXCEPTION
                WHEN insufficient_privilege OR invalid_grant_operation THEN NULL;
            END;
        END IF;
        equipped := equipped || noted.role;
    END LOOP;
    RETURN equipped;
END $$;

REVOKE ALL ON FUNCTION recado.note_grants(), recado.equip_roles() FROM PUBLIC;
