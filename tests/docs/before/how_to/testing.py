"""A project of the few functions in tests/jobs/documented.py."""

import unittest
from types import SimpleNamespace

from django.core import mail

from pgonly_django import budget, limiter
from pgonly_django.models import Job
from tests.docs.assumed import project_module
from tests.jobs.documented import *  # noqa: F403 - the page uses them by these names
from tests.jobs.documented import make_report, send_mail

user = SimpleNamespace(pk=1)
PGONLY = {
    "LIMITERS": {"deepseek": {}},
    "SCHEDULES": {
        "nightly report": {"task": "tests.jobs.documented.make_report", "args": [1], "cron": "0 3 * * *"}
    },
}
project_module("shop.tasks", import_catalogue=make_report)
project_module("shop.gateway")


def review(text):
    with limiter("deepseek", tokens=900), budget("project:7", usd=5).reserve(0.02):
        return text


class View:
    """Stands for the views of the project."""

    def post(self, path, data=None):
        send_mail.enqueue("welcome", **({"to": data["email"]} if data else {}))


def after(page):
    signup = page.SignupTests("test_a_welcome_mail_is_sent")
    signup.client = View()
    signup.test_a_welcome_mail_is_sent()
    page.ImportTests("test_an_import_survives_kills").test_an_import_survives_kills()
    tests = [each for name, each in vars(page).items() if name.startswith("test_")]
    assert len(tests) == 9
    for test in tests:
        mail.outbox.clear()
        Job.objects.all().delete()
        test(*[SimpleNamespace(client=View())] * test.__code__.co_argcount)
    for case in (page.ReportTests, page.ButtonTests):
        result = unittest.TestResult()
        unittest.defaultTestLoader.loadTestsFromTestCase(case).run(result)
        assert result.testsRun == 1
        assert not result.errors + result.failures, (result.errors + result.failures)[0][1]
