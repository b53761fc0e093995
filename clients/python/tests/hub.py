"""Starts a real hub with its private PostgreSQL, kills it, and reads its log."""

from __future__ import annotations

import json
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import tempfile
from typing import Any, Dict, List, Optional

ROOT = pathlib.Path(__file__).resolve().parents[3]
START_S = 60.0


def find_binary() -> Optional[str]:
    """Returns the hub to test with: `RECADO_HUB_BIN`, or the one that cargo built. None if there is none."""
    named = os.environ.get("RECADO_HUB_BIN")
    if named:
        return named
    built = [ROOT / "target" / kind / "recado" for kind in ("release", "debug")]
    return next((str(path) for path in built if path.is_file()), None)


def free_port() -> int:
    """Returns a port below those that outgoing connections use, so that a restarted hub can have it again."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port


class Hub:
    """A hub on a port and a folder of its own. It can be killed and started again."""

    def __init__(self, binary: str) -> None:
        self._binary = binary
        self._folder = tempfile.mkdtemp(prefix="recado-python-")
        # A hub that runs as root lets another user run its PostgreSQL, which needs to enter the folder.
        os.chmod(self._folder, 0o755)
        self._port = free_port()
        self._process: Optional["subprocess.Popen[str]"] = None
        self.url = f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Starts the hub and waits until it serves."""
        with open(f"{self._folder}/log", "a", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                [self._binary, "serve"], env=self._environment(), stdout=subprocess.PIPE, stderr=log, text=True
            )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.startswith("ready "):
            raise AssertionError(f"the hub did not start: {pathlib.Path(self._folder, 'log').read_text()}")

    def kill(self) -> None:
        """Kills the hub as `kill -9` does. Its PostgreSQL goes on."""
        assert self._process is not None and self._process.stdout is not None
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()

    def stop(self) -> None:
        """Stops the hub with its PostgreSQL, and deletes its folder."""
        if self._process is not None and self._process.stdout is not None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(START_S)
            self._process.stdout.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def create_key(self, name: str) -> str:
        """Returns a new service key."""
        return self._run("key", "create", name).strip()

    def history(self, user: str) -> List[Dict[str, Any]]:
        """Returns what a user was sent, oldest first."""
        token = self._run("token", "--user", user, "--account", "7").strip()
        rows: List[Dict[str, Any]] = []
        after = 0
        while True:
            page = self._page(token, after)
            rows += page["notifications"]
            if page["next"] is None:
                return rows
            after = page["next"]

    def _page(self, token: str, after: int) -> Dict[str, Any]:
        request = f"GET /api/notifications?limit=1000&after={after} HTTP/1.0\r\nAuthorization: Bearer {token}\r\n"
        with socket.create_connection(("127.0.0.1", self._port), 10) as connection:
            connection.sendall(f"{request}Host: localhost\r\n\r\n".encode("ascii"))
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        head, _, body = answer.partition(b"\r\n\r\n")
        assert b" 200 " in head.splitlines()[0], answer
        page: Dict[str, Any] = json.loads(body)
        return page

    def _run(self, *arguments: str) -> str:
        command = [self._binary, *arguments]
        return subprocess.run(
            command, env=self._environment(), capture_output=True, text=True, check=True, timeout=START_S
        ).stdout

    def _environment(self) -> Dict[str, str]:
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("RECADO_", "WS_", "DATABASE_"))
        }
        for name in ("RECADO_POSTGRES_BIN", "RECADO_POSTGRES_USER"):
            if name in os.environ:
                kept[name] = os.environ[name]
        return {**kept, "RECADO_DATA_DIR": f"{self._folder}/data", "PORT": str(self._port), "RECADO_LOG": "warn"}


class AnswerEater:
    """Passes requests to a hub, and loses the answers to the first of them after the hub has given them."""

    def __init__(self, hub_url: str, lost: int) -> None:
        self._hub_port = int(hub_url.rsplit(":", 1)[1])
        self._lost = lost
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        #: Answers of the hub that the client did not get.
        self.eaten: List[bytes] = []

    def serve(self, requests: int) -> None:
        """Passes that many requests, each on a connection of its own, and returns."""
        for _ in range(requests):
            client, _ = self._listener.accept()
            with client, socket.create_connection(("127.0.0.1", self._hub_port), 10) as hub:
                hub.sendall(_whole_message(client))
                answer = _whole_message(hub)
                if len(self.eaten) < self._lost:
                    self.eaten.append(answer)
                else:
                    client.sendall(answer)

    def close(self) -> None:
        """Stops to listen."""
        self._listener.close()


def _whole_message(connection: socket.socket) -> bytes:
    """Reads a request or answer that has a Content-Length."""
    message = b""
    connection.settimeout(30)
    while True:
        head, end, body = message.partition(b"\r\n\r\n")
        if end:
            lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            if len(body) >= int(lengths[0].split(b":")[1]):
                return message
        received = connection.recv(65536)
        if not received:
            return message
        message += received
