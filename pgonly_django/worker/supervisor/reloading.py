"""Under --reload the supervisor's process watches the code. It runs no jobs, so it imports little of it by itself."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path
from typing import Any

from django.apps import apps
from django.utils.autoreload import autoreload_started


def watch_apps() -> None:
    """Watch all modules of the project's apps, imported here or in another process."""
    autoreload_started.connect(_watch, dispatch_uid=__name__)


def _watch(sender: Any, **_: Any) -> None:
    installed = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), sys.base_prefix}
    for app in apps.get_app_configs():
        if not any(Path(app.path).is_relative_to(place) for place in installed):
            sender.watch_dir(app.path, "**/*.py")
