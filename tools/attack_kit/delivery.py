"""Attacks on delivery: tries to stop it, to lose rows, or to make it report falsely."""

import fcntl
import json
import os
import socket
import subprocess
import time

from .case import attack, check, eventually
from .hub import messages, service, token
from .provider import Provider
from .sockets import Closed, Refused


def is_live(frame):
    return frame["type"] == "caught_up"


def seqs(frames):
    return [frame["seq"] for frame in frames if "message" in frame and "seq" in frame]


@attack("F1", "a provider's message of a mebibyte, then posts to another user")
def large_provider_message(world):
    provider = Provider()
    path = world.file("providers.toml", provider.file())
    hub = world.hub(RECADO_UPSTREAM_FILE=path, RECADO_UPSTREAM_KEY="00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff")
    hub.listen("player").until(is_live)
    other = hub.listen("other")
    other.until(is_live)
    provider.socket_of("player").send("x" * (1 << 20))
    # The provider's message must be in the log, or refused, before the posts that follow.
    time.sleep(1)
    sent = [hub.posted("other") for _ in range(5)]
    got = []
    eventually(lambda: got.extend(seqs([receive_or_nothing(other)])) or set(sent) <= set(got), 10, f"of {sent} came {got}")
    check(hub.ask("GET", "/readyz").status == 200, "/readyz is not 200")
    second = world.hub(database=hub.database)
    check(second.ask("GET", "/readyz").status == 200, "a hub that starts afterwards is not ready")
    provider.close()
    return f"{len(sent)} of {len(sent)} delivered"


def receive_or_nothing(client):
    try:
        return client.receive(0.2)
    except TimeoutError:
        return {"type": "nothing"}


@attack("F2", "a row with a malformed user id in the SQL outbox")
def poison_row(world):
    hub = world.hub()
    listener = hub.listen("42")
    listener.until(is_live)
    notify = "SELECT recado.notify('attack', 't', '{}', user_id => '42')"
    world.sql(notify.format("before"), hub)
    row = (
        "INSERT INTO recado.outbox (place, slot, xid, at, id, type, title, message, data, topic, user_id, replay, source, body, bytes) "
        "SELECT p, (p / 16384) % 4, pg_current_xact_id(), now(), gen_random_uuid(), 'attack', 't', 'poison', {data}, 'u/' || {user}, {user}, true, 'x', 0, {bytes} "
        "FROM nextval('recado.outbox_place') p"
    )
    for data, user, size in (
        ("NULL", "'4 2'", 7), ("NULL", "repeat('u', 2000)", 7), ("repeat('[', 200000) || repeat(']', 200000)", "'42'", 1),
        ("'{{\"a\":\"\\u0000\"}}'", "'42'", 20), ("NULL", "'42'", -5),
    ):
        world.sql(row.format(data=data.replace("{{", "{").replace("}}", "}"), user=user, bytes=size), hub)
    world.sql(notify.format("after"), hub)
    listener.until(lambda frame: frame.get("message") == "after", 10)
    hub.posted("42")
    listener.until(lambda frame: frame.get("message") == "m", 10)
    return "what came after it is delivered"


@attack("C1", "two clients of one user without a client_id, and a hub that is killed")
def shared_client_id(world):
    first_hub = world.hub()
    second_hub = world.hub(database=first_hub.database)
    clients = [first_hub.listen("42") for _ in range(2)]
    for client in clients:
        client.until(is_live)
    known = first_hub.posted("42")
    for client in clients:
        client.until(lambda frame: frame.get("seq") == known and "message" in frame)
        client.send({"type": "ack", "seq": known})
    time.sleep(1)
    first_hub.kill()
    missed = [second_hub.posted("42") for _ in range(4)]
    for place in ("first", "second"):
        client = second_hub.listen("42")
        got = seqs(client.until(is_live))
        check(set(missed) <= set(got), f"the {place} client that came back got {got} of {missed}")
        client.send({"type": "ack", "seq": missed[-1]})
        # The acknowledgement of the first is stored before the second comes back.
        time.sleep(1)
        client.cut()
    return f"both got all {len(missed)}"


@attack("F7", "every idle database connection is ended, then history and posts")
def ended_connections(world):
    hub = world.hub()
    hub.posted("42")
    bearer = token("42")
    hub.ask("GET", "/api/notifications", bearer)
    world.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()", hub)
    time.sleep(0.5)
    pages = [hub.ask("GET", "/api/notifications", bearer).status for _ in range(12)]
    check(pages == [200] * 12, f"pages: {pages}")
    posts = [hub.post("42").status for _ in range(5)]
    check(posts == [201] * 5, f"posts: {posts}")
    return "12 pages and 5 posts answered"


@attack("N9", "the server ends database connections that are idle for a second")
def idle_sessions_end(world):
    database = world.postgres.database()
    world.postgres.sql(f"ALTER DATABASE {database} SET idle_session_timeout = '1s'")
    hub = world.hub(database=database)
    answers = []
    for _ in range(4):
        time.sleep(2.2)
        answers.append((hub.post("42").status, hub.ask("GET", "/api/notifications", token("42")).status))
    check(answers == [(201, 200)] * 4, f"post and page: {answers}")
    return "4 posts and 4 pages answered"


@attack("F3", "the postmaster of the private server is killed with -9")
def private_server_killed(world):
    folder = world.folder("private")
    hub = world.hub(database=None, RECADO_DATA_DIR=folder, seconds=90)
    hub.posted("42")
    found = subprocess.run(["find", folder, "-name", "postmaster.pid"], capture_output=True, text=True, check=True).stdout.split()
    check(found, "no postmaster.pid in the data folder")
    with open(found[0]) as file:
        os.kill(int(file.readline()), 9)
    eventually(lambda: answered(lambda: hub.post("42").status) == 201, 30, "a post is answered 201 again")
    return "posts are answered again"


def answered(question):
    try:
        return question()
    except OSError:
        return None


@attack("F4", "synchronous_commit is set to off for the database of a running hub")
def durability_taken_away(world):
    hub = world.hub()
    hub.posted("42")
    world.postgres.sql(f"ALTER DATABASE {hub.database} SET synchronous_commit = off")
    world.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()", hub)
    eventually(lambda: answered(lambda: hub.post("42").status) in (201, 503), 10, "a post is answered")
    last = None
    for _ in range(20):
        answer = hub.post("42")
        if answer.status == 201:
            last = answer.json()["seq"]
    world.postgres.stop("immediate")
    world.postgres.start()
    head = int(world.sql("SELECT coalesce(max(seq), 0) FROM recado.log", hub))
    check(last is None or last <= head, f"{last} was answered 201 and the log ends at {head}")
    return f"the log holds everything up to {last}" if last else "posts are refused"


@attack("F8", "stderr is a full disk while the hub has something to log")
def full_log(world):
    with open("/dev/full", "w") as full:
        hub = world.hub(stderr=full, RECADO_LOG="debug")
    for _ in range(20):
        hub.posted("42")
    check(hub.process.poll() is None, "the hub ended")
    check(hub.ask("GET", "/readyz").status == 200, "/readyz is not 200")
    return "the hub serves"


@attack("F9", "stderr is a pipe that nobody reads, at the level debug")
def unread_log(world):
    read, write = os.pipe()
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096)
    hub = world.hub(stderr=write, RECADO_LOG="trace")
    os.close(write)
    statuses = []
    for _ in range(150):
        statuses.append(answered(lambda: hub.post("42", seconds=5).status))
        if statuses[-1] != 201:
            break
    check(set(statuses) == {201}, f"after {len(statuses)} posts: {statuses[-1]}")
    check(hub.ask("GET", "/livez").status == 200, "/livez is not 200")
    os.close(read)
    return f"{len(statuses)} posts answered"


@attack("F11", "a trigger of somebody else raises at each insert")
def raising_trigger(world):
    hub = world.hub()
    hub.posted("42")
    world.sql(
        "CREATE FUNCTION public.no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = 'XX999'; END $$;"
        "CREATE TRIGGER no BEFORE INSERT ON recado.log FOR EACH ROW EXECUTE FUNCTION public.no()",
        hub,
    )
    answer = hub.post("42")
    check(answer.status == 503, f"the post is answered {answer.status}")
    check(answer.headers["Retry-After"], "there is no Retry-After")
    world.sql("DROP TRIGGER no ON recado.log", hub)
    eventually(lambda: hub.post("42").status == 201, 15, "posts are answered 201 again")
    return "503 with Retry-After, then 201"


@attack("C2", "an EventSource meets a hub that is full")
def temporary_refusal(world):
    hub = world.hub(RECADO_MAX_CONNECTIONS_PER_USER="20", WS_MAX_CONNECTIONS="1")
    hub.listen("1").until(is_live)
    connection, answer = hub.stream(f"/api/notifications/stream?token={token('42')}")
    check(answer.status == 200, f"the status is {answer.status}: a browser never comes back")
    text = answer.read().decode()
    connection.close()
    check("retry:" in text and "goodbye" in text, f"no retry and goodbye in {text[:200]!r}")
    return "200 with retry and goodbye"


@attack("C3", "a generic event-stream client parses every message as JSON")
def messages_are_json(world):
    import json

    hub = world.hub(WS_HEARTBEAT_INTERVAL="1s")
    connection, answer = hub.stream(f"/api/notifications/stream?client_id=a&token={token('42')}")
    hub.posted("42")
    seen = []
    for message in messages(answer, 6):
        try:
            seen.append(json.loads(message["data"])["type"])
        except (ValueError, KeyError, TypeError):
            check(False, f"a message without JSON: {message}")
        if "heartbeat" in seen and "attack" in seen:
            break
    connection.close()
    check("heartbeat" in seen and "attack" in seen, f"seen: {seen}")
    return ", ".join(dict.fromkeys(seen))


@attack("C4", "an EventSource comes back with an old number in the query and a newer Last-Event-ID")
def highest_place_counts(world):
    hub = world.hub()
    sent = [hub.posted("42") for _ in range(5)]
    path = f"/api/notifications/stream?client_id=a&last_event_id={sent[0]}&lastEventId={sent[3]}&token={token('42')}"
    connection, answer = hub.stream(path, headers={"Last-Event-ID": str(sent[2])})
    got = []
    for message in messages(answer, 5):
        if message["event"] == "caught_up":
            break
        if message["event"] == "message":
            got.append(int(message["id"]))
    connection.close()
    check(got == sent[4:], f"got {got}, not {sent[4:]}")
    return "the highest counts"


@attack("C5", "a proxy that compresses streams unless told not to")
def no_transform(world):
    hub = world.hub()
    hub.posted("42")
    bearer = token("42")
    for path in (f"/api/notifications/stream?token={bearer}", f"/api/notifications?follow=1&token={bearer}"):
        connection, answer = hub.stream(path)
        told = answer.headers.get("Cache-Control", "")
        connection.close()
        check("no-transform" in told, f"{path.split('?')[0]}: Cache-Control is {told!r}")
    return "no-transform on both streams"


@attack("N12", "a device that is gone without a word comes back until the limit of its user")
def oldest_makes_room(world):
    hub = world.hub(RECADO_MAX_CONNECTIONS_PER_USER="3")
    old = []
    for _ in range(3):
        # Each is live before the next connects: connections that are accepted together have no order.
        old.append(hub.listen("42", "client_id=a"))
        old[-1].until(is_live)
    try:
        newest = hub.listen("42", "client_id=a")
        newest.until(is_live)
    except (Closed, Refused) as refusal:
        check(False, f"the newest is refused: {refusal}")
    try:
        old[0].until(lambda frame: False, 5)
    except Closed as closed:
        return f"the oldest is closed with {closed.code}"
    except TimeoutError:
        pass
    check(False, "the oldest stays")


@attack("F19", "SIGTERM while a stream of posts never pauses")
def stopped_in_a_batch(world):
    hub = world.hub()
    stream = socket.create_connection(hub.address, timeout=15)
    head = (
        f"POST /api/internal/notify/batch HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {service()}\r\n"
        "Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    stream.sendall(head.encode())
    line = json.dumps({"type": "attack", "title": "t", "message": "m", "user_id": "42"}).encode() + b"\n"
    stream.setblocking(False)
    received, begun, told = b"", time.monotonic(), False
    pending = b""
    while time.monotonic() < begun + 14:
        if not told and time.monotonic() > begun + 1:
            hub.process.terminate()
            told = True
        if not pending:
            many = line * 50
            pending = b"%x\r\n" % len(many) + many + b"\r\n"
        try:
            pending = pending[stream.send(pending):]
        except BlockingIOError:
            time.sleep(0.001)
        except OSError:
            pending = b""
            time.sleep(0.01)
        try:
            more = stream.recv(1 << 20)
            if not more:
                break
            received += more
        except BlockingIOError:
            pass
        except OSError:
            break
    took = time.monotonic() - begun - 1
    check(b"draining" in received, f"no line says draining; the stream ended after {took:.1f} s")
    return f"the stream said draining and ended {took:.1f} s after SIGTERM"
