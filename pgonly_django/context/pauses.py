"""Short waits of a step for a provider that asks for them, in the slot of its job."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# All pauses of one step together. Ending the run and beginning another one costs two transactions and the place in the
# queue, and the backoff of a first snooze alone takes longer: 7.5 to 15 s.
SHORT_SECONDS = 5.0
# Also where it asks for less: a provider that says 0 is not called more than ten times.
SHORTEST_SECONDS = 0.5


class Pauses:
    """Of one step. `asked` says how long its error asks to wait; None where the error is to leave the step."""

    def __init__(self, asked: Callable[[BaseException], float | None]) -> None:
        self._asked = asked
        self._left_seconds = SHORT_SECONDS
        self._until = 0.0

    @property
    def is_open(self) -> bool:
        return time.monotonic() < self._until

    @contextmanager
    def after_error(self) -> Iterator[None]:
        """Around one call. Swallows an error after which the step is to be called again, once the pause is over."""
        try:
            yield
        except Exception as error:
            asked = self._asked(error)
            pause = None if asked is None else max(asked, SHORTEST_SECONDS)
            if pause is None or pause > self._left_seconds:
                raise
            self._left_seconds -= pause
            self._until = time.monotonic() + pause
