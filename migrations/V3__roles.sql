-- The role that a serving hub acts under: it can append through recado.append and cannot change or remove a row of the
-- log. Roles belong to the cluster: another database of it may have made this one already, and the migrating user may
-- not be allowed to. Then the hub serves as the user of its connection, and says so at start.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'recado_hub') THEN
        CREATE ROLE recado_hub NOLOGIN;
    END IF;
EXCEPTION
    WHEN insufficient_privilege OR duplicate_object OR unique_violation THEN NULL;
END $$;

REVOKE ALL ON ALL TABLES IN SCHEMA recado FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA recado FROM PUBLIC;

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'recado_hub') THEN
        GRANT USAGE ON SCHEMA recado TO recado_hub;
        GRANT SELECT ON ALL TABLES IN SCHEMA recado TO recado_hub;
        GRANT INSERT, UPDATE ON recado.cursor, recado.instance, recado.session TO recado_hub;
        GRANT UPDATE (log_id, log_started_at) ON recado.meta TO recado_hub;
        GRANT EXECUTE ON FUNCTION recado.ensure_partitions() TO recado_hub;
        GRANT EXECUTE ON FUNCTION recado.append(
            bigint, uuid, text, uuid[], text[], text[], text[], text[], text[], text[], text[], text[],
            integer[], boolean[], text[], uuid[], bigint[], boolean) TO recado_hub;
        EXECUTE format('GRANT recado_hub TO %I', current_user);
    END IF;
EXCEPTION
    WHEN insufficient_privilege THEN NULL;
END $$;
