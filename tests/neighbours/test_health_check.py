"""django-health-check's own checks of the cache and the database."""

from __future__ import annotations

import asyncio

import pytest
from django.urls import path
from health_check.checks import Cache, Database
from health_check.views import HealthCheckView

from tests.neighbours.throttles import database_away

pytestmark = pytest.mark.slow

urlpatterns = [
    path("health/", HealthCheckView.as_view(checks=["health_check.Cache", "health_check.Database"]))
]


@pytest.mark.urls(__name__)
def test_its_page_is_healthy(transactional_db, client):
    answer = client.get("/health/", headers={"accept": "application/json"})
    assert (answer.status_code, set(answer.json().values())) == (200, {"OK"})


def test_its_checks_say_that_the_database_is_away(transactional_db, any_database, settings):
    with database_away():
        options = {"BACKEND": "pgonly_django.cache.PostgresCache", "OPTIONS": {"DATABASE": "away"}}
        settings.CACHES = {**settings.CACHES, "away": options}
        found = [
            asyncio.run(check.get_result())
            for check in (Cache(alias="away"), Database(alias="away"), Cache())
        ]
    assert [bool(each.error) for each in found] == [True, True, False]
