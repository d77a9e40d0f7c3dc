"""Sessions use the request's own connection: a login inside an atomic view rolls back with the view."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from django.db import InterfaceError, OperationalError, connections, transaction

from pgonly_django.database.libpq import Params, Statement
from pgonly_django.database.on_django import Row, first_row

if TYPE_CHECKING:
    from django.db.backends.postgresql.base import DatabaseWrapper


def first_row_again_if_cut(alias: str, statement: Statement, params: Params) -> Row | None:
    """As first_row(), for a statement that only reads: outside a transaction a dead connection is replaced once.

    A server that cannot be reached is tried once: two timeouts in a row would keep the request twice as long.
    """
    try:
        return first_row(alias, statement, params)
    except (OperationalError, InterfaceError):
        connection = cast("DatabaseWrapper", connections[alias])
        if connection.connection is None or in_transaction(alias) or connection.is_usable():
            raise
        connection.close()
        if connection.pool:
            connection.pool.check()  # what died with the server did so in all its places
        return first_row(alias, statement, params)


def after_commit(alias: str, do: Callable[[], None]) -> bool:
    """Have `do` called once what was just written is certain, at once where it is. False: nobody would tell."""
    if not in_transaction(alias):
        do()
    elif connections[alias].in_atomic_block:
        transaction.on_commit(do, using=alias)
    else:
        return False
    return True


def in_transaction(alias: str) -> bool:
    """True where a rollback may still undo what was written; a TestCase's own transaction does not count."""
    connection = connections[alias]
    if connection.in_atomic_block:
        return not all(getattr(block, "_from_testcase", False) for block in connection.atomic_blocks)
    return connection.connection is not None and not connection.get_autocommit()
