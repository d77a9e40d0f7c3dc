"""Imports the modules in which tasks are declared: `tasks` of each installed app, as Celery does."""

from __future__ import annotations

import importlib
import logging

from django.apps import apps
from django.utils.module_loading import module_has_submodule

from pgonly_django.events import emit

MODULE = "tasks"


def import_tasks() -> None:
    """A module that cannot be imported is logged. It keeps no other app's schedules from being known."""
    for app in apps.get_app_configs():
        if app.module is None or not module_has_submodule(app.module, MODULE):
            continue
        path = f"{app.name}.{MODULE}"
        try:
            importlib.import_module(path)
        except BaseException as error:  # noqa: BLE001 - a module may fail with anything while it is imported
            message = f"{path} cannot be imported, so its schedules are unknown here: {type(error).__name__}: {error}"
            emit("scheduling.module_not_imported", message, level=logging.ERROR, module=path)
