"""Checks the settings of a client, and makes its requests and log lines."""

from __future__ import annotations

import logging
import platform
import random
import re
import time
from dataclasses import dataclass
from typing import Callable

from ._attempts import Attempts, Limits
from ._errors import NotificationError
from ._http import HubUrl, render_post
from ._posts import Post

logger = logging.getLogger("recado")

VERSION = "0.1.0"
API_KEY = re.compile(r"[!-~]+")


@dataclass(frozen=True)
class Clock:
    """Time and chance. Tests replace it."""

    #: Seconds that never go backward.
    now: Callable[[], float] = time.monotonic
    #: Seconds since 1970, to read an HTTP date.
    wall_clock: Callable[[], float] = time.time
    #: A number from 0 up to 1.
    random: Callable[[], float] = random.random


SYSTEM_CLOCK = Clock()


class Settings:
    """Settings of one client."""

    def __init__(self, url: str, api_key: str, limits: Limits, on_error: str, clock: Clock) -> None:
        if on_error not in ("raise", "log"):
            raise ValueError("on_error must be 'raise' or 'log'")
        if not isinstance(api_key, str) or not API_KEY.fullmatch(api_key):
            raise ValueError("api_key must be a key of `recado key create NAME`, without spaces or line feeds")
        self.url = HubUrl.parse(url)
        self.raises = on_error == "raise"
        self._api_key = api_key
        self._limits = limits
        self._clock = clock

    def attempts(self, post: Post) -> Attempts:
        """Begins the attempts of a post."""
        return Attempts(post, self._limits, self._clock.now, self._clock.wall_clock, self._clock.random)

    def request(self, post: Post) -> bytes:
        """Writes the request, which is the same for every attempt."""
        headers = {
            "Authorization": f"Bearer {self._api_key}",
            "Content-Type": "application/json",
            "Accept": "application/json, application/problem+json",
            "Idempotency-Key": post.key,
            "User-Agent": f"recado-python/{VERSION} Python/{platform.python_version()}",
        }
        return render_post(self.url, post.path, headers, post.body)


def log_failure(error: NotificationError) -> None:
    """Writes one warning. It never holds the key, title, message, data or addresses."""
    logger.warning(
        "notification not posted code=%s status=%s attempts=%d outcome_unknown=%s request_id=%s idempotency_key=%s",
        error.code,
        error.status,
        error.attempts,
        error.outcome_unknown,
        error.request_id,
        error.idempotency_key,
    )
