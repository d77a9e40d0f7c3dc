"""allauth.usersessions has a table of its own with the key of each session as it is in the cookie."""

from __future__ import annotations

from typing import Any

from django.apps import apps
from django.conf import settings
from django.core import checks

OURS = "pgonly_django.sessions"


def check_usersessions(**_: Any) -> list[checks.CheckMessage]:
    """W072: the keys that our table has only as hashes are stored in plain text beside it."""
    if not apps.is_installed("allauth.usersessions") or settings.SESSION_ENGINE != OURS:
        return []
    message = (
        "allauth.usersessions stores the keys of sessions as they are in the cookies: "
        "a leaked database logs in everyone who is in that table."
    )
    hint = (
        "The devices page of pgonly_django lists and ends sessions without storing keys "
        "(docs/how-to/sessions.md): remove allauth.usersessions, or silence this."
    )
    return [checks.Warning(message, hint=hint, id="pgonly_django.W072")]
