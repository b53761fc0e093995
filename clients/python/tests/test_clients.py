"""Tests connections, threads, TLS, cancellation, settings and texts of both clients."""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import ssl
import subprocess
import tempfile
import threading
import time
import unittest
import warnings
from typing import Any, Callable, List, Optional
from unittest import mock

import recado

from .scripted_server import ScriptedServer

NOTE = recado.NewNotification(type="t", title="T", message="M", user_id="42")
OK = {"ok": 201}


def no_sleep(seconds: float) -> None:
    """Waits no time between attempts."""


async def no_sleep_async(seconds: float) -> None:
    """Waits no time between attempts."""


def blocking_posts(url: str, count: int, between: Callable[[], None], **settings: Any) -> List[recado.Receipt]:
    """Posts `count` notifications with one client, and calls `between` after each."""
    receipts = []
    with recado.NotificationClient(url, "key", _sleep=no_sleep, **settings) as client:
        for _ in range(count):
            receipts.append(client.notify(NOTE))
            between()
    return receipts


def asyncio_posts(url: str, count: int, between: Callable[[], None], **settings: Any) -> List[recado.Receipt]:
    """As `blocking_posts`, on an event loop."""

    async def run() -> List[recado.Receipt]:
        receipts = []
        async with recado.AsyncNotificationClient(url, "key", _sleep=no_sleep_async, **settings) as client:
            for _ in range(count):
                receipts.append(await client.notify(NOTE))
                between()
        return receipts

    return asyncio.run(run())


POSTS = (("blocking", blocking_posts), ("asyncio", asyncio_posts))


class ConnectionTest(unittest.TestCase):
    def test_posts_reuse_one_connection(self) -> None:
        for name, post in POSTS:
            with self.subTest(name), ScriptedServer([OK] * 5) as server:
                self.assertEqual(len(post(server.url, 5, lambda: None)), 5)
                self.assertEqual(server.connections, 1)

    def test_a_connection_that_the_hub_closed_is_not_used_again(self) -> None:
        """Its end is seen before the request, so the post needs one attempt."""
        for name, post in POSTS:
            with self.subTest(name), ScriptedServer([OK] * 3) as server:
                receipts = post(server.url, 3, server.drop_connections, retries=0)
                self.assertEqual([receipt.seq for receipt in receipts], [1, 2, 3])
                self.assertEqual(len(server.requests), 3)

    def test_a_connection_that_was_idle_for_long_is_not_used_again(self) -> None:
        for name, post in POSTS:
            module = "recado._transport" if name == "blocking" else "recado._async_transport"
            with self.subTest(name), ScriptedServer([OK] * 2) as server, mock.patch(f"{module}.LONGEST_IDLE_S", 0.0):
                post(server.url, 2, lambda: None)
                self.assertEqual(server.connections, 2)

    def test_an_answer_with_connection_close_ends_the_connection(self) -> None:
        last = {"status": 429, "headers": {"Connection": "close"}, "body": {"code": "rate_limited", "detail": "d"}}
        for name, post in POSTS:
            with self.subTest(name), ScriptedServer([last, OK]) as server:
                post(server.url, 1, lambda: None)
                self.assertEqual(server.connections, 2)

    def test_a_path_of_the_address_is_kept(self) -> None:
        for name, post in POSTS:
            with self.subTest(name), ScriptedServer([OK]) as server:
                post(f"{server.url}/hub/", 1, lambda: None)
                self.assertEqual(server.requests[0].path, "/hub/api/internal/notify")

    def test_a_closed_client_still_posts(self) -> None:
        with ScriptedServer([OK, OK]) as server:
            client = recado.NotificationClient(server.url, "key")
            client.close()
            client.notify(NOTE)
            client.notify(NOTE)
            self.assertEqual(server.connections, 2)

    def test_threads_have_connections_of_their_own(self) -> None:
        with ScriptedServer([{**OK, "after_ms": 100}] * 4) as server:
            with recado.NotificationClient(server.url, "key") as client:
                threads = [threading.Thread(target=client.notify, args=(NOTE,)) for _ in range(4)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
            self.assertEqual((len(server.requests), server.connections), (4, 4))

    @unittest.skipUnless(hasattr(os, "fork"), "there is no fork here")
    def test_a_forked_process_opens_connections_of_its_own(self) -> None:
        with ScriptedServer([OK] * 3) as server, recado.NotificationClient(server.url, "key") as client:
            client.notify(NOTE)
            with mock.patch("recado._transport.os.getpid", return_value=os.getpid() + 1):
                client.notify(NOTE)
            self.assertEqual(server.connections, 2)

    def test_connections_of_an_event_loop_that_ended_are_not_used(self) -> None:
        with ScriptedServer([OK] * 2) as server, warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            client = recado.AsyncNotificationClient(server.url, "key")
            self.assertEqual([asyncio.run(client.notify(NOTE)).seq, asyncio.run(client.notify(NOTE)).seq], [1, 2])
            self.assertEqual(server.connections, 2)
            asyncio.run(client.close())
            # Their warnings, which are meant here, come when they are collected.
            del client
            gc.collect()

    def test_a_cancelled_call_ends_at_once_and_closes_its_connection(self) -> None:
        opened: List[asyncio.StreamWriter] = []
        open_connection = asyncio.open_connection

        async def recorded(*arguments: Any, **named: Any) -> Any:
            connection = await open_connection(*arguments, **named)
            opened.append(connection[1])
            return connection

        async def run(url: str) -> float:
            async with recado.AsyncNotificationClient(url, "key") as client:
                task = asyncio.ensure_future(client.notify(NOTE))
                while not server.requests:
                    await asyncio.sleep(0.005)
                began = time.monotonic()
                task.cancel()
                with self.assertRaises(asyncio.CancelledError):
                    await task
                self.assertEqual([writer.is_closing() for writer in opened], [True])
                return time.monotonic() - began

        with ScriptedServer([{**OK, "after_ms": 5_000}]) as server:
            with mock.patch("recado._async_transport.asyncio.open_connection", recorded):
                self.assertLess(asyncio.run(run(server.url)), 3.0)
            self.assertEqual(len(server.requests), 1)

    def test_a_trickle_of_bytes_does_not_extend_the_timeout(self) -> None:
        """Each byte is in time for a timeout of the socket, and the whole answer is not in time."""
        for name, post in POSTS:
            with self.subTest(name), TricklingServer() as server:
                began = time.monotonic()
                with self.assertRaises(recado.OutcomeUnknownError) as failed:
                    post(server.url, 1, lambda: None, timeout=0.3, retries=0)
                self.assertEqual(failed.exception.code, "timeout")
                self.assertLess(time.monotonic() - began, 5.0)


class TricklingServer(ScriptedServer):
    """Answers with one byte in 50 ms, for ever."""

    def __init__(self) -> None:
        super().__init__([{}])

    def _answer(self, connection: Any, answer: Any, request: Any) -> bool:
        connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
        while not self._stopped.wait(0.05):
            connection.sendall(b"x")
        return False


@unittest.skipUnless(shutil.which("openssl"), "no openssl to make a certificate with")
class TlsTest(unittest.TestCase):
    folder: str

    @classmethod
    def setUpClass(cls) -> None:
        cls.folder = tempfile.mkdtemp()
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
             "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1",
             "-keyout", f"{cls.folder}/key", "-out", f"{cls.folder}/cert"],
            check=True, capture_output=True,
        )  # fmt: skip

    def server(self) -> ScriptedServer:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(f"{self.folder}/cert", f"{self.folder}/key")
        return ScriptedServer([OK] * 3, context)

    def test_posts_go_over_one_tls_connection(self) -> None:
        trusted = ssl.create_default_context(cafile=f"{self.folder}/cert")
        for name, post in POSTS:
            with self.subTest(name), self.server() as server:
                post(server.url, 3, lambda: None, ssl_context=trusted)
                self.assertEqual(server.connections, 1)

    def test_an_unknown_certificate_gets_no_request(self) -> None:
        for name, post in POSTS:
            with self.subTest(name), self.server() as server:
                with self.assertRaises(recado.UnavailableError) as failed:
                    post(server.url, 1, lambda: None, retries=1)
                self.assertIn("certificate", str(failed.exception))
                self.assertEqual((server.requests, failed.exception.attempts), ([], 2))


class SettingsTest(unittest.TestCase):
    def test_settings_that_break_a_rule_are_refused(self) -> None:
        good = {"url": "http://hub", "api_key": "key"}
        broken: List[Any] = [
            {"url": "hub"}, {"api_key": ""}, {"api_key": "two words"}, {"api_key": "key\r\nX: 1"}, {"timeout": 0},
            {"timeout": float("nan")}, {"deadline": -1}, {"deadline": float("inf")}, {"retries": -1},
            {"on_error": "ignore"}, {"texts": {"order_lost": lambda data: ("", "")}},
        ]  # fmt: skip
        for setting in broken:
            for client in (recado.NotificationClient, recado.AsyncNotificationClient):
                with self.subTest(setting), self.assertRaises(ValueError) as refused:
                    client(**{**good, **setting})
                self.assertNotIn("two words", str(refused.exception))

    def test_the_key_is_in_no_text_about_the_client(self) -> None:
        client = recado.NotificationClient("https://hub.example.com/x", "rck_secret")
        self.assertEqual(repr(client), "NotificationClient(https://hub.example.com/x)")

    def test_texts_can_be_replaced(self) -> None:
        texts = {"stock_alert": lambda data: ("Estoque baixo", f"Restam {data['quantity']}")}
        with ScriptedServer([OK, OK]) as server:
            with recado.NotificationClient(server.url, "key", texts=texts) as client:
                client.notify_stock_alert("43", "7", {"quantity": 3})
                client.notify_cart_updated("42", "7", {})
            first, second = (request.body for request in server.requests)
        self.assertEqual((first["title"], first["message"]), ("Estoque baixo", "Restam 3"))
        self.assertEqual(second["title"], "Cart updated")

    def test_data_that_is_not_json_is_refused(self) -> None:
        cyclic: List[Any] = []
        cyclic.append(cyclic)
        with ScriptedServer([]) as server, recado.NotificationClient(server.url, "key") as client:
            for data in (float("nan"), {1, 2}, cyclic, "\ud800"):
                with self.subTest(repr(data)), self.assertRaises(recado.InvalidNotificationError) as refused:
                    client.notify({**NOTE, "data": data})
                self.assertEqual((refused.exception.code, refused.exception.attempts), ("invalid_argument", 0))
            self.assertEqual(server.requests, [])

    def test_types_follow_on_error(self) -> None:
        """mypy checks the annotations; the calls check that they are true."""
        with ScriptedServer([OK, {"status": 401, "text": ""}]) as server:
            with recado.NotificationClient(server.url, "key") as raising:
                receipt: recado.Receipt = raising.notify(NOTE)
            with recado.NotificationClient(server.url, "key", on_error="log") as logging:
                with self.assertLogs("recado"):
                    perhaps: Optional[recado.Receipt] = logging.notify(NOTE)
        self.assertEqual((receipt.seq, perhaps), (1, None))


if __name__ == "__main__":
    unittest.main()
