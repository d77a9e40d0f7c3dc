"""What a running job's context does by itself: saves, waits, leaves."""

from __future__ import annotations

import threading
import time

import pytest
from asgiref.sync import async_to_sync

from pgonly_django.context.context import JobContext
from pgonly_django.context.run import Run
from pgonly_django.database.connect import connect
from pgonly_django.exceptions import JobCancelled, JobStopped, JobTimedOut
from pgonly_django.models import Checkpoint
from pgonly_django.queue import checkpoints
from tests.queue.rows import claim, claimer, make


@pytest.fixture
def context(transactional_db):
    make()
    with connect("default", application_name="pgonly tests") as server:
        (job,) = claim(server, claimer())
    run = Run(job, "default", claimed_at=time.monotonic(), lease_until=time.monotonic() + 60)
    return JobContext(None, run, checkpoints.Saved())


def loop(context, body):
    for item in context.iterate(range(5)):
        body(item)


@async_to_sync
async def loop_async(context, body):
    async for item in context.aiterate(range(5)):
        body(item)


def step(context, function):
    return context.step("ask", function)


@async_to_sync
async def step_async(context, function):
    async def ask():
        return function()

    return await context.astep("ask", ask)


def saved(context):
    return Checkpoint.objects.filter(job=context.job_id).values_list("positions", flat=True).first()


@pytest.mark.parametrize("go", [loop, loop_async])
def test_a_loop_saves_its_position_once_a_second_and_at_its_end(context, go):
    """A position is written at the end of the item in which the second was over."""
    seen = []

    def body(item):
        seen.append(_position(context.job_id))
        if item == 2:
            context._saved_at -= 2

    go(context, body)
    assert seen == [None, None, None, 3, 3]
    assert saved(context) == {"items": 5}


def _position(job_id):
    """Over a connection of its own: the body of an async loop runs on the event loop."""
    with connect("default", application_name="pgonly tests") as server:
        query = "SELECT (positions ->> 'items')::int FROM pgonly_checkpoint WHERE job_id = %s"
        row = server.execute(query, [job_id]).fetchone()
    return row and row[0]


@pytest.mark.parametrize("go", [loop, loop_async])
@pytest.mark.parametrize(
    ("wish", "raised"),
    [("stop_requested", JobStopped), ("cancel_requested", JobCancelled), ("timed_out", JobTimedOut)],
)
def test_a_loop_leaves_between_two_items_with_its_position_saved(context, go, wish, raised):
    done = []

    def body(item):
        done.append(item)
        if item == 2:
            setattr(context._run, wish, True)

    with pytest.raises(raised):
        go(context, body)
    assert done == [0, 1, 2]
    assert saved(context) == {"items": 3}


@pytest.mark.parametrize("go", [step, step_async])
def test_a_paid_step_waits_while_the_lease_is_in_doubt(context, go):
    run = context._run
    run.lease_until = 0.0

    def renew():
        run.lease_until = time.monotonic() + 60

    heartbeat = threading.Timer(0.3, renew)
    heartbeat.start()
    assert go(context, lambda: run.lease_in_doubt) is False
    heartbeat.join()


@pytest.mark.parametrize("go", [step, step_async])
def test_a_paid_step_is_not_made_when_the_lease_is_lost_for_sure(context, go):
    run = context._run
    run.lease_until, called = 0.0, []

    def stop():
        run.stop_requested = True

    wish = threading.Timer(0.3, stop)
    wish.start()
    with pytest.raises(JobStopped):
        go(context, lambda: called.append(1))
    wish.join()
    assert called == []
