"""The pages of the seeded demo by name: each list and page of our models in the admin, and the example's own."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import quote

from django.apps import apps
from django.contrib import admin
from django.contrib.admin.utils import quote as quote_key

from example_project.screening.demo.seeding import projects
from example_project.screening.models import Paper, Project
from example_project.screening.models.paper import Outcome
from pgonly_django.models import Job, State

APP = "/admin/pgonly_django/"


def pages() -> dict[str, str]:
    """{name: path}. A name says what the page shows."""
    return dict([*_of_the_admin(), *_of_models(), *_of_jobs(), *_others(), *_of_the_example()])


def _of_the_admin() -> Iterator[tuple[str, str]]:
    yield "admin-index", "/admin/"
    yield "overview", APP


def _of_models() -> Iterator[tuple[str, str]]:
    """The list of each registered model, and the page, history and deletion of its newest row."""
    for model in apps.get_app_config("pgonly_django").get_models():
        if not admin.site.is_registered(model):
            continue
        name = model._meta.model_name
        yield f"{name}-list", f"{APP}{name}/"
        row = model._default_manager.order_by("-pk").first()
        if row is not None and name != "job":
            yield f"{name}-page", f"{APP}{name}/{quote_key(row.pk)}/change/"


def _of_jobs() -> Iterator[tuple[str, str]]:
    yield "job-list-failed", f"{APP}job/?state__exact=failed"
    yield "job-list-search", f"{APP}job/?q=make_report"
    for state in State.values:
        if (job := Job.objects.filter(state=state).order_by("-pk").first()) is not None:
            yield f"job-{state}", f"{APP}job/{job.pk}/change/"
    for name, wanted in {
        "job-held-by-budget": {"held_by__startswith": "budget:"},
        "job-without-worker": {"queue": "ai"},
        "job-paused-queue": {"queue": "exports", "state": State.READY},
        "job-crashed": {"crashes__gte": 3},
        "job-with-cause": {"errors__icontains": "RuntimeError"},
        "job-resumed": {"state": State.SUCCEEDED, "interruptions__gte": 1},
    }.items():
        if (job := Job.objects.filter(**wanted).order_by("-pk").first()) is not None:
            yield name, f"{APP}job/{job.pk}/change/"
    held = Job.objects.held().order_by("-pk").first()
    if held is not None:
        yield "job-edit", f"{APP}job/{held.pk}/edit/"
    failed = Job.objects.failed().order_by("-pk").first()
    if failed is not None:
        yield "job-delete", f"{APP}job/{failed.pk}/delete/"
        yield "job-again", f"{APP}job/{failed.pk}/again/"
        yield "job-history", f"{APP}job/{failed.pk}/history/"
        yield "job-again", f"{APP}job/{failed.pk}/again/"
        yield "job-bulk", f"{APP}job/bulk/retry/?state__exact=failed"
    scheduled = Job.objects.filter(state=State.SCHEDULED).order_by("-pk").first()
    if scheduled is not None:
        yield "job-edit", f"{APP}job/{scheduled.pk}/edit/"


def _others() -> Iterator[tuple[str, str]]:
    yield "doctor", f"{APP}worker/doctor/"
    yield "cacheentry-numbers", f"{APP}cacheentry/numbers/"
    yield "cacheentry-clear", f"{APP}cacheentry/clear/default/"
    yield "costentry-sums", f"{APP}costentry/sums/"
    yield "queue-reports", f"{APP}queue/{quote('reports')}/change/"
    yield "limiter-archive", f"{APP}limiter/archive/change/"
    yield "budget-translations", f"{APP}budget/translations/change/"
    yield "schedule-weekly", f"{APP}schedule/{quote_key('reports of the week')}/change/"
    yield "schedule-add", f"{APP}schedule/add/"


def _of_the_example() -> Iterator[tuple[str, str]]:
    yield "example-projects", "/"
    yield "example-new", "/projects/new/"
    project = Project.objects.filter(name=projects.NAME).first()
    if project is not None:
        yield "example-project", f"/projects/{project.pk}/"
        paper = Paper.objects.of(project).of_outcome(Outcome.DISPUTED).first()
        if paper is not None:
            yield "example-paper", f"/projects/{project.pk}/papers/{paper.position}/"
    running = Project.objects.exclude(job_id=None).first()
    if running is not None:
        yield "example-project-running", f"/projects/{running.pk}/"
