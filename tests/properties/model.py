"""What the life of a job allows, in plain Python: the state machine's measure of the SQL."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from pgonly_django.models.job import State
from pgonly_django.models.job_rows import CRASHES_ALLOWED, SUSPECT_FROM
from pgonly_django.outcomes import Outcome
from pgonly_django.queue.finish import Finish

FINISHED = ("succeeded", "failed", "cancelled")


@dataclass
class Run:
    """One claim, as its worker remembers it."""

    worker: str
    lease_epoch: int


@dataclass
class Job:
    state: str = "ready"
    lease_epoch: int = 0
    attempt: int = 0
    interruptions: int = 0
    crashes: int = 0
    cancel_requested: bool = False
    is_ahead: bool = False  # its run_at, while it is scheduled, or held since it was
    queue: str = ""
    key: str | None = None  # of its concurrency
    batch: str | None = None
    place: int = 0  # among those that a job gathers
    gathers: str | None = None  # what it makes of failed ones
    days_left: int | None = None  # until it may be pruned; None: not finished
    owes_letter: bool = False
    holder: Run | None = None
    past: list[Run] = field(default_factory=list)
    waits: dict[str, int] = field(default_factory=dict)  # for the keys of events; in which run

    @property
    def is_finished(self) -> bool:
        return self.state in FINISHED

    @property
    def is_retryable(self) -> bool:
        return self.state in ("failed", "cancelled", "scheduled", "held")

    def waits_for(self, *keys: str) -> bool:
        """Whether it waits now for one of these events, or for any."""
        return self.lease_epoch in [run for key, run in self.waits.items() if not keys or key in keys]

    def claimed(self, worker: str) -> None:
        assert self.state == "ready", "claimed while it was not ready"
        self.state, self.lease_epoch, self.attempt = "running", self.lease_epoch + 1, self.attempt + 1
        self.holder = Run(worker, self.lease_epoch)

    def ended(
        self, state: str, *, costs: bool = True, interrupted: bool = False, clears: bool = True
    ) -> None:
        waits = state in ("ready", "scheduled", "held")
        self.is_ahead = state == "scheduled"
        self.state = "cancelled" if waits and self.cancel_requested else state
        self.attempt -= not costs
        self.interruptions += interrupted
        self.crashes = 0 if clears else self.crashes
        self._let_go()
        self._note_end()

    def crashed(self, *, blamed: bool) -> None:
        self.crashes += blamed
        self.attempt -= 1
        self.state = (
            "failed" if self.crashes >= CRASHES_ALLOWED else "cancelled" if self.cancel_requested else "ready"
        )
        self._let_go()
        self._note_end()

    def cancelled(self) -> None:
        if self.state in ("ready", "scheduled", "held", "running"):
            self.cancel_requested = True
            self.state = "running" if self.state == "running" else "cancelled"
            self._note_end()

    def retried(self) -> None:
        if self.is_retryable:
            self.state, self.attempt, self.crashes, self.cancel_requested = "ready", 0, 0, False
            self._note_end()

    def redriven(self) -> None:
        if self.state == "failed":
            self.retried()

    def discarded(self) -> None:
        if self.state in ("ready", "scheduled", "held"):
            self.state = "failed"
            self._note_end()

    def held(self) -> None:
        if self.state in ("ready", "scheduled"):
            self.is_ahead, self.state = self.state == "scheduled", "held"

    def resumed(self) -> None:
        if self.state == "held":
            self.state = "scheduled" if self.is_ahead and not self.waits_for() else "ready"

    def promoted(self) -> None:
        if self.state == "scheduled":
            self.state = "ready"

    def days_pass(self, days: int) -> bool:
        """Whether the job is still there, once what is to be pruned is gone."""
        if self.days_left is None:
            return True
        self.days_left -= days
        return self.days_left > 0

    def _note_end(self) -> None:
        self.days_left = (90 if self.state == "failed" else 7) if self.is_finished else None
        self.owes_letter = self.state == "failed"

    def _let_go(self) -> None:
        assert self.holder is not None
        self.past.append(self.holder)
        self.holder = None

    @property
    def facts(self) -> tuple:
        return (
            self.state,
            self.lease_epoch,
            self.attempt,
            self.interruptions,
            self.crashes,
            self.cancel_requested,
        )


@dataclass
class Batch:
    callbacks: tuple[str, ...] = ()
    parent: str | None = None  # the job that gathers
    size: int | None = None  # how many it gathers
    is_finished: bool = False
    is_cancelled: bool = False
    closes: int = 0
    sent: dict[str, str] = field(default_factory=dict)  # the callbacks that were enqueued: their jobs

    def due(self, *, has_failed: bool) -> set[str]:
        """What its end enqueues."""
        owed = {"on_failure" if has_failed else "on_success", "on_finish"}
        return owed & set(self.callbacks) - set(self.sent)

    def closed(self) -> None:
        self.is_finished, self.closes = True, self.closes + 1

    def reopened(self) -> None:
        self.is_finished = self.is_cancelled = False

    def key_of_its_end(self, batch_id: str, number: int | None = None) -> str:
        """Of the event that its parent waits for."""
        return f"batch {batch_id} {self.closes if number is None else number}"

    @property
    def is_expired(self) -> bool:
        """A day after its end. One that had no members from the start goes with its parent."""
        return self.is_finished and self.closes > 0

    @property
    def facts(self) -> tuple:
        return self.is_finished, self.is_cancelled, self.closes, self.sent


VERBS = {
    "cancel": Job.cancelled,
    "retry": Job.retried,
    "discard": Job.discarded,
    "hold": Job.held,
    "resume": Job.resumed,
    "run_now": Job.promoted,
}
ENDS = {
    "succeed": (Outcome.SUCCEEDED, State.SUCCEEDED, {}),
    "fail": (Outcome.FAILED, State.FAILED, {}),
    "retry": (Outcome.FAILED, State.SCHEDULED, {}),
    "snooze": (Outcome.SNOOZED, State.SCHEDULED, {"costs": False}),
    "wait": (Outcome.WAITING, State.SCHEDULED, {"costs": False}),
    "release": (Outcome.RELEASED, State.READY, {"costs": False, "interrupted": True, "clears": False}),
    "hold": (Outcome.HELD, State.HELD, {"costs": False}),
    "postpone": (Outcome.POSTPONED, State.SCHEDULED, {"costs": False, "clears": False}),
}


def finish_of(job_id: str, lease_epoch: int, end: str) -> Finish:
    """What a worker writes where a run ends so. The result of a job is its id."""
    outcome, state, facts = ENDS[end]
    delay = 3600.0 if state is State.SCHEDULED else None
    held_by = "a test" if state is State.HELD else None
    costs = facts.get("costs", True)
    result = json.dumps(job_id) if state is State.SUCCEEDED else None
    return Finish(job_id, lease_epoch, outcome, state, delay, result, costs_attempt=costs, held_by=held_by)


def live(machine, examples: int, steps: int) -> None:
    checks = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples, stateful_step_count=steps, deadline=None, suppress_health_check=checks
        ),
    )


def is_blamed(crashes: int, beside: list[int]) -> bool:
    """Whether a job with so many deaths behind it is blamed for one more, with these running in the same worker."""
    if crashes >= SUSPECT_FROM:
        return not any(0 < each < SUSPECT_FROM for each in beside)
    return crashes > 0 or max(beside) < SUSPECT_FROM
