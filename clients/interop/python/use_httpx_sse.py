"""Receives with the package httpx-sse, and reconnects by hand."""

import json
import time

import httpx
from httpx_sse import connect_sse
from program import apply, stream_url, token

# docs: begin
headers = {"Authorization": f"Bearer {token}"}
with httpx.Client(timeout=httpx.Timeout(10, read=60)) as client:
    while True:
        try:
            with connect_sse(client, "GET", stream_url, headers=headers) as source:
                source.response.raise_for_status()
                for event in source.iter_sse():
                    if event.event == "message":  # a notification
                        apply(json.loads(event.data))
                    if event.id:  # some events have none
                        headers["Last-Event-ID"] = event.id
        except httpx.TransportError:
            pass
        time.sleep(1)
# docs: end
