from __future__ import annotations

import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
from django.core.exceptions import ImproperlyConfigured

from pgonly_django import task
from pgonly_django.tasks import PostgresBackend
from tests.aliases import alias
from tests.tasks import calls
from tests.tasks.calls import linear


def found(**options):
    return PostgresBackend("default", {"OPTIONS": options}).check()


@pytest.fixture
def elsewhere():
    """A second alias, "jobs", of the same server."""
    with alias("jobs"):
        yield


def router(database, *verbs):
    """Leads our models to the database, for these verbs."""

    def chosen(model, **_hints):
        return database if model._meta.app_label == "pgonly_django" else None

    return SimpleNamespace(**{f"db_for_{verb}": chosen for verb in verbs})


def test_a_database_that_the_router_agrees_with_is_fine(settings, elsewhere):
    assert found() == found(database="default") == []
    settings.DATABASE_ROUTERS = [router("jobs", "read", "write")]
    assert found() == found(database="jobs") == []


def test_a_database_that_the_router_does_not_know_of_is_warned_about(elsewhere):
    (warning,) = found(database="jobs")
    assert warning.id == "pgonly_django.W001"
    assert "keeps its jobs in 'jobs', but Job.objects and the admin look in 'default'." in warning.msg


def test_a_router_that_leads_elsewhere_for_reading_alone_is_warned_about(settings, elsewhere):
    settings.DATABASE_ROUTERS = [router("jobs", "read")]
    assert [warning.id for warning in found(database="default")] == ["pgonly_django.W001"]
    assert found() == []  # a replica, where nobody chose a database


def test_a_limiter_of_a_queue_in_another_database_than_the_jobs_is_an_error(settings, elsewhere):
    queues = {"default": {"limiter": "deepseek"}, "of another entry": {"limiter": "deepseek"}, "mail": {}}
    settings.PGONLY = {**settings.PGONLY, "LIMITERS": {"deepseek": {}}, "QUEUES": queues}
    assert found() == []
    _, error = found(database="jobs")
    assert error.id == "pgonly_django.E009"
    assert "which is in 'default', but TASKS['default'] keeps its jobs in 'jobs'" in error.msg
    settings.DATABASE_ROUTERS = [router("jobs", "read", "write")]
    assert found(database="jobs") == []


def test_an_unknown_database_is_an_error():
    (error,) = found(database="missing")
    assert error.id == "pgonly_django.E003"
    assert "Set OPTIONS" in error.hint


def test_without_the_app_the_backend_says_what_to_install(settings):
    settings.INSTALLED_APPS = []
    with pytest.raises(ImproperlyConfigured, match='The queue needs "pgonly_django" in INSTALLED_APPS'):
        PostgresBackend("default", {})


def test_a_database_without_autocommit_is_an_error():
    with alias("jobs", AUTOCOMMIT=False):
        (error,) = found(database="jobs")
    assert (error.id, "AUTOCOMMIT = False" in error.msg) == ("pgonly_django.E004", True)


def test_a_database_that_is_no_postgresql_names_the_setting_to_change(settings):
    with alias("lite", ENGINE="django.db.backends.sqlite3"):
        settings.DATABASE_ROUTERS = [router("lite", "read", "write")]
        (routed,) = found()
        (chosen,) = found(database="lite")
    assert (routed.id, chosen.id) == ("pgonly_django.E003", "pgonly_django.E003")
    for error in (routed, chosen):
        assert "Make DATABASES['lite'] a PostgreSQL database" in error.hint
        assert 'ENGINE "django.db.backends.postgresql"' in error.hint


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        (
            {"max_attempts": 2},
            "TASKS['default'][\"max_attempts\"] has no effect beside OPTIONS. Put 'max_attempts' in it.",
        ),
        ({"DATABASE": "x"}, "Put 'database' in it."),
        ({"QUEUE": ["ai"]}, "Did you mean 'QUEUES'?"),
        ({"QUEUES": "ai"}, "must be a list of names, [] for any name, got 'ai'"),
        ({"QUEUES": None}, "must be a list of names"),
        ({"QUEUES": iter(["ai"])}, "must be a list of names"),
        ({"QUEUES": ["x" * 65]}, "a name must be a str of 1 to 64 characters"),
        ({"QUEUES": [7]}, "got 7"),
        ({"OPTIONS": None}, "must be a dict, got None"),
        ({"OPTIONS": {"database": ["default"]}}, "database must be an alias of DATABASES"),
        ({"OPTIONS": {"max_atempts": 2}}, "Did you mean 'max_attempts'?"),
        ({"OPTIONS": {"queues": {"ai": {"retention": 7}}}}, "retention must be"),
        ({"OPTIONS": {"queues": {7: {}}}}, "a name must be a str of 1 to 64 characters without NUL, got 7"),
        ({"OPTIONS": {7: 1}}, ": 7 is not a setting"),
        ({7: 1}, '["7"] is not a setting'),
    ],
)
def test_a_wrong_entry_is_an_error_of_the_check_and_stops_enqueueing(settings, entry, says):
    (error,) = PostgresBackend("default", entry).check()
    assert error.id == "pgonly_django.E002"
    assert says in error.msg
    settings.TASKS = {"default": {"BACKEND": "pgonly_django.tasks.PostgresBackend", **entry}}
    task(linear)  # a module of tasks can be imported, or the check would not come to say it
    with pytest.raises(ImproperlyConfigured, match=re.escape(says)):
        calls.add.enqueue(1)


def test_an_alias_that_no_row_can_hold_is_an_error():
    (error,) = PostgresBackend("a" * 65, {}).check()
    assert "at most 64 characters long, got 65" in error.msg


def test_defaults_of_a_queue_that_no_task_can_have_are_warned_about():
    options = {"queues": {"ai": {"max_attempts": 8}, "mial": {"atomic": True}}}
    (warning,) = PostgresBackend("default", {"QUEUES": ["ai", "mail"], "OPTIONS": options}).check()
    assert warning.id == "pgonly_django.W002"
    assert "has 'mial' (did you mean 'mail'?), which \"QUEUES\" lacks" in warning.msg
    assert PostgresBackend("default", {"QUEUES": [], "OPTIONS": options}).check() == []


def test_tasks_and_schedules_can_be_declared_before_the_apps_are_loaded():
    """TASKS is read while they load."""
    code = (
        "from django.conf import settings; settings.configure(); "
        "import pgonly_django.tasks; from pgonly_django import cron, task"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
