"""What all our admin pages share: no form edits a row, and a link leads only where the reader may go."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.contrib.admin.actions import delete_selected as djangos_delete_selected
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.utils import quote
from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.functional import Promise
from django.utils.text import capfirst
from django.utils.translation import gettext_lazy as _

from pgonly_django.admin.paging import CappedPaginator, TimedChangeList
from pgonly_django.compat import model_admin_class

if TYPE_CHECKING:
    ModelAdmin = admin.ModelAdmin[Any]
else:
    ModelAdmin = model_admin_class()

# The page that asks for confirmation posts one field per row, and Django accepts 1,000 of them.
DELETED_AT_ONCE = 500


def stylesheets(*names: str) -> list[str]:
    """Returns the stylesheets for the Media of an admin: what all our pages need, then these."""
    return [f"pgonly_django/{name}.css" for name in ("theme", "admin", "list", *names)]


class ReadOnlyAdmin(ModelAdmin):
    """The base for rows that are neither added nor edited by hand."""

    # How often the list is fetched again while a person looks at it; None: it is not.
    refresh_seconds: int | None = 5
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER  # they count all rows of each value of a filter
    paginator = CappedPaginator

    class Media:
        css = {"all": stylesheets()}
        js = ["pgonly_django/live.js", "pgonly_django/keys.js"]

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Refuses rows that the person may not see, which Django's page would delete."""
        return super().has_delete_permission(request, obj) and self.has_view_permission(request, obj)

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[TimedChangeList]:
        return TimedChangeList

    def prepare_rows(self, request: HttpRequest, rows: list[Any]) -> None:
        """Reads what the cells show beside the columns, for the `rows` of one page of the list together."""

    def links(self, request: HttpRequest) -> Links:
        return Links(request, self.admin_site)

    def page(
        self, request: HttpRequest, template: str, title: str | Promise, **context: Any
    ) -> TemplateResponse:
        """Renders a page that is neither a list nor that of one row."""
        request.current_app = self.admin_site.name  # as Django's own views set it
        context |= {**self.admin_site.each_context(request), "title": title, "opts": self.opts}
        return TemplateResponse(request, f"admin/pgonly_django/{template}", context)

    def own_url(self, name: str, route: str, view: Callable[..., HttpResponse]) -> URLPattern:
        """Returns the address of a page of ours, under a name such as "pgonly_django_job_edit"."""
        name = f"{self.opts.app_label}_{self.opts.model_name}_{name}"
        return path(route, self.admin_site.admin_view(view), name=name)

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        """Returns None for an id with a NUL character, which no statement accepts."""
        return None if "\x00" in object_id else super().get_object(request, object_id, from_field)

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        """Gives the list a title for rows that are only viewed. Of a selection it takes the keys that a row can
        have."""
        selected = request.POST.getlist(ACTION_CHECKBOX_NAME)
        possible = [key for key in selected if self._is_possible(key)]
        if possible != selected:
            post = request.POST.copy()
            post.setlist(ACTION_CHECKBOX_NAME, possible)
            request.POST = post  # type: ignore[assignment] # a QueryDict as before
        title = capfirst(self.opts.verbose_name_plural)
        return super().changelist_view(request, {"title": title, **(extra_context or {})})

    def _is_possible(self, key: str) -> bool:
        try:
            self.opts.pk.to_python(key)
        except ValidationError:
            return False
        return "\x00" not in key


class PageAdmin(ReadOnlyAdmin):
    """The page of a proxy of models/pages.py, not of one table, so that every site and theme lists it."""

    def get_urls(self) -> list[URLPattern]:
        # What a page reads is in short transactions; ATOMIC_REQUESTS would make one of all.
        return [self.own_url("changelist", "", transaction.non_atomic_requests(partial(self.show)))]

    def show(self, request: HttpRequest) -> HttpResponse:
        raise NotImplementedError

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.action(permissions=["delete"], description=_("Delete selected %(verbose_name_plural)s"))
def delete_selected(
    model_admin: ModelAdmin, request: HttpRequest, queryset: QuerySet[Any]
) -> HttpResponse | None:
    """Deletes up to DELETED_AT_ONCE rows, as Django's own does: the newest, where keys are ordered by time."""
    keys = list(queryset.order_by("-pk").values_list("pk", flat=True)[:DELETED_AT_ONCE])
    return djangos_delete_selected(model_admin, request, queryset.filter(pk__in=keys))


class Links:
    """The addresses on one admin site that one reader may open; "" where the reader may not, or where this site has no
    such page: the templates then show the text alone."""

    def __init__(self, request: HttpRequest, site: admin.AdminSite) -> None:
        self.request, self.site = request, site

    def may_view(self, *models: type[Model]) -> bool:
        """Returns whether this site has pages of all these models, and the person may see them."""
        return all(
            self.site.is_registered(model)
            and self.site.get_model_admin(model).has_view_permission(self.request)
            for model in models
        )

    def may_operate(self, model: type[Model]) -> bool:
        """Returns whether the person may use the verbs of the model's rows on this site."""
        may: Any = self.may_view(model) and getattr(
            self.site.get_model_admin(model), "has_operate_permission", None
        )
        return bool(may and may(self.request))

    def to_list(self, model: type[Model], /, **query: str) -> str:
        return self.address(model, "changelist", **query) if self.may_view(model) else ""

    def to_page(self, model: type[Model], key: Any) -> str:
        """Returns "" for an empty name, too, which no address has in it."""
        return self.address(model, "change", quote(key)) if key != "" and self.may_view(model) else ""

    def to_row(self, row: Model) -> str:
        return self.to_page(type(row), row.pk)

    def address(self, model: type[Model], page: str, /, *args: str, **query: str) -> str:
        """Returns the address, also of a page that the reader may not open."""
        opts = model._meta  # noqa: SLF001 - documented
        name = f"admin:{opts.app_label}_{opts.model_name}_{page}"
        return reverse(name, args=args, query=query or None, current_app=self.site.name)

    def buttons(self, row: Model, *names: str) -> list[dict[str, Any]]:
        """Returns the buttons for the verbs of these names that the person may use on the row now; by default all."""
        if not self.to_row(row):
            return []
        verbs_for: Any = getattr(self.site.get_model_admin(type(row)), "verbs_for", None)
        return [
            {"verb": verb, "url": self.address(type(row), "operate", quote(row.pk), verb.name)}
            for verb in (verbs_for(self.request, row) if verbs_for else ())
            if not names or verb.name in names
        ]
