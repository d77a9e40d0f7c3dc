from __future__ import annotations

import pytest
from django.db import connection
from django.utils import timezone

from pgonly_django.models import Job, Queue, State
from pgonly_django.queue import health
from tests.queue.rows import HOUR, MINUTE, SECOND, ago, make, make_keyed, make_running

pytestmark = pytest.mark.django_db


def near(seconds):
    """A test may take a while."""
    return pytest.approx(seconds, abs=30)


# The oldest job that waits.


def test_the_oldest_job_of_every_kind_is_found():
    assert health.oldest_waiting("default") is None
    kinds = [
        lambda since: make(ready_at=since, queue="plain", priority=5),
        lambda since: make(ready_at=since, queue="plain", priority=-5),
        lambda since: make(ready_at=since, queue="other"),
        lambda since: make(ready_at=since, crashes=2),
        lambda since: make_keyed("key", ready_at=since),
        lambda since: make(ready_at=since, slots=4, queue="heavy"),
        lambda since: make(state=State.SCHEDULED, run_at=since),
    ]
    for minutes, make_one in enumerate(kinds, start=1):
        job = make_one(ago(minutes * MINUTE))
        found = health.oldest_waiting("default")
        assert found.seconds == near(minutes * 60)
        assert found.queue == job.queue
        assert found.job_id == (None if job.state == State.SCHEDULED else job.id)


@pytest.mark.parametrize("facts", [{}, {"crashes": 2}, {"concurrency_key": "k", "slots": 1}])
def test_a_job_that_was_stopped_waits_since_then_and_not_since_its_first_run(facts):
    stopped = make(ready_at=ago(HOUR), ready_again_at=ago(SECOND), **facts)
    assert health.oldest_waiting("default").seconds == near(1)
    others = [make(ready_at=ago(minutes * MINUTE)) for minutes in (3, 2)]
    assert health.oldest_waiting("default").job_id == others[0].pk
    Job.objects.filter(pk=stopped.pk).update(ready_again_at=ago(5 * MINUTE))
    assert health.oldest_waiting("default").job_id == stopped.pk


def test_of_two_that_were_stopped_the_one_that_waits_longer_counts():
    make(ready_at=ago(2 * HOUR), ready_again_at=ago(SECOND))
    longer = make(ready_at=ago(HOUR), ready_again_at=ago(5 * MINUTE))
    assert health.oldest_waiting("default").job_id == longer.pk


def test_the_latency_of_a_job_that_was_stopped_begins_with_its_stop():
    make_running(ready_at=ago(HOUR), ready_again_at=ago(2 * SECOND), attempted_at=ago(SECOND))
    assert health.latency("default", HOUR).longest_seconds == near(1)


@pytest.mark.parametrize("queues", [(), ("limited",)])
def test_the_oldest_of_many_keys_and_priorities_is_found(queues):
    for number in range(30):
        facts = {"queue": "limited", "priority": number % 3, "ready_at": ago(MINUTE)}
        make_keyed(f"key {number}", **facts)
        make(slots=2, **facts)
    for place in ({"concurrency_key": "key 7", "concurrency_limit": 1}, {"concurrency_key": None}):
        job = make(queue="limited", priority=1, slots=1, ready_at=ago(HOUR), **place)
        assert health.oldest_waiting("default", queues).job_id == job.id
        job.delete()


def test_jobs_that_wait_for_a_person_or_for_later_are_left_out():
    make(ready_at=ago(HOUR), queue="paused")
    make(ready_at=ago(HOUR), slots=1, queue="paused")
    Queue.objects.create(name="paused", paused_at=timezone.now())
    make(state=State.SCHEDULED, run_at=timezone.now() + HOUR)
    make(state=State.HELD)
    make_running(ready_at=ago(HOUR))
    make(state=State.SUCCEEDED, ready_at=ago(HOUR))
    assert health.oldest_waiting("default") is None


def test_only_given_queues_count():
    make(ready_at=ago(HOUR), queue="a")
    make(ready_at=ago(2 * HOUR), queue="b", crashes=2)
    make(state=State.SCHEDULED, run_at=ago(3 * HOUR), queue="c")
    make(ready_at=ago(4 * HOUR), queue="d", slots=1)
    assert health.oldest_waiting("default", ["a"]).seconds == near(3600)
    assert health.oldest_waiting("default", ["a", "b"]).queue == "b"
    assert health.oldest_waiting("default", ["a", "c"]).queue == "c"
    assert health.oldest_waiting("default", ["a", "d"]).queue == "d"
    assert health.oldest_waiting("default", ["e"]) is None


def test_times_that_are_infinite_raise_no_error():
    make()
    with connection.cursor() as cursor:
        cursor.execute("UPDATE pgonly_job SET ready_at = '-infinity'")
    assert health.oldest_waiting("default").seconds == 0.0
    make_running()
    with connection.cursor() as cursor:
        cursor.execute("UPDATE pgonly_job SET ready_at = '-infinity'")
    assert health.latency("default", HOUR).longest_seconds == 0.0


# Latency.


def waited(seconds, ended=SECOND, **facts):
    """A job whose run began just now, after it had waited."""
    began = ago(ended)
    return make(
        **{"state": State.SUCCEEDED, "ready_at": began - seconds * SECOND, "attempted_at": began, **facts}
    )


def test_latency_is_how_long_jobs_waited_for_their_run():
    assert health.latency("default", HOUR) is None
    for seconds in range(1, 101):
        waited(seconds)
    make_running(ready_at=ago(300 * SECOND))
    found = health.latency("default", HOUR)
    assert (found.jobs, found.p50_seconds, found.p95_seconds) == (101, near(51), near(96))
    assert found.longest_seconds == near(300)


def test_only_runs_within_the_time_count():
    waited(500, ended=2 * HOUR)
    waited(5)
    assert health.latency("default", HOUR).longest_seconds == near(5)
    assert health.latency("default", 3 * HOUR).longest_seconds == near(500)


def test_the_wait_for_a_retry_is_that_since_it_became_ready():
    """A job that is ready again has not begun this run; one that is scheduled again has, before."""
    make(attempted_at=ago(MINUTE), ready_at=ago(SECOND))
    assert health.latency("default", HOUR) is None
    waited(7, state=State.SCHEDULED, run_at=timezone.now() + HOUR)
    assert health.latency("default", HOUR).longest_seconds == near(7)


def test_behind_a_long_backlog_the_jobs_that_began_last_are_found(monkeypatch):
    waited(900)
    oldest = make(ready_at=ago(HOUR))
    for _ in range(3):
        make()
    statement = health.LATENCY.replace(f"LIMIT {health.SAMPLE}", "LIMIT 2")
    monkeypatch.setattr(health, "LATENCY", statement)
    assert health.latency("default", HOUR) is None
    assert health.latency("default", HOUR, before=oldest.id).longest_seconds == near(900)


def test_latency_of_given_queues():
    waited(10, queue="a")
    waited(100, queue="b")
    assert health.latency("default", HOUR, ["a"]).longest_seconds == near(10)
    assert health.latency("default", HOUR, ["c"]) is None


# Failures.


def test_failures_within_the_time_are_counted():
    for queue, when in (("a", MINUTE), ("a", 2 * MINUTE), ("b", MINUTE), ("a", 2 * HOUR)):
        make(state=State.FAILED, queue=queue, finished_at=ago(when))
    make(state=State.CANCELLED, finished_at=ago(MINUTE))
    assert health.failures("default", HOUR) == 3
    assert health.failures("default", 3 * HOUR) == 4
    assert health.failures("default", HOUR, ["a"]) == 2
    assert health.failures("default", HOUR, ["a", "b"]) == 3
