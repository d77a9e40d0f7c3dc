"""Who ran the jobs of the last week: a worker that died with two of them, and others that were stopped."""

from __future__ import annotations

import random
import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from django.utils import timezone

from example_project.screening.demo.sample_tasks import SERVED
from pgonly_django.models import Worker
from pgonly_django.models.worker import own_version

WORKERS = uuid.uuid5(uuid.NAMESPACE_DNS, "workers.demo.invalid")
FORGOTTEN_AFTER = timedelta(days=1)  # maintenance deletes the row of a worker


class Life(NamedTuple):
    """`started` and `ended`: how long ago."""

    name: str
    pid: int
    started: timedelta
    ended: timedelta
    queues: Sequence[str] = SERVED

    @property
    def worker_id(self) -> uuid.UUID:
        """The same at each call, so that a later demo finds the rows of an earlier one."""
        return uuid.uuid5(WORKERS, self.name)

    def serves(self, queue: str, moment: datetime) -> bool:
        return queue in self.queues and self.ended < timezone.now() - moment <= self.started


# It is silent, and its jobs wait for the end of their leases.
DEAD = Life("demo-dead", 4109, timedelta(hours=5), timedelta(seconds=35))
OF_QUESTIONS = Life("demo-ai", 4104, timedelta(days=8), timedelta(minutes=8), ("ai",))
STOPPED = Life("demo-2", 4107, timedelta(hours=30), timedelta(minutes=64))
# The one after the other, by the report that they ran. They had no other job.
KILLED = [Life(f"demo-{number}", 4110 + number, timedelta(days=3), timedelta(days=2)) for number in (3, 4, 5)]
LIVES = (
    Life("demo-0", 4103, timedelta(days=8), timedelta(hours=30)),
    Life("demo-1", 4106, timedelta(hours=30), timedelta(hours=2)),
    STOPPED,
    OF_QUESTIONS,
    DEAD,
)


def write() -> None:
    for life in LIVES:
        if life.ended < FORGOTTEN_AFTER:
            _write(life)


def _write(life: Life) -> None:
    ended = timezone.now() - life.ended
    values: dict[str, Any] = {
        "name": life.name, "hostname": "demo-host", "pid": life.pid, "queues": list(life.queues), "threads": 4,
        "running": 2 if life is DEAD else 0, "version": own_version(), "started_at": timezone.now() - life.started,
        "heartbeat_at": ended, "stopped_at": None if life is DEAD else ended,
    }  # fmt: skip
    Worker.objects.update_or_create(pk=life.worker_id, defaults=values)


def at_work(queue: str, moment: datetime) -> Life:
    """One that served the queue at that time."""
    return random.choice([life for life in LIVES if life.serves(queue, moment)])
