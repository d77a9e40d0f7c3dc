"""`manage.py check --deploy`: whether the modules of tasks can be imported, and whether aliases are free."""

from __future__ import annotations

from typing import Any

from django.core import checks
from django.utils.module_loading import import_string

from pgonly_django.compat import InvalidTask
from pgonly_django.tasks.aliases import claimed, is_another_task
from pgonly_django.tasks.discovery import import_tasks

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
