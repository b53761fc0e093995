#!/usr/bin/env python3
"""Receives webhooks, checks their signatures, and prints each notification once.

WEBHOOK_SECRET is what `recado webhook create` printed; PORT is where it listens (8090).
"""

import base64
import hashlib
import hmac
import http.server
import json
import os
import time

# docs: begin
TOLERANCE_S = 300


def verify(secret, headers, body):
    """Returns the id of the message, or None if it is not from the hub, or is too old."""
    message_id, sent_at = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not sent_at.isdigit() or abs(time.time() - int(sent_at)) > TOLERANCE_S:
        return None
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{message_id}.{sent_at}.".encode() + body
    expected = b"v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest())
    # While a secret is rotated there are two signatures.
    given = headers.get("webhook-signature", "").encode().split(b" ")
    return message_id if any([hmac.compare_digest(expected, one) for one in given]) else None
# docs: end


class Receiver(http.server.BaseHTTPRequestHandler):
    # A service keeps the ids in its database, in the transaction of its own work.
    seen = set()

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        message_id = verify(os.environ["WEBHOOK_SECRET"], self.headers, body)
        if message_id is None:
            self.answer(401)
            return
        if message_id not in self.seen:
            self.seen.add(message_id)
            message = json.loads(body)
            who = ",".join(message["data"].get("unacked") or message["data"].get("user_ids") or [])
            print(f"{message['type']} {who}: {message['data'].get('title', '')}", flush=True)
        # Only now: after any other answer the hub posts it again.
        self.answer(204)

    def answer(self, status):
        self.send_response(status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    server = http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ.get("PORT", "8090"))), Receiver)
    print(f"receives at http://127.0.0.1:{server.server_port}/", flush=True)
    server.serve_forever()
