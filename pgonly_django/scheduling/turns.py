"""The turns that schedules take in one process. What enqueues a job is code of the project, and may hang."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable
from types import TracebackType
from typing import Self

# So long other schedules wait for one whose turn it is.
TURN_SECONDS = 1.0

# By database: the schedules whose turns take longer. Each has a thread of its own until it returns.
in_hand: defaultdict[str, set[str]] = defaultdict(set)


class Turn:
    """A context manager around the turn of a schedule. Where it takes longer than TURN_SECONDS, it `is_long`, and
    `on_long` is called in another thread, to go on with all schedules but those in hand; None: it may take any time."""

    def __init__(self, database: str, name: str, on_long: Callable[[], None] | None) -> None:
        self.database, self.name, self.is_long = database, name, False
        self._on_long, self._is_over, self._lock = on_long, False, threading.Lock()
        self._timer = threading.Timer(TURN_SECONDS, self._become_long)
        self._timer.daemon = True

    def __enter__(self) -> Self:
        if self._on_long is not None:
            self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._timer.cancel()
        with self._lock:
            self._is_over = True
            in_hand[self.database].discard(self.name)

    def _become_long(self) -> None:
        with self._lock:
            if self._is_over:
                return
            self.is_long = True
            in_hand[self.database].add(self.name)
        assert self._on_long is not None
        self._on_long()
