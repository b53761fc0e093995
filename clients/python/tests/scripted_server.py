"""Runs an HTTP server that gives scripted answers, and records the requests and connections."""

from __future__ import annotations

import json
import socket
import ssl
import struct
import threading
import time
from dataclasses import dataclass
from email.utils import formatdate
from types import TracebackType
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple, Type


@dataclass(frozen=True)
class Request:
    """One request that arrived. Names of headers are lower case."""

    path: str
    headers: Mapping[str, str]
    body: Any
    connection: int


class ScriptedServer:
    """Gives the answers of a case (clients/cases/README.md), one for each request, in order."""

    def __init__(self, answers: Sequence[Mapping[str, Any]], tls: Optional[ssl.SSLContext] = None) -> None:
        self.requests: List[Request] = []
        #: Connections that carried a request.
        self.connections = 0
        self._answers = list(answers)
        self._tls = tls
        self._seqs: Dict[str, int] = {}
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._open: List[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    @property
    def url(self) -> str:
        """The address of the server."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> ScriptedServer:
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], traceback: Optional[TracebackType]
    ) -> None:
        self._stopped.set()
        # Closing a listener does not end an accept that waits on it; a connection does.
        socket.create_connection(self._listener.getsockname()).close()
        with self._lock:
            for connection in self._open:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue
        for thread in self._threads:
            thread.join(10)
        self._listener.close()

    def drop_connections(self) -> None:
        """Closes every open connection, as a hub does that restarts, and waits until that has happened."""
        with self._lock:
            dropped, self._open = self._open, []
        for connection in dropped:
            connection.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            if self._stopped.is_set():
                connection.close()
                return
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_side=True)
            with self._lock:
                self._open.append(connection)
            number = None
            with connection, connection.makefile("rb") as stream:
                while True:
                    first = stream.readline()
                    if not first:
                        return
                    headers = _read_headers(stream)
                    body = stream.read(int(headers.get("content-length", "0")))
                    with self._lock:
                        if number is None:
                            number = self.connections
                            self.connections += 1
                        at = len(self.requests)
                        path = first.split()[1].decode("ascii")
                        self.requests.append(Request(path, headers, json.loads(body), number))
                        answer = self._answers[at] if at < len(self._answers) else {"status": 500, "text": "no more"}
                    if not self._answer(connection, answer, self.requests[at]):
                        return
        except OSError:
            # The client went away, which a case may want.
            return

    def _answer(self, connection: socket.socket, answer: Mapping[str, Any], request: Request) -> bool:
        """Answers one request. Returns whether the connection goes on."""
        if "after_ms" in answer and self._stopped.wait(answer["after_ms"] / 1000):
            return False
        if answer.get("reset"):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return False
        if answer.get("close"):
            return False
        status, headers, body = self._content(answer, request)
        lines = [f"HTTP/1.1 {status} Scripted", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {_header(value)}" for name, value in headers.items()]
        whole = "\r\n".join(lines).encode("ascii") + b"\r\n\r\n" + body
        if "cut" in answer:
            connection.sendall(whole[: len(whole) - len(body) // 2])
            return False
        connection.sendall(whole)
        return True

    def _content(self, answer: Mapping[str, Any], request: Request) -> Tuple[int, Mapping[str, str], bytes]:
        status = answer.get("ok", answer.get("cut"))
        if status is None:
            text = answer.get("text")
            body = json.dumps(answer.get("body")).encode() if text is None else text.encode()
            return answer["status"], answer.get("headers", {}), body
        items, key = request.body.get("items"), request.headers["idempotency-key"]
        keys = [key] if items is None else [item.get("idempotency_key", f"{key}/{at}") for at, item in enumerate(items)]
        receipts = [self._receipt(each, status == 200) for each in keys]
        content = receipts[0] if items is None else {"items": receipts}
        return status, {"Content-Type": "application/json"}, json.dumps({"success": True, **content}).encode()

    def _receipt(self, key: str, duplicate: bool) -> Dict[str, Any]:
        with self._lock:
            seq = self._seqs.setdefault(key, len(self._seqs) + 1)
        name = f"00000000-0000-7000-8000-{seq:012}"
        return {"seq": seq, "id": name, "created_at": "2026-11-21T16:39:58.120Z", "duplicate": duplicate}


def _read_headers(stream: Any) -> Dict[str, str]:
    headers: Dict[str, str] = {}
    while True:
        line = stream.readline().decode("latin-1").strip()
        if not line:
            return headers
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()


def _header(value: str) -> str:
    if value.startswith("{date+"):
        return formatdate(time.time() + int(value[6:-1]), usegmt=True)
    return value
