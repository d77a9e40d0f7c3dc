"""Who may see a job: the holder of a token that was made for the same user or visitor, less than an hour ago."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.contrib.auth import SESSION_KEY as USER
from django.contrib.auth import get_user
from django.core import signing
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest
from django.utils.crypto import constant_time_compare, get_random_string

SALT = "pgonly_django.progress"
VALID_FOR = timedelta(hours=1)
VISITOR = "_pgonly_visitor"  # a key of the session
NO_OWNER = (
    "job_progress shows a job to its owner alone: it needs a signed-in user, or a session. Add SessionMiddleware to "
    "MIDDLEWARE."
)


class TokenRefusedError(Exception):
    """The token is not valid, too old, or was made for another user."""


@dataclass(frozen=True, slots=True)
class Grant:
    """What a token allows: to see this job, and perhaps to cancel it."""

    backend: str
    job_id: str
    may_cancel: bool = False
    shows_output: bool = False

    def token(self, owner: str) -> str:
        flags = int(self.may_cancel) + 2 * int(self.shows_output)
        return signing.dumps([self.backend, self.job_id, flags, owner], salt=SALT)


def grant_of(token: str, owner: str | None) -> Grant:
    """Raises TokenRefusedError."""
    try:
        backend, job_id, flags, of = signing.loads(token, salt=SALT, max_age=VALID_FOR)
        grant = Grant(str(backend), str(UUID(str(job_id))), bool(flags & 1), bool(flags & 2))
    except (signing.BadSignature, ValueError, TypeError) as error:
        raise TokenRefusedError from error
    if owner is None or not constant_time_compare(str(of), owner):
        raise TokenRefusedError
    return grant


def owner_of(request: HttpRequest, *, make: bool = False) -> str | None:
    """Returns the user, or else the visitor, by the session. `make`: for a new visitor too; raises ImproperlyConfigured
    where there is no session."""
    user: Any = getattr(request, "user", None)
    if user is not None and user.is_authenticated:
        return f"user {user.pk}"
    session: Any = getattr(request, "session", None)
    if session is None:
        if make:
            raise ImproperlyConfigured(NO_OWNER)
        return None
    visitor = session.get(VISITOR)
    if visitor is None and make:
        visitor = session[VISITOR] = get_random_string(32)
    return None if visitor is None else f"visitor {visitor}"


def is_signed_in_still(request: HttpRequest) -> bool:
    """Returns whether the session of this request, read again, is there and has the same user or visitor, who may still
    sign in. Returns True where no session says who it is. Two statements, by primary keys."""
    session: Any = getattr(request, "session", None)
    if session is None or not (USER in session or VISITOR in session):
        return True
    again = HttpRequest()
    again.session = type(session)(session.session_key)
    if any(again.session.get(key) != session.get(key) for key in (USER, VISITOR)):
        return False
    return USER not in session or get_user(again).is_authenticated
