"""Runs each case of clients/cases against the blocking and the asyncio client."""

from __future__ import annotations

import asyncio
import json
import pathlib
import re
import socket
import time
import unittest
from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple, cast

import recado
from recado._settings import Clock

from .scripted_server import ScriptedServer

CASES = pathlib.Path(__file__).resolve().parents[2] / "cases"
FILES = ("retries.json", "errors.json", "batches.json", "methods.json")
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
API_KEY = "rck_secret_of_the_test"
Case = Mapping[str, Any]


class RecordedTime:
    """Records waits instead of waiting. The clock moves on by each of them."""

    def __init__(self, random: float) -> None:
        self.waits_ms: List[float] = []
        self._random = random

    def sleep(self, seconds: float) -> None:
        self.waits_ms.append(seconds * 1000)

    async def sleep_async(self, seconds: float) -> None:
        self.waits_ms.append(seconds * 1000)

    def clock(self) -> Clock:
        return Clock(now=lambda: time.monotonic() + sum(self.waits_ms) / 1000, random=lambda: self._random)


def snake_case(name: str) -> str:
    return re.sub(r"[A-Z]", lambda found: "_" + found.group().lower(), name)


def expand(argument: Any) -> Any:
    if isinstance(argument, dict) and "$copies" in argument:
        item, count = argument["$copies"]
        return [item] * count
    return argument


def settings(case: Case) -> Dict[str, Any]:
    given = dict(case.get("client", {}))
    found: Dict[str, Any] = {name[:-3]: given.pop(name) / 1000 for name in list(given) if name.endswith("_ms")}
    return {**found, **given}


def call(case: Case) -> Tuple[str, List[Any], Dict[str, Any]]:
    given = case["call"]
    named = {"idempotency_key": given["idempotency_key"]} if "idempotency_key" in given else {}
    return snake_case(given["method"]), [expand(argument) for argument in given["arguments"]], named


def call_blocking(case: Case, url: str, recorded: RecordedTime) -> Any:
    method, arguments, named = call(case)
    with recado.NotificationClient(
        url, API_KEY, **settings(case), _clock=recorded.clock(), _sleep=recorded.sleep
    ) as client:
        return getattr(client, method)(*arguments, **named)


def call_async(case: Case, url: str, recorded: RecordedTime) -> Any:
    method, arguments, named = call(case)

    async def run() -> Any:
        async with recado.AsyncNotificationClient(
            url, API_KEY, **settings(case), _clock=recorded.clock(), _sleep=recorded.sleep_async
        ) as client:
            return await getattr(client, method)(*arguments, **named)

    return asyncio.run(run())


class CaseTest(unittest.TestCase):
    """One test for each case and client; they are added below."""

    maxDiff = None

    def check(self, case: Case, make_call: Callable[[Case, str, RecordedTime], Any]) -> None:
        recorded = RecordedTime(case.get("random", 1))
        with ScriptedServer(case["answers"]) as server:
            url = server.url
            if case.get("server") == "absent":
                with socket.create_server(("127.0.0.1", 0)) as closed:
                    url = f"http://127.0.0.1:{closed.getsockname()[1]}"
            result, error = self.outcome(case, url, recorded, make_call)
        if "error" in case:
            self.check_error(case["error"], error)
        else:
            self.assertIsNone(error)
            self.check_result(case["result"], result)
        self.check_waits(case["waits_ms"], recorded.waits_ms)
        self.check_requests(case, server)

    def outcome(
        self, case: Case, url: str, recorded: RecordedTime, make_call: Callable[[Case, str, RecordedTime], Any]
    ) -> Tuple[Any, Optional[recado.NotificationError]]:
        if case.get("client", {}).get("on_error") == "log":
            with self.assertLogs("recado", "WARNING") as logged:
                result = make_call(case, url, recorded)
            self.assertEqual(len(logged.output), 1)
            self.assertNotIn(API_KEY, logged.output[0])
            return result, None
        try:
            return make_call(case, url, recorded), None
        except recado.NotificationError as error:
            self.assertNotIn(API_KEY, f"{error} {error!r}")
            return None, error

    def check_result(self, expected: Any, result: Any) -> None:
        if isinstance(expected, dict) and "$count" in expected:
            self.assertEqual([receipt.seq for receipt in result], list(range(1, expected["$count"] + 1)))
        elif isinstance(expected, list):
            self.assertEqual(len(result), len(expected))
            for wanted, receipt in zip(expected, result):
                self.check_result(wanted, receipt)
        elif expected is None:
            self.assertIsNone(result)
        else:
            name = f"00000000-0000-7000-8000-{expected['seq']:012}"
            wanted = recado.Receipt(expected["seq"], name, "2026-11-21T16:39:58.120Z", expected["duplicate"])
            self.assertEqual(result, wanted)

    def check_error(self, expected: Mapping[str, Any], error: Optional[recado.NotificationError]) -> None:
        self.assertIsNotNone(error, "the call returned")
        error = cast(recado.NotificationError, error)
        found = {
            "class": type(error).__name__,
            "code": error.code,
            "status": error.status,
            "attempts": error.attempts,
            "outcome_unknown": error.outcome_unknown,
            "request_id": error.request_id,
            "retry_after_ms": None if error.retry_after is None else error.retry_after * 1000,
            "errors": [{"pointer": each.pointer, "detail": each.detail} for each in error.errors],
            "key": "uuid" if UUID.fullmatch(error.idempotency_key or "") else error.idempotency_key,
            "receipts": len(error.receipts),
        }
        self.assertEqual({name: found[name] for name in expected}, expected)
        if error.code in ("network_error", "timeout"):
            self.assertIsNotNone(error.__cause__)

    def check_waits(self, expected: List[Any], waits_ms: List[float]) -> None:
        self.assertEqual(len(waits_ms), len(expected), waits_ms)
        for wanted, wait in zip(expected, waits_ms):
            least, most = wanted if isinstance(wanted, list) else (wanted, wanted)
            self.assertTrue(least - 1 <= wait <= most + 1, f"{wait} ms, not {wanted}")

    def check_requests(self, case: Case, server: ScriptedServer) -> None:
        self.assertEqual(len(server.requests), len(case["requests"]))
        made = set()
        for expected, request in zip(case["requests"], server.requests):
            key = request.headers["idempotency-key"]
            if expected["key"] == "uuid":
                self.assertRegex(key, UUID)
                made.add(key)
            else:
                self.assertEqual(key, expected["key"])
            self.assertEqual(request.headers["authorization"], f"Bearer {API_KEY}")
            self.assertEqual(request.headers["content-type"], "application/json")
            if "path" in expected:
                self.assertEqual(request.path, expected["path"])
            if "body" in expected:
                self.assertEqual(request.body, expected["body"])
            if "items" in expected:
                self.assertEqual(len(request.body["items"]), expected["items"])
        self.assertLessEqual(len(made), 1, "the key changed between attempts")
        if "connections" in case:
            self.assertEqual(server.connections, case["connections"])


def add_tests() -> None:
    for file in FILES:
        for case in json.loads((CASES / file).read_text(encoding="utf-8"))["cases"]:
            name = re.sub(r"\W+", "_", case["name"])
            for client, make_call in (("blocking", call_blocking), ("asyncio", call_async)):

                def test(self: CaseTest, case: Case = case, make_call: Any = make_call) -> None:
                    self.check(case, make_call)

                attribute = f"test_{client}_{file[:-5]}_{name}"
                assert not hasattr(CaseTest, attribute), f"two cases are called {case['name']!r}"
                setattr(CaseTest, attribute, test)


add_tests()
