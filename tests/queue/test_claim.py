from __future__ import annotations

from datetime import timedelta

import pytest

from pgonly_django.compat import new_ids
from pgonly_django.models import Job
from pgonly_django.models.job import State
from pgonly_django.models.job_rows import SUSPECT_FROM
from pgonly_django.queue.claim import BAND_MEMORY_SECONDS, time_of
from pgonly_django.queue.enqueue import Template
from tests.queue.rows import (
    HOUR,
    LEASE,
    ago,
    claim,
    claim_limited,
    claimer,
    filled,
    fresh,
    ids,
    limited_claimer,
    make,
    make_running,
)

ON_THE_FLOORS = 3600.0


def test_a_claim_makes_the_job_run_for_its_worker_under_a_new_lease(server):
    job, by = make(lease_epoch=3, attempt=1), claimer()
    (claimed,) = claim(server, by)
    row = fresh(job)
    assert (row.state, row.worker_id, row.lease_epoch, row.attempt) == (State.RUNNING, by.worker_id, 4, 2)
    assert row.lease_expires_at - row.attempted_at <= LEASE + timedelta(milliseconds=1)
    assert (claimed.id, claimed.lease_epoch, claimed.attempt) == (str(job.id), 4, 2)


def test_the_first_start_of_a_job_is_kept(server):
    job = make(started_at=ago(HOUR))
    claim(server, claimer())
    assert fresh(job).started_at == job.started_at


@pytest.mark.parametrize("state", [state for state in State if state is not State.READY])
def test_only_ready_jobs_are_claimed(server, state):
    make_running(state=state, run_at=ago(HOUR))
    assert claim(server, claimer()) == []


PLACE = (
    "queue",
    "priority",
    "ready_at",
    "slots",
    "concurrency_key",
    "concurrency_limit",
    "crashes",
    "unique_key",
)


@pytest.mark.parametrize("crashes", [0, SUSPECT_FROM])
@pytest.mark.parametrize("limited", [{}, {"slots": 1, "concurrency_key": "a", "concurrency_limit": 99}])
def test_no_ready_job_is_left_for_ever_whatever_else_its_row_says(server, limited, crashes):
    """A condition that a claim has, and the indexes have not, would leave rows that no claim takes."""
    by, by_limited = claimer(), limited_claimer(threads=99)
    for column, value in filled(*PLACE).items():
        job = make(crashes=crashes, **limited, **{column: value})
        found = claim_limited(server, by_limited, 99) if limited else claim(server, by)
        assert ids(found) == [str(job.id)], column
    if not (limited or crashes):
        jobs = [make(**{column: value}) for column, value in filled(*PLACE).items()]
        by.head_due_at = float("inf")
        assert set(ids(claim(server, by, 99))) == set(ids(jobs)), "from the floors"


@pytest.mark.parametrize("limited", [{}, {"slots": 1, "concurrency_key": "a", "concurrency_limit": 99}])
def test_no_ready_job_is_left_for_ever_wherever_it_stands(server, limited):
    """The same of the columns that a claim orders and compares: their extremes."""
    by, by_limited = claimer(), limited_claimer(threads=99)
    places = ({"priority": -100}, {"priority": 100}, {"queue": "é" * 50}, {"ready_at": ago(90_000 * HOUR)})
    for place in places:
        job = make(**limited, **place)
        found = claim_limited(server, by_limited, 99) if limited else claim(server, by)
        assert ids(found) == [str(job.id)], place
    if not limited:
        by.floors = {("default", priority): 0.0 for priority in (-100, 0, 100)} | {("é" * 50, 0): 0.0}
        by.head_due_at = float("inf")
        jobs = [make(**place) for place in places]
        assert set(ids(claim(server, by, 99))) == set(ids(jobs)), "from the floors"


def test_jobs_of_a_band_come_oldest_first(server):
    late, early = make(ready_at=ago(timedelta(0))), make(ready_at=ago(HOUR))
    by = claimer()
    assert ids(claim(server, by, 1) + claim(server, by, 1)) == ids([early, late])


def test_what_is_claimed_together_is_put_in_the_order_of_service(server):
    for place in range(30):
        make(queue="ab"[place % 2], priority=(place * 7) % 3, ready_at=ago(place * HOUR))
    for by, of_queue in ((claimer(), lambda queue: 0), (claimer("b", "a"), "ba".index)):
        by._last_queue = "b"
        jobs = claim(server, by, 100)
        in_order = sorted(
            jobs, key=lambda job: (of_queue(job.queue), -job.priority, job.queue, job.ready_timestamp)
        )
        assert ids(jobs) == ids(in_order)
        assert len(jobs) == 30
        Job.objects.update(state=State.READY)


def test_a_larger_priority_goes_first_in_whatever_queue(server):
    make(queue="a", priority=-5, ready_at=ago(HOUR)), make(queue="b", priority=0, ready_at=ago(HOUR))
    urgent = make(queue="z", priority=7)
    assert ids(claim(server, claimer(), 1)) == ids([urgent])


def test_queues_of_one_priority_take_turns(server):
    for queue in ("a", "b", "c"):
        for _ in range(2):
            make(queue=queue)
    by = claimer()
    assert [claim(server, by, 1)[0].queue for _ in range(6)] == ["a", "b", "c", "a", "b", "c"]


def test_queues_take_turns_on_the_floors_as_well(server):
    for queue in ("a", "b"):
        for _ in range(3):
            make(queue=queue)
    by = claimer()
    for _ in range(2):
        claim(server, by, 1)
    by.head_due_at = float("inf")
    assert [claim(server, by, 1)[0].queue for _ in range(3)] == ["a", "b", "a"]


def test_given_queues_are_served_in_their_order_and_others_not_at_all(server):
    make(queue="other", priority=100)
    second, first = make(queue="a", priority=9), make(queue="b")
    by = claimer("b", "a")
    assert ids(claim(server, by, 1) + claim(server, by, 1) + claim(server, by, 1)) == ids([first, second])


def test_priorities_count_within_a_given_queue(server):
    make(queue="a", priority=1)
    urgent = make(queue="a", priority=2)
    assert ids(claim(server, claimer("a"), 1)) == ids([urgent])


def test_given_queues_keep_their_order_on_the_floors(server):
    for queue in ("a", "b"):
        make(queue=queue), make(queue=queue)
    by = claimer("b", "a")
    claim(server, by, 1), claim(server, by, 2, took_seconds=ON_THE_FLOORS)
    make(queue="a"), make(queue="b")
    assert [job.queue for job in claim(server, by, 1)] == ["b"]


def test_no_more_is_claimed_than_there_is_room_for(server):
    for number in range(6):
        make(queue=f"q{number % 2}")
    assert len(claim(server, claimer(), 4)) == 4


def test_only_queues_of_short_jobs_fill_more_than_the_free_slots(server):
    for queue in ("short", "long"):
        for _ in range(5):
            make(queue=queue)
    jobs = claim(server, claimer(), 1, {"short": 4})
    assert sorted(job.queue for job in jobs) == ["long", "short", "short", "short"]


def test_without_a_free_slot_only_queues_of_short_jobs_are_claimed(server):
    make(queue="long", priority=5), make(queue="short")
    assert [job.queue for job in claim(server, claimer(), 0, {"short": 3})] == ["short"]


def test_two_workers_never_get_the_same_job_nor_wait_for_each_other(server, other):
    for _ in range(5):
        make()
    other.execute("SET lock_timeout = '1s'")
    with server.transaction():
        mine = claim(server, claimer(), 3)
        theirs = claim(other, claimer(), 3)
    assert len(mine) == 3
    assert len(theirs) == 2
    assert not set(ids(mine)) & set(ids(theirs))


def test_on_the_floors_a_claim_starts_where_the_last_one_ended(server):
    make(ready_at=ago(timedelta(minutes=1)))
    by = claimer()
    claim(server, by, took_seconds=ON_THE_FLOORS)
    hidden, seen = make(ready_at=ago(HOUR)), make()
    assert not by.is_head_due
    assert ids(claim(server, by)) == ids([seen])
    assert fresh(hidden).state == State.READY


def test_what_a_floor_hides_is_found_from_the_head(server):
    make()
    by = claimer()
    claim(server, by, took_seconds=ON_THE_FLOORS)
    hidden = make(ready_at=ago(HOUR))
    by.look_from_head_next()
    assert by.is_head_due
    assert ids(claim(server, by)) == ids([hidden])


def test_a_floor_does_not_hide_jobs_of_the_same_moment(server):
    moment = ago(HOUR)
    for _ in range(3):
        make(ready_at=moment)
    by = claimer()
    assert len(claim(server, by, 1, took_seconds=ON_THE_FLOORS) + claim(server, by, 5)) == 3


def test_the_head_is_looked_at_again_after_ten_times_what_it_took(server):
    make()
    by = claimer()
    claim(server, by, took_seconds=0.5)
    assert not by.is_head_due
    claim(server, by)
    assert not by.is_head_due
    by.head_due_at -= 5.0
    assert by.is_head_due


def test_a_band_that_gave_nothing_for_long_is_forgotten_at_the_head(server):
    make(queue="gone")
    by = claimer()
    claim(server, by)
    by._band_seen_at[("gone", 0)] -= BAND_MEMORY_SECONDS + 1
    claim(server, by)
    assert by.floors == {}


def test_suspects_are_claimed_one_at_a_time(server):
    first = make(crashes=SUSPECT_FROM, ready_at=ago(HOUR))
    make(crashes=SUSPECT_FROM)
    by = claimer()
    assert ids(claim(server, by, 5)) == ids([first])
    assert claim(server, by, 5, take_suspect=False) == []
    assert len(claim(server, by, 5)) == 1


def test_a_suspect_comes_beside_the_crowd_within_the_same_room(server):
    make(crashes=SUSPECT_FROM)
    for _ in range(5):
        make()
    jobs = claim(server, claimer(), 3)
    assert sorted(job.crashes for job in jobs) == [0, 0, SUSPECT_FROM]


def test_jobs_of_a_worker_that_died_once_go_on_side_by_side(server):
    jobs = [make(crashes=1) for _ in range(3)]
    assert ids(claim(server, claimer(), 5, take_suspect=False)) == ids(jobs)


def test_suspects_of_other_queues_are_left_alone(server):
    make(queue="other", crashes=SUSPECT_FROM)
    mine = make(queue="mine", crashes=SUSPECT_FROM)
    by = claimer("mine")
    assert ids(claim(server, by) + claim(server, by)) == ids([mine])


def test_a_suspect_does_not_raise_the_floor_of_its_band(server):
    make(crashes=SUSPECT_FROM)
    by = claimer()
    claim(server, by, took_seconds=ON_THE_FLOORS)
    assert by.floors == {}
    early = make(ready_at=ago(HOUR))
    assert ids(claim(server, by)) == ids([early])


def test_a_job_that_commits_late_is_claimed_late_but_claimed(server, other):
    by = claimer()
    with other.transaction():
        late = Template("default", "default", "late", 0, 4).insert.sql
        other.execute(late, {"id": new_ids(1)[0], "args": "[]", "kwargs": "{}"})
        make()
        assert [job.task for job in claim(server, by, took_seconds=ON_THE_FLOORS)] == ["tests.jobs.add"]
    assert claim(server, by) == []
    by.look_from_head_next()
    assert [job.task for job in claim(server, by)] == ["late"]


def test_a_claim_returns_all_that_a_run_needs(server):
    job = make(args=[1, "é"], kwargs={"b": None}, options={"atomic": True}, max_runtime=HOUR, priority=3)
    (claimed,) = claim(server, claimer())
    for name in ("task", "args", "kwargs", "queue", "priority", "backend", "options", "max_runtime"):
        assert getattr(claimed, name) == getattr(job, name)
    row = Job.objects.get()
    assert time_of(claimed.ready_timestamp) == row.ready_at
    for name in ("enqueued_at", "started_at", "attempted_at"):
        assert getattr(claimed, name) == getattr(row, name), name
    assert timedelta(seconds=claimed.waited_seconds) == row.attempted_at - row.ready_at
