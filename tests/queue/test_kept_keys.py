"""A concurrency key that a job keeps while it waits."""

from __future__ import annotations

import pytest
from django.db import connection

from pgonly_django.models import Job, State, Wait
from tests.queue.rows import HOUR, ago, claim_limited, fresh, ids, limit, limited_claimer, make_keyed

pytestmark = pytest.mark.django_db(transaction=True)
LATER = ago(-HOUR)


def make_waiting(key="a", state=State.SCHEDULED, *, keeps=True, lease_epoch=1, **facts):
    """A job of this key that has left its run to wait."""
    job = make_keyed(key, state=state, lease_epoch=1, run_at=LATER, **facts)
    Wait.objects.create(
        job=job, name="event x", key="x", lease_epoch=lease_epoch, kept_key=key if keeps else None
    )
    return job


def test_while_its_job_waits_no_other_of_the_key_starts(server):
    make_waiting()
    make_keyed("a")
    other = make_keyed("b")
    assert ids(claim_limited(server, limited_claimer())) == ids([other])


@pytest.mark.parametrize(
    "facts",
    [
        {"keeps": False},
        {"lease_epoch": 0},  # of an earlier run
        {"state": State.HELD},
        {"state": State.CANCELLED},
        {"key": "b"},
    ],
)
def test_a_wait_that_is_over_or_does_not_keep_it_holds_nobody_back(server, facts):
    make_waiting(**facts)
    job = make_keyed("a")
    assert ids(claim_limited(server, limited_claimer())) == ids([job])


def test_it_counts_as_one_of_the_limit_whatever_it_waits_for(server):
    waiting = make_waiting(concurrency_limit=3)
    Wait.objects.create(job=waiting, name="event y", key="y", lease_epoch=1, kept_key="a")
    for _ in range(5):
        make_keyed("a", 3)
    by = limited_claimer()
    assert len(claim_limited(server, by)) == 2
    assert claim_limited(server, by) == []


@pytest.mark.parametrize("verb", ["resume", "retry"])
@pytest.mark.parametrize("end", ["hold", "cancel", "discard"])
def test_a_job_that_lost_it_takes_its_turn_for_it_again(server, end, verb):
    lost, waiting = make_waiting(), make_waiting("b")
    getattr(Job.objects.filter(pk=lost.pk), end)()
    (second, *_), by = [make_keyed("a"), make_keyed("b")], limited_claimer()
    assert ids(claim_limited(server, by)) == ids([second])
    getattr(Job.objects.exclude(state=State.SCHEDULED), verb)()
    assert claim_limited(server, by) == [], "the key has its one job"
    assert Wait.objects.get(job=waiting).kept_key == "b"
    Job.objects.filter(pk=second.pk).update(state=State.SUCCEEDED)
    found = claim_limited(server, by)
    assert ids(found) == ([] if end != "hold" and verb == "resume" else ids([lost]))


@pytest.mark.parametrize("verb", ["resume", "retry"])
def test_a_job_that_is_held_in_the_middle_of_a_verb_stays_held(other, verb):
    """Else it would go on with a key that another job may have taken in between."""
    waiting, held = make_waiting(), make_waiting("b", State.HELD, held_by="me")

    def hold_after_the_first_statement(execute, sql, *rest):
        result = execute(sql, *rest)
        if sql.startswith('UPDATE "pgonly_wait"'):
            other.execute("UPDATE pgonly_job SET state = 'held', held_by = 'me'")
        return result

    with connection.execute_wrapper(hold_after_the_first_statement):
        assert getattr(Job.objects.all(), verb)() == 1
    assert (fresh(waiting).state, fresh(held).state) == (State.HELD, State.READY)
    assert getattr(Job.objects.all(), verb)() == 1
    assert not Wait.objects.exclude(kept_key=None).exists()


def test_a_job_that_still_waits_keeps_it_after_a_retry(server):
    waiting = make_waiting()
    make_keyed("a", ready_at=ago(HOUR))
    assert Job.objects.filter(pk=waiting.pk).retry() == 1
    assert ids(claim_limited(server, limited_claimer())) == ids([waiting])


@pytest.mark.parametrize("facts", [{}, {"priority": 9}, {"queue": "another", "priority": 9}])
def test_the_job_that_kept_it_goes_before_older_and_more_urgent_ones(server, facts):
    older = make_keyed("a", ready_at=ago(HOUR), **facts)
    for _ in range(3):
        make_keyed("a", ready_at=ago(HOUR))
    woken = make_waiting(state=State.READY)
    by = limited_claimer()
    (first,) = claim_limited(server, by)
    assert first.id == str(woken.pk)
    assert claim_limited(server, by) == [], "it runs now, and counts once"
    assert fresh(older).state == State.READY


def test_two_that_kept_it_start_though_the_limit_was_lowered(server):
    woken = [make_waiting(state=State.READY, concurrency_limit=1) for _ in range(2)]
    make_keyed("a", ready_at=ago(HOUR))
    by = limited_claimer()
    found = [job for _ in range(3) for job in claim_limited(server, by)]
    assert ids(found) == ids(woken)


def test_with_room_for_both_the_older_one_starts_after_it(server):
    older = make_keyed("a", 2, ready_at=ago(HOUR))
    woken = make_waiting(state=State.READY, concurrency_limit=2)
    by = limited_claimer()
    assert ids([job for _ in range(2) for job in claim_limited(server, by)]) == ids([woken, older])


def test_the_queues_own_limit_holds_too(server):
    limit(max_running=1)
    woken = make_waiting(state=State.READY)
    make_keyed("b", priority=9)
    by = limited_claimer()
    assert len(claim_limited(server, by)) == 1
    assert claim_limited(server, by) == []
    assert fresh(woken).state == State.READY
