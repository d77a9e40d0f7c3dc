"""drain() in the project's own tests. Django's runner and pytest run them (tests/database/test_testrun.py)."""

from __future__ import annotations

from django.core.cache import cache
from django.db import transaction
from django.test import SimpleTestCase, TestCase, TransactionTestCase
from django.test.testcases import DatabaseOperationForbidden

from pgonly_django.models import Job
from pgonly_django.testing import adrain, drain
from tests.sample_project.suite_django import in_a_thread
from tests.sample_project.tasks import count_up, count_up_async, do_nothing, do_nothing_elsewhere, fail


class WithoutDatabase(SimpleTestCase):
    def test_it_is_refused(self):
        with self.assertRaisesRegex(DatabaseOperationForbidden, "not allowed"):
            drain()


class Drains(TestCase):
    databases = frozenset({"default", "other"})

    @classmethod
    def setUpTestData(cls):
        count_up.enqueue("of the class", 2)

    def check(self, results):
        self.assertEqual([result.return_value for result in results], [2])
        self.assertEqual(cache.get("of the class"), 2)
        self.assertEqual(Job.objects.get().state, "succeeded")

    def test_each_test_has_the_jobs_of_its_class(self):
        self.check(drain())

    def test_the_next_one_too(self):
        self.check(drain())

    async def test_async_tests_have_them_as_well(self):
        results = await adrain()
        self.assertEqual([result.return_value for result in results], [2])
        self.assertEqual(await cache.aget("of the class"), 2)

    async def test_async_jobs_in_async_tests(self):
        await count_up_async.aenqueue("counted")
        results = await adrain()
        self.assertEqual([result.return_value for result in results], [2, 1, None])
        self.assertEqual(await Job.objects.acount(), 3)

    def test_jobs_of_other_databases_run_too(self):
        do_nothing_elsewhere.enqueue()
        self.assertEqual(len(drain()), 2)

    def test_jobs_that_are_enqueued_after_the_commit(self):
        with self.captureOnCommitCallbacks(execute=True):
            transaction.on_commit(do_nothing.enqueue)
        self.assertEqual(len(drain()), 2)

    def test_a_job_that_fails_fails_the_test(self):
        drain()
        fail.enqueue()
        with self.assertRaisesRegex(ValueError, "not today"):
            drain()

    def test_in_a_thread_it_is_refused(self):
        with self.assertRaisesRegex(DatabaseOperationForbidden, "TransactionTestCase"):
            in_a_thread(drain)


class WithOneOfTheDatabases(TestCase):
    databases = frozenset({"default"})

    def test_the_jobs_of_that_one_run(self):
        do_nothing.enqueue()
        self.assertEqual(len(drain()), 1)


class DrainsWhatIsCommitted(TransactionTestCase):
    databases = frozenset({"default", "other"})

    def test_sync(self):
        count_up.enqueue("counted", 3)
        do_nothing_elsewhere.enqueue()
        self.assertEqual([result.return_value for result in drain()], [3, None])

    async def test_async(self):
        await count_up_async.aenqueue("counted")
        self.assertEqual([result.return_value for result in await adrain()], [1, None])
