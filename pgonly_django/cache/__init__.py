"""Django's cache on PostgreSQL. `CACHES = {"default": {"BACKEND": "pgonly_django.cache.PostgresCache"}}`."""

from pgonly_django.cache.backend import PostgresCache
from pgonly_django.cache.decorator import cached
from pgonly_django.cache.lock import Lock

__all__ = ["Lock", "PostgresCache", "cached"]
