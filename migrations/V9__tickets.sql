-- One-time tickets: a page that can set no header, and should not show its token in an address, connects with one.
-- UNLOGGED: a crash of the server empties the table. That is the safe way to fail: no used ticket comes back, and who held
-- an unused one asks for another. It also means that no ticket costs a flush of the log of the server.
CREATE UNLOGGED TABLE recado.ticket (
    hash             bytea       PRIMARY KEY,
    user_id          text        NOT NULL,
    account_ids      text[]      NOT NULL,
    token_expires_at timestamptz NOT NULL,
    expires_at       timestamptz NOT NULL
);
-- Serves the removal of those that nobody used.
CREATE INDEX ticket_expires ON recado.ticket (expires_at);

REVOKE ALL ON recado.ticket FROM PUBLIC;

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'recado_hub') THEN
        -- UPDATE is for the row locks of the removal: two hubs that sweep pass each other by.
        GRANT SELECT, INSERT, UPDATE, DELETE ON recado.ticket TO recado_hub;
    END IF;
EXCEPTION
    WHEN insufficient_privilege THEN NULL;
END $$;
