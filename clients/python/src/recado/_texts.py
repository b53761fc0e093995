"""Words the title and message of the ten methods that the replaced `NotificationClient` had."""

from __future__ import annotations

from typing import Any, Dict, Mapping, Optional, Tuple

from ._types import Text

# Fields that hold the number of an order or transaction, and the name of a product, in the order of preference.
NUMBERS = ("number", "order_number", "orderNumber", "order_id", "orderId", "transaction_id", "transactionId", "id")
NAMES = ("name", "product_name", "productName", "title", "sku", "id")


def _first(data: Mapping[str, Any], fields: Tuple[str, ...]) -> Optional[str]:
    for field in fields:
        value = data.get(field)
        if isinstance(value, (str, int)) and not isinstance(value, bool) and value != "":
            return str(value)
    return None


def _numbered(noun: str, data: Mapping[str, Any]) -> str:
    number = _first(data, NUMBERS)
    return noun if number is None else f"{noun} #{number}"


def _product(data: Mapping[str, Any]) -> str:
    return _first(data, NAMES) or "A product"


#: One entry for each kind of text. `texts` of a client replaces entries, for example with another language.
TEXTS: Dict[str, Text] = {
    "order_created_buyer": lambda data: ("Order placed", f"{_numbered('Your order', data)} was placed"),
    "order_created_seller": lambda data: ("New order", _numbered("Order", data)),
    "payment_confirmed_buyer": lambda data: ("Payment confirmed", f"{_numbered('Your order', data)} is paid"),
    "payment_confirmed_seller": lambda data: ("Payment received", f"{_numbered('Order', data)} is paid"),
    "order_updated": lambda data: ("Order updated", f"{_numbered('Your order', data)}: {data['status']}"),
    "stock_alert": lambda data: ("Low stock", f"{_product(data)} is low in stock"),
    "product_added": lambda data: ("Product added", f"{_product(data)} was added"),
    "product_updated": lambda data: ("Product updated", f"{_product(data)} was updated"),
    "product_deleted": lambda data: ("Product deleted", f"{_product(data)} was deleted"),
    "cart_updated": lambda data: ("Cart updated", "Your cart was updated"),
    "transaction_created": lambda data: ("New transaction", _numbered("Transaction", data)),
    "profile_updated": lambda data: ("Profile updated", "Your profile was updated"),
}


def checked_texts(texts: Optional[Mapping[str, Text]]) -> Dict[str, Text]:
    """Returns all texts, with those of the caller. Raises ValueError for an unknown kind."""
    unknown = sorted(set(texts or {}) - set(TEXTS))
    if unknown:
        raise ValueError(f"texts has unknown kinds: {', '.join(unknown)}; the kinds are {', '.join(TEXTS)}")
    return {**TEXTS, **(texts or {})}
