from __future__ import annotations

import pytest
from django.db import connection

from pgonly_django.models import Checkpoint, Job, JobOutput, Wait
from pgonly_django.models.checkpoint import Step
from pgonly_django.models.job import FINISHED, State
from pgonly_django.queue.prune import EXPIRED, prune, prune_now
from tests.queue.rows import HOUR, MINUTE, ago, ids, make, make_running, while_locked


@pytest.mark.parametrize("state", FINISHED)
def test_a_finished_job_leaves_after_its_retention_with_all_that_hangs_on_it(server, state):
    job = make(state=state, delete_after=ago(MINUTE))
    Checkpoint.objects.create(job=job)
    Step.objects.create(job=job, name="ask")
    JobOutput.objects.create(job=job, place=1, start=0, text="a")
    Wait.objects.create(job=job, name="event k", key="k", lease_epoch=1)
    assert prune(server).deleted == 1
    rows = [each.objects.count() for each in (Job, Checkpoint, Step, JobOutput, Wait)]
    assert rows == [0, 0, 0, 0, 0]


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


def test_a_locked_job_that_should_go_now_goes_with_the_next_maintenance(server, other):
    job = make(state=State.SUCCEEDED, delete_after=None)
    with other.transaction():
        other.execute(
            "SELECT FROM pgonly_job WHERE id = %s FOR KEY SHARE", [job.pk]
        )  # as a new foreign key does
        assert prune_now(server, ids([job]))[:2] == (0, [])
    assert prune(server).deleted == 1


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
    deleted, kept, _ = prune(server)
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
    assert prune(server, limit=2) == (1, [], 0)
    assert min(Job.objects.values_list("delete_after", flat=True)) > ago(-23 * HOUR)


def test_a_job_that_has_run_again_since_it_was_found_due_keeps_its_new_result(server, report, monkeypatch):
    report(make(state=State.SUCCEEDED, delete_after=ago(HOUR)))
    run_again, execute = make(state=State.FAILED, delete_after=ago(HOUR)), server.execute

    def run_again_after(sql, parameters):
        rows = execute(sql, parameters)
        if sql == EXPIRED:
            Job.objects.filter(pk=run_again.pk).update(state=State.SUCCEEDED, delete_after=ago(-HOUR))
        return rows

    monkeypatch.setattr(server, "execute", run_again_after)
    deleted, kept, _ = prune(server)
    assert (deleted, len(kept)) == (0, 1)
    assert Job.objects.filter(pk=run_again.pk).exists()
