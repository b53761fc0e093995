-- Upstream sessions: one a (provider, user), held by one instance at a time, and the commands that users send through them.
--
-- The fence. Whoever acts for a session names itself (`owner`) and its `term`, and every write of it is refused unless
-- both stand in the row and the lease is not over by the clock of the database. A lease that is over is over: it is
-- never renewed, only claimed anew under a higher term. So an instance that was frozen changes nothing when it wakes.
--
-- Order of locks: session rows by (provider, user_id), then commands, then the lock of the log. Whoever takes several
-- sessions takes them in this order or skips what is locked; nobody who holds a command or the lock of the log asks for a
-- session. Appends and the mover know neither sessions nor commands. So no circle can close.

-- Terms come from one sequence, not from a counter in the row: a row may be forgotten and made again, and the key of a
-- provider's message is made of the term; a term that came twice would make new messages look like known ones.
CREATE SEQUENCE recado.upstream_term;
-- Rises with each change of a state that users or admins see. Drawn before the commit, so a reader that goes by it may pass
-- a slow one by; readers look at everything of theirs now and then.
CREATE SEQUENCE recado.upstream_version;

-- `secret`: the provider's own session id, encrypted by the hub. `status` is what the user was told last, `message` the
-- text with it, `error` why the last try failed: they outlive the states in between, so that a hand-over is not seen.
-- `early_try_at`: a new connection of the user brings a long wait's next try forward to this. `was_live`: it has been live
-- since it began, so the next connection follows a gap. `asked`: what an admin wants of the owner. fillfactor 50, and no index on what a renewal changes: renewals stay on
-- their page (HOT).
CREATE TABLE recado.upstream_session (
    provider        text        NOT NULL,
    user_id         text        NOT NULL,
    state           text        NOT NULL DEFAULT 'waiting' CONSTRAINT state_is_known CHECK (
                        state IN ('waiting', 'signing_in', 'connecting', 'live', 'backing_off', 'refused', 'idle', 'released')),
    status          text        CONSTRAINT status_is_known CHECK (status IN ('connected', 'disconnected')),
    message         text,
    error           text,
    secret          bytea,
    attempts        integer     NOT NULL DEFAULT 0 CONSTRAINT attempts_are_counted_up CHECK (attempts >= 0),
    next_try_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    early_try_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    was_live        boolean     NOT NULL DEFAULT false,
    connected_at    timestamptz,
    last_message_at timestamptz,
    last_ping_at    timestamptz,
    asked           text        CONSTRAINT asked_is_known CHECK (asked IN ('reconnect', 'release')),
    owner           uuid,
    term            bigint      NOT NULL DEFAULT 0,
    lease_until     timestamptz,
    wanted_until    timestamptz NOT NULL,
    version         bigint      NOT NULL DEFAULT nextval('recado.upstream_version'),
    created_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (provider, user_id),
    CONSTRAINT provider_is_a_name CHECK (provider ~ '^[a-z0-9][a-z0-9_-]{0,31}$'),
    CONSTRAINT owner_has_a_lease CHECK ((owner IS NULL) = (lease_until IS NULL)),
    -- What has ended is nobody's: a claim would begin it again against the user's or the admin's will.
    CONSTRAINT ended_has_no_owner CHECK (owner IS NULL OR state NOT IN ('refused', 'idle', 'released'))
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);
-- Serves the claim: "who is free and due".
CREATE INDEX upstream_session_free ON recado.upstream_session (next_try_at)
    WHERE owner IS NULL AND state NOT IN ('refused', 'idle', 'released');
-- Serves the claim as well, "whose lease is over" among those that have an owner, and "what does this instance hold".
CREATE INDEX upstream_session_owned ON recado.upstream_session (owner) WHERE owner IS NOT NULL;
-- Serves "the states of this user", over all providers.
CREATE INDEX upstream_session_by_user ON recado.upstream_session (user_id);
-- Serves "which states changed since".
CREATE INDEX upstream_session_changed ON recado.upstream_session (version);

-- One row a command, for good: who sent it, when, and what became of it. It is stored before a byte of it leaves.
-- `place` gives the order within a session; `id` is the client's own name of it, or one that the hub made. `reject_at`:
-- nobody may take it after that, and somebody will say so. `term` is the one under which it was taken.
CREATE TABLE recado.upstream_command (
    command_id  uuid        PRIMARY KEY,
    place       bigint      NOT NULL GENERATED ALWAYS AS IDENTITY,
    provider    text        NOT NULL,
    user_id     text        NOT NULL,
    client_id   text        NOT NULL,
    session_id  uuid        NOT NULL,
    id          text        NOT NULL,
    type        text        NOT NULL,
    payload     json,
    state       text        NOT NULL CONSTRAINT state_is_known CHECK (
                    state IN ('accepted', 'sending', 'sent', 'rejected', 'failed', 'unknown')),
    term        bigint,
    accepted_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    reject_at   timestamptz NOT NULL,
    taken_at    timestamptz,
    settled_at  timestamptz,
    detail      text,
    CONSTRAINT one_command_an_id UNIQUE (provider, user_id, id),
    CONSTRAINT taken_under_a_term CHECK ((term IS NULL) = (taken_at IS NULL) AND (term IS NULL) = (state IN ('accepted', 'rejected'))),
    CONSTRAINT settled_has_a_time CHECK ((settled_at IS NULL) = (state IN ('accepted', 'sending')))
) WITH (fillfactor = 70);
-- Serves the owner ("what is next"), the claim ("what did the last owner leave") and the look for what waits too long.
-- Holds the few commands that are under way.
CREATE INDEX upstream_command_open ON recado.upstream_command (provider, user_id, place) WHERE state IN ('accepted', 'sending');
-- Serves a device that comes back ("what became of mine") and "what did this user send".
CREATE INDEX upstream_command_by_device ON recado.upstream_command (user_id, client_id, accepted_at);
-- Serves retention and questions by time.
CREATE INDEX upstream_command_accepted_at ON recado.upstream_command USING brin (accepted_at);

-- A command goes forward only: accepted, sending, settled; or accepted, rejected. What it says never changes.
CREATE FUNCTION recado.command_goes_forward() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT (old.state = 'accepted' AND new.state IN ('sending', 'rejected')
            OR old.state = 'sending' AND new.state IN ('sent', 'failed', 'unknown'))
       OR (old.state = 'sending' AND (new.term, new.taken_at) IS DISTINCT FROM (old.term, old.taken_at))
       OR (new.command_id, new.place, new.provider, new.user_id, new.client_id, new.session_id, new.id, new.type, new.payload::text,
           new.accepted_at, new.reject_at)
          IS DISTINCT FROM
          (old.command_id, old.place, old.provider, old.user_id, old.client_id, old.session_id, old.id, old.type, old.payload::text,
           old.accepted_at, old.reject_at)
    THEN
        RAISE EXCEPTION 'a command goes forward only: % to % is refused', old.state, new.state USING ERRCODE = 'RC008';
    END IF;
    RETURN new;
END $$;
CREATE TRIGGER command_goes_forward BEFORE UPDATE ON recado.upstream_command
    FOR EACH ROW EXECUTE FUNCTION recado.command_goes_forward();

-- A hint, as every NOTIFY. `what` is want, ask, state or command; the last two name the session. Returns something, so that
-- a statement can count for how many rows it was given.
CREATE FUNCTION recado.upstream_hint(what text, p_provider text DEFAULT NULL, p_user_id text DEFAULT NULL) RETURNS boolean
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    SELECT pg_notify('recado_upstream', concat_ws(' ', what, p_provider, p_user_id));
    SELECT true;
$$;

-- Takes sessions that are wanted, due, and free or left by their owner, each under a new term. What the last owner had
-- taken and not settled is unknown from now on. That is a statement of its own, after the lock: one that looked for it in
-- the snapshot of the claim could miss a command that was taken while the claim began.
CREATE FUNCTION recado.upstream_claim(p_instance uuid, p_lease_seconds double precision, p_most integer, p_providers text[])
RETURNS TABLE (provider text, user_id text, term bigint, secret bytea, attempts integer, state text, unknown integer, live_until timestamptz)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    due       record;
    new_term  bigint;
    marked    integer;
BEGIN
    FOR due IN
        SELECT s.provider, s.user_id, s.state, s.secret, s.attempts,
               -- An owner that was lost may have been connected without having written so.
               CASE WHEN s.was_live OR s.owner IS NOT NULL AND s.state = 'connecting'
                    THEN coalesce(greatest(s.connected_at, s.last_message_at, s.last_ping_at), s.updated_at) END AS live_until
          FROM recado.upstream_session s
         WHERE s.provider = ANY (p_providers)
           AND s.state NOT IN ('refused', 'idle', 'released')
           AND (s.owner IS NULL OR s.lease_until <= clock_timestamp())
           AND s.next_try_at <= clock_timestamp()
           AND s.wanted_until > clock_timestamp()
         ORDER BY s.next_try_at
         LIMIT p_most
           FOR UPDATE SKIP LOCKED
    LOOP
        new_term := nextval('recado.upstream_term');
        UPDATE recado.upstream_session s
           SET owner = p_instance, term = new_term, lease_until = clock_timestamp() + make_interval(secs => p_lease_seconds),
               state = 'waiting', updated_at = clock_timestamp(),
               version = CASE s.state WHEN 'waiting' THEN s.version ELSE nextval('recado.upstream_version') END
         WHERE s.provider = due.provider AND s.user_id = due.user_id;
        UPDATE recado.upstream_command c
           SET state = 'unknown', settled_at = clock_timestamp(), detail = 'owner_lost'
         WHERE c.provider = due.provider AND c.user_id = due.user_id AND c.state = 'sending' AND c.term < new_term;
        GET DIAGNOSTICS marked = ROW_COUNT;
        IF marked > 0 THEN
            PERFORM recado.upstream_hint('command', due.provider, due.user_id);
        END IF;
        RETURN QUERY SELECT due.provider, due.user_id, new_term, due.secret, due.attempts, due.state, marked, due.live_until;
    END LOOP;
END $$;

-- The sessions of a list that this instance holds under the terms that it names, kept so until the transaction ends.
CREATE FUNCTION recado.upstream_hold(p_instance uuid, p_provider text[], p_user_id text[], p_term bigint[])
RETURNS TABLE (provider text, user_id text, term bigint)
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    SELECT s.provider, s.user_id, s.term
      FROM recado.upstream_session s
      JOIN (SELECT DISTINCT u.provider, u.user_id, u.term FROM unnest(p_provider, p_user_id, p_term) AS u (provider, user_id, term)) h
        ON h.provider = s.provider AND h.user_id = s.user_id AND h.term = s.term
     WHERE s.owner = p_instance AND s.lease_until > clock_timestamp()
     ORDER BY s.provider, s.user_id
       FOR SHARE OF s
$$;

-- Takes the next commands of the sessions that this instance holds: after this commit, and not before, their bytes may leave.
CREATE FUNCTION recado.upstream_take(p_instance uuid, p_provider text[], p_user_id text[], p_term bigint[], p_most integer)
RETURNS TABLE (command_id uuid, provider text, user_id text, term bigint, place bigint, type text, payload text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    held_provider text[];
    held_user_id  text[];
    held_term     bigint[];
BEGIN
    SELECT array_agg(h.provider), array_agg(h.user_id), array_agg(h.term) INTO held_provider, held_user_id, held_term
      FROM recado.upstream_hold(p_instance, p_provider, p_user_id, p_term) h;
    RETURN QUERY
    WITH next AS (
        SELECT c.command_id, h.term
          FROM unnest(held_provider, held_user_id, held_term) AS h (provider, user_id, term)
          JOIN recado.upstream_command c ON c.provider = h.provider AND c.user_id = h.user_id
         WHERE c.state = 'accepted' AND c.reject_at > clock_timestamp()
         ORDER BY c.provider, c.user_id, c.place
         LIMIT p_most
           FOR UPDATE OF c),
    taken AS (
        UPDATE recado.upstream_command c
           SET state = 'sending', term = n.term, taken_at = clock_timestamp()
          FROM next n
         WHERE c.command_id = n.command_id AND c.state = 'accepted'
        RETURNING c.command_id, c.provider, c.user_id, c.term, c.place, c.type, c.payload::text)
    SELECT * FROM taken t ORDER BY t.provider, t.user_id, t.place;
END $$;

-- Stores a command, or says what is known of one with the same id. A session that ended for being idle begins again
-- for it; one that was refused or released does not, and the command is rejected at once.
CREATE FUNCTION recado.upstream_accept(
    p_command_id uuid, p_provider text, p_user_id text, p_client_id text, p_session_id uuid, p_id text, p_type text, p_payload text,
    p_wait_seconds double precision,
    OUT is_new boolean, OUT same boolean, OUT command_id uuid, OUT state text, OUT detail text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    ended text;
BEGIN
    -- First, and only where it ended: the session before the command, as everywhere.
    UPDATE recado.upstream_session s
       SET state = 'waiting', attempts = 0, next_try_at = clock_timestamp(), was_live = false, updated_at = clock_timestamp(),
           version = nextval('recado.upstream_version')
     WHERE s.provider = p_provider AND s.user_id = p_user_id AND s.state = 'idle'
       AND NOT EXISTS (SELECT FROM recado.upstream_command c
                        WHERE c.provider = p_provider AND c.user_id = p_user_id AND c.id = p_id);
    SELECT s.state INTO ended
      FROM recado.upstream_session s
     WHERE s.provider = p_provider AND s.user_id = p_user_id AND s.state IN ('refused', 'released');
    INSERT INTO recado.upstream_command AS c
           (command_id, provider, user_id, client_id, session_id, id, type, payload, state, settled_at, reject_at, detail)
    VALUES (p_command_id, p_provider, p_user_id, p_client_id, p_session_id, p_id, p_type, p_payload::json,
            CASE WHEN ended IS NULL THEN 'accepted' ELSE 'rejected' END,
            CASE WHEN ended IS NOT NULL THEN clock_timestamp() END,
            clock_timestamp() + make_interval(secs => p_wait_seconds), ended)
    ON CONFLICT ON CONSTRAINT one_command_an_id DO NOTHING
    RETURNING c.command_id, c.state, c.detail INTO command_id, state, detail;
    is_new := FOUND;
    same := true;
    IF is_new AND ended IS NULL THEN
        PERFORM recado.upstream_hint('command', p_provider, p_user_id);
    ELSIF NOT is_new THEN
        -- A statement of its own: its snapshot sees the row that the insert has waited for.
        SELECT c.command_id, c.state, c.detail, c.type = p_type AND c.payload::text IS NOT DISTINCT FROM p_payload
          INTO command_id, state, detail, same
          FROM recado.upstream_command c
         WHERE c.provider = p_provider AND c.user_id = p_user_id AND c.id = p_id;
    END IF;
END $$;

-- Appends what providers sent, as recado.append does, but for the rows whose session this instance does not hold under the
-- term that it names: their places come back in `passed`. The sessions stay held until the commit: a claim that runs at
-- the same time skips them, so nothing is appended after the first act of a next owner.
CREATE FUNCTION recado.upstream_append(
    p_instance uuid, p_provider text[], p_session_user_id text[], p_term bigint[],
    p_hint bigint, p_hint_id uuid, p_origin text,
    p_id uuid[], p_type text[], p_title text[], p_message text[], p_data text[],
    p_topic text[], p_user_id text[], p_ttl_seconds integer[], p_replay boolean[], p_source text[], p_key uuid[], p_body bigint[],
    OUT passed integer[], OUT first_seq bigint, OUT appended integer, OUT created_at timestamptz,
    OUT known_place integer[], OUT known_seq bigint[], OUT known_id uuid[], OUT known_created_at timestamptz[], OUT known_same_body boolean[])
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $$
#variable_conflict use_column
DECLARE
    held_provider text[];
    held_user_id  text[];
    held_term     bigint[];
    places        integer[];
    done          record;
BEGIN
    -- A statement of its own, and no join around it: what is held must not depend on a plan.
    SELECT array_agg(h.provider), array_agg(h.user_id), array_agg(h.term) INTO held_provider, held_user_id, held_term
      FROM recado.upstream_hold(p_instance, p_provider, p_session_user_id, p_term) h;
    SELECT array_agg(u.place ORDER BY u.place) FILTER (WHERE h.term IS NOT NULL),
           coalesce(array_agg(u.place ORDER BY u.place) FILTER (WHERE h.term IS NULL), '{}')
      INTO places, passed
      FROM unnest(p_provider, p_session_user_id, p_term) WITH ORDINALITY AS u (provider, user_id, term, place)
      LEFT JOIN unnest(held_provider, held_user_id, held_term) AS h (provider, user_id, term) USING (provider, user_id, term);
    appended := 0;
    IF places IS NULL THEN
        -- Nothing holds: the lock of the log is not taken for it.
        RETURN;
    END IF;
    -- Of a session that has brought something, the next connection follows a gap, whatever else its owner could write down.
    -- The rows are held already, in the order of locks.
    UPDATE recado.upstream_session s
       SET was_live = true
      FROM unnest(held_provider, held_user_id) AS h (provider, user_id)
     WHERE s.provider = h.provider AND s.user_id = h.user_id AND NOT s.was_live;
    IF passed <> '{}' THEN
        SELECT array_agg(p_id[at] ORDER BY n), array_agg(p_type[at] ORDER BY n), array_agg(p_title[at] ORDER BY n),
               array_agg(p_message[at] ORDER BY n), array_agg(p_data[at] ORDER BY n), array_agg(p_topic[at] ORDER BY n),
               array_agg(p_user_id[at] ORDER BY n), array_agg(p_ttl_seconds[at] ORDER BY n), array_agg(p_replay[at] ORDER BY n),
               array_agg(p_source[at] ORDER BY n), array_agg(p_key[at] ORDER BY n), array_agg(p_body[at] ORDER BY n)
          INTO p_id, p_type, p_title, p_message, p_data, p_topic, p_user_id, p_ttl_seconds, p_replay, p_source, p_key, p_body
          FROM unnest(places) WITH ORDINALITY AS u (at, n);
    END IF;
    SELECT a.* INTO done
      FROM recado.append(p_hint, p_hint_id, p_origin, p_id, p_type, p_title, p_message, p_data, p_topic, p_user_id,
                         array_fill(NULL::text, ARRAY[cardinality(p_id)]), array_fill(NULL::text, ARRAY[cardinality(p_id)]),
                         p_ttl_seconds, p_replay, p_source, p_key, p_body) a;
    first_seq := done.first_seq;
    appended := done.appended;
    created_at := done.created_at;
    -- By their places in what this function was given.
    SELECT array_agg(places[k] ORDER BY k) INTO known_place FROM unnest(done.known_place) AS k;
    known_seq := done.known_seq;
    known_id := done.known_id;
    known_created_at := done.known_created_at;
    known_same_body := done.known_same_body;
END $$;

-- For analysts, among their other views: who sent what when, and what became of it, without what it said, which is between
-- the user and the provider; and how the sessions stand, without their secrets.
CREATE VIEW recado_views.upstream_commands AS
SELECT c.command_id, c.provider, c.user_id, c.client_id, c.session_id, c.id, c.type, c.state, c.detail, c.accepted_at, c.taken_at, c.settled_at,
       c.settled_at - c.accepted_at AS time_to_settle, c.term, octet_length(c.payload::text) AS payload_bytes
  FROM recado.upstream_command c;

CREATE VIEW recado_views.upstream_sessions AS
SELECT s.provider, s.user_id, s.state, coalesce(s.state = 'live' AND s.lease_until > clock_timestamp(), false) AS is_live,
       s.wanted_until > clock_timestamp() AS is_wanted, s.status, s.attempts, s.error, s.connected_at, s.last_message_at, s.last_ping_at,
       s.next_try_at, s.wanted_until, s.owner AS instance_id, s.term, s.created_at, s.updated_at
  FROM recado.upstream_session s;

-- The comments: each line is view, column (NULL: the view itself), text.
DO $$
DECLARE
    c record;
BEGIN
    FOR c IN SELECT * FROM (VALUES
        ('upstream_commands', NULL, 'Every command of a user to a provider, one row each: who sent what when, and what became of it. What it said is not shown.'),
        ('upstream_commands', 'command_id', 'The hub''s own id of the command; ids rise with time.'),
        ('upstream_commands', 'provider', 'To whom, by the name in the provider file.'),
        ('upstream_commands', 'user_id', 'Who sent it.'),
        ('upstream_commands', 'client_id', 'The device that sent it.'),
        ('upstream_commands', 'session_id', 'The connection that it came on; see sessions.'),
        ('upstream_commands', 'id', 'The client''s own id of it, or one that the hub gave; the same id again is the same command.'),
        ('upstream_commands', 'type', 'What it is, such as bet.'),
        ('upstream_commands', 'state', 'accepted, sending, or what became of it: sent (it left, once), rejected (it never left), failed (it could not leave), unknown (the hub was lost while it may have been leaving).'),
        ('upstream_commands', 'detail', 'Why, where it was not sent: not_taken, refused, released, owner_lost and the like.'),
        ('upstream_commands', 'accepted_at', 'When it was stored. Ask with a range of it: it is indexed.'),
        ('upstream_commands', 'taken_at', 'When the hub that holds the session took it, before a byte left; NULL: never.'),
        ('upstream_commands', 'settled_at', 'When it was known what became of it; NULL: it is under way.'),
        ('upstream_commands', 'time_to_settle', 'From accepted_at to settled_at.'),
        ('upstream_commands', 'term', 'Under which term of its session it was taken; NULL: never.'),
        ('upstream_commands', 'payload_bytes', 'How long what it said was, in bytes.'),
        ('upstream_sessions', NULL, 'Every session of a user with a provider, one row each, as it stands now. Not its secrets.'),
        ('upstream_sessions', 'provider', 'With whom, by the name in the provider file.'),
        ('upstream_sessions', 'user_id', 'Whose it is.'),
        ('upstream_sessions', 'state', 'waiting, signing_in, connecting, live, backing_off, refused, idle or released; docs/upstream-database.md says what each means.'),
        ('upstream_sessions', 'is_live', 'It is connected: its state is live and the hub that holds it is not lost.'),
        ('upstream_sessions', 'is_wanted', 'Its user is connected to a hub, or was a moment ago.'),
        ('upstream_sessions', 'status', 'What the user was told last: connected or disconnected; NULL: nothing yet.'),
        ('upstream_sessions', 'attempts', 'How many tries have failed in a row.'),
        ('upstream_sessions', 'error', 'Why the last try failed, as the user was told; NULL: it did not.'),
        ('upstream_sessions', 'connected_at', 'When it was connected last; NULL: never.'),
        ('upstream_sessions', 'last_message_at', 'When the provider said something last, some seconds old.'),
        ('upstream_sessions', 'last_ping_at', 'When the provider was sent a keep-alive last, some seconds old.'),
        ('upstream_sessions', 'next_try_at', 'Not before this is another try made.'),
        ('upstream_sessions', 'wanted_until', 'Until when somebody wants it.'),
        ('upstream_sessions', 'instance_id', 'The hub that holds it; NULL: none.'),
        ('upstream_sessions', 'term', 'Rises each time that a hub takes it.'),
        ('upstream_sessions', 'created_at', 'When it was first wanted.'),
        ('upstream_sessions', 'updated_at', 'When its row changed last.')
    ) AS v (view, col, text) LOOP
        IF c.col IS NULL THEN
            EXECUTE format('COMMENT ON VIEW recado_views.%I IS %L', c.view, c.text);
        ELSE
            EXECUTE format('COMMENT ON COLUMN recado_views.%I.%I IS %L', c.view, c.col, c.text);
        END IF;
    END LOOP;
END $$;

REVOKE ALL ON recado.upstream_session, recado.upstream_command FROM PUBLIC;
REVOKE ALL ON recado_views.upstream_commands, recado_views.upstream_sessions FROM PUBLIC;
REVOKE ALL ON SEQUENCE recado.upstream_term, recado.upstream_version FROM PUBLIC;
REVOKE ALL ON FUNCTION recado.command_goes_forward(), recado.upstream_hint(text, text, text),
    recado.upstream_claim(uuid, double precision, integer, text[]),
    recado.upstream_hold(uuid, text[], text[], bigint[]),
    recado.upstream_take(uuid, text[], text[], bigint[], integer),
    recado.upstream_accept(uuid, text, text, text, uuid, text, text, text, double precision),
    recado.upstream_append(uuid, text[], text[], bigint[], bigint, uuid, text, uuid[], text[], text[], text[], text[], text[], text[],
                           integer[], boolean[], text[], uuid[], bigint[]) FROM PUBLIC;

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'recado_hub') THEN
        GRANT SELECT, INSERT, UPDATE ON recado.upstream_session TO recado_hub;
        -- A command is made and taken by the functions alone; settling and rejecting are single statements.
        GRANT SELECT ON recado.upstream_command TO recado_hub;
        GRANT UPDATE (state, settled_at, detail) ON recado.upstream_command TO recado_hub;
        GRANT USAGE ON SEQUENCE recado.upstream_version TO recado_hub;
        GRANT EXECUTE ON FUNCTION recado.command_goes_forward(), recado.upstream_hint(text, text, text),
            recado.upstream_claim(uuid, double precision, integer, text[]),
            recado.upstream_take(uuid, text[], text[], bigint[], integer),
            recado.upstream_accept(uuid, text, text, text, uuid, text, text, text, double precision),
            recado.upstream_append(uuid, text[], text[], bigint[], bigint, uuid, text, uuid[], text[], text[], text[], text[], text[], text[],
                                   integer[], boolean[], text[], uuid[], bigint[]) TO recado_hub;
    END IF;
EXCEPTION
    WHEN insufficient_privilege THEN NULL;
END $$;

-- What was granted to analysts before was granted view by view.
DO $$
BEGIN
    PERFORM recado.equip_analysts();
EXCEPTION
    WHEN insufficient_privilege THEN NULL;
END $$;
