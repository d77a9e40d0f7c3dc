"""The reviewers by name: "points" and "pico" work offline; "chat:MODEL" asks an OpenAI-compatible API."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from example_project.screening.reviewers.interface import (
    Assignment,
    BusyError,
    Calls,
    Decision,
    Opinion,
    Reviewer,
    Usage,
)
from example_project.screening.reviewers.pico import PicoReviewer
from example_project.screening.reviewers.points import PointsReviewer

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "Assignment",
    "BusyError",
    "Calls",
    "Decision",
    "Opinion",
    "Reviewer",
    "Usage",
    "build_reviewer",
    "configured_names",
]

OFFLINE: dict[str, Callable[[], Reviewer]] = {"points": PointsReviewer, "pico": PicoReviewer}
CHAT_PREFIX = "chat:"


def configured_names() -> list[str]:
    """The names in SCREENING_REVIEWERS. Raises ImproperlyConfigured unless they are two different names."""
    names = list(settings.SCREENING_REVIEWERS)
    if len(names) != 2 or names[0] == names[1]:  # noqa: PLR2004 - agreement is defined for two reviewers
        raise ImproperlyConfigured(f"SCREENING_REVIEWERS must name two different reviewers, got {names!r}.")
    return names


def build_reviewer(name: str) -> Reviewer:
    """Raises ImproperlyConfigured for an unknown name, and for a chat model without an API key."""
    if name in OFFLINE:
        return OFFLINE[name]()
    if name.startswith(CHAT_PREFIX) and name != CHAT_PREFIX:
        # Here, since its HTTP client takes as long to import as half of Django.
        from example_project.screening.reviewers.chat import ChatReviewer

        return ChatReviewer.from_settings(name.removeprefix(CHAT_PREFIX))
    known = ", ".join([*OFFLINE, f"{CHAT_PREFIX}MODEL"])
    raise ImproperlyConfigured(f"There is no reviewer {name!r}. Known are: {known}.")
