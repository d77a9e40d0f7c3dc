"""What the job context does while the database is down."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest
from django.db import OperationalError, connection
from psycopg import errors

from pgonly_django.context import transactions as module
from pgonly_django.context.run import Run
from pgonly_django.context.transactions import retry_while_down
from pgonly_django.exceptions import JobCancelled, JobStopped

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _soon_again(monkeypatch):
    monkeypatch.setattr(module, "PAUSE_SECONDS", 0.01)


@pytest.fixture
def run():
    return Run(SimpleNamespace(), "default", claimed_at=0.0, lease_until=0.0)


class Away:
    """A statement that meets a dead connection a few times."""

    def __init__(self, times: int) -> None:
        self.left = times

    def __call__(self, alias: str) -> str:
        self.left -= 1
        if self.left >= 0:
            connection.close()
            raise OperationalError("the connection is closed")
        return "written"


def test_a_statement_is_repeated_until_the_database_is_back(run):
    assert retry_while_down(run, Away(3)) == "written"


def test_a_stop_waits_for_the_database_as_long_as_its_grace_lasts(run):
    run.stop_requested, run.stop_until = True, time.monotonic() + 60
    assert retry_while_down(run, Away(3)) == "written"
    run.stop_until = time.monotonic() - 1
    with pytest.raises(JobStopped):
        retry_while_down(run, Away(1))


def test_a_cancelled_job_does_not_wait_and_ends_as_cancelled(run):
    run.cancel_requested = True
    with pytest.raises(JobCancelled):
        retry_while_down(run, Away(1))


def test_what_the_database_refuses_is_not_repeated(run):
    def refused(alias):
        connection.ensure_connection()
        raise OperationalError("out of memory")

    with pytest.raises(OperationalError, match="out of memory"):
        retry_while_down(run, refused)


class Locked:
    """A statement that meets a locked row a few times, for longer than a timeout of the project."""

    def __init__(self, error: type[Exception], times: int) -> None:
        self.error, self.left = error, times

    def __call__(self, alias: str) -> str:
        connection.ensure_connection()
        self.left -= 1
        if self.left >= 0:
            raise OperationalError from self.error()
        return "written"


@pytest.mark.parametrize("error", [errors.LockNotAvailable, errors.QueryCanceled])
def test_only_a_transaction_is_repeated_after_a_timeout_of_the_project(run, error):
    assert retry_while_down(run, Locked(error, 3), is_transaction=True) == "written"
    with pytest.raises(OperationalError):
        retry_while_down(run, Locked(error, 1))


def test_a_lock_is_outlasted_no_longer_than_the_grace_of_a_stop(run):
    run.stop_requested, run.stop_until = True, time.monotonic() + 0.1
    with pytest.raises(JobStopped):
        retry_while_down(run, Locked(errors.LockNotAvailable, 1_000_000), is_transaction=True)


def test_a_transaction_that_the_database_refuses_is_not_repeated(run):
    with pytest.raises(OperationalError):
        retry_while_down(run, Locked(errors.DiskFull, 1), is_transaction=True)
