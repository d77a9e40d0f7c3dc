"""`@cron` and `@every`, which stand above `@task`. They record schedules, of which workers make rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, TypeVar

from pgonly_django.compat import InvalidTask, Task
from pgonly_django.exceptions import OptionError
from pgonly_django.scheduling.declaration import CatchUp, Declaration, Overlap, as_scheduled
from pgonly_django.tasks.arguments import call_signature
from pgonly_django.tasks.registry import first_path

AnyTask = TypeVar("AnyTask", bound="Task[..., Any]")

# By name, with the task that each belongs to.
_declared: dict[str, tuple[Any, Declaration]] = {}


def declarations() -> dict[str, tuple[Any, Declaration]]:
    """Returns the schedules that the decorators of the imported modules declare, by name, each with its task."""
    return dict(_declared)


def cron(
    line: str,
    /,
    *,
    timezone: str | None = None,
    name: str | None = None,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    queue: str | None = None,
    priority: int | None = None,
    catch_up: CatchUp = "latest",
    overlap: Overlap | None = None,
    budget: str | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Callable[[AnyTask], AnyTask]:
    """Enqueues the task at the times of a cron line. It stands above `@task`:

        @cron("0 3 * * *", timezone="Asia/Shanghai")
        @task
        def report(): ...

    `timezone`: TIME_ZONE by default. `name`: the task's path by default, or the first of its aliases; a second schedule
    of a task needs a name. `args`, `kwargs`: the arguments of each call. `queue`, `priority`, `budget`: used instead of
    the task's own. `metadata`: a dict that each job carries. `catch_up`: which of the ticks run that passed while no
    worker ran: "latest", "all" or "none". `overlap`: what a tick does while an earlier run is unfinished: "skip"
    itself, "allow" both runs, or "replace" the earlier one; by default "allow" with catch_up="all", and "skip"
    otherwise.

    Returns a decorator that returns the task. Raises OptionError for a value that an option cannot have,
    WrongArgumentsError for arguments that do not fit the task, and InvalidTask for anything that is not a task.
    """
    call = {"args": args, "kwargs": kwargs, "queue": queue, "priority": priority, "metadata": metadata}
    rules = {"catch_up": catch_up, "overlap": overlap, "budget": budget}
    return _declare("@cron", name, {**call, **rules, "cron": line, "timezone": timezone})


def every(
    interval: timedelta | float,
    /,
    *,
    name: str | None = None,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    queue: str | None = None,
    priority: int | None = None,
    catch_up: CatchUp = "latest",
    overlap: Overlap | None = None,
    budget: str | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Callable[[AnyTask], AnyTask]:
    """Enqueues the task every `interval`, a timedelta or a number of seconds, at least 0.1 s. It stands above `@task`:

        @every(timedelta(minutes=5))
        @task
        def refresh(): ...

    The first tick comes one interval after a worker first saw the schedule. A late run does not delay the later ones.
    The other parameters are those of @cron."""
    call = {"args": args, "kwargs": kwargs, "queue": queue, "priority": priority, "metadata": metadata}
    rules = {"catch_up": catch_up, "overlap": overlap, "budget": budget}
    return _declare("@every", name, {**call, **rules, "every": interval})


def _declare(decorator: str, name: str | None, options: dict[str, Any]) -> Callable[[AnyTask], AnyTask]:
    _refuse_bare(decorator, options.get("cron", options.get("every")))

    def decorate(task: AnyTask) -> AnyTask:
        if not isinstance(task, Task):
            what = getattr(task, "__qualname__", repr(task))
            raise InvalidTask(
                f"{decorator} is for tasks, got {what}. Write @task below it, right above the function."
            )
        where = f"{decorator} {task.func.__qualname__}"
        values = {**options, "kwargs": {} if options["kwargs"] is None else options["kwargs"]}
        declared = Declaration(
            name=first_path(task) if name is None else name, task=task.module_path, **values
        )
        declared.validate(where)
        call_signature(task.func, task.takes_context).check(declared.args, declared.kwargs)
        try:
            as_scheduled(task, declared)
        except (InvalidTask, OptionError) as error:
            raise InvalidTask(f"{where}: {error}") from error
        _note(task, declared, where)
        return task

    return decorate


def _refuse_bare(decorator: str, when: Any) -> None:
    """Raises InvalidTask for a decorator without parentheses, which would take the task for the time."""
    if isinstance(when, Task) or callable(when):
        example = '@cron("0 3 * * *")' if decorator == "@cron" else "@every(timedelta(minutes=5))"
        raise InvalidTask(f"{decorator} needs to know when: write {example} above @task.")


def _note(task: Any, declared: Declaration, where: str) -> None:
    """Records the declaration. If a module is imported again, its declaration is replaced."""
    known = _declared.get(declared.name)
    if known is not None:
        is_same_task = known[1].task == declared.task
        if not is_same_task or known[0].func is task.func:
            other = "this task" if is_same_task else known[1].task
            remedy = "Give each schedule its own name: name=..."
            raise InvalidTask(f"{where}: {other} has a schedule named {declared.name!r} already. {remedy}")
    _declared[declared.name] = (task, declared)
