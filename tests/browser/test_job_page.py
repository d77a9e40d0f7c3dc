"""A job's page: its traceback, and the form that edits it."""

from __future__ import annotations

from datetime import timedelta

import pytest

from pgonly_django.models import Budget, Job, State, Step
from tests.admin.jobs.test_page import LIBRARY, NOON, OWN, attempt
from tests.browser.pages import APP
from tests.queue.rows import make

pytestmark = pytest.mark.slow

TRACEBACK = f"Traceback (most recent call last):\n{OWN}{LIBRARY}{LIBRARY}shop.Refused: no\n"
ERROR = attempt("failed", 0, exception="shop.Refused", message="no", traceback=TRACEBACK, attempt=1)


def page_of(job: Job) -> str:
    return f"{APP}job/{job.pk}/change/"


def test_the_frames_of_libraries_open_and_the_whole_traceback_is_copied(person, expect):
    job = make(state=State.FAILED, errors=[ERROR])
    page = person().goes_to(page_of(job))
    expect(page.get_by_text("in charge")).to_be_visible()
    expect(page.get_by_text("httpx")).not_to_be_visible()
    page.get_by_role("button", name="Show all frames").click()
    expect(page.get_by_text("httpx")).to_be_visible()
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == TRACEBACK


def test_without_the_clipboard_the_traceback_is_selected(person, expect):
    job = make(state=State.FAILED, errors=[ERROR])
    page = person().goes_to(page_of(job))
    page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    page.get_by_role("button", name="Copy").click()
    expect(page.get_by_role("button", name="Selected: press Ctrl-C")).to_be_visible()
    selected = page.evaluate("getSelection().toString()")
    assert "in charge" in selected
    assert "httpx" in selected


def test_a_waiting_job_is_edited_by_keyboard_alone_and_its_secret_stays(person):
    job = make(task="tests.jobs.editing.pay", args=["7", "hunter2"])
    page = person().goes_to(page_of(job))
    page.get_by_role("link", name="Edit").focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/edit/")
    assert "hunter2" not in page.content()
    page.get_by_label("Priority").focus()
    page.keyboard.press("Control+A")
    page.keyboard.type("5")
    page.keyboard.press("Enter")
    page.wait_for_url("**/change/")
    row = Job.objects.get(pk=job.pk)
    assert (row.priority, row.args) == (5, ["7", "hunter2"])


# What is sent is counted, and goes nowhere.
COUNTED = """window.sent = 0;
document.addEventListener("submit", (event) => {
    if (!event.defaultPrevented) window.sent += 1;
    event.preventDefault();
});"""


def test_the_second_click_of_a_double_click_sends_no_second_job(person):
    job = make(task="tests.jobs.add", args=[1, 2], state=State.SUCCEEDED)
    page = person().goes_to(page_of(job).replace("/change/", "/again/"))
    page.evaluate(COUNTED)
    page.get_by_role("button", name="Run again").dblclick()
    assert page.evaluate("window.sent") == 1


def test_the_menu_of_a_job_and_the_result_of_a_step_open_without_scripts(person, expect):
    job = make(state=State.FAILED, errors=[ERROR])
    Step.objects.create(job=job, name="ask", result={"model": "m"})
    page = person(java_script_enabled=False).goes_to(page_of(job))
    expect(page.get_by_role("button", name="Retry")).to_be_visible()
    expect(page.get_by_role("link", name="Run again")).to_be_visible()
    expect(page.get_by_role("link", name="Delete")).not_to_be_visible()
    page.get_by_text("More", exact=True).click()
    expect(page.get_by_role("link", name="Delete")).to_be_visible()
    expect(page.get_by_text('"model": "m"')).not_to_be_visible()
    page.locator(".pgonly-waterfall").get_by_text("ask", exact=True).click()
    expect(page.get_by_text('"model": "m"')).to_be_visible()


def test_a_retry_forgets_the_steps_that_are_checked_in_its_box(person, expect):
    job = make(state=State.FAILED, errors=[ERROR])
    for name in ("ask", "event approve:7 " + "x" * 60):
        Step.objects.create(job=job, name=name)
    somebody = person(java_script_enabled=False)
    page = somebody.goes_to(page_of(job))
    box = page.get_by_label("ask", exact=True)
    expect(box).not_to_be_visible()
    page.get_by_text("Forget steps or waits").click()
    box.check()
    somebody.presses("Retry")
    assert Job.objects.get(pk=job.pk).state == State.READY
    assert job.steps.get().name.startswith("event")


def test_an_operator_raises_the_budget_that_holds_a_job_and_resumes_it_on_its_page(person, expect):
    budget = Budget.objects.create(name="p", usd=5, spent=5)
    job = make(state=State.HELD, held_by="budget:p")
    operator = person("operator")
    page = operator.goes_to(page_of(job))
    page.get_by_label("New cap in USD").fill("7.5")
    operator.presses("Raise and resume")
    expect(page.get_by_text("1 held job continues.")).to_be_visible()
    assert str(job.pk) in page.url
    assert Job.objects.get(pk=job.pk).state == State.READY
    budget.refresh_from_db()
    assert str(budget.usd) == "7.500000"


def test_bars_stand_where_the_scale_says(person):
    """The second half of the time was the last run."""
    times = {"enqueued_at": NOON, "started_at": NOON, "attempted_at": NOON + timedelta(minutes=10)}
    job = make(state=State.SUCCEEDED, finished_at=NOON + timedelta(minutes=20), **times)
    page = person().goes_to(page_of(job))
    bar = page.locator("rect.pgonly-succeeded").bounding_box()
    scale = page.locator(".pgonly-waterfall .pgonly-bars").last.bounding_box()
    assert bar["x"] == pytest.approx(scale["x"] + scale["width"] / 2, abs=1)
    assert bar["width"] == pytest.approx(scale["width"] / 2, abs=1)


def test_a_long_timeline_opens_at_the_newest_step(person, expect):
    job = make(
        state=State.SUCCEEDED, started_at=NOON, attempted_at=NOON, finished_at=NOON + timedelta(minutes=2)
    )
    for place in range(60):
        name = f"{chr(97 + place // 26)}{chr(97 + place % 26)}"  # no two differ in numbers alone
        Step.objects.create(job=job, name=name, finished_at=NOON + timedelta(seconds=place), result=1)
    page = person().goes_to(page_of(job))
    box = page.get_by_role("group", name="Timeline").bounding_box()
    newest = page.locator(".pgonly-waterfall > li").last.bounding_box()
    assert box["y"] <= newest["y"] <= box["y"] + box["height"]
    expect(page.get_by_text("scroll up for what was before")).to_be_visible()
