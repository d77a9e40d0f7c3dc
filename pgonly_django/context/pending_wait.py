"""A wait of one thread or asyncio task of a job, while its run goes on."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence

from pgonly_django.queue.waits import NewWait, name_of

SHORTEST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.1, 5.0  # between two looks for an answer in one run


class PendingWait:
    """A wait of one thread or asyncio task of the job, for the first answer to what it is `of`. Its times are
    time.monotonic()."""

    __slots__ = (
        "_active_at", "_began_at", "_task", "has_begun", "inside", "is_answered", "look_at", "name", "of", "pauses",
        "until",
    )  # fmt: skip

    def __init__(
        self, of: Sequence[NewWait], task: asyncio.Task[object] | None, inside: tuple[object, ...], active_at: float
    ) -> None:  # fmt: skip
        self.name, self.of = name_of(of), of
        self.inside = inside  # the calls of steps that are around it
        self.has_begun, self.is_answered, self.until = False, False, 0.0
        self._task = task  # that waits; None: the first one of the job, or a thread
        self._began_at = self.look_at = time.monotonic()
        self.pauses, self._active_at = 0, active_at  # since a step or wait of the run was last active

    @property
    def is_awaited(self) -> bool:
        """Whether somebody awaits the task that waits, as far as asyncio knows: wait() leaves the others when the first
        one is done, and as_completed() keeps all."""
        return self._task is None or bool(self._task._callbacks)  # noqa: SLF001 - nothing else says it

    def cancel(self) -> None:
        """Ends a task that waits although the function of the job has ended."""
        if self._task is not None:
            self._task.cancel()

    def note_pause(self, active_at: float) -> None:
        """Notes that the wait has paused."""
        self.pauses = self.pauses + 1 if active_at == self._active_at else 0
        self._active_at = active_at

    def note_look(self, seconds_left: float | None) -> None:
        """Notes that there is no answer yet. Each pause before the next look is a tenth of the wait so far."""
        now = time.monotonic()
        self.until = math.inf if seconds_left is None else now + seconds_left
        pause = min((now - self._began_at) / 10, LONGEST_PAUSE_SECONDS)
        self.look_at = max(min(now + pause, self.until), now + SHORTEST_PAUSE_SECONDS)
