"""django-cachalot, with our cache as its cache."""

from __future__ import annotations

import pytest
from cachalot.settings import cachalot_settings
from cachalot.utils import is_cachable
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db.models import Count, Exists, OuterRef
from django.test import override_settings

from pgonly_django import neighbours as ours
from pgonly_django.compat import TaskResultStatus
from pgonly_django.models import Job
from tests.jobs import add

pytestmark = pytest.mark.slow

CASES = {
    "usual": {},
    "only these tables": {"CACHALOT_ONLY_CACHABLE_TABLES": ["auth_user", "pgonly_job", "pgonly_session"]},
    "only these apps": {"CACHALOT_ONLY_CACHABLE_APPS": ["auth", "pgonly_django"]},
}


@pytest.fixture(params=CASES)
def reloaded(request):
    """cachalot's settings as a project may have them, read again."""
    with override_settings(**CASES[request.param]):
        cachalot_settings.reload()
        yield
    cachalot_settings.reload()


def queries(django_assert_num_queries, number, look):
    with django_assert_num_queries(number):
        return look()


def test_it_caches_what_is_not_ours(reloaded, transactional_db, django_assert_num_queries):
    User.objects.create(username="ann")
    assert queries(django_assert_num_queries, 1, User.objects.get).username == "ann"
    assert queries(django_assert_num_queries, 0, User.objects.get).username == "ann"
    User.objects.update(username="bea")
    assert User.objects.get().username == "bea"


def test_a_job_is_seen_as_it_is(reloaded, work):
    result = add.enqueue(1, 2)
    result.refresh()
    jobs = Job.objects.filter(pk=result.id)
    before = [Job.objects.get(pk=result.id).state, jobs.count(), *jobs.values_list("state", flat=True)]
    assert (before, result.status) == (["ready", 1, "ready"], TaskResultStatus.READY)
    work()
    result.refresh()
    after = [Job.objects.get(pk=result.id).state, *jobs.values_list("state", flat=True)]
    assert (after, result.status) == (["succeeded"] * 2, TaskResultStatus.SUCCESSFUL)
    assert result.job.state == "succeeded"


def test_queries_that_join_our_tables_are_not_cached(reloaded, work):
    User.objects.create(username="ann")
    result = add.enqueue(1)
    ended = Job.objects.filter(state="succeeded")

    def look():
        users = User.objects.annotate(ended=Exists(ended.filter(priority__gte=OuterRef("pk") * 0)))
        return [*users.values_list("ended", flat=True)], ended.annotate(n=Count("pk")).count()

    assert look() == ([False], 0)
    work()
    assert Job.objects.get(pk=result.id).state == "succeeded"
    assert look() == ([True], 1)


def test_the_checks_say_what_is_ours_to_say(transactional_db):
    """cachalot's own W001 says that it does not know our cache."""
    call_command("check", "--fail-level", "ERROR")
    assert ours.check_cachalot() == []


def test_where_our_tables_would_be_cached_the_check_is_an_error(monkeypatch):
    monkeypatch.setattr(cachalot_settings, "CACHALOT_UNCACHABLE_TABLES", frozenset())
    assert is_cachable("pgonly_job")
    assert [error.id for error in ours.check_cachalot()] == ["pgonly_django.E070"]
