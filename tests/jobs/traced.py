"""Tasks that say in which trace they run, or end in some way."""

from __future__ import annotations

import contextvars
import threading
from concurrent.futures import ThreadPoolExecutor

from django.db import connections
from opentelemetry import baggage, trace

from pgonly_django import Discard, Hold, Retry, Snooze, task
from tests.jobs import AT_ONCE


def here():
    span = trace.get_current_span().get_span_context()
    return [f"{span.trace_id:032x}", f"{span.span_id:016x}"]


@task
def say():
    return here()


@task
async def say_async():
    return here()


@task(atomic=True)
def say_atomic():
    return here()


@task
def say_baggage():
    return dict(baggage.get_all())


@task
def enqueue_another():
    return [*here(), say_baggage.enqueue().id]


@task(takes_context=True)
def walk(context):
    inside = context.step("one", here)
    context.step("one", here)
    with ThreadPoolExecutor(1) as threads:
        threads.submit(context.step, "two", here).result()
        threads.submit(connections.close_all).result()
    return inside


@task(takes_context=True)
async def walk_async(context):
    async def inside():
        return here()

    return await context.astep("one", inside)


@task(takes_context=True, max_attempts=1)
def walk_badly(context):
    context.step("bad", int, "x")


@task
def start_thread():
    found = []
    thread = threading.Thread(target=contextvars.copy_context().run, args=(lambda: found.extend(here()),))
    thread.start()
    thread.join()
    return found


@task(takes_context=True, max_attempts=3, backoff=AT_ONCE)
def fail_twice(context):
    if context.attempt < 3:
        raise ValueError("no")


@task(takes_context=True, max_attempts=1)
def end(context, how):
    if context.checkpoint is None:
        context.save_checkpoint(1)
        raise {
            "snooze": Snooze(0),
            "retry": Retry(0),
            "hold": Hold("by hand"),
            "discard": Discard("no use"),
            "fail": ValueError("no"),
        }[how]
