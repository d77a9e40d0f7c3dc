from __future__ import annotations

import json

import pytest

from pgonly_django.models.job import LOG_LINES_KEPT, State
from pgonly_django.queue.progress import REPORT, Report, report_parameters
from tests.queue.rows import HOUR, ago, fresh, make_running


def report(connection, *reports: Report) -> int:
    return connection.execute(REPORT, report_parameters(reports), prepare=True).rowcount


def report_of(job, **facts) -> Report:
    nothing = {"lease_epoch": job.lease_epoch, "progress": None, "log_lines": None}
    return Report(id=str(job.id), **{**nothing, **facts})


def lines(*texts) -> str:
    return json.dumps([{"text": text} for text in texts])


def test_progress_and_lines_reach_their_jobs(server):
    first, second = make_running(), make_running()
    report(server, report_of(first, progress='{"done": 1}'), report_of(second, log_lines=lines("hello")))
    assert (fresh(first).progress, fresh(first).log) == ({"done": 1}, [])
    assert (fresh(second).progress, fresh(second).log) == (None, [{"text": "hello"}])


@pytest.mark.parametrize("facts", [{"progress": "{}"}, {"log_lines": lines("hello")}])
def test_a_report_notes_its_time(server, facts):
    job = make_running(reported_at=ago(HOUR))
    report(server, report_of(job, **facts))
    assert ago(HOUR) < fresh(job).reported_at


def test_the_last_hundred_lines_are_kept_in_order(server):
    job = make_running(log=[{"text": n} for n in range(LOG_LINES_KEPT - 1)])
    report(server, report_of(job, log_lines=lines("a", "b", "c")))
    kept = [line["text"] for line in fresh(job).log]
    assert kept == [*range(2, LOG_LINES_KEPT - 1), "a", "b", "c"]


@pytest.mark.parametrize("facts", [{"lease_epoch": 2}, {"state": State.SUCCEEDED}])
def test_a_report_of_a_run_that_is_over_changes_nothing(server, facts):
    job = make_running(**facts)
    said = report_of(job, lease_epoch=1, progress='{"done": 9}', log_lines=lines("late"))
    assert report(server, said) == 0
    assert (fresh(job).progress, fresh(job).log) == (None, [])


def test_a_locked_row_is_left_out_and_holds_up_nothing(server, other):
    locked, free = make_running(), make_running()
    server.execute("SET lock_timeout = '1s'")
    with other.transaction():
        other.execute("SELECT FROM pgonly_job WHERE id = %s FOR UPDATE", [locked.id])
        report(server, report_of(locked, progress="{}"), report_of(free, progress="{}"))
    assert (fresh(locked).progress, fresh(free).progress) == (None, {})
