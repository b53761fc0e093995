"""Tests the parser of HTTP answers and of the hub's address."""

from __future__ import annotations

import unittest
from typing import List, Optional

from recado._http import BadAnswer, HttpResponse, HubUrl, ResponseReader, render_post


def read(answer: bytes, step: int, end: bool) -> Optional[HttpResponse]:
    """Feeds an answer in pieces of `step` bytes, and then the end of the connection if `end`."""
    reader = ResponseReader()
    pieces: List[bytes] = [answer[at : at + step] for at in range(0, len(answer), step)]
    for piece in pieces + ([b""] if end else []):
        response = reader.feed(piece)
        if response is not None:
            return response
    return None


class ResponseReaderTest(unittest.TestCase):
    def test_answers_are_read_however_they_are_cut(self) -> None:
        chunked = (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=1\r\nabc\r\n2\r\nde\r\n0\r\nTrailer: 1\r\n\r\n"
        )
        for answer, end, body, reusable in [
            (b"HTTP/1.1 201 Created\r\nContent-Length: 5\r\n\r\nabcde", False, b"abcde", True),
            (b"HTTP/1.1 201 Created\nContent-Length: 5\n\nabcde", False, b"abcde", True),
            (b"HTTP/1.1 201\r\nContent-Length: 0\r\n\r\n", False, b"", True),
            (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\na", False, b"a", False),
            (b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\na", False, b"a", False),
            (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na", False, b"a", True),
            (b"HTTP/1.1 204 No Content\r\n\r\n", False, b"", True),
            (b"HTTP/1.1 502 Bad Gateway\r\n\r\nabcde", True, b"abcde", False),
            (chunked, False, b"abcde", True),
        ]:
            for step in (1, 2, 7, len(answer)):
                with self.subTest(answer=answer, step=step):
                    response = read(answer, step, end)
                    assert response is not None
                    self.assertEqual((response.body, response.reusable), (body, reusable))

    def test_headers_of_one_name_are_joined(self) -> None:
        response = read(b"HTTP/1.1 200 OK\r\nA: 1\r\na:2\r\nContent-Length: 0\r\n\r\n", 1, False)
        assert response is not None
        self.assertEqual(response.headers["a"], "1, 2")

    def test_bytes_after_the_answer_make_the_connection_unfit(self) -> None:
        response = read(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\naHTTP/1.1 200", 100, False)
        assert response is not None
        self.assertEqual((response.body, response.reusable), (b"a", False))

    def test_what_is_not_an_answer_is_refused(self) -> None:
        for answer in [
            b"",
            b"SSH-2.0-OpenSSH\r\n",
            b"HTTP/2 200\r\n\r\n",
            b"HTTP/1.1 abc\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc",
            b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nabc",
            b"HTTP/1.1 200 OK\r\nContent-Length: \xb2\r\n\r\nab",
            b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\nabc",
            b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nab",
            b"HTTP/1.1 200 OK\r\nA: " + b"x" * 70_000,
            b"HTTP/1.1 200 OK\r\n" + b"A: 1234567890\r\n" * 10_000,
        ]:
            with self.subTest(answer=answer[:60]), self.assertRaises(BadAnswer):
                read(answer, 1_000, True)


class HubUrlTest(unittest.TestCase):
    def test_addresses_are_parsed(self) -> None:
        for text, host, port, tls, path, authority in [
            ("http://localhost:8080", "localhost", 8080, False, "", "localhost:8080"),
            ("https://hub.example.com/", "hub.example.com", 443, True, "", "hub.example.com"),
            ("https://example.com:8443/hub/", "example.com", 8443, True, "/hub", "example.com:8443"),
            ("http://[::1]:8080/a/b", "::1", 8080, False, "/a/b", "[::1]:8080"),
            ("http://olá.example", "olá.example", 80, False, "", "xn--ol-nia.example"),
        ]:
            with self.subTest(text):
                url = HubUrl.parse(text)
                self.assertEqual((url.host, url.port, url.tls, url.path), (host, port, tls, path))
                self.assertEqual(url.authority(), authority)

    def test_other_addresses_are_refused(self) -> None:
        for text in [
            "localhost:8080", "ws://hub", "https://", "https://user:secret@hub", "https://hub?x=1", "https://hub#x",
            "https://hub/a b", "https://hub:99999",
        ]:  # fmt: skip
            with self.subTest(text), self.assertRaises(ValueError) as refused:
                HubUrl.parse(text)
            self.assertNotIn("secret", str(refused.exception))

    def test_a_path_of_the_address_is_kept(self) -> None:
        request = render_post(HubUrl.parse("https://example.com/hub/"), "/api", {"A": "1"}, b"{}")
        self.assertEqual(request, b"POST /hub/api HTTP/1.1\r\nHost: example.com\r\nContent-Length: 2\r\nA: 1\r\n\r\n{}")
