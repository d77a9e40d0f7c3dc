"""The status of a screening: the labels, numbers and buttons of its page, and the JSON that the page polls."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

from django.conf import settings
from django.utils import timezone

from example_project.screening.models import Paper
from example_project.screening.models.paper import Outcome
from example_project.screening.summary import calls, resumed_from, seconds
from example_project.screening.tasks import screen_papers
from pgonly_django.models import Job, State
from pgonly_django.tasks import PostgresBackend

if TYPE_CHECKING:
    from example_project.screening.models import Project

LABELS = {
    "new": "Not started",
    "ready": "Waiting for a worker",
    "scheduled": "Waiting for the next attempt",
    "running": "Running",
    "asking": "Waiting for your decision",
    "stopping": "Stopping",
    "silent": "Worker silent, waiting for takeover",
    "orphaned": "Its worker died: another worker takes over when the lease ends",
    "succeeded": "Finished",
    "failed": "Failed",
    "cancelled": "Cancelled",
    "unpaid": "Held: the budget is used up",
    "held": "Held by a person",
}
BUTTONS = {
    "new": ("start", "split"),
    "ready": ("cancel",),
    "running": ("cancel",),
    "asking": ("cancel",),
    "silent": ("cancel",),
    "orphaned": ("cancel",),
    "scheduled": ("cancel", "resume"),
    "failed": ("resume",),
    "cancelled": ("resume",),
    "unpaid": ("raise", "cancel"),
    "held": ("resume", "cancel"),
}

# A worker renews the lease of a job every 15 s, for another LEASE_SECONDS.
SILENT_BELOW = timedelta(seconds=settings.PGONLY.get("LEASE_SECONDS", 60)) * 35 / 60
FILTER_ORDER = (Outcome.DISPUTED, Outcome.INCLUDED, Outcome.EXCLUDED, Outcome.WAITING)


class Event(NamedTuple):
    at: datetime
    text: str


@dataclass(frozen=True)
class Money:
    """In US dollars. `reserved`: by calls that are under way."""

    cap: Decimal
    spent: Decimal
    reserved: Decimal

    @property
    def percent(self) -> int:
        return min(int(100 * self.spent / self.cap), 100) if self.cap else 100

    @property
    def texts(self) -> dict[str, str]:
        return {"spent": shown(self.spent), "reserved": shown(self.reserved), "cap": shown(self.cap)}

    @property
    def proposal(self) -> str:
        """What the page proposes as the new cap."""
        return shown(2 * self.cap or Decimal(1)).removeprefix("$")


@dataclass(frozen=True)
class Status:
    state: str
    done: int
    total: int
    outcomes: dict[str, int]
    calls: int
    seconds: float | None
    resumed_from: int | None
    history: int  # the number of runs and of interruptions so far
    money: Money

    @property
    def label(self) -> str:
        return LABELS[self.state]

    @property
    def percent(self) -> int:
        return 100 * self.done // self.total if self.total else 0

    @property
    def buttons(self) -> tuple[str, ...]:
        known = BUTTONS.get(self.state, ())
        is_ours = isinstance(
            screen_papers.get_backend(), PostgresBackend
        )  # another one has no jobs that wait
        return known if is_ours else tuple(verb for verb in known if verb != "split")

    def as_json(self) -> dict[str, Any]:
        return {
            "state": self.state,
            "label": self.label,
            "done": self.done,
            "total": self.total,
            "percent": self.percent,
            "buttons": self.buttons,
            "history": self.history,
            "spent_percent": self.money.percent,
            "facts": {
                **self.outcomes,
                "calls": self.calls,
                "seconds": self.seconds and round(self.seconds),
                **self.money.texts,
            },
        }


def status(project: Project) -> Status:
    job, papers = project.job, Paper.objects.of(project)
    done, total = papers.judged().count(), papers.count()
    return Status(
        state=_state(project, job, is_done=done == total),
        done=done,
        total=total,
        outcomes=papers.count_by_outcome(),
        calls=calls(project),
        seconds=seconds(project),
        resumed_from=resumed_from(project),
        history=project.runs.count() + (len(job.errors) if job else 0),
        money=money(project),
    )


def money(project: Project) -> Money:
    row = project.budget_row()
    if row is None:
        return Money(project.budget_usd, Decimal(0), Decimal(0))
    return Money(row.usd, row.spent_now, row.reserved)


def shown(usd: Decimal) -> str:
    """With two to four digits behind the point: $0.05, $0.0134."""
    text = f"{usd:.4f}"
    return f"${text[:-2]}{text[-2:].rstrip('0')}"


def _state(project: Project, job: Job | None, *, is_done: bool) -> str:
    if job is None:
        return "succeeded" if is_done else "new"
    budget = f"budget:{project.budget().name}"
    if job.state == State.HELD and job.held_by == budget:
        return "unpaid"
    if job.state == State.SCHEDULED and project.members.exists():
        is_unpaid = project.members.held(budget).exists()
        return "unpaid" if is_unpaid else "asking" if is_done else "running"
    if job.state != State.RUNNING:
        return job.state
    left = job.lease_expires_at - timezone.now() if job.lease_expires_at else SILENT_BELOW
    if left < timedelta(0):
        return "orphaned"
    if left < SILENT_BELOW:
        return "silent"
    return "stopping" if job.cancel_requested_at else "running"


def held_because(project: Project) -> str:
    """The reason that stands with a held job; "" for other jobs."""
    job = project.members.held().first() or project.job
    return str(job.errors[-1].get("reason", "")) if job and job.state == State.HELD and job.errors else ""


def history(project: Project) -> list[Event]:
    """The events of the job, the oldest first."""
    events = [Event(run.started_at, f"Began at paper {run.papers_done + 1}") for run in project.runs.all()]
    job = project.job
    if job is not None:
        if job.started_at and project.members.exists():
            events.append(Event(job.started_at, "Began a job for each undecided paper"))
        events += [_event(entry) for entry in job.errors if entry.get("finished_at")]
        if job.state == State.SUCCEEDED and job.finished_at is not None:
            events.append(Event(job.finished_at, LABELS[job.state]))
    return sorted(events)


def _event(entry: dict[str, Any]) -> Event:
    """One interrupted or failed run, from the errors on the job's row."""
    reason = entry.get("reason") or entry.get("message") or entry.get("exception") or ""
    return Event(
        datetime.fromisoformat(entry["finished_at"]),
        f"{str(entry['outcome']).capitalize()}: {reason}".rstrip(": "),
    )


def filters(counts: dict[str, int]) -> list[tuple[str, str, int]]:
    """The filters of the list of papers: (value, label, number of papers)."""
    return [("", "All", sum(counts.values()))] + [(o.value, str(o.label), counts[o]) for o in FILTER_ORDER]
