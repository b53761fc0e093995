"""Posts notifications to a hub, on an asyncio event loop."""

from __future__ import annotations

import asyncio
import ssl
from types import TracebackType
from typing import Any, Awaitable, Callable, List, Literal, Mapping, Optional, Sequence, Type, cast, overload

from ._async_event_methods import AsyncEventMethods, R
from ._async_transport import AsyncTransport
from ._attempts import AttemptFailed, Done, Failed, checked_limits
from ._errors import NotificationError
from ._events import Events
from ._posts import Post, checked_key, many, one
from ._settings import SYSTEM_CLOCK, Clock, Settings, log_failure
from ._texts import checked_texts
from ._types import NewNotification, Receipt, Text


class AsyncNotificationClient(AsyncEventMethods[R]):
    """Posts notifications, and repeats a post with the same idempotency key until its outcome is known.

    `url` is the address of the hub, with a path if it is behind one. `api_key` comes from `recado key create NAME`.
    `timeout` limits one attempt, `deadline` all attempts of one request and the waits between them, in seconds.
    Up to `retries` attempts follow the first one, after a network error, a timeout, 408, 429 or any 5xx. The waits
    have full jitter, up to 0.1 s at first, doubling up to 5 s, added to a `Retry-After` of up to 60 s.

    With `on_error="raise"` a call that fails raises a subclass of NotificationError. With `on_error="log"` it writes
    one warning to the logger `recado` and returns None. `texts` replaces titles and messages of the ten methods, by
    the kinds of `recado.TEXTS`. `ssl_context` replaces `ssl.create_default_context()`.

    Raises ValueError for a setting that breaks a rule. Safe to use from several tasks of one event loop. A cancelled
    call ends at once, and its notification may have been appended.

    It uses asyncio streams and not the blocking client in an executor: a slow hub then takes no thread of the
    executor, and a cancelled call leaves nothing running.
    """

    @overload
    def __init__(
        self: AsyncNotificationClient[Receipt],
        url: str,
        api_key: str,
        *,
        on_error: Literal["raise"] = "raise",
        timeout: float = ...,
        deadline: float = ...,
        retries: int = ...,
        texts: Optional[Mapping[str, Text]] = ...,
        ssl_context: Optional[ssl.SSLContext] = ...,
        _clock: Clock = ...,
        _sleep: Callable[[float], Awaitable[None]] = ...,
    ) -> None: ...

    @overload
    def __init__(
        self: AsyncNotificationClient[Optional[Receipt]],
        url: str,
        api_key: str,
        *,
        on_error: Literal["raise", "log"],
        timeout: float = ...,
        deadline: float = ...,
        retries: int = ...,
        texts: Optional[Mapping[str, Text]] = ...,
        ssl_context: Optional[ssl.SSLContext] = ...,
        _clock: Clock = ...,
        _sleep: Callable[[float], Awaitable[None]] = ...,
    ) -> None: ...

    def __init__(
        self,
        url: str,
        api_key: str,
        *,
        on_error: str = "raise",
        timeout: float = 5.0,
        deadline: float = 20.0,
        retries: int = 8,
        texts: Optional[Mapping[str, Text]] = None,
        ssl_context: Optional[ssl.SSLContext] = None,
        _clock: Clock = SYSTEM_CLOCK,
        _sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._settings = Settings(url, api_key, checked_limits(timeout, deadline, retries), on_error, _clock)
        self._events = Events(checked_texts(texts))
        self._transport = AsyncTransport(self._settings.url, ssl_context)
        self._sleep = _sleep

    async def notify(self, notification: NewNotification, *, idempotency_key: Optional[str] = None) -> R:
        """Posts one notification and returns its receipt.

        Without a key, neither here nor in the notification, a random one is made. Raises CredentialError,
        InvalidNotificationError, IdempotencyConflictError, UnavailableError, OutcomeUnknownError or
        UnexpectedAnswerError.
        """
        return await self._one(lambda: notification, idempotency_key)

    async def notify_many(
        self, notifications: Sequence[NewNotification], *, idempotency_key: Optional[str] = None
    ) -> List[R]:
        """Posts a list and returns one receipt for each item, in order.

        Up to 1,000 items are one request and one commit, of at most 8 MiB: all or none. A longer list is cut into
        requests of 1,000 with the keys `K/0`, `K/1` …, each with a deadline of its own; the first one that fails ends
        the call. `error.receipts` lists the items that were appended before it. To retry, send the whole list again
        with `error.idempotency_key`: no item is appended twice. With `on_error="log"` items without a receipt are None.
        Raises as `notify`.
        """
        return await self._many(lambda: notifications, len(notifications), idempotency_key)

    async def close(self) -> None:
        """Closes idle connections. The client can still post, on a new connection each time."""
        await self._transport.close()

    async def __aenter__(self) -> AsyncNotificationClient[R]:
        return self

    async def __aexit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        # Never the key.
        url = self._settings.url
        return f"AsyncNotificationClient({'https' if url.tls else 'http'}://{url.authority()}{url.path})"

    async def _one(self, make: Callable[[], NewNotification], key: Optional[str]) -> R:
        try:
            receipts = await self._post(one(make(), key))
            return cast(R, receipts[0])
        except NotificationError as error:
            self._fail(error)
            return cast(R, None)

    async def _many(self, make: Callable[[], Sequence[NewNotification]], count: int, key: Optional[str]) -> List[R]:
        receipts: List[Any] = []
        try:
            key = checked_key(key)
            for post in many(make(), key):
                receipts += await self._post(post)
        except NotificationError as error:
            error.idempotency_key, error.receipts = key, list(receipts)
            self._fail(error)
            receipts += [None] * (count - len(receipts))
        return receipts

    def _fail(self, error: NotificationError) -> None:
        if self._settings.raises:
            raise error
        log_failure(error)

    async def _post(self, post: Post) -> List[Receipt]:
        attempts = self._settings.attempts(post)
        request = self._settings.request(post)
        while True:
            cause: Optional[Exception] = None
            try:
                step = attempts.answered(await self._transport.send(request, attempts.timeout()))
            except AttemptFailed as failure:
                cause = failure
                step = attempts.failed(failure)
            if isinstance(step, Done):
                return step.receipts
            if isinstance(step, Failed):
                raise step.error from cause
            await self._sleep(step.seconds)
