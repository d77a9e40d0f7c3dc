from tests.neighbours.projects.base import *  # noqa: F403
from tests.neighbours.projects.base import INSTALLED_APPS

INSTALLED_APPS = ["cachalot", *INSTALLED_APPS]
CACHALOT_CACHE = "queries"
# migrate writes to tables, which cachalot notes in its cache, before the cache has a table.
CACHES["queries"] = {  # noqa: F405
    "BACKEND": "pgonly_django.cache.PostgresCache",
    "LOCATION": "queries",
    "OPTIONS": {"ON_ERROR": "ignore"},
}
