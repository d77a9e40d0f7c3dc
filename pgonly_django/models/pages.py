"""Pages of the admin that are not about one table.

Django's admin lists models, and so does each theme: each of these pages is listed by a proxy, which makes no table.
Their ModelAdmin is a PageAdmin (admin/base.py)."""

from __future__ import annotations

from django.utils.translation import gettext_lazy as _

from pgonly_django.models.job import Job
from pgonly_django.models.worker import Worker


class Overview(Job):
    """Lists the overview, which is the index of the app, for a person who may view a model of one of its panels. So it
    has no permission of its own."""

    class Meta:
        proxy = True
        default_permissions = ()
        verbose_name = verbose_name_plural = _("overview")


class Doctor(Worker):
    """Lists the page of the doctor, for a person with its permission."""

    class Meta:
        proxy = True
        default_permissions = ()
        permissions = [("view_doctor", _("Can see the findings of the doctor"))]
        verbose_name = verbose_name_plural = _("doctor")
