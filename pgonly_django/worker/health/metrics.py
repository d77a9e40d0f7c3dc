"""The workers of this command in the text format of Prometheus."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping

from pgonly_django.worker.health.snapshot import Snapshot
from pgonly_django.worker.status import Status, WorkerState

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# Of each metric its name, its type, its labels, and what it is.
Described = tuple[str, str, tuple[str, ...], str]
OF_COMMAND: tuple[Described, ...] = (
    ("pgonly_workers", "gauge", ("state",), "Worker processes by state."),
    ("pgonly_workers_replaced_total", "counter", (),
     "Worker processes that were started in place of one that ended."),
)  # fmt: skip
MEMORY: Described = (
    "pgonly_worker_resident_memory_bytes", "gauge", ("worker",),
    "Resident memory of the process, with what it shares with others; on Linux.",
)  # fmt: skip
# Of each worker: the end of the name, its type, what it is, and its value; without a value the line is left out.
OF_WORKERS: tuple[tuple[str, str, str, Callable[[Status], float | None]], ...] = (
    ("threads", "gauge", "Jobs that may run at a time.", lambda status: status.threads),
    ("running_jobs", "gauge", "Jobs that were claimed and have not ended.", lambda status: status.running),
    ("jobs_done_total", "counter", "Runs that ended, whatever came of them.", lambda status: status.jobs_done),
    ("jobs_failed_total", "counter", "Runs that ended their job as failed.", lambda status: status.jobs_failed),
    ("jobs_released_total", "counter", "Runs that a stop gave back to the queue.",
     lambda status: status.jobs_released),
    ("stuck_slots", "gauge", "Slots held by jobs that ignored their interruption.",
     lambda status: status.stuck_slots),
    ("last_turn_age_seconds", "gauge", "Since the main loop turned last; above 90 it is stalled.",
     lambda status: round(status.turned_seconds_ago, 3)),
    ("idle_seconds", "gauge", "Since a job ended or began last; 0 while jobs run.",
     lambda status: _since(status.idle_since)),
)  # fmt: skip


def described() -> list[Described]:
    """All metrics that exposition() may have."""
    of_workers = [(f"pgonly_worker_{name}", kind, ("worker",), text) for name, kind, text, _ in OF_WORKERS]
    return [*OF_COMMAND, *of_workers, MEMORY]


def exposition(snapshot: Snapshot) -> str:
    return "\n".join(_lines(snapshot)) + "\n"


def _lines(snapshot: Snapshot) -> Iterator[str]:
    by_state, replaced = OF_COMMAND
    yield from _head(by_state)
    for state in WorkerState:
        unknown = snapshot.starting if state is WorkerState.STARTING else 0
        yield f'pgonly_workers{{state="{state}"}} {snapshot.count((state,)) + unknown}'
    yield from _head(replaced)
    yield f"{replaced[0]} {snapshot.replaced}"
    for name, kind, text, value_of in OF_WORKERS:
        values = {each.name: value_of(each) for each in snapshot.workers}
        yield from _family((f"pgonly_worker_{name}", kind, ("worker",), text), values)
    memory = {each.name: snapshot.memory.get(each.pid) for each in snapshot.workers}
    yield from _family(MEMORY, memory)


def _family(metric: Described, values: Mapping[str, float | None]) -> Iterator[str]:
    yield from _head(metric)
    name = metric[0]
    for worker, value in values.items():
        if value is not None:
            yield f'{name}{{worker="{_escaped(worker)}"}} {value}'


def _head(metric: Described) -> tuple[str, str]:
    name, kind, _, text = metric
    return f"# HELP {name} {text}", f"# TYPE {name} {kind}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _since(moment: float | None) -> float:
    return 0.0 if moment is None else round(max(time.monotonic() - moment, 0.0), 3)
