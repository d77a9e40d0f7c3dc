"""Tasks that look at their own metadata."""

from __future__ import annotations

from pgonly_django import Retry, task
from tests.jobs import AT_ONCE


@task(takes_context=True)
def tell(context):
    return dict(context.metadata)


@task(takes_context=True)
async def tell_async(context):
    return dict(context.metadata)


@task(takes_context=True, atomic=True)
def tell_atomic(context):
    return dict(context.metadata)


@task(takes_context=True)
def change(context):
    context.metadata["tenant"] = "other"


@task(takes_context=True, max_attempts=3, backoff=AT_ONCE)
def tell_at_last(context):
    if context.attempt < 3:
        raise Retry(0)
    return [context.attempt, dict(context.metadata)]


@task(takes_context=True, max_attempts=1, dead_letter_queue="dead")
def fail_with_letter(context, fails=True):
    if fails:
        raise ValueError("no")
    return dict(context.metadata)


@task(takes_context=True)
def letter(context, job_id):
    return dict(context.metadata)
