"""The cache as a user of database/pool.py: its name there, its errors, its advice to tests, and what its
calls leave undone."""

from pgonly_django.database.background import Background
from pgonly_django.database.pool import PoolUser
from pgonly_django.database.testcase import Advice
from pgonly_django.exceptions import CacheError, CacheUnavailableError, UnansweredError

CACHE = PoolUser(
    name="cache",
    size_option="POOL_SIZE",
    errors=(CacheError, CacheUnavailableError, UnansweredError),
    advice=Advice(
        without_database=(
            "PostgresCache keeps its entries there. A test that needs no database can be given another cache: "
            'override_settings(CACHES={"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}).'
        ),
        in_other_thread=(
            "For the cache, use `await cache.aget()` and its like in coroutines, and for threads a "
            "TransactionTestCase (in pytest-django: django_db(transaction=True))."
        ),
    ),
)

background = Background("cache")
