"""More of CASES in compared.py: jobs that use their context, wait, or have an asyncio task of their own."""

from __future__ import annotations

from datetime import timedelta

from asgiref.sync import sync_to_async
from django.db import transaction
from django.utils import translation

from pgonly_django import Snooze, budget, send_event, task
from pgonly_django.current_job import current_job
from pgonly_django.models import Job
from tests.jobs import mark
from tests.jobs.compared import CASES, case

__all__ = ["CASES"]


@case(takes_context=True)
def waits_for_an_event(context):
    context.wait_for_event("never sent", choices=["yes", "no"])


@case(takes_context=True)
async def sleeps(context):
    await context.asleep("a while", timedelta(days=1))


@case(takes_context=True)
def gets_its_own_event(context):
    send_event("own", "early")
    return context.wait_for_event("own")


@case(takes_context=True)
def is_woken_by_an_event(context):
    sends_an_event.enqueue()
    return context.wait_for_event("other")


@task
def sends_an_event():
    send_event("other", "late")


# The context.


@case(takes_context=True)
def saves_and_fails(context):
    context.step("kept", int, 1)
    context.save_checkpoint({"a": 1})
    context.progress(1, 2, "half")
    context.log("a line")
    with transaction.atomic():
        context.step("lost", int, 2)
        context.save_checkpoint("lost")
        raise ValueError("no")


@case(takes_context=True)
def fails_in_a_loop(context):
    for number in context.iterate(range(5)):
        mark(f"item {number}")
        if number == 2:
            raise ValueError("no")


@case(takes_context=True)
def repeats_a_loop(context):
    for _ in context.iterate([1]):
        pass
    for _ in context.iterate([1]):
        pass


@case(takes_context=True)
def knows_itself(context):
    return [
        context.attempt,
        context.should_stop,
        context.time_left,
        dict(context.metadata),
        context.checkpoint,
    ]


@case(takes_context=True)
def pays(context):
    return context.step("pay", int, 3, cost=0.01, budget=budget("compared", usd=5), reserve=0.02)


@case(takes_context=True)
def cancels_itself(context):
    context.task_result.cancel()
    raise Snooze(0)


@case()
async def changes_its_language_in_a_coroutine():
    before = translation.get_language()
    translation.activate("de")
    return before


@case()
def changes_its_language():
    before = translation.get_language()
    translation.activate("de")
    return before


@case()
async def writes_in_a_coroutine():
    await sync_to_async(mark)("coroutine")
    return await Job.objects.filter(pk=current_job.get().job.id).acount()
