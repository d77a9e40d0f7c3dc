from __future__ import annotations

import json

import pytest

from pgonly_django.worker.health.http import REQUEST_LIMIT, RefusedError, Request, Response, parse


def test_a_request_is_parsed():
    received = (
        b"POST /wake/?a=1 HTTP/1.1\r\nHost: x\r\nAuthorization:  Bearer t \r\nContent-Length: 2\r\n\r\nhi"
    )
    headers = {"host": "x", "authorization": "Bearer t", "content-length": "2"}
    assert parse(received) == Request("POST", "/wake", "a=1", headers, b"hi")


@pytest.mark.parametrize(
    "received", [b"", b"GET /live HTTP/1.1\r\n", b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\nh"]
)
def test_an_incomplete_request_waits(received):
    assert parse(received) is None


@pytest.mark.parametrize(
    ("received", "status"),
    [
        (b"x" * REQUEST_LIMIT, 431),
        (b"hello\r\n\r\n", 400),
        (b"\x16\x03\x01\r\n\r\n", 400),
        (b"GET live HTTP/1.1\r\n\r\n", 400),
        (b"GET /live HTTP/2\r\n\r\n", 400),
        (b"GET /live HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"GET /live HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"GET /live HTTP/1.1\r\nContent-Length: \xb2\r\n\r\n", 400),
        (b"GET /live HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"POST /wake HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n", 413),
        (b"POST /wake HTTP/1.1\r\nContent-Length: " + b"9" * 3000 + b"\r\n\r\n", 413),
        (b"POST /wake HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 411),
    ],
)  # fmt: skip
def test_what_is_no_request_is_refused(received, status):
    with pytest.raises(RefusedError) as caught:
        parse(received)
    assert caught.value.response.status == status
    assert json.loads(caught.value.response.body)["error"]


def test_a_response_says_its_length_and_that_nobody_may_keep_it():
    head, _, body = (
        Response.of(405, {"error": "no"}, Allow="GET").encode(with_body=True).partition(b"\r\n\r\n")
    )
    assert head.split(b"\r\n") == [
        b"HTTP/1.1 405 Method Not Allowed", b"Content-Type: application/json", b"Content-Length: 16",
        b"Cache-Control: no-store", b"Connection: close", b"Allow: GET",
    ]  # fmt: skip
    assert json.loads(body) == {"error": "no"}
    assert Response.of(200, {}).encode(with_body=False).endswith(b"close\r\n\r\n")
