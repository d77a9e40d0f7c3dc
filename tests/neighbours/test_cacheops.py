"""django-cacheops, which keeps what it caches in Redis."""

from __future__ import annotations

import pytest
from cacheops import invalidate_all
from cacheops.conf import prepare_profiles
from django.conf import settings
from django.contrib.auth.models import User
from django.core.cache import cache
from django.test import override_settings

from pgonly_django.models import CacheEntry, Job
from pgonly_django.neighbours import check_cacheops
from tests.jobs import add
from tests.neighbours.redis_server import redis_server

pytestmark = pytest.mark.slow

ALL = {"ops": "all", "timeout": 60}


@pytest.fixture(scope="session")
def redis_of_cacheops():
    with redis_server(settings.REDIS_PORT):
        yield


@pytest.fixture
def caches_queries(redis_of_cacheops, transactional_db):
    """Nothing is cached yet."""
    invalidate_all()


def checked(profiles):
    with override_settings(CACHEOPS=profiles):
        prepare_profiles.memory.clear()
        found = [(each.id, each.msg, each.hint) for each in check_cacheops()]
    prepare_profiles.memory.clear()
    return found


def test_with_our_models_left_out_jobs_and_entries_are_seen_as_they_are(caches_queries, work):
    result = add.enqueue(1, 2)
    cache.set("colour", "red")
    entries = CacheEntry.objects.filter(key__contains="colour")
    assert (Job.objects.get(pk=result.id).state, entries.count()) == ("ready", 1)
    work()
    cache.delete("colour")
    assert (Job.objects.get(pk=result.id).state, entries.count()) == ("succeeded", 0)


def test_it_caches_the_others(caches_queries, django_assert_num_queries):
    User.objects.create(username="ann")
    for expected in (1, 0):
        with django_assert_num_queries(expected):
            assert [user.username for user in User.objects.all()] == ["ann"]


@pytest.mark.parametrize("profiles", [{"*.*": ALL}, {"pgonly_django.job": ALL}, {"pgonly_django.*": ALL}])
def test_the_check_names_the_models_that_it_would_cache(profiles):
    ((number, message, hint),) = checked(profiles)
    assert number == "pgonly_django.W071"
    assert "Job" in message
    assert '"pgonly_django.*": None' in hint


@pytest.mark.parametrize(
    "profiles",
    [
        {"*.*": {"timeout": 60}},
        {"pgonly_django.*": None, "*.*": ALL},
        {"auth.*": ALL},
        {"*.*": {"ops": (), "timeout": 60}},
    ],
)
def test_the_check_is_silent_where_nothing_of_ours_is_cached(profiles):
    assert checked(profiles) == []
