from __future__ import annotations

import threading
import time
from datetime import timedelta

import psycopg
import pytest

from pgonly_django.database.connect import connect
from pgonly_django.models import Job, Queue, State
from pgonly_django.models.job_rows import SUSPECT_FROM
from pgonly_django.outcomes import Outcome
from pgonly_django.queue.claim import ClaimedJob
from pgonly_django.queue.limited.gates import PILE
from pgonly_django.queue.rescue import rescue
from tests.queue.rows import (
    HOUR,
    LEASE,
    ago,
    claim,
    claim_limited,
    claimer,
    finish_of,
    fresh,
    ids,
    keys,
    limit,
    limited_claimer,
    make,
    make_keyed,
    make_running,
    make_worker,
    while_locked,
    write,
)

pytestmark = pytest.mark.django_db(transaction=True)


# What a claim leaves behind, and whom it takes.


def test_a_limited_claim_makes_the_job_run_as_an_ordinary_one_does(server):
    job, by = make_keyed("a", lease_epoch=3, attempt=1, args=[1], options={"atomic": True}), limited_claimer()
    (claimed,) = claim_limited(server, by)
    row = fresh(job)
    assert (row.state, row.worker_id, row.lease_epoch, row.attempt) == (State.RUNNING, by.worker_id, 4, 2)
    assert isinstance(claimed, ClaimedJob)
    assert (claimed.id, claimed.args, claimed.options) == (str(job.id), [1], {"atomic": True})


def test_it_takes_neither_what_ordinary_claims_take_nor_what_is_not_ready(server):
    make(), make(crashes=SUSPECT_FROM), make(queue="ai")
    make_keyed("a", state=State.SCHEDULED, run_at=ago(HOUR)), make_keyed("b", state=State.HELD)
    limit("another", max_running=1)
    assert claim_limited(server, limited_claimer()) == []
    assert claim_limited(server, limited_claimer("default")) == []


def test_given_queues_alone_are_served_in_their_order(server):
    limit("a", max_running=9), limit("b", max_running=9), limit("c", max_running=9)
    for queue in "abc":
        make(queue=queue, priority=1), make_keyed("k", 5, queue=queue)
    jobs = claim_limited(server, limited_claimer("b", "a"))
    assert [(job.queue, job.priority) for job in jobs] == [("b", 1), ("b", 0), ("a", 1), ("a", 0)]


def test_all_queues_are_served_by_priority_and_equals_in_turns(server):
    for queue in "ab":
        limit(queue, max_running=9)
        make(queue=queue), make(queue=queue), make(queue=queue, priority=7)
    by = limited_claimer()
    found = [(job.priority, job.queue) for _ in range(6) for job in claim_limited(server, by, 1)]
    assert found == [(7, "a"), (7, "b"), (0, "a"), (0, "b"), (0, "a"), (0, "b")]


def test_no_more_is_claimed_than_there_are_free_slots(server):
    limit(max_running=100)
    for number in range(6):
        make(), make_keyed(f"k{number}")
    assert len(claim_limited(server, limited_claimer(), 4)) == 4
    assert Job.objects.filter(state=State.RUNNING).count() == 4


def test_what_has_lost_its_key_limit_counts_as_one_at_a_time(server):
    make(concurrency_key="a", slots=1), make(concurrency_key="a", slots=1)
    assert len(claim_limited(server, limited_claimer())) == 1


# max_running.


def test_max_running_counts_whatever_runs_in_the_queue(server):
    limit(max_running=4)
    make_running(), make_running(concurrency_key="z", concurrency_limit=9, slots=1)
    for _ in range(5):
        make()
    by = limited_claimer()
    assert len(claim_limited(server, by)) == 2
    assert claim_limited(server, by) == []


def test_an_end_of_any_kind_gives_its_room_back(server):
    limit(max_running=1)
    for _ in range(6):
        make()
    by, ends = limited_claimer(), [
        (Outcome.SUCCEEDED, State.SUCCEEDED),
        (Outcome.FAILED, State.FAILED),
        (Outcome.RELEASED, State.READY),
        (Outcome.CANCELLED, State.CANCELLED),
        (Outcome.HELD, State.HELD),
    ]  # fmt: skip
    for outcome, state in ends:
        (job,) = claim_limited(server, by)
        assert claim_limited(server, by) == []
        assert write(server, finish_of(job, outcome, state)) == 1
    assert len(claim_limited(server, by)) == 1


def test_a_limit_that_was_lowered_below_what_runs_lets_nothing_in(server):
    limit(max_running=3)
    for _ in range(5):
        make()
    claim_limited(server, limited_claimer())
    limit(max_running=1)
    assert claim_limited(server, limited_claimer()) == []


def test_the_room_of_a_dead_worker_comes_back_with_the_rescue(server):
    limit(max_running=1)
    make(), make_keyed("a"), make_keyed("a")
    dead = make_worker(silent_for=2 * LEASE)
    lost = claim_limited(server, limited_claimer(worker_id=dead.id))
    assert len(lost) == 1
    Job.objects.filter(worker_id=dead.id).update(lease_expires_at=ago(LEASE))
    assert claim_limited(server, limited_claimer()) == []
    assert len(rescue(server, LEASE, timedelta(0))) == 1
    assert len(claim_limited(server, limited_claimer())) == 1


# Pauses.


@pytest.mark.parametrize("facts", [{}, {"crashes": SUSPECT_FROM}, {"slots": 2},
                                   {"slots": 1, "concurrency_key": "a", "concurrency_limit": 1}])  # fmt: skip
def test_of_a_paused_queue_nothing_is_claimed_and_no_attempt_is_spent(server, facts):
    limit(max_running=5)
    job = make(**facts)
    Queue.objects.named("default").pause()
    assert claim_limited(server, limited_claimer()) == claim(server, claimer()) == []
    assert (fresh(job).attempt, fresh(job).lease_epoch) == (0, 0)
    Queue.objects.named("default").resume()
    assert ids(claim_limited(server, limited_claimer())) == ids([job])


def test_a_pause_between_look_and_claim_holds(server):
    limit(max_running=5)
    make()
    by = limited_claimer()
    seen = by.look(server, take_suspect=True)
    Queue.objects.named("default").pause()
    assert by.claim(server, seen, 5, take_suspect=True).jobs == []


def test_a_limit_between_look_and_claim_holds(server):
    make_keyed("a"), make_keyed("b"), make_running()
    by = limited_claimer()
    seen = by.look(server, take_suspect=True)
    limit(max_running=1)
    assert by.claim(server, seen, 5, take_suspect=True).jobs == []


# Rates.


def test_a_rate_lets_jobs_start_evenly_and_never_twice_as_many(server):
    limit(rate_count=10, rate_seconds=60.0)
    for _ in range(30):
        make()
    by = limited_claimer()
    assert len(claim_limited(server, by)) == 1
    assert claim_limited(server, by) == []
    (gate,) = by.look(server, take_suspect=True).gates.values()
    assert 3 < gate.opens_in_seconds <= 6.0
    set_back(server, 6.1)
    assert len(claim_limited(server, by)) == 1
    set_back(server, 3600)
    assert len(claim_limited(server, by)) == 1


def set_back(server, seconds):
    """As if so much time had passed."""
    server.execute(
        "UPDATE pgonly_queue_tokens SET refilled_at = refilled_at - make_interval(secs => %s)", [seconds]
    )


@pytest.mark.slow
def test_a_rate_of_many_per_period_is_kept_within_two_percent(server):
    limit(rate_count=200, rate_seconds=10.0)
    for _ in range(100):
        make()
    by, started, lost, began = limited_claimer(threads=100), 0, 0.0, time.monotonic()
    last = began
    for _ in range(101):  # a tenth of a second between two: one period
        found = claim_limited(server, by, 100)
        for _ in found:
            make()
        started += len(found)
        set_back(server, 0.1)
        # Of a longer pause, on a busy machine, no more than PILE is let through.
        lost += max(0.0, 20 * (0.1 + time.monotonic() - last) + 1 - PILE * 200)
        last = time.monotonic()
    allowed = 20 * (10 + last - began)
    assert 0.98 * allowed - lost <= started <= 1.02 * allowed + 1


def test_a_clock_that_was_set_back_does_not_stop_a_rate(server):
    limit(rate_count=10, rate_seconds=60.0)
    make(), make()
    claim_limited(server, limited_claimer())
    set_back(server, -7200)
    assert len(claim_limited(server, limited_claimer())) == 1


# Two at once, and frozen ones.


def test_while_a_claim_is_at_a_gate_others_pass_by_and_say_so(server, other):
    limit("ai", max_running=5)
    make(queue="ai"), make_keyed("a"), make_keyed("b")
    by = limited_claimer()
    seen = by.look(server, take_suspect=True)
    with other.transaction():
        for gate in ("queue ai", "key a"):
            other.execute("SELECT pg_advisory_xact_lock(1885826926, hashtext(%s))", [gate])
        claimed = by.claim(server, seen, 5, take_suspect=True)
        assert claimed.was_contended
        assert keys(claimed.jobs) == ["b"]
    assert len(claim_limited(server, by)) == 2


def test_a_row_that_somebody_has_locked_is_passed_over(server, other):
    limit(max_running=5)
    locked, free = make(ready_at=ago(HOUR)), make()
    with while_locked(locked, other):
        assert ids(claim_limited(server, limited_claimer())) == ids([free])


def test_a_claim_that_fails_leaves_nothing_behind_and_the_connection_usable(server, other):
    limit(max_running=5)
    make()
    by = limited_claimer()
    server.execute("SET lock_timeout = '50ms'")
    seen = by.look(server, take_suspect=True)
    with other.transaction():
        other.execute("LOCK TABLE pgonly_job IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            by.claim(server, seen, 5, take_suspect=True)
    assert Job.objects.get().attempt == 0
    assert len(claim_limited(server, by)) == 1


def test_the_server_ends_a_claim_that_stands_still(server):
    limit(max_running=1)
    make()
    with (
        connect("default", application_name="pgonly tests, frozen") as frozen,
        pytest.raises((psycopg.OperationalError, psycopg.errors.IdleInTransactionSessionTimeout)),
        frozen.pipelined_transaction(idle_for="100ms") as pipeline,
    ):
        frozen.execute("SELECT pg_advisory_xact_lock(1885826926, hashtext('queue default'))")
        pipeline.sync()
        began = time.monotonic()
        while not claim_limited(server, limited_claimer()):
            assert time.monotonic() < began + 5
        frozen.execute("SELECT 1")
        pipeline.sync()


@pytest.mark.slow
@pytest.mark.parametrize("keyed", [False, True], ids=["queue", "key"])
def test_many_claims_at_once_never_pass_a_limit(keyed):
    if not keyed:
        limit(max_running=5)
    for _ in range(200):
        make_keyed("a", 5) if keyed else make()
    highest, over = [0], threading.Event()

    def drain():
        by = limited_claimer()
        with connect("default", application_name="pgonly tests") as own:
            while not over.is_set():
                jobs = claim_limited(own, by, 3)
                (running,) = own.execute("SELECT count(*) FROM pgonly_job WHERE state = 'running'").fetchone()
                highest[0] = max(highest[0], running)
                write(own, *map(finish_of, jobs))
                (left,) = own.execute("SELECT count(*) FROM pgonly_job WHERE state = 'ready'").fetchone()
                if not left:
                    over.set()

    crowd = [threading.Thread(target=drain) for _ in range(6)]
    for thread in crowd:
        thread.start()
    for thread in crowd:
        thread.join(60)
    assert Job.objects.filter(state=State.SUCCEEDED).count() == 200
    assert 3 <= highest[0] <= 5
