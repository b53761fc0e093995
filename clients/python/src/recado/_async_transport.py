"""Sends requests over asyncio streams, and keeps idle connections for the next request."""

from __future__ import annotations

import asyncio
import ssl
import time
from typing import List, Optional, Tuple

from ._attempts import AttemptFailed
from ._http import BadAnswer, HttpResponse, HubUrl, ResponseReader
from ._transport import LONGEST_IDLE_S, MOST_IDLE, READ_BYTES, is_readable

_Connection = Tuple[asyncio.StreamReader, asyncio.StreamWriter]


class AsyncTransport:
    """Connections to one hub. Connections belong to the event loop that opened them."""

    def __init__(self, url: HubUrl, ssl_context: Optional[ssl.SSLContext]) -> None:
        self._url = url
        self._tls = (ssl_context or ssl.create_default_context()) if url.tls else None
        self._idle: List[Tuple[_Connection, float]] = []
        self._loop: Optional[asyncio.AbstractEventLoop] = None
        self._closed = False

    async def send(self, request: bytes, timeout: float) -> HttpResponse:
        """Sends a request and returns its answer, within `timeout` seconds in all. Raises AttemptFailed."""
        exchange = _Exchange()
        try:
            return await asyncio.wait_for(self._send(request, exchange), timeout)
        except asyncio.TimeoutError as error:
            detail = (
                "the hub did not answer in time" if exchange.sent else "the hub did not accept a connection in time"
            )
            raise AttemptFailed("timeout", exchange.sent, detail) from error

    async def close(self) -> None:
        """Closes idle connections. A request in progress ends first, and its connection is then closed."""
        self._closed = True
        idle, self._idle = self._idle, []
        if self._loop is not asyncio.get_running_loop():
            # Connections of a loop that has ended ended with it.
            return
        for (_, writer), _ in idle:
            writer.close()
            try:
                await writer.wait_closed()
            except OSError:
                # The other side closed first.
                continue

    async def _send(self, request: bytes, exchange: _Exchange) -> HttpResponse:
        connection = self._take() or await self._open()
        kept = False
        try:
            response = await exchange.run(connection, request)
            kept = response.reusable and self._keep(connection)
            return response
        finally:
            if not kept:
                # close() would first send the rest of a request that the hub has already refused.
                connection[1].transport.abort()

    def _take(self) -> Optional[_Connection]:
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            # Connections of a loop that has ended can be neither used nor closed from this one.
            self._idle, self._loop = [], loop
        while self._idle:
            (reader, writer), since = self._idle.pop()
            if time.monotonic() - since < LONGEST_IDLE_S and _is_open(reader, writer):
                return reader, writer
            writer.transport.abort()
        return None

    def _keep(self, connection: _Connection) -> bool:
        if self._closed or len(self._idle) >= MOST_IDLE:
            return False
        self._idle.append((connection, time.monotonic()))
        return True

    async def _open(self) -> _Connection:
        name = self._url.host if self._tls is not None else None
        try:
            return await asyncio.open_connection(
                self._url.host, self._url.port, ssl=self._tls, server_hostname=name, happy_eyeballs_delay=0.25
            )
        except OSError as error:
            raise AttemptFailed("network_error", False, f"the hub cannot be reached: {error}") from error


def _is_open(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Whether an idle connection is fit for a request. The loop may not have seen yet that the hub closed it."""
    if reader.at_eof() or writer.is_closing():
        return False
    return not is_readable(writer.get_extra_info("socket").fileno())


class _Exchange:
    """One request and its answer."""

    def __init__(self) -> None:
        #: Whether the hub may have the request.
        self.sent = False

    async def run(self, connection: _Connection, request: bytes) -> HttpResponse:
        stream, writer = connection
        reader = ResponseReader()
        self.sent = True
        try:
            # The answer is read while the body is written: a hub may refuse a large body before its end.
            writer.write(request)
            while True:
                response = reader.feed(await stream.read(READ_BYTES))
                if response is not None:
                    return response
        except OSError as error:
            raise AttemptFailed("network_error", True, f"the connection broke: {error}") from error
        except BadAnswer as error:
            code = "bad_answer" if reader.has_begun() else "network_error"
            raise AttemptFailed(code, True, str(error)) from error
