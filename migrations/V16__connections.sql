-- The server that holds the log, as the last hub that started found it: system identifier, timeline, database. Another one at the
-- next start means that the database was restored, copied or failed over, and that the history has to be shown to go on.
CREATE TABLE recado.server_identity (
    only_row boolean     PRIMARY KEY DEFAULT true CONSTRAINT there_is_one_server CHECK (only_row),
    server   text        NOT NULL,
    since    timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Salted fingerprints of the secrets that all hubs of this database share, so that one with another secret is told.
CREATE TABLE recado.secret_fingerprint (
    secret      text        PRIMARY KEY CONSTRAINT secret_is_shared CHECK (secret IN ('jwt', 'upstream')),
    salt        bytea       NOT NULL,
    fingerprint bytea       NOT NULL,
    set_at      timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- For the roles that hubs act under, whatever their names are: those that may enter themselves as instances.
DO $$
DECLARE
    hub record;
BEGIN
    FOR hub IN
        SELECT DISTINCT r.rolname
          FROM pg_class c, aclexplode(c.relacl) a, pg_roles r
         WHERE c.oid = 'recado.instance'::regclass AND a.privilege_type = 'INSERT' AND r.oid = a.grantee AND a.grantee <> c.relowner
    LOOP
        EXECUTE format('GRANT SELECT, INSERT, UPDATE ON recado.server_identity, recado.secret_fingerprint TO %I', hub.rolname);
    END LOOP;
EXCEPTION
    WHEN insufficient_privilege THEN NULL;
END $$;
