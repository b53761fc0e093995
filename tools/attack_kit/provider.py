"""Runs a provider on loopback without TLS: a sign-in over HTTP and a WebSocket for each user."""

import socket
import threading
import urllib.parse

from . import sockets


class Provider:
    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.users = {}
        self.commands = []
        self.changed = threading.Condition()
        threading.Thread(target=self.run, daemon=True).start()

    def file(self, more_messages=""):
        """The text of a provider file."""
        return f"""
[[provider]]
name = "games"
hosts = ["127.0.0.1:{self.port}"]
insecure = true

[provider.sign_in]
url = "http://127.0.0.1:{self.port}/sign-in"
body = '{{"user":"{{user_id}}"}}'
session = "/session"

[provider.socket]
url = "ws://127.0.0.1:{self.port}/socket?session={{session}}&user={{user_id}}"

[provider.messages]
type = "game-data"
title = "Games"
data = "text"
{more_messages}

[provider.commands]
types = ["bet"]
payload = "/payload"
"""

    def run(self):
        while True:
            try:
                stream, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(stream,), daemon=True).start()

    def serve(self, stream):
        try:
            first, _, _, endpoint = sockets.accept(stream)
            if endpoint is None:
                body = b'{"session":"a-session"}'
                stream.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
                stream.close()
                return
            user = urllib.parse.parse_qs(urllib.parse.urlparse(first.split(" ")[1]).query)["user"][0]
            with self.changed:
                self.users[user] = endpoint
                self.changed.notify_all()
            while True:
                text = endpoint.receive_text(600)
                with self.changed:
                    self.commands.append((user, text))
        except (sockets.Closed, TimeoutError, OSError):
            stream.close()

    def socket_of(self, user, seconds=15):
        """Waits for the user's socket."""
        with self.changed:
            if not self.changed.wait_for(lambda: user in self.users, seconds):
                raise TimeoutError(f"no hub has signed {user} in")
            return self.users[user]

    def close(self):
        self.listener.close()
