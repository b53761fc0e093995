-- Delivery facts: when each connection was sent a number, and when each device acknowledged it.

-- Append-only history. One row a connection and interval in which something moved, and one at its end; so a busy
-- connection costs a row a second and a quiet one nothing. What did not move since the connection's last row is NULL.
--
-- A row says: "up to `sent_seq` was sent, the last of it at `sent_at`", and the same of acked. So N was sent in a
-- connection by its first row with sent_seq >= N: exactly then when that row names N itself, and otherwise not later than
-- then and not before the row before it. Nothing is ever dated too early. Times are on the database's clock, like
-- created_at of the log: the hub tells how long ago a thing was, not when.
--
-- `session_id` is NULL for an acknowledgement that came by POST, beside any connection. The first row of a session may
-- acknowledge the place that it began at: that place was sent in an earlier session, and confirmed by naming it.
-- Numbers belong to the history `log_id`; compare it with the log's, as numbers of two histories mean nothing to each other.
CREATE TABLE recado.progress (
    session_id uuid,
    user_id    text   NOT NULL,
    client_id  text   NOT NULL,
    log_id     uuid   NOT NULL,
    sent_seq   bigint,
    sent_at    timestamptz,
    acked_seq  bigint,
    acked_at   timestamptz,
    CONSTRAINT progress_is_some CHECK (sent_seq IS NOT NULL OR acked_seq IS NOT NULL),
    CONSTRAINT sent_has_a_time CHECK ((sent_seq IS NULL) = (sent_at IS NULL)),
    CONSTRAINT acked_has_a_time CHECK ((acked_seq IS NULL) = (acked_at IS NULL)),
    CONSTRAINT sent_on_a_connection CHECK (sent_seq IS NULL OR session_id IS NOT NULL)
);
COMMENT ON TABLE recado.progress IS 'How far each connection was sent and each device acknowledged, and when.';
-- Serves "when was N sent in this session": its first row with sent_seq >= N; and retention: the rows of a session.
CREATE INDEX progress_sent ON recado.progress (session_id, sent_seq);
-- Serves "when did this device acknowledge N": its rows with acked_seq >= N. Two connections of one device, on two hubs
-- perhaps, write side by side: the lowest number is not always the earliest, so the time stands in the index as well.
CREATE INDEX progress_acked ON recado.progress (user_id, client_id, log_id, acked_seq, acked_at) WHERE acked_seq IS NOT NULL;
-- Serves retention: the rows that speak only of numbers that are gone.
CREATE INDEX progress_number ON recado.progress (greatest(sent_seq, acked_seq));
-- Serves retention by age for the rows without a session.
CREATE INDEX progress_beside ON recado.progress (acked_at) WHERE session_id IS NULL;

REVOKE ALL ON recado.progress FROM PUBLIC;

-- Append-only for the hub: it may add and read. Retention acts as the owner. The role may not exist, see V3.
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'recado_hub') THEN
        GRANT SELECT, INSERT ON recado.progress TO recado_hub;
    END IF;
EXCEPTION
    WHEN insufficient_privilege THEN NULL;
END $$;
