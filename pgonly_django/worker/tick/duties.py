"""The maintenance of a tick: the same duties as the thread of a worker has, done by the tick's own thread."""

import threading
import time
from collections.abc import Callable

from django.db import connections

from pgonly_django.database.connect import OwnConnection
from pgonly_django.worker.duties import duties
from pgonly_django.worker.maintenance import Maintenance, tried


class Until(threading.Event):
    """An event that is set at a time of time.monotonic() at the latest."""

    def __init__(self, at: float) -> None:
        super().__init__()
        self.at = at

    def is_set(self) -> bool:
        return super().is_set() or time.monotonic() >= self.at

    def wait(self, timeout: float | None = None) -> bool:
        left = max(self.at - time.monotonic(), 0.0)
        super().wait(left if timeout is None else min(timeout, left))
        return self.is_set()


class TickMaintenance(Maintenance):
    """Never started as a thread. `connection` is that of the tick, or raises."""

    def __init__(
        self, alias: str, tell: Callable[[str], None], connection: Callable[[], OwnConnection]
    ) -> None:
        super().__init__(alias, duties(alias, tell), tell)
        self._of_tick = connection

    def run_for(self, seconds: float) -> None:
        """All duties once. What is too much for these seconds is left for the next time."""
        self._over = Until(time.monotonic() + seconds)
        self.run_once()

    def run_wanted(self, until: float) -> None:
        """Those that run_soon() asked for."""
        if not self._hurried:
            return
        self._over = Until(until)
        while self._hurried and not self._over.is_set():
            kind, done = self._hurried.popitem()
            for duty in self._duties:
                if isinstance(duty, kind):
                    self._run(duty)
            done()
        self._close()

    def _open(self) -> OwnConnection:
        return self._of_tick()

    def _close(self) -> None:
        tried("Closing Django's connections", connections.close_all)
