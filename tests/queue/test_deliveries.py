"""The statement that wakes the jobs whose events were sent, and the one that deletes events."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from pgonly_django import send_event
from pgonly_django.database import notify
from pgonly_django.models import Event, Job, State, Wait
from pgonly_django.queue import waits
from pgonly_django.queue.promote import promote
from pgonly_django.queue.waits import Delivered, deliver, prune_events
from tests.queue.rows import (
    DAY,
    HOUR,
    MINUTE,
    SECOND,
    ago,
    finish_of,
    fresh,
    heard,
    make,
    make_running,
    wait_until_blocked,
    while_locked,
    write,
)
from tests.queue.test_waits import PARKED, begin, for_event, make_waiting, states


def test_an_event_wakes_the_jobs_that_wait_for_it_at_their_places(server, other):
    began = ago(HOUR)
    waiting = make_waiting(attempted_at=began, ready_at=began - SECOND, queue="a")
    limited = make_waiting(slots=1, concurrency_key="c", concurrency_limit=1, queue="b")
    others = [make_waiting("other"), make(state=State.SCHEDULED, run_at=ago(-DAY)), make_waiting()]
    Wait.objects.filter(job=others[2]).update(lease_epoch=0)  # of an earlier run: it waits for something else
    send_event("k")
    other.execute(f"LISTEN {notify.CHANNEL}")
    assert promote(server).has_events
    assert deliver(server) == Delivered(2, 1)
    assert not promote(server).has_events
    assert states(waiting, limited, *others) == [State.READY] * 2 + [State.SCHEDULED] * 3
    job = fresh(waiting)
    assert (job.ready_at, job.waiting_since > ago(MINUTE), job.run_at <= timezone.now()) == (
        began - SECOND,
        True,
        True,
    )
    assert heard(other) == ["limited b", "ready a"]
    assert deliver(server) == Delivered(0, 0)


@pytest.mark.parametrize("state", [State.HELD, State.READY, State.FAILED, State.CANCELLED])
def test_a_job_that_looks_itself_or_has_ended_keeps_no_event_undelivered(server, state):
    job = make_waiting(state=state)
    send_event("k")
    assert deliver(server) == Delivered(0, 1)
    assert states(job) == [state]


def test_a_delivery_leaves_it_to_the_claim_to_wait_for_the_disk(server):
    make_waiting()
    send_event("k")
    with server.transaction():
        assert deliver(server) == Delivered(1, 1)
        assert server.execute("SHOW synchronous_commit").fetchone() == ("off",)
    assert server.execute("SHOW synchronous_commit").fetchone() == ("on",)


def test_an_event_stays_undelivered_while_a_job_leaves_its_run(server):
    parked, leaving = make_waiting(), make_running()
    begin(leaving, for_event())
    send_event("k")
    assert deliver(server) == Delivered(1, 0)
    assert deliver(server) == Delivered(0, 0), "the end of its run asks for the next one"
    assert promote(server).has_events
    write(server, finish_of(leaving, **PARKED))
    assert deliver(server) == Delivered(1, 1)
    assert states(parked, leaving) == [State.READY] * 2


def test_events_whose_jobs_run_long_do_not_stand_before_newer_ones(server):
    runs = [make_running() for _ in range(3)]
    for number, job in enumerate(runs):
        begin(job, for_event(f"k{number}"))
        send_event(f"k{number}")
    late = make_waiting("late")
    send_event("late")
    one_at_once = waits.DELIVER.replace(f"LIMIT {waits.BATCH}", "LIMIT 1")
    assert server.execute(one_at_once).fetchone()[:2] == (1, 1)
    assert states(late) == [State.READY]
    assert Event.objects.filter(is_delivered=False).count() == 3


def test_a_job_whose_row_is_locked_is_woken_later(server, other):
    locked, free = make_waiting(), make_waiting()
    send_event("k")
    with while_locked(locked, other, server):
        assert deliver(server) == Delivered(1, 0, left=1)
    assert states(locked, free) == [State.SCHEDULED, State.READY]
    assert deliver(server) == Delivered(1, 1)


@pytest.mark.parametrize("key", ["k", "later"])
def test_more_locked_jobs_than_a_batch_hold_up_no_other_one(server, other, key):
    locked, free = [make_waiting(), make_waiting()], make_waiting(key)
    for sent in ("k", "later"):
        send_event(sent)
    one_at_once = waits.DELIVER.replace(f"LIMIT {waits.BATCH}", "LIMIT 1")
    with other.transaction():
        other.execute("SELECT FROM pgonly_job WHERE id = ANY (%s) FOR UPDATE", [[job.pk for job in locked]])
        woken, _, left, *_ = server.execute(one_at_once).fetchone()
        assert (woken, left) == (1, True)
        assert states(*locked, free) == [State.SCHEDULED, State.SCHEDULED, State.READY]
    assert deliver(server).jobs == 2
    assert not deliver(server).left


def test_a_job_that_has_run_again_meanwhile_is_not_woken_for_its_earlier_wait(server, other, beside):
    """DELIVER stands still between its look and the lock of the job's row."""
    job = make_waiting()
    send_event("k")
    stands_still = "WHERE key = sent.key AND pg_advisory_xact_lock(30) IS NOT NULL"
    slow = waits.DELIVER.replace("WHERE key = sent.key", stands_still)
    with other.transaction():
        other.execute("SELECT pg_advisory_xact_lock(30)")
        delivery = beside(lambda: server.execute(slow).fetchone())
        wait_until_blocked(other)
        other.execute("UPDATE pgonly_job SET lease_epoch = 2")
    assert delivery.result(30)[0] == 0
    assert states(job) == [State.SCHEDULED]


def test_two_workers_share_the_events(server, other):
    jobs = [make_waiting(key) for key in ("k", "l")]
    send_event("k")
    send_event("l")
    with while_locked(Event.objects.get(pk="k"), other, server):
        assert deliver(server) == Delivered(1, 1)
    assert states(*jobs) == [State.SCHEDULED, State.READY]
    assert deliver(server) == Delivered(1, 1)


def test_the_jobs_of_one_event_are_woken_in_batches(server):
    jobs = Job.objects.bulk_create(
        Job(task="t", state=State.SCHEDULED, run_at=ago(-DAY), lease_epoch=1) for _ in range(waits.BATCH + 1)
    )
    Wait.objects.bulk_create(Wait(job=job, name="event k", key="k", lease_epoch=1) for job in jobs)
    send_event("k")
    first = deliver(server)
    assert (first, first.is_full) == (Delivered(waits.BATCH, 0, left=1), True)
    last = deliver(server)
    assert (last, last.is_full) == (Delivered(1, 1), False)


# Pruning.


def test_events_are_deleted_once_they_are_not_kept_and_no_job_waits_for_them(server):
    for key in ("over", "waited for", "kept"):
        send_event(key, keep=timedelta(0) if key != "kept" else HOUR)
    make_waiting("waited for")
    assert prune_events(server) == 1
    assert set(Event.objects.values_list("key", flat=True)) == {"waited for", "kept"}
    Wait.objects.all().delete()
    assert prune_events(server) == 1
