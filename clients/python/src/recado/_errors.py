"""Defines the errors of the clients, one class for each thing that a caller does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import List, Optional, Sequence

from ._types import Receipt


@dataclass(frozen=True)
class FieldError:
    """One broken rule: `pointer` is a JSON pointer into the body that was sent, such as `/items/3/title`."""

    pointer: str
    detail: str


class NotificationError(Exception):
    """A post that has no receipt. The subclasses say what to do."""

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        status: Optional[int] = None,
        request_id: Optional[str] = None,
        idempotency_key: Optional[str] = None,
        attempts: int = 0,
        outcome_unknown: bool = False,
        retry_after: Optional[float] = None,
        errors: Sequence[FieldError] = (),
    ) -> None:
        #: The hub's code (docs/reference/errors.md), or one of the client's own: `network_error`, `timeout`,
        #: `bad_answer`, `unexpected_answer`, `invalid_argument`.
        self.code = code
        #: What went wrong, for people.
        self.detail = detail
        #: The HTTP status of the last answer. None if there was none.
        self.status = status
        #: Finds the request in the hub's log. None if the hub did not answer.
        self.request_id = request_id
        #: Repeat the call with this key, and nothing is appended a second time.
        self.idempotency_key = idempotency_key
        #: Requests that were sent or tried.
        self.attempts = attempts
        #: True if any attempt may have been appended.
        self.outcome_unknown = outcome_unknown
        #: Seconds that the hub asked to wait. None if it did not ask.
        self.retry_after = retry_after
        #: Every broken rule that the hub listed, at most 100.
        self.errors: List[FieldError] = list(errors)
        #: `notify_many` only: receipts of the calls that succeeded before this one, in the order of the list.
        self.receipts: List[Receipt] = []
        super().__init__(code, detail)

    def __str__(self) -> str:
        facts = [f"{self.attempts} {'attempt' if self.attempts == 1 else 'attempts'}"]
        if self.status is not None:
            facts.insert(0, f"status {self.status}")
        if self.request_id is not None:
            facts.append(f"request {self.request_id}")
        rules = "".join(f"; {error.pointer} {error.detail}" for error in self.errors)
        return f"{self.code}: {self.detail}{rules} ({', '.join(facts)})"


class CredentialError(NotificationError):
    """The key is missing, revoked or may not post (401, 403). Give the service a valid key."""


class InvalidNotificationError(NotificationError):
    """The notification breaks a rule. `errors` lists what the hub found. A repeat will not help."""


class IdempotencyConflictError(NotificationError):
    """The key was used before with a different body. Use a new key for a new notification."""


class UnavailableError(NotificationError):
    """Nothing was appended, because the hub was away or too busy. Post again later."""


class OutcomeUnknownError(NotificationError):
    """The notification may be appended or not. Post again with `idempotency_key`, and it is appended once."""


class UnexpectedAnswerError(NotificationError):
    """The answer is not one of a hub, such as a redirect or 404. Check the address."""
