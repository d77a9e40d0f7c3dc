"""The rounds: runs without a kill, then for each place a run that dies there and one that resumes it.

All happens in one transaction of each database, which a round begins and ends at the same savepoint. It bears the mark
of a TestCase's transaction, so the cache and the limiters are in it too.
"""

from __future__ import annotations

import inspect
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any
from unittest import mock
from uuid import UUID

from django.db import ProgrammingError, connections, router, transaction
from django.db.models import F
from django.db.models.functions import Coalesce

from pgonly_django.context.run import Run
from pgonly_django.database.background import Background
from pgonly_django.models import CacheEntry, CacheLock, DurableCacheEntry, LimiterSlot, LimiterWaiter
from pgonly_django.models.job import WAITING, ClockTimestamp, Job, State
from pgonly_django.queue.claim import ClaimedJob
from pgonly_django.queue.rescue import rescue
from pgonly_django.testing.autocommit import as_in_autocommit
from pgonly_django.testing.backends import usable_databases
from pgonly_django.testing.draining import OF_JOBS, RUNS_OF_ONE_JOB
from pgonly_django.testing.inline_worker import LEASE_FOR, InlineExecutor, InlineWorker
from pgonly_django.testing.resumable.choices import Choices
from pgonly_django.testing.resumable.comparison import (
    Comparison,
    NotResumableError,
    NotTestableError,
    calls_differ,
)
from pgonly_django.testing.resumable.rows import CACHE, JOBS, Reader, Rows, normal
from pgonly_django.testing.resumable.watch import Killed, Place, Watch, counting, watched_by
from pgonly_django.worker.ending import Ended

STEADY = "Compare what is the same in each run with state=, or leave out what is not with ignore=."
RESULT_LENGTH = 300
# After how many items the position of a loop is saved, and how many have to be unsaved for a place to be another one
# than with the paces before: one item comes again, a few, or all of the loop.
PACES = {1: 0, 3: 1, 0: 3}
SAVEPOINT = "pgonly_round"
LEASES: tuple[tuple[Any, str], ...] = (
    (LimiterSlot, "expires_at"),
    (LimiterWaiter, "expires_at"),
    (CacheLock, "expires_at"),
    (CacheEntry, "claimed_until"),
    (DurableCacheEntry, "claimed_until"),
)


@dataclass(frozen=True)
class ResumableReport:
    """What assert_resumable() has done."""

    places: tuple[str, ...]  # where the job can be killed
    killed_at: tuple[int, ...]  # their numbers, from 1
    calls: dict[str, int]  # of each step, and of each function in `paid`
    not_compared: tuple[str, ...]  # what two runs without a kill differ in


@dataclass(frozen=True)
class Kill:
    pace: int
    number: int  # of the place, among those of a run of this pace
    place: Place


@dataclass(frozen=True)
class Round:
    """What one run, or a killed one and the one that resumed it, has left."""

    places: list[Place]
    calls: Counter[str]
    under_way: Counter[str]  # calls that the kill has cut off
    result: Any
    rows: Rows
    state: Any


class Rounds:
    """Use begin()."""

    def __init__(self, choices: Choices, aliases: Sequence[str]) -> None:
        self._choices, self._aliases = choices, aliases
        result = choices.task.enqueue(*choices.args, **choices.kwargs)
        self._worker = _OneJobWorker(choices.alias, UUID(str(result.id)))
        self._reader = Reader(aliases)
        self._comparison = Comparison(self._reader.read(), choices.ignored, choices.ignored_fields)
        self._unsteady_result: set[str] | None = set()  # keys of it; None: all of it
        for alias in aliases:
            _execute(alias, f"SAVEPOINT {SAVEPOINT}")

    @classmethod
    @contextmanager
    def begin(cls, choices: Choices) -> Iterator[Rounds]:
        """Inside of the transactions, with the job enqueued. Nothing of it is left behind the block."""
        aliases = usable_databases(a for a in connections if not connections.settings[a]["TEST"]["MIRROR"])
        with ExitStack() as stack:
            for alias in aliases:
                stack.enter_context(_test_transaction(alias))
            rounds = cls(choices, aliases)
            # A killed process leaves undone what the cache and the limiters would do later, in another thread.
            stack.enter_context(mock.patch.object(Background, "add", _add_nothing))
            for call, (holder, name) in choices.paid.items():
                stack.enter_context(mock.patch.object(holder, name, _counted(rounds, call, holder, name)))
            yield rounds

    @property
    def watch(self) -> Watch:
        """Of the present run."""
        return self._worker.watch

    def report(self) -> ResumableReport:
        """Do all rounds. Raises NotResumableError for the first kill after which something differs."""
        __tracebackhide__ = True
        expected, again = self._undisturbed(1), self._undisturbed(1)
        self._learn_what_is_unsteady(expected, again)
        possible = list(self._possible_kills(expected))
        numbers = self._choices.kills(len(possible))
        for number in numbers:
            self._kill_and_compare(possible[number - 1], expected, f"place {number} of {len(possible)}")
        places = tuple(_where(kill) for kill in possible)
        return ResumableReport(places, tuple(numbers), dict(expected.calls), tuple(self._not_compared()))

    def _possible_kills(self, expected: Round) -> Iterator[Kill]:
        for pace, least in PACES.items():
            has_loops = any("of the loop" in place.where for place in expected.places)
            if pace != 1 and not has_loops:
                continue
            places = expected.places if pace == 1 else self._undisturbed(pace).places
            for number, place in enumerate(places, 1):
                if place.unsaved >= least:
                    yield Kill(pace, number, place)

    def _kill_and_compare(self, kill: Kill, expected: Round, which: str) -> None:
        __tracebackhide__ = True
        with self._round():
            killed = self._run(Watch(kill.pace, kill.number))
            if not killed.is_dead:
                raise NotTestableError(
                    f"{self._name} has to do the same in each run. One reached place {kill.number} "
                    f"({_where(kill)}), and another one ended after {len(killed.places)} places."
                )
            when = f"{self._name} is not resumable. It was killed {_where(kill)} ({which}), and resumed."
            self._worker.rescue()
            resumed = self._run(Watch(kill.pace, resumes=True))
            self._require_success(f"{when}\nThe resumed run", NotResumableError)
            got = self._left(killed, resumed)
        if found := self._differences(expected, got):
            points = "\n".join(f"* {each}" for each in found)
            raise NotResumableError(f"{when}\n{points}")

    def _undisturbed(self, pace: int) -> Round:
        with self._round():
            watch = self._run(Watch(pace))
            self._require_success(f"{self._name}, without a kill,", NotTestableError)
            return self._left(watch)

    @contextmanager
    def _round(self) -> Iterator[None]:
        """It begins with the databases as the test has prepared them."""
        yield
        for alias in self._aliases:
            _execute(alias, f"ROLLBACK TO SAVEPOINT {SAVEPOINT}")

    def _run(self, watch: Watch) -> Watch:
        if self._choices.setup is not None:
            self._choices.setup()
        self._worker.run_job(watch)
        return watch

    def _left(self, *watches: Watch) -> Round:
        rows, state = self._reader.read(), None
        if self._choices.state is not None:
            rows = {label: own for label, own in rows.items() if not _is_of_project(label)}
            state = self._choices.state()
        calls = sum((watch.made() for watch in watches), Counter[str]())
        under_way = watches[0].under_way() if watches[0].is_dead else Counter[str]()
        result = normal(self._worker.row("result")["result"])
        return Round(watches[0].places, calls, under_way, result, rows, state)

    def _learn_what_is_unsteady(self, one: Round, two: Round) -> None:
        """Raises where two runs without a kill differ in something that cannot be left out."""
        only_one, only_two = sorted(set(one.calls) - set(two.calls)), sorted(set(two.calls) - set(one.calls))
        if only_one and only_two:
            raise NotResumableError(
                f"The steps of {self._name} have other names in each run ({only_one[0]}, {only_two[0]}): a resumed run "
                "cannot find what was paid for. Name them after what they work on."
            )
        if said := calls_differ(one.calls, two.calls, Counter()):
            raise NotTestableError(
                f"Two runs of {self._name} without a kill differ. {' '.join(said)} Something outside of the database "
                "was kept from the first run: a global variable, a file, another cache. Reset it in setup=."
            )
        unsteady = self._comparison.unsteady_fields(one.rows, two.rows)
        self._comparison = replace(self._comparison, unsteady=unsteady)
        self._unsteady_result = _unsteady_result(one.result, two.result)
        if said := self._differences(one, two):
            raise NotTestableError(
                f"Two runs of {self._name} without a kill differ. {' '.join(said)} {STEADY}"
            )

    def _differences(self, expected: Round, got: Round) -> list[str]:
        said = calls_differ(expected.calls, got.calls, got.under_way)
        wanted, found = (self._steady(each.result) for each in (expected, got))
        if wanted != found and "result" not in self._choices.ignored:
            said.append(f"Its result is {_short(found)} instead of {_short(wanted)}.")
        if expected.state != got.state:
            said.append(f"state() is {_short(got.state)} instead of {_short(expected.state)}.")
        return said + self._comparison.differences(expected.rows, got.rows)

    def _steady(self, result: Any) -> Any:
        if self._unsteady_result is None:
            return None
        if not isinstance(result, dict):
            return result
        return {name: value for name, value in result.items() if name not in self._unsteady_result}

    def _not_compared(self) -> Iterator[str]:
        yield from sorted(".".join(each) for each in self._comparison.unsteady)
        unsteady = self._unsteady_result
        yield from ["result"] if unsteady is None else sorted(f"result[{name!r}]" for name in unsteady)

    def _require_success(self, what: str, error: type[AssertionError]) -> None:
        __tracebackhide__ = True
        job = self._worker.row("state", "errors")
        if job["state"] != State.SUCCEEDED:
            last = job["errors"][-1] if job["errors"] else {}
            reason = last.get("traceback") or last.get("reason") or ""
            raise error(f"{what} ended as {job['state']}. {reason}".rstrip())

    @property
    def _name(self) -> str:
        name: str = self._choices.task.module_path
        return name


class _OneJobExecutor(InlineExecutor):
    """Writes no end of a run that was killed."""

    watch: Watch

    def run_here(self, run: Run) -> Ended:
        ended = super().run_here(run)
        return Ended(run, None) if self.watch.is_dead else ended

    def _ended(self, run: Run, error: BaseException) -> Ended:
        return Ended(run, None) if self.watch.is_dead else super()._ended(run, error)


class _OneJobWorker(InlineWorker):
    """Runs this job and no other, also where it would not be due yet."""

    def __init__(self, alias: str, job_id: UUID) -> None:
        super().__init__(alias, ())
        self.executor: _OneJobExecutor = _OneJobExecutor(alias, self.executor.worker, self.executor.deliver)
        self._rows = Job.objects.using(alias).filter(pk=job_id)

    @property
    def watch(self) -> Watch:
        return self.executor.watch

    def row(self, *columns: str) -> dict[str, Any]:
        return dict(self._rows.values(*columns).get())

    def run_job(self, watch: Watch) -> None:
        """Until it is over, held or killed. Snoozes and pauses before a retry are left out."""
        self.executor.watch = watch
        self.executor.context_class = watched_by(watch)
        for _ in range(RUNS_OF_ONE_JOB):
            if (run := self._claim()) is None:
                return
            self.executor.look_who_listens()
            ended = self._run(run, watch)
            if ended.error is not None and not isinstance(ended.error, OF_JOBS):
                raise ended.error
            with suppress(Killed):
                if not ended.committed:
                    watch.reached("right before its end was written, when its function had returned")
                watch.check()
                self._write(ended)
                with as_in_autocommit():
                    self._tell(ended)
            if watch.is_dead:
                return

    def rescue(self) -> None:
        """As a worker does for the jobs of a dead one, without the wait for the end of its leases."""
        self._rows.filter(state=State.RUNNING).update(
            lease_expires_at=ClockTimestamp() - timedelta(seconds=1)
        )
        _end_leases()
        rescue(self.database.connection(), timedelta(0), timedelta(0))

    def _claim(self) -> Run | None:
        claimed = self._rows.filter(state__in=WAITING).update(
            state=State.RUNNING,
            lease_epoch=F("lease_epoch") + 1,
            worker_id=self.id,
            lease_expires_at=ClockTimestamp() + LEASE_FOR,
            attempt=F("attempt") + 1,
            attempted_at=ClockTimestamp(),
            started_at=Coalesce("started_at", ClockTimestamp()),
        )
        if not claimed:
            return None
        columns = self.row(*ClaimedJob._fields)
        empty = {name: columns[name] or None for name in ("kwargs", "errors")}
        return self._run_of(ClaimedJob(**{**columns, **empty, "id": str(columns["id"])}), time.monotonic())


def _add_nothing(*_: Any) -> None:
    """Stands for Background.add()."""


def _end_leases() -> None:
    """Of the limiters, locks and computations that the killed run held: those are over before a rescue, too."""
    for alias in connections:
        for model, column in LEASES if connections[alias].vendor == "postgresql" else ():
            if router.allow_migrate_model(alias, model) and connections[alias].in_atomic_block:
                rows = model.objects.using(alias).filter(**{f"{column}__gt": ClockTimestamp()})
                with (
                    suppress(ProgrammingError),
                    transaction.atomic(using=alias),
                ):  # there may be no such table
                    rows.update(**{column: ClockTimestamp()})


@contextmanager
def _test_transaction(alias: str) -> Iterator[None]:
    """Everything that is written in the block is rolled back at its end."""
    block: Any = transaction.atomic(using=alias)
    block._from_testcase = True  # noqa: SLF001 - what Django's TestCase does, and what the cache looks for
    with block:
        try:
            yield
        finally:
            transaction.set_rollback(True, using=alias)


def _execute(alias: str, sql: str) -> None:
    """No query that a test counts."""
    with closing(connections[alias].connection.cursor()) as cursor:
        cursor.execute(sql)


def _counted(rounds: Rounds, call: str, holder: Any, name: str) -> Any:
    declared = inspect.getattr_static(holder, name)
    wrapped = counting(lambda: rounds.watch, call, getattr(holder, name))
    return type(declared)(wrapped) if isinstance(declared, staticmethod | classmethod) else wrapped


def _where(kill: Kill) -> str:
    unsaved = kill.place.unsaved
    if kill.pace == 1:
        return kill.place.where
    items = "item" if unsaved == 1 else "items"
    return f"{kill.place.where}, with {unsaved} {items} of a loop done since its position was saved"


def _is_of_project(label: str) -> bool:
    return not label.startswith((JOBS, CACHE))


def _unsteady_result(one: Any, two: Any) -> set[str] | None:
    """The keys of a result that differ between two runs without a kill; None where all of it may."""
    if isinstance(one, dict) and isinstance(two, dict) and one.keys() == two.keys():
        return {name for name in one if one[name] != two[name]}
    return set() if one == two else None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= RESULT_LENGTH else f"{text[:RESULT_LENGTH]}..."
