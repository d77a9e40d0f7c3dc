from __future__ import annotations

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import connections

from pgonly_django.tasks import PostgresBackend


def found(**options):
    return PostgresBackend("default", {"OPTIONS": options}).check()


@pytest.fixture
def elsewhere():
    """A second alias, "jobs", of the same server."""
    connections.settings["jobs"] = connections.settings["default"]
    yield
    del connections.settings["jobs"]
    if hasattr(connections._connections, "jobs"):
        del connections["jobs"]


class ToJobs:
    def db_for_read(self, model, **hints):
        return "jobs" if model._meta.app_label == "pgonly_django" else None

    db_for_write = db_for_read


class ReadsFromJobs:
    db_for_read = ToJobs.db_for_read


def test_a_database_that_the_router_agrees_with_is_fine(settings, elsewhere):
    assert found() == found(database="default") == []
    settings.DATABASE_ROUTERS = [ToJobs()]
    assert found() == found(database="jobs") == []


def test_a_database_that_the_router_does_not_know_of_is_warned_about(elsewhere):
    (warning,) = found(database="jobs")
    assert warning.id == "pgonly_django.W001"
    assert "keeps its jobs in 'jobs', but Job.objects and the admin look in 'default'." in warning.msg


def test_a_router_that_leads_elsewhere_for_reading_alone_is_warned_about(settings, elsewhere):
    settings.DATABASE_ROUTERS = [ReadsFromJobs()]
    assert [warning.id for warning in found(database="default")] == ["pgonly_django.W001"]
    assert found() == []  # a replica, where nobody chose a database


def test_an_unknown_database_is_an_error():
    (error,) = found(database="missing")
    assert error.id == "pgonly_django.E003"
    assert "Set OPTIONS" in error.hint


def test_without_the_app_the_backend_says_what_to_install(settings):
    settings.INSTALLED_APPS = []
    with pytest.raises(ImproperlyConfigured, match='The queue needs "pgonly_django" in INSTALLED_APPS'):
        PostgresBackend("default", {})
