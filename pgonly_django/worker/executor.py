"""One run from the claimed row to its finish: find the task, call it, say how it ended. No thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from asgiref.sync import SyncToAsync, ThreadSensitiveContext, sync_to_async
from django.db import connections, transaction

from pgonly_django.compat import InvalidTaskBackend, TaskResultStatus, task_started
from pgonly_django.context.context import JobContext
from pgonly_django.context.retry_while_down import retry_while_down
from pgonly_django.context.run import Run, renewing
from pgonly_django.events import emit
from pgonly_django.exceptions import (
    JobInterrupt,
    LeaseLost,
    TransactionLeftOpenError,
    UnreadableJobError,
    WrongArgumentsError,
)
from pgonly_django.models.job import State
from pgonly_django.queue import checkpoints
from pgonly_django.queue.claim import JSON_COLUMNS, ClaimedJob, Unreadable
from pgonly_django.queue.finish import Finish, Outcome, finish_statements
from pgonly_django.queue.progress import LAST_REPORT, Report, report_parameters
from pgonly_django.tasks.arguments import call_signature
from pgonly_django.tasks.options import TaskOptions, restored
from pgonly_django.tasks.registry import UnfitArgumentsError, UnknownTaskError, find_task, with_fields
from pgonly_django.tasks.result import JobResult, build_result
from pgonly_django.tasks.signals import OWN_RECEIVERS, has_receivers
from pgonly_django.worker import forked_child, outcomes, reports
from pgonly_django.worker.connection_cleanup import clean_up_connections
from pgonly_django.worker.ended import Ended
from pgonly_django.worker.tracebacks import name_of, traceback_of, without_outer_frames

DELIVER_AGAIN_SECONDS = 0.1
LEAVE_SECONDS = 1.0

KEEPING_SNAPSHOTS = ("repeatable read", "serializable")


@dataclass(frozen=True, slots=True)
class Placed:
    """A task as its jobs were enqueued, with what every one of its runs needs: looked up once."""

    task: Any
    backend: Any
    options: TaskOptions
    is_async: bool


@dataclass(slots=True)
class _Call:
    task: Any
    result: JobResult
    context: JobContext | None
    options: TaskOptions

    @property
    def arguments(self) -> tuple[Any, ...]:
        args = self.result.args
        return tuple(args) if self.context is None else (self.context, *args)


class Executor:
    """Runs jobs for one worker and hands each end to `deliver`, from whatever thread it happens in."""

    def __init__(self, alias: str, worker: outcomes.WorkerFacts, deliver: Callable[[Ended], None]) -> None:
        self.alias = alias
        self.worker = worker
        self.deliver = deliver
        self._isolation: str | None = None
        self._placed: dict[tuple[str, str, str, int], Placed] = {}

    def known(self, run: Run) -> Placed | None:
        """The job's task, if it was found before, so that nothing is left to import."""
        return self._placed.get(_place_key(run.job))

    def is_async(self, run: Run) -> bool:
        """Whether the job's function is a coroutine function; False where its task cannot be found or set up, which
        the run then fails with."""
        try:
            return self._place(run.job).is_async
        except BaseException:  # noqa: BLE001 - code of the project's is imported, which may even exit
            return False

    def options_of(self, run: Run) -> TaskOptions:
        """The options of the run's job; the built-in ones where they cannot be had."""
        try:
            return self._options(self._place(run.job), run.job)
        except BaseException:  # noqa: BLE001 - whatever is wrong with them, the row gets its end
            return TaskOptions()

    def run(self, run: Run) -> None:
        """Run a sync task in this thread, in a context of its own; clean up after it. Raises nothing."""
        try:
            ended = _thread.context.copy().run(self._run, run)
        except BaseException as error:  # noqa: BLE001 - whatever happens, the row gets its end
            ended = self._last_resort(run, error)
        self._deliver(ended)

    def _run(self, run: Run) -> Ended:
        run.started_at = time.monotonic()
        try:
            call = self._prepared(run)
            ended = self._call_atomically(run, call) if call.options.atomic else self._call(run, call)
        except BaseException as error:  # noqa: BLE001 - whatever a job raises, the row gets its end
            if forked_child.is_child:
                forked_child.leave(error)
            ended = self._ended(run, error)
        ended.took_seconds = time.monotonic() - run.started_at
        lost = _tidied(clean_up_connections, run.job.task)
        if SyncToAsync.context_to_thread_executor:
            lost += _leave_orm_thread(_thread.place, run.job.task)
        return self._without(lost, ended) if lost else ended

    def _call(self, run: Run, call: _Call) -> Ended:
        value = self._guarded(run, call)
        return Ended(run, outcomes.succeeded(run, value))

    def _call_atomically(self, run: Run, call: _Call) -> Ended:
        """The function and its finish commit together, or neither does (promise 3).

        A transaction that keeps the snapshot it began with can only write a row that nobody has written since.
        """
        if self._keeps_snapshots():
            with renewing:
                run.keeps_snapshot = True
        said: list[Report] = []
        try:
            with transaction.atomic(using=self.alias):
                finish = outcomes.succeeded(run, self._guarded(run, call))
                said += reports.last_report_of(run)
                self._finish(run, finish, said)
        except BaseException:
            reports.put_back({run.job.id: run}, said)
            raise
        finally:
            run.keeps_snapshot = run.reports_itself = False
        return Ended(run, finish, committed=True)

    def _finish(self, run: Run, finish: Finish, said: list[Report]) -> None:
        with connections[self.alias].cursor() as cursor:
            if said:
                cursor.execute(LAST_REPORT, report_parameters(said))
            cursor.execute(*finish_statements([finish])[0])
            if cursor.rowcount == 0:
                run.lease_lost = True
                raise LeaseLost

    def _keeps_snapshots(self) -> bool:
        """Whether Django's transactions are REPEATABLE READ or SERIALIZABLE, by OPTIONS, role or database."""
        if self._isolation is None:
            connection = connections[self.alias]
            with connection.cursor() as cursor:
                cursor.execute("SHOW default_transaction_isolation")
                (default,) = cursor.fetchone()
            chosen = connection.connection.isolation_level  # None: the default
            self._isolation = default if chosen is None else chosen.name.replace("_", " ").lower()
        return self._isolation in KEEPING_SNAPSHOTS

    def _guarded(self, run: Run, call: _Call) -> Any:
        if forked_child.is_child:  # of a receiver's
            forked_child.leave()
        run.interrupter.open_thread()
        try:
            if run.interruption is not None:
                raise run.interruption  # noqa: TRY301 - as if it had come a moment later
            value = call.task.func(*call.arguments, **call.result.kwargs)
        except BaseException as error:
            if forked_child.is_child:
                forked_child.leave(error)
            run.interrupter.close()
            if call.context is not None:
                call.context.close_failed()
            raise
        if forked_child.is_child:
            forked_child.leave()
        try:
            run.interrupter.close()
        except JobInterrupt as late:  # it came when the job had returned
            del late
        if call.context is not None:
            call.context.close()
        run.raise_if_swallowed()
        return value

    async def arun(self, run: Run) -> None:
        """Run an async task on the current event loop. Its ORM calls get a thread and connections of their own.
        Raises nothing."""
        run.started_at = time.monotonic()
        ended = None
        try:
            async with ThreadSensitiveContext() as place:
                try:
                    ended = await self._acall(run)
                except BaseException as error:  # noqa: BLE001 - whatever a job raises, the row gets its end
                    ended = self._ended(run, error)
                ended.took_seconds = time.monotonic() - run.started_at
                if place in SyncToAsync.context_to_thread_executor and (
                    lost := await sync_to_async(_tidied)(_leave_thread, run.job.task)
                ):
                    ended = self._without(lost, ended)
        except BaseException as error:  # noqa: BLE001 - another job may have cancelled every task of the loop
            ended = ended or self._last_resort(run, error)
        self._deliver(ended)

    async def _acall(self, run: Run) -> Ended:
        # Into a thread where it may ask the database: a checkpoint, or a receiver of the project's own.
        may_query = run.job.lease_epoch > 1 or len(task_started.receivers) > OWN_RECEIVERS
        call = await sync_to_async(self._prepare)(run) if may_query else self._prepare(run)
        if run.interruption is not None:
            raise run.interruption
        task = asyncio.ensure_future(_called(call))
        run.interrupter.open_task(asyncio.get_running_loop(), task)
        try:
            value = await task
        except BaseException as error:
            if forked_child.is_child:
                forked_child.leave(error)
            run.interrupter.close()
            if call.context is not None:
                await call.context.aclose_failed()
            raise
        if forked_child.is_child:
            forked_child.leave()
        run.interrupter.close()
        if call.context is not None:
            call.context.close()
        run.raise_if_swallowed()
        return Ended(run, outcomes.succeeded(run, value))

    def _prepare(self, run: Run) -> _Call:
        try:
            return self._prepared(run)
        except (StopIteration, GeneratorExit) as error:  # which no future carries out of a thread
            raise RuntimeError(f"{name_of(error)} was raised before the job's start") from error

    def _prepared(self, run: Run) -> _Call:
        _refuse_unreadable(run.job)
        job, placed = run.job, self._place(run.job)
        task = placed.task if job.run_at is None else with_fields(placed.task, run_after=job.run_at)
        result = build_result(
            task,
            job.id,
            TaskResultStatus.RUNNING,
            backend=job.backend,
            args=job.args,
            kwargs=job.kwargs or {},
            enqueued_at=job.enqueued_at,
            started_at=job.started_at,
            attempted_at=job.attempted_at,
            errors=job.errors or (),
            worker_id=self.worker.id,
            attempts=job.attempt,
        )
        run.result = result
        if has_receivers(task_started, logging.INFO):
            task_started.send(type(placed.backend), task_result=result)
        context = self._context(run, result) if task.takes_context else None
        return _Call(task, result, context, self._options(placed, job))

    def _context(self, run: Run, result: JobResult) -> JobContext:
        first_run = run.job.lease_epoch == 1
        saved = None if first_run else retry_while_down(run, checkpoints.load_checkpoint, run.job.id)
        return JobContext(result, run, saved)

    def _options(self, placed: Placed, job: ClaimedJob) -> TaskOptions:
        if job.options is None:
            return placed.options
        try:
            overrides = restored(job.options)
        except ImportError as error:
            raise UnknownTaskError(f"{job.task}: its backoff cannot be imported: {error}") from error
        options: TaskOptions = placed.backend.options_of(placed.task, overrides)
        return options

    def _place(self, job: ClaimedJob) -> Placed:
        """Raises UnknownTaskError, and asks again next time: the code may come with a deploy."""
        key = _place_key(job)
        placed = self._placed.get(key)
        if placed is None:
            task = find_task(*key)
            backend = _backend_of(task)
            is_async = inspect.iscoroutinefunction(task.func)
            placed = self._placed[key] = Placed(task, backend, backend.options_of(task), is_async)
        return placed

    def _without(self, lost: list[str], ended: Ended) -> Ended:
        """What a run is worth whose rows in the databases `lost` were rolled back behind it: it has not succeeded."""
        if ended.committed or ended.finish is None or ended.finish.state is not State.SUCCEEDED:
            return ended
        failed = self._ended(ended.run, TransactionLeftOpenError(lost))
        failed.took_seconds = ended.took_seconds
        return failed

    def _ended(self, run: Run, error: BaseException) -> Ended:
        """The end of a run that raised `error`, said in the log. Code of the job's is called on the way: its backoff,
        its exception's text."""
        try:
            error = self._meaning(run, error)
            if isinstance(error, LeaseLost):
                return Ended(run, None)
            finish = outcomes.ended_with(run, error, self.options_of(run), self.worker)
        except BaseException as broken:  # noqa: BLE001 - likewise with what the job raised
            return self._last_resort(run, broken)
        _say(run, finish, error)
        return Ended(run, finish, error=error)

    def _meaning(self, run: Run, error: BaseException) -> BaseException:
        without_outer_frames(error, __file__)
        if isinstance(error, TypeError):
            error = self._unfit(run.job) or error
        return outcomes.meaning(run, error)

    def _unfit(self, job: ClaimedJob) -> UnfitArgumentsError | None:
        """Whether the job was enqueued for other parameters than the task has here: asked after a TypeError only."""
        task = self._place(job).task
        try:
            call_signature(task.func, task.takes_context).check(job.args, job.kwargs or {})
        except WrongArgumentsError as error:
            return UnfitArgumentsError(str(error))
        return None

    def give_up(self, run: Run, error: BaseException) -> None:
        """The end of a run that could not even be begun."""
        self._deliver(self._last_resort(run, error))

    def _last_resort(self, run: Run, error: BaseException) -> Ended:
        """The end of a run whose end could not be told, for which nothing of the job's is called any more."""
        finish = outcomes.unspeakable(run, error, self.worker)
        _say(run, finish, error)
        return Ended(run, finish, run.seconds, error=error)

    def _deliver(self, ended: Ended) -> None:
        """Until it is taken: a job whose end got lost would keep its lease as long as the worker lives."""
        while True:
            try:
                return self.deliver(ended)
            except BaseException:  # noqa: BLE001 - out of memory, as a rule
                time.sleep(DELIVER_AGAIN_SECONDS)


class _Thread(threading.local):
    """The context that a thread's sync jobs start from. Their sync_to_async() calls below asyncio.run() get a thread
    and connections of their own: the one that asgiref shares in a process would keep a broken connection."""

    def __init__(self) -> None:
        self.place = ThreadSensitiveContext()
        self.context = contextvars.Context()
        self.context.run(SyncToAsync.thread_sensitive_context.set, self.place)


_thread = _Thread()


def _leave_orm_thread(place: ThreadSensitiveContext, task: str) -> list[str]:
    """See _tidied(), of the thread that a sync job's asyncio.run() had for its ORM calls, if it had one."""
    executor = SyncToAsync.context_to_thread_executor.pop(place, None)
    if executor is None:
        return []
    tidied = executor.submit(_tidied, _leave_thread, task)
    executor.shutdown(wait=False)
    try:
        return tidied.result(LEAVE_SECONDS)
    except TimeoutError:  # what the job has left running there is still busy
        return []


async def _called(call: _Call) -> Any:
    """GeneratorExit out of a task would close those who wait for it, instead of telling them."""
    try:
        return await call.task.func(*call.arguments, **call.result.kwargs)
    except GeneratorExit as error:
        raise RuntimeError("The job raised GeneratorExit") from error


def _place_key(job: ClaimedJob) -> tuple[str, str, str, int]:
    return job.task, job.backend, job.queue, job.priority


def _say(run: Run, finish: Finish, error: BaseException) -> None:
    """A log line for the attempt that failed, with its traceback, or for the task that nobody knows."""
    try:
        _emit_failure(run, finish, error)
    except BaseException:  # noqa: BLE001 - a handler of the project's may raise anything
        message = f"{run.job.task} {run.job.id} failed, and its error cannot be logged."
        with contextlib.suppress(BaseException):
            emit("worker.attempt_failed", message, level=logging.ERROR, job_id=run.job.id)


def _emit_failure(run: Run, finish: Finish, error: BaseException) -> None:
    job = run.job
    what = f"{job.task} {job.id}"
    facts: dict[str, Any] = {"job_id": job.id, "task": job.task}
    if finish.outcome is Outcome.POSTPONED:
        message = f"{what}: {error} It is looked for again for {outcomes.UNKNOWN_FOR}."
        emit("worker.task_unknown", message, level=logging.WARNING, **facts)
    elif finish.outcome in (Outcome.FAILED, Outcome.TIMED_OUT):
        is_last = finish.state is State.FAILED
        then = "it is not started again" if is_last else f"again in {finish.delay_seconds or 0:.3g} s"
        message = (
            f"{what}: attempt {job.attempt} of {job.max_attempts} failed with {name_of(error)} "
            f"after {run.seconds:.3g} s; {then}."
        )
        level = logging.ERROR if is_last else logging.WARNING
        exc_info = (type(error), error, traceback_of(error))
        emit("worker.attempt_failed", message, level=level, exc_info=exc_info, attempt=job.attempt, **facts)


def _refuse_unreadable(job: ClaimedJob) -> None:
    for column in JSON_COLUMNS:
        value = getattr(job, column)
        if isinstance(value, Unreadable):
            raise UnreadableJobError(column, value.reason)


def _backend_of(task: Any) -> Any:
    """Raises UnknownTaskError when TASKS has no such entry (any more), or it is not ours."""
    try:
        backend = task.get_backend()
    except InvalidTaskBackend as error:
        raise UnknownTaskError(f"TASKS has no backend {task.backend!r} for {task.module_path}.") from error
    if not hasattr(backend, "options_of"):
        raise UnknownTaskError(
            f"TASKS[{task.backend!r}] is a {type(backend).__name__}, not a PostgresBackend."
        )
    return backend


def _tidied(tidy: Callable[[str], list[str]], task: str) -> list[str]:
    """Tidy up after a job: the databases where it lost rows. Failing at that is logged and costs nobody a slot."""
    try:
        return tidy(task)
    except BaseException:  # noqa: BLE001 - a broken connection may break anywhere
        message = f"Could not tidy up after {task}"
        with contextlib.suppress(BaseException):
            emit("worker.cleanup_failed", message, level=logging.ERROR, exc_info=True)
        return []


def _leave_thread(task: str) -> list[str]:
    """Before an async job's own ORM thread goes: nothing open stays behind."""
    lost = clean_up_connections(task)
    connections.close_all()
    return lost
