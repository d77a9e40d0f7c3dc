"""Tasks that fail in every way, and those that are told of it."""

from __future__ import annotations

import os
import signal

from pgonly_django import Discard, task
from tests.jobs import AT_ONCE, mark
from tests.jobs.policies import NoMoneyError


@task
def note(job_id):
    mark(job_id)


@task(concurrency_key="dead")
def note_one_by_one(job_id):
    mark(job_id)


@task(backoff=AT_ONCE, max_attempts=2)
def note_badly(job_id):
    mark(job_id)
    raise ValueError("no note")


@task
def takes_nothing(): ...


def no_task(job_id): ...


@task(max_attempts=2, backoff=AT_ONCE, dead_letter_queue="dead")
def fail(how="error"):
    if how == "discard":
        raise Discard("pointless")
    if how == "unstorable":
        return object()
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "hold":
        raise NoMoneyError
    if how != "succeed":
        raise ValueError(how)
    return None


@task(atomic=True, max_attempts=1, dead_letter_queue="dead")
def fail_atomic():
    raise ValueError("rolled back")
