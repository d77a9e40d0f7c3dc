from __future__ import annotations

import time

import pytest
from django.db import connection

from pgonly_django.database import notify
from pgonly_django.database.connect import connect
from pgonly_django.models import State
from tests import jobs
from tests.jobs import watched
from tests.waiting import wait_for


@pytest.mark.slow
def test_log_lines_said_while_the_row_was_locked_are_kept(background_worker, marks):
    background_worker()
    result = jobs.log_slowly.enqueue(15)
    wait_for(lambda: "log:started" in marks())
    with connect("default", application_name="other") as other, other.transaction():
        other.execute("SELECT FROM pgonly_job WHERE id = %s FOR UPDATE", [result.id])
        time.sleep(1.2)  # longer than it takes the worker to report twice
    result.wait(10)
    assert [line["text"] for line in result.job.log] == [str(i) for i in range(15)]


def test_progress_and_log_lines_are_visible_while_the_job_runs(background_worker):
    background_worker()
    result = jobs.report_progress.enqueue(pause=5.0)
    progress = wait_for(lambda: result.progress, what="progress")
    assert progress == {"done": 3, "total": 10, "message": "three"}
    assert result.job.state == State.RUNNING
    assert [line["text"] for line in result.job.log] == ["a line"]


@pytest.mark.slow
def test_progress_is_written_twice_a_second_at_most(background_worker):
    background_worker(queues=("default",))
    result = watched.count_quickly.enqueue(3.0)
    seen, began = set(), None
    while result.job.state != State.SUCCEEDED:
        with connection.cursor() as cursor:  # which wakes the loop
            cursor.execute("SELECT pg_notify(%s, %s)", [notify.CHANNEL, notify.ready("another queue")])
            cursor.execute("SELECT xmin::text FROM pgonly_job WHERE progress IS NOT NULL")
            versions = cursor.fetchall()
        if versions:
            began = began or time.monotonic()
            seen.update(versions)
        time.sleep(0.005)
    lasted = time.monotonic() - began
    assert result.progress["done"] == result.job.result
    assert (
        2 <= len(seen) <= lasted / 0.5 + 4
    )  # the first, the last one, the end, and one renewal of the lease
