"""Which errors of a paid call say that it was not paid."""

from __future__ import annotations

import socket

import pytest

from pgonly_django.limits.provider_answers import is_unpaid


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
    loop.__cause__ = loop
    assert not is_unpaid(loop)
