"""Gives the blocking client the ten methods of the replaced `NotificationClient`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Callable, Generic, List, Mapping, Optional, Sequence, TypeVar

from ._events import Events
from ._types import Id, NewNotification, Receipt

R = TypeVar("R", bound=Optional[Receipt])
Data = Mapping[str, Any]


class EventMethods(ABC, Generic[R]):
    """Posts what happened in a shop, with the method names and argument order of the replaced client.

    `account_id` narrows to the user's connections in that account; None reaches the user in every account. The data
    is sent as `data`, at most 64 KiB. Results and errors are those of `notify` and `notify_many`.
    """

    _events: Events

    @abstractmethod
    def _one(self, make: Callable[[], NewNotification], key: Optional[str]) -> R:
        """Posts one notification. A failure to make it is handled as one to post it."""

    @abstractmethod
    def _many(self, make: Callable[[], Sequence[NewNotification]], count: int, key: Optional[str]) -> List[R]:
        """Posts `count` notifications, as `_one`."""

    def notify_order_created(
        self,
        buyer_id: Id,
        seller_id: Id,
        account_id: Optional[Id],
        order_data: Data,
        *,
        idempotency_key: Optional[str] = None,
    ) -> List[R]:
        """Tells the buyer and the seller of a new order, in one commit. Receipts are in that order."""
        return self._many(
            lambda: self._events.to_both("order_created", buyer_id, seller_id, account_id, order_data),
            2,
            idempotency_key,
        )

    def notify_payment_confirmed(
        self,
        buyer_id: Id,
        seller_id: Id,
        account_id: Optional[Id],
        order_data: Data,
        *,
        idempotency_key: Optional[str] = None,
    ) -> List[R]:
        """Tells the buyer and the seller that an order is paid, in one commit."""
        return self._many(
            lambda: self._events.to_both("payment_confirmed", buyer_id, seller_id, account_id, order_data),
            2,
            idempotency_key,
        )

    def notify_order_status_updated(
        self,
        user_id: Id,
        account_id: Optional[Id],
        order_data: Data,
        status: str,
        *,
        idempotency_key: Optional[str] = None,
    ) -> R:
        """Tells a user the new status of an order; `data` holds it as `status`."""
        return self._one(
            lambda: self._events.to_one_with_status(user_id, account_id, order_data, status), idempotency_key
        )

    def notify_stock_alert(
        self, seller_id: Id, account_id: Optional[Id], product_data: Data, *, idempotency_key: Optional[str] = None
    ) -> R:
        """Tells a seller that a product is low in stock."""
        return self._one(
            lambda: self._events.to_one("stock_alert", seller_id, account_id, product_data), idempotency_key
        )

    def notify_product_added(
        self, seller_id: Id, account_id: Optional[Id], product_data: Data, *, idempotency_key: Optional[str] = None
    ) -> R:
        """Tells a seller that a product was added."""
        return self._one(
            lambda: self._events.to_one("product_added", seller_id, account_id, product_data), idempotency_key
        )

    def notify_product_updated(
        self, seller_id: Id, account_id: Optional[Id], product_data: Data, *, idempotency_key: Optional[str] = None
    ) -> R:
        """Tells a seller that a product was updated."""
        return self._one(
            lambda: self._events.to_one("product_updated", seller_id, account_id, product_data), idempotency_key
        )

    def notify_product_deleted(
        self, seller_id: Id, account_id: Optional[Id], product_data: Data, *, idempotency_key: Optional[str] = None
    ) -> R:
        """Tells a seller that a product was deleted."""
        return self._one(
            lambda: self._events.to_one("product_deleted", seller_id, account_id, product_data), idempotency_key
        )

    def notify_cart_updated(
        self, user_id: Id, account_id: Optional[Id], cart_data: Data, *, idempotency_key: Optional[str] = None
    ) -> R:
        """Tells a user that their cart was updated."""
        return self._one(lambda: self._events.to_one("cart_updated", user_id, account_id, cart_data), idempotency_key)

    def notify_transaction_created(
        self, user_id: Id, account_id: Optional[Id], transaction_data: Data, *, idempotency_key: Optional[str] = None
    ) -> R:
        """Tells a user of a new transaction."""
        return self._one(
            lambda: self._events.to_one("transaction_created", user_id, account_id, transaction_data), idempotency_key
        )

    def notify_profile_updated(
        self, user_id: Id, account_id: Optional[Id], profile_data: Data, *, idempotency_key: Optional[str] = None
    ) -> R:
        """Tells a user that their profile was updated."""
        return self._one(
            lambda: self._events.to_one("profile_updated", user_id, account_id, profile_data), idempotency_key
        )
