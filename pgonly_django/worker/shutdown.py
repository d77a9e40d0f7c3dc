"""The end of a worker process, from the first wish to stop on: what the jobs are told, and when they go back."""

from __future__ import annotations

import time
from collections.abc import Container, Mapping

from pgonly_django.context.run import Run
from pgonly_django.events import emit
from pgonly_django.exceptions import JobStopped
from pgonly_django.worker import outcomes
from pgonly_django.worker.executor import Ended
from pgonly_django.worker.poll_timer import NEVER

# Ends that are not written this long after the grace are left to the leases, which will run out by themselves. The
# database may come back; a row that somebody keeps locked is not worth waiting for.
GIVE_UP_AWAY_SECONDS, GIVE_UP_LOCKED_SECONDS = 5.0, 1.0
LAST_WORD_SECONDS = 1.0


class Shutdown:
    """ask() may be called by signal handlers, the rest is the loop's. All times are time.monotonic()."""

    def __init__(self, grace_seconds: float, worker: outcomes.WorkerFacts) -> None:
        self.grace_seconds = grace_seconds
        self.worker = worker
        self.is_asked = False
        self.left_behind = False  # jobs of ours are still running here, given back
        self._at_once = False
        self._is_over = False  # the grace, and the jobs that were left have been given back
        self._until: float | None = None

    def ask(self, *, at_once: bool = False) -> None:
        self._at_once = self._at_once or at_once
        self.is_asked = True

    def next_step(self, now: float) -> float:
        """When there is more to tell the jobs."""
        if self._until is None:
            return NEVER
        if self._is_over:
            return self._until + GIVE_UP_LOCKED_SECONDS
        return self._until if now >= self._last_word_at else self._last_word_at

    def obey(self, now: float, runs: Mapping[str, Run], over: Container[str]) -> list[Ended]:
        """Tell the jobs what time it is; the ends of those that go back now. Those in `over` have theirs."""
        going = self._begin(now, runs) if self._until is None else []
        assert self._until is not None
        if self._at_once or now >= self._until:
            self._until, self._is_over = min(self._until, now), True
            going += self._release(runs, over, {ended.run.job.id for ended in going})
        elif now >= self._last_word_at:
            self._say_last_word(runs)
        return going

    def gives_up(self, *, is_away: bool) -> bool:
        """Whether to leave although ends are unwritten: the database is away, or somebody keeps a row locked."""
        if self._until is None:
            return False
        patience = GIVE_UP_AWAY_SECONDS if is_away else GIVE_UP_LOCKED_SECONDS
        return (self._at_once and is_away) or time.monotonic() >= self._until + patience

    @property
    def _last_word_at(self) -> float:
        """When jobs that have not heeded should_stop get an exception: time for their `finally`."""
        assert self._until is not None
        return self._until - min(LAST_WORD_SECONDS, self.grace_seconds / 4)

    def _begin(self, now: float, runs: Mapping[str, Run]) -> list[Ended]:
        """Ask all jobs to stop; what has not begun will not begin."""
        self._until = now + self.grace_seconds
        self._emit(len(runs))
        for run in runs.values():
            run.stop_until, run.stop_requested = self._until, True
        return [Ended(run, outcomes.given_back(run)) for run in runs.values() if run.take()]

    def _say_last_word(self, runs: Mapping[str, Run]) -> None:
        for run in runs.values():
            run.interrupter.interrupt(JobStopped)

    def _release(self, runs: Mapping[str, Run], *over: Container[str]) -> list[Ended]:
        """The grace is over: what still runs goes back with its checkpoint; its thread dies with the process.

        It may be claimed at once, so from here on the process hurries to its end.
        """
        left = [run for job_id, run in runs.items() if not any(job_id in each for each in over)]
        for run in left:
            run.abandoned = self.left_behind = True
            run.interrupter.interrupt(JobStopped)
        return [Ended(run, outcomes.released(run, self.worker)) for run in left]

    def _emit(self, running: int) -> None:
        grace = self.grace_seconds
        message = f"Stopping: {running} job(s) have {grace:g} s to save and leave, then they are released."
        if running:
            message += " Ctrl-C again releases them now."
        emit("worker.stopping", message, running=running, grace_seconds=grace)
