"""A job that a budget holds, seen and let go on by a person."""

from __future__ import annotations

import pytest

from example_project.screening.demo import sample_tasks
from example_project.screening.demo.seeding import limits
from pgonly_django.models import Budget, Job, State
from tests.browser.pages import APP
from tests.waiting import wait_for

pytestmark = pytest.mark.slow


@pytest.mark.process
def test_a_job_is_held_at_its_budget_and_goes_on_once_a_person_raises_the_cap(person, workers):
    limits.write_budgets()  # of which nothing is left
    workers.start("translations")
    job = Job.objects.get(pk=sample_tasks.translate.enqueue("Protocol", 2).id)
    operator = person("operator")
    wait_for(lambda: Job.objects.get(pk=job.pk).state == State.HELD, what="the budget to hold the job")
    page = operator.goes_to(APP)
    assert page.get_by_text("The budget “translations” holds 1 job").is_visible()
    page = operator.goes_to(f"{APP}budget/{sample_tasks.TRANSLATIONS}/change/")
    page.locator("input[name=usd]").last.fill("1")
    operator.presses("Raise and resume")
    wait_for(lambda: Job.objects.get(pk=job.pk).state == State.SUCCEEDED, what="the job to go on and end")
    assert Budget.objects.get(name=sample_tasks.TRANSLATIONS).usd == 1
