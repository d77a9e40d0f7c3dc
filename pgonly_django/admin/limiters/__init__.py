"""Limiters in the admin: the list with what is in use, and the page of one with who is inside and who waits."""

from pgonly_django.admin.limiters.limiter_admin import LimiterAdmin

__all__ = ["LimiterAdmin"]
