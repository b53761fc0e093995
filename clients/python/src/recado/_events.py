"""Makes the notifications of the ten methods that the replaced `NotificationClient` had."""

from __future__ import annotations

from typing import Any, List, Mapping, Optional

from ._posts import refused
from ._types import Id, NewNotification, Text


class Events:
    """Makes notifications with the texts of one client."""

    def __init__(self, texts: Mapping[str, Text]) -> None:
        self._texts = texts

    def to_one(
        self, type_: str, user_id: Id, account_id: Optional[Id], data: Mapping[str, Any], text: Optional[str] = None
    ) -> NewNotification:
        """Makes a notification for one user, narrowed to an account if there is one."""
        if not isinstance(data, Mapping):
            raise refused("data must be a mapping")
        title, message = self._texts[text or type_](data)
        user = _id("user", user_id)
        notification = NewNotification(type=type_, title=title, message=message, data=dict(data), user_id=user)
        if account_id is not None:
            notification["account_id"] = _id("account", account_id)
        return notification

    def to_both(
        self, type_: str, buyer_id: Id, seller_id: Id, account_id: Optional[Id], data: Mapping[str, Any]
    ) -> List[NewNotification]:
        """Makes two notifications, for the buyer and for the seller of an order."""
        return [
            self.to_one(type_, buyer_id, account_id, data, f"{type_}_buyer"),
            self.to_one(type_, seller_id, account_id, data, f"{type_}_seller"),
        ]

    def to_one_with_status(
        self, user_id: Id, account_id: Optional[Id], order: Mapping[str, Any], status: str
    ) -> NewNotification:
        """Makes the notification of an order's new status, which `data` holds next to the fields of the order."""
        if not isinstance(order, Mapping):
            raise refused("data must be a mapping")
        return self.to_one("order_updated", user_id, account_id, {**order, "status": status})


def _id(name: str, value: Id) -> str:
    # A missing user must not be left out: the rest of the address would reach the whole account.
    if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
        raise refused(f"the {name} id must be a string or a whole number, not {value!r}")
    return str(value)
