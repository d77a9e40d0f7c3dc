"""A thousand calls of one unique job, from eight processes at once."""

from __future__ import annotations

import pytest

from pgonly_django.models import Job
from tests.children import OF_WORKERS, results_of, start_crowd

pytestmark = [pytest.mark.process, pytest.mark.django_db(transaction=True), pytest.mark.slow]
PROCESSES, THREADS = 8, 4


def enqueue_from_all(calls, mode="commit"):
    """Of the calls that were committed: their ids, how many there were, and how many of them were no duplicates."""
    given = PROCESSES, calls, THREADS, mode
    lines = results_of(start_crowd("tests.process.enqueuing", *given, settings=OF_WORKERS))
    assert len(lines) == PROCESSES
    ids = {job_id for ids, _, _ in lines for job_id in ids}
    return ids, sum(count for _, count, _ in lines), sum(new for _, _, new in lines)


def test_a_thousand_calls_make_one_job_and_999_get_its_result():
    answers = enqueue_from_all(125)
    assert answers == ({str(Job.objects.get().pk)}, 1000, 1)


def test_where_half_of_the_callers_roll_back_the_others_have_one_job():
    answers = enqueue_from_all(40, "roll_back")
    assert answers == ({str(Job.objects.get().pk)}, PROCESSES * 20, 1)
