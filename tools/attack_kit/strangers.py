"""Attacks by clients without a token, or with another user's: tries to stop, slow down or read."""

import http.client
import secrets
import socket
import threading
import time

from . import sockets
from .case import attack, check, median
from .delivery import is_live
from .hub import token
from .sockets import Closed, Refused


@attack("N1", "a crowd of idle connections from one address takes every place")
def idle_crowd(world):
    hub = world.hub(files=512)
    crowd = []
    for _ in range(600):
        try:
            crowd.append(socket.create_connection(hub.address, timeout=2, source_address=("127.0.0.9", 0)))
            crowd[-1].sendall(b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        except OSError:
            break
    time.sleep(0.5)
    try:
        check(hub.ask("GET", "/readyz").status == 200, "/readyz is not 200")
        check(hub.post("42").status == 201, "a post is refused")
        hub.listen("42", source="127.0.0.2").until(is_live)
    except (OSError, http.client.HTTPException, Closed, Refused) as error:
        check(False, f"beside {len(crowd)} idle connections: {error!r}")
    finally:
        for connection in crowd:
            connection.close()
    return f"beside {len(crowd)} idle connections all three are answered"


def paced(seconds, rate, step, stop):
    """Calls `step` about `rate` times a second until `stop` is set."""
    end = time.monotonic() + seconds
    while not stop.is_set() and time.monotonic() < end:
        begun = time.monotonic()
        try:
            step()
        except (OSError, http.client.HTTPException, Closed, Refused, TimeoutError):
            pass
        stop.wait(max(0, 1 / rate - (time.monotonic() - begun)))


def beside(world, loops, measure, most):
    """Compares `measure` alone with `measure` during the loops. `most` is the largest accepted ratio."""
    alone = median([measure() for _ in range(15)])
    stop = threading.Event()
    threads = [threading.Thread(target=loop, args=(stop,), daemon=True) for loop in loops]
    for thread in threads:
        thread.start()
    time.sleep(1)
    loaded = median([measure() for _ in range(15)])
    stop.set()
    for thread in threads:
        thread.join(20)
    # Below this the result shows only the scheduling of a busy machine.
    least = 0.015
    check(loaded <= most * max(alone, least), f"{alone * 1000:.1f} ms alone, {loaded * 1000:.1f} ms beside it")
    return f"{alone * 1000:.1f} ms alone, {loaded * 1000:.1f} ms beside it"


def timed(step):
    begun = time.monotonic()
    step()
    return time.monotonic() - begun


@attack("N4", "one user replays everything on many connections")
def greedy_replays(world):
    hub = world.hub(RECADO_READ_CONNECTIONS="4")
    for _ in range(120):
        hub.posted("greedy", message="x" * 60000)
    hub.posted("42")

    def connect():
        client = hub.listen("42", f"client_id=c{time.monotonic_ns()}&since=earliest")
        client.until(is_live, 20)
        client.cut()

    def replay(stop):
        def step():
            client = hub.listen("greedy", "since=earliest&ack=client&client_id=g")
            try:
                client.until(is_live, 10)
            finally:
                client.cut()

        paced(30, 1000, step, stop)

    return beside(world, [replay] * 12, lambda: timed(connect), 3)


@attack("N5", "guesses of tickets, without a token")
def guessed_tickets(world):
    hub = world.hub()
    hub.posted("42")
    bearer = token("42")
    made = hub.ask("POST", "/api/ws-ticket", bearer).json()["ticket"]

    def guess():
        tail = made[len("rct_"):]
        return "rct_" + "".join(secrets.choice("0123456789abcdef" if tail.islower() else "ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz23456789") for _ in tail)

    def guesses(stop):
        def step():
            hub.ask("GET", f"/api/notifications/stream?ticket={guess()}", seconds=3)

        paced(30, 150, step, stop)

    return beside(world, [guesses] * 3, lambda: timed(lambda: hub.ask("GET", "/api/notifications", bearer)), 3)


@attack("N6", "pings of one user over many connections")
def many_pings(world):
    hub = world.hub()
    clients = [hub.listen("42", f"client_id=c{n}") for n in range(12)]
    for client in clients:
        client.until(is_live)
    answered, refused = 0, 0
    for client in clients:
        try:
            for _ in range(59):
                client.send({"type": "ping"})
        except OSError:
            refused += 1
    for client in clients:
        try:
            while client.receive(1)["type"] != "never":
                answered += 1
        except Closed:
            refused += 1
        except TimeoutError:
            pass
    check(answered < 12 * 59, f"all {answered} pings are answered")
    return f"{answered} of {12 * 59} answered, {refused} connections closed"


@attack("N7", "acknowledgements under a new client_id each time")
def device_rows(world):
    hub = world.hub(RECADO_USER_RATE="0")
    seq = hub.posted("42")
    connection = http.client.HTTPConnection(*hub.address, timeout=10)
    bearer = token("42")
    for n in range(260):
        body = f'{{"client_id":"random-{n}","seq":{seq}}}'
        connection.request("POST", "/api/notifications/ack", body, {"Authorization": f"Bearer {bearer}", "Content-Type": "application/json"})
        connection.getresponse().read()
    connection.close()
    rows = int(world.sql("SELECT count(*) FROM recado.cursor WHERE user_id = '42'", hub))
    check(rows <= 200, f"{rows} device rows")
    return f"{rows} device rows"


@attack("S10", "a signed exp far in the future, and roles that do not exist")
def odd_tokens(world):
    hub = world.hub()
    for claims in ({"exp": 8210266876799}, {"exp": 2**63 - 1}, {"exp": -(2**63)}, {"nbf": 8210266876799}):
        status = hub.ask("GET", "/api/whoami", token("42", **claims)).status
        check(status == 401, f"{claims}: {status}")
    status = hub.ask("GET", "/api/whoami", token("42", recado_role="root")).status
    check(status in (401, 403), f"an unknown role: {status}")
    check("panicked" not in hub.words(), "the hub panicked")
    return "refused, without a panic"


@attack("F18", "a token whose header says crit: null")
def null_crit(world):
    hub = world.hub()
    status = hub.ask("GET", "/api/whoami", token("42", header={"alg": "HS256", "crit": None})).status
    check(status == 401, f"it is answered {status}")
    return "refused"


@attack("F15", "HEAD with a ticket, and HEAD with Last-Event-ID")
def head_changes_nothing(world):
    hub = world.hub()
    seq = hub.posted("42")
    ticket = hub.ask("POST", "/api/ws-ticket", token("42")).json()["ticket"]
    hub.ask("HEAD", f"/api/notifications/stream?ticket={ticket}&client_id=h", headers={"Accept": "text/event-stream"})
    connection, answer = hub.stream(f"/api/notifications/stream?ticket={ticket}&client_id=h")
    first = answer.readline().decode()
    connection.close()
    check(answer.status == 200 and "goodbye" not in first, f"the ticket is used up: {answer.status}")
    path = f"/api/notifications/stream?client_id=head&token={token('42')}"
    hub.ask("HEAD", path, headers={"Accept": "text/event-stream", "Last-Event-ID": str(seq)})
    time.sleep(0.7)
    acked = world.sql("SELECT coalesce(max(acked_seq), 0) FROM recado.cursor WHERE client_id = 'head'", hub)
    check(int(acked or 0) < seq, "the place is acknowledged")
    return "neither is used"


@attack("F16", "two Authorization headers, two tokens, two WebSocket keys")
def doubled_headers(world):
    hub = world.hub()
    bearer = token("42")
    twice = f"GET /api/whoami HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nAuthorization: Bearer {bearer}\r\nAuthorization: Bearer {token('43')}\r\n\r\n"
    for text in (
        twice,
        f"GET /api/notifications?token={bearer}&token={token('43')} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",
        f"GET /ws?token={bearer} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZR==\r\n\r\n",
    ):
        status = hub.raw(text).split(" ")[1]
        check(status in ("400", "401", "422"), f"{text.splitlines()[0][:60]}: {status}")
    return "each is refused"


@attack("F17", "a handshake of another version, and none at all")
def handshake_answers(world):
    hub = world.hub()
    plain = hub.ask("GET", f"/ws?token={token('42')}")
    check(plain.status == 426 and plain.headers.get("Upgrade", "").lower() == "websocket", f"{plain.status}, Upgrade: {plain.headers.get('Upgrade')}")
    wrong = hub.raw(
        f"GET /ws?token={token('42')} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 7\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    check("sec-websocket-version: 13" in wrong.lower(), "a wrong version is not told the right one")
    return "as RFC 9110 and RFC 6455 say"


@attack("C6", "a page of the hub's own origin")
def same_origin(world):
    hub = world.hub()
    own = f"http://{hub.address[0]}:{hub.address[1]}"
    hub.listen("42", headers={"Origin": own}).until(is_live)
    name = f"hub.example.com:{hub.address[1]}"
    named = world.hub(RECADO_ALLOWED_ORIGINS="capacitor://localhost,https://*.example.com")
    for origin in ("capacitor://localhost", "https://app.example.com"):
        named.listen("42", headers={"Origin": origin}).until(is_live)
    try:
        named.listen("42", headers={"Origin": "https://evil.test"})
        check(False, "a foreign origin is let in")
    except Refused as refused:
        check(refused.status == 403, f"a foreign origin is answered {refused.status}")
    return f"own origin, schemes and one-label wildcards are let in; {name.split(':')[0]} needs no entry"


@attack("C7", "a browser's preflight with the headers that tracing adds")
def preflight(world):
    hub = world.hub(RECADO_ALLOWED_ORIGINS="https://app.example.com")
    answer = hub.ask(
        "OPTIONS", "/api/notifications",
        headers={
            "Origin": "https://app.example.com", "Access-Control-Request-Method": "GET",
            "Access-Control-Request-Headers": "authorization,traceparent,x-requested-with",
        },
    )
    allowed = answer.headers.get("Access-Control-Allow-Headers", "").lower()
    check("traceparent" in allowed or allowed == "*", f"allowed headers: {allowed!r}")
    check(answer.headers.get("Access-Control-Max-Age"), "no max-age")
    plain = hub.ask("GET", "/api/notifications", token("42"), headers={"Origin": "https://app.example.com"})
    exposed = plain.headers.get("Access-Control-Expose-Headers", "").lower()
    check("retry-after" in exposed and "x-request-id" in exposed, f"exposed headers: {exposed!r}")
    return "allowed, exposed, with a max-age"


@attack("C10", "a trailing slash, empty parameters, a bad token")
def forgiving_addresses(world):
    hub = world.hub()
    for path in (f"/ws/?token={token('42')}", f"/ws?client_id=&since=&token={token('42')}"):
        try:
            sockets.connect(hub.address, path).until(is_live)
        except (Refused, Closed) as error:
            check(False, f"{path.split('token')[0]}: {error}")
    try:
        sockets.connect(hub.address, f"/ws?token={token('42', secret='another-secret-of-more-than-32-bytes')}").receive()
        check(False, "a bad token is let in")
    except Closed as closed:
        check(closed.code == 4500 and closed.reason not in ("", "unauthorized"), f"closed {closed.code} {closed.reason!r}")
    return f"accepted; the close says: {closed_reason(hub)!r}"


def closed_reason(hub):
    from . import sockets

    try:
        sockets.connect(hub.address, "/ws?token=x").receive()
    except Closed as closed:
        return closed.reason


@attack("D9", "a connection that is kept for 12 seconds between two requests")
def kept_alive(world):
    hub = world.hub()
    connection = http.client.HTTPConnection(*hub.address, timeout=10)
    connection.request("GET", "/livez")
    answer = connection.getresponse()
    answer.read()
    told = answer.headers.get("Keep-Alive", "")
    time.sleep(12)
    try:
        connection.request("GET", "/livez")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        check(False, f"the connection is gone: {error!r}; Keep-Alive was {told!r}")
    check(status == 200 and "timeout=" in told, f"Keep-Alive: {told!r}")
    return f"still open; Keep-Alive: {told}"


@attack("S10h", "a page of a name that leads to loopback (DNS rebinding)")
def rebinding(world):
    hub = world.hub()
    answer = hub.ask("GET", "/api/notifications", token("42"), headers={"Host": "evil.test", "Origin": "http://evil.test", "Sec-Fetch-Site": "same-origin"})
    check(answer.status in (400, 403, 421), f"it is answered {answer.status}")
    # A GET of the page's own host has no Origin.
    for path in ("/metrics", "/health", "/api/notifications"):
        bare = hub.ask("GET", path, token("42"), headers={"Host": "evil.test"})
        check(bare.status in (400, 403, 421), f"{path} is answered {bare.status} without an Origin")
    return f"refused with {answer.status}"
