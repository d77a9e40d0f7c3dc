from __future__ import annotations

from typing import Any, ClassVar

from django.contrib import admin, messages
from django.db import OperationalError
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from pgonly_django.admin.base import is_refresh
from pgonly_django.admin.paging import TimedChangeList
from pgonly_django.admin.sessions import cells
from pgonly_django.admin.sessions.users import user_ids_like, user_names
from pgonly_django.admin.sessions.verbs import REVOKE, REVOKE_USER
from pgonly_django.admin.verbs import VerbAdmin
from pgonly_django.database.on_django import timed_out
from pgonly_django.models import Session
from pgonly_django.models.session import ACTIVE
from pgonly_django.sessions.revoke import revoke_for

VIEW_DATA = "pgonly_django.view_session_data"
WORDS_AT_MOST = 5  # each is looked for among the users


class StateFilter(admin.SimpleListFilter):
    title = _("state")
    parameter_name = "state"

    def lookups(self, *_args: Any) -> list[tuple[str, Any]]:
        return [("active", _("active")), ("over", _("expired or ended"))]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        if self.value() == "active":
            return queryset.active()
        return queryset.exclude(ACTIVE) if self.value() == "over" else queryset


class SessionChangeList(TimedChangeList):
    """One query names the users of the page. What is inside the sessions is not read."""

    def get_queryset(self, request: HttpRequest, exclude_parameters: Any = None) -> Any:
        return super().get_queryset(request, exclude_parameters).defer("data")

    def get_ordering(self, request: HttpRequest, queryset: QuerySet[Session]) -> list[Any]:
        """A search mostly finds few. PostgreSQL would look for them hour by hour, through an index, and reads all
        sessions so: at once that takes a third of the time."""
        return ["-expires_at", "-pk"] if self.query else list(super().get_ordering(request, queryset))

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        sessions: list[Any] = list(self.result_list)
        names = user_names({session.user_id for session in sessions if session.user_id})
        for session in sessions:
            session.user_name = names.get(session.user_id, session.user_id or "")
        self.result_list = sessions


@admin.register(Session)
class SessionAdmin(VerbAdmin):
    list_display = (cells.state_badge, cells.user, cells.device, cells.last_seen, cells.expires)
    list_display_links = (cells.state_badge, cells.user)
    list_filter = (StateFilter, "last_seen_at")
    search_fields = ("user_id",)  # shows the box; get_search_results does the search
    search_help_text = _("User name, user id, IP address or its beginning")
    sortable_by = ()
    # In fact by `expires_at`. Its hour has an index, so PostgreSQL sorts the sessions of one hour and not all.
    ordering = ("-expires_hour", "-expires_at")
    verbs = (REVOKE, REVOKE_USER)
    actions = ("delete_selected",)  # in the place of Django's action of this name
    fields: ClassVar[Any] = (
        cells.user, cells.device, "user_agent", "created_at", "last_seen_at", "expires_at",
    )  # fmt: skip

    def has_operate_permission(self, request: HttpRequest) -> bool:
        """A session is revoked, which deletes it."""
        return self.has_delete_permission(request)

    def get_fields(self, request: HttpRequest, obj: Session | None = None) -> Any:
        shown = super().get_fields(request, obj)
        return (*shown, cells.decoded_data) if request.user.has_perm(VIEW_DATA) else shown

    def get_readonly_fields(self, request: HttpRequest, obj: Session | None = None) -> Any:
        return self.get_fields(request, obj)

    def get_queryset(self, request: HttpRequest) -> Any:
        """Without the rows that only keep sessions of the previous engine out: none of them was a session here."""
        sessions = super().get_queryset(request).exclude(data__isnull=True, last_seen_at=None)
        return sessions.annotate(is_ended=Q(data__isnull=True))

    def get_changelist(self, request: HttpRequest, **_kwargs: Any) -> type[SessionChangeList]:
        return SessionChangeList

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
        if not is_refresh(request):
            self.message_user(request, text, messages.WARNING)

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        """Not on what is inside a session: by trying values, a filter would tell it letter by letter."""
        return not lookup.startswith("data") and super().lookup_allowed(lookup, value, request)

    @admin.action(description=_("Revoke the selected sessions"), permissions=["delete"])
    def delete_selected(self, request: HttpRequest, queryset: QuerySet[Session]) -> None:
        keys = queryset.order_by().values("pk")  # not a list: "all" may be a million
        REVOKE.use_on_all(self, request, Session.objects.filter(pk__in=keys))

    def delete_model(self, request: HttpRequest, obj: Session) -> None:
        revoke_for(request, Session.objects.filter(pk=obj.pk))

    def page_of(self, request: HttpRequest, row: Session) -> dict[str, Any]:
        return {
            "heading": _("Session of %s") % cells.user(row),
            "state_badge": cells.state_badge(row),
            "show_delete": False,  # it is revoked by a button
        }
