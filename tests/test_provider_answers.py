"""What a provider's 429 says, by whatever library it comes, and which errors say that a call was not paid."""

from __future__ import annotations

import email.message
import socket
import urllib.error
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from types import SimpleNamespace

import httpx
import pytest

from pgonly_django.provider_answers import DEFAULT_SECONDS, LONGEST_SECONDS, is_unpaid, seconds_of

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
IN_AN_EIGHTH = {"Date": format_datetime(NOW, usegmt=True)} | {
    "Retry-After": format_datetime(NOW + timedelta(seconds=450), usegmt=True)
}


def httpx_response(headers):
    return httpx.Response(429, headers=headers, request=httpx.Request("POST", "http://provider.invalid/"))


def httpx_error(headers):
    response = httpx_response(headers)
    return httpx.HTTPStatusError("429", request=response.request, response=response)


def sdk_error(headers):
    """As that of openai and anthropic."""
    error = Exception("429")
    error.response, error.status_code = httpx_response(headers), 429
    return error


def urllib_error(headers):
    message = email.message.Message()
    for name, value in headers.items():
        message[name] = value
    return urllib.error.HTTPError("http://provider.invalid/", 429, "Too Many Requests", message, None)


def boto_error(headers):
    error = Exception("ThrottlingException")
    lower = {name.lower(): value for name, value in headers.items()}
    error.response = {"ResponseMetadata": {"HTTPStatusCode": 429, "HTTPHeaders": lower}}
    return error


def django_response(headers):
    from django.http import HttpResponse

    return HttpResponse(status=429, headers=headers)


SHAPES = [dict, httpx_response, httpx_error, sdk_error, urllib_error, boto_error, django_response]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7),
        ({"retry-after": "0.5"}, 0.5),
        ({"Retry-After": "7", "retry-after-ms": "6500"}, 6.5),
        (IN_AN_EIGHTH, 450),
        ({"Retry-After": "0"}, 0),
        ({"Retry-After": "31536000"}, LONGEST_SECONDS),
        ({"Retry-After": "soon"}, DEFAULT_SECONDS),
        ({"Retry-After": "nan"}, DEFAULT_SECONDS),
        ({"Retry-After": "-3"}, DEFAULT_SECONDS),
        ({}, DEFAULT_SECONDS),
    ],
)
def test_what_it_asks_for_is_found(shape, headers, seconds):
    assert seconds_of(shape(headers)) == seconds


def test_a_date_without_the_response_s_own_counts_from_this_clock():
    later = datetime.now(UTC) + timedelta(seconds=100)
    assert 95 < seconds_of({"Retry-After": format_datetime(later, usegmt=True)}) <= 100
    assert seconds_of({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0


def test_an_attribute_of_the_error_counts_too():
    assert seconds_of(SimpleNamespace(retry_after=3)) == 3
    assert seconds_of(SimpleNamespace(retry_after=timedelta(seconds=4))) == 4


def test_headers_in_bytes_are_read():
    assert seconds_of({b"retry-after": b"9"}) == 9


class Hostile:
    @property
    def headers(self):
        raise RuntimeError("closed")


@pytest.mark.parametrize(
    "answer", [None, "429", 429, object(), Hostile(), SimpleNamespace(headers=7, response="x")]
)
def test_what_says_nothing_is_the_default(answer):
    assert seconds_of(answer) == DEFAULT_SECONDS


def error(name, bases=(Exception,), **facts):
    """Like one of a client library, which is not installed here."""
    made = type(name, bases, {})("of a library")
    for fact, value in facts.items():
        setattr(made, fact, value)
    return made


def caused_by(outer, inner):
    outer.__cause__ = inner
    return outer


class Answer:
    def __init__(self, status_code):
        self.status_code = status_code


class RetriesOverError(Exception):
    """As urllib3's MaxRetryError, which requests passes on as an argument."""

    def __init__(self):
        self.reason = error("NewConnectionError")
        super().__init__("retries are over")


@pytest.mark.parametrize(
    "refusal",
    [
        error("RateLimitError", status_code=429),
        error("APIStatusError", status_code=503),
        error("HTTPStatusError", response=Answer(400)),
        error("ClientResponseError", status=401),
        error("ConnectError"),
        error("ConnectTimeout"),
        caused_by(error("APIConnectionError"), error("ConnectError")),
        ConnectionRefusedError(),
        socket.gaierror(),
        Exception(RetriesOverError()),
    ],
    ids=repr,
)
def test_an_answer_that_is_an_error_and_a_connection_never_made_cost_nothing(refusal):
    assert is_unpaid(refusal)


def with_context(outer, context):
    outer.__context__ = context
    return outer


@pytest.mark.parametrize(
    "doubt",
    [
        None,
        KeyError("choices"),
        TimeoutError(),
        ConnectionResetError(),
        error("ReadTimeout"),
        error("GatewayTimeout", status_code=504),
        error("RequestTimeout", status_code=408),
        error("Answered", status_code=200),
        error("Odd", status_code=True),
        error("Odd", status_code="429"),
        with_context(KeyError(), error("ConnectError")),  # of an earlier call
        KeyboardInterrupt(),
    ],
    ids=repr,
)
def test_in_doubt_a_call_was_paid(doubt):
    assert not is_unpaid(doubt)


def test_a_chain_of_causes_without_an_end_is_no_trap():
    loop = ValueError()
    assert not is_unpaid(caused_by(loop, loop))
