"""What {% job_progress %} shows to the user of a site, in his browser."""

from __future__ import annotations

import re

import pytest

from example_project.screening.demo import sample_tasks
from pgonly_django.models import Job, State
from tests.waiting import wait_for

pytestmark = pytest.mark.slow


def page_of(result) -> str:
    return f"/your-job/{result.id}/"


@pytest.mark.process
def test_a_visitor_sees_that_his_job_waits_then_its_text_word_by_word_and_that_it_is_done(
    person, workers, expect
):
    result = sample_tasks.answer_question.enqueue("Was it blinded?", "no key", 0.2)
    page = person(None).goes_to(page_of(result))
    page.evaluate("window.isSamePage = true")
    label, output = page.locator("[data-part=label]"), page.locator("[data-part=output]")
    expect(label).to_have_text("Waiting: no live worker serves ai")
    workers.start("ai")
    expect(output).to_contain_text("To the question", timeout=25_000)
    assert "this one." not in output.inner_text(), "all of it came at once"
    expect(output).to_have_text(re.compile("this one. $"), timeout=25_000, use_inner_text=False)
    expect(label).to_have_text("Done", timeout=15_000)
    assert page.evaluate("window.isSamePage")


@pytest.mark.process
def test_a_user_cancels_his_running_job_and_sees_it_stop(person, workers, expect):
    workers.start("reports")
    result = sample_tasks.make_report.enqueue("Northwind", 900, 0.05)
    user = person("reader")
    page = user.goes_to(page_of(result))
    expect(page.locator("[data-part=percent]")).to_have_text(re.compile(r"[1-9]"), timeout=25_000)
    page.get_by_role("button", name="Cancel").click()
    wait_for(lambda: Job.objects.get(pk=result.id).state == State.CANCELLED)
    expect(page.locator("[data-part=label]")).to_have_text("Cancelled", timeout=15_000)


def test_the_token_of_a_user_is_worth_nothing_to_another(person):
    result = sample_tasks.answer_question.enqueue("Was it blinded?", "no key")
    owner, other = person("reader"), person(None)
    box = owner.goes_to(page_of(result)).locator("[data-pgonly-progress]")
    address = (
        f"{owner.site.url}{box.get_attribute('data-pgonly-progress')}?token={box.get_attribute('data-token')}"
    )
    assert owner.context.request.get(address).status == 200
    other.goes_to("/")
    assert other.context.request.get(address).status == 403


def test_a_page_whose_user_has_signed_out_says_that_it_has_to_be_reloaded(person, expect):
    result = sample_tasks.answer_question.enqueue("Was it blinded?", "no key")
    user = person("reader")
    page = user.goes_to(page_of(result))
    user.context.clear_cookies()
    expect(page.locator("[data-part=refused]")).to_be_visible(timeout=15_000)
    expect(page.locator("[data-part=note]")).to_be_hidden()
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    page.wait_for_timeout(300)
    assert len(user.complaints) == 1, "it has asked again"
    assert "403" in user.complaints.pop()
