"""A worker in the test's thread: it claims, runs and finishes one job after the other on Django's connection."""

from __future__ import annotations

import contextvars
import math
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, cast

import psycopg
from asgiref.sync import async_to_sync
from django.db import connections
from django.db.transaction import TransactionManagementError
from psycopg.pq import TransactionStatus
from psycopg.types.json import set_json_loads

from pgonly_django.compat import uuid7
from pgonly_django.context.run import Run
from pgonly_django.database import testrun
from pgonly_django.database.connect import OwnConnection
from pgonly_django.duties import Workplace
from pgonly_django.exceptions import JobTimedOut, PgonlyError
from pgonly_django.models.related import cancel_orphaned
from pgonly_django.queue import batches
from pgonly_django.queue.claim import Claim, ClaimedJob, Claimer
from pgonly_django.queue.limited.claim import LimitedClaimer
from pgonly_django.queue.limited.turns import Turns
from pgonly_django.queue.output import write_output
from pgonly_django.queue.promote import BATCH, promote
from pgonly_django.queue.waits import deliver
from pgonly_django.tasks.batches import callback
from pgonly_django.tasks.duties import SendDeadLetters, declare
from pgonly_django.testing.autocommit import CommitWatch, as_in_autocommit
from pgonly_django.worker import job_log, reports
from pgonly_django.worker.connection import WorkerConnection, load_json
from pgonly_django.worker.end_calls import has_failed, is_signalled, send_finished, tell_failure
from pgonly_django.worker.ending import EndedRun
from pgonly_django.worker.exchange import Exchange, Exchanger, ExchangeResult
from pgonly_django.worker.observing import is_observed, observed
from pgonly_django.worker.options import THREADS_LIMIT
from pgonly_django.worker.reports import last_row_of
from pgonly_django.worker.running import Executor
from pgonly_django.worker.watchdog import COOPERATIVE_SECONDS

NAME = "drain"
# Nobody renews a lease, so it outlasts a test, and a debugger in it.
LEASE_FOR = timedelta(days=1)


class DrainError(PgonlyError):
    """A drain cannot do what was asked; the message says what to do."""


class DjangoConnection(OwnConnection):
    """psycopg's methods on a connection that Django owns, which it neither closes nor prepares on."""

    def __init__(self, raw: psycopg.Connection[Any]) -> None:
        handlers = raw.pgconn.notice_handler, raw.pgconn.notify_handler
        super().__init__(raw.pgconn)
        raw.pgconn.notice_handler, raw.pgconn.notify_handler = handlers
        self._autocommit = True
        self.prepare_threshold = None
        set_json_loads(load_json, self)

    def __del__(self, _warn: Any = None, /) -> None:
        """Avoids a warning of psycopg's: the connection is Django's to close."""

    @contextmanager
    def session_settings(self) -> Iterator[None]:
        """Sets none of the worker's settings: they would stay until the test's transaction ends."""
        yield

    @contextmanager
    def pipelined_transaction(self, *, idle_for: str) -> Iterator[Any]:  # noqa: ARG002 - a worker's signature
        """Begins a savepoint in the test's transaction; each statement is sent at once."""
        with self.transaction():
            yield self

    def sync(self) -> None:
        """Does nothing: no statement waits to be sent."""

    def execute(self, *args: Any, **options: Any) -> psycopg.Cursor[Any]:
        """See psycopg.Connection.execute(). The COMMIT of a pipelined_transaction() is the end of its savepoint."""
        return self.cursor() if args[0] == "COMMIT" else super().execute(*args, **options)


class DjangoDatabase:
    """Stands where a worker has its WorkerConnection: the same calls, on Django's connection."""

    is_direct = False

    def __init__(self, alias: str) -> None:
        self.alias = alias

    def connection(self) -> DjangoConnection:
        """Returns the connection. The test may use the database: see databases_of()."""
        wrapper: Any = testrun.testcase_connection(self.alias) or connections[self.alias]
        wrapper.ensure_connection()
        raw: psycopg.Connection[Any] = wrapper.connection
        if raw.info.transaction_status == TransactionStatus.INERROR:
            raise TransactionManagementError(
                f"A statement has failed in the transaction on {self.alias!r} before the drain: PostgreSQL takes no "
                "other one. Put code that may fail into its own atomic() block."
            )
        return DjangoConnection(raw)

    def wait_for_answers(self) -> None:
        """Does nothing: no answer is to come."""

    read_answers = wait_for_answers

    def lose(self, error: Exception) -> None:
        raise error


class InlineExchanger(Exchanger):
    """Each exchange is a savepoint: one that fails leaves the test's transaction usable."""

    def _pipeline(self, exchange: Exchange, result: ExchangeResult | None = None) -> ExchangeResult:
        with exchange.connection.transaction():
            return super()._pipeline(exchange, result)


class InlineExecutor(Executor):
    """Calls jobs in this thread, and cleans up no connection: they are the test's."""

    def run_here(self, run: Run) -> EndedRun:
        """Runs sync and async tasks. What a job sets in its context, such as a language, is gone afterwards."""
        call = async_to_sync(self.acall) if self.tasks.is_async(run.job) else self.call
        return contextvars.copy_context().run(call, run)

    def after(self, ended: EndedRun, lost: list[str]) -> EndedRun:
        """Ends a run that has left transactions open in the databases `lost`."""
        return self._without(lost, ended) if lost else ended


class InlineWorker:
    """The worker of one drain and one database."""

    def __init__(self, alias: str, queues: Sequence[str]) -> None:
        self.alias, self.id = alias, uuid7()
        self.watch = CommitWatch()
        self.database = DjangoDatabase(alias)
        self.claimer = Claimer(self.id, LEASE_FOR, queues)
        self.exchanger = InlineExchanger(cast("WorkerConnection", self.database), self.claimer)
        self.limited = LimitedClaimer(self.id, LEASE_FOR, THREADS_LIMIT, Turns(queues))
        self.executor = InlineExecutor(alias, str(self.id), _no_delivery)
        self.dead_letters = SendDeadLetters(Workplace(alias))

    def start(self) -> None:
        """Writes, before the first claim, the limits of queues that the settings have, as each worker does."""
        self.database.connection()  # raises where the test cannot use it now
        with as_in_autocommit():
            declare(self.alias)

    def run_next(self) -> EndedRun | None:
        """Runs one job that is ready or due. Returns None where there is none that may start."""
        while (run := self._claim()) is None:
            if not self._close_batches():
                return None
        self.executor.look_who_listens()
        ended = self._write(self._run_observed(run) if is_observed() else self._run(run))
        with as_in_autocommit():
            self._tell(ended)
        return ended

    def _run_observed(self, run: Run) -> EndedRun:
        with observed(run) as note:
            return note(self._run(run))

    def _run(self, run: Run) -> EndedRun:
        with as_in_autocommit(self.watch) as lost, _deadline(run):
            ended = self.executor.run_here(run)
        return self.executor.after(ended, lost)

    def _claim(self) -> Run | None:
        connection = self.database.connection()
        self._promote(connection)
        claimed_at = time.monotonic()
        result = self.exchanger.exchange([], [], Claim(1, {}, take_suspect=True))
        if result is not None and result.jobs:
            return self._run_of(result.jobs[0], claimed_at)
        with connection.transaction():
            seen = self.limited.look(connection, take_suspect=True)
        claimed = self.limited.claim(connection, seen, THREADS_LIMIT, jobs_at_most=1, take_suspect=True)
        if not claimed.jobs:
            return None
        run = self._run_of(claimed.jobs[0], claimed_at)
        run.slots, run.is_limited = claimed.slots[run.job.id], True
        return run

    def _close_batches(self) -> bool:
        """Closes the batches that are over. Returns whether there were any."""
        connection = self.database.connection()
        with connection.transaction():
            swept = batches.sweep(connection)
            closed = batches.close(connection, swept.over, callback)
        if swept.orphaned:
            cancel_orphaned(self.alias, swept.orphaned)
        return bool(closed.batches or swept.orphaned)

    def _promote(self, connection: DjangoConnection) -> None:
        while True:
            with connection.transaction():
                promoted = promote(connection)
                if promoted.has_events:
                    deliver(connection)
            if promoted.jobs < BATCH:
                return

    def _run_of(self, job: ClaimedJob, claimed_at: float) -> Run:
        return Run(
            job, self.alias, claimed_at=claimed_at, lease_until=math.inf, worker=NAME, worker_id=str(self.id)
        )

    def _write(self, ended: EndedRun) -> EndedRun:
        """Writes the end and what the job has reported. Returns the end as it was written."""
        if ended.run.job.then_job is not None:
            with as_in_autocommit():
                ended = self.executor.enqueue_next(ended)
        run, finish = ended.run, ended.finish
        if finish is None or ended.committed:
            return ended
        if (row := last_row_of(run, finish)) is not None:
            with (connection := self.database.connection()).transaction():
                write_output(connection, [row])
        result = self.exchanger.exchange([finish], reports.reports_of([run]), None)
        if result is None or result.locked:
            job = f"{run.job.task} {run.job.id}"
            raise DrainError(f"The end of {job} was not written: another connection holds its row locked.")
        ended.finish = None if result.lost else result.as_written(finish)
        return ended

    def _tell(self, ended: EndedRun) -> None:
        job_log.log_end(ended)
        if has_failed(ended):
            tell_failure(self.alias, self.executor.tasks, ended)
            self.dead_letters.run()
        if is_signalled(ended):
            send_finished(self.alias, ended)


@contextmanager
def _deadline(run: Run) -> Iterator[None]:
    """Interrupts a job that runs longer than its max_runtime, as a worker's watchdog does."""
    if run.job.max_runtime is None:
        yield
        return
    seconds = min(run.job.max_runtime.total_seconds(), threading.TIMEOUT_MAX - COOPERATIVE_SECONDS)
    timers = [
        threading.Timer(seconds, setattr, (run, "timed_out", True)),
        threading.Timer(seconds + COOPERATIVE_SECONDS, run.interrupter.interrupt, (JobTimedOut,)),
    ]
    for timer in timers:
        timer.daemon = True
        timer.start()
    try:
        yield
    finally:
        for timer in timers:
            timer.cancel()
            timer.join()


def _no_delivery(_: Any) -> None:
    """Does nothing: ends are returned."""
