"""Links from our pages to others of the same admin site. A site may leave models out, and a reader may not open every
page: the templates then show the text alone."""

from __future__ import annotations

from typing import Any

from django.contrib.admin import AdminSite
from django.contrib.admin.utils import quote
from django.db.models import Model
from django.http import HttpRequest
from django.urls import reverse


class Links:
    """The addresses that one reader may open. Each is "" where he may not, or where this site has no such page."""

    def __init__(self, request: HttpRequest, site: AdminSite) -> None:
        self.request, self.site = request, site

    def may_view(self, *models: type[Model]) -> bool:
        """Whether this site has pages of all these models, and the person may see them."""
        return all(
            self.site.is_registered(model)
            and self.site.get_model_admin(model).has_view_permission(self.request)
            for model in models
        )

    def to_list(self, model: type[Model], **query: str) -> str:
        if not self.may_view(model):
            return ""
        return reverse(self.name(model, "changelist"), query=query or None, current_app=self.site.name)

    def to_page(self, model: type[Model], key: Any) -> str:
        if not self.may_view(model):
            return ""
        return reverse(self.name(model, "change"), args=[quote(key)], current_app=self.site.name)

    @staticmethod
    def name(model: type[Model], page: str) -> str:
        """As "admin:pgonly_django_job_change", for reverse() with the `current_app` of a site."""
        opts = model._meta  # noqa: SLF001 - documented
        return f"admin:{opts.app_label}_{opts.model_name}_{page}"
