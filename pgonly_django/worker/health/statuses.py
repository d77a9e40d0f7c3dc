"""Whether the workers of this command are well: what the health port, the heartbeat file and systemd tell."""

from __future__ import annotations

from collections.abc import Iterable
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
