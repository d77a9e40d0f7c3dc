"""Rows of each model, which name each other in all ways that a page shows, and the pages that show them."""

from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

from django.contrib.admin.utils import quote
from django.utils import timezone

from pgonly_django.models import (
    Budget,
    CacheEntry,
    Checkpoint,
    CostEntry,
    Doctor,
    DurableCacheEntry,
    Job,
    JobBatch,
    JobStats,
    Limiter,
    LimiterSlot,
    LimiterWaiter,
    Overview,
    Queue,
    Schedule,
    Session,
    State,
    Step,
    Tick,
    Wait,
    Worker,
)
from tests.admin.conftest import make_entry, make_job, make_session
from tests.admin.test_workers import make_worker
from tests.queue.rows import make_gathering, make_waiting
from tests.scheduling.rows import make as make_schedule


def rows_of_all_models():
    """One of each model at least."""
    now, soon = timezone.now(), timezone.now() + timedelta(minutes=1)
    worker = make_worker()
    progress = {"done": 1500, "total": 2000, "message": "half way"}
    asked = {"started_at": now, "attempted_at": now, "cancel_requested_at": now}
    running = make_job(State.RUNNING, queue="ai", worker_id=worker.pk, progress=progress, **asked)
    waiting = make_job(queue="ai")
    by_budget = make_job(State.HELD, held_by="budget:p:1")
    at = "2026-03-01T04:00:00+00:00"
    entry = {"outcome": "failed", "attempt": 1, "started_at": at, "finished_at": at, "message": "no"}
    told = {"errors": [entry], "log": [{"at": at, "text": "hello"}], "finished_at": now, "delete_after": soon}
    ended = [make_job(state, **asked, **told) for state in (State.SUCCEEDED, State.CANCELLED, State.FAILED)]
    Checkpoint.objects.create(job=running, value=1, positions={"rows": 3})
    Step.objects.create(job=running, name="ask", usd=1)
    for granularity in ("minute", "hour"):
        JobStats.objects.create(
            granularity=granularity, queue="ai", task="tests.jobs.add", starts_at=now, succeeded=7
        )
    budget = Budget.objects.create(name="p:1", usd=1, declared={}, edited_at=now)
    limiter = Limiter.objects.create(
        name="l:1", concurrent=2000, blocked_until=soon, declared={}, edited_at=now, tokens_per_minute=6, tokens=-5,
        refilled_at=now,
    )  # fmt: skip
    who = f"job {running.pk} (tests.jobs.add)"
    LimiterSlot.objects.create(
        limiter="l:1", number=1, holder=uuid4(), who=who, taken_at=now, expires_at=soon
    )
    LimiterWaiter.objects.create(id=uuid4(), limiter="l:1", who=who, tokens=1, expires_at=soon)
    queue = Queue.objects.create(name="ai", limiter="l:1", max_running=1, paused_at=now)
    cost = CostEntry.objects.create(usd=1, budget="p:1", job_id=running.pk, task="tests.jobs.add")
    schedule = make_schedule(problem="It could not be.")
    Tick.objects.create(schedule=schedule, tick_at=now, job_id=running.pk, at=now, outcome="enqueued")
    wait = make_waiting(question="Include?", choices=["yes", "no"])
    durable = make_entry(DurableCacheEntry)
    return {
        Job: [running, waiting, by_budget, make_job(State.SCHEDULED), *ended], Worker: [worker],
        Budget: [budget], Limiter: [limiter], Queue: [queue], CostEntry: [cost], Schedule: [schedule],
        Session: [make_session()], CacheEntry: [make_entry()], DurableCacheEntry: [durable],
        Wait: [wait], JobBatch: [make_gathering(failed=1, ready=1)], Overview: [], Doctor: [],
    }  # fmt: skip


def pages_of(model, rows, home):
    """The overview, the list of the model, the page of each of its rows, and its other pages."""
    if model._meta.proxy:  # the overview itself; and the doctor, which has tests of its own
        return [home]
    of_model = f"{home}{model._meta.model_name}/"
    more = {CostEntry: ["sums/"], CacheEntry: ["numbers/"], DurableCacheEntry: ["numbers/"]}
    pages = [home, of_model, *(f"{of_model}{page}" for page in more.get(model, []))]
    if model is not CostEntry:  # its list leads to no pages
        pages += [f"{of_model}{quote(str(row.pk))}/change/" for row in rows[model]]
    return pages


def all_pages(home):
    """Those of new rows of all models, and the pages of a job that are not its own."""
    rows = rows_of_all_models()
    failed, held, wait = rows[Job][-1], rows[Job][2], rows[Wait][0]
    of_jobs = ["bulk/retry/", f"{held.pk}/edit/"]
    of_jobs += [f"{failed.pk}/{page}/" for page in ("again", "delete", "history")]
    of_jobs.append(f"{wait.job_id}/answer/?key={wait.key}")
    pages = {page for model in rows for page in pages_of(model, rows, home)}
    return (
        sorted(pages)
        + [f"{home}job/{page}" for page in of_jobs]
        + [f"{home}durablecacheentry/clear/answers/", f"{home}costentry/?days=90"]
    )
