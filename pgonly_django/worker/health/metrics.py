"""The workers of this command in the text format of Prometheus."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping

from pgonly_django.worker.health.snapshot import Snapshot
from pgonly_django.worker.status import Status, WorkerState

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# Of each worker: its name, its type, what it is, and its value; without a value the line is left out.
OF_WORKERS: tuple[tuple[str, str, str, Callable[[Status], float | None]], ...] = (
    ("threads", "gauge", "Jobs that may run at a time.", lambda status: status.threads),
    ("running_jobs", "gauge", "Jobs that were claimed and have not ended.", lambda status: status.running),
    ("jobs_done_total", "counter", "Runs that ended, whatever came of them.", lambda status: status.jobs_done),
    ("jobs_failed_total", "counter", "Runs that ended their job as failed.", lambda status: status.jobs_failed),
    ("jobs_released_total", "counter", "Runs that a stop gave back to the queue.",
     lambda status: status.jobs_released),
    ("stuck_slots", "gauge", "Slots held by jobs that ignored their interruption.",
     lambda status: status.stuck_slots),
    ("seconds_since_turn", "gauge", "Since the main loop turned last; above 90 it is stalled.",
     lambda status: round(status.turned_seconds_ago, 3)),
    ("idle_seconds", "gauge", "Since a job ended or began last; 0 while jobs run.",
     lambda status: _since(status.idle_since)),
)  # fmt: skip
MEMORY = "Resident memory of the process, with what it shares with others."


def exposition(snapshot: Snapshot) -> str:
    return "\n".join(_lines(snapshot)) + "\n"


def _lines(snapshot: Snapshot) -> Iterator[str]:
    yield from _head("pgonly_workers", "gauge", "Worker processes by state.")
    for state in WorkerState:
        unknown = snapshot.starting if state is WorkerState.STARTING else 0
        yield f'pgonly_workers{{state="{state}"}} {snapshot.count((state,)) + unknown}'
    help_text = "Worker processes that were started in place of one that ended."
    yield from _head("pgonly_workers_replaced_total", "counter", help_text)
    yield f"pgonly_workers_replaced_total {snapshot.replaced}"
    for name, kind, text, value_of in OF_WORKERS:
        values = {each.name: value_of(each) for each in snapshot.workers}
        yield from _family(f"pgonly_worker_{name}", kind, text, values)
    memory = {each.name: snapshot.memory.get(each.pid) for each in snapshot.workers}
    yield from _family("pgonly_worker_resident_memory_bytes", "gauge", MEMORY, memory)


def _family(name: str, kind: str, text: str, values: Mapping[str, float | None]) -> Iterator[str]:
    yield from _head(name, kind, text)
    for worker, value in values.items():
        if value is not None:
            yield f'{name}{{worker="{_escaped(worker)}"}} {value}'


def _head(name: str, kind: str, text: str) -> tuple[str, str]:
    return f"# HELP {name} {text}", f"# TYPE {name} {kind}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _since(moment: float | None) -> float:
    return 0.0 if moment is None else round(max(time.monotonic() - moment, 0.0), 3)
