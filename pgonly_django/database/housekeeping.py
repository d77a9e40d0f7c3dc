"""What duties need of Django's connections: see duties.py."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.db import connections, models, router, transaction

from pgonly_django.database.connect import SET_LOCAL

LOCK_WAIT = "2s"


def database_of(model: type[models.Model]) -> str | None:
    """Returns the database where the router keeps the rows of `model`; None where that has no such table."""
    alias = router.db_for_write(model)
    is_there = connections[alias].vendor == "postgresql" and router.allow_migrate_model(alias, model)
    return alias if is_there else None


@contextmanager
def no_timeout(alias: str) -> Iterator[None]:
    """Serves statements on Django's connection. A statement_timeout of the role or the database is meant for requests:
    it would cancel the same batch in every round."""

    def execute_in_transaction(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        with transaction.atomic(using=alias):
            context["connection"].connection.execute(SET_LOCAL, {"wait": LOCK_WAIT})
            return execute(sql, params, many, context)

    with connections[alias].execute_wrapper(execute_in_transaction):
        yield


@contextmanager
def patient_transaction(alias: str) -> Iterator[None]:
    """A transaction whose statements wait LOCK_WAIT for locks, and have no timeout."""
    with transaction.atomic(using=alias), connections[alias].cursor() as cursor:
        cursor.execute(SET_LOCAL, {"wait": LOCK_WAIT})
        yield


@contextmanager
def closed_after(alias: str) -> Iterator[None]:
    """Closes Django's connection after the block, unless it was open before."""
    was_open = connections[alias].connection is not None
    yield
    if not was_open:
        connections[alias].close()
