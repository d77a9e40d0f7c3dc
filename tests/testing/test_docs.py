"""The examples of docs/how-to/testing.md run, in a project of these few functions."""

from __future__ import annotations

import unittest
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from types import SimpleNamespace

import django
import pytest
from django.core import mail
from django.utils import timezone

from pgonly_django import budget, limiter
from pgonly_django.testing import drain, time_travel
from tests.jobs import documented
from tests.snippets import snippet

PROJECT = {
    "drain": drain, "time_travel": time_travel, "mail": mail, "timezone": timezone, "timedelta": timedelta,
    "datetime": datetime, "UTC": UTC, "Decimal": Decimal, **vars(documented),
}  # fmt: skip


def run(containing, **names):
    """Run every test of the one example with these words in it."""
    code = snippet("how-to/testing.md", containing)
    if django.VERSION < (6, 0):
        code = code.replace("django.tasks", "django_tasks")
    space = {**PROJECT, **names}
    exec(code, space)
    tests = [each for name, each in space.items() if name.startswith("test_")]
    cases = [each for name, each in space.items() if name.endswith("Tests")]
    assert tests or cases
    for test in tests:
        mail.outbox.clear()
        test(names.get("self"))
    for case in cases:
        result = unittest.TestResult()
        unittest.defaultTestLoader.loadTestsFromTestCase(case).run(result)
        assert result.testsRun
        assert not result.errors + result.failures, (result.errors + result.failures)[0][1]


@pytest.fixture(autouse=True)
def api(settings):
    settings.PGONLY = {
        **settings.PGONLY,
        "LIMITERS": {"deepseek": {}},
        "SCHEDULES": {
            "nightly report": {"task": "tests.jobs.documented.make_report", "args": [1], "cron": "0 3 * * *"}
        },
    }


def view(client, *arguments):
    documented.send_mail.enqueue("welcome")


@pytest.mark.django_db
@pytest.mark.parametrize(
    "containing",
    ["test_a_broken_feed", "test_an_order_is_billed", "test_a_reminder_is", "test_the_report_is_made"],
)
def test_how_to(containing):
    run(containing, user=SimpleNamespace(pk=1), self=SimpleNamespace(client=SimpleNamespace(post=view)))


@pytest.mark.django_db
def test_the_first_example():
    def post(path, data):
        documented.send_mail.enqueue("welcome", to=data["email"])

    code = snippet("how-to/testing.md", "SignupTests").replace("class SignupTests(TestCase)", "class Signup")
    space = {**PROJECT}
    exec(code, space)
    case = space["Signup"]()
    case.client, case.assertEqual = SimpleNamespace(post=post), unittest.TestCase().assertEqual
    case.test_a_welcome_mail_is_sent()


@pytest.mark.django_db
def test_limiters_and_budgets():
    def review(text):
        with limiter("deepseek", tokens=900), budget("project:7", usd=5).reserve(0.02):
            return text

    run("fake_limits() as limits", review=review)


def test_the_other_backends():
    run("ImmediateBackend")
    run("DummyBackend")
