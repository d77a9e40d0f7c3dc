"""Branches of a job that wait for the same, inside of steps, or in ways of asyncio that nobody awaits."""

from __future__ import annotations

import pytest

from pgonly_django import send_event
from pgonly_django.context import leaving
from pgonly_django.models import State, Wait
from tests.jobs import parallel_waits as jobs
from tests.waiting import wait_for

pytestmark = pytest.mark.django_db


def keys_of(result):
    return sorted(Wait.objects.filter(job=result.id).values_list("key", flat=True))


def test_a_branch_that_gives_up_leaves_the_wait_of_another_one_for_the_same_key(worked, work):
    result = worked(jobs.limit_one_of_two, "k")
    assert (result.job.state, keys_of(result)) == (State.SCHEDULED, ["k"])
    send_event("k", 7)
    work(threads=1)
    assert (result.job.state, result.job.result[0], keys_of(result)) == (State.SUCCEEDED, 7, [])


def test_a_branch_that_has_its_answer_leaves_the_keys_that_another_one_waits_for(worked, work):
    result = worked(jobs.share_a_key, ["a", "b"], "stop")
    assert keys_of(result) == ["a", "b", "stop"]
    send_event("b", 7)
    work(threads=1)
    assert (result.job.state, keys_of(result)) == (State.SCHEDULED, ["a", "stop"])
    send_event("stop", "now")
    work(threads=1)
    assert (result.job.result, keys_of(result)) == ([["stop", "now"], ["b", 7]], [])


def test_an_answer_for_two_branches_ends_the_waits_of_both(worked, work):
    result = worked(jobs.share_a_key, ["a", "b"], "stop")
    send_event("stop", 1)
    work(threads=1)
    assert (result.job.result, keys_of(result)) == ([["stop", 1], ["stop", 1]], [])


def test_branches_that_wait_inside_of_steps_give_their_slot_back(worked, work):
    result = worked(jobs.wait_in_steps, ["a", "b"])
    assert (result.job.state, keys_of(result)) == (State.SCHEDULED, ["a", "b"])
    send_event("a", 1), send_event("b", 2)
    work(threads=1)
    assert result.job.result == [1, 2]


def test_branches_that_gather_inside_of_steps_leave_the_only_slot_to_their_members(worked):
    assert worked(jobs.gather_in_steps).job.result == [[3], [3]]


@pytest.mark.parametrize("key", ["a", "b", "c"])
def test_the_first_answer_counts_in_an_event_loop_of_a_sync_task(worked, work, key):
    result = worked(jobs.first_in_own_loop, ["a", "b", "c"])
    assert (result.job.state, keys_of(result)) == (State.SCHEDULED, ["a", "b", "c"])
    send_event(key, key)
    work(threads=1)
    assert (result.job.state, result.job.result) == (State.SUCCEEDED, [key])


def test_a_job_leaves_though_nobody_awaits_its_waits(worked, work, monkeypatch):
    monkeypatch.setattr(leaving, "LONGEST_PAUSES", 5)
    result = worked(jobs.hear_by_queue, ["a", "b"])
    assert (result.job.state, keys_of(result)) == (State.SCHEDULED, ["a", "b"])
    send_event("a", 1), send_event("b", 2)
    work(threads=1)
    assert sorted(result.job.result) == [1, 2]


def test_a_wait_that_is_cancelled_again_and_again_is_withdrawn(worked):
    assert keys_of(worked(jobs.cancel_twice, "k", "after")) == ["after"]


def test_a_job_that_cleans_up_when_it_leaves_can_still_be_cancelled(background_worker, marks):
    background_worker()
    result = jobs.clean_up_for_long.enqueue(["a", "b"], "end")
    wait_for(lambda: keys_of(result) == ["a", "b"])
    wait_for(lambda: not Wait.objects.exists() or result.job.state == State.RUNNING)
    result.cancel()
    wait_for(lambda: result.job.is_finished)
    assert (result.job.state, marks()) == (State.CANCELLED, ["end"])
