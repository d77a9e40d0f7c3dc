"""What the project's own tests may do. Django's runner and pytest run them (tests/database/test_testrun.py)."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.request import urlopen

from asgiref.sync import sync_to_async
from django.core.cache import cache, caches
from django.core.management import call_command
from django.test import LiveServerTestCase, SimpleTestCase, TestCase, TransactionTestCase
from django.test.testcases import DatabaseOperationForbidden

from pgonly_django.database import connect
from pgonly_django.models import CacheEntry, DurableCacheEntry, Job
from pgonly_django.sessions import SessionStore
from tests.sample_project.tasks import do_nothing

OF_DEFAULT = ("default", "ignoring", "durable")
CALLS = {
    "get": lambda cache: cache.get("stored"),
    "set": lambda cache: cache.set("stored", "test"),
    "add": lambda cache: cache.add("new", "test"),
    "incr": lambda cache: cache.incr("stored"),
    "delete": lambda cache: cache.delete("stored"),
    "get_many": lambda cache: cache.get_many(["stored"]),
    "set_many": lambda cache: cache.set_many({"stored": "test"}),
    "delete_many": lambda cache: cache.delete_many(["stored"]),
    "get_or_set": lambda cache: cache.get_or_set("new", "test"),
    "delete_pattern": lambda cache: cache.delete_pattern("*"),
    "clear": lambda cache: cache.clear(),
    "lock": lambda cache: cache.lock("lock").acquire(blocking=False),
}
ASYNC_CALLS = {
    "aset": lambda cache: cache.aset("stored", "test"),
    "aclear": lambda cache: cache.aclear(),
    "aget_or_set": lambda cache: cache.aget_or_set("new", "test"),
    "lock.aacquire": lambda cache: cache.lock("lock").aacquire(blocking=False),
}

try:
    cache.clear()
    AT_IMPORT = None
except Exception as error:
    AT_IMPORT = error


def in_a_thread(function, *arguments):
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(function, *arguments).result(60)


class RefusesTestCase(SimpleTestCase):
    def assert_refused(self, function, *arguments):
        with self.assertRaisesRegex(
            DatabaseOperationForbidden, "(?s)not allowed.*PostgresCache.*override_settings"
        ):
            function(*arguments)


class InSimpleTestCase(RefusesTestCase):
    def test_at_import_the_cache_was_refused_too(self):
        self.assertIsInstance(AT_IMPORT, (DatabaseOperationForbidden, RuntimeError))

    def test_every_call_is_refused(self):
        for alias in caches.settings:
            for name, call in CALLS.items():
                with self.subTest(call=name, cache=alias):
                    self.assert_refused(call, caches[alias])

    async def test_every_async_call_is_refused_and_the_sync_ones_in_coroutines(self):
        for alias in caches.settings:
            for name, call in ASYNC_CALLS.items():
                with (
                    self.subTest(call=name, cache=alias),
                    self.assertRaisesRegex(DatabaseOperationForbidden, "not allowed"),
                ):
                    await call(caches[alias])
            self.assert_refused(caches[alias].clear)

    def test_a_view_is_refused(self):
        self.assert_refused(self.client.get, "/unsaved/")

    def test_sessions_jobs_workers_and_commands_are_refused(self):
        for refused in (
            SessionStore().save,
            do_nothing.enqueue,
            lambda: connect.connect("default", application_name="pgonly test"),
            lambda: call_command("pgonly_cache", "clear", "default", verbosity=0),
            lambda: call_command("runworker", burst=True, verbosity=0),
        ):
            with self.assertRaisesRegex(DatabaseOperationForbidden, "not allowed"):
                refused()


async def sync_clear():
    cache.clear()


class WithOneOfTheDatabases(RefusesTestCase, TestCase):
    databases = frozenset({"default"})

    def test_the_other_database_is_refused(self):
        for name, call in CALLS.items():
            with self.subTest(call=name):
                self.assert_refused(call, caches["other"])
        self.assert_refused(in_a_thread, caches["other"].clear)


class RollsBack(TestCase):
    """The tests run in this order: what one test caches must be gone in the next."""

    databases = frozenset({"default", "other"})

    @classmethod
    def setUpTestData(cls):
        for alias in caches.settings:
            caches[alias].set("of the class", 1)

    def check_and_write(self):
        for alias in caches.settings:
            self.assertEqual(caches[alias].get("of the class"), 1)
            self.assertIsNone(caches[alias].get("stored"))
            self.assertTrue(caches[alias].add("left behind", 1))

    def test_one(self):
        self.check_and_write()

    def test_the_next(self):
        self.check_and_write()

    async def check_and_write_async(self):
        for alias in caches.settings:
            self.assertEqual(await caches[alias].aget("of the class"), 1)
            self.assertTrue(await caches[alias].aadd("left behind", 1))
            self.assertEqual(await caches[alias].aget_or_set("computed", one), 1)
            async with caches[alias].lock("lock"):
                self.assertTrue(await sync_to_async(caches[alias].add)("left by the test's thread", 1))

    async def test_one_in_coroutines(self):
        await self.check_and_write_async()

    async def test_the_next_in_coroutines(self):
        await self.check_and_write_async()

    def test_views(self):
        self.assertEqual(self.client.get("/count/").content, b"1")
        self.assertEqual(self.client.get("/count-async/").content, b"2")
        self.assertEqual(self.client.session["visits"], 1)

    def test_a_lock_is_held_without_a_thread_that_renews_it(self):
        before = threading.active_count()
        with cache.lock("lock"):
            self.assertEqual(threading.active_count(), before)

    def test_threads_are_refused_because_their_writes_would_not_roll_back(self):
        for alias in caches.settings:
            with self.assertRaisesRegex(DatabaseOperationForbidden, "TransactionTestCase"):
                in_a_thread(caches[alias].set, "left behind", 1)
            with self.assertRaisesRegex(DatabaseOperationForbidden, "TransactionTestCase"):
                in_a_thread(asyncio.run, caches[alias].aset("left behind", 1))

    async def test_sync_calls_in_coroutines_are_refused(self):
        for alias in caches.settings:
            with self.assertRaisesRegex(DatabaseOperationForbidden, "aget"):
                caches[alias].set("left behind", 1)


async def one():
    return 1


class AfterAllTestCases(TransactionTestCase):
    """Django runs TransactionTestCases after all TestCases, and this one first."""

    databases = frozenset({"default", "other"})

    def test_nothing_was_left_behind(self):
        for alias in self.databases:
            for model in (CacheEntry, DurableCacheEntry, Job):
                self.assertEqual(model.objects.using(alias).count(), 0)


class Commits(TransactionTestCase):
    databases = frozenset({"default", "other"})

    def test_the_cache_works_in_threads_and_coroutines_on_the_test_database(self):
        for alias in caches.settings:
            self.assertIsNone(caches[alias].get("stored"))
            caches[alias].set("number", 1)
            self.assertEqual(in_a_thread(caches[alias].incr, "number"), 2)
            self.assertEqual(asyncio.run(caches[alias].aincr("number")), 3)
            caches[alias].clear()

    def test_a_view(self):
        self.assertEqual(self.client.get("/count/").content, b"1")

    def test_a_thread_that_outlives_all_tests_does_not_reach_the_real_database(self):
        """No test can see its error, so tests/database/test_testrun.py checks the real database."""

        def work():
            while threading.main_thread().is_alive():
                time.sleep(0.01)
            cache.set("stored", "test")

        cache.set("stored", "test")
        threading.Thread(target=work).start()


class WithALiveServer(LiveServerTestCase):
    def test_the_servers_threads_use_the_test_database(self):
        for expected in (b"1", b"2"):
            self.assertEqual(urlopen(f"{self.live_server_url}/count-async/").read(), expected)


del RefusesTestCase
