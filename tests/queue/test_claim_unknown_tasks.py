from __future__ import annotations

import pytest

from pgonly_django.models.job_rows import SUSPECT_FROM
from pgonly_django.queue.claim import UNKNOWN_FOR, UnknownTasks
from tests.queue.rows import (
    HOUR,
    ago,
    claim,
    claim_limited,
    claimer,
    limited_claimer,
    make,
    make_keyed,
    make_worker,
)

ON_THE_FLOORS = 1e9


def claimed(jobs):
    return [job.task for job in jobs]


@pytest.mark.parametrize("queues", [(), ("default",)])
def test_jobs_of_an_unknown_task_are_left_to_another_worker_that_lives(server, queues):
    by = claimer(*queues)
    make_worker()
    by.unknown.note("new.task")
    (
        make(task="new.task", ready_at=ago(HOUR)),
        make(task="new.task", crashes=SUSPECT_FROM),
        make(task="known.a"),
    )
    assert claimed(claim(server, by, took_seconds=ON_THE_FLOORS)) == ["known.a"]
    make(task="new.task"), make(task="known.b")
    assert not by.is_head_due
    assert claimed(claim(server, by)) == ["known.b"]


@pytest.mark.parametrize("facts", [{"silent_for": HOUR}, {"stopped_at": ago(HOUR)}])
def test_jobs_of_an_unknown_task_are_claimed_while_no_other_worker_lives(server, facts):
    by = claimer()
    make_worker(**facts), make_worker(id=by.worker_id)
    by.unknown.note("new.task")
    make(task="new.task")
    assert claimed(claim(server, by)) == ["new.task"]


def test_limited_jobs_of_an_unknown_task_are_left_to_others_too(server):
    by = limited_claimer()
    make_worker()
    by.unknown.note("new.task")
    make_keyed("a", task="new.task", ready_at=ago(HOUR)), make_keyed("b", task="known.a")
    make(task="known.b", slots=2, ready_at=ago(HOUR)), make(task="new.task", slots=2)
    assert sorted(claimed(claim_limited(server, by))) == ["known.a", "known.b"]
    assert claim_limited(server, by) == []


@pytest.mark.parametrize(
    "place", [{"slots": 2}, {"concurrency_key": "a", "concurrency_limit": 2, "slots": 1}]
)
def test_a_limited_job_of_an_unknown_task_hides_no_other_and_is_claimed_where_no_other_worker_lives(
    server, place
):
    by = limited_claimer()
    other = make_worker()
    by.unknown.note("new.task")
    make(task="new.task", ready_at=ago(HOUR), **place), make(task="known.task", **place)
    assert claimed(claim_limited(server, by)) == ["known.task"]
    other.delete()
    assert claimed(claim_limited(server, by)) == ["new.task"]


def test_a_heavy_job_that_others_may_run_keeps_no_slots_free_here(server):
    by = limited_claimer()
    make_worker()
    by.unknown.note("new.task")
    make(task="new.task", slots=2, ready_at=ago(HOUR))
    seen = by.look(server, 1, take_suspect=True)
    assert (seen.groups, seen.overdue_slots, seen.is_for_others) == ([], 0, True)


def test_a_task_is_left_to_others_for_a_minute_after_each_of_its_jobs_and_within_an_hour():
    unknown = UnknownTasks()
    unknown.note("new.task")
    assert unknown.names() == ["new.task"]
    unknown._until["new.task"] -= 61
    assert unknown.names() == []
    unknown.note("new.task")
    assert unknown.names() == ["new.task"]
    unknown._until["new.task"] -= 61
    unknown._since["new.task"] -= UNKNOWN_FOR.total_seconds()
    unknown.note("new.task")
    assert unknown.names() == []
