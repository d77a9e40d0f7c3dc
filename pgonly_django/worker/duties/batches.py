"""Deleting in batches, for the duties that prune."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event
from typing import Any

from django.db import connections, transaction

from pgonly_django.database.connect import SET_LOCAL

BATCH = 1000
PAUSE_SECONDS = 0.05
INTERVAL_SECONDS = 300.0
LOCK_WAIT = "2s"


def in_batches(delete: Callable[[], int], over: Event) -> int:
    """Call `delete` until it deletes less than a BATCH, or the worker ends. Returns how many rows it deleted."""
    total = count = delete()
    while count >= BATCH and not over.wait(PAUSE_SECONDS):
        count = delete()
        total += count
    return total


@contextmanager
def no_timeout(alias: str) -> Iterator[None]:
    """For statements on Django's connection. A statement_timeout of the role or the database is meant for requests: it
    would cancel the same batch in every round."""

    def execute_in_transaction(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        with transaction.atomic(using=alias):
            context["connection"].connection.execute(SET_LOCAL, {"wait": LOCK_WAIT})
            return execute(sql, params, many, context)

    with connections[alias].execute_wrapper(execute_in_transaction):
        yield
