"""Projects whose transactions keep a snapshot: REPEATABLE READ or SERIALIZABLE, by OPTIONS or by the database."""

from __future__ import annotations

import threading
import time

import pytest
from django.db import connection, connections
from psycopg import IsolationLevel

from pgonly_django.context.run import Run
from pgonly_django.context.transactions import retry_while_down
from pgonly_django.database.connect import connect
from pgonly_django.models import State
from pgonly_django.queue import checkpoints
from tests import jobs
from tests.jobs import transactions
from tests.queue.rows import claim, claimer, fresh, make
from tests.waiting import wait_for

LEVELS = (IsolationLevel.REPEATABLE_READ, IsolationLevel.SERIALIZABLE)


@pytest.fixture(params=[(level, place) for level in LEVELS for place in ("OPTIONS", "database")], ids=str)
def snapshots(request, transactional_db, settings):
    """New connections of Django's keep snapshots."""
    settings.PGONLY = {"LEASE_SECONDS": 2}
    level, place = request.param
    name = connection.settings_dict["NAME"]
    with connect("default", application_name="owner") as owner, pytest.MonkeyPatch.context() as patch:
        if place == "OPTIONS":
            ours = connections.settings["default"]
            patch.setitem(ours, "OPTIONS", {**ours["OPTIONS"], "isolation_level": level})
        else:
            wanted = level.name.replace("_", " ").lower()
            owner.execute(f"ALTER DATABASE {name} SET default_transaction_isolation = '{wanted}'")
        yield
        owner.execute(f"ALTER DATABASE {name} RESET ALL")
    connections.close_all()


@pytest.mark.slow
@pytest.mark.usefixtures("snapshots")
def test_an_atomic_job_commits_though_its_leases_were_renewed(work, marks, caplog):
    result = transactions.mark_atomically_over_two_beats.enqueue("k")
    work()
    assert (result.job.state, result.job.errors) == (State.SUCCEEDED, [])
    assert result.job.progress == {"done": 1, "total": 2, "message": ""}
    assert [line["text"] for line in result.job.log] == ["after two beats"]
    assert marks() == ["k", "paid k", "paid k again"]
    assert "away" not in caplog.text


@pytest.mark.slow
@pytest.mark.usefixtures("snapshots")
def test_jobs_with_steps_that_are_no_transaction_of_their_own_succeed_side_by_side(work, caplog):
    results = [jobs.slow_count.enqueue(5, 0.05, f"k{i}") for i in range(4)]
    work()
    assert [result.wait(1).return_value for result in results] == [5] * 4
    assert {result.job.attempt for result in results} == {1}
    assert "away" not in caplog.text


@pytest.mark.usefixtures("snapshots")
def test_a_checkpoint_whose_row_another_transaction_wrote_is_saved_again(transactional_db):
    make()
    with connect("default", application_name="other") as other:
        (job,) = claim(other, claimer())
        run = Run(job, "default", claimed_at=time.monotonic(), lease_until=time.monotonic() + 60)
        saving = threading.Thread(target=_save, args=[run])
        with other.transaction():
            other.execute("SELECT FROM pgonly_job FOR UPDATE")
            other.execute("UPDATE pgonly_job SET log = '[1]'")
            saving.start()
            with connect("default", application_name="looker") as looker:
                wait_for(lambda: looker.execute(WAITS).fetchone() == (1,), what="it to wait for the row")
    saving.join(10)
    assert fresh(job).checkpoint.value == 7


WAITS = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%pgonly_checkpoint%'
"""


def _save(run):
    connection.ensure_connection()
    try:
        retry_while_down(run, checkpoints.save_checkpoint, run.job.id, run.job.lease_epoch, "7", "{}")
    finally:
        connections.close_all()
