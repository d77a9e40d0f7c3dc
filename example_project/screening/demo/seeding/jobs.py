"""The jobs that do not succeed at once: those that wait, are held or run, and those that ended badly."""

from __future__ import annotations

import random
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from django.utils import timezone

from example_project.screening.demo import sample_tasks as tasks
from example_project.screening.demo.sample_errors import BROKEN, deliver, read_row
from example_project.screening.demo.seeding import history
from example_project.screening.demo.seeding.rows import (
    MODULE,
    ago,
    attempt,
    entry,
    failed,
    job,
    progress,
    raised,
    refusals,
)
from example_project.screening.demo.seeding.steps import SECONDS_A_TRANSLATION
from example_project.screening.demo.seeding.workers import DEAD, KILLED, STOPPED
from pgonly_django.models import CostEntry, Job, State

WAITING_FOR_AI = 40
DEAD_WORKERS_LEASE = timedelta(seconds=60)  # how long the jobs of the dead worker are to be seen at it
USED_UP = f"Budget '{tasks.TRANSLATIONS}': $0.04 does not fit. $0.40 of $0.40 is spent and $0.00 is reserved."


def jobs() -> list[Job]:
    return [*_waiting(), *_scheduled(), *_held(), *_of_the_dead_worker(), *_failed(), *_others()]


def write(rows: Iterable[Job]) -> None:
    """Replaces the jobs that an earlier demo has left."""
    Job.objects.filter(task__startswith=f"{MODULE}.").delete()
    CostEntry.objects.filter(task__startswith=f"{MODULE}.").delete()
    Job.objects.bulk_create(rows, batch_size=500)


def _waiting() -> list[Job]:
    """Jobs of a queue without a worker, and of one that is paused."""
    ai = [
        job(
            tasks.answer_question, f"Were {number + 2} trials blinded?", at=ago(minutes=7, seconds=-number),
            kwargs={"api_key": f"sk-demo-{random.getrandbits(64):x}"},
        )
        for number in range(WAITING_FOR_AI)
    ]  # fmt: skip
    return ai + [
        job(tasks.export_references, 40 + number, "ris", at=ago(minutes=20 - number)) for number in range(6)
    ]


def _scheduled() -> list[Job]:
    """Due tomorrow, and another attempt after an error."""
    later = job(
        tasks.make_report, "Northwind", 120, at=ago(minutes=11), state=State.SCHEDULED,
        run_at=timezone.now() + timedelta(hours=18), **history.key_of("Northwind"),
    )  # fmt: skip
    at, error = ago(seconds=41), raised(deliver, "anna@full.example", "Your invoice")
    again = job(
        tasks.send_mail, "anna@full.example", "Your invoice", at=at, state=State.SCHEDULED, attempt=1,
        run_at=at + tasks.SOON.base, errors=refusals(error, at, 1),
    )  # fmt: skip
    return [later, again]


def _held() -> list[Job]:
    """By a budget, with steps that are paid for; and by a person."""
    at = ago(minutes=35)
    used_up_at, by_budget = at + timedelta(seconds=6), []
    for document, done in (("Protocol of the trial", 6), ("Consent form", 4)):
        took = done * SECONDS_A_TRANSLATION + 0.1
        began = used_up_at - timedelta(seconds=took)
        held = job(
            tasks.translate, document, 24, at=at, state=State.HELD, held_by=f"budget:{tasks.TRANSLATIONS}",
            progress=progress(done, 24), errors=[entry("held", 1, began, took, reason=USED_UP)],
        )  # fmt: skip
        by_budget.append(held)
    by_person = job(
        tasks.import_references, "embase.csv", 9000, at=ago(hours=3), state=State.HELD, held_by="a person",
        errors=[{"outcome": "held", "reason": "Held by a person.", "finished_at": ago(hours=2.99).isoformat()}],
    )  # fmt: skip
    return [*by_budget, by_person]


def _of_the_dead_worker() -> list[Job]:
    """Another worker takes them over once their lease is over, and the report goes on at page 34."""
    pages, rows = 34, 7_250
    return [
        _running(
            tasks.make_report, "Contoso", 80, seconds=pages * history.SECONDS_A_PAGE,
            progress=progress(pages, 80, f"page {pages} for Contoso"), **history.key_of("Contoso"),
        ),
        _running(
            tasks.import_references, "cochrane.csv", 20_000, seconds=rows / history.ROWS_A_SECOND,
            progress=progress(rows, 20_000, f"cochrane.csv, row {rows}"),
        ),
    ]  # fmt: skip


def _running(task: Any, *args: Any, seconds: float, **columns: Any) -> Job:
    """It ran for `seconds` until its worker fell silent."""
    began = timezone.now() - DEAD.ended - timedelta(seconds=seconds + 0.5)
    return job(
        task, *args, at=began - timedelta(seconds=1), state=State.RUNNING, worker_id=DEAD.worker_id, attempt=1,
        lease_epoch=1, lease_expires_at=timezone.now() + DEAD_WORKERS_LEASE, started_at=began, attempted_at=began,
        reported_at=timezone.now() - DEAD.ended, **columns,
    )  # fmt: skip


def _failed() -> list[Job]:
    """Of several errors, one with a cause, one whose worker died three times, one that was discarded."""
    at, broken = ago(minutes=26), raised(read_row, *BROKEN)
    crash = (
        "Its worker died 3 times while it ran, and nothing new was saved in between; it is not started again."
    )
    reasons = [f"Its worker died while it ran ({number} of 3 allowed)." for number in (1, 2)]
    crashed_at = ago(days=2, hours=3)
    crashed = [
        entry("crashed", 1, crashed_at + timedelta(minutes=2 * number), 75, worker, reason=reason)
        for number, (worker, reason) in enumerate(zip(KILLED, [*reasons, crash], strict=True))
    ]
    discarded = entry("discarded", 1, at, 0.1, reason="There is no format 'docx': use ris or csv.")
    return [
        failed(
            tasks.import_references, "wos.csv", 12_000, at=at - timedelta(seconds=1), max_attempts=2,
            errors=[attempt(broken, 1, at, 7.2), attempt(broken, 2, at + timedelta(seconds=20), 0.1)],
            progress=progress(3_500, 12_000, "wos.csv, row 3500"),
        ),
        failed(
            tasks.make_report, "Fabrikam", 300, at=crashed_at, errors=crashed, crashes=3,
            **history.key_of("Fabrikam"),
        ),
        failed(tasks.export_references, 12, "docx", at=at, errors=[discarded]),
    ]  # fmt: skip


def _others() -> list[Job]:
    """A report that a person cancelled, and one whose worker was stopped in the middle of it."""
    at, stopped_at = ago(hours=1, minutes=10), timezone.now() - STOPPED.ended
    began = stopped_at - timedelta(seconds=20)
    cancelled = entry("cancelled", 1, at, 121, reason="Cancelled while it ran.")
    released = entry("released", 1, began, 20, STOPPED, reason="Its worker was stopped.")
    return [
        job(
            tasks.make_report, "Fabrikam", 500, at=at, state=State.CANCELLED, attempt=1, errors=[cancelled],
            cancel_requested_at=at + timedelta(minutes=2), finished_at=at + timedelta(seconds=121),
            progress=progress(110, 500, "page 110 for Fabrikam"), delete_after=at + timedelta(seconds=121) + tasks.KEPT,
            **history.key_of("Fabrikam"),
        ),
        history.report(
            "Northwind", 40, began - timedelta(seconds=3), errors=[released], waited=3, took=21.8, interruptions=1
        ),
    ]  # fmt: skip
