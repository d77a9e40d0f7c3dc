"""Settings of the servers that the tests start: nothing but the cache needs the database."""

from tests.settings import *  # noqa: F403

INSTALLED_APPS = ["pgonly_django"]
CACHES = {
    "default": {
        "BACKEND": "pgonly_django.cache.PostgresCache",
        "LOCATION": "served",
        "OPTIONS": {"TIMEOUT_SECONDS": 4},
    }
}
MIDDLEWARE = []
ROOT_URLCONF = "tests.cache.served"
ALLOWED_HOSTS = ["127.0.0.1"]
