from __future__ import annotations

from django.db import connection

from pgonly_django.models import State
from tests.jobs import transactions
from tests.waiting import wait_for


def test_a_connection_lost_below_asyncio_run_harms_no_later_job(work, marks):
    lost, later = transactions.query_below_asyncio_run.enqueue("lost", cuts=True), []
    work(threads=1)
    later = [transactions.query_below_asyncio_run.enqueue(str(i)) for i in range(3)]
    work(threads=1)
    assert {result.job.state for result in (lost, *later)} == {State.SUCCEEDED}
    assert marks() == ["lost", "0", "1", "2"]


def test_what_a_sync_job_did_below_asyncio_run_leaves_no_connection(work, marks):
    count = (
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE datname = current_database() AND backend_type = 'client backend'"
    )
    before = connection.cursor().execute(count).fetchone()
    transactions.query_below_asyncio_run.enqueue("k")
    work(threads=1)
    assert marks() == ["k"]
    wait_for(lambda: connection.cursor().execute(count).fetchone() <= before, what="its end")
