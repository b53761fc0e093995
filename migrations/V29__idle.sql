-- Lets the outbox relay sleep while no notification comes from SQL (decision 0063).

-- Says whether the relay sleeps. 1: it polls the outbox. Any other value is the number of the relay that sleeps, see
-- recado.relay_number. A sequence, because a caller must see a change at once, and not as of its snapshot.
CREATE SEQUENCE recado.outbox_sleep MINVALUE 1 START 1 CACHE 1;
SELECT setval('recado.outbox_sleep', 1);
REVOKE ALL ON SEQUENCE recado.outbox_sleep FROM PUBLIC;
COMMENT ON SEQUENCE recado.outbox_sleep IS '1: the outbox relay polls. Another value: the relay with this number sleeps, and a call of recado.notify wakes it with NOTIFY.';

-- The number of a relay: 60 random bits of its id, above 1.
CREATE FUNCTION recado.relay_number(p_holder uuid) RETURNS bigint LANGUAGE sql IMMUTABLE
RETURN ('x' || right(replace(p_holder::text, '-', ''), 15))::bit(60)::bigint + 2;

-- Wakes the relay when the caller's transaction commits.
--
-- A transaction that has sent a NOTIFY cannot be prepared, so none is sent where transactions can be prepared; the
-- relay does not sleep there. None is sent either while the queue of NOTIFY is half full: a full queue fails the
-- caller's commit. The relay then finds the row at its next look, within some seconds.
--
-- A hub that was killed while its relay slept leaves the flag behind. Its callers would commit one after the other
-- for as long as no hub runs. So the first call after the end of the lease clears the flag. Under REPEATABLE READ the
-- lease may be an old one, which says nothing.
CREATE FUNCTION recado.wake_outbox_relay() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF current_setting('transaction_isolation') = 'read committed'
       AND NOT EXISTS (SELECT FROM recado.lease l WHERE l.name = 'outbox' AND l.until > statement_timestamp()) THEN
        PERFORM setval('recado.outbox_sleep', 1);
        RETURN NULL;
    END IF;
    IF current_setting('max_prepared_transactions') = '0' AND pg_notification_queue_usage() < 0.5 THEN
        PERFORM pg_notify('recado_outbox', '');
    END IF;
    RETURN NULL;
END $$;

-- A trigger and not a line of recado.notify, so that no writer of the outbox can forget it. AFTER: the transaction has
-- its number before it reads the flag, and recado.outbox_doze relies on that. The condition costs a caller less than a
-- call of a function of its own would.
CREATE TRIGGER wakes_relay AFTER INSERT ON recado.outbox
    FOR EACH STATEMENT WHEN (pg_sequence_last_value('recado.outbox_sleep'::regclass) > 1)
    EXECUTE FUNCTION recado.wake_outbox_relay();

-- As in V11, but that a new holder of the lease of the outbox ends the sleep of the one before. Hubs of earlier
-- versions do not sleep: when one of them relays, callers must not send a NOTIFY at each call.
CREATE OR REPLACE FUNCTION recado.take_lease(p_name text, p_holder uuid, p_seconds integer) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    is_taken boolean;
BEGIN
    -- One that is lost in a crash of the server is taken anew.
    PERFORM set_config('synchronous_commit', 'off', true);
    INSERT INTO recado.lease AS l (name, holder, until)
    VALUES (p_name, p_holder, clock_timestamp() + make_interval(secs => p_seconds))
    ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, until = excluded.until
     WHERE l.holder = excluded.holder OR l.until < clock_timestamp() OR l.until > clock_timestamp() + interval '10 minutes';
    is_taken := FOUND;
    IF is_taken AND p_name = 'outbox' AND pg_sequence_last_value('recado.outbox_sleep'::regclass) NOT IN (1, recado.relay_number(p_holder)) THEN
        PERFORM setval('recado.outbox_sleep', 1);
    END IF;
    RETURN is_taken;
END $$;

-- As in V11, but that the relay's sleep ends with its lease, and that other hubs hear of it at once.
CREATE OR REPLACE FUNCTION recado.give_lease(p_name text, p_holder uuid) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM recado.lease WHERE name = p_name AND holder = p_holder;
    IF FOUND AND p_name = 'outbox' THEN
        PERFORM setval('recado.outbox_sleep', 1);
        PERFORM pg_notify('recado_outbox', '');
    END IF;
END $$;

-- Takes or renews the lease of the outbox, and reports its oldest waiting row. Each hub calls it every second or two.
-- `left_seconds`: seconds until the lease ends, whichever hub has it. `is_asleep`: the flag says that this relay
-- sleeps.
CREATE FUNCTION recado.outbox_turn(
    p_holder uuid, p_seconds integer,
    OUT is_ours boolean, OUT left_seconds double precision, OUT is_asleep boolean, OUT place bigint, OUT age_seconds double precision)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
    SELECT w.place, w.age_seconds INTO place, age_seconds FROM recado.outbox_waiting() w;
    is_ours := recado.take_lease('outbox', p_holder, p_seconds);
    SELECT extract(epoch FROM l.until - clock_timestamp()) INTO left_seconds FROM recado.lease l WHERE l.name = 'outbox';
    is_asleep := pg_sequence_last_value('recado.outbox_sleep'::regclass) = recado.relay_number(p_holder);
END $$;

-- Announces that this relay is going to sleep: from now on callers send a NOTIFY. Returns its number; NULL where it
-- must not sleep: another hub has the lease, or transactions can be prepared. The NOTIFY of this call proves to the
-- relay that it hears those of callers.
--
-- The relay polls on until recado.outbox_doze says that each transaction has ended that may have read the flag before.
CREATE FUNCTION recado.outbox_sleep(p_holder uuid) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    number constant bigint := recado.relay_number(p_holder);
BEGIN
    IF current_setting('max_prepared_transactions') <> '0'
       OR NOT EXISTS (SELECT FROM recado.lease l WHERE l.name = 'outbox' AND l.holder = p_holder AND l.until > statement_timestamp()) THEN
        RETURN NULL;
    END IF;
    PERFORM setval('recado.outbox_sleep', number);
    PERFORM pg_notify('recado_outbox', number::text);
    RETURN number;
END $$;

-- Ends the announcement. Nothing to do if another relay has changed the flag meanwhile.
CREATE FUNCTION recado.outbox_wake(p_holder uuid) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF pg_sequence_last_value('recado.outbox_sleep'::regclass) = recado.relay_number(p_holder) THEN
        PERFORM setval('recado.outbox_sleep', 1);
    END IF;
END $$;

-- Whether the relay may sleep now. `has_ended`: no transaction up to p_bound runs any more. `place`: a committed row
-- waits. Both of one snapshot, so a row of a transaction that has ended is either moved or reported.
--
-- p_bound is the number of a transaction that began after recado.outbox_sleep was committed. A transaction that read
-- the flag before has a lower number: it had its number before it read. One with a higher number reads the flag as it
-- is now, and sends a NOTIFY.
CREATE FUNCTION recado.outbox_doze(p_bound text, OUT has_ended boolean, OUT place bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
    SELECT pg_snapshot_xmin(pg_current_snapshot()) > p_bound::xid8, w.place INTO has_ended, place FROM recado.outbox_waiting() w;
END $$;

REVOKE ALL ON FUNCTION recado.relay_number(uuid), recado.wake_outbox_relay(), recado.outbox_turn(uuid, integer),
    recado.outbox_sleep(uuid), recado.outbox_wake(uuid), recado.outbox_doze(text) FROM PUBLIC;

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'recado_hub') THEN
        GRANT EXECUTE ON FUNCTION recado.outbox_turn(uuid, integer), recado.outbox_sleep(uuid), recado.outbox_wake(uuid),
            recado.outbox_doze(text) TO recado_hub;
    END IF;
EXCEPTION
    WHEN insufficient_privilege THEN NULL;
END $$;
