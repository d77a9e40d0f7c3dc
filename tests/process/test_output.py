"""Output when workers are killed: readers end with the text of one undisturbed run."""

from __future__ import annotations

import pytest

from pgonly_django.models import Job, State, Worker
from pgonly_django.queue.output import read_output
from pgonly_django.testing import assert_resumable
from tests.jobs import emitting
from tests.waiting import wait_for

pytestmark = [pytest.mark.process, pytest.mark.slow]
ITEMS = 16


def test_the_output_of_a_killed_job_is_that_of_one_run_for_a_reader_who_was_there_all_along(workers):
    for _ in range(2):
        workers.start("--threads", "1")
    result = emitting.count_aloud.enqueue(ITEMS)
    text, offset = "", 0

    def follow():
        nonlocal text, offset
        answer = result.output(after=offset)
        text, offset = answer.applied_to(text), answer.offset
        return text

    wait_for(lambda: "6, " in follow(), what="six items")
    owner = Worker.objects.get(pk=result.job.worker_id).name
    (victim,) = [worker for worker in workers.started if worker.name == owner]
    victim.kill()
    wait_for(lambda: follow() and result.job.state == State.SUCCEEDED, 40.0, what="the end")
    assert result.job.lease_epoch == 2
    assert follow() == result.output().text == emitting.counted_aloud(ITEMS)


def test_a_job_that_is_killed_at_each_place_ends_with_the_same_output(transactional_db):
    def output():
        return read_output("default", Job.objects.get().pk).text

    report = assert_resumable(emitting.tell_a_story, state=output)
    assert len(report.killed_at) > 10
