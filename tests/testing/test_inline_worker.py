"""What a worker does around a run, in drain()."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.db import connection, connections
from django.utils import timezone

from pgonly_django.compat import TaskResultStatus, task_finished, task_started
from pgonly_django.current_job import current_job
from pgonly_django.exceptions import UnreadableJobError
from pgonly_django.models import Job
from pgonly_django.testing import DrainError, drain
from tests.aliases import alias
from tests.jobs import add, burying, drained, telling
from tests.sql import sql
from tests.testing.conftest import both, states


def test_a_connection_that_a_job_opens_is_the_test_s(transactional_db, any_database):
    with alias("second"):
        drained.open_another_connection.enqueue("second")
        (result,) = drain()
        assert connections["second"].connection.info.backend_pid == result.return_value
        connections["second"].close()


@both
def test_a_failure_calls_on_failure_and_sends_its_dead_letter(where, written, settings):
    settings.PGONLY = {**settings.PGONLY, "QUEUES": {"dead": {"task": "tests.jobs.burying.note"}}}
    telling.told.clear()
    result = burying.fail.using(on_failure="tests.jobs.telling.tell", max_attempts=1).enqueue()
    _, note = drain(raise_errors=False)
    assert telling.told == [(result.id, "FAILED", "ValueError('error')")]
    assert (note.task.module_path, note.args) == ("tests.jobs.burying.note", [result.id])
    assert written() == [result.id]


@pytest.mark.django_db(transaction=True)
def test_an_end_that_another_connection_keeps_from_being_written_is_named(other):
    sql("SET lock_timeout = '100ms'")
    drained.have_its_row_locked.enqueue(other.info.backend_pid)
    drained.LOCKS.append(other)
    try:
        with pytest.raises(DrainError, match=r"have_its_row_locked .* holds its row locked"):
            drain()
    finally:
        drained.LOCKS.clear()
        other.rollback()
        connection.close()


@both
def test_the_second_run_finds_what_the_first_one_has_saved(where, written):
    drained.save_and_fail_once.enqueue()
    with pytest.raises(ValueError, match="in the first run"):
        drain()
    Job.objects.update(run_at=timezone.now() - timedelta(seconds=1))
    (result,) = drain()
    assert result.return_value == {"page": 3}
    assert written() == ["paid"]


@both
def test_a_row_that_python_cannot_read_fails_its_job(where):
    add.enqueue(1)
    sql("UPDATE pgonly_job SET args = %s::jsonb", f"[{'1' * 5000}]")
    with pytest.raises(UnreadableJobError):
        drain()


@both
def test_a_limiter_works_in_jobs(where, declared):
    declared(deepseek={"concurrent": 1})
    drained.use_a_limiter.enqueue(900)
    drain()
    assert states() == ["succeeded"]
    assert current_job.get() is None


@both
def test_notices_of_the_server_reach_those_who_listen_on_the_test_s_connection(where):
    heard = []
    connection.ensure_connection()
    connection.connection.add_notice_handler(lambda notice: heard.append(notice.message_primary))
    add.enqueue(1)
    drain()
    sql("DO $$ BEGIN RAISE WARNING 'here'; END $$")
    assert heard == ["here"]


@both
def test_a_job_may_delete_or_cancel_itself(where):
    drained.delete_its_row.enqueue()
    assert drain() == []
    drained.cancel_itself.enqueue()
    drain()
    assert states() == ["cancelled"]


@both
def test_signals_are_sent(where):
    heard = []

    def hear(signal, task_result, **_):
        heard.append((signal, task_result.status))

    task_started.connect(hear), task_finished.connect(hear)
    add.enqueue(1)
    drain()
    assert task_started.disconnect(hear) and task_finished.disconnect(hear)
    assert heard == [
        (task_started, TaskResultStatus.RUNNING),
        (task_finished, TaskResultStatus.SUCCESSFUL),
    ]


@both
def test_limited_jobs_run_within_their_limits(where, settings):
    settings.PGONLY = {
        **settings.PGONLY,
        "QUEUES": {"slow": {"rate": (1, 3600)}, "narrow": {"max_running": 1}},
    }
    for _ in range(2):
        add.using(queue_name="slow").enqueue(1)
        add.using(queue_name="narrow").enqueue(2)
        add.using(concurrency_key="one").enqueue(3)
        add.using(slots=4).enqueue(4)
    assert sorted(result.args[0] for result in drain()) == [1, 2, 2, 3, 3, 4, 4]
    assert Job.objects.waiting().get().queue == "slow"
