"""The job itself: drained in the test, and run by Django's immediate backend."""

from __future__ import annotations

import pytest
from django.core.cache import caches
from django.db import transaction

from example_project.screening.importers import new_project, read_papers
from example_project.screening.models import Paper, Project, ReviewerCall, ScreeningRun, Verdict
from example_project.screening.status import history, status
from example_project.screening.tasks import screen_project, start_screening
from pgonly_django.models import Job
from pgonly_django.testing import assert_enqueued, assert_not_enqueued, assert_resumable, drain
from tests.docs.assumed import IMMEDIATE
from tests.example.conftest import CSV, VERDICT

pytestmark = pytest.mark.slow


def calls():
    return list(ReviewerCall.objects.order_by("pk").values_list("paper__position", "reviewer"))


def test_both_reviewers_judge_every_paper_and_each_call_is_counted(project):
    start_screening(project)
    drain()
    assert Verdict.objects.of(project).count() == 6
    assert calls() == [(paper, name) for paper in (1, 2, 3) for name in ("points", "pico")]
    now = status(project)
    assert (now.state, now.done, now.percent, now.resumed_from) == ("succeeded", 3, 100, None)
    assert project.job.result == now.outcomes


def test_a_second_screening_of_the_same_papers_makes_no_call(project, settings):
    settings.SCREENING_REUSE_ANSWERS = True
    caches["answers"].clear()
    start_screening(project)
    drain()
    assert len(calls()) == 6
    again = new_project("Again", project.question, project.criteria, read_papers(CSV.encode()))
    start_screening(again)
    drain()
    assert Verdict.objects.of(again).count() == 6
    assert len(calls()) == 6
    other = new_project("Another question", "Is it about rats?", project.criteria, read_papers(CSV.encode()))
    start_screening(other)
    drain()
    assert len(calls()) == 12


def test_a_screening_that_failed_resumes_without_paying_twice(project, api, settings):
    Project.objects.update(reviewers=["points", "chat:m"])
    project.refresh_from_db()
    api.says(VERDICT)
    api.says("no credit left", 402)
    start_screening(project)
    drain()
    assert status(project).state == "failed"
    assert status(project).buttons == ("resume",)
    api.says(VERDICT)
    api.says(VERDICT)
    project.resume()
    drain()
    now = status(project)
    assert (now.state, now.done, now.resumed_from) == ("succeeded", 3, 1)
    assert calls() == [(1, "points"), (1, "chat:m"), (2, "points"), (2, "chat:m"),
                       (2, "chat:m"), (3, "points"), (3, "chat:m")]  # fmt: skip
    events = [event.text for event in history(project)]
    assert events[0] == "Began at paper 1"
    assert "no credit left" in events[1]
    assert events[2:] == ["Began at paper 2", "Finished"]


def test_a_screening_survives_a_kill_at_each_place(transactional_db):
    first_two = "".join(CSV.splitlines(keepends=True)[:3])
    project = new_project(
        "Two papers", "Is it a trial?", "Trials in people.", read_papers(first_two.encode())
    )
    # Both are logs: of the runs, and of the calls, of which one that is cut off by a kill is made again.
    report = assert_resumable(screen_project, project.pk, ignore=[ScreeningRun, ReviewerCall])
    steps = [
        f"step '{paper.pk}:{name}'" for paper in Paper.objects.of(project) for name in ("points", "pico")
    ]
    assert report.calls == dict.fromkeys(steps, 1)
    assert len(report.killed_at) == len(report.places) > 30


def test_starting_twice_enqueues_one_job(project):
    stale = Project.objects.get(pk=project.pk)
    start_screening(project)
    start_screening(stale)
    assert_enqueued(screen_project, [project.pk], queue="screening", count=1)


def test_a_start_that_is_rolled_back_leaves_no_job(project):
    with transaction.atomic():
        start_screening(project)
        transaction.set_rollback(True)
    assert_not_enqueued()
    project.refresh_from_db()
    assert project.job_id is None


def test_without_a_worker_the_immediate_backend_screens_in_the_call(project, settings):
    settings.TASKS = IMMEDIATE
    start_screening(project)
    assert Verdict.objects.of(project).count() == 6
    assert status(project).state == "succeeded"
    assert not Job.objects.exists()
