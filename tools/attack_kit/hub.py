"""Starts hubs, sends them HTTP requests, and makes the tokens for that."""

import base64
import hashlib
import hmac
import http.client
import json
import os
import resource
import socket
import subprocess
import tempfile
import time

from . import sockets
from .case import Broken

SECRET = "the-secret-of-the-attacks-has-more-than-32-bytes"


def base64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def token(user="42", secret=SECRET, header=None, **claims):
    """A token of the user, valid for an hour unless `exp` says otherwise. A claim that is None is left out."""
    # The claims are JSON text here, so that a number can be one that Python would write differently.
    claims = {"sub": user, "exp": int(time.time()) + 3600, **claims}
    head = base64url(json.dumps(header or {"alg": "HS256", "typ": "JWT"}).encode())
    body = base64url(json.dumps({name: value for name, value in claims.items() if value is not None}).encode())
    signed = head + b"." + body
    return (signed + b"." + base64url(hmac.new(secret.encode(), signed, hashlib.sha256).digest())).decode()


def service(role="service"):
    return token("attacker", recado_role=role)


class Answer:
    def __init__(self, status, headers, body):
        self.status = status
        self.headers = headers
        self.body = body

    def json(self):
        return json.loads(self.body)


class Hub:
    """A process of the built hub. It is ended by its own id, whatever happens."""

    def __init__(self, program, settings, files=None, stderr=None, arguments=("serve",)):
        self.program = program
        self.settings = {
            "PATH": os.environ.get("PATH", ""), "PORT": "0", "RECADO_JWT_SECRET": SECRET, "RECADO_FETCH_POSTGRES": "off",
            "RECADO_LOG": "info", **settings,
        }
        self.settings = {name: value for name, value in self.settings.items() if value is not None}
        self.said = tempfile.TemporaryFile()
        limit = (lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))) if files else None
        self.process = subprocess.Popen(
            [program, *arguments], env=self.settings, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=self.said if stderr is None else stderr, preexec_fn=limit,
        )
        self.address = None
        # Python closes a socket without references, so each is kept until the hub ends.
        self.clients = []

    def ready(self):
        """Waits for the ready line. Raises `Broken` where the hub ends instead."""
        line = self.process.stdout.readline().decode().strip()
        if not line.startswith("ready http://"):
            self.process.wait(timeout=30)
            raise Broken(f"the hub does not start: {self.words()[-300:]}")
        host, port = line.removeprefix("ready http://").rsplit(":", 1)
        self.address = (host, int(port))
        return self

    def words(self):
        self.said.seek(0)
        return self.said.read().decode(errors="replace")

    def ends(self, seconds=30):
        """Waits for the hub's end; returns its exit code and its output."""
        code = self.process.wait(timeout=seconds)
        return code, self.words() + self.process.stdout.read().decode(errors="replace")

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(timeout=30)
        self.process.stdout.close()

    def run(self, *arguments, settings=None, seconds=60):
        """Runs another subcommand with the same settings."""
        return subprocess.run(
            [self.program, *arguments], env={**self.settings, **(settings or {})}, stdin=subprocess.DEVNULL, capture_output=True,
            text=True, timeout=seconds,
        )

    def ask(self, method, path, bearer=None, body=None, headers=None, source=None, seconds=10):
        """One request on a connection of its own."""
        connection = http.client.HTTPConnection(*self.address, timeout=seconds, source_address=(source, 0) if source else None)
        try:
            sent = dict(headers or {})
            if bearer:
                sent["Authorization"] = f"Bearer {bearer}"
            if body is not None and not isinstance(body, (bytes, str)):
                body = json.dumps(body)
                sent.setdefault("Content-Type", "application/json")
            connection.request(method, path, body, sent)
            answer = connection.getresponse()
            return Answer(answer.status, answer.headers, answer.read())
        finally:
            connection.close()

    def raw(self, text, seconds=5):
        """What the hub answers to these bytes."""
        with socket.create_connection(self.address, timeout=seconds) as stream:
            stream.sendall(text.encode() if isinstance(text, str) else text)
            received = b""
            try:
                while True:
                    more = stream.recv(65536)
                    if not more:
                        break
                    received += more
                    if b"\r\n\r\n" in received and b"chunked" not in received:
                        break
            except TimeoutError:
                pass
            return received.decode(errors="replace")

    def post(self, user="42", key=None, source=None, seconds=10, **more):
        body = {"type": "attack", "title": "t", "message": "m", "user_id": user, **more}
        headers = {"Idempotency-Key": f'"{key}"'} if key else None
        return self.ask("POST", "/api/internal/notify", service(), body, headers, source, seconds)

    def posted(self, user="42", **more):
        """Posts and returns the number. Raises `Broken` when the hub refuses the post."""
        answer = self.post(user, **more)
        if answer.status != 201:
            raise Broken(f"a post was answered {answer.status}: {answer.body[:200].decode(errors='replace')}")
        return answer.json()["seq"]

    def listen(self, user="42", query="", bearer=None, headers=None, source=None, seconds=10):
        """A WebSocket of the user."""
        path = f"/ws?token={bearer or token(user)}" + (f"&{query}" if query else "")
        self.clients.append(sockets.connect(self.address, path, headers, source, seconds))
        return self.clients[-1]

    def stream(self, path, bearer=None, headers=None, seconds=10):
        """A stream of events: yields lines."""
        connection = http.client.HTTPConnection(*self.address, timeout=seconds)
        sent = {"Accept": "text/event-stream", **(headers or {})}
        if bearer:
            sent["Authorization"] = f"Bearer {bearer}"
        connection.request("GET", path, headers=sent)
        return connection, connection.getresponse()

    def metric(self, name):
        """The value of a metric without labels, or None."""
        for line in self.ask("GET", "/metrics").body.decode().splitlines():
            if line.split(" ")[0] == name:
                return float(line.split(" ")[1])
        return None


def messages(answer, seconds=10):
    """The blocks of an event stream as a generic client reports them: each has an event name, an id and its data."""
    name, data, last_id, seen = "message", [], None, False
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        line = answer.readline()
        if not line:
            return
        line = line.decode().rstrip("\r\n")
        if line == "":
            if seen:
                yield {"event": name, "id": last_id, "data": "\n".join(data)}
            name, data, seen = "message", [], False
            continue
        if line.startswith(":"):
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        seen = True
        if field == "event":
            name = value
        elif field == "data":
            data.append(value)
        elif field == "id":
            last_id = value
