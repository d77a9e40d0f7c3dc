"""A worker that died with two jobs, and two that were stopped."""

from __future__ import annotations

from typing import Any

from example_project.screening.demo import sample_tasks
from example_project.screening.demo.seeding.rows import ago, worker_id
from pgonly_django.models import Worker

SERVED = list(sample_tasks.SERVED)


def write() -> None:
    # Silent for longer than a lease, whose usual length is 60 s.
    _write("demo-dead", running=2, started_at=ago(hours=5), heartbeat_at=ago(seconds=95))
    for hours, name in enumerate(("demo-1", "demo-2"), start=2):
        _write(name, started_at=ago(hours=30), heartbeat_at=ago(hours=hours), stopped_at=ago(hours=hours))


def _write(name: str, **facts: Any) -> None:
    about = {"name": name, "hostname": "demo-host", "pid": 4000 + len(name), "queues": SERVED, "threads": 4}
    defaults = {**about, "running": 0, "stopped_at": None, **facts}
    Worker.objects.update_or_create(pk=worker_id(name), defaults=defaults)
