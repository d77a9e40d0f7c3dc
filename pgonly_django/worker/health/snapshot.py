"""What the answers are made of: the workers of this command, as of now."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Self

from pgonly_django.wording import duration
from pgonly_django.worker.memory import resident_bytes
from pgonly_django.worker.status import Status, WorkerState

# PostgreSQL is there, or is left alone on purpose: a job that is enqueued runs.
SERVING = (WorkerState.READY, WorkerState.ASLEEP)


@dataclass(frozen=True)
class Snapshot:
    """One worker, or those of a supervisor: the last status that each has told. A process that has told none yet is
    left out; it is `starting` until then."""

    workers: tuple[Status, ...] = ()
    starting: int = 0  # processes without a status
    replaced: int = 0  # processes that were started in place of one that ended
    is_stopping: bool = False
    memory: dict[int, int] = field(default_factory=dict)  # resident bytes by process id; those that are known

    @classmethod
    def of_one(cls, status: Status) -> Self:
        """Of a worker without a supervisor."""
        memory = resident_bytes(status.pid)
        return cls((status,), memory={} if memory is None else {status.pid: memory})

    @property
    def stalled(self) -> list[Status]:
        return [each for each in self.workers if each.is_stalled]

    @property
    def running(self) -> int:
        return sum(each.running for each in self.workers)

    def count(self, states: Iterable[WorkerState]) -> int:
        return sum(each.state in states for each in self.workers)

    def why_not_live(self) -> str | None:
        """None while every main loop turns."""
        late = [
            f"The main loop of {each.name} has not turned for {duration(each.turned_seconds_ago)}."
            for each in self.stalled
        ]
        return " ".join(late) or None

    def why_not_ready(self) -> str | None:
        """None while at least one worker would run a job that is enqueued now."""
        if self.is_stopping:
            return "Stopping."
        serving = [each for each in self.workers if each.state in SERVING and not each.is_stalled]
        if serving:
            return None
        if stalled := self.why_not_live():
            return stalled
        if self.count((WorkerState.AWAY,)):
            return "PostgreSQL does not answer."
        if self.starting or not self.workers or self.count((WorkerState.STARTING,)):
            return "Starting."
        return "Stopping."
