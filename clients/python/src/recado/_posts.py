"""Turns notifications into requests, and checks them before they are sent."""

from __future__ import annotations

import json
import re
import uuid
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Sequence

from ._errors import InvalidNotificationError

# The hub's limit of a batch.
MOST_ITEMS = 1_000
ADDRESSES = ("user_id", "user_ids", "account_id", "broadcast")
# The hub accepts any printable ASCII. A header cannot carry spaces at its ends, and the hub removes outer quotes.
KEY = re.compile(r"[!#-~](?:[ -~]{0,253}[!-~])?")


@dataclass(frozen=True)
class Post:
    """One request. Every attempt sends the same key and the same bytes."""

    path: str
    key: str
    body: bytes
    #: Receipts that the answer has. None: one receipt, without a list.
    items: Optional[int]


def refused(detail: str, key: Optional[str] = None) -> InvalidNotificationError:
    """Makes the error of a call that is refused before anything is sent."""
    return InvalidNotificationError("invalid_argument", detail, idempotency_key=key)


def checked_key(key: Optional[str]) -> str:
    """Returns the key, or a new random one for None."""
    if key is None:
        return str(uuid.uuid4())
    if not isinstance(key, str) or not KEY.fullmatch(key):
        raise refused("idempotency_key must be 1 to 255 printable ASCII characters, without a space at its ends")
    return key


def one(notification: Mapping[str, Any], key: Optional[str]) -> Post:
    """Makes the request of one notification. The field `idempotency_key` counts if `key` is None."""
    fields = _fields(notification, "notification")
    own = fields.pop("idempotency_key", None)
    if key is not None and own is not None and key != own:
        raise refused("idempotency_key differs from the field of the notification; give one of them")
    key = checked_key(own if key is None else key)
    return Post("/api/internal/notify", key, _json(fields, key), None)


def many(notifications: Sequence[Mapping[str, Any]], key: str) -> List[Post]:
    """Makes the requests of a list: one with the key K, or for more than 1,000 items K/0, K/1 …

    The hub gives the items of a request keys of their own, made of the request's key and their position.
    """
    items = [_fields(item, f"notifications[{at}]") for at, item in enumerate(notifications)]
    if len(items) <= MOST_ITEMS:
        return [_batch(items, key)] if items else []
    parts = [items[start : start + MOST_ITEMS] for start in range(0, len(items), MOST_ITEMS)]
    return [_batch(part, checked_key(f"{key}/{at}")) for at, part in enumerate(parts)]


def _batch(items: List[Dict[str, Any]], key: str) -> Post:
    return Post("/api/internal/notify/batch", key, _json({"items": items}, key), len(items))


def _fields(notification: Mapping[str, Any], name: str) -> Dict[str, Any]:
    if not isinstance(notification, Mapping):
        raise refused(f"{name} must be a mapping of fields")
    for field in ADDRESSES:
        # The hub takes null for an absent field: a lost user_id next to an account_id would reach the whole account.
        if field in notification and notification[field] is None:
            raise refused(f"{name}: {field} is None; leave the field out if it is not meant to address anyone")
    return {field: value for field, value in notification.items() if value is not None}


def _json(value: Mapping[str, Any], key: str) -> bytes:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8")
    except (TypeError, ValueError, RecursionError) as error:
        raise refused(f"the notification cannot be written as JSON: {error}", key) from error
