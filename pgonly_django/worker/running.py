"""One run from the claimed row to its finish: calls the task, and says how it ended. Used by the slots."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import attrgetter
from typing import Any

from asgiref.sync import SyncToAsync, ThreadSensitiveContext, sync_to_async
from django.db import connections, transaction

from pgonly_django.compat import task_started
from pgonly_django.context.context import JobContext
from pgonly_django.context.memory import Memory
from pgonly_django.context.run import Run, renewing
from pgonly_django.context.transactions import retry_while_down
from pgonly_django.current_job import current_context, current_job
from pgonly_django.error_texts import cut_our_frames
from pgonly_django.events import is_wanted
from pgonly_django.exceptions import JobInterrupt, LeaseLost, TransactionLeftOpenError, UnreadableJobError
from pgonly_django.models.job import State
from pgonly_django.outcomes import Outcome
from pgonly_django.queue import checkpoints
from pgonly_django.queue.claim import JSON_COLUMNS, Unreadable
from pgonly_django.queue.enqueue import OF_JOB
from pgonly_django.queue.finish import (
    LAST_REPORT,
    WHOSE,
    Finish,
    Report,
    finish_statements,
    report_parameters,
)
from pgonly_django.queue.output import load_output
from pgonly_django.tasks.arguments import call_signature
from pgonly_django.tasks.backend import OWN_RECEIVERS, has_receivers
from pgonly_django.tasks.batches import members_of
from pgonly_django.tasks.bound import next_job
from pgonly_django.tasks.keys import budget_name
from pgonly_django.tasks.stored_jobs import task_of
from pgonly_django.worker import ending, forked_child, reports
from pgonly_django.worker.django_connections import (
    SlotThread,
    aleave_thread_of,
    clean_up_connections,
    leave_thread_of,
)
from pgonly_django.worker.ending import EndedRun
from pgonly_django.worker.job_log import log_failure, log_start
from pgonly_django.worker.observing import is_observed, observed
from pgonly_django.worker.task_lookup import TaskLookup, options_of

DELIVER_AGAIN_SECONDS = 0.1
KEEPING_SNAPSHOTS = ("repeatable read", "serializable")

_json_of = attrgetter(*JSON_COLUMNS)
_thread = SlotThread()


@dataclass(slots=True)
class _Call:
    function: Callable[..., Any]
    args: Sequence[Any]
    kwargs: dict[str, Any]
    memory: Memory | None  # of a task that takes its context
    is_atomic: bool


class Executor:
    """Runs jobs for one worker and hands each end to `deliver`, from whatever thread it happens in."""

    def __init__(self, alias: str, worker_id: str, deliver: Callable[[EndedRun], None]) -> None:
        self.alias, self.worker_id = alias, worker_id
        self.deliver = deliver
        self.tasks = TaskLookup()
        self.log_failure: Callable[..., None] = log_failure
        self.new_memory: Callable[..., Memory] = Memory
        self._postponed: set[str] = set()  # the tasks of jobs that this worker has postponed
        self._isolation: str | None = None  # of Django's transactions on `alias`
        self._logs_starts = self._sends_starts = False

    def look_who_listens(self) -> None:
        """Looks whether starts are logged and signalled: asked before jobs are handed out, once for many of them."""
        self._logs_starts = is_wanted("worker.job_started", logging.DEBUG)
        self._sends_starts = has_receivers(task_started, logging.INFO)

    def run(self, run: Run) -> None:
        """Runs a sync task in this thread, in its own contextvars context, and cleans up after it. Raises nothing."""
        try:
            call = self._run_observed if is_observed() else self._run
            ended = _thread.context.copy().run(call, run)
        except BaseException as error:  # noqa: BLE001 - whatever happens, the row gets its end
            ended = self._last_resort(run, error)
        self._deliver(ended)

    def _run_observed(self, run: Run) -> EndedRun:
        with observed(run) as note:
            return note(self._run(run))

    def _run(self, run: Run) -> EndedRun:
        ended = self.call(run)
        lost = clean_up_connections(run.job.task)
        if SyncToAsync.context_to_thread_executor:
            lost += leave_thread_of(_thread.place, run.job.task)
        ended = self._without(lost, ended) if lost else ended
        if run.job.then_job is not None:
            ended = self.enqueue_next(ended)
            clean_up_connections(run.job.task)
        return ended

    def call(self, run: Run) -> EndedRun:
        """Runs a sync task in this thread. What it leaves is not cleaned up. Raises nothing."""
        current_job.set(run)
        run.started_at = time.monotonic()
        try:
            call = self._prepare(run)
            finish = self._call_atomic(run, call) if call.is_atomic else self._call(run, call)
            return EndedRun(run, finish, time.monotonic() - run.started_at, call.is_atomic)
        except BaseException as error:  # noqa: BLE001 - whatever a job raises, the row gets its end
            return self._ended(run, error)

    def _call(self, run: Run, call: _Call) -> Finish:
        """Calls the function, and lets itself be interrupted there. Raises what it raises, or the interruption."""
        if call.memory is not None:
            current_context.set(call.args[0])
        run.interrupter.open_thread()
        try:
            if run.interruption is not None:
                raise run.interruption  # noqa: TRY301 - as if it had come a moment later
            value = call.function(*call.args, **call.kwargs)
        except BaseException as error:
            if forked_child.is_child:
                forked_child.leave(error)
            run.interrupter.close()
            if call.memory is not None:
                call.memory.close_failed()
            raise
        if forked_child.is_child:
            forked_child.leave()
        try:
            run.interrupter.close()
        except JobInterrupt as late:  # it came when the job had returned
            del late
        if call.memory is not None:
            call.memory.close()
        run.raise_if_swallowed()
        return ending.succeeded(run, value)

    # @task(atomic=True): the function and the finish of its job commit together, or neither does (promise 3).

    def _call_atomic(self, run: Run, call: _Call) -> Finish:
        """Makes the call, and the write of its finish, in one transaction. Raises what the call raises, or LeaseLost. A
        transaction that keeps the snapshot it began with can write a row only if no other has written it since.
        """
        if self._keeps_snapshots():
            with renewing:
                run.keeps_snapshot = True
        return self._end_in_transaction(run, partial(self._call, run, call))

    def _end_in_transaction(self, run: Run, call: Callable[[], Finish]) -> Finish:
        """Makes the call, and writes the finish that it returns, in one transaction."""
        last: list[Report] = []
        try:
            with transaction.atomic(using=self.alias):
                finish = call()
                last += reports.last_report_of(run)
                self._write_in_transaction(run, finish, last)
        except BaseException:
            reports.put_back({run.job.id: run}, last)
            raise
        finally:
            run.keeps_snapshot = run.reports_itself = False
        return finish

    def _write_in_transaction(self, run: Run, finish: Finish, last: list[Report]) -> None:
        with connections[self.alias].cursor() as cursor:
            if last:
                cursor.execute(LAST_REPORT, report_parameters(last))
            reports.write_last(self.alias, run, finish)
            ((statement, parameters),) = finish_statements([finish])
            cursor.execute(statement.sql, parameters)
            if cursor.rowcount == 0:
                if _is_written(cursor, finish):
                    return  # by this run: the answer to its COMMIT was lost
                run.lease_lost = True
                raise LeaseLost
        if run.job.then_job is not None:
            new = next_job(run.job.then_job, finish.result, run.job.task).enqueued_by(f"{OF_JOB}{run.job.id}")
            run.found_task.backend.insert(task_of(new.template), new)

    def _keeps_snapshots(self) -> bool:
        """Returns whether Django's transactions are REPEATABLE READ or SERIALIZABLE, by OPTIONS, role or database."""
        if self._isolation is None:
            connection = connections[self.alias]
            with connection.cursor() as cursor:
                cursor.execute("SHOW default_transaction_isolation")
                (default,) = cursor.fetchone()
            chosen = connection.connection.isolation_level  # None: the default
            self._isolation = default if chosen is None else chosen.name.replace("_", " ").lower()
        return self._isolation in KEEPING_SNAPSHOTS

    # .using(then=...): the finish of a job and the INSERT of the next one commit together.

    def enqueue_next(self, ended: EndedRun) -> EndedRun:
        """Writes the end of a run that has succeeded. The job has left no transaction open. Raises nothing."""
        run, finish = ended.run, ended.finish
        if ended.committed or finish is None or finish.state is not State.SUCCEEDED:
            return ended
        try:
            retry_while_down(
                run, lambda _: self._end_in_transaction(run, lambda: finish), is_transaction=True
            )
        except BaseException as error:  # noqa: BLE001 - whatever it is, the row gets its end
            return self._ended(run, error)
        return replace(ended, committed=True)

    # Async tasks.

    async def arun(self, run: Run) -> None:
        """Runs an async task on the current event loop, in a separate asyncio task. Raises nothing."""
        try:
            ended = await (self._arun_observed(run) if is_observed() else self._arun(run))
        except BaseException as error:  # noqa: BLE001 - whatever happens, the row gets its end
            ended = self._last_resort(run, error)
        self._deliver(ended)

    async def _arun_observed(self, run: Run) -> EndedRun:
        with observed(run) as note:
            return note(await self._arun(run))

    async def _arun(self, run: Run) -> EndedRun:
        ended = None
        try:
            async with ThreadSensitiveContext() as place:
                ended = await self.acall(run)
                if lost := await aleave_thread_of(place, run.job.task):
                    ended = self._without(lost, ended)
                if run.job.then_job is not None:
                    # A cancellation must not leave a success without what follows it.
                    returned, ended = ended, None
                    ended = await sync_to_async(self.enqueue_next)(returned)
                    await aleave_thread_of(place, run.job.task)
        except BaseException as error:  # noqa: BLE001 - another job may have cancelled every task of the loop
            ended = ended or self._last_resort(run, error)
        return ended

    async def acall(self, run: Run) -> EndedRun:
        """See call()."""
        current_job.set(run)
        run.started_at = time.monotonic()
        try:
            return EndedRun(run, await self._acall(run), time.monotonic() - run.started_at)
        except BaseException as error:  # noqa: BLE001 - whatever a job raises, the row gets its end
            return self._ended(run, error)

    async def _acall(self, run: Run) -> Finish:
        """See _call()."""
        # Into a thread where it may ask the database: a checkpoint, or a receiver of the project.
        may_query = run.job.lease_epoch > 1 or len(task_started.receivers) > OWN_RECEIVERS
        call = await sync_to_async(self._prepared)(run) if may_query else self._prepare(run)
        if isinstance(call, BaseException):
            raise call
        if run.interruption is not None:
            raise run.interruption
        if call.memory is not None:
            current_context.set(call.args[0])
        task = asyncio.ensure_future(_called(call))
        run.interrupter.open_task(asyncio.get_running_loop(), task)
        try:
            value, error = await task
        except BaseException as cancelled:  # noqa: BLE001 - before its first step
            value, error = None, cancelled
        if forked_child.is_child:
            forked_child.leave(error)
        run.interrupter.close()
        if error is not None:
            if call.memory is not None:
                await call.memory.aclose_failed()
            raise error
        if call.memory is not None:
            call.memory.close()
        run.raise_if_swallowed()
        return ending.succeeded(run, value)

    def _prepared(self, run: Run) -> _Call | BaseException:
        """See _prepare(). No future carries a StopIteration out of a thread, which would wait forever."""
        try:
            return self._prepare(run)
        except BaseException as error:  # noqa: BLE001 - the caller raises it
            return error

    def _prepare(self, run: Run) -> _Call:
        """Returns the function to call. Sends task_started."""
        job = run.job
        if Unreadable in map(type, _json_of(job)):
            run.found_task = None  # no result can be made for receivers: they are given what the row says
            row = zip(JSON_COLUMNS, _json_of(job), strict=True)
            raise next(UnreadableJobError(name, it.reason) for name, it in row if isinstance(it, Unreadable))
        found = run.found_task = run.found_task or self.tasks.find(job)
        if self._logs_starts:
            log_start(run)
        if self._sends_starts:
            task_started.send(type(found.backend), task_result=ending.result_of(run))
            if forked_child.is_child:  # a receiver has forked
                forked_child.leave()
        options = found.options if job.options is None else options_of(found, job)
        task, args, kwargs = found.task, job.args, job.kwargs or {}
        if not task.takes_context:
            return _Call(task.func, args, kwargs, None, options.atomic)
        is_first = job.lease_epoch == 1
        saved = None if is_first else retry_while_down(run, checkpoints.load_checkpoint, job.id)
        budget = None
        if options.budget:
            signature = call_signature(task.func, task.takes_context)
            budget = budget_name(options.budget, signature, args, kwargs)
        memory = self.new_memory(run, saved or checkpoints.Saved(), is_atomic=options.atomic)
        if saved is not None and saved.has_output:
            memory.resume_output(retry_while_down(run, load_output, job.id))
        short_pause = partial(ending.short_pause, options)
        context = JobContext(ending.result_of(run), run, memory, budget, short_pause, members_of)
        return _Call(task.func, (context, *args), kwargs, memory, options.atomic)

    # What ended it.

    def _without(self, lost: list[str], ended: EndedRun) -> EndedRun:
        """Ends a run whose rows in the databases `lost` were rolled back after it: it has not succeeded."""
        if ended.committed or ended.finish is None or ended.finish.state is not State.SUCCEEDED:
            return ended
        return self._ended(ended.run, TransactionLeftOpenError(lost))

    def _ended(self, run: Run, error: BaseException) -> EndedRun:
        """Ends a run that raised `error`, which is logged. This calls the job's code: its backoff, its error's text."""
        try:
            cut_our_frames(error)
            if isinstance(error, TypeError):
                error = self.tasks.misfit(run.job) or error
            error = ending.meaning(run, error)
            if isinstance(error, LeaseLost):
                return EndedRun(run, None, run.seconds)
            finish = ending.ended_with(run, error, self.tasks.options_of(run.job))
        except BaseException as broken:  # noqa: BLE001 - likewise with what the job raised
            return self._last_resort(run, broken)
        is_news = run.job.task not in self._postponed
        if finish.outcome is Outcome.POSTPONED:
            self._postponed.add(run.job.task)
        self.log_failure(run, finish, error, is_news=is_news)
        return EndedRun(run, finish, run.seconds, error=error)

    def give_up(self, run: Run, error: BaseException) -> None:
        """Ends a run that could not even be begun."""
        self._deliver(self._last_resort(run, error))

    def _last_resort(self, run: Run, error: BaseException) -> EndedRun:
        """Ends a run whose end could not be told. Nothing of the job is called any more."""
        finish = ending.unrecordable(run, error)
        self.log_failure(run, finish, error)
        return EndedRun(run, finish, run.seconds, error=error)

    def _deliver(self, ended: EndedRun) -> None:
        """Delivers the end until it is taken: a job whose end got lost would keep its lease as long as the worker
        lives. An exception that a job's own timeout raises here may come after the end was taken: then it is delivered
        twice."""
        if forked_child.is_child:  # the end is its parent's to write
            forked_child.leave(ended.error)
        while True:
            try:
                return self.deliver(ended)
            except BaseException:  # noqa: BLE001 - usually out of memory
                time.sleep(DELIVER_AGAIN_SECONDS)


def _is_written(cursor: Any, finish: Finish) -> bool:
    cursor.execute(WHOSE, {"ids": [finish.id]})
    return (finish.lease_epoch, finish.state) in [row[1:] for row in cursor.fetchall()]


async def _called(call: _Call) -> tuple[Any, BaseException | None]:
    """Returns what the function of an async job returned, and what it raised. What is raised out of an asyncio task
    passes through the loop, which looks at its class: a StopIteration or GeneratorExit would not arrive."""
    try:
        return await call.function(*call.args, **call.kwargs), None
    except BaseException as error:  # noqa: BLE001 - the caller raises it
        return None, error
