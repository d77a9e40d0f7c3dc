from __future__ import annotations

import re
import time

import pytest

from pgonly_django.worker.health.statuses import described, exposition
from pgonly_django.worker.status import WorkerState
from tests.worker.health.statuses import seen, status

SAMPLE = re.compile(
    r'(?P<name>[a-z_]+)(\{(?P<label>[a-z]+)="(?P<value>(?:[^"\\\n]|\\["\\n])*)"\})? (?P<number>[-0-9.e+]+)'
)


def samples(statuses):
    """By name and label value. Every line is a comment of its family or matches the format."""
    found, declared = {}, set()
    for line in exposition(statuses).splitlines():
        if line.startswith("# "):
            _, word, name, rest = line.split(" ", 3)
            if word == "TYPE":
                assert name not in declared
                assert rest == ("counter" if name.endswith("_total") else "gauge")
                declared.add(name)
            continue
        match = SAMPLE.fullmatch(line)
        assert match, line
        assert match["name"] in declared
        found[match["name"], match["value"]] = float(match["number"])
    return found


def test_every_worker_has_its_numbers():
    first = status(
        "a", pid=11, threads=4, running=2, jobs_done=7, jobs_failed=1, jobs_released=3, stuck_slots=1
    )
    second = status("b", WorkerState.ASLEEP, pid=12, idle_since=time.monotonic() - 100)
    found = samples(seen(first, second, starting=1, replaced=5, memory={11: 1_000_000}))
    assert found["pgonly_workers", "ready"] == found["pgonly_workers", "asleep"] == 1
    assert found["pgonly_workers", "starting"] == 1
    assert found["pgonly_workers", "away"] == 0
    assert found["pgonly_workers_replaced_total", None] == 5
    of_first = {name: number for (name, worker), number in found.items() if worker == "a"}
    assert of_first.pop("pgonly_worker_last_turn_age_seconds") < 60
    assert of_first == {
        "pgonly_worker_threads": 4,
        "pgonly_worker_running_jobs": 2,
        "pgonly_worker_jobs_done_total": 7,
        "pgonly_worker_jobs_failed_total": 1,
        "pgonly_worker_jobs_released_total": 3,
        "pgonly_worker_stuck_slots": 1,
        "pgonly_worker_idle_seconds": 0,
        "pgonly_worker_resident_memory_bytes": 1_000_000,
    }
    assert 99 < found["pgonly_worker_idle_seconds", "b"] < 200
    assert ("pgonly_worker_resident_memory_bytes", "b") not in found


def test_a_name_with_quotes_breaks_no_line():
    found = samples(seen(status('a"} 1\n\\')))
    assert found["pgonly_worker_threads", r"a\"} 1\n\\"] == 8


def test_without_a_worker_it_is_valid():
    assert samples(seen())["pgonly_workers", "ready"] == 0


def test_the_library_of_prometheus_reads_it():
    parser = pytest.importorskip("prometheus_client.parser")
    statuses = seen(status('a"} 1\n\\', pid=11), status("b"), memory={11: 5})
    found = {family.name: family for family in parser.text_string_to_metric_families(exposition(statuses))}
    named = {name.removesuffix("_total"): (kind, set(labels)) for name, kind, labels, _ in described()}
    assert set(found) == set(named)
    for name, family in found.items():
        kind, labels = named[name]
        assert family.type == kind
        assert all(set(sample.labels) == labels for sample in family.samples)
    workers = {sample.labels["worker"] for sample in found["pgonly_worker_threads"].samples}
    assert workers == {'a"} 1\n\\', "b"}
