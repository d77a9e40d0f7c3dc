"""PostgresCache: Django's API (django_api.py) and what is beyond it (extended_api.py)."""

from pgonly_django.cache.extended_api import ExtendedCache
from pgonly_django.cache.transactional import TransactionalCache


class PostgresCache(ExtendedCache):
    """Django's cache on PostgreSQL. It has all methods of Django's caches, those that django-redis adds, and an async
    one with `a` before the name for each."""

    def transactional(self, using: str | None = None) -> TransactionalCache:
        """This cache for use inside atomic(): its writes are done at the commit, a rollback drops them.

        Its reads see them. `using` is the alias of the transaction's database, the cache's by default.
        """
        return TransactionalCache(self, using or self.store.pool.alias)
