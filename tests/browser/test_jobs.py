"""Jobs in the list and on their page: retried, cancelled, and seen while they move."""

from __future__ import annotations

import re

import pytest

from example_project.screening.demo import sample_tasks
from pgonly_django.models import Job, State
from tests.browser.pages import APP
from tests.queue.rows import make
from tests.waiting import wait_for

pytestmark = pytest.mark.slow

LIST, FAILED = f"{APP}job/", f"{APP}job/?state__exact=failed"
ERROR = {"outcome": "failed", "exception": "shop.MailError", "message": "552 mailbox full", "attempt": 1}


def page_of(job: Job) -> str:
    return f"{LIST}{job.pk}/change/"


def test_a_failed_job_is_retried_on_its_page(person):
    job = make(state=State.FAILED, errors=[ERROR])
    operator = person("operator")
    operator.goes_to(page_of(job))
    operator.presses("Retry")
    assert Job.objects.get(pk=job.pk).state == State.READY


def test_a_failed_job_says_why_in_a_line_that_has_the_width_of_the_list(person):
    make(state=State.FAILED, errors=[{**ERROR, "message": "The address does not exist: " + "x" * 60}])
    page = person("admin").goes_to(FAILED)
    page.set_viewport_size({"width": 1366, "height": 900})
    row, line = (page.locator(f"#result_list tbody {each}") for each in ("tr", "tr .pgonly-quiet >> nth=0"))
    assert "x" * 60 in line.inner_text()
    assert line.bounding_box()["width"] > 0.9 * row.bounding_box()["width"]
    assert line.evaluate("each => each.scrollWidth <= each.clientWidth"), "nothing of it is cut"
    below = page.locator("#result_list tbody .field-queue").bounding_box()
    assert line.bounding_box()["y"] > below["y"] + 10


def test_the_selected_jobs_of_the_list_are_retried_and_no_other(person):
    chosen, left = (make(state=State.FAILED, errors=[ERROR]) for _ in range(2))
    operator = person("operator")
    page = operator.goes_to(FAILED)
    page.locator(f"input.action-select[value='{chosen.pk}']").check()
    page.locator("select[name=action]").select_option(label="Retry selected jobs ...")
    page.locator("button[name=index]").click()  # Django 5.2 has another word for it
    operator.presses("Retry 1 job")
    wait_for(lambda: Job.objects.get(pk=chosen.pk).state == State.READY)
    assert Job.objects.get(pk=left.pk).state == State.FAILED


def test_all_failed_jobs_of_a_queue_are_retried_also_those_beyond_the_page(person, expect):
    for queue in ("mail", "other"):
        Job.objects.bulk_create(Job(task="shop.send", state=State.FAILED, queue=queue) for _ in range(70))
    operator = person("operator")
    page = operator.goes_to(f"{FAILED}&queue=mail")
    page.get_by_role("link", name=re.compile("^Retry")).first.click()
    expect(page.get_by_text("All that match")).to_be_visible()
    operator.presses("Retry 70 jobs")
    expect(page.get_by_text("70 jobs").first).to_be_visible()
    states = Job.objects.order_by("queue").values_list("queue", "state").distinct()
    assert set(states) == {("mail", State.READY), ("other", State.FAILED)}


@pytest.mark.process
def test_the_progress_of_a_running_job_moves_without_a_reload_until_it_is_cancelled(person, workers, expect):
    workers.start("reports")
    job = Job.objects.get(pk=sample_tasks.make_report.enqueue("Northwind", 600, 0.05).id)
    wait_for(lambda: Job.objects.get(pk=job.pk).progress)
    admin = person()
    page = admin.goes_to(page_of(job))
    page.evaluate("window.isSamePage = true")
    bar = page.locator("progress")
    seen = float(bar.get_attribute("value"))
    expect(bar).not_to_have_attribute("value", re.compile(rf"^{seen:g}$"), timeout=15_000)
    assert float(bar.get_attribute("value")) > seen
    assert page.evaluate("window.isSamePage")
    admin.presses("Cancel")
    expect(page.locator("h1")).to_contain_text("Cancelled", timeout=15_000)
    assert Job.objects.get(pk=job.pk).state == State.CANCELLED


def test_a_refresh_keeps_what_the_reader_has_selected_and_typed(person, expect):
    job = make(state=State.FAILED, errors=[ERROR])
    page = person().goes_to(LIST)
    box = page.locator(f"input.action-select[value='{job.pk}']")
    box.check()
    page.locator("#searchbar").fill("half a wor")
    fresh = make()
    expect(page.locator(f"input.action-select[value='{fresh.pk}']")).to_have_count(1, timeout=15_000)
    assert box.is_checked()
    assert page.locator("#searchbar").input_value() == "half a wor"
    assert page.evaluate("document.activeElement.id") == "searchbar"


LAPTOP = {"width": 1366, "height": 900}
WHOLE_ROWS = """() => [...document.querySelectorAll("#result_list tbody tr")].filter((row) => {
    const box = row.getBoundingClientRect();
    return box.height > 0 && box.bottom <= innerHeight && box.right <= innerWidth;
}).length"""
HEIGHTS = (
    "[...document.querySelectorAll('#result_list tbody tr')].map((row) => row.getBoundingClientRect().height)"
)


@pytest.mark.parametrize(("state", "rows", "height"), [(State.SUCCEEDED, 20, 30), (State.FAILED, 12, 48)])
def test_as_many_rows_are_seen_on_a_laptop_as_have_room(person, state, rows, height):
    """A failed job has a second line, which says why."""
    long = "The server answered 429 Too Many Requests to " + "/".join(["projects"] * 40)
    errors = [{**ERROR, "message": long, "exception": "shop." + "Long" * 30}]
    progress = {"done": 3, "total": 9, "message": long}
    Job.objects.bulk_create(
        Job(
            task=f"shop.{'very_' * number}long", state=state, queue="a queue with a long name", errors=errors,
            kwargs={"title": long, "n": number}, progress=progress, crashes=2, interruptions=3,
        )
        for number in range(30)
    )  # fmt: skip
    page = person("operator").goes_to(f"{LIST}?state__exact={state}")
    page.set_viewport_size(LAPTOP)
    assert page.evaluate(WHOLE_ROWS) >= rows
    assert max(page.evaluate(HEIGHTS)) < height
