from pgonly_django.cache.backend import PostgresCache

__all__ = ["PostgresCache"]
