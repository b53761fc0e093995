"""Defines what callers give to the clients and what they get back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, List, Mapping, Tuple, TypedDict, Union

#: A user or account. A whole number is sent as its decimal digits.
Id = Union[str, int]

#: Makes `(title, message)` of a notification from its `data`.
Text = Callable[[Mapping[str, Any]], Tuple[str, str]]


class _RequiredFields(TypedDict):
    type: str
    title: str
    message: str


class NewNotification(_RequiredFields, total=False):
    """The body of one post, with the field names of the wire. At most 64 KiB as JSON.

    `type` matches `[a-z0-9][a-z0-9._-]{0,63}`. At least one address is required: `user_id`, `user_ids` (at most
    10,000), `account_id` or `broadcast`. `account_id` next to users narrows to their connections in that account.
    `ttl` is in seconds. `replay=False` reaches only clients that are connected now. `inbox=False` keeps the
    notification out of the users' inboxes. An address of None is refused by the client, because it would widen the
    audience; any other field of None is left out.
    """

    data: Any
    user_id: str
    user_ids: List[str]
    account_id: str
    broadcast: bool
    ttl: int
    replay: bool
    inbox: bool
    idempotency_key: str


@dataclass(frozen=True)
class Receipt:
    """Proof that a notification is committed.

    `created_at` is RFC 3339 in UTC. `duplicate` is True if the key was used before, also by an earlier attempt of the
    same call; `seq` and `id` are then those of the first post.
    """

    seq: int
    id: str
    created_at: str
    duplicate: bool
