-- What the hub keeps about those who read and write: places, sessions, instances, service keys.

-- How far each device has acknowledged. One row a (user, device); it never goes back within one log.
-- fillfactor 50 and no index on a changing column: an update stays on its page (HOT) and the table does not grow.
CREATE TABLE recado.cursor (
    user_id    text        NOT NULL,
    client_id  text        NOT NULL,
    log_id     uuid        NOT NULL,
    acked_seq  bigint      NOT NULL CONSTRAINT place_is_not_negative CHECK (acked_seq >= 0),
    acked_at   timestamptz NOT NULL DEFAULT now(),
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (user_id, client_id)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0);

-- The hub processes. One that has not renewed seen_at for a while is dead or cut off; its sessions are then ended by another.
CREATE TABLE recado.instance (
    instance_id uuid        PRIMARY KEY,
    address     text        NOT NULL,
    version     text        NOT NULL,
    started_at  timestamptz NOT NULL DEFAULT now(),
    seen_at     timestamptz NOT NULL DEFAULT now(),
    ended_at    timestamptz
);

-- One row a connection, as a fact: who was connected where, from when to when, from which place, how far it was sent
-- and had acknowledged, and why it ended. So "was N delivered to U" is a question in SQL without a row a delivery.
CREATE TABLE recado.session (
    session_id       uuid        PRIMARY KEY,
    instance_id      uuid        NOT NULL,
    user_id          text        NOT NULL,
    account_ids      text[]      NOT NULL,
    client_id        text        NOT NULL,
    transport        text        NOT NULL,
    log_id           uuid        NOT NULL,
    from_seq         bigint      NOT NULL,
    sent_seq         bigint      NOT NULL,
    acked_seq        bigint      NOT NULL,
    connected_at     timestamptz NOT NULL,
    last_activity_at timestamptz NOT NULL,
    ended_at         timestamptz,
    end_reason       text,
    CONSTRAINT end_has_a_reason CHECK ((ended_at IS NULL) = (end_reason IS NULL))
) WITH (fillfactor = 50);
-- Serves /stats (who is connected now, everywhere) and the clean-up after a dead instance.
CREATE INDEX session_live ON recado.session (instance_id) WHERE ended_at IS NULL;
-- Serves "which sessions had this user".
CREATE INDEX session_by_user ON recado.session (user_id, connected_at);

-- Keys of services and admins. Only a hash is kept; a key is 256 random bits, so a plain hash is enough.
CREATE TABLE recado.service_key (
    key_id     uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    name       text        NOT NULL,
    role       text        NOT NULL CONSTRAINT role_is_known CHECK (role IN ('service', 'admin')),
    hash       bytea       NOT NULL UNIQUE,
    created_at timestamptz NOT NULL DEFAULT now(),
    revoked_at timestamptz
);
-- A name can be used again once its key is revoked: that is how a key is rotated.
CREATE UNIQUE INDEX one_live_key_a_name ON recado.service_key (name) WHERE revoked_at IS NULL;
