"""The first page of the app in the admin: the present state, in panels."""

from pgonly_django.admin.overview.panels import OverviewAdmin

__all__ = ["OverviewAdmin"]
