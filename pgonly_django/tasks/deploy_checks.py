"""Further system checks: whether the modules of tasks can be imported and aliases are free, whether the names of queues
are known; and for `check --deploy` whether the unfinished jobs that are stored can run with this code. A worker would
put them off for an hour, and then fail them."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import psycopg
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.utils.module_loading import import_string

from pgonly_django.compat import InvalidTask
from pgonly_django.conf import settings
from pgonly_django.database import testrun
from pgonly_django.exceptions import WrongArgumentsError
from pgonly_django.queue.known_names import StoredCall, stored_calls
from pgonly_django.tasks.arguments import call_signature
from pgonly_django.tasks.backend import our_backends
from pgonly_django.tasks.failures import dead_letter_tasks
from pgonly_django.tasks.options import restored
from pgonly_django.tasks.registry import (
    UnknownTaskError,
    backend_of,
    claimed,
    import_task,
    import_tasks,
    imported,
    is_another_task,
    with_fields,
)

DOCS = "See docs/how-to/releases.md#check---deploy."
TASKS_AT_MOST = 50
REASON_AT_MOST = 500
ARGUMENTS_AT_MOST = 1000  # no function has this many parameters
RENAMED = (
    'If it was renamed or moved, give the task aliases=["{path}"]. If it was removed, bring it back, or cancel its '
    "jobs: manage.py pgonly_jobs cancel --task {path}{database}."
)
BROKEN = "Fix the import of its module, in the environment in which the workers run."
HOW_TO_FIT = "Give new parameters a default, and keep those that stored jobs pass, until these jobs have run."
BACKEND = "Keep the entry in TASKS until these jobs have run."
BACKOFF = "Keep the function at that path until these jobs have run."
LATE = "Import it in the `tasks` module of an app, or in AppConfig.ready()."


def check_task_modules(**_: object) -> list[checks.CheckMessage]:
    """E503: a module of tasks cannot be imported. E502: an alias is another task."""
    found: list[checks.CheckMessage] = [
        checks.Error(
            f"{path} cannot be imported: {reason}",
            hint=f"Its jobs would not run. {DOCS}",
            id="pgonly_django.E503",
        )
        for path, reason in import_tasks().items()
    ]
    for alias, task in sorted(claimed().items()):
        if problem := _what_is_wrong(alias, task):
            found.append(checks.Error(problem, hint=DOCS, id="pgonly_django.E502"))
    return found


def _what_is_wrong(alias: str, task: Any) -> str:
    try:
        found = import_string(alias)
    except InvalidTask as error:  # the task at that path, which is imported only now
        return str(error)
    except (Exception, SystemExit):  # noqa: BLE001 - as it should be: the path is gone
        return ""
    if not is_another_task(found, task):
        return ""
    return f"{task.module_path} has the alias {alias!r}, which is another task: its jobs run that one."


def check_names_of_queues(**_: object) -> list[checks.CheckMessage]:
    """W003: PGONLY["QUEUES"] has a name that no entry of TASKS allows. Where one allows every name, all are right."""
    try:
        limited = settings().queues
    except ImproperlyConfigured:  # E001 says so
        return []
    allowed = [backend.queues for backend in our_backends()]
    if not allowed or not all(allowed):
        return []
    known = sorted(set().union(*allowed))
    lack = f'which no "QUEUES" of TASKS has ({", ".join(known)}): no job can be in it.'
    remedy = 'Add the name to "QUEUES" of TASKS, or take it out here.'
    found: list[checks.CheckMessage] = []
    for name in map(str, limited):
        if name in (*known, *dead_letter_tasks()):  # E010 is for those of dead letters
            continue
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"Did you mean {near[0]!r}?" if near else remedy
        message = f'PGONLY["QUEUES"] has {name!r}, {lack}'
        found.append(checks.Warning(message, hint=hint, id="pgonly_django.W003"))
    return found


class Problem(NamedTuple):
    reason: str
    remedy: str


@dataclass(slots=True)
class TaskJobs:
    """The unfinished jobs of one task: how many, how many of them cannot run, and why the first of those cannot."""

    path: str
    jobs: int = 0
    stuck: int = 0
    problem: Problem | None = None


def check_stored_jobs(**_: object) -> list[checks.CheckMessage]:
    """E501: jobs that cannot run. W501: the database was not asked. W502: not all jobs were looked at."""
    import_tasks()
    aliases = frozenset(claimed())  # before the jobs themselves lead to the modules of their tasks
    databases = dict.fromkeys(backend.database for backend in our_backends())
    return [
        message
        for alias in databases  # E003 and E004 say what is wrong with the others
        if alias in connections and connections[alias].vendor == "postgresql"
        for message in _check_database(alias, aliases)
    ]


def _check_database(alias: str, aliases: Collection[str]) -> Iterator[checks.CheckMessage]:
    try:
        stored = stored_calls(alias)
    except testrun.Refusal:  # in a test that may not use the database
        return
    except (psycopg.Error, ImproperlyConfigured) as error:
        message = f"The stored jobs of the database {alias!r} were not looked at: {str(error).strip()}"
        hint = f"Run this check where the database can be reached, after `migrate`. {DOCS}"
        yield checks.Warning(message, hint=hint, id="pgonly_django.W501")
        return
    yield from _errors(alias, stored.calls, aliases)
    if stored.left_out:
        message = f"Not all unfinished jobs of the database {alias!r} were looked at: {stored.left_out}."
        hint = f"There may be more than was found. {DOCS}"
        yield checks.Warning(message, hint=hint, id="pgonly_django.W502")


def _errors(
    alias: str, calls: Iterable[StoredCall], aliases: Collection[str]
) -> Iterator[checks.CheckMessage]:
    tasks: dict[str, TaskJobs] = {}
    for call in calls:
        of_task = tasks.setdefault(call.task, TaskJobs(call.task))
        of_task.jobs += call.jobs
        if problem := _why_not(call, aliases):
            of_task.problem = of_task.problem or problem
            of_task.stuck += call.jobs
    stuck = sorted((each for each in tasks.values() if each.stuck), key=lambda each: (-each.stuck, each.path))
    for each in stuck[:TASKS_AT_MOST]:
        path = each.path if each.path.isprintable() else repr(each.path)
        number = f"{each.jobs:,}" if each.stuck == each.jobs else f"{each.stuck:,} of the {each.jobs:,}"
        which = f"unfinished {'job' if each.jobs == 1 else 'jobs'} of {path} in the database {alias!r}"
        assert each.problem is not None
        message = f"{number} {which} cannot run with this code. {each.problem.reason[:REASON_AT_MOST]}"
        database = "" if alias == "default" else f" --database {alias}"
        hint = f"{each.problem.remedy.format(path=path, database=database)} {DOCS}"
        yield checks.Error(message, hint=hint, id="pgonly_django.E501")
    if rest := stuck[TASKS_AT_MOST:]:
        jobs = sum(each.stuck for each in rest)
        message = f"{jobs:,} unfinished jobs of {len(rest):,} more tasks in the database {alias!r} cannot run either."
        yield checks.Error(message, hint=DOCS, id="pgonly_django.E501")


def _why_not(call: StoredCall, aliases: Collection[str]) -> Problem | None:
    """Returns why these jobs cannot run, as a worker would find out."""
    try:
        task = import_task(call.task)
    except UnknownTaskError as error:
        return Problem(str(error), RENAMED if _is_gone(call.task, error.__cause__) else BROKEN)
    if call.task in claimed() and call.task not in aliases and imported(call.task) is None:
        reason = f"It is an alias of {task.module_path}, whose module a worker would not import for them."
        return Problem(reason, LATE)
    try:
        backend_of(with_fields(task, backend=call.backend))
    except UnknownTaskError as error:
        return Problem(str(error), BACKEND)
    return _what_is_wrong_with_backoff(call) or _what_is_wrong_with_arguments(call, task)


def _is_gone(path: str, error: BaseException | None) -> bool:
    """Returns whether nothing is at the path. Otherwise its module exists, and fails while it is imported."""
    if isinstance(error, ModuleNotFoundError):
        return f"{path}.".startswith(f"{error.name}.")
    return error is None or (isinstance(error, ImportError) and error.name is None)  # import_string()'s own


def _what_is_wrong_with_backoff(call: StoredCall) -> Problem | None:
    try:
        restored({"backoff": call.backoff} if call.backoff else None)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a module may fail with anything while it is imported
        return Problem(f"Their own backoff {call.backoff} cannot be imported: {error}", BACKOFF)
    return None


def _what_is_wrong_with_arguments(call: StoredCall, task: Any) -> Problem | None:
    positional = [None] * min(call.positional, ARGUMENTS_AT_MOST)
    try:
        call_signature(task.func, task.takes_context).check(positional, dict.fromkeys(call.names))
    except WrongArgumentsError as error:
        return Problem(str(error), HOW_TO_FIT)
    return None
