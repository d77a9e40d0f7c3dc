"""The job whose code runs here, for code that acts in its name without getting its context: budgets, log lines."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any, Protocol


class CurrentJob(Protocol):
    """The part of a run (context/run.py) that this code needs."""

    job: Any  # its row as it was claimed: id, task, queue, attempt
    worker: str  # the name of its worker

    # One entry for each that calls of this run have made of budgets, and not settled.
    reservations: list[None]

    @property
    def is_in_the_way(self) -> bool:
        """Whether it only waits while another job may need its slot, or its place in a limit: none of its other calls
        is under way, and the worker has no other free slot, or a limit counts the job."""

    has_reserved: bool  # a call of this run has had a reservation

    def share_of_slots(self, waited: float) -> float:
        """Returns the seconds that the run has taken of all slots of its worker together, and that the next run takes
        again. Without those for which it has `waited`, and 0 after a step, which is not repeated."""

    def hold(self, by: str, reason: str, again_in_seconds: float | None = None) -> BaseException:
        """Makes the run end and holds the job. With `again_in_seconds` the job continues by itself after that time.
        Returns what to raise in the job's code."""

    def raise_if_interrupted(self) -> None:
        """Raises the interruption of a run that has to end."""


# Set in the job's thread or asyncio task. Copied to the tasks that it creates and to sync_to_async(); a thread that it
# starts has it where contextvars.copy_context().run() is the thread's target.
current_job: ContextVar[CurrentJob | None] = ContextVar("pgonly_django_current_job", default=None)
# The job's context, a JobContext, where its task takes it. Not an attribute of the run, which the context refers to.
current_context: ContextVar[Any] = ContextVar("pgonly_django_current_context", default=None)
