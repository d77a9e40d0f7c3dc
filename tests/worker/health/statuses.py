"""Statuses of workers that there are not."""

from __future__ import annotations

import time

from pgonly_django.worker.status import STALLED_SECONDS, Status, Statuses, WorkerState


def status(name="w", state=WorkerState.READY, *, stalled=False, **facts):
    now = time.monotonic()
    defaults = {
        "worker_id": "0", "pid": 1, "threads": 8, "running": 0, "jobs_done": 0, "jobs_failed": 0, "jobs_released": 0,
        "stuck_slots": 0, "turned_at": now - (STALLED_SECONDS + 5 if stalled else 0), "idle_since": None,
    }  # fmt: skip
    return Status(name=name, state=state, **{**defaults, **facts})


def seen(*workers, **facts):
    return Statuses(workers, **facts)
