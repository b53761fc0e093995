"""Attacks through an operator's mistakes: settings, secrets, files, signals."""

import os
import signal
import stat

from .case import attack, check
from .delivery import is_live
from .hub import SECRET


def refused(world, settings, *words):
    """Starts a hub that must refuse these settings with exit code 78, or 2 for a wrong use, and print each of the words."""
    base = {"DATABASE_URL": world.postgres.url(world.shared_database())}
    hub = world.process({**base, **settings})
    try:
        code, said = hub.ends(45)
    except Exception:
        line = hub.process.stdout.readline().decode().strip() if hub.process.poll() is None else ""
        check(False, f"{sorted(settings)}: the hub goes on: {line[:80]}")
    check(code in (78, 2, 69) and all(word in said for word in words), f"{sorted(settings)}: exit {code}: {said[-200:]}")


@attack("S1", "secrets that are empty, short, repeated, or readable by others")
def weak_secrets(world):
    for content in ("", "\n", "x", "a" * 40, " " * 40):
        path = world.file("weak-secret", content)
        os.chmod(path, 0o600)
        refused(world, {"RECADO_JWT_SECRET": None, "RECADO_JWT_SECRET_FILE": path}, "RECADO_JWT_SECRET")
    for content in ("x", "a" * 40):
        refused(world, {"RECADO_JWT_SECRET": content}, "RECADO_JWT_SECRET")
    path = world.file("open-secret", SECRET)
    os.chmod(path, 0o644)
    refused(world, {"RECADO_JWT_SECRET": None, "RECADO_JWT_SECRET_FILE": path}, "open-secret")
    return "8 of 8 refused by name"


@attack("F13", "settings that are empty")
def empty_settings(world):
    refused(world, {"DATABASE_URL": ""}, "DATABASE_URL")
    refused(world, {"DATABASE_URL": "  "}, "DATABASE_URL")
    refused(world, {"RECADO_JWT_SECRET": ""}, "RECADO_JWT_SECRET")
    return "refused by name"


@attack("S7", "an address of the database with a parameter that does not exist")
def unknown_parameters(world):
    url = world.postgres.url(world.shared_database())
    refused(world, {"DATABASE_URL": url + "&sslmod=verify-full"}, "sslmod")
    refused(world, {"DATABASE_URL": url.replace("postgres://", "mysql://")}, "DATABASE_URL")
    return "refused by name"


@attack("F12", "a setting that is not UTF-8")
def not_utf8(world):
    refused(world, {"RECADO_DATA_DIR": b"/tmp/\xff"}, "RECADO_DATA_DIR")
    return "refused by name"


@attack("F14", "TOKIO_WORKER_THREADS=0")
def no_threads(world):
    hub = world.process({"DATABASE_URL": world.postgres.url(world.shared_database()), "TOKIO_WORKER_THREADS": "0"})
    try:
        code, said = hub.ends(20)
        check("panicked" not in said and "TOKIO_WORKER_THREADS" in said, f"exit {code}: {said[-200:]}")
        return "refused by name"
    except TimeoutError:
        return "served all the same"


@attack("D1", "variables that Kubernetes sets for a service of the name recado")
def service_links(world):
    world.hub(
        RECADO_PORT="tcp://10.0.0.1:8080", RECADO_SERVICE_HOST="10.0.0.1", RECADO_SERVICE_PORT="8080", RECADO_PORT_8080_TCP="tcp://10.0.0.1:8080",
        RECADO_PORT_8080_TCP_ADDR="10.0.0.1", RECADO_PORT_8080_TCP_PORT="8080", RECADO_PORT_8080_TCP_PROTO="tcp", RECADO_INTERNAL_SERVICE_HOST="10.0.0.1",
    )
    return "the hub starts"


@attack("D8", "a health check of a hub on another port, told by PORT alone")
def health_check(world):
    hub = world.hub()
    done = hub.run("healthcheck", settings={"PORT": str(hub.address[1])})
    check(done.returncode == 0, f"exit {done.returncode}: {done.stderr[-200:]}")
    return "it asks that port"


@attack("D12", "SIGHUP, and a database that comes later")
def hang_up(world):
    hub = world.hub()
    client = hub.listen("42")
    client.until(is_live)
    hub.process.send_signal(signal.SIGHUP)
    frames = []
    try:
        frames = client.until(lambda frame: frame["type"] == "goodbye", 10)
    except Exception as error:
        check(False, f"no goodbye: {error!r}")
    check(hub.process.wait(timeout=20) == 0, f"exit {hub.process.returncode}")
    return f"{frames[-1]['reason']}, exit 0"


@attack("D6", "two hubs with two secrets on one database")
def two_secrets(world):
    first = world.hub()
    second = world.process({"DATABASE_URL": world.postgres.url(first.database), "RECADO_JWT_SECRET": "another-secret-of-more-than-32-bytes"})
    try:
        code, said = second.ends(30)
    except Exception:
        check(False, "the second one serves")
    check(code == 78 and "RECADO_JWT_SECRET" in said, f"exit {code}: {said[-200:]}")
    return "refused by name"


@attack("C13", "an export to a pipe and to a file")
def exports(world):
    hub = world.hub()
    hub.posted("42")
    settings = {"DATABASE_URL": world.postgres.url(hub.database)}
    done = hub.run("export", "--format", "csv", "-", settings=settings)
    check(done.stdout.startswith("log_id,seq,"), f"no header: {done.stdout[:60]!r} {done.stderr[-100:]}")
    path = os.path.join(world.folder("export"), "log.ndjson")
    done = hub.run("export", path, settings=settings)
    check(done.returncode == 0, done.stderr[-200:])
    mode = stat.S_IMODE(os.stat(path).st_mode)
    check(mode == 0o600, f"the file's mode is {mode:o}")
    return "a header, and 0600"
