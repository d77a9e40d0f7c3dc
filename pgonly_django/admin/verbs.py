"""A verb of a model's QuerySet as people use it in the admin: in a list's action, or by a button on a row's page.

It locks the rows, calls the verb, writes the admin log and tells the person what happened. A new one is a Verb; the
rules of what it may change stay in the QuerySet.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.admin.utils import model_ngettext, quote, unquote
from django.contrib.contenttypes.models import ContentType
from django.core.exceptions import PermissionDenied
from django.db import router, transaction
from django.db.models import Model, Q, QuerySet
from django.db.models.options import Options
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.urls import URLPattern
from django.utils.functional import Promise
from django.utils.http import url_has_allowed_host_and_scheme
from django.utils.text import format_lazy
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from pgonly_django.admin.base import ReadOnlyAdmin

AT_ONCE = 10_000
BATCH = 1_000


@dataclass(slots=True)
class Done:
    """The number of rows that a verb changed, and the number that it only asked to stop."""

    changed: int = 0
    asked: int = 0
    more: bool = False  # whether there are more rows that it may change
    missed: int = 0  # another person or a worker has changed them between the search and the lock


@dataclass(frozen=True, slots=True, kw_only=True)
class Verb:
    # In addresses and in the names of actions.
    name: str
    label: Promise | str
    logged: Promise | str
    # What it does to a QuerySet. Returns how many rows it changed. None: the QuerySet's method of its name.
    method: Callable[[HttpRequest, Any], int] | None = None
    hint: Promise | str = ""
    # What the person should know where nothing was changed.
    otherwise: Promise | str = ""
    # The rows that it may change; and the same of one row that is loaded, for its button.
    allowed: Q = Q()
    allows: Callable[[Any], bool] = lambda _row: True
    # True of a row that does not change at once: its worker is asked to stop it.
    only_asks: Callable[[Any], bool] = lambda _row: False
    # Large columns that neither str(row) nor `only_asks` reads.
    deferred: Sequence[str] = ()
    # What the method may raise for a person to read; nothing has changed then.
    refusals: tuple[type[Exception], ...] = ()

    def use(self, model_admin: ReadOnlyAdmin, request: HttpRequest, rows: QuerySet[Any]) -> None:
        """Does it to those `rows` that allow it, and tells the person."""
        try:
            done = self.perform(request, rows.model, list(self.keys_of(rows)))
            model_admin.message_user(request, *self.outcome(model_admin.opts, done))
        except self.refusals as error:
            model_admin.message_user(request, str(error), messages.ERROR)

    def keys_of(self, rows: QuerySet[Any]) -> QuerySet[Any, Any]:
        """Returns the keys of AT_ONCE `rows` that allow it, the highest, and one more where there are more."""
        return rows.filter(self.allowed).order_by("-pk").values_list("pk", flat=True)[: AT_ONCE + 1]

    def perform(self, request: HttpRequest, model: type[Model], keys: list[Any]) -> Done:
        """Does it to the AT_ONCE first of the rows that were found, and logs each."""
        done, keys = Done(more=len(keys) > AT_ONCE), keys[:AT_ONCE]
        for start in range(0, len(keys), BATCH):
            self._perform_batch(request, model, keys[start : start + BATCH], done)
        return done

    def _perform_batch(self, request: HttpRequest, model: Any, keys: list[Any], done: Done) -> None:
        """Locks the rows first, so that exactly those are logged that change."""
        user_id = request.user.pk  # the verb may log this person out
        assert user_id is not None
        database = router.db_for_write(model)
        with transaction.atomic(using=database):
            rows = model.objects.using(database)
            allowed = rows.filter(self.allowed, pk__in=keys).defer(*self.deferred)
            locked = list(allowed.order_by("pk").select_for_update(no_key=True))
            count = self._do(request, rows.filter(pk__in=[row.pk for row in locked]))
            if locked:
                LogEntry.objects.log_actions(user_id, locked, CHANGE, str(self.logged))
        asked = sum(map(self.only_asks, locked))
        done.changed += count - asked
        done.asked += asked
        done.missed += len(keys) - len(locked)

    def use_on_all(self, model_admin: ReadOnlyAdmin, request: HttpRequest, rows: QuerySet[Any]) -> None:
        """Does what use() does, but in one statement and with one entry in the log for all: `rows` may be a million.
        The verb is done before it is logged: a log that fails does not undo it.
        """
        user_id = request.user.pk  # the verb may log this person out
        count = self._do(request, rows)
        if count:
            log_once(user_id, rows.model, _counted(model_admin.opts, count), str(self.logged))
        model_admin.message_user(request, *self.outcome(model_admin.opts, Done(count)))

    def _do(self, request: HttpRequest, rows: Any) -> int:
        return self.method(request, rows) if self.method else getattr(rows, self.name)()

    def outcome(self, opts: Options[Any], done: Done) -> tuple[str, int]:
        """Returns the message for the person, and its level."""
        said = []
        if done.changed:
            said.append(f"{self.label}: {_counted(opts, done.changed)}.")
        if done.asked:
            text = ngettext("%s was asked to stop.", "%s were asked to stop.", done.asked)
            said.append(text % _counted(opts, done.asked))
        if done.missed:
            text = ngettext(
                "%s was left alone: another person or a worker has changed it since.",
                "%s were left alone: another person or a worker has changed them since.",
                done.missed,
            )
            said.append(text % _counted(opts, done.missed))
        if not said:
            text = _("%s: nothing to do; none of them is in a state that allows it.")
            return f"{text % self.label} {self.otherwise}".strip(), messages.WARNING
        if done.more:
            said.append(_("There are more; do it again for the next ones."))
        return " ".join(said), messages.WARNING if done.more or done.missed else messages.SUCCESS

    def as_action(self, rows: str) -> Any:
        """Returns an action for ModelAdmin.actions, under a name such as "pause_queues"."""

        def act(model_admin: ReadOnlyAdmin, request: HttpRequest, queryset: QuerySet[Any]) -> None:
            self.use(model_admin, request, queryset)

        act.__name__ = f"{self.name}_{rows}"
        description = format_lazy(gettext_lazy("{} selected %(verbose_name_plural)s"), self.label)
        return admin.action(act, permissions=["operate"], description=description)


class VerbAdmin(ReadOnlyAdmin):
    """An admin whose rows' pages have a button for each of `verbs`, for persons with the permission operate_<model>."""

    verbs: tuple[Verb, ...] = ()

    def has_operate_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm(f"{self.opts.app_label}.operate_{self.opts.model_name}")

    def verbs_for(self, request: HttpRequest, row: Any) -> list[Verb]:
        return [verb for verb in self.verbs if self.has_operate_permission(request) and verb.allows(row)]

    def get_urls(self) -> list[URLPattern]:
        button = self.own_url("operate", "<path:object_id>/operate/<str:name>/", self.operate_view)
        return [button, *super().get_urls()]

    def operate_view(self, request: HttpRequest, object_id: str, name: str) -> HttpResponse:
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        row = self.row_to_operate(request, object_id)
        verb = self.verb_named(name)
        verb.use(self, request, self.get_queryset(request).filter(pk=row.pk))
        return HttpResponseRedirect(self.page_after(request, row))

    def check_may_operate(self, request: HttpRequest) -> None:
        if not (self.has_operate_permission(request) and self.has_view_permission(request)):
            raise PermissionDenied

    def row_to_operate(self, request: HttpRequest, object_id: str) -> Any:
        """Returns the row of the address. Raises PermissionDenied and Http404."""
        self.check_may_operate(request)
        row = self.get_object(request, unquote(object_id))
        if row is None:
            raise Http404
        return row

    def verb_named(self, name: str) -> Verb:
        for verb in self.verbs:
            if verb.name == name:
                return verb
        raise Http404

    def page_after(self, request: HttpRequest, row: Any) -> str:
        """Returns the page of this site that the button stood on, where it says so in `next`; otherwise the row's page,
        or the list where a verb has deleted the row."""
        came_from = request.POST.get("next") or request.GET.get("next", "")
        if url_has_allowed_host_and_scheme(
            came_from, {request.get_host()}, require_https=request.is_secure()
        ):
            return came_from
        links = self.links(request)
        is_left = self.get_queryset(request).filter(pk=row.pk).exists()
        if is_left:
            return links.address(self.model, "change", quote(row.pk))
        return links.address(self.model, "changelist")

    def page_of(self, request: HttpRequest, row: Any) -> dict[str, Any]:
        """Returns what the template of a row's page shows beside the buttons and the fields."""
        return {}

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        context["action_form"] = None  # Django 6.1 has the actions here as well; ours are buttons
        if (row := kwargs["obj"]) is not None:
            if request.method == "POST":  # the form has put into it what it has refused
                row = self.get_object(request, str(row.pk)) or row
            ours = {"row": row, "verbs": self.verbs_for(request, row), "subtitle": None}
            context |= {**ours, **self.page_of(request, row)}
        return super().render_change_form(request, context, *args, **kwargs)


def log_once(user_id: Any, model: type[Model], what: str, message: str) -> None:
    """Writes one entry in the admin log for many rows, or a whole cache, which have no single row."""
    kind = ContentType.objects.get_for_model(model)
    LogEntry.objects.create(
        user_id=user_id, content_type=kind, object_repr=what[:200], action_flag=CHANGE, change_message=message
    )


def _counted(opts: Options[Any], count: int) -> str:
    """Returns a text such as "1,204 jobs"."""
    return f"{count:,} {model_ngettext(opts, count)}"
