"""The tasks of the seeded demo: a small site that sends mail, makes reports, imports and translates. They only wait."""

from __future__ import annotations

import random
import time
from datetime import timedelta
from typing import TYPE_CHECKING

from example_project.screening.demo.sample_errors import deliver, read_row
from pgonly_django import Backoff, Cost, Discard, JobContext, limiter, task

if TYPE_CHECKING:
    from collections.abc import Sequence

KEPT = timedelta(days=7)
SOON = Backoff(base=timedelta(minutes=2), cap=timedelta(minutes=10))
TRANSLATIONS, ASSISTANT = "translations", "assistant"  # budgets, of the settings
MODEL = "translator"
A_PAGE = Cost(usd=0.04, tokens_in=1400, tokens_out=1500, model=MODEL)
AN_ANSWER = Cost(usd=0.03, tokens_in=4000, tokens_out=1200, model="assistant-large")
# The queue "ai" is left out: nobody serves it, which the overview says in red.
SERVED = ("mail", "reports", "imports", "translations", "exports")
SUBJECTS = ("Your order has left", "Confirm your address", "Weekly summary", "Your invoice")


@task(queue_name="mail", max_attempts=3, backoff=SOON, retention=KEPT)
def send_mail(to: str, subject: str, smtp_password: str = "not a real one") -> dict[str, str]:
    """Sends nothing to anybody."""
    if not smtp_password:
        raise Discard("There is no password for the mail server.")
    time.sleep(random.uniform(0.2, 1.2))
    deliver(to, subject)
    return {"to": to, "subject": subject, "accepted_by": f"mx{len(to) % 3 + 1}.example"}


@task(
    queue_name="reports", takes_context=True, concurrency_key="customer:{customer}", retention=KEPT,
    max_runtime=timedelta(hours=1),
)  # fmt: skip
def make_report(
    context: JobContext, customer: str, pages: int, seconds_a_page: float = 1.0
) -> dict[str, int]:
    """Resumes at the page where it stopped."""
    words = 0
    for page in context.iterate(range(1, pages + 1)):
        words += context.step(f"page {page}", _write_page, customer, page, seconds_a_page)
        context.progress(page, pages, f"page {page} for {customer}")
    context.log(f"{words} words for {customer}")
    return {"pages": pages, "words": words}


def _write_page(customer: str, page: int, seconds: float) -> int:
    time.sleep(seconds)
    return words_of(customer, page)


def words_of(customer: str, page: int) -> int:
    return 180 + (len(customer) * 37 + page * 53) % 140


@task(queue_name="imports", takes_context=True, retention=KEPT, max_attempts=2)
def import_references(context: JobContext, source: str, rows: int) -> int:
    """Keeps how many rows it has read as its checkpoint."""
    done = int(context.checkpoint or 0)
    while done < rows:
        if context.should_stop:
            context.stop()
        read_row(source, done)
        time.sleep(0.5)
        done = min(done + 250, rows)
        context.save_checkpoint(done)
        context.progress(done, rows, f"{source}, row {done}")
    return done


@task(queue_name="translations", takes_context=True, budget=TRANSLATIONS, retention=KEPT)
def translate(context: JobContext, document: str, pages: int, into: str = "de") -> int:
    """Each page is paid from the budget "translations". Over its cap the job is held."""
    for page in context.iterate(range(1, pages + 1)):
        context.step(f"page {page}", _ask_translator, document, page, into, cost=A_PAGE, reserve=A_PAGE.usd)
    return pages


def _ask_translator(document: str, page: int, into: str) -> str:
    with limiter(MODEL):
        time.sleep(0.8)
    return f"{document}, page {page}, in {into}"


@task(queue_name="ai", takes_context=True, budget=ASSISTANT, retention=KEPT)
def answer_question(context: JobContext, question: str, api_key: str, seconds_a_word: float = 0.1) -> int:
    """Pays for its answer, and emits it word by word. No worker of the demo serves its queue:
    `manage.py runworker --queues ai`."""
    answer = context.step("answer", answer_to, question, api_key, cost=AN_ANSWER, reserve=AN_ANSWER.usd)
    for number in context.iterate(range(len(answer))):
        context.emit(f"{answer[number]} ")
        time.sleep(seconds_a_word)
    return len(answer)


def answer_to(question: str, api_key: str) -> list[str]:
    """In words."""
    return f"To the question {question!r} the key of {len(api_key)} characters found no answer but this one.".split()


@task(queue_name="exports", retention=KEPT)
def export_references(project: int, file_format: str) -> str:
    """Its queue is paused until a person resumes it."""
    if file_format not in ("ris", "csv"):
        raise Discard(f"There is no format {file_format!r}: use ris or csv.")
    time.sleep(1)
    return f"project-{project}.{file_format}"


@task(queue_name="mail", retention=timedelta(hours=1))
def new_work(customers: Sequence[str]) -> int:
    """What its schedule enqueues every 15 seconds, so that the pages move: mails, and now and then something longer."""
    count = random.randint(2, 6)
    for number in range(count):
        refused = random.random() < 0.15  # noqa: PLR2004 - a share
        send_mail.enqueue(f"reader{number}@{'full' if refused else 'site'}.example", random.choice(SUBJECTS))
    if random.random() < 0.3:  # noqa: PLR2004 - a share
        make_report.enqueue(random.choice(list(customers)), random.randint(15, 60))
    if random.random() < 0.2:  # noqa: PLR2004 - a share
        import_references.enqueue("pubmed.csv", random.randint(2, 20) * 500)
    return count + 1
