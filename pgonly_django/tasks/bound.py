"""Calls that are not made yet: those of a batch or of gather(), and the job that follows another one.

`a.using(then=b.bind(RESULT))` stores the job of the second call, as the INSERT needs it, in the row of the first: its
end enqueues the second job without asking the code of a task, which may be another one by then.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from django.utils.dateparse import parse_duration
from django.utils.duration import duration_iso_string

from pgonly_django.exceptions import OptionError
from pgonly_django.queue.carried import texts_of, values_of
from pgonly_django.queue.enqueue import TEMPLATE_COLUMNS, NewJob, Template, Unique
from pgonly_django.queue.values import to_json
from pgonly_django.tasks.arguments import refuse_long

DURATIONS = ("max_runtime", "retention", "failed_retention")


if TYPE_CHECKING:
    RESULT: Any
else:

    class RESULT:
        """Stands, as an argument of a task's `bind()`, for what the job before it has returned:
        `load.using(then=send.bind(RESULT))`."""


class BoundCall(NamedTuple):
    """A task with the arguments of one call, as its bind() makes it. enqueue_many() takes it, too."""

    task: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def __hash__(self) -> int:
        return hash(self.task)  # tasks are hashable, also one that has this as its `then`

    def new_job(self) -> NewJob:
        """Returns the job of the call, which is not written. Raises as enqueue() does."""
        new: NewJob
        ((_, new),) = self.task.get_backend().prepare_many([(*self, None)])
        return new

    def with_result(self, value: Any) -> BoundCall:
        """Returns the same call with `value` in the place of RESULT."""
        args = tuple(value if each is RESULT else each for each in self.args)
        kwargs = {name: value if each is RESULT else each for name, each in self.kwargs.items()}
        return self._replace(args=args, kwargs=kwargs)


def carried_by(task: Any, database: str) -> dict[str, str] | None:
    """Returns what the jobs of the task carry, in this database. Raises as stored()."""
    chosen = dict(getattr(task, "carried", ()))
    return {n: stored(v, database) if isinstance(v, BoundCall) else v for n, v in chosen.items()} or None


def stored(call: BoundCall, database: str) -> str:
    """Returns the job of the call as JSON, for the column then_job of a job in this database. Raises as enqueue() does,
    and OptionError where the job would be in another database, or has a key that depends on RESULT."""
    what = f"The job after it, {call.task.module_path},"
    if getattr(call.task.get_backend(), "database", None) != database:
        raise OptionError(f"{what} must be in the same database, {database!r}: one transaction writes both.")
    arguments = (*enumerate(call.args), *call.kwargs.items())
    result_at = [place for place, value in arguments if value is RESULT]
    new = call.with_result(None).new_job()
    if result_at and (new.more or new.unique):
        other = call.with_result("another").new_job()
        if (new.more, new.unique) != (other.more, other.unique):
            raise OptionError(f"{what} has a key that depends on RESULT, which is not known before.")
    row = {name: _plain(getattr(new.template, name)) for name in TEMPLATE_COLUMNS}
    row |= {"args": json.loads(new.args), "kwargs": json.loads(new.kwargs), "result_at": result_at}
    row |= {"own": values_of(new.more), "unique": new.unique and [*map(_plain, new.unique)]}
    return to_json({name: value for name, value in row.items() if value is not None}, what)


def next_job(row: Mapping[str, Any], result: str | None, of: str) -> NewJob:
    """Returns the stored job with `result`, which is JSON, in the place of RESULT. `of`: the task that has returned it.
    Raises NotStorableError where the arguments are too large with it."""
    args, kwargs = list(row["args"]), dict(row["kwargs"])
    for place in row["result_at"]:
        values: Any = kwargs if isinstance(place, str) else args
        values[place] = json.loads(result or "null")
    what = f"The return value of {of}, as an argument of {row['task']}"
    texts = to_json(args, what), to_json(kwargs, what)
    refuse_long(texts, what)
    return NewJob(_template(row), *texts, texts_of(row["own"]), _unique(row.get("unique")))


def _template(row: Mapping[str, Any]) -> Template:
    columns = {name: row[name] for name in TEMPLATE_COLUMNS if name in row}
    columns |= {name: parse_duration(columns[name]) for name in DURATIONS if name in columns}
    if "run_at" in columns:
        columns["run_at"] = datetime.fromisoformat(columns["run_at"])
    return Template(**columns)


def _unique(stored: list[Any] | None) -> Unique | None:
    if stored is None:
        return None
    key, until, *durations = stored
    return Unique(key, until, *(each and parse_duration(each) for each in durations))


def _plain(value: Any) -> Any:
    """Returns the value as JSON has it."""
    if isinstance(value, timedelta):
        return duration_iso_string(value)
    return value.isoformat() if isinstance(value, datetime) else value
