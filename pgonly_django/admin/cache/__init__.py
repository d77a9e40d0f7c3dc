"""Cache entries in the admin: listed, found by the beginning of a key, deleted. Numbers of each cache; clearing one."""

from pgonly_django.admin.cache.entry_admin import EntryAdmin

__all__ = ["EntryAdmin"]
