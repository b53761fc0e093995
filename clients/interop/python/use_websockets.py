"""Receives with the package websockets, which reconnects by itself."""

import asyncio
import json

import websockets
from program import apply, socket_url, token


# docs: begin
async def receive():
    async for socket in websockets.connect(socket_url, additional_headers={"Authorization": f"Bearer {token}"}):
        try:
            async for text in socket:
                frame = json.loads(text)
                if "title" in frame:  # a notification
                    apply(frame)
                    await socket.send(json.dumps({"type": "ack", "seq": frame["seq"]}))
        except websockets.ConnectionClosed as closed:
            if closed.rcvd and (closed.rcvd.code == 4004 or 4401 <= closed.rcvd.code <= 4599):
                raise  # needs the application


# docs: end
asyncio.run(receive())
