"""The jobs of the last week that have ended, as busy as the days and nights of a small site."""

from __future__ import annotations

import math
import random
from datetime import datetime
from typing import Any

from example_project.screening.demo import sample_tasks as tasks
from example_project.screening.demo.sample_errors import deliver, refuse_connection
from example_project.screening.demo.seeding.rows import ago, failed, progress, raised, refusals, succeeded
from example_project.screening.demo.seeding.workers import OF_QUESTIONS
from pgonly_django.models import Job

JOBS = 1_200
CUSTOMERS = ("Northwind", "Contoso", "Fabrikam")
NOON = 13
SATURDAY = 5
# An evening three days ago, on which a mail server was down for half of the mails.
OUTAGE_HOURS = (66, 70)
SECONDS_A_PAGE, ROWS_A_SECOND, SECONDS_AN_ANSWER = 1.02, 500, 2.1


def jobs() -> list[Job]:
    """Most of them are of the last day, as after a busy week."""
    moments: list[datetime] = []
    while len(moments) < JOBS:
        at = ago(hours=random.random() ** 2 * 24 * 7, minutes=3)
        if random.random() < _business(at):
            moments.append(at)
    return [_job(number, at) for number, at in enumerate(sorted(moments))]


def _business(at: datetime) -> float:
    """1 at noon of a weekday, a tenth at night."""
    day = 0.55 + 0.45 * math.cos((at.hour - NOON) / 24 * 2 * math.pi)
    return day * (0.4 if at.weekday() >= SATURDAY else 1.0)


def _job(number: int, at: datetime) -> Job:
    match number % 40:
        case 0 if at < ago(minutes=6):  # its third attempt has failed by now
            return _refused_mail(number, at)
        case 1 | 21:
            return report(random.choice(CUSTOMERS), random.randint(10, 40), at)
        case 2 | 22:
            return references("pubmed.csv", random.randint(4, 40) * 250, at)
        case 3 | 13 | 23 | 33 if OF_QUESTIONS.serves("ai", at):
            return _answer(number, at)
        case _:
            return _mail(number, at)


def _mail(number: int, at: datetime) -> Job:
    to, subject = f"reader{number}@site.example", random.choice(tasks.SUBJECTS)
    late: dict[str, Any] = {}
    if ago(hours=OUTAGE_HOURS[1]) < at < ago(hours=OUTAGE_HOURS[0]) and random.random() < 0.5:  # noqa: PLR2004 - half
        late = {"errors": refusals(raised(refuse_connection), at, 1), "waited": 95}
    result = {"to": to, "subject": subject, "accepted_by": f"mx{len(to) % 3 + 1}.example"}
    return succeeded(
        tasks.send_mail, to, subject, at=at, took=random.uniform(0.2, 1.2), result=result,
        kwargs={"smtp_password": "s3cret"}, **late,
    )  # fmt: skip


def _refused_mail(number: int, at: datetime) -> Job:
    to, subject = f"reader{number}@full.example", random.choice(tasks.SUBJECTS)
    return failed(tasks.send_mail, to, subject, at=at, errors=refusals(raised(deliver, to, subject), at, 3))


def report(customer: str, pages: int, at: datetime, **columns: Any) -> Job:
    words = sum(tasks.words_of(customer, page) for page in range(1, pages + 1))
    made = succeeded(
        tasks.make_report, customer, pages, at=at, result={"pages": pages, "words": words},
        progress=progress(pages, pages, f"page {pages} for {customer}"),
        **{"took": pages * SECONDS_A_PAGE + 0.3, **key_of(customer), **columns},
    )  # fmt: skip
    assert made.finished_at is not None
    made.log = [{"at": made.finished_at.isoformat(), "text": f"{words} words for {customer}"}]
    return made


def key_of(customer: str) -> dict[str, Any]:
    """The columns of a concurrency key."""
    return {"concurrency_key": f"customer:{customer}", "concurrency_limit": 1, "slots": 1}


def references(source: str, rows: int, at: datetime, **columns: Any) -> Job:
    return succeeded(
        tasks.import_references, source, rows, at=at, took=rows / ROWS_A_SECOND + 0.2, result=rows,
        progress=progress(rows, rows, f"{source}, row {rows}"), **columns,
    )  # fmt: skip


def export(project: int, at: datetime, **columns: Any) -> Job:
    result = f"project-{project}.ris"
    return succeeded(tasks.export_references, project, "ris", at=at, took=1.1, result=result, **columns)


def _answer(number: int, at: datetime) -> Job:
    question, key = f"Were {number % 90 + 2} trials blinded?", f"sk-demo-{random.getrandbits(64):x}"
    words = len(tasks.answer_to(question, key))
    return succeeded(
        tasks.answer_question, question, at=at, took=SECONDS_AN_ANSWER + words * 0.1 + 0.2, result=words,
        kwargs={"api_key": key}, progress=progress(words, words),
    )  # fmt: skip
