"""What a person may do to sessions, in the list and on a session's page."""

from __future__ import annotations

from typing import Any

from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from pgonly_django.admin.verbs import Verb
from pgonly_django.sessions.revoke import revoke_for, revoke_users_for

REVOKE = Verb(
    name="revoke",
    method=revoke_for,
    label=_("Revoke"),
    hint=_("Its browser is logged out at its next request."),
    logged=_("Revoked."),
    allowed=Q(data__isnull=False),
    allows=lambda session: not session.is_ended,
)
REVOKE_USER = Verb(
    name="revoke_user",
    method=lambda request, sessions: revoke_users_for(request, _users_of(sessions)),
    label=_("Revoke all of this user"),
    hint=_("Every session in which this user is logged in ends."),
    logged=_("Revoked, with all sessions of its user."),
    allowed=Q(user_id__isnull=False),
    allows=lambda session: session.user_id is not None,
)


def _users_of(sessions: Any) -> list[str]:
    return list(sessions.filter(user_id__isnull=False).values_list("user_id", flat=True).distinct())
