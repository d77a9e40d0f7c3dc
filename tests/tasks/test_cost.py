"""What enqueue() and enqueue_many() cost their caller, counted: such numbers do not depend on the machine."""

from __future__ import annotations

import logging

import pytest
from django.db import connections

from pgonly_django import enqueue_many
from pgonly_django.compat import tasks_logger
from pgonly_django.database import notify
from tests.counting import counted_calls
from tests.jobs import add

# Calls of Python functions. Where the caller sleeps between two jobs, one takes about half a microsecond.
CALLS_OF_ONE = 68
CALLS_OF_ONE_OF_MANY = 9


@pytest.fixture(autouse=True)
def quiet(transactional_db, caplog, monkeypatch):
    """Nothing is logged, no NOTIFY is due after the first, and no SimpleTestCase has left its mark on the connection:
    that is looked at by one more call."""
    vars(connections["default"]).pop("cursor", None)
    for name in (tasks_logger.name, "pgonly_django"):
        caplog.set_level(logging.WARNING, name)
    monkeypatch.setattr(notify, "DENSE_SECONDS", 3600.0)
    monkeypatch.setattr(notify, "COALESCE_SECONDS", 3600.0)
    for number in range(10):  # what is prepared, imported and looked up once
        add.enqueue(number)


def test_an_enqueue_takes_few_calls():
    with counted_calls() as counts:
        add.enqueue(1)
    assert counts.total() <= CALLS_OF_ONE, "\n".join(
        f"{count} {name}" for name, count in sorted(counts.items())
    )


def test_each_of_many_jobs_takes_fewer_calls():
    counts = [calls_of_many(number) for number in (1000, 3000)]
    of_a_job = counts[1] - counts[0]
    # What is called less than once for each job may be what earlier tests have left behind.
    calls = sum(count // 2000 for count in of_a_job.values())
    assert calls <= CALLS_OF_ONE_OF_MANY, of_a_job.most_common(20)


def calls_of_many(number):
    with counted_calls() as counts:
        enqueue_many((add, (1,)) for _ in range(number))
    return counts


class Left:
    def __init__(self):
        self.itself = self

    def __del__(self): ...


def test_what_earlier_tests_have_left_is_not_counted():
    """Lists are what the garbage collector counts before it looks for such cycles."""
    Left()
    with counted_calls() as counts:
        [[] for _ in range(100_000)]
    assert "test_cost.py:__del__" not in counts


SENTRYS = """
def get_client(): ...
def enqueue(call):
    get_client()
    call()
"""


def test_what_sentry_has_put_around_a_function_is_not_counted():
    """Once a test has started it, it stays around Task.enqueue for the rest of the process."""
    around = {}
    exec(compile(SENTRYS, "/sentry_sdk/integrations/django/tasks.py", "exec"), around)
    with counted_calls() as counts:
        around["enqueue"](calls_of_ours)
    assert [name for name in counts if "contextlib" not in name] == [
        "test_cost.py:our_call",
        "counting.py:counted_calls",
    ]


def calls_of_ours():
    our_call()


def our_call(): ...
