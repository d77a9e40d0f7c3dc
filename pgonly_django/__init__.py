"""PostgreSQL as Django's job queue, cache and session store.

The public names below are imported on first use, since settings and app loading may import this package early.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pgonly_django.amounts import Cost, Costed
    from pgonly_django.context.context import JobContext
    from pgonly_django.context.gathering import FailedJob
    from pgonly_django.exceptions import (
        Discard,
        Hold,
        JobCancelled,
        JobHeld,
        JobInterrupt,
        JobStopped,
        JobTimedOut,
        JobWaiting,
        LeaseLost,
        Retry,
        Snooze,
    )
    from pgonly_django.limits.budget import budget
    from pgonly_django.limits.limiter import limiter
    from pgonly_django.progress.answers import answer_url
    from pgonly_django.queue.retry import Backoff
    from pgonly_django.queue.waits import asend_event, asend_events, send_event, send_events
    from pgonly_django.scheduling.decorators import cron, every
    from pgonly_django.tasks.batches import Batch
    from pgonly_django.tasks.bound import RESULT
    from pgonly_django.tasks.bulk import enqueue_many
    from pgonly_django.tasks.redrive import redrive
    from pgonly_django.tasks.task import task

__all__ = [
    "RESULT",
    "Backoff",
    "Batch",
    "Cost",
    "Costed",
    "Discard",
    "FailedJob",
    "Hold",
    "JobCancelled",
    "JobContext",
    "JobHeld",
    "JobInterrupt",
    "JobStopped",
    "JobTimedOut",
    "JobWaiting",
    "LeaseLost",
    "Retry",
    "Snooze",
    "answer_url",
    "asend_event",
    "asend_events",
    "budget",
    "cron",
    "enqueue_many",
    "every",
    "limiter",
    "redrive",
    "send_event",
    "send_events",
    "task",
]

_MODULES = {
    "RESULT": "pgonly_django.tasks.bound",
    "Backoff": "pgonly_django.queue.retry",
    "Batch": "pgonly_django.tasks.batches",
    "Cost": "pgonly_django.amounts",
    "Costed": "pgonly_django.amounts",
    "FailedJob": "pgonly_django.context.gathering",
    "JobContext": "pgonly_django.context.context",
    "answer_url": "pgonly_django.progress.answers",
    "asend_event": "pgonly_django.queue.waits",
    "asend_events": "pgonly_django.queue.waits",
    "budget": "pgonly_django.limits.budget",
    "cron": "pgonly_django.scheduling.decorators",
    "enqueue_many": "pgonly_django.tasks.bulk",
    "every": "pgonly_django.scheduling.decorators",
    "limiter": "pgonly_django.limits.limiter",
    "redrive": "pgonly_django.tasks.redrive",
    "send_event": "pgonly_django.queue.waits",
    "send_events": "pgonly_django.queue.waits",
    "task": "pgonly_django.tasks.task",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES.get(name, "pgonly_django.exceptions")), name)
