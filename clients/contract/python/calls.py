"""Makes calls of the generated Python client that must type-check, and that the hub must answer as the types say."""

from __future__ import annotations

import sys

from recado_client import AuthenticatedClient, Client
from recado_client.api.frontends import (
    ack,
    change_inbox,
    head,
    list_inbox,
    list_notifications,
    set_preferences,
    show_preferences,
    whoami,
    ws_ticket,
)
from recado_client.api.operators import health, stats, why
from recado_client.api.services import (
    notify,
    notify_batch,
    notify_cloud_event,
    notify_cloud_events,
)
from recado_client.models import (
    Ack,
    Acked,
    Batch,
    BatchReceipt,
    CloudEvent,
    Head,
    Health,
    HealthStatus,
    InboxChange,
    InboxChanged,
    InboxChangeOp,
    InboxPage,
    ListInboxFilter,
    ListNotificationsOrder,
    NewPreferences,
    Notification,
    NotificationTo,
    Notify,
    Page,
    Preferences,
    PreferencesChanged,
    Problem,
    Receipt,
    Stats,
    Ticket,
    Whoami,
    Why,
    WhyNotification,
)
from recado_client.types import UNSET


def main(url: str, service: str, user: str, admin: str) -> None:
    shop = AuthenticatedClient(base_url=url, token=service)
    reader = AuthenticatedClient(base_url=url, token=user)
    operator = AuthenticatedClient(base_url=url, token=admin)

    body = Notify("order_created", "New order", "Order #1", user_id="77", data={"order_id": "1"})
    one = notify.sync(client=shop, body=body, idempotency_key="python-1")
    assert isinstance(one, Receipt), one
    seq: int = one.seq
    assert not one.duplicate

    items = [
        Notify("news", "To all", "Hello", broadcast=True, replay=True),
        Notify("news", "To two", "Hello", user_ids=["77", "78"], ttl=3600),
        Notify("news", "To an account", "Hello", account_id="7"),
    ]
    many = notify_batch.sync(client=shop, body=Batch(items))
    assert isinstance(many, BatchReceipt), many
    assert [item.seq for item in many.items] == [seq + 1, seq + 2, seq + 3]

    event = CloudEvent("1.0", "1", "/python", "stock.low", subject="Low", userid="77")
    assert isinstance(notify_cloud_event.sync(client=shop, body=event), Receipt)
    events = notify_cloud_events.sync(client=shop, body=[event])
    assert isinstance(events, BatchReceipt) and events.items[0].duplicate

    seen: list[Notification] = []
    after: int | None = 0
    while after is not None:
        page = list_notifications.sync(
            client=reader, after=after, limit=2, order=ListNotificationsOrder.ASC, types="order_*,news", since="10m"
        )
        assert isinstance(page, Page), page
        seen += page.notifications
        after = page.next_
    mine = [n for n in seen if n.seq >= seq]
    assert [n.title for n in mine] == ["New order", "To all", "To two"], mine
    assert mine[1].to is NotificationTo.EVERYONE and mine[0].account_id is UNSET

    bounds = head.sync(client=reader)
    assert isinstance(bounds, Head) and bounds.head >= seq + 4
    acked = ack.sync(client=reader, body=Ack(seq=seq, client_id="web-1"))
    assert isinstance(acked, Acked) and acked.acked == seq
    me = whoami.sync(client=reader)
    assert isinstance(me, Whoami) and me.user_id == "77"
    ticket = ws_ticket.sync(client=reader)
    assert isinstance(ticket, Ticket) and ticket.ticket.startswith("rct_")

    inbox = list_inbox.sync(client=reader, filter_=ListInboxFilter.UNREAD, limit=10)
    assert isinstance(inbox, InboxPage) and inbox.unread == 2, inbox
    assert inbox.items[-1].title == "New order" and not inbox.items[-1].read and inbox.items[-1].muted is UNSET
    changed = change_inbox.sync(client=reader, body=InboxChange(InboxChangeOp.READ, seqs=[seq], log_id=inbox.log_id))
    assert isinstance(changed, InboxChanged) and changed.seq is not None and changed.unread == 1, changed
    again = change_inbox.sync(client=reader, body=InboxChange(InboxChangeOp.READ, seqs=[seq]))
    assert isinstance(again, InboxChanged) and again.seq is None, again
    muted = set_preferences.sync(client=reader, body=NewPreferences(["news", "stock.*"]))
    assert isinstance(muted, PreferencesChanged) and muted.unread == 0 and muted.required == [], muted
    preferences = show_preferences.sync(client=reader)
    assert isinstance(preferences, Preferences) and preferences.muted == ["news", "stock.*"]

    reason = why.sync(client=operator, user="77", seq=seq)
    assert isinstance(reason, Why) and isinstance(reason.notification, WhyNotification)
    sessions = stats.sync(client=operator)
    assert isinstance(sessions, Stats) and sessions.total_connections == len(sessions.connections)
    state = health.sync(client=Client(base_url=url))
    assert isinstance(state, Health) and state.status is HealthStatus.OK

    refusal = notify.sync(client=shop, body=Notify("order_created", "A bad id", "Order #1", user_id="a b"))
    assert isinstance(refusal, Problem) and refusal.code == "invalid_field", refusal
    assert refusal.errors and refusal.errors[0].pointer == "/user_id", refusal


if __name__ == "__main__":
    main(*sys.argv[1:])
