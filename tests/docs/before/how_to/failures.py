"""The modules that the settings of the page name."""

from types import SimpleNamespace

from pgonly_django import task as declare
from pgonly_django.models import Job
from pgonly_django.testing import drain
from tests.docs.assumed import project_module, this_page_is

captured, tickets = [], []
sentry_sdk = SimpleNamespace(capture_exception=captured.append)
Ticket = SimpleNamespace(objects=SimpleNamespace(create=lambda **values: tickets.append(values)))
project_module("mysite.alerts", tell_us=lambda task_result, error: None)
this_page_is("screening.tasks", __name__)


class OutOfCreditError(Exception):
    pass


@declare(dead_letter_queue="dead", max_attempts=1)
def always_fails():
    raise OutOfCreditError("no credit")


def after(page):
    assert page.done.jobs == 0
    always_fails.enqueue()
    drain(raise_errors=False)
    assert tickets[0]["title"].endswith(".always_fails failed")
    assert "OutOfCreditError: no credit" in tickets[0]["text"]
    assert dict(page.screen_project.declared)["dead_letter_queue"] == "dead"
    assert Job.objects.filter(queue="dead", state="succeeded").count() == 1
    assert page.at_most_five_times(None, SimpleNamespace(attempts=2)) == 30
    assert page.at_most_five_times(None, SimpleNamespace(attempts=5)) is None
