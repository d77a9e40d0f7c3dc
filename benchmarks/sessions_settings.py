"""Settings of `python -m benchmarks sessions`: a persistent connection, and Redis if there is one."""

import os

from tests.settings import *  # noqa: F403 - the same apps and database

DATABASES["default"]["CONN_MAX_AGE"] = None  # noqa: F405 - from tests.settings
SESSION_ENGINE = "pgonly_django.sessions"
if os.environ.get("PGONLY_BENCH_REDIS"):
    CACHES = {
        alias: {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": os.environ[variable]}
        for alias, variable in {
            "default": "PGONLY_BENCH_REDIS",
            "durable": "PGONLY_BENCH_DURABLE_REDIS",
        }.items()
    }
