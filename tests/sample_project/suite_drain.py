"""drain() in the project's own tests. Django's runner and pytest run them (tests/database/test_testrun.py)."""

from __future__ import annotations

from django.core.cache import cache
from django.test import TestCase, TransactionTestCase

from pgonly_django.models import Job
from pgonly_django.testing import adrain, drain
from tests.sample_project.tasks import count_up, count_up_async, do_nothing_elsewhere


class Drains(TestCase):
    databases = frozenset({"default", "other"})

    @classmethod
    def setUpTestData(cls):
        count_up.enqueue("of the class", 2)

    def test_a_test_has_the_jobs_of_its_class(self):
        self.assertEqual([result.return_value for result in drain()], [2])
        self.assertEqual(cache.get("of the class"), 2)
        self.assertEqual(Job.objects.get().state, "succeeded")

    async def test_async_tests_have_them_as_well(self):
        results = await adrain()
        self.assertEqual([result.return_value for result in results], [2])
        self.assertEqual(await cache.aget("of the class"), 2)

    def test_jobs_of_other_databases_run_too(self):
        do_nothing_elsewhere.enqueue()
        self.assertEqual(len(drain()), 2)


class DrainsWhatIsCommitted(TransactionTestCase):
    databases = frozenset({"default", "other"})

    def test_sync(self):
        count_up.enqueue("counted", 3)
        do_nothing_elsewhere.enqueue()
        self.assertEqual([result.return_value for result in drain()], [3, None])

    async def test_async(self):
        await count_up_async.aenqueue("counted")
        self.assertEqual([result.return_value for result in await adrain()], [1, None])
