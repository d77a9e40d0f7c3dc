"""Django's own cache tests, run on this cache instead of Django's, sync and async."""

from unittest import skip

from cache.tests import (
    BaseCacheTests,
    CacheHEADTest,
    CacheI18nTest,
    CacheMiddlewareTest,
    CacheUtils,
    PrefixedCacheI18nTest,
    PrefixedCacheUtils,
    TestWithTemplateResponse,
    caches_setting_for_tests,
)
from django.core.cache import cache
from django.test import TestCase, TransactionTestCase, override_settings

from tests.contract.reasons import ANY_KEY_WORKS, COUNTS, NO_CULLING
from tests.waiting import PATIENT

CACHES = caches_setting_for_tests(BACKEND="pgonly_django.cache.PostgresCache", LOCATION="contract")
for params in CACHES.values():
    params["OPTIONS"] = PATIENT | params.get("OPTIONS", {})


class PostgresCacheTests(BaseCacheTests):
    test_invalid_key_characters = skip(ANY_KEY_WORKS)(BaseCacheTests.test_invalid_key_characters)
    test_invalid_key_length = skip(ANY_KEY_WORKS)(BaseCacheTests.test_invalid_key_length)
    test_invalid_with_version_key_length = skip(ANY_KEY_WORKS)(
        BaseCacheTests.test_invalid_with_version_key_length
    )
    test_delete_many_no_keys = skip(COUNTS)(BaseCacheTests.test_delete_many_no_keys)
    test_cull = skip(NO_CULLING)(BaseCacheTests.test_cull)
    test_zero_cull = skip(NO_CULLING)(BaseCacheTests.test_zero_cull)

    def test_the_cache_is_ours(self) -> None:
        self.assertEqual(type(cache._connections[cache._alias]).__name__, "PostgresCache")


@override_settings(CACHES=CACHES)
class InATestsTransaction(PostgresCacheTests, TestCase):
    pass


@override_settings(CACHES=CACHES)
class OnItsOwnConnections(PostgresCacheTests, TransactionTestCase):
    pass


# Not in a TestCase: these send request_finished, which closes the connection.
PAGES = {
    "default": {"BACKEND": "pgonly_django.cache.PostgresCache", "OPTIONS": PATIENT},
    "other": {
        "BACKEND": "pgonly_django.cache.PostgresCache",
        "LOCATION": "other",
        "TIMEOUT": "1",
        "OPTIONS": PATIENT,
    },
}


def on_our_pages(tests):
    return override_settings(CACHES=PAGES)(type(tests.__name__, (tests, TransactionTestCase), {}))


# In the place of Django's own, so that these do not run too.
CacheUtils, PrefixedCacheUtils = on_our_pages(CacheUtils), on_our_pages(PrefixedCacheUtils)
CacheI18nTest, PrefixedCacheI18nTest = on_our_pages(CacheI18nTest), on_our_pages(PrefixedCacheI18nTest)
CacheHEADTest, CacheMiddlewareTest = on_our_pages(CacheHEADTest), on_our_pages(CacheMiddlewareTest)
TestWithTemplateResponse = on_our_pages(TestWithTemplateResponse)
del PostgresCacheTests, BaseCacheTests
