"""Jobs that wait for an answer: with answers to choose from, with a free one, and for another program."""

from __future__ import annotations

from datetime import timedelta

from django.utils import timezone

from example_project.screening.demo import sample_tasks as tasks
from example_project.screening.demo.seeding.rows import ago, job
from pgonly_django.conf import LONGEST
from pgonly_django.models import State, Wait

DUPLICATES = "duplicates:scopus.csv"
ASKED: tuple[tuple[int, str, str, list[str]], ...] = (
    (2, DUPLICATES, "Import the 212 duplicates of scopus.csv, too?", ["import all", "leave them out"]),
    (9, "encoding:old.csv", "Which encoding has old.csv?", []),
    (1, "payment:embase", "", []),
)


def write() -> None:
    """Their jobs were deleted with the others of an earlier demo."""
    for days, key, question, choices in ASKED:
        at = ago(days=days)
        row = job(
            tasks.import_references, key.partition(":")[2], 900, at=at, state=State.SCHEDULED,
            run_at=timezone.now() + LONGEST, lease_epoch=1, started_at=at, attempted_at=at,
        )  # fmt: skip
        row.save(force_insert=True)
        began_at = at + timedelta(seconds=4)
        Wait.objects.create(
            job=row, name=f"event {key}", key=key, began_at=began_at, lease_epoch=1, question=question,
            choices=choices,
        )  # fmt: skip
