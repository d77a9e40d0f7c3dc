"""`manage.py check --deploy`: whether the modules of tasks can be imported, and whether aliases are free."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from pgonly_django.compat import InvalidTask
from pgonly_django.conf import settings
from pgonly_django.tasks.aliases import claimed, is_another_task
from pgonly_django.tasks.backend import our_backends
from pgonly_django.tasks.registry import import_tasks

DOCS = "See docs/how-to/rolling_deploys.md#check---deploy."


def check_task_modules(**_: object) -> list[checks.CheckMessage]:
    """E503: a module of tasks that cannot be imported. E502: an alias that is another task."""
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
    return f"{task.module_path} has the alias {alias!r}, which is a task of its own: its jobs run that one."


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
    return [
        _unused(str(name), known)
        for name, entry in limited.items()
        if name not in known and not _is_of_dead_letters(entry)
    ]


def _is_of_dead_letters(entry: object) -> bool:
    """E010 says what is wrong with those."""
    return isinstance(entry, Mapping) and "task" in entry


def _unused(name: str, known: list[str]) -> checks.CheckMessage:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"Did you mean {near[0]!r}?" if near else 'Add the name to "QUEUES" of TASKS, or take it out here.'
    lack = f'which no "QUEUES" of TASKS has ({", ".join(known)}): no job can be in it.'
    return checks.Warning(f'PGONLY["QUEUES"] has {name!r}, {lack}', hint=hint, id="pgonly_django.W003")
