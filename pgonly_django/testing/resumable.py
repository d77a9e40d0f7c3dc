"""assert_resumable(): kills a job at each place, resumes it, and compares. See docs/how-to/testing.md.

All happens in one transaction of each database, and each round in a savepoint of it, which is rolled back. Both bear
the mark of a TestCase's transaction, so the cache and the limiters are in them too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from itertools import product
from pkgutil import resolve_name
from typing import Any
from unittest import mock

from django.db import Error, connections, models, transaction
from django.db.models import F

from pgonly_django.compat import Task
from pgonly_django.context.run import Run
from pgonly_django.database.background import Background
from pgonly_django.models import CacheEntry, CacheLock, DurableCacheEntry, LimiterSlot, LimiterWaiter, Wait
from pgonly_django.models.job import FINISHED, ClockTimestamp, Job, State
from pgonly_django.outcomes import Outcome
from pgonly_django.queue.rescue import rescue
from pgonly_django.queue.waits import send_event
from pgonly_django.tasks.backend import PostgresBackend
from pgonly_django.testing.backends import postgres_backends, usable_databases
from pgonly_django.testing.draining import OF_JOBS, RUNS_OF_ONE_JOB
from pgonly_django.testing.enqueued import times
from pgonly_django.testing.inline_worker import InlineExecutor, InlineWorker
from pgonly_django.testing.resumable_rows import (
    CACHE,
    JOBS,
    RESULT,
    STATE,
    Comparison,
    RowStates,
    Tables,
    ignored_labels,
    result_row,
    rounded,
)
from pgonly_django.testing.resumable_watch import (
    Killed,
    KillPlace,
    KillWatch,
    WatchedMemory,
    counting,
)
from pgonly_django.worker.ending import EndedRun

STEADY = "Compare what is the same in each run with state=, or leave out what is not with ignore=."
QUEUE = "assert_resumable"
LEASES: tuple[tuple[type[models.Model], str], ...] = (
    (LimiterSlot, "expires_at"),
    (LimiterWaiter, "expires_at"),
    (CacheLock, "expires_at"),
    (CacheEntry, "claimed_until"),
    (DurableCacheEntry, "claimed_until"),
)


class NotResumableError(AssertionError):
    """The job did not end after a kill and a resume as without a kill, or paid for a call twice."""


class NotTestableError(AssertionError):
    """assert_resumable() cannot judge the job here; the message says what to change."""


@dataclass(frozen=True)
class ResumableReport:
    """The report of assert_resumable()."""

    places: tuple[str, ...]  # where the job can be killed
    killed_at: tuple[int, ...]  # their numbers, from 1
    calls: dict[str, int]  # of each step, and of each function in `paid`
    not_compared: tuple[str, ...]  # what two runs without a kill differ in


def assert_resumable(
    task: Any,
    *args: Any,
    kwargs: dict[str, Any] | None = None,
    state: Callable[[], Any] | None = None,
    ignore: Sequence[str | type[models.Model]] = (),
    paid: Sequence[str | Callable[..., Any]] = (),
    setup: Callable[[], Any] | None = None,
    events: Mapping[str, Any] | Callable[[str], Any] | None = None,
    kill_at: int | Sequence[int] = (),
    max_kills: int = 100,
) -> ResumableReport:
    """Runs the job of this call without a kill, then kills it at each place and resumes it.

        report = assert_resumable(screen_project, project.pk)

    The places are after each commit and each write to the cache, between the call of a step and its save, around each
    checkpoint and each position of iterate(), and when the function has returned. A kill is a BaseException in the
    test's process, after which nothing of that run reaches a database. State that is kept in memory survives it, in
    module globals for example: reset it in `setup`, which is called before each run. Files, other caches, mails,
    threads and processes of the job, and database connections that Django does not know, are not checked.

    It compares the job's result, the jobs that it has enqueued, the entries of the cache and the rows of all models of
    the project, except where two runs without a kill differ. `state`, called in the test after each round, takes the
    place of the rows. `ignore`: models ("shop.Order"), fields ("shop.Order.sent_at"), "result", "jobs" or "cache".
    `paid`: functions outside of steps that must be called as often as without a kill. `kill_at`: the numbers of places,
    from 1, instead of all. `max_kills`: the maximum number of places, taken evenly. `events`: the payloads, by their
    keys, of the events that are sent when the job has left its run to wait for them, or a function of the key; any
    other wait ends at its deadline. The jobs that it gathers run when it has left its run to wait for them, and are not
    killed.

    Raises NotResumableError where a resumed job ends in another state, or has paid for a step more often, and
    NotTestableError where that cannot be judged.
    """
    __tracebackhide__ = True
    if not isinstance(task, Task):
        raise TypeError(f"assert_resumable() needs a task, as @task makes it, got {task!r}.")
    postgres_backends()  # raises outside of a test run
    if not isinstance(backend := task.get_backend(), PostgresBackend):
        raise NotTestableError(
            f"The jobs of {task.module_path} go to {type(backend).__name__} here, which keeps none. Give "
            f"TASKS[{task.backend!r}] the PostgresBackend in this test, with override_settings()."
        )
    for name, given in (("ignore", ignore), ("paid", paid)):
        if isinstance(given, str):
            raise TypeError(f"{name} must be a list, got {given!r}: give [{given!r}].")
    if max_kills < 1:
        raise ValueError(f"max_kills must be 1 or more, got {max_kills!r}.")
    paths, ignored = [_path_of(function) for function in paid], ignored_labels(ignore)
    aliases = usable_databases(a for a in connections if not connections.settings[a]["TEST"]["MIRROR"])
    with ExitStack() as stack:
        stack.enter_context(_undone(aliases))
        job_id = task.enqueue(*args, **(kwargs or {})).id
        worker = _OneJobWorker(backend.database, aliases, job_id, events or {}, QUEUE)
        # A killed process leaves undone what the cache and the limiters would do later, in another thread.
        stack.enter_context(mock.patch.object(Background, "add"))
        for path in paths:
            counted = counting(lambda: worker.watch, f"{path}()", resolve_name(path))
            stack.enter_context(mock.patch(path, counted))
        rounds = _Rounds(task.module_path, worker, aliases, ignored, setup, state)
        return rounds.report([kill_at] if isinstance(kill_at, int) else kill_at, max_kills)


@dataclass(frozen=True)
class _Round:
    places: list[KillPlace]
    calls: Counter[str]
    cut_off: Counter[str]
    rows: RowStates


class _Rounds:
    """Runs without a kill, then for each place a run that dies there and one that resumes it."""

    def __init__(
        self, task: str, worker: _OneJobWorker, aliases: Sequence[str], ignored: frozenset[str],
        setup: Callable[[], Any] | None, state: Callable[[], Any] | None,
    ) -> None:  # fmt: skip
        self._task, self._worker, self._aliases = task, worker, aliases
        self._setup, self._state = setup, state
        self._tables = Tables(aliases, ignored)
        self._pseudo_rows = [label for label in (RESULT, STATE) if label not in ignored]
        pseudo: RowStates = {label: {"": {}} for label in self._pseudo_rows}
        self._comparison = Comparison(self._tables.prepared | pseudo)

    def report(self, kill_at: Sequence[int], max_kills: int) -> ResumableReport:
        """Does all rounds. Raises NotResumableError for the first kill after which something differs."""
        __tracebackhide__ = True
        expected, again = self._undisturbed(), self._undisturbed()
        self._learn_what_is_unsteady(expected, again)
        places = list(self._places(expected))
        numbers = _chosen(sorted(set(kill_at)), len(places), max_kills)
        for number in numbers:
            self._kill_and_compare(places[number - 1], expected, f"place {number} of {len(places)}")
        unsteady = sorted(".".join(each).rstrip(".") for each in self._comparison.unsteady)
        where = tuple(map(str, places))
        return ResumableReport(where, tuple(numbers), dict(expected.calls), tuple(unsteady))

    def _places(self, expected: _Round) -> Iterator[KillPlace]:
        """Returns the places. In production a loop's position is saved once a second: one item comes again, or all."""
        yield from expected.places
        if any("of the loop" in place.where for place in expected.places):
            yield from (place for place in self._undisturbed(saves_items=False).places if place.unsaved)

    def _kill_and_compare(self, place: KillPlace, expected: _Round, which: str) -> None:
        __tracebackhide__ = True
        with _undone(self._aliases):
            killed = self._run(KillWatch(saves_items=place.saves_items, kill_at=place.number))
            if not killed.is_dead:
                raise NotTestableError(
                    f"{self._task} has to do the same in each run. One reached place {place.number} "
                    f"({place}), and another one ended after {len(killed.places)} places."
                )
            when = f"{self._task} is not resumable. It was killed {place} ({which}), and resumed."
            self._worker.rescue()
            resumed = self._run(KillWatch(saves_items=place.saves_items))
            self._require_success(f"{when}\nThe resumed run", NotResumableError)
            got = self._left(killed, resumed)
        if found := self._differences(expected, got):
            points = "\n".join(f"* {each}" for each in found)
            raise NotResumableError(f"{when}\n{points}")

    def _undisturbed(self, *, saves_items: bool = True) -> _Round:
        __tracebackhide__ = True
        with _undone(self._aliases):
            watch = self._run(KillWatch(saves_items=saves_items))
            self._require_success(f"{self._task}, without a kill,", NotTestableError)
            return self._left(watch)

    def _run(self, watch: KillWatch) -> KillWatch:
        if self._setup is not None:
            self._setup()
        self._worker.run_job(watch)
        return watch

    def _left(self, *watches: KillWatch) -> _Round:
        rows = self._tables.read()
        values = {RESULT: rounded(self._worker.row("result")["result"]), STATE: None}
        if self._state is not None:
            rows = {label: own if label.startswith((JOBS, CACHE)) else {} for label, own in rows.items()}
            values[STATE] = self._state()
        rows |= {label: {"": result_row(values[label])} for label in self._pseudo_rows}
        calls = sum((watch.calls for watch in watches), Counter[str]())
        return _Round(watches[0].places, calls, watches[0].cut_off(), rows)

    def _learn_what_is_unsteady(self, one: _Round, two: _Round) -> None:
        """Raises where two runs without a kill differ in something that cannot be left out."""
        only_one, only_two = sorted(set(one.calls) - set(two.calls)), sorted(set(two.calls) - set(one.calls))
        if only_one and only_two:
            raise NotResumableError(
                f"The steps of {self._task} have other names in each run ({only_one[0]}, {only_two[0]}): a resumed run "
                "cannot find what was paid for. Name them after what they work on."
            )
        if said := _calls_differ(one.calls, two.calls, Counter()):
            raise NotTestableError(
                f"Two runs of {self._task} without a kill differ. {' '.join(said)} Something outside of the database "
                "was kept from the first run: a global variable, a file, another cache. Reset it in setup=."
            )
        unsteady = self._comparison.unsteady_fields(one.rows, two.rows)
        self._comparison = replace(self._comparison, unsteady=unsteady)
        if said := self._differences(one, two):
            raise NotTestableError(
                f"Two runs of {self._task} without a kill differ. {' '.join(said)} {STEADY}"
            )

    def _differences(self, expected: _Round, got: _Round) -> list[str]:
        calls = _calls_differ(expected.calls, got.calls, got.cut_off)
        return calls + self._comparison.differences(expected.rows, got.rows)

    def _require_success(self, what: str, error: type[AssertionError]) -> None:
        __tracebackhide__ = True
        job = self._worker.row("state", "errors")
        if job["state"] != State.SUCCEEDED:
            last = job["errors"][-1] if job["errors"] else {}
            reason = last.get("traceback") or last.get("reason") or ""
            raise error(f"{what} ended as {job['state']}. {reason}".rstrip())


class _OneJobExecutor(InlineExecutor):
    def _ended(self, run: Run, error: BaseException) -> EndedRun:
        """Returns how it ended. A killed process says nothing of it."""
        return EndedRun(run, None) if isinstance(error, Killed) else super()._ended(run, error)


class _OneJobWorker(InlineWorker):
    """Runs this job and no other: it alone is in a separate queue."""

    watch: KillWatch  # of the present run

    def __init__(
        self, alias: str, aliases: Sequence[str], job_id: str,
        events: Mapping[str, Any] | Callable[[str], Any], queue: str,
    ) -> None:  # fmt: skip
        super().__init__(alias, [queue])
        self._aliases, self._events, self._queue = aliases, events, queue
        self.executor: InlineExecutor = _OneJobExecutor(alias, self.executor.worker_id, self.executor.deliver)
        self._rows = Job.objects.using(alias).filter(pk=job_id)
        self._rows.update(queue=queue)

    def row(self, *columns: str) -> dict[str, Any]:
        return dict(self._rows.values(*columns).get())

    def run_job(self, watch: KillWatch) -> None:
        """Runs the job until it has ended, is held or killed. Snoozes, pauses before a retry and the time until the
        deadline of a wait are left out."""
        self.watch = watch
        self.executor.new_memory = partial(WatchedMemory, watch)
        for _ in range(RUNS_OF_ONE_JOB):
            self._rows.filter(state=State.SCHEDULED).update(run_at=ClockTimestamp())
            with suppress(Killed):
                ended = self.run_next()
                if ended is None:
                    return
                if ended.error is not None and not isinstance(ended.error, OF_JOBS):
                    raise ended.error
            if watch.is_dead:
                return
            self._end_waits()

    def _end_waits(self) -> None:
        """Sends the events that the job waits for, and runs what it gathers. Raises where no wait would end: of the
        first of several keys, one event is enough."""
        rows = Wait.objects.using(self.alias).filter(job__in=self._rows)
        waits = list(rows.filter(lease_epoch=F("job__lease_epoch")).order_by("pk"))
        events = self._events
        sent = [wait.key is not None and (callable(events) or wait.key in events) for wait in waits]
        if waits and not (any(sent) or any(wait.until or wait.batch_id for wait in waits)):
            hint = f"Give it to assert_resumable(): events={{{waits[-1].key!r}: ...}}."
            raise NotTestableError(f"{waits[-1].job.task} waits for the event {waits[-1].key!r}. {hint}")
        for wait, is_sent in zip(waits, sent, strict=True):
            if wait.batch_id is not None:
                with self.watch.quietly():
                    self._run_gathered(wait)
            elif wait.key is not None and is_sent:
                payload = events(wait.key) if callable(events) else events[wait.key]
                send_event(wait.key, payload, using=self.alias)
            elif wait.until is not None:
                Wait.objects.using(self.alias).filter(pk=wait.pk).update(until=ClockTimestamp())

    def _run_gathered(self, wait: Wait) -> None:
        """Runs each unfinished member to its end, with its own waits."""
        members = Job.objects.using(self.alias).filter(batch_id=wait.batch_id).order_by("pk")
        for job_id in members.exclude(state__in=FINISHED).values_list("pk", flat=True):
            member = _OneJobWorker(self.alias, self._aliases, str(job_id), self._events, f"{self._queue} >")
            member.run_job(KillWatch())
            if not (job := members.get(pk=job_id)).is_finished:
                raise NotTestableError(
                    f"{job.task}, which {wait.job.task} gathers, is {job.state} at its end."
                )

    def rescue(self) -> None:
        """Rescues the job as a worker does for the jobs of a dead one, without the wait for the end of its leases. The
        leases of limiters, locks and computations that the killed run held have ended before a rescue, too."""
        past = ClockTimestamp() - timedelta(seconds=1)
        self._rows.filter(state=State.RUNNING).update(lease_expires_at=past)
        for alias, (model, column) in product(self._aliases, LEASES):
            rows = model._base_manager.using(alias).filter(**{f"{column}__gt": past})  # noqa: SLF001 - public in all but its name
            with suppress(Error), transaction.atomic(using=alias):  # there may be no such table
                rows.update(**{column: past})
        rescue(self.database.connection(), timedelta(0), timedelta(0))

    def _run(self, run: Run) -> EndedRun:
        self.watch.open_calls = 0
        return super()._run(run)

    def _write(self, ended: EndedRun) -> EndedRun:
        """Writes the end of the run. For a run that was killed it writes nothing and raises Killed."""
        if not ended.committed:
            is_waiting = ended.finish is not None and ended.finish.outcome is Outcome.WAITING
            has_left = "left its run to wait" if is_waiting else "returned"
            self.watch.reached(f"right before its end was written, when its function had {has_left}")
        self.watch.check()
        return super()._write(ended)


def _chosen(kill_at: Sequence[int], places: int, max_kills: int) -> list[int]:
    """Returns the numbers of the places, out of all, at which to kill."""
    chosen = list(kill_at) or list(range(1, places + 1))
    if beyond := [number for number in chosen if not 1 <= number <= places]:
        raise NotTestableError(f"kill_at names place {beyond[0]}, and the job has {places}.")
    if len(chosen) <= max_kills:
        return chosen
    return [chosen[number * (len(chosen) - 1) // max(max_kills - 1, 1)] for number in range(max_kills)]


def _calls_differ(expected: Counter[str], got: Counter[str], cut_off: Counter[str]) -> list[str]:
    """Says how the calls differ. Calls that the kill has cut off may be made again."""
    said = []
    for call in sorted(expected | got):
        wanted, made = expected[call], got[call]
        counts = f"{call} was called {times(made)} instead of {times(wanted)}"
        if made > wanted + cut_off[call]:
            said.append(f"{counts}: it was paid twice.")
        elif made < wanted:
            said.append(f"{counts}.")
    return said


def _path_of(function: Any) -> str:
    """Returns the path of a function of `paid`. Raises ValueError where no module has it."""
    path = function if isinstance(function, str) else f"{function.__module__}.{function.__qualname__}"
    try:
        resolve_name(path)
    except (ImportError, AttributeError, ValueError):
        raise ValueError(f"paid: there is no {path!r} in a module.") from None
    return path


@contextmanager
def _undone(aliases: Iterable[str]) -> Iterator[None]:
    """Rolls everything that is written in the block back at its end."""
    with ExitStack() as blocks:
        for alias in aliases:
            block: Any = transaction.atomic(using=alias)
            block._from_testcase = True  # noqa: SLF001 - what Django's TestCase does, and what the cache looks for
            blocks.enter_context(block)
            blocks.callback(transaction.set_rollback, True, using=alias)
        yield
