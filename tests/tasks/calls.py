"""Tasks that are enqueued here and never run."""

from __future__ import annotations

from datetime import timedelta

from pgonly_django import Backoff, task
from pgonly_django.compat import BaseTaskBackend, task_backends

try:
    from django.tasks import task as djangos_task
except ImportError:
    from django_tasks import task as djangos_task

DJANGOS = BaseTaskBackend.__module__.removesuffix(".base")  # or the backport's
IMMEDIATE, DUMMY = f"{DJANGOS}.immediate.ImmediateBackend", f"{DJANGOS}.dummy.DummyBackend"


@task
def add(a, b=1): ...


def plain(a): ...


plain = djangos_task(plain)


@task
def any_number(*numbers, unit="m"): ...


@task
def keyword_only(a, *, b): ...


@task(takes_context=True)
def with_context(context, page): ...


@task(
    max_attempts=2,
    backoff=Backoff(base=timedelta(seconds=1), cap=timedelta(seconds=2)),
    max_runtime=timedelta(minutes=5),
    retention=None,
)
def with_options(): ...


@task(concurrency_key="account:{account_id}", concurrency_limit=2)
def per_account(account_id, page=1): ...


@task(concurrency_key=lambda account_id: account_id or None)
def per_account_by_function(account_id): ...


@task(slots=4)
def heavy(): ...


@task
def odd_default(a, since=object()): ...  # noqa: B008 - a default that is no JSON


@task(unique=True)
def sync_account(account_id, full=False): ...


@task(unique=["account_id"])
def per_account_once(account_id, page=1): ...


@task(unique=["account_id"], debounce=timedelta(minutes=1))
def reindex(account_id, reason=""): ...


@task(unique_for=timedelta(hours=1))
def hourly(account_id): ...


def linear(attempt, error):
    return attempt * 10


def backend():
    return task_backends["default"]
