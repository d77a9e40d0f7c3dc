from __future__ import annotations

import logging
import threading

from django.db.backends.postgresql.base import DatabaseWrapper

from pgonly_django.compat import TaskResultStatus
from pgonly_django.models import State
from tests import jobs
from tests.jobs import transactions


def test_jobs_that_leave_transactions_open_use_up_no_place_of_djangos_pool(pooled, work):
    for _ in range(5):
        transactions.leave_transaction_open.enqueue("lost")
    good = jobs.mark_once.enqueue("kept")
    worker = work(threads=1)
    assert good.wait(1).status == TaskResultStatus.SUCCESSFUL
    assert worker.slots.stuck == 0


def test_a_transaction_left_open_is_rolled_back_and_warned_about(work, marks, caplog):
    with caplog.at_level(logging.WARNING, "pgonly_django"):
        transactions.leave_transaction_open.enqueue("lost")
        jobs.mark_once.enqueue("kept")
        work(threads=1)
    assert marks() == ["kept"]
    assert "tests.jobs.transactions.leave_transaction_open left a transaction open" in caplog.text


def test_a_job_whose_rows_were_lost_with_its_transaction_has_not_succeeded(work, marks):
    read = transactions.read_in_an_open_transaction.enqueue()
    lost = transactions.leave_transaction_open.using(max_attempts=1).enqueue("lost")
    alone = transactions.leave_transaction_open_async.using(max_attempts=1).enqueue("lost")
    work(threads=1)
    assert marks() == []
    for result in (lost, alone):
        assert (result.job.state, result.job.attempt) == (State.FAILED, 1)
        assert "its transaction on 'default' open" in result.job.errors[-1]["message"]
    assert read.job.state == State.SUCCEEDED


def test_a_broken_connection_is_closed_and_warned_about(work, marks, caplog):
    with caplog.at_level(logging.WARNING, "pgonly_django"):
        transactions.break_connection.enqueue()
        result = jobs.mark_once.enqueue("after")
        work(threads=1)
    assert "tests.jobs.transactions.break_connection left a broken connection" in caplog.text
    assert result.wait(1).is_finished
    assert marks() == ["after"]


def test_a_connection_that_django_fails_to_close_is_closed(work, marks, monkeypatch, caplog):
    """Django forgets it then. So it is where the settings of its pool were changed since it was opened."""
    opened, close = [], DatabaseWrapper._close

    def fail(self):
        if "slot" not in threading.current_thread().name:
            return close(self)
        opened.append(self.connection)
        raise AttributeError("_pool")

    monkeypatch.setattr(DatabaseWrapper, "_close", fail)
    jobs.mark_once.enqueue("once")
    work(threads=1)
    assert marks() == ["once"]
    assert "Could not clean up after tests.jobs.mark_once" in caplog.text
    assert [each.closed for each in opened] == [True]
