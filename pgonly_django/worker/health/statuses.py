"""The workers of this command: whether they are well, and their figures in the text format of Prometheus."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from pgonly_django.wording import duration
from pgonly_django.worker.memory import resident_bytes
from pgonly_django.worker.status import Status, WorkerState

# PostgreSQL is there, or is left alone on purpose: a job that is enqueued runs.
SERVING = (WorkerState.READY, WorkerState.ASLEEP)


@dataclass(frozen=True)
class Statuses:
    """Of one worker, or of those of a supervisor: the last status that each has told."""

    workers: tuple[Status, ...] = ()
    starting: int = 0  # processes that have told none yet
    replaced: int = 0  # processes that were started in place of one that ended
    is_stopping: bool = False
    memory: dict[int, int] = field(default_factory=dict)  # resident bytes by process id; those that are known

    @classmethod
    def of(cls, statuses: Iterable[Status], **facts: Any) -> Self:
        workers = tuple(statuses)
        memory = {each.pid: resident_bytes(each.pid) for each in workers}
        return cls(workers, memory={pid: size for pid, size in memory.items() if size is not None}, **facts)

    @property
    def running(self) -> int:
        return sum(each.running for each in self.workers)

    def count(self, state: WorkerState) -> int:
        return sum(each.state is state for each in self.workers)

    def why_not_live(self) -> str | None:
        """None while every main loop turns."""
        late = [
            f"The main loop of {each.name} has not turned for {duration(each.turned_seconds_ago)}."
            for each in self.workers
            if each.is_stalled
        ]
        return " ".join(late) or None

    def why_not_ready(self) -> str | None:
        """None while at least one worker would run a job that is enqueued now."""
        if self.is_stopping:
            return "Stopping."
        if any(each.state in SERVING and not each.is_stalled for each in self.workers):
            return None
        if stalled := self.why_not_live():
            return stalled
        if self.count(WorkerState.AWAY):
            return "PostgreSQL does not answer."
        is_starting = self.starting or not self.workers or self.count(WorkerState.STARTING)
        return "Starting." if is_starting else "Stopping."


# Metrics.

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def _idle_seconds(status: Status) -> float:
    since = status.idle_since
    return 0.0 if since is None else round(max(time.monotonic() - since, 0.0), 3)


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
     _idle_seconds),
)  # fmt: skip


def described() -> list[Described]:
    """All metrics that exposition() may have."""
    of_workers = [(f"pgonly_worker_{name}", kind, ("worker",), text) for name, kind, text, _ in OF_WORKERS]
    return [*OF_COMMAND, *of_workers, MEMORY]


def exposition(seen: Statuses) -> str:
    return "\n".join(_lines(seen)) + "\n"


def _lines(seen: Statuses) -> Iterator[str]:
    by_state, replaced = OF_COMMAND
    states = {state: seen.count(state) for state in WorkerState}
    states[WorkerState.STARTING] += seen.starting
    yield from _family(by_state, states)
    yield from _head(replaced)
    yield f"{replaced[0]} {seen.replaced}"
    for name, kind, text, value_of in OF_WORKERS:
        values = {each.name: value_of(each) for each in seen.workers}
        yield from _family((f"pgonly_worker_{name}", kind, ("worker",), text), values)
    yield from _family(MEMORY, {each.name: seen.memory.get(each.pid) for each in seen.workers})


def _family(metric: Described, values: Mapping[Any, float | None]) -> Iterator[str]:
    """`values` by the value of the only label."""
    yield from _head(metric)
    name, _, (label,), _ = metric
    for of, value in values.items():
        if value is not None:
            escaped = of.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
            yield f'{name}{{{label}="{escaped}"}} {value}'


def _head(metric: Described) -> tuple[str, str]:
    name, kind, _, text = metric
    return f"# HELP {name} {text}", f"# TYPE {name} {kind}"
