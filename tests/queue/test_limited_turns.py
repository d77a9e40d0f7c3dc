"""Which limited jobs go first: keys, slots and suspects."""

from __future__ import annotations

from datetime import timedelta

import pytest

from pgonly_django.models import Job, State
from pgonly_django.models.job_rows import SUSPECT_FROM
from pgonly_django.queue.limited.look import OVERDUE_SECONDS
from tests.queue.rows import (
    HOUR,
    ago,
    claim_limited,
    finish_of,
    ids,
    keys,
    limit,
    limited_claimer,
    make,
    make_keyed,
    make_running,
    write,
)

pytestmark = pytest.mark.django_db(transaction=True)


# Keys.


def test_a_key_runs_one_job_at_a_time_in_order_over_queues(server):
    jobs = [make_keyed("a", queue=f"q{n % 3}", ready_at=ago(HOUR - timedelta(minutes=n))) for n in range(6)]
    by, seen = limited_claimer(), []
    while found := claim_limited(server, by):
        assert len(found) == 1
        assert claim_limited(server, limited_claimer()) == []
        write(server, finish_of(found[0]))
        seen += ids(found)
    assert seen == ids(jobs)


def test_a_key_limit_above_one_runs_so_many(server):
    for _ in range(5):
        make_keyed("a", 3)
    by = limited_claimer()
    assert len(claim_limited(server, by)) == 3
    assert claim_limited(server, by) == []


def test_queue_and_key_limits_hold_together(server):
    limit("ai", max_running=3)
    for number in range(20):
        make_keyed(f"k{number % 2}", 2, queue="ai"), make_keyed("k0", 2, queue="other")
    by = limited_claimer()
    jobs = claim_limited(server, by)
    assert sum(job.queue == "ai" for job in jobs) <= 3
    assert sorted(keys(jobs)) == ["k0", "k0", "k1", "k1"]
    assert claim_limited(server, by) == []


def test_the_flood_of_one_key_starves_no_other_and_no_job_without_a_key(server):
    limit(max_running=100)
    for _ in range(20):
        make_keyed("flood", 50, ready_at=ago(HOUR))
    for key in ("a", "b"):
        make_keyed(key, 50)
    make(), make(slots=2)
    jobs = claim_limited(server, limited_claimer(), 10)
    assert set(keys(jobs)) == {"flood", "a", "b", None}
    assert len(jobs) == 9  # one of them takes two slots


def test_with_one_slot_free_at_a_time_keys_take_turns(server):
    for key in "abc":
        for _ in range(3):
            make_keyed(key, 9)
    by = limited_claimer()
    found = [keys(claim_limited(server, by, 1))[0] for _ in range(7)]
    assert found == ["a", "b", "c", "a", "b", "c", "a"]


@pytest.mark.usefixtures("five_keys")
def test_more_full_keys_than_a_look_walks_over_do_not_hide_another(server):
    for number in range(12):
        make_keyed(f"full {number:02}")
        make_running(concurrency_key=f"full {number:02}", concurrency_limit=1, slots=1)
    make_keyed("open")
    by = limited_claimer()
    for _ in range(3):
        seen = by.look(server, take_suspect=True)
        if not seen.is_cut:
            break
    assert [group.key for group in seen.groups] == ["open"]
    assert len(by.claim(server, seen, 5, take_suspect=True).jobs) == 1


@pytest.fixture
def five_keys(monkeypatch):
    """So many are looked at in one look."""
    monkeypatch.setattr("pgonly_django.queue.limited.look.KEYS_AT_MOST", 5)


@pytest.mark.usefixtures("five_keys")
def test_where_all_keys_are_full_the_looks_come_to_an_end_and_find_the_next_that_has_room(server):
    running = []
    for number in range(12):
        make_keyed(f"full {number:02}")
        running.append(make_running(concurrency_key=f"full {number:02}", concurrency_limit=1, slots=1))
    by = limited_claimer()
    for _ in range(3):
        are_cut = [by.look(server, take_suspect=True).is_cut for _ in range(9)]
        assert {*are_cut} == {True, False}
    Job.objects.filter(pk=running[7].pk).update(state=State.SUCCEEDED)
    found = {group.key for _ in range(9) for group in by.look(server, take_suspect=True).groups}
    assert found == {"full 07"}


@pytest.mark.usefixtures("five_keys")
def test_keys_that_are_too_heavy_for_the_worker_do_not_hide_another(server):
    for number in range(12):
        make_keyed(f"heavy {number:02}", slots=11)
    make_keyed("light")
    by = limited_claimer(threads=10)
    found = [group.key for _ in range(3) for group in by.look(server, take_suspect=True).groups]
    assert found == ["light"]


@pytest.mark.parametrize("facts", [{"slots": 2}, {"crashes": SUSPECT_FROM}])
def test_keys_whose_oldest_job_cannot_start_now_keep_no_other_key_out(server, facts):
    make_keyed("a", **facts), make_keyed("b", **facts), make_keyed("c")
    by = limited_claimer(threads=2)
    assert keys(claim_limited(server, by, 1, take_suspect=False)) == ["c"]


def test_jobs_without_a_key_that_cannot_start_now_keep_no_key_out(server):
    for queue in "ab":
        for _ in range(12):
            make(slots=2, queue=queue)
    make_keyed("c", queue="z")
    assert keys(claim_limited(server, limited_claimer(threads=2), 1)) == ["c"]


@pytest.mark.parametrize("key", ["a", None])
def test_no_slots_are_kept_free_for_a_suspect_that_may_not_start(server, key):
    long_ago = ago(timedelta(seconds=OVERDUE_SECONDS + 5))
    make(slots=2, concurrency_key=key, crashes=SUSPECT_FROM, ready_at=long_ago)
    light, by = make_keyed("b"), limited_claimer(threads=2)
    assert by.look(server, take_suspect=True).overdue_slots == 2
    assert by.look(server, 1, take_suspect=False).overdue_slots == 0
    assert ids(claim_limited(server, by, 1, take_suspect=False)) == ids([light])


def test_no_more_jobs_are_claimed_than_asked_for_however_many_slots_they_take(server):
    for key in "abc":
        make_keyed(key, slots=3)
    by = limited_claimer(threads=9)
    seen = by.look(server, take_suspect=True)
    assert len(by.claim(server, seen, 9, jobs_at_most=2, take_suspect=True).jobs) == 2


# Slots.


def test_the_slots_of_heavy_jobs_never_pass_the_free_ones(server):
    heavy = [make(slots=3, ready_at=ago(HOUR)) for _ in range(3)]
    light = make(slots=2)
    jobs = claim_limited(server, limited_claimer(threads=8), 8)
    assert ids(jobs) == ids([*heavy[:2], light])


def test_a_job_heavier_than_the_worker_is_never_claimed_by_it_and_said_to_be(server):
    make(slots=9, ready_at=ago(HOUR))
    small = make(slots=2)
    by = limited_claimer(threads=8)
    assert [group.slots for group in by.look(server, take_suspect=True).too_heavy] == [9]
    assert ids(claim_limited(server, by, 8)) == ids([small])
    assert claim_limited(server, limited_claimer(threads=9), 9)


def test_slots_are_kept_free_for_a_heavy_job_that_has_waited_long(server):
    heavy = make(slots=4, ready_at=ago(timedelta(seconds=OVERDUE_SECONDS + 5)))
    make(slots=2), make_keyed("a")
    by = limited_claimer(threads=4)
    seen = by.look(server, take_suspect=True)
    assert seen.overdue_slots == 4
    assert by.claim(server, seen, 3, take_suspect=True).jobs == []
    assert ids(by.claim(server, seen, 4, take_suspect=True).jobs) == ids([heavy])


def test_no_slots_are_kept_free_for_a_heavy_job_that_was_stopped_a_moment_ago(server):
    make(slots=4, ready_at=ago(HOUR), ready_again_at=ago(timedelta(seconds=1)))
    assert limited_claimer(threads=4).look(server, take_suspect=True).overdue_slots == 0


# Suspects.


def test_of_limited_suspects_one_is_claimed_at_a_time(server):
    limit(max_running=9)
    for _ in range(2):
        make(crashes=SUSPECT_FROM), make(slots=2, crashes=SUSPECT_FROM)
    make_keyed("a", crashes=SUSPECT_FROM), make()
    by = limited_claimer()
    jobs = claim_limited(server, by)
    assert sorted(job.crashes for job in jobs) == [0, SUSPECT_FROM]
    assert claim_limited(server, by, take_suspect=False) == []
    assert [len(claim_limited(server, by)) for _ in range(5)] == [1, 1, 1, 1, 0]
