"""The text that a scraper reads, parsed by the library that Prometheus' own project has for it."""

from __future__ import annotations

import logging
import re
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from types import SimpleNamespace

import pytest
from django.core.cache import caches as django_caches
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from pgonly_django.models import Budget, JobStats, Limiter, Queue, State
from pgonly_django.monitoring.metrics import METRICS, buckets
from tests.admin.conftest import make_job
from tests.aliases import alias
from tests.queue.rows import HOUR, ago, make, make_running, make_worker
from tests.sql import sql

pytest.importorskip("prometheus_client")

from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain

from pgonly_django.monitoring import prometheus
from pgonly_django.monitoring.prometheus import PgonlyCollector, exposition
from pgonly_django.queue.known_names import queue_count

pytestmark = pytest.mark.django_db
OPENMETRICS = "application/openmetrics-text; version=1.0.0"
PLAIN = "text/plain; version=0.0.4"


def families(accept=PLAIN, **options):
    text, content_type = exposition(accept, **options)
    parse = openmetrics if content_type.startswith("application/openmetrics-text") else plain
    return list(parse(text.decode()))


def samples(**options):
    """The values by name and sorted labels."""
    found = {}
    for family in families(**options):
        for sample in family.samples:
            key = sample.name, *sorted((k, v) for k, v in sample.labels.items() if k != "database")
            assert key not in found
            found[key] = sample.value
    return found


def ended(task="tests.jobs.add", queue="default", **counts):
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    JobStats.objects.create(granularity="hour", starts_at=hour, queue=queue, task=task, **counts)


def fill():
    """Something for each of the metrics."""
    for state in State:
        make_job(state)
    (
        make_worker(threads=4),
        make_running(make_worker(silent_for=timedelta(minutes=2), running=1).pk, queue="ai"),
    )
    Queue.objects.create(name="ai", max_running=3, paused_at=timezone.now())
    ended(succeeded=5, failed=1, waiting_times=[0, 6], run_times=[0] * 10 + [6])
    Limiter.objects.create(name="deepseek", concurrent=5, blocked_until=timezone.now() + HOUR)
    Budget.objects.create(name="tokens", usd=10, spent=4, reserved=1)
    django_caches["answers"].set("a", 1)


@pytest.mark.parametrize("accept", [PLAIN, OPENMETRICS])
def test_both_formats_are_read_by_their_parsers(accept):
    fill()
    found = families(accept)
    by_name = {metric.name.removesuffix("_total"): metric for metric in METRICS}
    for family in found:
        metric = by_name[family.name.removesuffix("_total")]
        assert family.documentation == metric.text
        assert metric.name.endswith("_total") == (metric.kind == "counter")
        assert family.type == metric.kind
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(metric.labels)
    optional = {"pgonly_cache_max_entries", "pgonly_cache_max_bytes"}  # the cache of the tests has no bound
    assert {family.name.removesuffix("_total") for family in found} >= set(by_name) - optional


def test_names_keep_the_conventions_of_prometheus():
    """What `promtool check metrics` asks for: the unit last, and none of the endings that the formats reserve."""
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names)
    for name in names:
        assert re.fullmatch(r"pgonly_[a-z]+(_[a-z]+)*", name)
        assert not re.search(r"_(count|sum|bucket|gauge|counter|histogram|ms|milliseconds|mb)$", name)
        for unit in ("seconds", "bytes", "usd"):
            assert unit not in name or name.removesuffix("_total").endswith(unit)


def test_the_figures_are_those_of_the_tables():
    fill()
    make(queue="mail", ready_at=ago(HOUR))
    found = samples()
    assert found["pgonly_up",] == 1
    assert found["pgonly_jobs", ("state", "running")] == 2
    assert found["pgonly_queue_paused", ("queue", "ai")] == 1
    assert found["pgonly_queue_running_limit", ("queue", "ai")] == 3
    assert ("pgonly_queue_running_limit", ("queue", "mail")) not in found
    assert 3500 < found["pgonly_queue_oldest_waiting_seconds", ("queue", "mail")] < 3700
    assert found["pgonly_queue_served", ("queue", "mail")] == 1
    assert found["pgonly_workers_live",] == 1
    assert found["pgonly_workers_silent",] == 1
    assert found["pgonly_workers_late",] == 1
    assert found["pgonly_workers_threads",] == 4
    assert 3500 < found["pgonly_limiter_cool_down_seconds", ("limiter", "deepseek")] <= 3600
    assert found["pgonly_budget_spent_usd", ("budget", "tokens")] == 4
    assert found["pgonly_cache_entries", ("cache", "answers")] == 1
    of_task = ("queue", "default"), ("task", "tests.jobs.add")
    assert found["pgonly_runs_total", ("outcome", "failed"), *of_task] == 1
    assert found["pgonly_run_duration_seconds_bucket", ("le", "0.016"), *of_task] == 0
    assert found["pgonly_run_duration_seconds_bucket", ("le", "0.032"), *of_task] == 6
    assert found["pgonly_wait_duration_seconds_bucket", ("le", "+Inf"), *of_task] == 6
    assert {key: value for key, value in found.items() if key[0] == "pgonly_stats_missing" and value} == {}


def test_a_part_that_is_missing_is_said_in_a_metric_and_once_in_the_log(caplog):
    caplog.set_level(logging.WARNING, "pgonly_django.monitoring")
    with transaction.atomic():
        sql("ALTER TABLE pgonly_session RENAME TO elsewhere")
        for _ in range(2):
            found = samples()
        transaction.set_rollback(True)
    assert found["pgonly_stats_missing", ("part", "sessions")] == 1
    assert found["pgonly_stats_missing", ("part", "states")] == 0
    assert ("pgonly_sessions_active",) not in found
    (record,) = caplog.records
    assert "sessions: It could not be read: relation" in record.getMessage()
    assert ("pgonly_sessions_active",) in samples()


def test_the_log_says_one_reason_of_several_parts_once(caplog, monkeypatch):
    """Of a database that is away, all parts are missing."""
    monkeypatch.setattr(prometheus, "_told", {})
    away = dict.fromkeys(["states", "waits", "sessions"], "The database is away.")
    prometheus._tell_of_missing(SimpleNamespace(database="other", missing=away))
    (record,) = caplog.records
    assert record.getMessage().endswith("are missing. states, waits, sessions: The database is away.")


@pytest.mark.parametrize("accept", [PLAIN, OPENMETRICS])
def test_names_with_quotes_and_newlines_break_no_line(accept):
    hostile = 'a"} 1\n# TYPE x\\ {ü,\u2028=\u0001'
    make(queue=hostile), ended(queue=hostile, task=hostile, succeeded=3)
    Limiter.objects.create(name=hostile, concurrent=1), Budget.objects.create(name=hostile, usd=1)
    by_name = {family.name: family for family in families(accept)}
    runs = by_name["pgonly_runs"]
    assert {(sample.labels["queue"], sample.labels["task"]) for sample in runs.samples} == {
        (hostile, hostile)
    }
    for name, label in (
        ("queue_waiting_jobs", "queue"),
        ("limiter_slots", "limiter"),
        ("budget_cap_usd", "budget"),
    ):
        (sample,) = by_name[f"pgonly_{name}"].samples
        assert sample.labels[label] == hostile


@pytest.mark.slow
def test_ten_thousand_tasks_and_queues_make_no_more_than_a_few_thousand_lines():
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    JobStats.objects.bulk_create(
        JobStats(granularity="hour", starts_at=hour, queue=f"q{n}", task=f"t{n}", succeeded=1, run_times=[1])
        for n in range(10_000)
    )
    Queue.objects.bulk_create(Queue(name=f"queue {n}") for n in range(500))
    for number in range(150):
        make(queue=f"ready {number}", ready_at=ago(timedelta(seconds=number)))
    text, _ = exposition(PLAIN)
    found = samples()
    assert len(text.splitlines()) < 6_500
    assert found["pgonly_tasks_left_out",] == 9_900
    assert sum(value for (name, *_), value in found.items() if name == "pgonly_runs_total") == 10_000
    shown = {labels[0][1] for name, *labels in found if name == "pgonly_queue_waiting_jobs"}
    assert len(shown) == 100
    assert "ready 149" in shown  # it has waited longest
    assert found["pgonly_queues_left_out",] == queue_count("default") - 100 >= 550


def test_registering_reads_no_database():
    with CaptureQueriesContext(connection) as queries:
        registry = CollectorRegistry(auto_describe=True)
        registry.register(PgonlyCollector())
        with pytest.raises(ValueError, match="Duplicated"):
            registry.register(PgonlyCollector())
    assert len(queries) == 0


def test_each_database_has_its_label_by_default_those_of_tasks(settings, any_database):
    ours = settings.TASKS["default"]
    settings.TASKS = {"default": ours, "second": {**ours, "OPTIONS": {"database": "jobs"}}}
    with alias("jobs"):
        registry = CollectorRegistry()
        registry.register(PgonlyCollector())
        for name in ("pgonly_up", "pgonly_jobs", "pgonly_sessions_active"):
            (family,) = registry.restricted_registry([name]).collect()
            databases = {sample.labels["database"] for sample in family.samples}
            assert databases == ({"default"} if "sessions" in name else {"default", "jobs"})


def test_a_cache_on_a_dead_database_is_down_alone(settings, any_database):
    from benchmarks.servers import free_port

    with alias("gone", HOST="127.0.0.1", PORT=free_port()):
        settings.CACHES = {
            "answers": settings.CACHES["answers"],
            "far": {**settings.CACHES["answers"], "OPTIONS": {"DATABASE": "gone"}},
            "bounded": {**settings.CACHES["answers"], "LOCATION": "b", "OPTIONS": {"MAX_BYTES": 10_000_000}},
        }
        found = samples()
    assert found["pgonly_cache_up", ("cache", "far")] == 0
    assert found["pgonly_cache_up", ("cache", "answers")] == 1
    assert ("pgonly_cache_entries", ("cache", "far")) not in found
    assert found["pgonly_cache_max_bytes", ("cache", "bounded")] == 10_000_000
    assert found["pgonly_up",] == 1


def test_buckets_are_sums_of_the_statistics_own():
    counts = [1] * 64
    found = buckets(counts)
    assert found[0] == (0.004, 5)
    assert [round(after / before, 6) for (before, _), (after, _) in pairwise(found[:-1])] == [2] * 22
    assert found[-1] == (float("inf"), 64)
    assert buckets([]) == [(bound, 0) for bound, _ in found]
