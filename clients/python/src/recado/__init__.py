"""Posts notifications to a Recado hub, once each, from services in Python."""

from ._async_client import AsyncNotificationClient
from ._client import NotificationClient
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
from ._settings import VERSION as __version__
from ._texts import TEXTS
from ._types import Id, NewNotification, Receipt, Text

__all__ = [
    "TEXTS",
    "AsyncNotificationClient",
    "CredentialError",
    "FieldError",
    "Id",
    "IdempotencyConflictError",
    "InvalidNotificationError",
    "NewNotification",
    "NotificationClient",
    "NotificationError",
    "OutcomeUnknownError",
    "Receipt",
    "Text",
    "UnavailableError",
    "UnexpectedAnswerError",
    "__version__",
]
