"""django-ratelimit, which counts with add() and incr()."""

from __future__ import annotations

import pytest
from django.core import checks
from django.test import override_settings
from django_ratelimit.core import is_ratelimited

from tests.neighbours.throttles import admitted_in_processes, database_away, request

pytestmark = pytest.mark.slow

LIMIT = 5


def ask():
    return not is_ratelimited(request(), group="uploads", key="ip", rate="5/h", increment=True)


def test_several_processes_get_exactly_the_rate(transactional_db):
    assert admitted_in_processes(ask) == LIMIT


def test_its_check_knows_only_two_caches_and_warns_of_others():
    found = checks.run_checks(tags=["django_ratelimit"])
    assert [each.id for each in found] == ["django_ratelimit.W001"]


def test_without_a_database_our_cache_decides_not_its_option(transactional_db, any_database, settings):
    """Writes raise, so a request is an error of the server; with ON_ERROR "ignore" RATELIMIT_FAIL_OPEN decides."""
    from django.core.cache import caches

    with database_away():
        away = {"BACKEND": "pgonly_django.cache.PostgresCache", "LOCATION": "away"}
        settings.CACHES = {
            **settings.CACHES,
            "away": {**away, "OPTIONS": {"DATABASE": "away", "ON_ERROR": "ignore"}},
        }
        for opens in (True, False):
            with override_settings(RATELIMIT_USE_CACHE="away", RATELIMIT_FAIL_OPEN=opens):
                assert ask() is opens
        assert "away" in caches.settings
