"""Sends requests over blocking sockets, and keeps idle connections for the next request."""

from __future__ import annotations

import os
import select
import socket
import ssl
import threading
import time
from typing import List, Optional, Tuple

from ._attempts import AttemptFailed
from ._http import BadAnswer, HttpResponse, HubUrl, ResponseReader

# A hub closes a connection after 75 s without a request, and proxies often after 60 s. Closing first avoids a request
# on a connection that the other side is closing.
LONGEST_IDLE_S = 30.0
MOST_IDLE = 8
READ_BYTES = 64 * 1024


class Transport:
    """Connections to one hub. Safe to use from several threads, and after a fork."""

    def __init__(self, url: HubUrl, ssl_context: Optional[ssl.SSLContext]) -> None:
        self._url = url
        self._tls = (ssl_context or ssl.create_default_context()) if url.tls else None
        self._lock = threading.Lock()
        self._idle: List[Tuple[socket.socket, float]] = []
        self._process = os.getpid()
        self._closed = False

    def send(self, request: bytes, timeout: float) -> HttpResponse:
        """Sends a request and returns its answer, within `timeout` seconds in all. Raises AttemptFailed."""
        until = time.monotonic() + timeout
        connection = self._take() or self._open(until)
        kept = False
        try:
            response = _exchange(connection, request, until)
            kept = response.reusable and self._keep(connection)
            return response
        finally:
            if not kept:
                connection.close()

    def close(self) -> None:
        """Closes idle connections. A request in progress ends first, and its connection is then closed."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection, _ in idle:
            connection.close()

    def _take(self) -> Optional[socket.socket]:
        with self._lock:
            if self._process != os.getpid():
                # The parent process goes on using these connections.
                for connection, _ in self._idle:
                    connection.close()
                self._idle, self._process = [], os.getpid()
            while self._idle:
                connection, since = self._idle.pop()
                if time.monotonic() - since < LONGEST_IDLE_S and not is_readable(connection.fileno()):
                    return connection
                connection.close()
        return None

    def _keep(self, connection: socket.socket) -> bool:
        with self._lock:
            if self._closed or len(self._idle) >= MOST_IDLE:
                return False
            self._idle.append((connection, time.monotonic()))
            return True

    def _open(self, until: float) -> socket.socket:
        """Connects to the first address that answers."""
        try:
            addresses = socket.getaddrinfo(self._url.host, self._url.port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise AttemptFailed("network_error", False, f"{self._url.host} has no address: {error}") from error
        last = AttemptFailed("network_error", False, f"{self._url.host} has no address")
        for family, kind, protocol, _, address in addresses:
            connection = socket.socket(family, kind, protocol)
            try:
                connection.settimeout(_left(until))
                connection.connect(address)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if self._tls is not None:
                    connection.settimeout(_left(until))
                    connection = self._tls.wrap_socket(connection, server_hostname=self._url.host)
                return connection
            except socket.timeout as error:
                connection.close()
                last = AttemptFailed("timeout", False, "the hub did not accept a connection in time")
                last.__cause__ = error
            except OSError as error:
                connection.close()
                last = AttemptFailed("network_error", False, f"the hub cannot be reached: {error}")
                last.__cause__ = error
        raise last


def _exchange(connection: socket.socket, request: bytes, until: float) -> HttpResponse:
    reader = ResponseReader()
    try:
        try:
            connection.settimeout(_left(until))
            connection.sendall(request)
        except (BrokenPipeError, ConnectionResetError):
            # A hub that refuses a large body early has sent its answer already.
            pass
        while True:
            connection.settimeout(_left(until))
            response = reader.feed(connection.recv(READ_BYTES))
            if response is not None:
                return response
    except socket.timeout as error:
        raise AttemptFailed("timeout", True, "the hub did not answer in time") from error
    except OSError as error:
        raise AttemptFailed("network_error", True, f"the connection broke: {error}") from error
    except BadAnswer as error:
        code = "bad_answer" if reader.has_begun() else "network_error"
        raise AttemptFailed(code, True, str(error)) from error


def _left(until: float) -> float:
    left = until - time.monotonic()
    if left <= 0:
        raise socket.timeout("timed out")
    return left


def is_readable(descriptor: int) -> bool:
    """Whether an idle connection has bytes, or its end, to read. Either makes it unfit for a request."""
    if descriptor < 0:
        return True
    if not hasattr(select, "poll"):
        return bool(select.select([descriptor], [], [], 0)[0])
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))
