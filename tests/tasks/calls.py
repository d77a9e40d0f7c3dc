"""Tasks that are enqueued here and never run."""

from __future__ import annotations

from datetime import timedelta

from pgonly_django import Backoff, task
from pgonly_django.compat import task_backends


@task
def add(a, b=1): ...


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


def linear(attempt, error):
    return attempt * 10


def backend():
    return task_backends["default"]
