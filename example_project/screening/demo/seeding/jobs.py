"""Jobs of every state, and those of the last week."""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from django.utils import timezone

from example_project.screening.demo import sample_tasks as tasks
from example_project.screening.demo.seeding.rows import (
    MODULE,
    ago,
    attempt,
    attempts,
    entry,
    failed,
    job,
    raised,
    succeeded,
    worker_id,
)
from pgonly_django.models import Checkpoint, CostEntry, Job, State, Step

HISTORY = 500
SEED = 7  # the same rows for every newcomer
WAITING_FOR_AI = 40
DEAD_WORKERS_LEASE = timedelta(seconds=60)  # how long the jobs of the dead worker are to be seen at it
CUSTOMERS = ("Northwind", "Contoso", "Fabrikam")


def write() -> None:
    """Replaces the jobs that an earlier demo has left."""
    random.seed(SEED)
    Job.objects.filter(task__startswith=f"{MODULE}.").delete()
    CostEntry.objects.filter(task__startswith=f"{MODULE}.").delete()
    rows = [*_history(), *_waiting(), *_scheduled(), *_held(), *_of_the_dead_worker(), *_failed(), *_others()]
    Job.objects.bulk_create(rows, batch_size=500)
    for made in rows:
        _write_steps(made)


def _history() -> list[Job]:
    """Most of it in the last day, as after a busy week."""
    made = []
    for number in range(HISTORY):
        at = ago(hours=random.random() ** 2 * 24 * 7, minutes=3)
        made.append(_one_of_history(number, at))
    return made


def _one_of_history(number: int, at: datetime) -> Job:
    waited, kind = random.expovariate(1 / 1.5), number % 20
    if kind == 0:
        return _refused_mail(number, at)
    if kind in (1, 2, 3):
        pages = random.randint(10, 60)
        return succeeded(
            tasks.make_report, random.choice(CUSTOMERS), pages, at=at, waited=waited, took=pages * 1.1,
            result={"pages": pages, "words": pages * 240}, progress=_progress(pages, pages, "the last page"),
            concurrency_key=f"customer:{CUSTOMERS[number % 3]}", concurrency_limit=1, slots=1,
        )  # fmt: skip
    if kind == 4:  # noqa: PLR2004 - one in twenty
        rows = random.randint(4, 40) * 250
        progress = _progress(rows, rows, f"pubmed.csv, row {rows}")
        return succeeded(
            tasks.import_references, "pubmed.csv", rows, at=at, waited=waited, took=rows / 500, result=rows,
            progress=progress,
        )  # fmt: skip
    return succeeded(
        tasks.send_mail, f"reader{number}@site.example", random.choice(tasks.SUBJECTS), at=at, waited=waited,
        took=random.uniform(0.2, 1.2), result={"accepted_by": "mx1.example"}, kwargs={"smtp_password": "s3cret"},
    )  # fmt: skip


def _refused_mail(number: int, at: datetime) -> Job:
    to, subject = f"reader{number}@full.example", random.choice(tasks.SUBJECTS)
    error = raised(_refuse, to, subject)
    return failed(tasks.send_mail, to, subject, at=at, errors=attempts(error, at, 3))


def _refuse(to: str, subject: str) -> None:
    raise tasks.MailboxFullError(f"552 5.2.2 <{to}>: mailbox full, try again after {subject!r} was read")


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
    at, tomorrow = ago(minutes=11), timezone.now() + timedelta(hours=18)
    later = job(
        tasks.make_report, "Northwind", 120, at=at, state=State.SCHEDULED, run_at=tomorrow,
        concurrency_key="customer:Northwind", concurrency_limit=1, slots=1,
    )  # fmt: skip
    error = raised(_refuse, "anna@full.example", "Your invoice")
    again = job(
        tasks.send_mail, "anna@full.example", "Your invoice", at=ago(minutes=1), state=State.SCHEDULED, attempt=1,
        lease_epoch=1, run_at=timezone.now() + timedelta(minutes=4), started_at=ago(minutes=1),
        attempted_at=ago(minutes=1), errors=attempts(error, ago(minutes=1), 1), max_attempts=3,
    )  # fmt: skip
    return [later, again]


def _held() -> list[Job]:
    """By a budget, with steps that are paid for; and by a person."""
    at = ago(minutes=35)
    reason = "Budget 'translations': 0.40 of 0.40 USD are spent, and the next call may cost 0.04."
    by_budget = [
        job(
            tasks.translate, document, 24, at=at, state=State.HELD, held_by=f"budget:{tasks.TRANSLATIONS}", attempt=0,
            lease_epoch=1, started_at=at, attempted_at=at, progress=_progress(done, 24, ""),
            errors=[entry("held", 1, at, 9, reason=reason)],
        )
        for document, done in (("Protocol of the trial", 6), ("Consent form", 4))
    ]  # fmt: skip
    by_person = job(
        tasks.import_references, "embase.csv", 9000, at=ago(hours=3), state=State.HELD, held_by="a person",
        errors=[{"outcome": "held", "reason": "Held by a person.", "finished_at": ago(hours=2).isoformat()}],
    )  # fmt: skip
    return [*by_budget, by_person]


def _of_the_dead_worker() -> list[Job]:
    """Another worker takes them over once their lease is over, and the report goes on at page 34."""
    began = ago(minutes=6)
    running: dict[str, Any] = {
        "state": State.RUNNING, "worker_id": worker_id("demo-dead"), "attempt": 1, "lease_epoch": 1,
        "lease_expires_at": timezone.now() + DEAD_WORKERS_LEASE, "started_at": began, "attempted_at": began,
    }  # fmt: skip
    return [
        job(
            tasks.make_report, "Contoso", 80, at=ago(minutes=7), progress=_progress(34, 80, "page 34 for Contoso"),
            concurrency_key="customer:Contoso", concurrency_limit=1, slots=1, **running,
        ),
        job(
            tasks.import_references, "cochrane.csv", 20_000, at=ago(minutes=7),
            progress=_progress(7_250, 20_000, "cochrane.csv, row 7250"), **running,
        ),
    ]  # fmt: skip


def _failed() -> list[Job]:
    """Of several errors, one with a cause, one whose worker died three times, one that was discarded."""
    at = ago(minutes=26)
    broken = raised(_broken_import)
    crash = (
        "Its worker died 3 times while it ran, and nothing new was saved in between; it is not started again."
    )
    crashed = [entry("crashed", 1, at + timedelta(minutes=number), 40, reason=crash) for number in range(3)]
    discarded = entry("discarded", 1, at, 0.1, exception="pgonly_django.exceptions.Discard",
                      message="There is no format 'docx': use ris or csv.")  # fmt: skip
    steps = [attempt(broken, number + 1, at + timedelta(minutes=number), 14.2) for number in range(2)]
    return [
        failed(
            tasks.import_references, "wos.csv", 12_000, at=at, errors=steps, max_attempts=2,
            progress=_progress(3_500, 12_000, "wos.csv, row 3500"),
            log=[{"at": (at + timedelta(seconds=12)).isoformat(), "text": "row 3500: a title without its quote"}],
        ),
        failed(tasks.make_report, "Fabrikam", 300, at=at, errors=crashed, crashes=3),
        failed(tasks.export_references, 12, "docx", at=at, errors=[discarded]),
    ]  # fmt: skip


def _broken_import() -> None:
    try:
        _read_row('3500,"Aspirin against placebo')
    except ValueError as error:
        raise RuntimeError("wos.csv could not be read beyond row 3500") from error


def _read_row(text: str) -> list[str]:
    if text.count('"') % 2:
        raise ValueError(f"unbalanced quote in {text!r}")
    return text.split(",")


def _others() -> list[Job]:
    at = ago(hours=1, minutes=4)
    return [
        job(
            tasks.make_report, "Fabrikam", 500, at=at, state=State.CANCELLED, attempt=1, lease_epoch=1, started_at=at,
            attempted_at=at, cancel_requested_at=at + timedelta(minutes=2),
            finished_at=at + timedelta(minutes=2, seconds=1), progress=_progress(110, 500, "page 110 for Fabrikam"),
            delete_after=at + tasks.KEPT, errors=[entry("cancelled", 1, at, 121)],
        ),
        succeeded(
            tasks.make_report, "Northwind", 40, at=at, waited=3, took=2 * 44,
            result={"pages": 40, "words": 9_480}, progress=_progress(40, 40, "page 40 for Northwind"), interruptions=1,
            errors=[entry("released", 1, at + timedelta(seconds=3), 40, reason="Its worker stopped.")],
            log=[{"at": (at + timedelta(seconds=91)).isoformat(), "text": "9480 words for Northwind"}],
        ),
    ]  # fmt: skip


def _write_steps(made: Job) -> None:
    """What the unfinished jobs, and those that failed on the way, have behind them."""
    done = (made.progress or {}).get("done", 0)
    if made.task.endswith(".import_references") and made.state in (State.RUNNING, State.FAILED):
        Checkpoint.objects.create(job=made, value=done, saved_at=made.attempted_at or made.enqueued_at)
    if made.state in (State.SUCCEEDED, State.FAILED) or not done:
        return
    if made.task.endswith(".translate"):
        _pay(made, done)
    elif made.task.endswith(".make_report"):
        began = made.attempted_at or made.enqueued_at
        Step.objects.bulk_create(
            Step(
                job=made, name=f"page {page}", result=180 + page, finished_at=began + timedelta(seconds=page)
            )
            for page in range(1, done + 1)
        )
        Checkpoint.objects.create(job=made, positions={"items": done})


def _pay(made: Job, pages: int) -> None:
    cost: dict[str, Any] = {"usd": Decimal(str(tasks.USD_A_PAGE)), "tokens_in": 1400, "tokens_out": 1500}
    Checkpoint.objects.create(job=made, positions={"items": pages})
    for page in range(1, pages + 1):
        Step.objects.create(
            job=made, name=f"page {page}", result=f"{made.args[0]}, page {page}, in de", **cost
        )
        CostEntry.objects.create(
            job_id=made.pk, task=made.task, queue=made.queue, budget=tasks.TRANSLATIONS, step=f"page {page}",
            at=made.enqueued_at + timedelta(seconds=page), **cost,
        )  # fmt: skip


def _progress(done: int, total: int, message: str) -> dict[str, Any]:
    return {"done": done, "total": total, "message": message}
