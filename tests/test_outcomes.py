"""What is said of an outcome fits what asks for it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import pgonly_django
from pgonly_django.admin.jobs.attempts import is_our_text
from pgonly_django.models import JobStats
from pgonly_django.models.job_stats import NUMBERS, TIMED
from pgonly_django.outcomes import Outcome

STATIC = Path(pgonly_django.__file__).parent / "static" / "pgonly_django"


@pytest.mark.parametrize("outcome", Outcome)
def test_each_outcome_counts_in_a_column_and_has_a_colour(outcome):
    assert outcome.counts in (None, *NUMBERS)
    has_colour = re.compile(rf"\.pgonly-{outcome.tone}\b")
    assert outcome.tone == "cancelled" or has_colour.search((STATIC / "admin.css").read_text())


def test_each_number_of_the_statistics_is_a_column():
    assert {*TIMED} <= {*NUMBERS} <= {field.name for field in JobStats._meta.get_fields()}


@pytest.mark.parametrize(
    "outcome", [Outcome.FAILED, Outcome.RETRIED, Outcome.DISCARDED, Outcome.SNOOZED, Outcome.HELD]
)
def test_a_reason_that_a_job_gave_is_no_text_of_ours(outcome):
    """It may have data of the job in it, and ours is shown to those, too, who may not see that."""
    entry = {"started_at": "2026-01-01T00:00:00+00:00", "reason": "s3cr3t"}
    assert not is_our_text({"outcome": outcome.value, **entry})
