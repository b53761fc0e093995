"""Receives with the package websocket-client, which reconnects by itself."""

import json

import websocket
from program import apply, socket_url, token


# docs: begin
def on_message(app, text):
    frame = json.loads(text)
    if "title" in frame:  # a notification
        apply(frame)
        app.send(json.dumps({"type": "ack", "seq": frame["seq"]}))


def header():  # called before each connect
    return {"Authorization": f"Bearer {token}"}


app = websocket.WebSocketApp(socket_url, header=header, on_message=on_message)
app.run_forever(reconnect=1)
# docs: end
