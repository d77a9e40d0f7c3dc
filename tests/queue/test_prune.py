from __future__ import annotations

import pytest
from django.db import connection

from pgonly_django.models import Checkpoint, Job, JobOutput
from pgonly_django.models.checkpoint import Step
from pgonly_django.models.job import FINISHED, State
from pgonly_django.queue.prune import prune
from tests.queue.rows import HOUR, MINUTE, ago, make, make_running, while_locked


@pytest.mark.parametrize("state", FINISHED)
def test_a_finished_job_leaves_after_its_retention_with_all_that_hangs_on_it(server, state):
    job = make(state=state, delete_after=ago(MINUTE))
    Checkpoint.objects.create(job=job)
    Step.objects.create(job=job, name="ask")
    JobOutput.objects.create(job=job, place=1, start=0, text="a")
    assert prune(server).deleted == 1
    rows = [each.objects.count() for each in (Job, Checkpoint, Step, JobOutput)]
    assert rows == [0, 0, 0, 0]


def test_what_is_not_over_or_not_yet_due_or_kept_for_ever_stays(server):
    make(state=State.SUCCEEDED, delete_after=ago(-HOUR)), make(state=State.FAILED, delete_after=None)
    make(delete_after=ago(HOUR)), make_running(delete_after=ago(HOUR))
    assert prune(server).deleted == 0
    assert Job.objects.count() == 4


def test_one_batch_goes_at_a_time_longest_due_first(server):
    last = make(state=State.SUCCEEDED, delete_after=ago(MINUTE))
    for hours in (3, 2):
        make(state=State.SUCCEEDED, delete_after=ago(hours * HOUR))
    assert prune(server, limit=2).deleted == 2
    assert list(Job.objects.all()) == [last]
    assert prune(server, limit=2).deleted == 1


def test_a_locked_job_is_pruned_another_time(server, other):
    locked = make(state=State.SUCCEEDED, delete_after=ago(HOUR))
    make(state=State.SUCCEEDED, delete_after=ago(HOUR))
    with while_locked(locked, other, server):
        assert prune(server).deleted == 1
    assert list(Job.objects.all()) == [locked]


@pytest.fixture
def report(server):
    """A table of the project's with a foreign key to the jobs, not cascading, checked at the commit as Django's are."""
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE TABLE report (job_id uuid CONSTRAINT report_of_job REFERENCES pgonly_job"
            " DEFERRABLE INITIALLY DEFERRED)"
        )
    yield lambda job: server.execute("INSERT INTO report VALUES (%s)", [job.id])
    with connection.cursor() as cursor:
        cursor.execute("DROP TABLE report")


def test_a_job_that_a_row_of_the_projects_refers_to_keeps_no_other_from_going(server, report):
    jobs = [make(state=State.SUCCEEDED, delete_after=ago(hours * HOUR)) for hours in range(1, 10)]
    for job in jobs:
        Step.objects.create(job=job, name="ask")
    JobOutput.objects.create(job=job, place=1, start=0, text="a")
    referenced = [jobs[2], jobs[8]]
    for job in referenced:
        report(job)
    deleted, kept = prune(server)
    assert deleted == 7
    assert {entry.id for entry in kept} == {str(job.id) for job in referenced}
    assert all('"report_of_job" on table "report"' in entry.reason for entry in kept)
    assert set(Job.objects.values_list("id", flat=True)) == {job.id for job in referenced}
    assert Step.objects.count() == 2


def test_a_job_that_cannot_go_stands_at_the_head_of_no_later_batch(server, report):
    for hours in (9, 8):
        report(make(state=State.SUCCEEDED, delete_after=ago(hours * HOUR)))
    make(state=State.SUCCEEDED, delete_after=ago(HOUR))
    assert prune(server, limit=2).deleted == 0
    assert prune(server, limit=2) == (1, [])
    assert min(Job.objects.values_list("delete_after", flat=True)) > ago(-23 * HOUR)
