"""The system check W004: a template has the tag job_progress, and the URLs that it asks are not there."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from django.core import checks
from django.template import engines
from django.template.backends.django import DjangoTemplates
from django.urls import NoReverseMatch, reverse

TAG = "{% job_progress "
FILES_AT_MOST = 5000
NOT_THE_PROJECTS = ("site-packages", "dist-packages", "node_modules")
HINT = 'Add path("pgonly/", include("pgonly_django.urls")) to your urlpatterns. See docs/how-to/progress.md#on-a-page.'


def check_urls(**_: object) -> list[checks.CheckMessage]:
    """A warning, since an app may bring templates that the site does not use. Reads them only where the URLs are
    missing."""
    try:
        reverse("pgonly:progress")
    except NoReverseMatch:
        users = [str(file) for file in islice(_templates(), FILES_AT_MOST) if _has_tag(file)]
    except Exception:  # noqa: BLE001 - of the URLconf, which Django's own checks report
        return []
    else:
        return []
    message = "has the tag job_progress, and the URLs that it asks are not in your URLconf."
    return [checks.Warning(f"{users[0]} {message}", hint=HINT, id="pgonly_django.W004")] if users else []


def _templates() -> Iterator[Path]:
    """Of the project, not of what it has installed."""
    for engine in engines.all():
        folders = engine.template_dirs if isinstance(engine, DjangoTemplates) else ()
        for folder in map(Path, folders):
            if not set(NOT_THE_PROJECTS) & set(folder.parts):
                yield from folder.rglob("*.html")


def _has_tag(file: Path) -> bool:
    try:
        return TAG in file.read_text(errors="replace")
    except OSError:
        return False
