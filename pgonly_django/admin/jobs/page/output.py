"""What the job has emitted, as its readers see it."""

from __future__ import annotations

from typing import Any

from django.db import router

from pgonly_django.models import Job
from pgonly_django.queue.output import read_output

CHARACTERS_SHOWN = 20_000


def output_of(job: Job) -> dict[str, Any]:
    """The end of the text, and how many characters there are in all; PGONLY["OUTPUT_LIMIT"] bounds them."""
    text = read_output(router.db_for_read(Job, instance=job), job.pk).applied_to("")
    return {
        "end": text[-CHARACTERS_SHOWN:],
        "is_cut": len(text) > CHARACTERS_SHOWN,
        "length": f"{len(text):,}",
    }
