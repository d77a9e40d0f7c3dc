"""What the project's own tests may do under pytest-django. See suite_django.py."""

from __future__ import annotations

import asyncio

import pytest
from django.core.cache import cache, caches

from pgonly_django.database import connect
from pgonly_django.models import CacheEntry
from pgonly_django.sessions import SessionStore
from tests.sample_project.suite_django import CALLS, OF_DEFAULT, in_a_thread, one, sync_clear
from tests.sample_project.tasks import do_nothing

every_cache = pytest.mark.parametrize("alias", caches.settings)
of_default = pytest.mark.parametrize("alias", OF_DEFAULT)
REFUSED = r"(?s)django_db.*PostgresCache.*override_settings"


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@every_cache
def test_without_the_mark_every_call_is_refused(alias, call):
    with pytest.raises(RuntimeError, match=REFUSED):
        call(caches[alias])


@every_cache
def test_without_the_mark_coroutines_and_threads_are_refused(alias):
    for refused in (
        lambda: asyncio.run(caches[alias].aclear()),
        lambda: in_a_thread(caches[alias].clear),
        lambda: asyncio.run(sync_clear()),
    ):
        with pytest.raises(RuntimeError, match=REFUSED):
            refused()


def test_without_the_mark_a_view_is_refused(client):
    with pytest.raises(RuntimeError, match=REFUSED):
        client.get("/unsaved/")


def test_without_the_mark_sessions_jobs_and_workers_are_refused():
    for refused in (
        SessionStore().save,
        do_nothing.enqueue,
        lambda: connect.connect("default", application_name="pgonly test"),
    ):
        with pytest.raises(RuntimeError, match="django_db"):
            refused()


@pytest.mark.parametrize("time", ["first", "second"])
@of_default
def test_with_the_mark_it_rolls_back(db, alias, time):
    assert caches[alias].get("stored") is None
    assert caches[alias].add("left behind", 1)


@pytest.mark.parametrize("time", ["first", "second"])
@of_default
def test_with_the_mark_coroutines_in_the_tests_thread_roll_back(db, alias, time):
    async def in_the_loop():
        assert all(await asyncio.gather(*(caches[alias].aadd(f"left {number}", 1) for number in range(5))))
        assert await caches[alias].aget_or_set("computed", one) == 1
        assert caches[alias].add("left behind", 1)

    asyncio.run(in_the_loop())


def test_with_the_mark_threads_and_the_other_database_are_refused(db):
    with pytest.raises(AssertionError, match=r"django_db\(transaction=True\)"):
        in_a_thread(cache.set, "left behind", 1)
    with pytest.raises(AssertionError, match=r"(?s)other.*override_settings"):
        caches["other"].clear()


def test_with_the_mark_a_view_rolls_back(db, client):
    assert client.get("/count/").content == b"1"


@pytest.mark.django_db(transaction=True, databases=["default", "other"])
@every_cache
def test_with_real_transactions_it_is_in_the_test_database(alias):
    assert CacheEntry.objects.count() == 0
    assert caches[alias].get("stored") is None
    caches[alias].set("number", 1)
    assert in_a_thread(caches[alias].incr, "number") == 2
    caches[alias].clear()
