"""Attacks through the database: logins without rights, administrators, and stored rows."""

import os
import subprocess
import time

from .case import attack, check, eventually
from .delivery import is_live


def stranger(world):
    """A login without any grant."""
    world.postgres.sql(
        "DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'stranger') THEN CREATE ROLE stranger LOGIN; END IF; END $$"
    )
    return "stranger"


@attack("N2", "a login without any grant holds every advisory lock that the schema could use")
def foreign_locks(world):
    hub = world.hub()
    hub.posted("42")
    locks = world.sql("SELECT c.oid::int FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'recado'", hub).split()
    numbers = ",".join(f"pg_advisory_lock({oid}, {n})" for oid in locks for n in (1, 2))
    # The database may refuse connections of other logins. That counts as held as well.
    world.postgres.sql(f"GRANT CONNECT ON DATABASE {hub.database} TO PUBLIC")
    held = world.postgres.session(hub.database, stranger(world), f"SELECT {numbers}")
    try:
        answer = hub.post("42")
        check(answer.status == 201, f"a post is answered {answer.status}")
        listener = hub.listen("42")
        listener.until(is_live)
        world.sql("SELECT recado.notify('attack', 't', 'by sql', user_id => '42')", hub)
        try:
            listener.until(lambda frame: frame.get("message") == "by sql", 8)
        except TimeoutError:
            check(False, "the SQL outbox is not moved")
    finally:
        held.close()
    return f"posts and the outbox go on beside locks on {len(locks)} relations"


@attack("N3", "a forged NOTIFY with the highest number there is")
def forged_notify(world):
    hub = world.hub()
    hub.posted("42")
    world.postgres.sql(f"GRANT CONNECT ON DATABASE {hub.database} TO PUBLIC")
    world.sql("NOTIFY recado, '9223372036854775807 x'; NOTIFY recado, 'x'; NOTIFY recado, '-1 y'", hub, user=stranger(world))
    time.sleep(2)
    hub.posted("42")
    lag = hub.metric("recado_lag")
    check(lag is not None and lag < 1000, f"recado_lag is {lag}")
    return f"recado_lag is {lag:.0f}"


@attack("N11", "nobody can move the SQL outbox")
def outbox_alarm(world):
    hub = world.hub()
    lock = world.postgres.session(hub.database, "recado", "BEGIN; LOCK TABLE recado.outbox_tick IN ACCESS EXCLUSIVE MODE")
    world.sql("SELECT recado.notify('attack', 't', 'stuck', user_id => '42')", hub)
    try:
        eventually(lambda: alarm(hub), 25, f"recado_outbox_lag_seconds is {hub.metric('recado_outbox_lag_seconds')}")
    finally:
        lock.close()
    return "the lag is told, or readiness is down"


def alarm(hub):
    lag = hub.metric("recado_outbox_lag_seconds")
    return lag is None or lag != lag or lag > 2 or hub.ask("GET", "/readyz").status == 503


@attack("N13", "a publication for all tables")
def publication(world):
    hub = world.hub()
    hub.posted("42")
    hub.listen("42").until(is_live)
    missing = world.sql(
        "SELECT string_agg(c.relname, ' ') FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE n.nspname = 'recado' AND c.relkind IN ('r', 'p') AND c.relpersistence = 'p' AND c.relreplident IN ('d', 'n') "
        "AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary)",
        hub,
    )
    check(not missing, f"without a replica identity: {missing}")
    return "every table has a replica identity"


@attack("S4", "a schema recado that another role made before the first migration")
def foreign_schema(world):
    database = world.postgres.database()
    stranger(world)
    world.postgres.sql("CREATE SCHEMA recado AUTHORIZATION stranger", database)
    hub = world.process({"DATABASE_URL": world.postgres.url(database)})
    code, words = hub.ends(60) if hub.process.poll() is not None or not served(hub) else (None, "it serves")
    check(code == 78 and "stranger" in words, f"exit {code}: {words[-200:]}")
    return "refused by name"


def served(hub):
    """Whether the hub reports that it is ready."""
    line = hub.process.stdout.readline().decode()
    return line.startswith("ready")


@attack("S3", "erasing a user")
def erasure(world):
    hub = world.hub()
    marker = "find-this-marker-nowhere"
    hub.posted("victim", title=marker, message=marker, data={"m": marker})
    seq = hub.posted("42")
    world.sql(f"SELECT recado.notify('attack', 't', '{marker}', user_id => 'victim')", hub)
    eventually(lambda: int(world.sql("SELECT max(seq) FROM recado.log", hub)) >= seq + 1, 10, "the outbox is moved")
    done = hub.run("erase", "--user", "victim", "--reason", "article 17", settings={"DATABASE_URL": world.postgres.url(hub.database)})
    check(done.returncode == 0, f"recado erase: {done.stderr[-200:]}")
    dump = subprocess.run(
        [os.path.join(world.postgres.bin, "pg_dump"), "-h", world.postgres.socket, "-U", "recado", "-d", hub.database],
        capture_output=True, text=True, check=True, timeout=60,
    ).stdout
    check(marker not in dump, f"{dump.count(marker)} times in a dump")
    numbers = world.sql("SELECT string_agg(seq::text, ',' ORDER BY seq) FROM recado.log", hub)
    check(numbers == ",".join(str(n) for n in range(1, len(numbers.split(",")) + 1)), f"the numbers are {numbers}")
    return "nothing of it is in a dump, and the numbers are dense"


@attack("S8", "an analyst who owns a large object is dropped")
def sticky_analyst(world):
    hub = world.hub()
    settings = {"DATABASE_URL": world.postgres.url(hub.database)}
    done = hub.run("analyst", "create", "sticky", settings=settings)
    check(done.returncode == 0, f"analyst create: {done.stderr[-200:]}")
    world.sql("SET SESSION AUTHORIZATION sticky; SELECT lo_create(0)", hub)
    done = hub.run("analyst", "drop", "sticky", settings=settings)
    left = world.postgres.sql("SELECT count(*) FROM pg_roles WHERE rolname = 'sticky' AND rolcanlogin")
    check(done.returncode == 0 and left == "0", f"exit {done.returncode}, logins left: {left}")
    return "dropped"


@attack("F21", "a two-dimensional list of users in SQL")
def nested_users(world):
    hub = world.hub()
    try:
        world.sql("SELECT recado.notify('attack', 't', 'm', user_ids => '{{a,b},{c,d}}')", hub, verbose=True)
    except subprocess.CalledProcessError as error:
        check("RC010" in error.stderr, error.stderr[:200])
        return "RC010"
    check(False, "it is taken")
