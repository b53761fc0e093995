-- Takes access back: revoked users, orders to close connections, and newer tokens for open streams.

-- Tokens of this user that were issued before `not_before`, or that do not say when, are refused. A row stays until an
-- admin lifts the revocation: a token may be valid again after any time, if its issuer gave it a late end.
CREATE TABLE recado.revocation (
    user_id    text        PRIMARY KEY,
    not_before timestamptz NOT NULL,
    reason     text        NOT NULL DEFAULT '',
    revoked_by text        NOT NULL,
    revoked_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- RFC 3339 writes years of four digits.
    CONSTRAINT not_before_can_be_written CHECK (not_before BETWEEN '0001-01-01Z' AND '9999-12-31Z')
);
COMMENT ON TABLE recado.revocation IS 'Users whose older tokens are refused. Written by recado.revoke_user and recado.lift_revocation alone.';
REVOKE ALL ON recado.revocation FROM PUBLIC;

-- The changes that each hub applies, in the order of their revisions. A hub reads them every two seconds, and sooner
-- when a NOTIFY says so. They are kept for a day; a hub that was away for longer reads everything again.
CREATE TABLE recado.access_change (
    revision   bigint      PRIMARY KEY,
    change_id  uuid        NOT NULL,
    kind       text        NOT NULL,
    subject    text        NOT NULL,
    not_before timestamptz,
    made_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT kind_is_known
        CHECK (kind IN ('revoke_user', 'lift_revocation', 'close_session', 'close_user', 'close_account', 'change_keys'))
);
-- Serves the removal of old changes.
CREATE INDEX access_change_made ON recado.access_change (made_at);
REVOKE ALL ON recado.access_change FROM PUBLIC;

-- One row: the revision of the last change, and its id. Its lock puts changes in order, so that no hub sees a later one
-- first. The id tells a hub that a restored database gave the number to another change.
CREATE TABLE recado.access_state (
    is_only  boolean PRIMARY KEY DEFAULT true CHECK (is_only),
    revision bigint  NOT NULL DEFAULT 0,
    change_id uuid   NOT NULL DEFAULT gen_random_uuid()
);
INSERT INTO recado.access_state DEFAULT VALUES;
REVOKE ALL ON recado.access_state FROM PUBLIC;

CREATE FUNCTION recado.note_access_change(p_kind text, p_subject text, p_not_before timestamptz) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    n  bigint;
    id uuid;
BEGIN
    UPDATE recado.access_state s SET revision = s.revision + 1, change_id = gen_random_uuid() RETURNING s.revision, s.change_id INTO n, id;
    INSERT INTO recado.access_change (revision, change_id, kind, subject, not_before) VALUES (n, id, p_kind, p_subject, p_not_before);
    PERFORM pg_notify('recado', 'access');
    RETURN n;
END $$;

-- Refuses the user's tokens that were issued before `p_not_before` (NULL: from the next whole second on, because tokens
-- name whole seconds), closes the connections that came with
-- them, and deletes the user's tickets. An earlier revocation of the user stays if it refuses more. Returns the time
-- before which tokens are refused. The last three parameters are for recado.audit: who asks, how, and from where.
CREATE FUNCTION recado.revoke_user(
    p_user_id text, p_not_before timestamptz DEFAULT NULL, p_reason text DEFAULT '',
    p_who text DEFAULT NULL, p_via text DEFAULT NULL, p_address text DEFAULT NULL) RETURNS timestamptz
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    before timestamptz := coalesce(p_not_before, date_trunc('second', clock_timestamp()) + interval '1 second');
BEGIN
    INSERT INTO recado.revocation AS r (user_id, not_before, reason, revoked_by) VALUES (p_user_id, before, p_reason, coalesce(p_who, 'login:' || session_user))
        ON CONFLICT (user_id) DO UPDATE
           SET not_before = greatest(r.not_before, excluded.not_before), reason = excluded.reason,
               revoked_by = excluded.revoked_by, revoked_at = clock_timestamp()
    RETURNING r.not_before INTO before;
    DELETE FROM recado.ticket t WHERE t.user_id = p_user_id;
    PERFORM recado.note_access_change('revoke_user', p_user_id, before);
    PERFORM recado.audit('user.revoke', p_details => jsonb_build_object('not_before', before), p_reason => nullif(p_reason, ''),
                         p_user_id => p_user_id, p_who => p_who, p_via => p_via, p_address => p_address);
    RETURN before;
END $$;

-- Accepts the user's older tokens again. Returns whether there was a revocation.
CREATE FUNCTION recado.lift_revocation(
    p_user_id text, p_who text DEFAULT NULL, p_via text DEFAULT NULL, p_address text DEFAULT NULL) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM recado.revocation r WHERE r.user_id = p_user_id;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    PERFORM recado.note_access_change('lift_revocation', p_user_id, NULL);
    PERFORM recado.audit('user.lift', p_user_id => p_user_id, p_who => p_who, p_via => p_via, p_address => p_address);
    RETURN true;
END $$;

-- Closes a session, or all sessions of a user or of an account, once. Their tickets are deleted. Returns how many
-- sessions were open, as far as the hubs have stored them.
CREATE FUNCTION recado.close_sessions(
    p_kind text, p_subject text, p_who text DEFAULT NULL, p_via text DEFAULT NULL, p_address text DEFAULT NULL) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    n bigint;
BEGIN
    CASE p_kind
        WHEN 'session' THEN
            SELECT count(*) INTO n FROM recado.session s WHERE s.session_id = p_subject::uuid AND s.ended_at IS NULL;
        WHEN 'user' THEN
            SELECT count(*) INTO n FROM recado.session s WHERE s.user_id = p_subject AND s.ended_at IS NULL;
            DELETE FROM recado.ticket t WHERE t.user_id = p_subject;
        WHEN 'account' THEN
            SELECT count(*) INTO n FROM recado.session s
             WHERE s.ended_at IS NULL
               AND (p_subject = ANY (s.account_ids)
                    OR s.follows_members AND EXISTS (
                       SELECT FROM recado.member m
                        WHERE m.user_id = s.user_id AND m.account_id = p_subject AND m.until_seq IS NULL));
            DELETE FROM recado.ticket t
             WHERE p_subject = ANY (t.account_ids)
                OR EXISTS (SELECT FROM recado.member m
                            WHERE m.user_id = t.user_id AND m.account_id = p_subject AND m.until_seq IS NULL);
    END CASE;
    PERFORM recado.note_access_change('close_' || p_kind, p_subject, NULL);
    PERFORM recado.audit('session.close', CASE WHEN p_kind <> 'user' THEN p_kind || '/' || p_subject END,
                         jsonb_build_object('sessions', n), p_user_id => CASE WHEN p_kind = 'user' THEN p_subject END,
                         p_who => p_who, p_via => p_via, p_address => p_address);
    RETURN n;
END $$;

-- A revoked key is refused by each hub that reads this change, whichever program revoked it.
CREATE FUNCTION recado.note_key_change() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM recado.note_access_change('change_keys', old.name, NULL);
    RETURN NULL;
END $$;
CREATE TRIGGER key_changes_are_noted AFTER UPDATE OF revoked_at OR DELETE ON recado.service_key
    FOR EACH ROW EXECUTE FUNCTION recado.note_key_change();

-- When the token was issued that a ticket was made with. NULL in tickets of hubs of an earlier version.
ALTER TABLE recado.ticket ADD COLUMN token_issued_at timestamptz;

-- A newer token for an open stream, from the hub that received it to the hub that serves the stream. UNLOGGED: a stream
-- whose renewal was lost ends with its older token, and its client connects again.
CREATE UNLOGGED TABLE recado.token_renewal (
    session_id  uuid        PRIMARY KEY,
    instance_id uuid        NOT NULL,
    user_id     text        NOT NULL,
    expires_at  timestamptz NOT NULL,
    issued_at   timestamptz,
    key_tag     bigint,
    made_at     timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX token_renewal_of_instance ON recado.token_renewal (instance_id);
REVOKE ALL ON recado.token_renewal FROM PUBLIC;

-- Removes changes that are older than a day, and newer tokens that no hub took. The last change stays: hubs compare its
-- id.
CREATE FUNCTION recado.trim_access_changes() RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    DELETE FROM recado.access_change c
     WHERE c.made_at < statement_timestamp() - interval '1 day' AND c.revision < (SELECT s.revision FROM recado.access_state s);
    DELETE FROM recado.token_renewal r WHERE r.made_at < statement_timestamp() - interval '1 minute';
$$;

REVOKE ALL ON FUNCTION recado.note_access_change(text, text, timestamptz), recado.trim_access_changes(), recado.revoke_user(text, timestamptz, text, text, text, text),
    recado.lift_revocation(text, text, text, text), recado.close_sessions(text, text, text, text, text),
    recado.note_key_change() FROM PUBLIC;

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'recado_hub') THEN
        GRANT SELECT ON recado.revocation, recado.access_change, recado.access_state TO recado_hub;
        GRANT SELECT, INSERT, UPDATE, DELETE ON recado.token_renewal TO recado_hub;
        GRANT EXECUTE ON FUNCTION recado.trim_access_changes(), recado.revoke_user(text, timestamptz, text, text, text, text),
            recado.lift_revocation(text, text, text, text), recado.close_sessions(text, text, text, text, text) TO recado_hub;
    END IF;
EXCEPTION
    WHEN insufficient_privilege THEN NULL;
END $$;
