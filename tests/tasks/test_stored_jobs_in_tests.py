"""`check --deploy` in tests of a project: it asks no database that Django refuses to the test."""

from django.test import SimpleTestCase

from pgonly_django.tasks.deploy_checks import check_stored_jobs


class DeployCheckTests(SimpleTestCase):
    def test_in_a_test_without_a_database_nothing_is_asked(self):
        self.assertEqual(check_stored_jobs(), [])
