from __future__ import annotations

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from pgonly_django.sessions.checks import DJANGOS_MIDDLEWARE, OUR_MIDDLEWARE, check_sessions
from tests import zygote
from tests.aliases import alias

DB = "django.contrib.sessions.backends.db"


def found() -> list[str]:
    return [message.id.removeprefix("pgonly_django.") for message in check_sessions()]


@pytest.fixture(autouse=True)
def _no_devices_page(settings):
    settings.ROOT_URLCONF = "tests.progress.urls_without_ours"


def test_a_site_as_documented_is_fine(settings):
    settings.MIDDLEWARE = [OUR_MIDDLEWARE]
    settings.PGONLY = {"SESSION_PREVIOUS_ENGINE": DB, "SESSION_TRUSTED_PROXIES": 1}
    assert found() == []


def test_a_fallback_whose_app_is_not_installed_is_found():
    done = zygote.run(["-c", WITHOUT_DJANGOS_APP])
    assert done.stdout.split() == ["pgonly_django.E202"]


WITHOUT_DJANGOS_APP = f"""
import django
from django.conf import settings
from tests import settings as tested
apps = [app for app in tested.INSTALLED_APPS if app != "django.contrib.sessions"]
settings.configure(
    DATABASES=tested.DATABASES, INSTALLED_APPS=apps, SESSION_ENGINE="pgonly_django.sessions",
    PGONLY={{"SESSION_PREVIOUS_ENGINE": "{DB}"}},
)
django.setup()
from pgonly_django.sessions.checks import check_sessions
print(*[message.id for message in check_sessions()])
"""


class ToOther:
    def db_for_write(self, model, **hints):
        return "other"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"PGONLY": {"SESSION_PREVIOUS_ENGINE": "no.such.module"}}, ["E202"]),
        ({"PGONLY": {"SESSION_PREVIOUS_ENGINE": "json"}}, ["E202"]),
        ({"PGONLY": {"SESSION_PREVIOUS_ENGINE": "pgonly_django.sessions"}}, ["E202"]),
        ({"PGONLY": {"SESSION_PREVIOUS_ENGINE": DB}, "SESSION_ENGINE": DB}, ["W202"]),
        ({"MIDDLEWARE": [OUR_MIDDLEWARE, DJANGOS_MIDDLEWARE]}, ["E203"]),
        ({"MIDDLEWARE": [OUR_MIDDLEWARE], "SESSION_ENGINE": DB}, ["W201"]),
        ({"PGONLY": {"SESSION_TRUSTED_PROXIES": 1}}, ["W203"]),
        ({"ROOT_URLCONF": "tests.sessions.urls"}, ["W204"]),
        ({"ROOT_URLCONF": "tests.sessions.urls", "MIDDLEWARE": [OUR_MIDDLEWARE]}, []),
        ({"ROOT_URLCONF": "tests.sessions.urls", "SESSION_ENGINE": DB}, []),
        ({"ROOT_URLCONF": "no.such.module"}, []),
        ({"PGONLY": {"SESSION_TUCH_SECONDS": 1}}, []),
    ],
)
def test_a_mistake_is_found(settings, changes, expected):
    for name, value in changes.items():
        setattr(settings, name, value)
    assert found() == expected
    assert all(message.hint for message in check_sessions())


def test_sessions_routed_to_another_kind_of_database_are_found(settings, monkeypatch):
    from django.db import connections
    from django.db.backends.dummy.base import DatabaseWrapper

    settings.DATABASE_ROUTERS = [f"{__name__}.ToOther"]
    monkeypatch.setitem(connections.settings, "other", {"ENGINE": "django.db.backends.dummy"})
    connections["other"] = DatabaseWrapper({"ENGINE": "django.db.backends.dummy"}, alias="other")
    try:
        assert found() == ["E201"]
    finally:
        del connections["other"]


def test_the_checks_run_with_djangos():
    from django.core.checks.registry import registry

    assert check_sessions in registry.get_checks()


def test_without_the_app_the_engine_says_what_to_install(settings):
    settings.INSTALLED_APPS = []
    with pytest.raises(ImproperlyConfigured, match='The sessions need "pgonly_django" in INSTALLED_APPS'):
        import_string("pgonly_django.sessions.SessionStore")


def test_a_database_that_would_commit_no_login_is_found(settings):
    with alias("other", AUTOCOMMIT=False):
        settings.DATABASE_ROUTERS = [ToOther()]
        assert found() == ["E204"]
        settings.SESSION_ENGINE = DB
        assert found() == []
