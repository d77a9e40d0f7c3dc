"""What all our pages in the admin share: no form edits a row, counts end at a cap, and odd requests get an answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.contrib.admin.actions import delete_selected as djangos_delete_selected
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
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
    """For the Media of an admin: what all our pages need, then these."""
    return [f"pgonly_django/{name}.css" for name in ("theme", "admin", "list", "live", *names)]


def is_refresh(request: HttpRequest) -> bool:
    """Whether live.js asks, whose page shows no messages: they would be lost to the window that has asked for them."""
    return "X-Pgonly-Live" in request.headers


class ReadOnlyAdmin(ModelAdmin):
    """For rows that are neither added nor edited by hand."""

    # How often the list is fetched again while a person looks at it; None: it is not.
    refresh_seconds: int | None = 5
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER  # they count all rows of each value of a filter
    paginator = CappedPaginator

    class Media:
        css = {"all": stylesheets()}
        js = ["pgonly_django/live.js"]

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """What a person may not see, he does not delete: Django's page would do so."""
        return super().has_delete_permission(request, obj) and self.has_view_permission(request, obj)

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[TimedChangeList]:
        return TimedChangeList

    def url_name(self, page: str) -> str:
        """The name of this model's page, such as "pgonly_django_job_change"."""
        return f"{self.opts.app_label}_{self.opts.model_name}_{page}"

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        """None for an id with a NUL character, which no statement accepts."""
        return None if "\x00" in object_id else super().get_object(request, object_id, from_field)

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        """With a title for rows that are only viewed. Of a selection it takes the keys that a row can have."""
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


@admin.action(permissions=["delete"], description=_("Delete selected %(verbose_name_plural)s"))
def delete_selected(
    model_admin: ModelAdmin, request: HttpRequest, queryset: QuerySet[Any]
) -> HttpResponse | None:
    """Django's own, for DELETED_AT_ONCE rows at most: the newest, where keys are ordered by time."""
    keys = list(queryset.order_by("-pk").values_list("pk", flat=True)[:DELETED_AT_ONCE])
    return djangos_delete_selected(model_admin, request, queryset.filter(pk__in=keys))
