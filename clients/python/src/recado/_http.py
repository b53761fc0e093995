"""Writes HTTP/1.1 requests and parses answers, without any input or output of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, Generator, Mapping, Optional
from urllib.parse import urlsplit

# Far above any answer of a hub (1,000 receipts are about 150 KB). A larger one is not from a hub.
MOST_BODY_BYTES = 16 * 1024 * 1024
MOST_HEAD_BYTES = 64 * 1024


class BadAnswer(Exception):
    """The bytes are not an HTTP/1.1 answer, or the answer ended early."""


@dataclass(frozen=True)
class HubUrl:
    """Where the hub is. `path` has no slash at its end, so that a hub behind `/hub/` works."""

    host: str
    port: int
    tls: bool
    path: str

    @classmethod
    def parse(cls, url: str) -> HubUrl:
        """Parses an address such as `https://hub.example.com/hub/`.

        Raises ValueError for another scheme, and for a user, query or fragment in the address.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("url must be http://HOST or https://HOST, with a port and a path if needed")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError("url must have no user, query or fragment")
        if not parts.path.isascii() or any(c <= " " for c in parts.path):
            raise ValueError("url must have a percent-encoded path")
        tls = parts.scheme == "https"
        return cls(parts.hostname, parts.port or (443 if tls else 80), tls, parts.path.rstrip("/"))

    def authority(self) -> str:
        """The value of the `Host` header."""
        host = f"[{self.host}]" if ":" in self.host else self.host.encode("idna").decode("ascii")
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"


@dataclass(frozen=True)
class HttpResponse:
    """One answer. Names of headers are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    #: Whether the connection may carry another request.
    reusable: bool


def render_post(url: HubUrl, path: str, headers: Mapping[str, str], body: bytes) -> bytes:
    """Writes a POST request. The caller has checked that header values are printable ASCII."""
    lines = [f"POST {url.path}{path} HTTP/1.1", f"Host: {url.authority()}", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii") + body


_Reading = Generator[None, None, bytes]


class ResponseReader:
    """Parses the answer to one request. Feed it bytes until it returns the answer."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._begun = False
        self._ended = False
        self._steps = self._response()

    def has_begun(self) -> bool:
        """Whether any byte of the answer arrived."""
        return self._begun

    def feed(self, data: bytes) -> Optional[HttpResponse]:
        """Takes bytes as they arrive; none at all mean that the connection ended.

        Returns None while more is needed. Raises BadAnswer.
        """
        self._buffer += data
        self._begun |= bool(data)
        self._ended = not data
        try:
            next(self._steps)
        except StopIteration as done:
            response: HttpResponse = done.value
            return response
        if self._ended:
            raise BadAnswer("the connection ended before the answer was complete")
        return None

    def _response(self) -> Generator[None, None, HttpResponse]:
        while True:
            line = yield from self._line()
            version, _, rest = line.partition(b" ")
            if version not in (b"HTTP/1.1", b"HTTP/1.0") or not rest[:3].isdigit():
                raise BadAnswer("the answer does not begin with an HTTP/1.1 status line")
            status = int(rest[:3])
            headers = yield from self._headers()
            if status >= 200:
                break
        keep = "close" not in headers.get("connection", "").lower() and version == b"HTTP/1.1"
        if status in (204, 304):
            body = b""
        elif "chunked" in headers.get("transfer-encoding", "").lower():
            body = yield from self._chunks()
        elif "content-length" in headers:
            length = headers["content-length"]
            if not (length.isascii() and length.isdigit()):
                raise BadAnswer("Content-Length is not a number")
            body = yield from self._exactly(int(length))
        else:
            keep = False
            body = yield from self._rest()
        # Bytes after the answer belong to no request: the two sides disagree about where it ends.
        return HttpResponse(status, headers, body, keep and not self._buffer)

    def _headers(self) -> Generator[None, None, Dict[str, str]]:
        headers: Dict[str, str] = {}
        size = 0
        while True:
            line = yield from self._line()
            if not line:
                return headers
            size += len(line)
            name, colon, value = line.decode("latin-1").partition(":")
            if not colon or size > MOST_HEAD_BYTES:
                raise BadAnswer("the headers of the answer are malformed or too long")
            name, value = name.strip().lower(), value.strip()
            headers[name] = f"{headers[name]}, {value}" if name in headers else value

    def _chunks(self) -> _Reading:
        body = bytearray()
        while True:
            line = yield from self._line()
            try:
                size = int(line.split(b";")[0].strip(), 16)
            except ValueError:
                raise BadAnswer("the length of a chunk is not a number") from None
            if size < 0 or len(body) + size > MOST_BODY_BYTES:
                raise BadAnswer("the answer is too large")
            if size == 0:
                yield from self._headers()
                return bytes(body)
            body += yield from self._exactly(size)
            if (yield from self._line()):
                raise BadAnswer("a chunk is longer than it says")

    def _line(self) -> _Reading:
        while True:
            end = self._buffer.find(b"\n")
            if end >= 0:
                line = bytes(self._buffer[:end])
                del self._buffer[: end + 1]
                return line[:-1] if line.endswith(b"\r") else line
            if len(self._buffer) > MOST_HEAD_BYTES:
                raise BadAnswer("a line of the answer is too long")
            yield

    def _exactly(self, size: int) -> _Reading:
        if size > MOST_BODY_BYTES:
            raise BadAnswer("the answer is too large")
        while len(self._buffer) < size:
            yield
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken

    def _rest(self) -> _Reading:
        while not self._ended:
            if len(self._buffer) > MOST_BODY_BYTES:
                raise BadAnswer("the answer is too large")
            yield
        taken = bytes(self._buffer)
        self._buffer.clear()
        return taken
