"""Reads the statistics of several databases within a time that holds in any case, for a program that asks over HTTP. A
statement's time limit is kept by the server, so it does not help where the server or the network has failed. Therefore
a thread reads, with separate connections, and the caller waits for it no longer than it has time. All callers during a
reading of the process get what that one reading finds.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from django.db import connections

from pgonly_django.database.connect import NOTICE_DEAD_PEERS
from pgonly_django.monitoring.stats import PARTS, Stats, as_far_as_read, read, unread

CONNECT_SECONDS = 2
# A reading that still has no answer so long after its time gets none any more, and another one begins.
GIVEN_UP_SECONDS = 60.0
# These are the same for each database of jobs, so only the first Stats has them.
OF_THE_SITE = [name for name, part in PARTS.items() if part.model or part.keeps_its_time]


def stats_in_time(aliases: Sequence[str], parts: Sequence[str], seconds: float) -> list[Stats]:
    """Returns the statistics of each alias. What could not be read within `seconds` is in `missing`, and a database
    that has not answered by then is not up. Inside a transaction it reads on the connection of that transaction, in
    this thread."""
    if _is_in_transaction():
        reading = Reading(aliases, parts, seconds)
        reading.run()
    else:
        reading = _present_reading(aliases, parts, seconds)
        reading.join(seconds)
    found = map(as_far_as_read, reading.stats)
    return [each if each.seconds else replace(each, seconds=seconds) for each in found]


class Reading(threading.Thread):
    def __init__(self, aliases: Sequence[str], parts: Sequence[str], seconds: float) -> None:
        super().__init__(name="pgonly-stats", daemon=True)
        self.of = (tuple(aliases), tuple(parts))
        of_jobs = [name for name in parts if name not in OF_THE_SITE]
        self.stats = [
            unread(alias, parts if alias == aliases[0] else of_jobs) for alias in dict.fromkeys(aliases)
        ]
        self.until = time.monotonic() + seconds

    def run(self) -> None:
        with own_connections():
            for stats in self.stats:
                read(stats, self.until)


_lock = threading.Lock()
_reading: Reading | None = None


def _present_reading(aliases: Sequence[str], parts: Sequence[str], seconds: float) -> Reading:
    """Returns the reading that is under way in this process, or else a new one."""
    global _reading  # noqa: PLW0603 - there is one at a time in a process
    with _lock:
        goes_on = _reading and _reading.is_alive() and time.monotonic() < _reading.until + GIVEN_UP_SECONDS
        if not (_reading and goes_on and _reading.of == (tuple(aliases), tuple(parts))):
            _reading = Reading(aliases, parts, seconds)
            _reading.start()
        return _reading


def _after_fork() -> None:
    """Resets the state of a forked child: another thread of the parent may have held the lock, and the thread that
    reads is not in the child."""
    global _lock, _reading
    _lock, _reading = threading.Lock(), None


os.register_at_fork(after_in_child=_after_fork)


@contextmanager
def own_connections() -> Iterator[None]:
    """Gives this thread other connections of Django inside the block, with a limit for the time of connecting, and
    closes them at the end. Those of Django's pool stay as they are: the pool is that of all threads. Inside a
    transaction nothing changes."""
    if _is_in_transaction():
        yield
        return
    before = {connection.alias: connection for connection in connections.all(initialized_only=True)}
    try:
        for alias in connections:
            options = connections[alias].settings_dict.get("OPTIONS", {})
            if connections[alias].vendor == "postgresql" and "pool" not in options:
                own = connections[alias].copy()
                limits = {"connect_timeout": CONNECT_SECONDS, **NOTICE_DEAD_PEERS}
                own.settings_dict["OPTIONS"] = {**limits, **options}
                connections[alias] = own
        yield
    finally:
        for connection in connections.all(initialized_only=True):
            if before.get(connection.alias) is not connection:
                connection.close()
                del connections[connection.alias]
        for alias, connection in before.items():
            connections[alias] = connection


def _is_in_transaction() -> bool:
    return any(connection.in_atomic_block for connection in connections.all(initialized_only=True))
