"""assert_resumable() in a project with two databases, whose names its settings read from the environment."""

from __future__ import annotations

from django.contrib.auth.models import Group, User
from django.core.cache import caches
from django.test import TestCase, TransactionTestCase

from pgonly_django.models import Session
from pgonly_django.testing import NotResumableError, NotTestableError, assert_resumable
from tests.sample_project.tasks import do_nothing_elsewhere, writes_everywhere, writes_twice_elsewhere


class InBothDatabases(TransactionTestCase):
    databases = frozenset({"default", "other"})

    def test_a_job_resumes_with_caches_sessions_and_rows_in_both(self):
        Group.objects.using("other").create(name="of the test")
        report = assert_resumable(writes_everywhere)
        self.assertEqual(report.calls, {"step 'write'": 1})
        self.assertEqual(Group.objects.using("other").get().name, "of the test")
        self.assertFalse(Session.objects.exists())
        for alias in caches.settings:
            self.assertIsNone(caches[alias].get("written"))

    def test_rows_that_are_written_twice_in_the_other_database_are_found(self):
        with self.assertRaisesRegex(NotResumableError, "auth.User in other: 2 new rows instead of 1"):
            assert_resumable(writes_twice_elsewhere)
        self.assertFalse(User.objects.using("other").exists())

    def test_the_jobs_themselves_may_be_in_the_other_database(self):
        self.assertEqual(assert_resumable(do_nothing_elsewhere).killed_at, (1,))


class InBothTransactions(TestCase):
    databases = frozenset({"default", "other"})

    def test_a_job_resumes_with_caches_sessions_and_rows_in_both(self):
        self.assertEqual(assert_resumable(writes_everywhere).calls, {"step 'write'": 1})

    def test_rows_that_are_written_twice_in_the_other_database_are_found(self):
        with self.assertRaisesRegex(NotResumableError, "auth.User in other: 2 new rows instead of 1"):
            assert_resumable(writes_twice_elsewhere)


class InOne(TransactionTestCase):
    def test_the_job_may_not_use_the_other_one(self):
        with self.assertRaisesRegex(NotTestableError, "Database .* to 'other' are not allowed"):
            assert_resumable(writes_twice_elsewhere.using(max_attempts=1))
