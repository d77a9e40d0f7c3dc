"""Tasks that look at their own metadata."""

from __future__ import annotations

from pgonly_django import task


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


@task(takes_context=True, max_attempts=1, dead_letter_queue="dead")
def fail_with_letter(context, fails=True):
    if fails:
        raise ValueError("no")
    return dict(context.metadata)


@task(takes_context=True)
def letter(context, job_id):
    return dict(context.metadata)
