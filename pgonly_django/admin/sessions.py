"""Sessions in the admin: found by user and address, and revoked. Their data need a separate permission."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Any, ClassVar

from django.contrib import admin
from django.contrib.auth import get_user_model
from django.core.exceptions import ValidationError
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.timezone import now
from django.utils.translation import gettext_lazy as _

from pgonly_django.admin.base import ReadOnlyAdmin
from pgonly_django.admin.formats import pretty_json
from pgonly_django.admin.paging import NulSafeChangeList
from pgonly_django.admin.verbs import Verb
from pgonly_django.models import Session
from pgonly_django.models.session import ACTIVE
from pgonly_django.sessions import SessionStore
from pgonly_django.sessions.devices import device_name
from pgonly_django.sessions.masking import as_text, masked
from pgonly_django.sessions.revoke import revoke_for

VIEW_DATA = "pgonly_django.view_session_data"
USERS_FOUND = 1000
REVOKE = Verb(name="revoke", method=revoke_for, label=_("Revoke"), logged=_("Revoked."))


class StateFilter(admin.SimpleListFilter):
    title = _("state")
    parameter_name = "state"

    def lookups(self, *_args: Any) -> list[tuple[str, Any]]:
        return [("active", _("active")), ("over", _("expired or ended"))]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        if self.value() == "active":
            return queryset.active()
        return queryset.exclude(ACTIVE) if self.value() == "over" else queryset


class SessionChangeList(NulSafeChangeList):
    """One query names the users of the page. What is inside the sessions is not read."""

    def get_queryset(self, request: HttpRequest, exclude_parameters: Any = None) -> Any:
        return super().get_queryset(request, exclude_parameters).defer("data")

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        sessions: list[Any] = list(self.result_list)
        names = user_names({session.user_id for session in sessions if session.user_id})
        for session in sessions:
            session.user_name = names.get(session.user_id, session.user_id or "")
        self.result_list = sessions


@admin.register(Session)
class SessionAdmin(ReadOnlyAdmin):
    list_display = ("user", "device", "ip", "last_seen_at", "expires_at", "state")
    list_filter = (StateFilter, "last_seen_at")
    search_fields = ("user_id",)  # shows the box; get_search_results does the search
    search_help_text = _("User name, user id, IP address or its beginning")
    # In fact by `expires_at`. Its hour has an index, so PostgreSQL sorts the sessions of one hour and not all.
    ordering = ("-expires_hour", "-expires_at")
    actions = ("delete_selected",)  # in the place of Django's action of this name
    fields: ClassVar[Any] = (
        "user", "state", "device", "user_agent", "ip", "created_at", "last_seen_at", "expires_at",
    )  # fmt: skip
    readonly_fields = (*fields, "decoded_data")

    def get_fields(self, request: HttpRequest, obj: Session | None = None) -> Any:
        shown = super().get_fields(request, obj)
        return (*shown, "decoded_data") if request.user.has_perm(VIEW_DATA) else shown

    def get_queryset(self, request: HttpRequest) -> Any:
        """Without the rows that only keep sessions of the fallback engine out: none of them was a session here."""
        sessions = super().get_queryset(request).exclude(data__isnull=True, last_seen_at=None)
        return sessions.annotate(is_ended=Q(data__isnull=True))

    def get_changelist(self, request: HttpRequest, **_kwargs: Any) -> type[SessionChangeList]:
        return SessionChangeList

    def get_search_results(self, request: HttpRequest, queryset: QuerySet[Session], search_term: str) -> Any:
        for word in search_term.split():
            users = user_ids_like(word)
            queryset = queryset.filter(Q(user_id=word) | Q(user_id__in=users) | Q(ip__istartswith=word))
        return queryset, False

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        """Not on what is inside a session: by trying values, a filter would tell it letter by letter."""
        return not lookup.startswith("data") and super().lookup_allowed(lookup, value, request)

    @admin.action(description=_("Revoke the selected sessions"), permissions=["delete"])
    def delete_selected(self, request: HttpRequest, queryset: QuerySet[Session]) -> None:
        keys = queryset.order_by().values("pk")  # not a list: "all" may be a million
        REVOKE.use_on_all(self, request, Session.objects.filter(pk__in=keys))

    def delete_model(self, request: HttpRequest, obj: Session) -> None:
        revoke_for(request, Session.objects.filter(pk=obj.pk))

    @admin.display(description=_("user"), ordering="user_id")
    def user(self, session: Session) -> Any:
        if not session.user_id:
            return _("visitor")
        known = getattr(session, "user_name", None)
        return known or user_names({session.user_id}).get(session.user_id, session.user_id)

    @admin.display(description=_("device"))
    def device(self, session: Session) -> str:
        return device_name(session.user_agent)

    @admin.display(description=_("state"))
    def state(self, session: Session) -> Any:
        if session.is_ended:  # type: ignore[attr-defined] # of get_queryset()
            return _("ended")
        return _("active") if session.expires_at > now() else _("expired")

    @admin.display(description=_("data"))
    def decoded_data(self, session: Session) -> str:
        data = masked(SessionStore().codec.decode(session.data or {})[0])
        return format_html("<pre>{}</pre>", pretty_json(data, default=as_text, skipkeys=True))


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
    """Primary keys, as text, of up to 1,000 users whose login name contains `word`."""
    model = get_user_model()
    named = {f"{model.USERNAME_FIELD}__icontains": word}
    keys = model._default_manager.filter(**named).values_list("pk", flat=True)  # noqa: SLF001 - documented
    return [str(key) for key in keys[:USERS_FOUND]]
