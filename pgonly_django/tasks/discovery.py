"""Imports the modules in which tasks are declared: `tasks` of each installed app, as Celery does."""

from __future__ import annotations

import importlib
import logging
import sys
import time

from django.apps import apps
from django.utils.module_loading import module_has_submodule

from pgonly_django.events import emit

MODULE = "tasks"
TRY_AGAIN_SECONDS = 30.0

# Of modules that could not be imported: why, and when they are tried again, by time.monotonic().
_failures: dict[str, tuple[str, float]] = {}


def import_tasks() -> dict[str, str]:
    """Why which modules cannot be imported. Each is logged once, is tried again by a call that comes 30 s later or
    more, and keeps no other app's tasks from being known. Imports nothing before the apps are loaded."""
    for app in apps.get_app_configs() if apps.ready else ():
        path = f"{app.name}.{MODULE}"
        if path in _failures and time.monotonic() < _failures[path][1]:
            continue
        if path in sys.modules or (app.module is not None and module_has_submodule(app.module, MODULE)):
            _import(path)
    return {path: reason for path, (reason, _) in tuple(_failures.items())}


def _import(path: str) -> None:
    """Waits where another thread is importing the module."""
    try:
        importlib.import_module(path)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a module may fail with anything while it is imported
        reason = f"{type(error).__name__}: {error}"
        message = f"{path} cannot be imported, so its tasks and schedules are unknown here: {reason}"
        if path not in _failures:
            emit("scheduling.module_not_imported", message, level=logging.ERROR, path=path)
        _failures[path] = reason, time.monotonic() + TRY_AGAIN_SECONDS
    else:
        _failures.pop(path, None)
