"""The cache is never part of the caller's transaction; in Django's TestCase it is part of the test's."""

from __future__ import annotations

import asyncio
from urllib.request import urlopen

import pytest
from asgiref.sync import sync_to_async
from django.db import connection, transaction
from django.test import LiveServerTestCase, TestCase
from django.test.utils import CaptureQueriesContext, override_settings

from pgonly_django.cache import PostgresCache
from pgonly_django.database.operation import run
from pgonly_django.database.statement import Statement
from pgonly_django.exceptions import CacheError
from pgonly_django.models import CacheEntry
from tests import activity
from tests.waiting import PATIENT, beside

DIVIDE_BY_ZERO = Statement("SELECT 1 / 0")


def test_a_rolled_back_transaction_keeps_what_it_cached(cache):
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        cache.set("key", "value")
        raise ZeroDivisionError
    assert cache.get("key") == "value"


def test_an_error_of_the_cache_does_not_abort_the_callers_transaction(make_cache):
    cache = make_cache(ON_ERROR="raise")
    with transaction.atomic():
        with pytest.raises(CacheError):
            run(cache.store.call(DIVIDE_BY_ZERO))
        assert CacheEntry.objects.count() == 0


def test_two_long_transactions_that_set_one_key_do_not_wait_for_each_other(cache):

    def second():
        with transaction.atomic():
            cache.set("key", 2)

    with transaction.atomic():
        cache.set("key", 1)
        with beside(second) as outcomes:
            pass
        assert outcomes == [None]
    assert cache.get("key") == 2


def connections_of_caches():
    return activity.pids("application_name = 'pgonly cache'")


class InATestCase(TestCase):
    """In this order: what the first test caches must be gone in the second."""

    cache = PostgresCache("in a test case", {"OPTIONS": PATIENT})

    def look_and_leave(self):
        self.assertIsNone(self.cache.get("left behind"))
        self.cache.set("left behind", 1)
        self.assertEqual(self.cache.get("left behind"), 1)

    def test_what_one_test_caches(self):
        self.look_and_leave()

    def test_the_next_does_not_see(self):
        self.look_and_leave()

    def test_an_error_leaves_the_tests_transaction_usable(self):
        strict = PostgresCache("strict", {"OPTIONS": PATIENT | {"ON_ERROR": "raise"}})
        with self.assertRaises(CacheError):
            run(strict.store.call(DIVIDE_BY_ZERO))
        self.assertEqual(CacheEntry.objects.count(), 0)

    def test_queries_of_the_cache_are_not_counted_as_the_views(self):
        with self.assertNumQueries(0):
            self.cache.set("key", 1)

    async def test_async_methods_use_the_tests_transaction_too(self):
        before = await sync_to_async(connections_of_caches)()
        await self.cache.aset("key", "async")
        self.assertEqual(await self.cache.aget("key"), "async")
        self.assertEqual(await CacheEntry.objects.acount(), 1)

        async def compute():
            await asyncio.sleep(0)
            return 5

        self.assertEqual(await self.cache.aget_or_set("computed", compute), 5)
        self.assertEqual(await sync_to_async(connections_of_caches)(), before)


def test_a_cache_call_that_is_the_first_statement_of_a_tests_transaction_rolls_back_with_it(cache):
    tests_own = transaction.atomic()
    tests_own._from_testcase = True
    with tests_own:
        cache.set("key", 1)
        transaction.set_rollback(True)
    assert cache.get("key") is None


def site_with(location):
    backend = "pgonly_django.cache.PostgresCache"
    caches = {"default": {"BACKEND": backend, "LOCATION": location, "OPTIONS": PATIENT}}
    return override_settings(ROOT_URLCONF="tests.cache.urls", CACHES=caches)


@pytest.fixture
def site(cache):
    """Its views use `cache`."""
    with site_with(cache.store.location):
        yield


def test_a_view_that_caches_and_then_raises_under_atomic_requests(client, site, cache):
    client.raise_request_exception = False
    connection.settings_dict["ATOMIC_REQUESTS"] = True
    try:
        with CaptureQueriesContext(connection) as queries:
            response = client.get("/caches-and-raises/")
    finally:
        connection.settings_dict["ATOMIC_REQUESTS"] = False
    assert response.status_code == 500
    assert cache.get("from the view") == "cached"
    assert not any("aborted" in query["sql"] for query in queries)


def test_pages_and_fragments_are_cached_by_djangos_own_middleware_and_tags(client, site, settings):
    settings.MIDDLEWARE = [
        "django.middleware.cache.UpdateCacheMiddleware",
        "django.middleware.cache.FetchFromCacheMiddleware",
    ]
    first, again = client.get("/page/"), client.get("/page/")
    assert first.content == again.content
    assert first.content != client.get("/page/?other").content
    fragment = client.get("/page/?a").content.split(b"|")[1]
    assert fragment == client.get("/page/?b").content.split(b"|")[1]


class WithALiveServer(LiveServerTestCase):
    def test_the_servers_thread_and_the_test_share_the_cache(self):
        cache = PostgresCache("live", {"OPTIONS": PATIENT})
        cache.set("key", "from the test")
        with site_with("live"):
            answer = urlopen(f"{self.live_server_url}/key/").read()
        self.assertEqual(answer, b"from the test")
        self.assertEqual(cache.get("seen by"), "the view")
