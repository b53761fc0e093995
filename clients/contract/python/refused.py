"""Holds calls of the generated Python client that must not type-check. A mark without an error is an error."""

from __future__ import annotations

from recado_client import AuthenticatedClient, Client
from recado_client.api.frontends import ack, change_inbox, list_notifications
from recado_client.api.operators import why
from recado_client.api.services import notify, notify_batch, notify_cloud_event
from recado_client.models import Ack, Batch, CloudEvent, InboxChange, InboxChangeOp, Notify


def refused(hub: AuthenticatedClient) -> None:
    good = Notify("order_created", "New order", "Order #1", user_id="42")
    Notify(type_="order_created", message="Order #1", user_id="42")  # type: ignore[call-arg]
    Notify("order_created", "New order", "Order #1", acount_id="7")  # type: ignore[call-arg]
    Notify("order_created", "New order", "Order #1", userid="42")  # type: ignore[call-arg]
    Notify("order_created", "New order", "Order #1", user_id=42)  # type: ignore[arg-type]
    Notify("order_created", "New order", "Order #1", user_ids="42")  # type: ignore[arg-type]
    Notify("order_created", "New order", "Order #1", broadcast="yes")  # type: ignore[arg-type]
    Notify("order_created", "New order", "Order #1", ttl="1h")  # type: ignore[arg-type]
    notify.sync(client=hub)  # type: ignore[call-arg]
    notify.sync(client=hub, body={"type": "order_created"})  # type: ignore[arg-type]
    notify.sync(client=hub, body=Batch([good]))  # type: ignore[arg-type]
    notify.sync(client=Client(base_url="http://localhost"), body=good)  # type: ignore[arg-type]
    notify_batch.sync(client=hub, body=[good])  # type: ignore[arg-type]
    notify_cloud_event.sync(client=hub, body=good)  # type: ignore[arg-type]
    CloudEvent(specversion="1.0", type_="stock.low")  # type: ignore[call-arg]
    list_notifications.sync(client=hub, limit="10")  # type: ignore[arg-type]
    list_notifications.sync(client=hub, order="newest")  # type: ignore[arg-type]
    list_notifications.sync(client=hub, from_=10)  # type: ignore[call-arg]
    why.sync(client=hub, user="42")  # type: ignore[call-arg]
    ack.sync(client=hub, body=Ack(seq="7"))  # type: ignore[arg-type]
    change_inbox.sync(client=hub, body=InboxChange(InboxChangeOp.READ, seqs=7))  # type: ignore[arg-type]
    InboxChange("read", up_to=7)  # type: ignore[arg-type]
    InboxChange(seqs=[7])  # type: ignore[call-arg]
    page = list_notifications.sync(client=hub)
    page.notifications  # type: ignore[union-attr]
