"""What follows when a job has failed."""

from __future__ import annotations

import pytest

from pgonly_django.models import Job, State
from pgonly_django.queue.failed_jobs import Again, redrive_batch
from tests.queue.rows import HOUR, ago, filled, fresh, make

OWN = {"id", "enqueued_at"}  # of each row


def make_failed_with_every_column_filled() -> Job:
    texts = {"result": 1, "progress": {"done": 1}, "metadata": {"a": 1}, "errors": [{"outcome": "failed"}]}
    return make(**{**filled("unique_key"), **texts, "state": State.FAILED})


@pytest.mark.django_db
def test_a_redrive_takes_back_what_a_retry_takes_back():
    retried, redriven = make_failed_with_every_column_filled(), make_failed_with_every_column_filled()
    assert Job.objects.filter(pk=retried.pk).retry() == 1
    assert redrive_batch("default", [Again(str(redriven.pk), 0)]) == [str(redriven.pk)]
    one, other = fresh(retried), fresh(redriven)
    assert ago(HOUR) < one.ready_at <= other.ready_at
    names = {field.name for field in Job._meta.fields} - OWN - {"ready_at"}
    assert {name: getattr(one, name) for name in names} == {name: getattr(other, name) for name in names}
    assert one.attempt == 0
