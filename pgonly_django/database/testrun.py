"""In a test run our connections keep to Django's rules: none reaches a database that Django refuses to the test.

Django and pytest-django refuse by replacing methods of Django's connections. Those of a pool, and of a worker that a
test starts, are others: they ask here first.
"""

from __future__ import annotations

import os
import sys
import threading
from contextlib import nullcontext, suppress
from types import SimpleNamespace
from typing import Any, NoReturn
from weakref import WeakSet

from django.core.exceptions import SynchronousOnlyOperation
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

_PATCHED_BY = ("django.test.testcases", "pytest_django.plugin")
# Every call of a pool asks, so a comparison comes first. None once a test run was noticed.
_found = BaseDatabaseWrapper.ensure_connection
_usual = None if _found.__module__ in _PATCHED_BY else _found
_modules = sys.modules

# NAME of each alias when Django was set up: a test run gives an alias another one.
_names: dict[str, object] = {}
# Django's connections of all threads: a thread cannot look up those of another.
_of_all_threads: WeakSet[BaseDatabaseWrapper] = WeakSet()
_adding = threading.Lock()


def is_on() -> bool:
    """Returns True in a test run, and from then on until the process ends: threads of a test may run on after it.
    Importing django.test alone, as many libraries do, does not make a test run.
    """
    found = BaseDatabaseWrapper.ensure_connection
    if found is not _usual and (_usual is None or (found.__module__ in _PATCHED_BY and _notice())):
        return True
    utils = _modules.get("django.test.utils")
    # What setup_test_environment() itself asks.
    return utils is not None and "saved_data" in utils._TestState.__dict__ and _notice()  # noqa: SLF001


def _notice() -> bool:
    global _usual  # noqa: PLW0603 - a process is that of a test run or not
    _usual = None
    return True


def remember_names() -> None:
    for alias in connections:
        _names.setdefault(alias, connections.settings[alias]["NAME"])


def remember_connection(connection: BaseDatabaseWrapper, **_: Any) -> None:
    if is_on():
        with _adding:
            _of_all_threads.add(connection)


def testcase_connection(alias: str) -> BaseDatabaseWrapper | None:
    """Returns the connection on which a TestCase has opened its transaction in this thread; None without one. While an
    event loop runs, `connections` of Django gives another connection in the same thread.
    """
    thread = threading.get_ident()
    candidates: list[Any] = [connections[alias], *_in_testcases(alias)]
    mine = (each for each in candidates if each._thread_ident == thread)  # noqa: SLF001 - there is no other way
    return next((each for each in mine if _is_in_testcase(each)), None)


def is_any_in_testcase(alias: str) -> bool:
    return bool(_in_testcases(alias))


def _in_testcases(alias: str) -> list[BaseDatabaseWrapper]:
    with _adding:
        known = tuple(_of_all_threads)
    return [each for each in known if each.alias == alias and _is_in_testcase(each)]


def _is_in_testcase(connection: BaseDatabaseWrapper) -> bool:
    return any(getattr(block, "_from_testcase", False) for block in connection.atomic_blocks)


def databases() -> list[object] | None:
    """Returns the databases that the aliases have now; None in a normal run, where they never change."""
    return [connections.settings[alias]["NAME"] for alias in connections] if is_on() else None


class Refusal(Exception):  # noqa: N818 - a mark on Django's error, and on pytest-django's
    """Marks what was refused because of a test's rules."""


def _marked(kind: type[Exception]) -> type[Exception]:
    return type(kind.__name__, (Refusal, kind), {"__module__": kind.__module__})


def refuse_other_threads(alias: str, advice: str) -> None:
    """Raises where a TestCase's transaction is open in `alias`, which this thread is not in."""
    if is_any_in_testcase(alias):
        _refuse(
            f"Database {alias!r} was used outside of the thread that has this TestCase's transaction (in another "
            f"thread, or by a sync call in a coroutine), so the test's end would not undo it. {advice}"
        )


def refuse_real_database(alias: str, advice: str) -> None:
    """Raises what Django raises, where it refuses this thread a query to `alias`; `advice` is added.

    Outside of tests too, while the alias has the database that it has in a normal run.
    """
    try:
        _ask_django(alias)
    except (AssertionError, RuntimeError) as error:  # Django's refusal, and pytest-django's
        raise _marked(type(error))(f"{error} {advice}") from None
    # Inside a SimpleTestCase (or a subclass) Django alone decides.
    in_test_class = BaseDatabaseWrapper.ensure_connection.__module__ == "django.test.testcases"
    if has_usual_database(alias) and not in_test_class:
        _refuse(
            f"In a test run, but outside of a test, database {alias!r} ({_names[alias]}) was about to be used, "
            "which is not a test database: none was made yet, none for this alias, or they are deleted again. Move the "
            "call into a test, or into a fixture that runs after they were made; let a test wait for its threads. "
            "Where that database is meant, name it in "
            f'DATABASES[{alias!r}]["TEST"]["NAME"]. {advice}'
        )


def has_usual_database(alias: str) -> bool:
    """Returns whether the alias has the database of a normal run, where that is not named as its test database."""
    database = connections.settings[alias]
    return alias in _names and _names[alias] == database["NAME"] != database["TEST"]["NAME"]


def _ask_django(alias: str) -> None:
    """Asks Django without opening a connection."""
    connection = connections[alias]
    replaced = vars(connection).get("cursor")
    testcases = sys.modules.get("django.test.testcases")
    if testcases is not None and isinstance(replaced, testcases._DatabaseFailure):  # noqa: SLF001 - Django's only sign
        replaced()
    # Has what ensure_connection() uses of a connection that is not open yet. Where Django would connect, it allows.
    unopened: Any = SimpleNamespace(
        alias=alias, connection=None, in_atomic_block=False, closed_in_transaction=False,
        wrap_database_errors=nullcontext(), connect=lambda: None, ensure_connection=lambda: None,
    )  # fmt: skip
    with suppress(SynchronousOnlyOperation):  # not refused, this is an event loop's thread
        BaseDatabaseWrapper.ensure_connection(unopened)


def _refuse(message: str) -> NoReturn:
    from django.test import testcases

    module: Any = testcases  # the stubs do not know it
    raise _marked(module.DatabaseOperationForbidden)(message)


def _after_fork() -> None:
    global _adding  # noqa: PLW0603 - one per process, and this is another process
    _adding = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)
