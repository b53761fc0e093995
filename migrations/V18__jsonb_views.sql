-- Changes `data` to jsonb in the views. json has no equality, so DISTINCT, GROUP BY, UNION and joins on it fail, and
-- tools that list the values of a column fail as well. The log itself stays json: the hub delivers data as posted, byte
-- for byte.
--
-- Views and functions that other users built on ours must not keep a hub from starting, and must not be dropped with
-- ours. An old view or function with such dependants stays unchanged for them, with `_json` added to its name.

-- Returns NULL instead of an error for values that json accepts and jsonb does not: \u0000, half a surrogate pair, and
-- numbers beyond `numeric`. recado.notify and the hub refuse these; a row that was inserted without both may hold them.
-- No EXCEPTION block: a parallel worker may not enter one.
CREATE FUNCTION recado_views.jsonb_of(data json) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
DECLARE
    text_of_it constant text := data::text;
BEGIN
    -- Remove escaped backslashes and whole surrogate pairs; the rest must hold no NUL and no half of a pair.
    IF strpos(text_of_it, '\u') > 0
       AND regexp_replace(text_of_it, '\\\\|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}', '', 'g') ~ '\\u(0000|[dD][89a-fA-F])' THEN
        RETURN NULL;
    END IF;
    -- Search for an exponent of five digits, or for a long number if the text has room for one that is too long. Inside
    -- a string both are harmless, so a match removes the strings and searches again.
    IF (text_of_it ~ '[0-9][eE][-+]?0*[1-9][0-9]{4}' OR octet_length(text_of_it) > 16000 AND text_of_it ~ '[0-9.]{251}')
       AND regexp_replace(text_of_it, '"([^"\\]|\\.)*"', '', 'g') ~ '[eE][-+]?0*[1-9][0-9]{4}|[0-9.]{251}' THEN
        RETURN NULL;
    END IF;
    RETURN data::jsonb;
END $$;
COMMENT ON FUNCTION recado_views.jsonb_of(json) IS 'JSON as jsonb; NULL where jsonb cannot hold it.';

-- These functions take the `data` of the views. They need no checks of their own, because every jsonb value can be
-- read.
CREATE FUNCTION recado_views.text_of(data jsonb, key text) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN data ->> key;
COMMENT ON FUNCTION recado_views.text_of(jsonb, text) IS 'A field of data as text; NULL where data is no object or has no such field.';

CREATE FUNCTION recado_views.number_of(data jsonb, key text) RETURNS numeric
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
DECLARE
    found constant text := recado_views.text_of(data, key);
BEGIN
    -- Accept any number that a double holds, and money as text; reject numbers that would fill a page.
    RETURN CASE WHEN found ~ '^-?[0-9]{1,100}(\.[0-9]{1,100})?([eE][-+]?[0-9]{1,2})?$' THEN found::numeric END;
END $$;
COMMENT ON FUNCTION recado_views.number_of(jsonb, text) IS 'A field of data as a number, also where it is text such as "12.50"; NULL for anything else.';

CREATE FUNCTION recado_views.integer_of(data jsonb, key text) RETURNS bigint
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
DECLARE
    found constant text := recado_views.text_of(data, key);
BEGIN
    RETURN CASE WHEN found ~ '^-?[0-9]{1,18}$' THEN found::bigint END;
END $$;
COMMENT ON FUNCTION recado_views.integer_of(jsonb, text) IS 'A field of data as a whole number of at most 18 digits; NULL for anything else.';

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA recado_views FROM PUBLIC;

-- Replaces the views with `data`, in the order of their dependencies. The old view is renamed; the new view gets its
-- columns, comments and rights. Their definitions differ only in the columns that read `data`.
DO $$
DECLARE
    v record;
    c record;
    kinds text[];
    functions constant text[] := '{text_of,number_of,integer_of}';
BEGIN
    SELECT array_agg(k.relname ORDER BY k.relname) INTO kinds
      FROM pg_class k
      JOIN pg_attribute a ON a.attrelid = k.oid AND a.attname = 'data' AND a.atttypid = 'json'::regtype
     WHERE k.relnamespace = 'recado_views'::regnamespace AND k.relkind = 'v' AND k.relname NOT IN ('notifications', 'inbox');

    -- From here on, calls by name find the new functions; the old views refer to the old functions by oid.
    FOR v IN SELECT unnest(functions) AS name LOOP
        EXECUTE format('ALTER FUNCTION recado_views.%I(json, text) RENAME TO %I', v.name, v.name || '_json');
        EXECUTE format('CREATE OR REPLACE FUNCTION recado_views.%I(data json, key text) RETURNS %s LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
                        RETURN recado_views.%I(recado_views.jsonb_of(data), key)',
                       v.name || '_json', (SELECT p.prorettype::regtype FROM pg_proc p WHERE p.oid = format('recado_views.%I(jsonb, text)', v.name)::regprocedure),
                       v.name);
    END LOOP;

    FOR v IN SELECT u.name FROM unnest(ARRAY['notifications', 'inbox'] || kinds) WITH ORDINALITY u (name, place) ORDER BY u.place LOOP
        EXECUTE format('ALTER VIEW recado_views.%I RENAME TO %I', v.name, v.name || '_json');
        IF v.name = 'notifications' THEN
            CREATE VIEW recado_views.notifications AS
            SELECT l.seq, l.id, l.created_at, l.type, l.title, l.message, recado_views.jsonb_of(l.data) AS data,
                   CASE WHEN l.topic = '*' THEN 'everyone' WHEN l.topic = 'l' THEN 'users' WHEN l.user_id IS NULL THEN 'account' ELSE 'user' END AS audience,
                   l.topic AS address, l.user_id, l.account_id, l.user_ids, l.source, l.replay, l.expires_at,
                   coalesce(l.expires_at <= now(), false) AS is_expired, l.bytes
              FROM recado.log l;
        ELSIF v.name = 'inbox' THEN
            CREATE VIEW recado_views.inbox AS
            SELECT l.topic AS address, l.seq, l.id, l.created_at, l.type, l.title, l.message, recado_views.jsonb_of(l.data) AS data, l.expires_at
              FROM recado.log l
             WHERE l.replay AND l.topic <> 'l'
             UNION ALL
            SELECT m.topic, m.seq, l.id, l.created_at, l.type, l.title, l.message, recado_views.jsonb_of(l.data), l.expires_at
              FROM recado.log_member m
             CROSS JOIN LATERAL (SELECT * FROM recado.log x WHERE x.seq = m.seq LIMIT 1) l;
        ELSE
            -- A column that notifications lacks is read from the field of data with its name, by the function for its
            -- type.
            EXECUTE format('CREATE VIEW recado_views.%I AS SELECT %s FROM recado_views.notifications n WHERE n.type = %L', v.name,
                (SELECT string_agg(CASE WHEN n.attname IS NOT NULL THEN format('n.%I', a.attname)
                                        ELSE format('recado_views.%I(n.data, %L) AS %I',
                                                    CASE a.atttypid WHEN 'text'::regtype THEN 'text_of' WHEN 'numeric'::regtype THEN 'number_of' ELSE 'integer_of' END,
                                                    a.attname, a.attname) END, ', ' ORDER BY a.attnum)
                   FROM pg_attribute a
                   LEFT JOIN pg_attribute n ON n.attrelid = 'recado_views.notifications'::regclass AND n.attname = a.attname AND n.attnum > 0
                  WHERE a.attrelid = format('recado_views.%I', v.name || '_json')::regclass AND a.attnum > 0), v.name);
        END IF;
        FOR c IN SELECT a.attname, d.description
                   FROM pg_description d
                   LEFT JOIN pg_attribute a ON a.attrelid = d.objoid AND a.attnum = d.objsubid AND a.attnum > 0
                  WHERE d.classoid = 'pg_class'::regclass AND d.objoid = format('recado_views.%I', v.name || '_json')::regclass LOOP
            IF c.attname IS NULL THEN
                EXECUTE format('COMMENT ON VIEW recado_views.%I IS %L', v.name, c.description);
            ELSE
                EXECUTE format('COMMENT ON COLUMN recado_views.%I.%I IS %L', v.name, c.attname, c.description);
            END IF;
        END LOOP;
        EXECUTE format('COMMENT ON COLUMN recado_views.%I.data IS %L', v.name,
            'Its data as jsonb; NULL when there is none, or jsonb cannot hold it. recado_views.text_of, number_of and integer_of read its fields safely.');
        EXECUTE format('COMMENT ON VIEW recado_views.%I IS %L', v.name || '_json',
            format('The former %s, with data as json. Kept only for views that depend on it; drop both when they have moved.', v.name));
        EXECUTE format('REVOKE ALL ON recado_views.%I FROM PUBLIC', v.name);
        FOR c IN SELECT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END AS grantee, a.privilege_type,
                        CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END AS option
                   FROM pg_class k, aclexplode(k.relacl) a
                  WHERE k.oid = format('recado_views.%I', v.name || '_json')::regclass AND a.grantee <> k.relowner LOOP
            EXECUTE format('GRANT %s ON recado_views.%I TO %s%s', c.privilege_type, v.name, c.grantee, c.option);
        END LOOP;
    END LOOP;

    -- The columns are the same, so the view can be replaced in place.
    CREATE OR REPLACE VIEW recado_views.daily_counts AS
    SELECT d.day::date AS day, c.type, c.audience, c.notifications, c.bytes, c.first_seq, c.last_seq
      FROM generate_series(
           (SELECT date_trunc('day', l.created_at AT TIME ZONE 'UTC') - interval '1 day' FROM recado.log l ORDER BY l.seq LIMIT 1),
           (SELECT date_trunc('day', l.created_at AT TIME ZONE 'UTC') + interval '1 day' FROM recado.log l ORDER BY l.seq DESC LIMIT 1),
           interval '1 day') AS d (day)
     CROSS JOIN LATERAL (
           SELECT n.type, n.audience, count(*) AS notifications, sum(n.bytes)::bigint AS bytes, min(n.seq) AS first_seq, max(n.seq) AS last_seq
             FROM recado_views.notifications n
            WHERE n.created_at >= d.day AT TIME ZONE 'UTC' AND n.created_at < (d.day + interval '1 day') AT TIME ZONE 'UTC'
            GROUP BY n.type, n.audience) c;

    -- Copy the rights of the old functions to the new ones.
    FOR v IN SELECT f.name, unnest(CASE f.name WHEN 'text_of' THEN ARRAY['text_of(jsonb,text)', 'jsonb_of(json)'] ELSE ARRAY[f.name || '(jsonb,text)'] END) AS new
               FROM unnest(functions) f (name) LOOP
        FOR c IN SELECT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END AS grantee,
                        CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END AS option
                   FROM pg_proc p, aclexplode(p.proacl) a
                  WHERE p.oid = format('recado_views.%I(json, text)', v.name || '_json')::regprocedure AND a.grantee <> p.proowner LOOP
            EXECUTE format('GRANT EXECUTE ON FUNCTION recado_views.%s TO %s%s', v.new, c.grantee, c.option);
        END LOOP;
    END LOOP;

    -- Drop views before the views that they read.
    FOR v IN SELECT u.name FROM unnest(kinds || ARRAY['inbox', 'notifications']) WITH ORDINALITY u (name, place) ORDER BY u.place LOOP
        BEGIN
            EXECUTE format('DROP VIEW recado_views.%I', v.name || '_json');
        EXCEPTION
            WHEN dependent_objects_still_exist THEN
                RAISE WARNING 'recado_views.% is kept as %_json, with data as json: other views depend on it', v.name, v.name;
        END;
    END LOOP;
    FOR v IN SELECT unnest(functions) AS name LOOP
        BEGIN
            EXECUTE format('DROP FUNCTION recado_views.%I(json, text)', v.name || '_json');
        EXCEPTION
            WHEN dependent_objects_still_exist THEN
                EXECUTE format('COMMENT ON FUNCTION recado_views.%I(json, text) IS %L', v.name || '_json',
                    format('The former %s(json, text). Kept only for views that depend on it.', v.name));
        END;
    END LOOP;
END $$;
