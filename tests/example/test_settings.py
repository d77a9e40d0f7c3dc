"""The backends of the example, chosen by the environment."""

from __future__ import annotations

import os

import pytest

from tests import zygote

pytestmark = pytest.mark.slow

SHOW = (
    "import django; django.setup(); from django.conf import settings as s; "
    "print(s.TASKS['default']['BACKEND'], s.CACHES['default']['BACKEND'], s.CACHES['answers']['BACKEND'], "
    "s.SESSION_ENGINE, 'django.contrib.sessions' in s.INSTALLED_APPS); "
    "from django.core.management import call_command; call_command('check')"
)


def started(**environment):
    env = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "example_project.settings",
        "DATABASE_URL": "postgres://nobody@127.0.0.1:1/none",
        **environment,
    }
    return zygote.run(["-c", SHOW], env=env)


POSTGRES = "pgonly_django.cache.PostgresCache"
MEMORY = "django.core.cache.backends.locmem.LocMemCache"


@pytest.mark.parametrize(
    ("environment", "cache", "sessions"),
    [
        ({}, POSTGRES, "pgonly_django.sessions False"),
        (
            {"CACHE_BACKEND": "memory", "SESSION_ENGINE": "cookies"},
            MEMORY,
            "django.contrib.sessions.backends.signed_cookies False",
        ),
        ({"SESSION_ENGINE": "django"}, POSTGRES, "django.contrib.sessions.backends.db True"),
    ],
)
def test_each_backend_is_chosen_by_its_variable(environment, cache, sessions):
    done = started(**environment)
    assert done.returncode == 0, done.stderr
    expected = f"pgonly_django.tasks.PostgresBackend {cache} {cache} {sessions}"
    assert done.stdout.splitlines()[0] == expected
