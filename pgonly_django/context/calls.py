"""The calls of a run's steps: how long the longest took, which are under way, and whether another one fits in."""

from __future__ import annotations

import time
from asyncio import CancelledError
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from pgonly_django.exceptions import JobInterrupt

# A call may take longer than the longest so far, and its result has to be stored.
MARGIN, STORE_SECONDS = 1.2, 0.05

_is_inside = ContextVar("pgonly_inside_step", default=False)


class Calls:
    """Of one run. Steps may be called from several threads or asyncio tasks of the job at once."""

    __slots__ = ("_under_way", "completed", "longest_seconds", "process_seconds", "until", "was_cut_off")

    def __init__(self) -> None:
        self.until: float | None = None  # time.monotonic(); the process ends then, by its --max-seconds
        self.process_seconds = 0.0  # that --max-seconds
        self.longest_seconds = 0.0
        self.completed = 0
        self.was_cut_off = False  # by the interruption of the run
        # One entry each. A lock would not do: the job may be interrupted between two bytecodes, and leave it held.
        self._under_way: list[None] = []

    @contextmanager
    def one(self) -> Iterator[None]:
        """Around one call."""
        began, token = time.monotonic(), _is_inside.set(True)
        self._under_way.append(None)
        try:
            yield
            self.completed += 1
        except (JobInterrupt, CancelledError):
            self.was_cut_off = True
            raise
        finally:
            self._under_way.pop()
            self.longest_seconds = max(self.longest_seconds, time.monotonic() - began)
            _is_inside.reset(token)

    def lacks_time(self, seconds: float | None = None) -> bool:
        """Whether the process ends before something is done that takes so long, or as long as the longest call. Inside
        a call nothing lacks time: the call around it would be lost."""
        needed = self.longest_seconds if seconds is None else seconds
        if self.until is None or needed == 0 or _is_inside.get():
            return False
        return time.monotonic() + needed * MARGIN + STORE_SECONDS > self.until

    @property
    def outlast_their_run(self) -> bool:
        """Whether the run came to no end of its first call. The next run makes that call again."""
        return self.completed == 0 and (self.was_cut_off or bool(self._under_way))

    @property
    def others_under_way(self) -> bool:
        """Whether other threads or asyncio tasks of the job are in the middle of a call."""
        return bool(self._under_way) and not _is_inside.get()
