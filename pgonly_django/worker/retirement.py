"""When a process is to be replaced by a fresh one: after so many jobs, or when it takes too much memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from pgonly_django.events import emit
from pgonly_django.exceptions import OptionError
from pgonly_django.worker.memory import own_rss_mb
from pgonly_django.worker.options import WorkerOptions

LOOK_SECONDS = 1.0


class Retirement:
    def __init__(self, options: WorkerOptions) -> None:
        self.options = options
        self._next_look = 0.0

    @property
    def is_possible(self) -> bool:
        return self.options.max_jobs_per_process is not None or self.options.max_memory_mb is not None

    def reason(self, *, is_used_up: bool) -> str | None:
        """None: the process continues. `is_used_up`: it has claimed all the jobs that it may claim."""
        jobs, memory = self.options.max_jobs_per_process, self.options.max_memory_mb
        if is_used_up:
            return f"{jobs} job(s) claimed (--max-jobs-per-process {jobs})"
        now = time.monotonic()
        if memory is not None and now >= self._next_look:
            self._next_look = now + LOOK_SECONDS
            taken = own_rss_mb()
            if taken is not None and taken > memory:
                return f"{taken:.0f} MB taken (--max-memory-mb {memory:g})"
        return None


def refuse_too_little_memory(options: WorkerOptions) -> None:
    """Raises OptionError where a process takes more before its first job than it may: each one would be replaced at
    once."""
    taken = own_rss_mb()
    if options.max_memory_mb is not None and taken is not None and taken > options.max_memory_mb:
        raise OptionError(
            f"--max-memory-mb {options.max_memory_mb:g} is less than the {taken:.0f} MB that the process takes before "
            "its first job. Leave room for the jobs."
        )


class RetirementThread(threading.Thread):
    """Of a worker without a supervisor: it ends by itself, and what has started it starts it again."""

    def __init__(
        self, retirement: Retirement, is_used_up: Callable[[], bool], retire: Callable[[], None]
    ) -> None:
        super().__init__(name="pgonly-retirement", daemon=True)
        self.retirement = retirement
        self.is_used_up = is_used_up
        self.retire = retire
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(LOOK_SECONDS):
            if reason := self.retirement.reason(is_used_up=self.is_used_up()):
                message = (
                    f"This process finishes its jobs and ends, so that a fresh one can be started: {reason}."
                )
                emit("worker.retiring", message, reason=reason)
                self.retire()
                return

    def end(self) -> None:
        self._over.set()
