"""Gives a client program its addresses and token, and prints what the program applies."""

import json
import os
import sys
import threading

socket_url, stream_url, token = (os.environ[name] for name in ("SOCKET_URL", "STREAM_URL", "TOKEN"))


def apply(frame):
    """Prints a notification."""
    print(json.dumps(frame), flush=True)


def _end_with_the_test():
    """Waits for the end of stdin, which the test closes when it ends, also when it is killed."""
    while os.read(sys.stdin.fileno(), 1024):
        pass
    os._exit(0)


threading.Thread(target=_end_with_the_test, daemon=True).start()
