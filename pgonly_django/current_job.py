"""The job whose code runs here, for what acts in its name without being handed its context: budgets, log lines."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any, Protocol


class CurrentJob(Protocol):
    """What these need of a run (context/run.py)."""

    job: Any  # its row as it was claimed: id, task, queue, attempt
    worker: str  # the name of its worker

    def hold(self, by: str, reason: str, again_in_seconds: float | None = None) -> BaseException:
        """The run has to end, and the job is held; with `again_in_seconds` it goes on by itself after that time.
        Returns what to raise in the job's code."""
        ...

    def raise_if_interrupted(self) -> None:
        """Raise the interruption of a run that has to end."""
        ...


# Set in the job's thread or asyncio task. Copied to the tasks that it creates and to sync_to_async(); a thread that it
# starts has it where contextvars.copy_context().run() is the thread's target.
current_job: ContextVar[CurrentJob | None] = ContextVar("pgonly_django_current_job", default=None)
