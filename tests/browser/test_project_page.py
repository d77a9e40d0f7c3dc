"""A job on a page of a site, as its user sees it; and the page on which a person decides, by keys."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from example_project.screening.importers import new_project, read_papers
from example_project.screening.models import Paper, Verdict
from pgonly_django.models import Job, State
from pgonly_django.queue.output import SeenRow, place, write_output
from tests.browser.conftest import PHONE, SCROLLS_SIDEWAYS
from tests.example.conftest import CSV
from tests.queue.rows import make_running, make_worker
from tests.waiting import wait_for

pytestmark = pytest.mark.slow


@pytest.fixture
def project(transactional_db):
    return new_project("Three papers", "Is it a trial?", "Trials in people.", read_papers(CSV.encode()))


@pytest.fixture
def job(project):
    """Of the project, on a worker that lives as long as the test."""
    later = timezone.now() + timedelta(hours=1)
    worker = make_worker(silent_for=timedelta(hours=-1))
    job = make_running(worker.pk, lease_expires_at=later, progress={"done": 1, "total": 4, "message": ""})
    project.job_id = job.pk
    project.save()
    return job


def test_a_visitor_sees_output_and_progress_come_without_a_reload(person, project, job, server, expect):
    visitor = person(None)
    page = visitor.goes_to(f"/projects/{project.pk}/")
    box = page.locator(".pgonly-progress")
    expect(box.get_by_text("25 %")).to_be_visible()
    for number, start, text in [(1, 0, "Both \U0001f600 agree"), (2, 7, "disagree")]:
        write_output(server, [SeenRow(str(job.pk), 1, place(1, number), start, text)])
        expect(box.locator("pre")).to_have_text(
            "Both \U0001f600 agree" if number == 1 else "Both \U0001f600 disagree"
        )
    Job.objects.filter(pk=job.pk).update(progress={"done": 3, "total": 4, "message": "Nearly done"})
    expect(box.get_by_text("75 %")).to_be_visible()
    expect(box.get_by_text("Nearly done")).to_be_visible()
    page.set_viewport_size(PHONE)
    assert page.evaluate(SCROLLS_SIDEWAYS) == 0
    Job.objects.filter(pk=job.pk).update(state=State.FAILED, finished_at=timezone.now())
    expect(box.get_by_text("Failed")).to_be_visible()


def test_disputed_papers_are_decided_by_keys_alone(person, project, expect):
    for paper in Paper.objects.of(project):
        opinions = {
            name: {"decision": d, "reason": ""} for name, d in (("points", "include"), ("pico", "exclude"))
        }
        Verdict.objects.record(paper, opinions)
    page = person(None).goes_to(f"/projects/{project.pk}/papers/1/")
    expect(page.get_by_text("1 of 3 disputed")).to_be_visible()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_text("2 of 3 disputed")).to_be_visible()
    page.keyboard.press("e")
    wait_for(lambda: Paper.objects.of(project)[1].decided == "exclude")
    expect(page.get_by_text("1 of 2 disputed")).to_be_visible()
    page.keyboard.press("u")
    wait_for(lambda: Paper.objects.of(project)[1].decided == "")
    expect(page.get_by_text("2 of 3 disputed")).to_be_visible()
