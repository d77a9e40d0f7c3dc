"""Sessions in the admin: found by user and address, and revoked. Their data need a separate permission."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext, suppress
from datetime import date, timedelta
from decimal import Decimal
from typing import Any, ClassVar
from uuid import UUID

from django.contrib import admin, messages
from django.contrib.auth import get_user_model
from django.core.exceptions import ValidationError
from django.db import OperationalError, connections
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.timezone import now
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from pgonly_django.admin import formats
from pgonly_django.admin.paging import TimedChangeList
from pgonly_django.admin.verbs import Verb, VerbAdmin
from pgonly_django.conf import settings
from pgonly_django.database.on_django import time_limit, timed_out
from pgonly_django.masking import masked
from pgonly_django.models import Session
from pgonly_django.models.session import ACTIVE
from pgonly_django.sessions import SessionStore
from pgonly_django.sessions.devices import device_name
from pgonly_django.sessions.revoke import revoke_for, revoke_users_for

VIEW_DATA = "pgonly_django.view_session_data"
WORDS_AT_MOST = 5  # each is looked for among the users
USERS_FOUND = 1_000
FIND_LIMIT = timedelta(seconds=1)


def _revoke_users(request: HttpRequest, sessions: Any) -> int:
    users = sessions.filter(user_id__isnull=False).values_list("user_id", flat=True).distinct()
    return revoke_users_for(request, list(users))


REVOKE = Verb(
    name="revoke",
    method=revoke_for,
    label=gettext_lazy("Revoke"),
    hint=gettext_lazy("Its browser is logged out at its next request."),
    logged=gettext_lazy("Revoked."),
    allowed=Q(data__isnull=False),
    allows=lambda session: not session.is_ended,
)
REVOKE_USER = Verb(
    name="revoke_user",
    method=_revoke_users,
    label=gettext_lazy("Revoke all of this user"),
    hint=gettext_lazy("Every session in which this user is logged in ends."),
    logged=gettext_lazy("Revoked, with all sessions of its user."),
    allowed=Q(user_id__isnull=False),
    allows=lambda session: session.user_id is not None,
)


def user_names(user_ids: Iterable[str]) -> dict[str, str]:
    """Returns login names by the text of the primary key, which is all that a session has of its user. Deleted users
    are left out."""
    primary_key = get_user_model()._meta.pk  # noqa: SLF001 - documented under this name
    keys = []
    for user_id in user_ids:
        with suppress(ValidationError):
            keys.append(primary_key.to_python(user_id))
    users = get_user_model()._default_manager.in_bulk(keys)  # noqa: SLF001 - documented
    return {primary_key.value_to_string(user): user.get_username() for user in users.values()}


def user_ids_like(word: str) -> list[str]:
    """Returns the primary keys, as text, of up to 1,000 users whose login name contains `word`. Raises OperationalError
    where that takes too long (see timed_out())."""
    model = get_user_model()
    named = {f"{model.USERNAME_FIELD}__icontains": word}
    keys = model._default_manager.filter(**named).values_list("pk", flat=True)  # noqa: SLF001 - documented
    is_ours = connections[keys.db].vendor == "postgresql"  # users may be in another database
    with time_limit(keys.db, FIND_LIMIT) if is_ours else nullcontext():
        found = list(keys[:USERS_FOUND])
    return [str(key) for key in found]


@admin.display(description=gettext_lazy("state"))
def state_badge(session: Any) -> SafeString:
    if session.is_ended:
        return formats.badge("stopped", _("Ended"), _("The row keeps it from coming back."))
    if session.expires_at > now():
        return formats.badge("live", _("Active"))
    return formats.badge("expired", _("Expired"))


@admin.display(description=gettext_lazy("user"))
def user(session: Any) -> str:
    return str(session.user_name or _("visitor"))


@admin.display(description=gettext_lazy("device and address"))
def device(session: Any) -> SafeString:
    html = '<span title="{}">{}</span><span class="pgonly-second pgonly-whole">{}</span>'
    return format_html(html, session.user_agent, device_name(session.user_agent), session.ip or "")


@admin.display(description=gettext_lazy("created"))
def created(session: Any) -> SafeString:
    return formats.ago(session.created_at)


@admin.display(description=gettext_lazy("last seen"))
def last_seen(session: Any) -> str:
    return "-" if session.last_seen_at is None else formats.ago(session.last_seen_at)


@admin.display(description=gettext_lazy("expires"))
def expires(session: Any) -> SafeString:
    return formats.until(session.expires_at, _("%s ago"))


@admin.display(description=gettext_lazy("data"))
def decoded_data(session: Any) -> SafeString:
    data, _entries = SessionStore().codec.decode(session.data or {})
    hidden = masked(data, settings().session_masked_keys)
    return formats.json_block(hidden, default=_as_text, skipkeys=True)


def _as_text(value: Any) -> str:
    """Returns a text for values that JSON does not have. For an object it is only the type: its repr() may name
    secrets."""
    return str(value) if isinstance(value, (date, Decimal, UUID)) else f"<{type(value).__name__}>"


class SessionStateFilter(admin.SimpleListFilter):
    title = gettext_lazy("state")
    parameter_name = "state"

    def lookups(self, *_args: Any) -> list[tuple[str, Any]]:
        return [("active", _("Active")), ("over", _("Expired or ended"))]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        if self.value() == "active":
            return queryset.active()
        return queryset.exclude(ACTIVE) if self.value() == "over" else queryset


class SessionChangeList(TimedChangeList):
    """The list of sessions, which does not read their data."""

    def get_queryset(self, request: HttpRequest, exclude_parameters: Any = None) -> Any:
        return super().get_queryset(request, exclude_parameters).defer("data")

    def get_ordering(self, request: HttpRequest, queryset: QuerySet[Session]) -> list[Any]:
        """Orders a search without an index: it mostly finds few, and PostgreSQL would look for them hour by hour, and
        so read all sessions. At once that takes a third of the time."""
        return ["-expires_at", "-pk"] if self.query else list(super().get_ordering(request, queryset))


@admin.register(Session)
class SessionAdmin(VerbAdmin):
    list_display = (state_badge, user, device, last_seen, expires)
    list_display_links = (state_badge, user)
    list_filter = (SessionStateFilter, "last_seen_at")
    search_fields = ("user_id",)  # shows the box; get_search_results does the search
    search_help_text = gettext_lazy("User name, user id, IP address or its beginning")
    sortable_by = ()
    # In fact by `expires_at`. Its hour has an index, so PostgreSQL sorts the sessions of one hour and not all.
    ordering = ("-expires_hour", "-expires_at")
    verbs = (REVOKE, REVOKE_USER)
    actions = ("delete_selected",)  # in the place of Django's action of this name
    fields: ClassVar[Any] = (user, device, "user_agent", created, last_seen, expires)

    def has_operate_permission(self, request: HttpRequest) -> bool:
        """Returns the permission to delete: revoking a session deletes it."""
        return self.has_delete_permission(request)

    def get_fields(self, request: HttpRequest, obj: Session | None = None) -> Any:
        shown = super().get_fields(request, obj)
        return (*shown, decoded_data) if request.user.has_perm(VIEW_DATA) else shown

    def get_readonly_fields(self, request: HttpRequest, obj: Session | None = None) -> Any:
        return self.get_fields(request, obj)

    def get_queryset(self, request: HttpRequest) -> Any:
        """Leaves out the rows that only keep sessions of the previous engine out: none of them was a session here."""
        sessions = super().get_queryset(request).exclude(data__isnull=True, last_seen_at=None)
        return sessions.annotate(is_ended=Q(data__isnull=True))

    def get_changelist(self, request: HttpRequest, **_kwargs: Any) -> type[SessionChangeList]:
        return SessionChangeList

    def prepare_rows(self, request: HttpRequest, rows: list[Any]) -> None:
        """Adds `user_name` to each; "" for a visitor's."""
        names = user_names({session.user_id for session in rows if session.user_id})
        for session in rows:
            session.user_name = names.get(session.user_id, session.user_id or "")

    def get_search_results(self, request: HttpRequest, queryset: QuerySet[Session], search_term: str) -> Any:
        words = search_term.split()
        if len(words) > WORDS_AT_MOST:
            self._warn(request, _("Search for five words at most."))
            return queryset.none(), False
        for word in words:
            users = self._users_like(request, word)
            queryset = queryset.filter(
                Q(user_id=word) | Q(user_id__in=users) | Q(ip__startswith=word.lower())
            )
        return queryset, False

    def _users_like(self, request: HttpRequest, word: str) -> list[str]:
        try:
            return user_ids_like(word)
        except OperationalError as error:
            if not timed_out(error):
                raise
        text = _("Finding users by their names took too long. Only ids of users and addresses were searched.")
        self._warn(request, text)
        return []

    def _warn(self, request: HttpRequest, text: Any) -> None:
        """Adds a message, but not for live.js, whose page shows none: it would be lost to the window that has asked."""
        if "X-Pgonly-Live" not in request.headers:
            self.message_user(request, text, messages.WARNING)

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        """Refuses filters on the data of a session: by trying values, they would reveal it letter by letter."""
        return not lookup.startswith("data") and super().lookup_allowed(lookup, value, request)

    @admin.action(description=gettext_lazy("Revoke the selected sessions"), permissions=["delete"])
    def delete_selected(self, request: HttpRequest, queryset: QuerySet[Session]) -> None:
        keys = queryset.order_by().values("pk")  # not a list: "all" may be a million
        REVOKE.use_on_all(self, request, Session.objects.filter(pk__in=keys))

    def delete_model(self, request: HttpRequest, obj: Session) -> None:
        revoke_for(request, Session.objects.filter(pk=obj.pk))

    def page_of(self, request: HttpRequest, row: Session) -> dict[str, Any]:
        self.prepare_rows(request, [row])
        return {
            "heading": _("Session of %s") % user(row),
            "state_badge": state_badge(row),
            "show_delete": False,  # it is revoked by a button
        }
