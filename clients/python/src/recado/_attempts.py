"""Decides what follows each attempt: the receipts, a wait and another attempt, or an error."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Callable, Dict, List, Mapping, Optional, Type, Union

from ._errors import (
    CredentialError,
    FieldError,
    IdempotencyConflictError,
    InvalidNotificationError,
    NotificationError,
    OutcomeUnknownError,
    UnavailableError,
    UnexpectedAnswerError,
)
from ._http import HttpResponse
from ._posts import Post
from ._types import Receipt

FIRST_WAIT_S = 0.1
LONGEST_WAIT_S = 5.0
# A hub asks for some seconds. A longer wait is of a proxy, and counts as this.
LONGEST_RETRY_AFTER_S = 60.0
SECONDS = re.compile(r"[0-9]{1,9}")

# Refusals that a repeat may change, and that say that nothing was appended.
NOT_APPENDED = {"overloaded", "unavailable", "draining", "full"}
REFUSALS: Dict[int, Type[NotificationError]] = {
    400: InvalidNotificationError,
    401: CredentialError,
    403: CredentialError,
    413: InvalidNotificationError,
    414: InvalidNotificationError,
    415: InvalidNotificationError,
    422: InvalidNotificationError,
    431: InvalidNotificationError,
}


class AttemptFailed(Exception):
    """An attempt without an answer.

    `code` is `network_error`, `timeout` or `bad_answer`. `sent` is False only if the hub cannot have the request.
    """

    def __init__(self, code: str, sent: bool, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.sent = sent
        self.detail = detail


@dataclass(frozen=True)
class Limits:
    """`timeout` of one attempt and `deadline` of all, in seconds; `retries` after the first attempt."""

    timeout: float
    deadline: float
    retries: int


@dataclass(frozen=True)
class Done:
    """The post is committed."""

    receipts: List[Receipt]


@dataclass(frozen=True)
class Wait:
    """Wait, then try again."""

    seconds: float


@dataclass(frozen=True)
class Failed:
    """Give up."""

    error: NotificationError


Step = Union[Done, Wait, Failed]


class Attempts:
    """All attempts of one post. Not to be used for a second one."""

    def __init__(
        self,
        post: Post,
        limits: Limits,
        now: Callable[[], float],
        wall_clock: Callable[[], float],
        random: Callable[[], float],
    ) -> None:
        self._post = post
        self._limits = limits
        self._now = now
        self._wall_clock = wall_clock
        self._random = random
        self._end = now() + limits.deadline
        self._tried = 0
        self._in_doubt = False

    def timeout(self) -> float:
        """Seconds that the attempt which begins now may take. Above 0."""
        return max(0.001, min(self._limits.timeout, self._end - self._now()))

    def failed(self, failure: AttemptFailed) -> Step:
        """Decides after an attempt without an answer."""
        self._tried += 1
        self._in_doubt |= failure.sent
        return self._again(failure.code, failure.detail)

    def answered(self, response: HttpResponse) -> Step:
        """Decides after an answer."""
        status = response.status
        if status in (200, 201):
            receipts = _receipts(response.body, self._post.items)
            if receipts is None:
                return self.failed(AttemptFailed("bad_answer", True, "the answer has no receipt for each notification"))
            self._tried += 1
            return Done(receipts)
        self._tried += 1
        problem = _problem(response)
        code = problem.code or "unexpected_answer"
        if status >= 500 or status in (408, 429):
            self._in_doubt |= status >= 500 and not (status == 503 and problem.code in NOT_APPENDED)
            return self._again(code, problem.detail, response, problem)
        kind = REFUSALS.get(status, UnexpectedAnswerError)
        if problem.code == "idempotency_conflict":
            kind = IdempotencyConflictError
        return Failed(self._error(kind, code, problem.detail, response, problem))

    def _again(
        self,
        code: str,
        detail: str,
        response: Optional[HttpResponse] = None,
        problem: Optional[_Problem] = None,
    ) -> Step:
        retry_after = self._retry_after(response)
        # Full jitter. After a Retry-After it is added, because a hub names the same second to all that it refuses.
        jitter = self._random() * min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(self._tried - 1, 16))
        wait = (retry_after or 0.0) + jitter
        if self._tried <= self._limits.retries and self._now() + wait < self._end:
            return Wait(wait)
        kind = OutcomeUnknownError if self._in_doubt else UnavailableError
        return Failed(self._error(kind, code, detail, response, problem, retry_after))

    def _retry_after(self, response: Optional[HttpResponse]) -> Optional[float]:
        """The wait that the answer asks for, in seconds or as an HTTP date."""
        text = response.headers.get("retry-after", "") if response else ""
        if SECONDS.fullmatch(text):
            return min(float(text), LONGEST_RETRY_AFTER_S)
        try:
            seconds = parsedate_to_datetime(text).timestamp() - self._wall_clock()
        except (TypeError, ValueError, IndexError, OverflowError):
            return None
        return min(max(0.0, seconds), LONGEST_RETRY_AFTER_S)

    def _error(
        self,
        kind: Type[NotificationError],
        code: str,
        detail: str,
        response: Optional[HttpResponse],
        problem: Optional[_Problem],
        retry_after: Optional[float] = None,
    ) -> NotificationError:
        return kind(
            code,
            detail,
            status=response.status if response else None,
            request_id=problem.request_id if problem else None,
            idempotency_key=self._post.key,
            attempts=self._tried,
            outcome_unknown=self._in_doubt,
            retry_after=retry_after,
            errors=problem.errors if problem else (),
        )


@dataclass(frozen=True)
class _Problem:
    """A problem body (RFC 9457). An answer of a proxy has no code."""

    code: Optional[str]
    detail: str
    request_id: Optional[str]
    errors: List[FieldError]


def _problem(response: HttpResponse) -> _Problem:
    body = _object(response.body) or {}
    code, detail, errors = body.get("code"), body.get("detail"), body.get("errors")
    listed = [error for error in errors if isinstance(error, dict)] if isinstance(errors, list) else []
    return _Problem(
        code=code if isinstance(code, str) else None,
        detail=detail if isinstance(detail, str) else f"the answer with status {response.status} is not of a hub",
        request_id=response.headers.get("x-request-id"),
        errors=[FieldError(str(error.get("pointer", "")), str(error.get("detail", ""))) for error in listed],
    )


def _receipts(body: bytes, items: Optional[int]) -> Optional[List[Receipt]]:
    """The receipts of an answer. None if it is not the answer of a hub to this request."""
    answer = _object(body)
    listed = answer.get("items") if answer and items is not None else [answer]
    if not isinstance(listed, list) or len(listed) != (1 if items is None else items):
        return None
    receipts = [_receipt(entry) for entry in listed]
    found = [receipt for receipt in receipts if receipt is not None]
    return found if len(found) == len(receipts) else None


def _receipt(entry: Any) -> Optional[Receipt]:
    if not isinstance(entry, Mapping):
        return None
    seq, name = entry.get("seq"), entry.get("id")
    created_at, duplicate = entry.get("created_at"), entry.get("duplicate")
    if not isinstance(seq, int) or not isinstance(name, str):
        return None
    if not isinstance(created_at, str) or not isinstance(duplicate, bool):
        return None
    return Receipt(seq, name, created_at, duplicate)


def _object(body: bytes) -> Optional[Dict[str, Any]]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def checked_limits(timeout: float, deadline: float, retries: int) -> Limits:
    """Checks the limits. Raises ValueError for a time that is not above 0, or a negative number of retries."""
    if not all(math.isfinite(seconds) and seconds > 0 for seconds in (timeout, deadline)):
        raise ValueError("timeout and deadline must be finite numbers of seconds above 0")
    if retries < 0:
        raise ValueError("retries must be 0 or more")
    return Limits(timeout, deadline, retries)
