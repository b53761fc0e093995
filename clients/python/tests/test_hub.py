"""Posts to a real hub, kills it between attempts, and checks what its log holds."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import pathlib
import threading
import unittest
from typing import Any, Dict, List, Optional, cast
from unittest import mock

import recado

from .hub import ROOT, AnswerEater, Hub, find_binary

README = pathlib.Path(__file__).resolve().parents[1] / "README.md"
GUIDE = ROOT / "docs/guides/services.md"
BINARY = find_binary()
NO_HUB = "no hub to test with: run cargo build, or set RECADO_HUB_BIN to a built recado"


def body(user: str, **fields: Any) -> recado.NewNotification:
    """A notification that differs from others in the given fields only."""
    return cast(recado.NewNotification, {"type": "t", "title": "T", "message": "M", "user_id": user, **fields})


@unittest.skipIf(BINARY is None, NO_HUB)
class HubTest(unittest.TestCase):
    """Tests with one hub, which some of them kill and start again."""

    hub: Hub
    key: str

    @classmethod
    def setUpClass(cls) -> None:
        assert BINARY is not None
        cls.hub = Hub(BINARY)
        cls.addClassCleanup(cls.hub.stop)
        cls.hub.start()
        cls.key = cls.hub.create_key("shop")

    def client(self) -> recado.NotificationClient[recado.Receipt]:
        client = recado.NotificationClient(self.hub.url, self.key)
        self.addCleanup(client.close)
        return client

    def test_a_post_arrives_as_it_was_given(self) -> None:
        data = {"order_id": "1001", "note": "Olá 💡", "total": 59.9, "lines": [1, None, True]}
        receipt = self.client().notify(
            body("arrives", type="order_created", title="New order", message="Order #1001", data=data)
        )
        (row,) = self.hub.history("arrives")
        expected = {"type": "order_created", "title": "New order", "message": "Order #1001", "data": data}
        self.assertEqual({name: row[name] for name in expected}, expected)
        self.assertEqual((row["seq"], row["id"], row["created_at"]), (receipt.seq, receipt.id, receipt.created_at))
        self.assertFalse(receipt.duplicate)

    def test_programs_of_the_pages_work(self) -> None:
        for page, printed in ((README, r"^[0-9]+ False\n$"), (GUIDE, r"^$")):
            program = page.read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
            output = io.StringIO()
            with self.subTest(page.name), mock.patch.dict(os.environ, RECADO_URL=self.hub.url, RECADO_KEY=self.key):
                with contextlib.redirect_stdout(output):
                    exec(compile(program, page.name, "exec"), {})
                self.assertRegex(output.getvalue(), printed)
        self.assertEqual([row["type"] for row in self.hub.history("42")], ["order_created", "order_updated"])

    def test_a_repeated_key_says_duplicate(self) -> None:
        first = self.client().notify(body("repeated"), idempotency_key="repeated-1")
        second = self.client().notify(body("repeated"), idempotency_key="repeated-1")
        self.assertEqual((second.seq, second.id, second.duplicate), (first.seq, first.id, True))
        self.assertEqual(len(self.hub.history("repeated")), 1)

    def test_calls_without_a_key_are_different_notifications(self) -> None:
        client = self.client()
        self.assertNotEqual(client.notify(body("no-key")).seq, client.notify(body("no-key")).seq)

    def test_the_ten_methods_are_accepted(self) -> None:
        client, data = self.client(), {"id": "1", "name": "Lamp"}
        client.notify_order_created("buyer", "seller", "7", data)
        client.notify_payment_confirmed("buyer", "seller", "7", data)
        client.notify_order_status_updated("buyer", "7", data, "shipped")
        client.notify_stock_alert("seller", "7", data)
        client.notify_product_added("seller", "7", data)
        client.notify_product_updated("seller", "7", data)
        client.notify_product_deleted("seller", "7", data)
        client.notify_cart_updated("buyer", "7", data)
        client.notify_transaction_created("buyer", "7", data)
        client.notify_profile_updated("buyer", "7", data)
        shared = ["order_created", "payment_confirmed"]
        products = ["stock_alert", "product_added", "product_updated", "product_deleted"]
        others = ["order_updated", "cart_updated", "transaction_created", "profile_updated"]
        self.assertEqual([row["type"] for row in self.hub.history("buyer")], shared + others)
        self.assertEqual([row["type"] for row in self.hub.history("seller")], shared + products)

    def test_a_long_list_can_be_repeated_whole(self) -> None:
        notifications = [body("list", message=str(at)) for at in range(2_001)]
        first = self.client().notify_many(notifications, idempotency_key="list-1")
        second = self.client().notify_many(notifications, idempotency_key="list-1")
        self.assertEqual([receipt.seq for receipt in second], [receipt.seq for receipt in first])
        self.assertTrue(all(receipt.duplicate for receipt in second))
        self.assertEqual([row["message"] for row in self.hub.history("list")], [str(at) for at in range(2_001)])

    def test_tasks_of_one_loop_share_the_client(self) -> None:
        async def run() -> List[recado.Receipt]:
            async with recado.AsyncNotificationClient(self.hub.url, self.key) as client:
                return await asyncio.gather(*(client.notify(body("tasks", message=str(at))) for at in range(40)))

        receipts = asyncio.run(run())
        rows = {row["seq"]: row["message"] for row in self.hub.history("tasks")}
        self.assertEqual(rows, {receipt.seq: str(at) for at, receipt in enumerate(receipts)})

    def test_threads_share_the_client(self) -> None:
        client, found = self.client(), {}

        def post(at: int) -> None:
            found[client.notify(body("threads", message=str(at))).seq] = str(at)

        threads = [threading.Thread(target=post, args=(at,)) for at in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual({row["seq"]: row["message"] for row in self.hub.history("threads")}, found)

    def test_refusals_of_the_hub_have_their_classes(self) -> None:
        with recado.NotificationClient(self.hub.url, "rck_unknown") as stranger:
            with self.assertRaises(recado.CredentialError):
                stranger.notify(body("refused"))
        client = self.client()
        with self.assertRaises(recado.InvalidNotificationError) as invalid:
            client.notify(body("re fused", type="Not A Type"))
        self.assertEqual([error.pointer for error in invalid.exception.errors], ["/type", "/user_id"])
        self.assertIsNotNone(invalid.exception.request_id)
        client.notify(body("refused"), idempotency_key="conflict-1")
        with self.assertRaises(recado.IdempotencyConflictError):
            client.notify(body("refused", title="Another"), idempotency_key="conflict-1")
        with self.assertRaises(recado.InvalidNotificationError) as large:
            client.notify(body("refused", message="x" * 70_000))
        self.assertEqual((large.exception.code, large.exception.attempts), ("body_too_large", 1))
        self.assertEqual(len(self.hub.history("refused")), 1)

    def test_a_list_that_is_too_large_is_refused_once_by_both_clients(self) -> None:
        notifications = [body("large", message="x" * 60_000)] * 250
        with self.assertRaises(recado.InvalidNotificationError) as blocking:
            self.client().notify_many(notifications)

        async def run() -> None:
            async with recado.AsyncNotificationClient(self.hub.url, self.key) as client:
                await client.notify_many(notifications)

        with self.assertRaises(recado.InvalidNotificationError) as in_loop:
            asyncio.run(run())
        for error in (blocking.exception, in_loop.exception):
            self.assertEqual((error.status, error.code, error.attempts), (413, "body_too_large", 1))

    def test_a_kill_between_attempts_leaves_exactly_one_row(self) -> None:
        """The hub commits, its answer is lost, and the hub is killed and started again before the second attempt."""

        def restart(seconds: float) -> None:
            self.hub.kill()
            self.hub.start()

        async def restart_async(seconds: float) -> None:
            restart(seconds)

        def blocking(url: str) -> recado.Receipt:
            with recado.NotificationClient(url, self.key, _sleep=restart) as client:
                return client.notify(body("killed-blocking"))

        def in_loop(url: str) -> recado.Receipt:
            async def run() -> recado.Receipt:
                async with recado.AsyncNotificationClient(url, self.key, _sleep=restart_async) as client:
                    return await client.notify(body("killed-asyncio"))

            return asyncio.run(run())

        for user, post in (("killed-blocking", blocking), ("killed-asyncio", in_loop)):
            with self.subTest(user):
                relay = AnswerEater(self.hub.url, lost=1)
                self.addCleanup(relay.close)
                thread = threading.Thread(target=relay.serve, args=(2,))
                thread.start()
                receipt = post(relay.url)
                thread.join()
                self.assertIn(b"201 Created", relay.eaten[0])
                self.assertTrue(receipt.duplicate)
                self.assertEqual([row["seq"] for row in self.hub.history(user)], [receipt.seq])

    def test_the_defaults_outlast_a_restart_of_the_hub(self) -> None:
        client = self.client()
        client.notify(body("restart", message="0"))
        self.hub.kill()
        outcome: Dict[str, Optional[recado.Receipt]] = {}
        thread = threading.Thread(target=lambda: outcome.update(receipt=client.notify(body("restart", message="1"))))
        thread.start()
        self.hub.start()
        thread.join()
        receipt = outcome.get("receipt")
        assert receipt is not None, "the client gave up before the hub was back"
        self.assertEqual([row["message"] for row in self.hub.history("restart")], ["0", "1"])


if __name__ == "__main__":
    unittest.main()
