"""A job's page: its traceback, and the form that edits it."""

from __future__ import annotations

import pytest

from pgonly_django.models import Job, State
from tests.admin.jobs.test_page import LIBRARY, OWN, attempt
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
