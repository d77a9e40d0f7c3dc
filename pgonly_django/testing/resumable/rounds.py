"""The rounds: two undisturbed runs, then for each kill a run that dies and one that resumes."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from django.db import connections

from pgonly_django.models.job import State
from pgonly_django.testing.resumable.choices import (
    Choices,
    require_picklable,
    settings_changed_by_test,
    settings_module,
)
from pgonly_django.testing.resumable.comparison import Comparison, calls_differ
from pgonly_django.testing.resumable.databases import Databases
from pgonly_django.testing.resumable.errors import NotResumableError, NotTestableError
from pgonly_django.testing.resumable.orders import Ended, Modules, Order, Setup
from pgonly_django.testing.resumable.processes import child_for
from pgonly_django.testing.resumable.rows import JOBS, Reader, Rows, job_row, normal
from pgonly_django.testing.resumable.saves import read_marks

STEADY = "Compare what is the same in each run with state=, or leave out what is not with ignore=."
RESULT_LENGTH = 300


@dataclass(frozen=True)
class ResumableReport:
    """What assert_resumable() has done."""

    saves: tuple[str, ...]  # where the job can be killed
    killed_at: tuple[int, ...]  # their numbers, from 1
    calls: dict[str, int]  # of each step, and of each function in `paid`
    not_compared: tuple[str, ...]  # what two undisturbed runs differ in


@dataclass(frozen=True)
class Round:
    """What one run, or a killed one and the one that resumed it, has left."""

    marks: list[dict[str, Any]]
    under_way: Counter[str]  # calls that the kill has cut off
    result: Any
    rows: Rows
    state: Any

    @property
    def calls(self) -> Counter[str]:
        return Counter(mark["began"] for mark in self.marks if "began" in mark)

    @property
    def saves(self) -> list[str]:
        return [mark["where"] for mark in self.marks if "where" in mark]


class Rounds:
    """Use begin()."""

    def __init__(
        self, choices: Choices, databases: Databases, template: dict[str, str], folder: Path
    ) -> None:
        self._choices, self._databases, self._template = choices, databases, template
        self._marks = folder / "marks"
        self._job_id = self._enqueue()
        self._child = child_for(self._child_setup())
        self._reader = Reader(databases, template, choices.alias)
        models, fields, self._ignores_result = choices.ignored
        self._comparison = Comparison(self._reader.read(template), models, fields)
        self._unsteady_result: set[str] | None = set()  # keys of it; None: all of it

    @classmethod
    @contextmanager
    def begin(cls, choices: Choices) -> Iterator[Rounds]:
        """With a copy of the test database, in which the job is enqueued, and a child process."""
        with ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="pgonly-resumable-"))
            databases = Databases()
            template = stack.enter_context(databases.template())
            yield cls(choices, databases, template, Path(folder))

    def report(self) -> ResumableReport:
        """Do all rounds. Raises NotResumableError for the first kill after which something differs."""
        expected, again = self._undisturbed(), self._undisturbed()
        self._learn_what_is_unsteady(expected, again)
        saves = expected.saves
        kills = self._choices.kills(len(saves))
        for number in kills:
            self._kill_and_compare(number, expected)
        return ResumableReport(tuple(saves), tuple(kills), dict(expected.calls), tuple(self._not_compared()))

    def _kill_and_compare(self, number: int, expected: Round) -> None:
        total = len(expected.saves)
        with self._databases.copy(self._template) as names:
            ended = self._run(names, kill_at=number)
            killed = self._read_marks()
            where = next((mark["where"] for mark in killed if mark.get("save") == number), None)
            if where is None:
                raise NotTestableError(
                    f"{self._name} had {total} saves in one run, and another one ended before save {number}"
                    f"{self._how(ended)}. It has to do the same in each run.{self._child.printed}"
                )
            when = f"{self._name} is not resumable. It was killed {where} (save {number} of {total}), and resumed."
            ended = self._run(names)
            self._require_success(names, ended, f"{when}\nThe resumed run", NotResumableError)
            got = self._round(names, killed)
        if found := self._differences(expected, got):
            points = "\n".join(f"* {each}" for each in found)
            raise NotResumableError(f"{when}\n{points}")

    def _undisturbed(self) -> Round:
        with self._databases.copy(self._template) as names:
            ended = self._run(names)
            self._require_success(names, ended, f"{self._name}, undisturbed,", NotTestableError)
            return self._round(names, [])

    def _learn_what_is_unsteady(self, one: Round, two: Round) -> None:
        """Raises where two undisturbed runs differ in something that cannot be left out."""
        only_one, only_two = sorted(set(one.calls) - set(two.calls)), sorted(set(two.calls) - set(one.calls))
        if only_one and only_two:
            raise NotResumableError(
                f"The steps of {self._name} have other names in each run ({only_one[0]}, {only_two[0]}): a resumed run "
                "cannot find what was paid for. Name them after what they work on."
            )
        if said := calls_differ(one.calls, two.calls, Counter()):
            raise NotTestableError(
                f"Two undisturbed runs of {self._name} differ. {' '.join(said)} Something outside of the database was "
                "kept from the first run: a file, another cache. Reset it in setup=."
            )
        unsteady = self._comparison.unsteady_fields(one.rows, two.rows)
        self._comparison = replace(self._comparison, unsteady=unsteady)
        self._unsteady_result = _unsteady_result(one.result, two.result)
        if said := self._differences(one, two):
            raise NotTestableError(f"Two undisturbed runs of {self._name} differ. {' '.join(said)} {STEADY}")

    def _differences(self, expected: Round, got: Round) -> list[str]:
        said = calls_differ(expected.calls, got.calls, got.under_way)
        wanted, found = (self._steady(each.result) for each in (expected, got))
        if wanted != found and not self._ignores_result:
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

    def _enqueue(self) -> str:
        choices = self._choices
        with self._databases.inside(self._template):
            return str(choices.task.enqueue(*choices.args, **choices.kwargs).id)

    def _child_setup(self) -> Setup:
        of_test = {alias: self._databases.settings_for(alias, self._template) for alias in connections}
        for alias, settings in of_test.items():
            require_picklable(f"DATABASES[{alias!r}]", settings)
        return Setup(settings_module(), settings_changed_by_test(), of_test)

    def _run(self, names: dict[str, str], kill_at: int | None = None) -> Ended:
        self._marks.unlink(missing_ok=True)
        choices = self._choices
        order = Order(
            names, choices.alias, self._job_id, kill_at, str(self._marks), choices.timeout,
            choices.setup_path, choices.paid_paths,
        )  # fmt: skip
        return self._child.run(order, Modules(choices.modules))

    def _read_marks(self) -> list[dict[str, Any]]:
        return read_marks(str(self._marks))

    def _round(self, names: dict[str, str], killed: list[dict[str, Any]]) -> Round:
        began = Counter(mark["began"] for mark in killed if "began" in mark)
        ended = Counter(mark["ended"] for mark in killed if "ended" in mark)
        result = normal(job_row(self._choices.alias, names[self._choices.alias], self._job_id)["result"])
        marks = killed + self._read_marks()
        rows, state = self._reader.read(names), None
        if self._choices.state is not None:
            rows = {label: own for label, own in rows.items() if label == JOBS}
            with self._databases.inside(names):
                state = self._choices.state()
        return Round(marks, began - ended, result, rows, state)

    def _require_success(
        self, names: dict[str, str], ended: Ended, what: str, error: type[AssertionError]
    ) -> None:
        if ended.code != 0:
            raise error(f"{what}{self._how(ended)}.{self._child.printed}")
        job = job_row(self._choices.alias, names[self._choices.alias], self._job_id)
        if job["state"] != State.SUCCEEDED:
            last = job["errors"][-1] if job["errors"] else {}
            reason = last.get("traceback") or last.get("reason") or ""
            raise error(f"{what} ended as {job['state']}. {reason}".rstrip() + self._child.printed)

    def _how(self, ended: Ended) -> str:
        if ended.timed_out:
            return f" did not end within {self._choices.timeout} s (timeout)"
        return f" ended with exit code {ended.code}" if ended.code else ""

    @property
    def _name(self) -> str:
        name: str = self._choices.task.module_path
        return name


def _unsteady_result(one: Any, two: Any) -> set[str] | None:
    """The keys of a result that differ between two undisturbed runs; None where all of it may."""
    if isinstance(one, dict) and isinstance(two, dict) and one.keys() == two.keys():
        return {name for name in one if one[name] != two[name]}
    return set() if one == two else None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= RESULT_LENGTH else f"{text[:RESULT_LENGTH]}..."
