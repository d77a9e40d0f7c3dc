"""The figures that the overview shows, without a page."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.core.cache import caches as django_caches
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as some

from pgonly_django.compat import uuid7
from pgonly_django.models import Budget, CacheUsage, JobStats, Limiter, Queue, Schedule, State
from pgonly_django.models.job_stats import BOUNDS
from pgonly_django.monitoring import limits as limits_module
from pgonly_django.monitoring import queues as states_module
from pgonly_django.monitoring import runs
from pgonly_django.monitoring.limits import budgets, limiters, schedules
from pgonly_django.monitoring.queues import jobs_by_state, queues
from pgonly_django.monitoring.runs import (
    Period,
    failed_jobs,
    percentile,
    throughput,
    times,
)
from pgonly_django.monitoring.storage import caches
from pgonly_django.queue.known_names import queue_count
from tests.admin.conftest import make_job
from tests.queue.rows import ago, insert_jobs, make, make_keyed, make_running
from tests.sql import sql

pytestmark = pytest.mark.django_db(transaction=True)
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)


def ended(at=MINUTE, granularity="minute", queue="default", task="tests.jobs.add", **counts):
    JobStats.objects.create(granularity=granularity, starts_at=ago(at), queue=queue, task=task, **counts)


def test_jobs_are_counted_in_every_state():
    for number, state in enumerate(State, start=1):
        for _ in range(number):
            make_job(state)
    make_keyed("a"), make(crashes=2)
    found = jobs_by_state("default")
    assert list(found) == list(State)
    expected = {state: number for number, state in enumerate(State, start=1)} | {State.READY: 4}
    assert {state: count.number for state, count in found.items()} == expected
    assert not any(count.has_more for count in found.values())


def test_counts_end_at_their_cap(monkeypatch):
    """The cap is a part of the statement's text: here a smaller one takes its place."""
    statement = states_module.STATES
    for number, cap in ((30_001, 10), (10_001, 4), (10_000, 3)):
        statement = statement.replace(str(number), str(cap))
    monkeypatch.setattr(states_module, "STATES", statement)
    monkeypatch.setattr(states_module, "OF_A_STATE_AT_MOST", 3)
    for _ in range(5):
        make_job(State.FAILED), make_job(State.SUCCEEDED), make()
    found = jobs_by_state("default")
    assert [found[state].label for state in (State.FAILED, State.READY, State.RUNNING)] == ["3+", "3+", "0"]
    assert found[State.SUCCEEDED].has_more


def test_a_queue_says_what_waits_and_for_how_long():
    make(queue="ai", ready_at=ago(HOUR)), make(queue="ai"), make_running(queue="ai"), make(queue="mail")
    Queue.objects.named("ai", "idle").filter(name="idle").pause()
    found = {queue.name: queue for queue in queues("default")}
    assert set(found) == {"ai", "idle", "mail"}
    assert (found["ai"].waiting.number, found["ai"].running.number) == (2, 1)
    assert found["ai"].oldest_seconds == pytest.approx(3600, abs=30)
    assert found["idle"].oldest_seconds is None
    assert found["idle"].paused_at is not None
    assert found["mail"].row.max_running is None


def test_jobs_that_are_due_are_counted_among_those_that_wait():
    Queue.objects.named("rate", "none")
    for queue in ("rate", "none", "bare"):
        make(queue=queue, state=State.SCHEDULED, run_at=ago(MINUTE if queue != "none" else -MINUTE))
    make(queue="rate")
    waiting = {queue.name: (queue.waiting.number, bool(queue.oldest_seconds)) for queue in queues("default")}
    assert waiting == {"rate": (2, True), "none": (0, False), "bare": (1, True)}


def test_a_queue_of_which_only_an_overdue_job_is_left_is_there_however_many_jobs_are_newer():
    make(queue="ai", state=State.SCHEDULED, run_at=ago(HOUR), id=uuid7())
    newest = "('ffffffff-ffff-7fff-8fff-' || lpad(to_hex(n), 12, '0'))::uuid"
    sql(insert_jobs("generate_series(1, 1000) AS n", id=newest, state="'succeeded'"))
    found = {queue.name: queue.oldest_seconds for queue in queues("default")}
    assert found == {"default": None, "ai": pytest.approx(3600, abs=30)}


def test_the_oldest_job_of_a_queue_may_be_limited_suspect_or_overdue():
    make_keyed("a", queue="keyed", ready_at=ago(HOUR)), make(queue="suspect", crashes=2, ready_at=ago(HOUR))
    make(queue="due", state=State.SCHEDULED, run_at=ago(HOUR))
    make(queue="paused", ready_at=ago(HOUR)), Queue.objects.named("paused").pause()
    Queue.objects.named("due")
    assert all(queue.waiting.number == 1 for queue in queues("default"))
    found = {queue.name: queue.oldest_seconds for queue in queues("default")}
    assert found == dict.fromkeys(("keyed", "suspect", "due", "paused"), pytest.approx(3600, abs=30))


def test_of_more_queues_than_are_shown_a_paused_one_is_paused_and_all_are_counted():
    Queue.objects.bulk_create(Queue(name=f"queue {n:03}") for n in range(150))
    Queue.objects.filter(name="queue 149").pause(), make(queue="queue 140"), make(queue="no row")
    Queue.objects.filter(name="queue 140").update(max_running=3)
    found = {queue.name: queue for queue in queues("default")}
    assert found["queue 149"].paused_at is not None
    assert found["queue 140"].row.max_running == 3
    assert (found["queue 140"].waiting.number, found["no row"].waiting.number) == (1, 1)
    Queue.objects.filter(name="queue 140").pause()
    assert {queue.name for queue in queues("default") if queue.paused_at} == {"queue 140", "queue 149"}
    assert queue_count("default") == 151


def test_held_jobs_are_counted_up_to_a_cap(monkeypatch):
    monkeypatch.setattr(limits_module, "HELD_AT_MOST", 2)
    monkeypatch.setattr(limits_module, "HELD_JOBS", limits_module.HELD_JOBS.replace("10001", "3"))
    for name, count in (("many", 4), ("few", 2)):
        for _ in range(count):
            make_job(State.HELD, held_by=f"budget:{name}")
    labels = {name: count.label for name, count in limits_module.held_jobs(["many", "few", "none"]).items()}
    assert labels == {"many": "2+", "few": "2", "none": "0"}


def test_the_parts_of_a_period_add_up():
    ended(succeeded=3, failed=1), ended(HOUR - MINUTE, retried=2), ended(2 * HOUR, succeeded=9)
    ended(5 * HOUR, "hour", succeeded=7), ended(timedelta(days=2), "hour", crashed=5)
    hour, day, week = (throughput("default", period) for period in Period)
    assert [len(parts) for parts in (hour, day, week)] == [60, 24, 42]
    assert sum(part.succeeded for part in hour) == 3
    assert sum(part.retried for part in hour) == 2
    assert sum(part.succeeded for part in day) == 7
    assert [sum(part.crashed for part in parts) for parts in (day, week)] == [0, 5]
    assert [part.starts_at for part in hour] == sorted(part.starts_at for part in hour)
    ended(90 * MINUTE, failed=3), ended(3 * HOUR, failed=2), ended(HOUR / 2, "hour", failed=50)
    assert failed_jobs("default") == (1, 3)


@pytest.mark.parametrize(("period", "hours"), [(Period.DAY, 1), (Period.WEEK, 4)])
def test_each_part_has_its_runs_where_naive_times_are_set_back(settings, monkeypatch, period, hours):
    settings.USE_TZ, settings.TIME_ZONE = False, "Europe/Berlin"
    now = "timestamptz '2026-10-25 12:30+00'"  # at 01:00 UTC 03:00 became 02:00
    monkeypatch.setattr(runs, "PARTS_OF_PERIOD", runs.PARTS_OF_PERIOD.replace("clock_timestamp()", now))
    sql(
        f"INSERT INTO pgonly_job_stats (granularity, starts_at, queue, task, succeeded, failed, retried, interrupted,"
        f" crashed, waiting_times, run_times) SELECT 'hour', date_trunc('hour', {now}) - n * interval '1 hour', 'q',"
        f" 'tests.jobs.add', 1, 0, 0, 0, 0, '{{1}}', '{{1}}' FROM generate_series(0, 200) AS n"
    )
    assert [part.succeeded for part in throughput("default", period)[:-1]] == [hours] * (period.count - 1)
    found = runs.parts("default", period)[:-1]
    assert [part.ended.ended_jobs for part in found] == [hours] * (period.count - 1)
    assert [sum(part.waiting_times) for part in found] == [hours] * (period.count - 1)


def test_times_add_the_histograms_of_the_period_up():
    ended(queue="a", succeeded=2, waiting_times=[1], run_times=[0, 0, 2])
    ended(10 * MINUTE, queue="a", failed=2, waiting_times=[0, 3], run_times=[0, 0, 0, 2])
    ended(queue="b", succeeded=1), ended(2 * HOUR, queue="c", succeeded=9, run_times=[9])
    first, *others = times("default", Period.HOUR)
    assert (first.queue, first.runs, first.failed) == ("a", 4, 2)
    assert 0.001 <= first.waiting_p50 <= BOUNDS[1]
    assert first.run_p50 == BOUNDS[2]
    assert BOUNDS[2] < first.run_p95 <= BOUNDS[3]
    assert [(each.queue, each.runs, each.run_p50) for each in others] == [("b", 1, None)]


@given(some.lists(some.integers(0, 50), max_size=len(BOUNDS)), some.floats(0.01, 1))
def test_a_percentile_lies_in_the_bucket_that_holds_it(histogram, part):
    value, total = percentile(histogram, part), sum(histogram)
    if not total:
        assert value is None
        return
    below = sum(count for count, bound in zip(histogram, BOUNDS, strict=False) if bound < value)
    upto = sum(count for count, bound in zip(histogram, (0.0, *BOUNDS), strict=False) if bound < value)
    assert below <= total * part + 1e-6
    assert upto >= total * part - 1e-6


def test_budgets_that_hold_jobs_come_first():
    Budget.objects.create(name="full", usd=1, spent=1)
    Budget.objects.create(name="holds", usd=100)
    make_job(State.HELD, held_by="budget:holds"), make_job(State.HELD, held_by="budget:gone")
    make_job(State.HELD, held_by="a person")
    found = budgets("default")
    assert [(budget.name, budget.held_jobs.number) for budget in found] == [
        ("holds", 1),
        ("full", 0),
    ]


def test_limiters_that_cool_down_come_first():
    Limiter.objects.create(name="a"), Limiter.objects.create(name="b", blocked_until=timezone.now() + HOUR)
    assert [limiter.name for limiter in limiters("default")] == ["b", "a"]


def test_the_next_schedule_comes_first_and_paused_ones_last():
    facts = {"task": "tests.jobs.add", "every_seconds": 60}
    Schedule.objects.create(name="paused", paused_at=timezone.now(), **facts)
    Schedule.objects.create(name="later", next_at=timezone.now() + HOUR, **facts)
    Schedule.objects.create(name="next", next_at=timezone.now() + MINUTE, **facts)
    assert [schedule.name for schedule in schedules("default")] == ["next", "later", "paused"]


def test_a_small_cache_is_counted_and_a_large_one_is_what_its_processes_counted(monkeypatch):
    cache = django_caches["answers"]
    cache.set("a", 1), cache.set("b", "x" * 100)
    (found,) = caches()
    assert (found.alias, found.entries, found.is_estimate, found.hit_rate) == ("answers", 2, False, None)
    assert 300 < found.bytes < 1000
    assert found.table_bytes > 0
    name = "pgonly_cache_durable:answers:"
    CacheUsage.objects.update_or_create(
        name=name,
        defaults={"hits": 3, "misses": 1, "entries": 9000, "bytes": 10**6, "writes": 0, "written": 0},
    )
    monkeypatch.setattr("pgonly_django.monitoring.storage.COUNTED_AT_MOST", 1)
    (found,) = caches()
    assert (found.entries, found.bytes, found.is_estimate, found.hit_rate) == (9000, 10**6, True, 0.75)
    cache.clear()
