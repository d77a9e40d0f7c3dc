"""The overview while jobs run and a worker dies, and its buttons."""

from __future__ import annotations

import re
import signal

import pytest
from django.contrib.admin.models import LogEntry

from example_project.screening.demo import sample_tasks
from pgonly_django.models import Job, JobStats, Queue, State, Worker
from tests.browser.chromium import follow
from tests.browser.pages import APP
from tests.queue.rows import HOUR, MINUTE, ago, make
from tests.waiting import wait_for

pytestmark = pytest.mark.slow


@pytest.mark.process
def test_the_overview_shows_live_that_a_worker_was_killed_and_that_another_takes_its_job_over(
    person, workers, expect
):
    first = workers.start("reports", "first")
    job = Job.objects.get(pk=sample_tasks.make_report.enqueue("Northwind", 400, 0.1).id)
    page = person().goes_to(APP)
    page.evaluate("window.isSamePage = true")
    expect(page.get_by_role("link", name="make_report").first).to_be_visible(timeout=15_000)
    first.send_signal(signal.SIGKILL)
    expect(page.get_by_text("silent").first).to_be_visible(timeout=25_000)
    workers.start("reports", "second")
    taken = f"//li[@data-key='{Worker.objects.get(name='second').pk}']"
    expect(page.locator(taken).get_by_role("link", name="make_report")).to_be_visible(timeout=25_000)
    assert page.evaluate("window.isSamePage"), "it was loaded again"
    assert Job.objects.get(pk=job.pk).state == State.RUNNING


@pytest.mark.process
def test_a_job_whose_worker_was_killed_looks_so_on_every_page_until_another_has_it(person, workers, expect):
    first = workers.start("reports", "first")
    job = Job.objects.get(pk=sample_tasks.make_report.enqueue("Northwind", 400, 0.1).id)
    operator, visitor = person("operator"), person(None)
    box = visitor.goes_to(f"/your-job/{job.pk}/")
    expect(box.locator("[data-part=percent]")).to_have_text(re.compile(r"[1-9]"), timeout=25_000)
    page = operator.goes_to(f"{APP}job/{job.pk}/change/")
    expect(page.get_by_text("per minute").first).to_be_visible(timeout=15_000)
    first.send_signal(signal.SIGKILL)
    banner = page.locator(".pgonly-waits-bad")
    expect(banner).to_contain_text(
        "the worker first does not answer. No worker is live that could take the job over", timeout=25_000
    )
    assert "per minute" not in page.locator("main").inner_text()
    expect(box.locator("[data-part=label]")).to_contain_text("Interrupted", timeout=25_000)
    page = operator.goes_to(f"{APP}job/?state__exact=running")
    expect(page.locator("#result_list tbody tr").first.get_by_text("Silent")).to_be_visible()
    page = operator.goes_to(f"{APP}worker/{Worker.objects.get(name='first').pk}/change/")
    expect(page.get_by_text("it does not answer, and its jobs wait for another worker")).to_be_visible()
    workers.start("reports", "second")
    page = operator.goes_to(f"{APP}job/{job.pk}/change/")
    expect(page.get_by_text("last heard of").first).to_be_attached(timeout=25_000)
    expect(banner).to_have_count(0)
    expect(box.locator("[data-part=label]")).not_to_contain_text("Interrupted", timeout=25_000)


def test_a_queue_without_a_worker_is_said_in_red_and_leads_to_its_jobs(person):
    for _ in range(3):
        make(queue="ai", ready_at=ago(HOUR))
    page = person("reader").goes_to(APP)
    follow(page, page.get_by_role("link", name="ai").filter(has_text="3 jobs wait").click)
    assert page.locator("input.action-select, #result_list tbody tr").count() >= 3


def test_a_failed_job_is_retried_by_three_clicks_and_a_bar_opens_its_jobs(person):
    entry = {"outcome": "failed", "exception": "shop.Refused"}
    at = ago(2 * MINUTE)
    job = make(state=State.FAILED, finished_at=at, errors=[entry])
    stats = {"granularity": "minute", "queue": "default", "task": job.task, "failed": 1}
    JobStats.objects.create(starts_at=at.replace(second=0, microsecond=0), **stats)
    operator = person("operator")
    page = operator.goes_to(APP)
    follow(page, page.get_by_role("link", name="Runs that ended").click)
    follow(page, page.locator("#panel-throughput svg a").click)
    assert page.locator("#result_list tbody tr").count() == 1
    operator.goes_to(APP)
    follow(page, page.get_by_role("link", name="Retry: 1 job of add failed").click)
    operator.presses("Retry 1 job")
    assert Job.objects.get(pk=job.pk).state == State.READY
    assert "Nothing" in operator.goes_to(APP).locator("#panel-alerts").inner_text()


def test_failures_are_marked_as_seen_with_the_keyboard(person):
    make(state=State.FAILED, finished_at=ago(MINUTE), errors=[{"outcome": "crashed"}])
    page = person("reader").goes_to(APP)
    page.get_by_role("button", name="Mark failures as seen").focus()
    follow(page, page.keyboard.press, "Enter")
    assert "crashed" not in page.locator("#panel-alerts").inner_text()


def test_a_queue_is_paused_and_resumed_by_two_clicks_and_the_page_is_the_overview_again(person):
    make(queue="mail")
    Queue.objects.named("mail")
    operator = person("operator")
    page = operator.goes_to(APP)
    operator.presses("Pause: mail")
    assert Queue.objects.get(name="mail").paused_at is not None
    assert page.url == operator.site.url + APP
    operator.presses("Resume: mail")
    assert Queue.objects.get(name="mail").paused_at is None
    assert LogEntry.objects.filter(user=operator.user).count() == 2


def test_the_keyboard_alone_pauses_a_queue(person):
    """The button is reached by the Tab key, one sees where one is, and Enter presses it."""
    Queue.objects.named("mail")
    make(queue="mail")
    page = person("operator").goes_to(APP)
    for _ in range(200):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.getAttribute('aria-label')") == "Pause: mail":
            break
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    shadow = page.evaluate("getComputedStyle(document.activeElement).boxShadow")
    assert outline != "none" or shadow != "none", "the focus is not to be seen"
    page.keyboard.press("Enter")
    wait_for(lambda: Queue.objects.get(name="mail").paused_at is not None)
