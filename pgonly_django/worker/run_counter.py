"""Counts the runs that end in this process, for the statistics of jobs (queue/stats.py)."""

from __future__ import annotations

import logging
import threading
import time
from bisect import bisect_left
from collections.abc import Iterable
from operator import add

import psycopg

from pgonly_django.database.connect import TRY_AGAIN, OwnConnection
from pgonly_django.database.reconnecting import Reconnecting
from pgonly_django.events import emit
from pgonly_django.models.job import State
from pgonly_django.models.job_stats import BOUNDS, BUCKETS, NUMBERS, TIMED
from pgonly_django.queue import stats
from pgonly_django.queue.finish import Finish
from pgonly_django.queue.rescue import Rescued
from pgonly_django.queue.stats import TIME_ARRAYS, RunCounts, counts_of_rescued
from pgonly_django.worker.ending import EndedRun

WRITE_SECONDS = 15.0
WRITES_AT_END = 3
# Rows of one statement. Beyond NAMED pairs of a queue and a task, those that are new count under the empty task of
# their queue; beyond ROWS under the empty one of all queues.
NAMED, ROWS = 400, 499
_SUCCEEDED = State.SUCCEEDED
_UP_TO_THE_LAST = BOUNDS[:-1]  # what is longer than all of these falls into the last bucket


class RunCounter:
    """Counts the runs that end in this process. The heartbeat's thread writes them, as a sleep and a stop do, so that
    no claim and no finish waits for it. Of a worker that is killed the counts of the last WRITE_SECONDS are lost; of
    one whose connection breaks while it writes they may count twice.

    note() and count() are for the main loop, the others for any thread. Jobs come 20,000 a second: count() takes
    many at once, which costs each less than 1 us."""

    def __init__(self) -> None:
        self._noted: list[EndedRun] = []
        self._counted: dict[tuple[str, str], RunCounts] = {}
        self._lock = threading.Lock()
        self._written_at = time.monotonic()
        self._has_failed = False  # the last write
        self.note = self._noted.append  # the end of a run is written

    @property
    def due_at(self) -> float:
        return self._written_at + WRITE_SECONDS

    def count(self) -> None:
        """Counts what was noted. A run that snoozed, was held, cancelled or postponed, or never began, does not count,
        nor does one whose job was lost."""
        noted = self._noted
        if not noted:
            return
        with self._lock:
            queue = task = None  # of the end before, mostly that of the next one as well
            for ended in noted:
                run, finish = ended.run, ended.finish
                began = run.started_at
                if finish is None or began is None:
                    continue
                name = "succeeded" if finish.state is _SUCCEEDED else _name(finish)
                if name is None:
                    continue
                job = run.job
                if job.task != task or job.queue != queue:
                    queue, task = job.queue, job.task
                    counts = self._counted.get((queue, task)) or self._make(queue, task)
                    waiting_times, run_times = counts.waiting_times, counts.run_times
                since = job.ready_timestamp if job.ready_again_timestamp is None else job.waiting_since
                waited = job.attempted_timestamp - since + began - run.claimed_at
                waiting_times[bisect_left(_UP_TO_THE_LAST, waited)] += 1
                if name in TIMED:
                    run_times[bisect_left(_UP_TO_THE_LAST, ended.took_seconds or run.seconds)] += 1
                if name == "succeeded":
                    counts.succeeded += 1
                else:
                    setattr(counts, name, getattr(counts, name) + 1)
        noted.clear()

    def count_rescued(self, rescued: Iterable[Rescued]) -> None:
        for counts in counts_of_rescued(rescued):
            self._merge(counts)

    def write(self, connection: OwnConnection) -> bool:
        """Adds what was counted since the last time; no statement where that is nothing. Where it fails the counts stay
        for the next time, once. Raises psycopg.OperationalError where the connection is lost, and keeps the counts."""
        with self._lock:
            counted, self._counted = self._counted, {}
        self._written_at = time.monotonic()
        if not counted:
            return True
        try:
            stats.add(connection, counted.values())
        except psycopg.Error as error:
            is_lost = connection.closed or connection.broken
            if is_lost or isinstance(error, TRY_AGAIN) or not self._has_failed:
                for counts in counted.values():
                    self._merge(counts)
            if is_lost:
                raise
            self._has_failed = not isinstance(error, TRY_AGAIN)
            _emit_failed(error)
            return False
        self._has_failed = False
        return True

    def write_last(self, database: Reconnecting) -> None:
        for _ in range(WRITES_AT_END):  # other workers that end may write the same rows
            if database.ask(self.write) is not False:
                return

    def _make(self, queue: str, task: str) -> RunCounts:
        """Makes the counts. Where there are too many, it makes those that take the rest."""
        key = (queue, task)
        for other, at_most in (((queue, ""), NAMED), (("", ""), ROWS)):
            if len(self._counted) >= at_most and key not in self._counted:
                key = other
        if key not in self._counted:
            zeros = [0] * BUCKETS
            self._counted[key] = RunCounts(
                queue=key[0], task=key[1], waiting_times=zeros, run_times=zeros.copy()
            )
        return self._counted[key]

    def _merge(self, added: RunCounts) -> None:
        with self._lock:
            counts = self._make(added.queue, added.task)
            for name in NUMBERS:
                setattr(counts, name, getattr(counts, name) + getattr(added, name))
            for name in TIME_ARRAYS:
                own, others = getattr(counts, name), getattr(added, name)
                own[: len(others)] = map(add, own, others)


def _name(finish: Finish) -> str | None:
    """Returns the column that counts a run that did not succeed."""
    counts = finish.outcome.counts
    if finish.state is State.CANCELLED:
        return None
    return "failed" if finish.state is State.FAILED and counts == "retried" else counts


def _emit_failed(error: psycopg.Error) -> None:
    message = f"The statistics of jobs could not be written: {str(error).strip() or type(error).__name__}"
    emit("worker.job_stats_not_written", message, level=logging.WARNING)
