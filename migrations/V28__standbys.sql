-- Counts erasures, so that a hub knows whether a standby has replayed them (decision 0062). A page of the log is read
-- from a standby only if its count is not below the primary's.

-- A default that is constant changes no stored row.
ALTER TABLE recado.meta ADD COLUMN erasures bigint NOT NULL DEFAULT 0 CONSTRAINT erasures_are_counted CHECK (erasures >= 0);
COMMENT ON COLUMN recado.meta.erasures IS 'How many transactions have erased rows of the log or memberships. A standby with a lower count may still hold them.';

-- The count rises in the transaction that erases, as its last statement: the row lock is held for the commit alone.
-- Transactions that raise it commit one after the other, so a standby with count N has replayed each of the first N.
CREATE FUNCTION recado.count_erasure() RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    UPDATE recado.meta SET erasures = erasures + 1;
$$;
REVOKE ALL ON FUNCTION recado.count_erasure() FROM PUBLIC;

-- As in V23, and counted.
CREATE OR REPLACE FUNCTION recado.erase_rows(p_user_id text, p_after bigint, p_upto bigint, OUT erased bigint, OUT unlisted bigint)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    SELECT e.erased, e.unlisted INTO erased, unlisted FROM recado.erase_rows_unaudited(p_user_id, p_after, p_upto) e;
    IF erased + unlisted > 0 AND coalesce(current_setting('recado.open_erasure', true), '') = '' THEN
        PERFORM recado.audit(CASE WHEN p_user_id IS NULL THEN 'notification.erase' ELSE 'user.erase' END, NULL, jsonb_build_object(
            'after', p_after, 'upto', p_upto, 'erased', erased, 'unlisted', unlisted));
    END IF;
    IF erased + unlisted > 0 THEN
        PERFORM recado.count_erasure();
    END IF;
END $$;

-- As in V19, and counted: without its intervals a user has no rows of the accounts.
CREATE OR REPLACE FUNCTION recado.erase_members(p_user_id text) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    n     bigint;
    total bigint := 0;
BEGIN
    DELETE FROM recado.outbox o WHERE o.type = 'recado_member' AND o.topic = 'u/-' AND strpos(o.data, format('"user_id":"%s"', p_user_id)) > 0;
    GET DIAGNOSTICS n = ROW_COUNT; total := total + n;
    DELETE FROM recado.member m WHERE m.user_id = p_user_id;
    GET DIAGNOSTICS n = ROW_COUNT; total := total + n;
    IF n > 0 THEN
        PERFORM recado.count_erasure();
    END IF;
    RETURN total;
END $$;
