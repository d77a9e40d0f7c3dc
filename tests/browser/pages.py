"""The pages of the seeded demo by name: each list and page of our models in the admin, and the example's own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

from django.apps import apps
from django.contrib import admin
from django.contrib.admin.utils import quote as quote_key

from example_project.screening.demo.seeding import projects, questions
from example_project.screening.models import Paper, Project
from example_project.screening.models.paper import Outcome
from pgonly_django import answer_url
from pgonly_django.models import Job, State, Wait

APP = "/admin/pgonly_django/"


def pages() -> dict[str, str]:
    """{name: path}. A name says what the page shows. Those of jobs come first, which soon have another state."""
    return {
        **dict(_of_jobs()), "admin-index": "/admin/", "overview": APP,
        **dict(_of_models()), **_others(), **dict(_of_the_example()),
    }  # fmt: skip


def _of_models() -> Iterator[tuple[str, str]]:
    """The list of each registered model, and the page, history and deletion of its newest row."""
    for model in apps.get_app_config("pgonly_django").get_models():
        if model._meta.proxy or not admin.site.is_registered(model):
            continue
        name = model._meta.model_name
        yield f"{name}-list", f"{APP}{name}/"
        row = model._default_manager.order_by("-pk").first()
        if row is not None and name != "job":
            yield f"{name}-page", f"{APP}{name}/{quote_key(row.pk)}/change/"


def _of_jobs() -> Iterator[tuple[str, str]]:
    yield "job-list-failed", f"{APP}job/?state__exact=failed"
    yield "job-list-search", f"{APP}job/?q=make_report"
    wanted: dict[str, dict[str, Any]] = {f"job-{state}": {"state": state} for state in State.values}
    wanted |= {
        "job-held": {"held_by": "a person"},
        "job-held-by-budget": {"held_by__startswith": "budget:"},
        "job-without-worker": {"queue": "ai"},
        "job-paused-queue": {"queue": "exports", "state": State.READY},
        "job-crashed": {"crashes__gte": 3},
        "job-with-cause": {"errors__icontains": "RuntimeError"},
        "job-resumed": {"state": State.SUCCEEDED, "interruptions__gte": 1},
    }
    for name, columns in wanted.items():
        if (job := Job.objects.filter(**columns).order_by("-pk").first()) is not None:
            yield name, f"{APP}job/{job.pk}/change/"
    for wait in Wait.objects.order_by("pk"):
        kind = (
            "jobs"
            if wait.batch_id
            else "choices"
            if wait.choices
            else "question"
            if wait.question
            else "event"
        )
        yield f"job-waits-{kind}", f"{APP}job/{wait.job_id}/change/"
        if not wait.batch_id:
            yield f"job-answer-{kind}", f"{APP}job/{wait.job_id}/answer/?{urlencode({'key': wait.key})}"
    if (waits := Job.objects.filter(state__in=("held", "scheduled")).first()) is not None:
        yield "job-edit", f"{APP}job/{waits.pk}/edit/"
    if (failed := Job.objects.failed().order_by("-pk").first()) is not None:
        yield "job-bulk", f"{APP}job/bulk/retry/?state__exact=failed"
        for page in ("delete", "again", "history"):
            yield f"job-{page}", f"{APP}job/{failed.pk}/{page}/"


def _others() -> dict[str, str]:
    return {
        "wait-list-all": f"{APP}wait/?waits=all",
        "answer": answer_url(questions.DUPLICATES),
        "doctor": f"{APP}doctor/",
        "cacheentry-numbers": f"{APP}cacheentry/numbers/",
        "cacheentry-clear": f"{APP}cacheentry/clear/default/",
        "costentry-calls": f"{APP}costentry/?days=90",
        "overview-more": f"{APP}overview/more/",
        "queue-reports": f"{APP}queue/reports/change/",
        "queue-without-worker": f"{APP}queue/ai/change/",
        "queue-paused": f"{APP}queue/exports/change/",
        "limiter-archive": f"{APP}limiter/archive/change/",
        "budget-translations": f"{APP}budget/translations/change/",
        "schedule-add": f"{APP}schedule/add/",
    }


def _of_the_example() -> Iterator[tuple[str, str]]:
    yield "example-projects", "/"
    yield "example-new", "/projects/new/"
    yield "example-devices", "/account/devices/"
    project = Project.objects.filter(name=projects.NAME).first()
    if project is not None:
        yield "example-project", f"/projects/{project.pk}/"
        paper = Paper.objects.of(project).of_outcome(Outcome.DISPUTED).first()
        if paper is not None:
            yield "example-paper", f"/projects/{project.pk}/papers/{paper.position}/"
    running = Project.objects.exclude(job_id=None).first()
    if running is not None:
        yield "example-project-running", f"/projects/{running.pk}/"
