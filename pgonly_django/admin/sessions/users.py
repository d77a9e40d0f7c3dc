"""The users of a page of sessions, whose rows hold the text of a primary key only."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext, suppress
from datetime import timedelta

from django.contrib.auth import get_user_model
from django.core.exceptions import ValidationError
from django.db import connections

from pgonly_django.database.on_django import time_limit

USERS_FOUND = 1_000
FIND_LIMIT = timedelta(seconds=1)


def user_names(user_ids: Iterable[str]) -> dict[str, str]:
    """Login names by the text of the primary key. Deleted users are left out."""
    primary_key = get_user_model()._meta.pk  # noqa: SLF001 - documented under this name
    keys = []
    for user_id in user_ids:
        with suppress(ValidationError):
            keys.append(primary_key.to_python(user_id))
    users = get_user_model()._default_manager.in_bulk(keys)  # noqa: SLF001 - documented
    return {primary_key.value_to_string(user): user.get_username() for user in users.values()}


def user_ids_like(word: str) -> list[str]:
    """Primary keys, as text, of up to 1,000 users whose login name contains `word`. Raises OperationalError where that
    takes too long (see timed_out())."""
    model = get_user_model()
    named = {f"{model.USERNAME_FIELD}__icontains": word}
    keys = model._default_manager.filter(**named).values_list("pk", flat=True)  # noqa: SLF001 - documented
    is_ours = connections[keys.db].vendor == "postgresql"  # users may be in another database
    with time_limit(keys.db, FIND_LIMIT) if is_ours else nullcontext():
        found = list(keys[:USERS_FOUND])
    return [str(key) for key in found]
