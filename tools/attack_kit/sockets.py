"""Implements a small WebSocket endpoint (RFC 6455), for a client of a hub or for a provider."""

import base64
import hashlib
import json
import os
import socket
import struct
import time

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Closed(Exception):
    """The connection has ended. `code` is the close code, or None where the connection broke off."""

    def __init__(self, code=None, reason=""):
        super().__init__(f"closed {code} {reason}")
        self.code = code
        self.reason = reason


class Refused(Exception):
    """The handshake was answered with a status other than 101."""

    def __init__(self, status, head):
        super().__init__(f"refused with {status}")
        self.status = status
        self.head = head


class Endpoint:
    """One side of a WebSocket. `masks` is true for a client, as the RFC demands."""

    def __init__(self, stream, left=b"", masks=True):
        self.stream = stream
        self.buffer = left
        self.message = b""
        self.masks = masks
        self.answers_pings = True

    def frame(self, opcode, payload):
        head = bytes([0x80 | opcode])
        mask = 0x80 if self.masks else 0
        if len(payload) < 126:
            head += bytes([mask | len(payload)])
        elif len(payload) < 65536:
            head += bytes([mask | 126]) + struct.pack(">H", len(payload))
        else:
            head += bytes([mask | 127]) + struct.pack(">Q", len(payload))
        if self.masks:
            key = os.urandom(4)
            payload = xor(payload, key)
            head += key
        return head + payload

    def send(self, value):
        """Sends a text, or anything else as JSON."""
        text = value if isinstance(value, str) else json.dumps(value)
        self.stream.sendall(self.frame(1, text.encode()))

    def pong(self, payload=b""):
        self.stream.sendall(self.frame(10, payload))

    def need(self, count, end):
        """Reads until the buffer holds `count` bytes. A time-out leaves the buffer unchanged."""
        while len(self.buffer) < count:
            left = end - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self.stream.settimeout(left)
            try:
                more = self.stream.recv(65536)
            except ConnectionError as error:
                raise Closed from error
            if not more:
                raise Closed
            self.buffer += more

    def receive_frame(self, end):
        """The next frame: whether it is the last of its message, its opcode, its payload."""
        self.need(2, end)
        first, second = self.buffer[:2]
        length, at = second & 0x7F, 2
        if length == 126:
            self.need(4, end)
            (length,), at = struct.unpack(">H", self.buffer[2:4]), 4
        elif length == 127:
            self.need(10, end)
            (length,), at = struct.unpack(">Q", self.buffer[2:10]), 10
        if second & 0x80:
            self.need(at + 4, end)
            key, at = self.buffer[at:at + 4], at + 4
        else:
            key = None
        self.need(at + length, end)
        payload, self.buffer = self.buffer[at:at + length], self.buffer[at + length:]
        return first & 0x80, first & 0x0F, xor(payload, key) if key else payload

    def receive_text(self, seconds=10):
        """The next text message. Raises TimeoutError or Closed."""
        end = time.monotonic() + seconds
        while True:
            is_last, opcode, payload = self.receive_frame(end)
            if opcode == 9:
                if self.answers_pings:
                    self.pong(payload)
            elif opcode == 8:
                code = struct.unpack(">H", payload[:2])[0] if len(payload) >= 2 else None
                raise Closed(code, payload[2:].decode(errors="replace"))
            elif opcode in (0, 1):
                self.message += payload
                if is_last:
                    whole, self.message = self.message, b""
                    return whole.decode()

    def receive(self, seconds=10):
        return json.loads(self.receive_text(seconds))

    def until(self, wanted, seconds=10):
        """Reads frames until `wanted(frame)`; returns all of them, that one last."""
        end = time.monotonic() + seconds
        frames = []
        while True:
            frames.append(self.receive(max(0.01, end - time.monotonic())))
            if wanted(frames[-1]):
                return frames

    def cut(self):
        """Ends the connection without a close frame."""
        self.stream.close()


def xor(payload, key):
    whole = int.from_bytes(payload, "big")
    stretched = (key * (len(payload) // 4 + 1))[: len(payload)]
    return (whole ^ int.from_bytes(stretched, "big")).to_bytes(len(payload), "big")


def connect(address, path, headers=None, source=None, seconds=10):
    """Opens a WebSocket to a hub. Raises `Refused` where the hub answers with a status."""
    stream = socket.create_connection(address, timeout=seconds, source_address=(source, 0) if source else None)
    lines = {
        "Host": f"{address[0]}:{address[1]}", "Connection": "Upgrade", "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(), **(headers or {}),
    }
    head = f"GET {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items()) + "\r\n"
    stream.sendall(head.encode())
    answer = b""
    while b"\r\n\r\n" not in answer:
        more = stream.recv(65536)
        if not more:
            raise Closed
        answer += more
    head, left = answer.split(b"\r\n\r\n", 1)
    status = int(head.split(b" ", 2)[1])
    if status != 101:
        stream.close()
        raise Refused(status, head.decode(errors="replace"))
    return Endpoint(stream, left)


def accept(stream):
    """The server's side: reads a request; returns its first line, headers, body, and, for an upgrade, the endpoint."""
    received = b""
    while b"\r\n\r\n" not in received:
        more = stream.recv(65536)
        if not more:
            raise Closed
        received += more
    head, left = received.split(b"\r\n\r\n", 1)
    first, *lines = head.decode().split("\r\n")
    headers = {name.strip().lower(): value.strip() for name, value in (line.split(":", 1) for line in lines)}
    if "sec-websocket-key" not in headers:
        while len(left) < int(headers.get("content-length", "0")):
            left += stream.recv(65536)
        return first, headers, left, None
    answer = base64.b64encode(hashlib.sha1(headers["sec-websocket-key"].encode() + GUID).digest()).decode()
    stream.sendall(
        f"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {answer}\r\n\r\n".encode()
    )
    return first, headers, b"", Endpoint(stream, left, masks=False)
