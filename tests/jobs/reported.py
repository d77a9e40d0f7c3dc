"""Tasks whose failures are reported, in a scope of their own."""

from __future__ import annotations

import logging

import sentry_sdk

from pgonly_django import task
from tests.jobs import AT_ONCE

_logger = logging.getLogger("tests.reported")


@task(max_attempts=1)
def fail_with(number, password="hunter2"):
    raise ValueError(number)


@task(max_attempts=1)
async def fail_async(number):
    raise ValueError(number)


@task(max_attempts=1, atomic=True)
def fail_atomic(number):
    raise ValueError(number)


@task(max_attempts=3, backoff=AT_ONCE)
def fail_thrice():
    raise ValueError("no")


@task(max_attempts=1)
def fail_as_user(name):
    sentry_sdk.set_user({"username": name})
    sentry_sdk.set_tag("of", name)
    _logger.warning("crumb of %s", name)
    raise LookupError(name)


@task(max_attempts=1)
async def say_and_fail_async(how):
    say_and_fail.func(how)


@task(max_attempts=1)
def say_and_fail(how):
    try:
        raise ValueError(how)
    except ValueError as error:
        if how == "capture":
            sentry_sdk.capture_exception(error)
        else:
            _logger.exception("it failed")
        raise


def capture(task_result, error):
    sentry_sdk.capture_exception(error)


@task(max_attempts=1, on_failure=capture)
def fail_and_capture():
    raise ValueError("no")


THE_ERROR = ValueError("the same for all")  # as that of a future that several jobs wait for


@task(max_attempts=1)
def fail_with_one_error():
    raise THE_ERROR
