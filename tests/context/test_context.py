"""What the job context does without being asked: it saves, waits for the lease and leaves."""

from __future__ import annotations

import json
import threading
import time

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import Group
from django.db import transaction

from pgonly_django.context import iteration
from pgonly_django.context.memory import Memory
from pgonly_django.database.connect import connect
from pgonly_django.exceptions import JobCancelled, JobStopped, JobTimedOut
from pgonly_django.models import Checkpoint
from pgonly_django.queue import checkpoints
from tests import activity


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
            context._memory._saved_at -= 2

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


@pytest.mark.parametrize(("saved", "clears"), [({"page": 1}, False), ({"page": 2}, True)])
def test_only_what_is_new_in_a_checkpoint_clears_a_suspect(make_context, saved, clears):
    context = make_context('{"page": 1}', crashes=1)
    context.save_checkpoint(saved)
    assert context._run.saved_something_new is clears


def test_a_step_that_is_made_clears_a_suspect_and_one_that_was_made_before_does_not(make_context):
    context = make_context(crashes=1)
    checkpoints.save_step("default", context.job_id, context._run.job.lease_epoch, "ask", "1")
    context.step("ask", int)
    assert not context._run.saved_something_new
    context.step("ask more", int)
    assert context._run.saved_something_new


def test_a_step_in_a_transaction_clears_a_suspect_when_that_is_committed(make_context):
    context = make_context(crashes=1)
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        context.step("ask", int)
        raise ZeroDivisionError
    assert not context._run.saved_something_new
    with transaction.atomic():
        context.step("ask", int)
        assert not context._run.saved_something_new
    assert context._run.saved_something_new


@async_to_sync
async def names_of_async(context, groups):
    return [group.name async for group in context.aiterate(groups)]


def names_of(context, groups):
    return [group.name for group in context.iterate(groups)]


@pytest.mark.slow
@pytest.mark.parametrize("go", [names_of, names_of_async])
def test_a_loop_over_rows_survives_the_loss_of_its_connection_between_two_chunks(
    context, server, monkeypatch, go
):
    monkeypatch.setattr(iteration, "CHUNK_ROWS", 2)
    names = [f"group {number}" for number in range(7)]
    Group.objects.bulk_create(Group(name=name) for name in names)
    advance = Memory.advance_loop

    def lose_connection(memory, *arguments):
        activity.end(on=server)
        return advance(memory, *arguments)

    monkeypatch.setattr(Memory, "advance_loop", lose_connection)
    assert go(context, Group.objects.all()) == names
    assert json.loads(context._run.progress) == {"done": 7, "total": 7, "message": ""}


@pytest.mark.parametrize("go", [names_of, names_of_async])
def test_a_loop_over_a_set_is_refused(context, go):
    with pytest.raises(TypeError, match=r"a set has no order.*sorted\(items\)"):
        go(context, {1, 2})
