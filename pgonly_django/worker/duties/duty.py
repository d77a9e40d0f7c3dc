"""What a duty of the maintenance thread is, and what those that prune have in common."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event
from typing import Any, ParamSpec, Protocol

from django.db import connections, transaction

from pgonly_django.database.connect import SET_LOCAL, OwnConnection
from pgonly_django.events import emit

P = ParamSpec("P")
Connect = Callable[[], OwnConnection]

BATCH = 1000
PAUSE_SECONDS = 0.05
INTERVAL_SECONDS = 300.0
BUSY_SECONDS = 60.0  # a duty that has found something to do comes again so soon
LOCK_WAIT = "2s"


class Duty(Protocol):
    name: str  # as its failure is logged: "<name> failed"
    interval: float  # seconds until it comes again when it has found nothing to do

    def run_once(self, jobs: Connect, over: Event) -> int:
        """`jobs()` is the connection to the jobs' database, opened when it is needed: that database may be away while
        another one, of sessions or a cache, can be pruned. `over` is set when the worker ends."""
        ...


def tried(what: str, work: Callable[P, int | None], *args: P.args, **kwargs: P.kwargs) -> int:
    """`work(...)`; 0 where it fails, which is logged and keeps nothing else from being done."""
    try:
        return work(*args, **kwargs) or 0
    except BaseException as error:  # noqa: BLE001 - a router of the project may even exit
        message = f"{what} failed, it is tried again later: {str(error).strip()}"
        emit("worker.maintenance_failed", message, level=logging.WARNING)
        return 0


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
