"""What goes wrong between the worker and its rows, and keeps neither others waiting nor anything from being written."""

from __future__ import annotations

import logging
from datetime import timedelta

import pytest
from django.db import connections
from django.utils import timezone

from pgonly_django.compat import task_finished, uuid7
from pgonly_django.database import notify
from pgonly_django.database.connect import connect
from pgonly_django.database.libpq import take_answers
from pgonly_django.models.job import State
from pgonly_django.outcomes import Outcome
from pgonly_django.queue.claim import Claim, Claimer
from pgonly_django.queue.finish import Report
from pgonly_django.queue.liveness import cancel_requested, stopped
from pgonly_django.queue.promote import promote
from pgonly_django.worker import connection
from pgonly_django.worker.connection import WorkerConnection
from pgonly_django.worker.exchange import Exchanger
from pgonly_django.worker.timers import NEVER
from tests import activity, jobs
from tests.jobs import transactions
from tests.proxy import LosingProxy
from tests.queue.rows import finish_of, fresh, make, make_running
from tests.waiting import wait_for

CLAIM = Claim(free_slots=5, prefetch_limits={}, take_suspect=True)


@pytest.fixture
def exchanger(transactional_db):
    worker_id = uuid7()
    opened = Exchanger(
        WorkerConnection("default", worker_id, "tests"), Claimer(worker_id, timedelta(seconds=60))
    )
    assert opened.database.connection() is not None
    yield opened
    opened.database.close()


@pytest.fixture
def other(transactional_db):
    with connect("default", application_name="pgonly tests, another") as opened:
        yield opened


@pytest.mark.parametrize("from_head", [True, False])
@pytest.mark.parametrize("beside_an_end", [True, False])
def test_each_kind_of_claim_takes_jobs_alone_and_beside_ends(exchanger, from_head, beside_an_end):
    first, second = make(), make()
    exchanger.exchange([], [], Claim(free_slots=1, prefetch_limits={}, take_suspect=False))
    one = Claim(free_slots=1, prefetch_limits={}, take_suspect=False, from_head=from_head)
    ends = [finish_of(make_running())] if beside_an_end else []
    answer = exchanger.exchange(ends, [], one)
    assert [job.id for job in answer.jobs] == [str(second.id)]
    assert fresh(first).state == State.RUNNING


def lock(other, *rows):
    other.execute("SELECT FROM pgonly_job WHERE id = ANY (%s) FOR UPDATE", [[row.id for row in rows]])


@pytest.mark.parametrize(
    ("outcome", "state"), [(Outcome.SUCCEEDED, State.SUCCEEDED), (Outcome.DISCARDED, State.FAILED)]
)
def test_ends_whose_rows_are_locked_keep_no_other_end_and_no_claim_waiting(exchanger, other, outcome, state):
    locked, free, ready = [make_running(), make_running()], make_running(), make()
    batch = [finish_of(job, outcome, state) for job in (*locked, free)]
    with other.transaction():
        lock(other, *locked)
        for _ in range(2):
            answer = exchanger.exchange(batch, [], CLAIM)
            assert [finish.id for finish in answer.locked] == [str(job.id) for job in locked]
            assert (answer.finished, answer.lost) == ([str(free.id)], [])
            assert answer.claim is CLAIM
        assert fresh(ready).state == State.RUNNING
    assert exchanger.exchange(batch, [], None).locked == []
    assert {fresh(job).state for job in (*locked, free)} == {state}


def test_one_that_cannot_be_stored_beside_locked_ones_fails_alone(exchanger, other):
    locked, bad, good = make_running(), make_running(), make_running()
    batch = [finish_of(locked, result="1"), finish_of(bad, result='"\\u0000"'), finish_of(good, result="2")]
    with other.transaction():
        lock(other, locked)
        answer = exchanger.exchange(batch, [], None)
    assert [finish.id for finish in answer.locked] == [str(locked.id)]
    assert [fresh(job).state for job in (bad, good)] == [State.FAILED, State.SUCCEEDED]


def test_an_end_whose_row_takes_no_entry_any_more_is_a_failure_without_one(exchanger, other):
    job = make_running()
    other.execute("ALTER TABLE pgonly_job ADD CONSTRAINT tests_none CHECK (errors = '[]') NOT VALID")
    try:
        answer = exchanger.exchange([finish_of(job, result='"\\u0000"')], [], None)
    finally:
        other.execute("ALTER TABLE pgonly_job DROP CONSTRAINT tests_none")
    assert (answer.finished, answer.locked) == ([str(job.id)], [])
    assert (fresh(job).state, fresh(job).errors) == (State.FAILED, [])


def test_a_locked_table_is_no_lost_database(exchanger, other, caplog):
    job, report = make_running(), None
    before = exchanger.database.connection()
    with other.transaction():
        other.execute("LOCK TABLE pgonly_job")
        report = Report(str(job.id), job.lease_epoch, "{}", None)
        answer = exchanger.exchange([finish_of(job)], [report], CLAIM)
        assert [finish.id for finish in answer.locked] == [str(job.id)]
        assert (answer.was_refused, answer.claim, answer.reported) == (True, None, set())
        assert exchanger.exchange([], [], CLAIM).was_refused
        assert exchanger.database.ask(promote) is None
        assert exchanger.database.ask(lambda own: cancel_requested(own, [str(job.id)])) is None
    assert exchanger.exchange([finish_of(job)], [report], CLAIM).finished == [str(job.id)]
    assert (exchanger.database.connection(), exchanger.database.is_away) == (before, False)
    assert "away" not in caplog.text


def test_a_statement_that_is_cancelled_is_no_lost_database(exchanger, other, caplog):
    slow, quick = make_running(), make_running()
    own = exchanger.database.connection()
    own.execute("SET lock_timeout = 0")
    own.execute("SET statement_timeout = '100ms'")
    with other.transaction():
        lock(other, slow)
        answer = exchanger.exchange([finish_of(slow), finish_of(quick)], [], CLAIM)
    assert (answer.finished, answer.claim) == ([str(quick.id)], CLAIM)
    assert (exchanger.database.connection(), exchanger.database.is_away) == (own, False)
    assert "away" not in caplog.text


def test_the_row_of_a_worker_that_stops_may_be_locked(exchanger, other):
    with other.transaction():
        other.execute("LOCK TABLE pgonly_worker")
        exchanger.database.ask(lambda own: stopped(own, uuid7()))
    assert not exchanger.database.is_away


def test_the_worker_s_connection_is_named_by_its_id(exchanger):
    assert len(activity.pids(f"strpos(application_name, '{exchanger.claimer.worker_id}') > 0")) == 1


def test_an_end_is_kept_while_the_database_is_away(background_worker, marks):
    """The worker's connection is cut when the job has ended: its end is written by the next one."""
    worker = background_worker(threads=1)
    lost = worker.database.connection()
    result = transactions.cut_the_worker.enqueue("k", str(worker.id))
    assert result.wait(10).job.state == State.SUCCEEDED
    assert worker.database.connection() is not lost
    assert (marks(), result.job.lease_epoch) == (["k"], 1)


@pytest.fixture
def network(transactional_db):
    settings = connections.settings["default"]
    host = settings["HOST"] or settings["OPTIONS"].get("host", "")
    if not host.startswith("/"):
        pytest.skip("the server listens on no Unix socket")
    target = f"{host}/.s.PGSQL.{settings['PORT'] or 5432}"
    with LosingProxy(target, of=b"pgonly worker") as proxy, pytest.MonkeyPatch.context() as patch:
        patch.setitem(settings, "HOST", "127.0.0.1")
        patch.setitem(settings, "PORT", str(proxy.port))
        yield proxy
    connections.close_all()


def test_an_end_that_did_not_reach_the_server_is_written_over_the_next_connection(network, background_worker):
    background_worker(threads=1)
    network.lose_request = b'"the end"'  # only the statement that writes the result has that in it
    result = jobs.echo.enqueue("the end")
    assert network.lost.wait(10)
    assert result.wait(10).return_value == "the end"
    assert result.job.lease_epoch == 1


def test_an_end_whose_answer_was_lost_after_its_commit_counts_once(network, background_worker, caplog):
    seen = []

    def receiver(sender, task_result, **_):
        seen.append((task_result.id, task_result.status.name))

    background_worker(threads=1)
    network.lose_answer_to = b'"the end"'  # only the statement that writes the result has that in it
    task_finished.connect(receiver)
    try:
        with caplog.at_level(logging.WARNING, "pgonly_django"):
            result = jobs.echo.enqueue("the end")
            assert network.lost.wait(10)
            assert jobs.echo.enqueue("after it").wait(10).return_value == "after it"
            wait_for(lambda: result.id in dict(seen), what="task_finished")
    finally:
        task_finished.disconnect(receiver)
    assert [status for job_id, status in seen if job_id == result.id] == ["SUCCESSFUL"]
    result.refresh()
    assert result.return_value == "the end"
    assert "belongs to another worker" not in caplog.text


def test_a_job_that_a_stopped_worker_releases_starts_in_one_that_listens(background_worker, marks):
    first = background_worker(threads=1)
    jobs.sleep_in_slices.enqueue("k")
    wait_for(lambda: marks() == ["k:started"])
    second = background_worker(threads=1, poll_seconds=300.0)
    wait_for(lambda: second.plan.ordinary.is_drained)
    second.plan.ordinary.at = second.plan.ordinary.again_at = NEVER  # it looks when it is told to
    first.stop()
    wait_for(lambda: marks().count("k:started") == 2, what="the second start")


@pytest.mark.parametrize(
    ("outcome", "state", "payloads"),
    [
        (Outcome.RELEASED, State.READY, ["ready *"]),
        (Outcome.RETRIED, State.SCHEDULED, ["due"]),
        (Outcome.SUCCEEDED, State.SUCCEEDED, []),
    ],
)
def test_the_other_workers_are_told_of_jobs_that_wait_again(exchanger, other, outcome, state, payloads):
    job = make_running()
    other.execute(f"LISTEN {notify.CHANNEL}")
    delay = 60.0 if state is State.SCHEDULED else None
    exchanger.exchange([finish_of(job, outcome, state, delay_seconds=delay)], [], None)
    assert fresh(job).state == state
    other.execute("SELECT 1")
    assert [each.payload for each in other.notifies(timeout=0)] == payloads


@pytest.mark.parametrize(
    ("outcome", "state"), [(Outcome.RETRIED, State.SCHEDULED), (Outcome.RELEASED, State.READY)]
)
def test_a_wait_that_became_a_cancellation_counts_when_it_is_written_twice(exchanger, outcome, state):
    job = make_running(cancel_requested_at=timezone.now())
    for _ in range(2):
        answer = exchanger.exchange([finish_of(job, outcome, state, delay_seconds=60.0)], [], None)
        assert (answer.finished, answer.lost, answer.locked) == ([str(job.id)], [], [])
        assert fresh(job).state == State.CANCELLED


# In two halves: the next exchange is sent while the server works on another.


def ids(*rows):
    return [str(row.id) for row in rows]


def all_received(exchanger):
    exchanger.database.wait_for_answers()
    return list(exchanger.received())


def test_two_exchanges_are_under_way_and_each_has_its_own_answer(exchanger):
    ended, jobs = [make_running(), make_running()], [make(), make(), make()]
    one = Claim(free_slots=1, prefetch_limits={}, take_suspect=False)
    assert exchanger.send([finish_of(ended[0], result="1")], (), one)
    assert exchanger.send([finish_of(ended[1], Outcome.DISCARDED, State.FAILED, entry="{}")], (), one)
    assert (exchanger.finishing, exchanger.claims) == ({*ids(*ended)}, [one, one])
    first, second = all_received(exchanger)
    assert [first.finished, second.finished] == [ids(ended[0]), ids(ended[1])]
    assert second.states == {str(ended[1].id): State.FAILED}
    assert [job.id for result in (first, second) for job in result.jobs] == ids(*jobs[:2])
    assert (exchanger.finishing, exchanger.claims, list(exchanger.under_way)) == (set(), [], [])
    assert exchanger.exchange([], [], one).jobs[0].id == str(jobs[2].id)


@pytest.mark.parametrize("kept_back", ["locked", "bad"])
def test_what_one_exchange_meets_leaves_the_other_alone(exchanger, other, kept_back):
    row, beside, later, ready = make_running(), make_running(), make_running(), make()
    result = '"\\u0000"' if kept_back == "bad" else "1"
    with other.transaction():
        if kept_back == "locked":
            lock(other, row)
        assert exchanger.send([finish_of(row, result=result), finish_of(beside)], (), None)
        assert exchanger.send([finish_of(later)], (), CLAIM)
        first, second = all_received(exchanger)
    assert ([each.id for each in first.locked] == ids(row)) is (kept_back == "locked")
    assert str(beside.id) in first.finished
    assert (second.finished, [job.id for job in second.jobs]) == (ids(later), ids(ready))
    assert fresh(row).state == (State.RUNNING if kept_back == "locked" else State.FAILED)


def test_a_question_waits_for_the_exchanges_that_are_under_way(exchanger):
    jobs = [make_running(), make_running()]
    for job in jobs:
        assert exchanger.send([finish_of(job)], (), None)
    assert exchanger.database.ask(lambda own: own.execute("SELECT 1").fetchone()) == (1,)
    assert [result.finished for result in all_received(exchanger)] == [ids(job) for job in jobs]


def test_a_wait_for_the_second_of_two_answers_sleeps(exchanger, other, monkeypatch):
    exchanger.exchange([finish_of(make_running())], [], None)  # prepares the statement
    first, second, reads = make_running(), make_running(), []
    exchanger.database.connection().execute("SET lock_timeout = '500ms'")
    monkeypatch.setattr(connection, "take_answers", lambda *args: reads.append(take_answers(*args)))
    with other.transaction():
        lock(other, second)
        assert exchanger.send([finish_of(first)], (), None)
        assert exchanger.send([finish_of(second)], (), None)
        exchanger.database.wait_for_answers()
    assert len(reads) < 20
    assert [result.finished for result in all_received(exchanger)] == [ids(first), ids(second)]


def test_exchanges_whose_connection_is_lost_are_made_again(exchanger, other):
    """The server works on the first of them, which waits for a lock, and has not begun the second."""
    exchanger.exchange([finish_of(make_running())], [], CLAIM)  # prepares the statements
    first, second, ready = make_running(), make_running(), make()
    own = exchanger.database.connection()
    own.execute("SET lock_timeout = 0")
    with other.transaction():
        lock(other, first)
        assert exchanger.send([finish_of(first)], (), None)
        assert exchanger.send([finish_of(second)], (), CLAIM)
        assert activity.end(f"pid = {own.info.backend_pid}") == 1
        assert all_received(exchanger) == [None, None]
    assert exchanger.database.is_away
    wait_for(lambda: exchanger.database.connection() is not None)
    assert not exchanger.under_way
    answer = exchanger.exchange([finish_of(first), finish_of(second)], [], CLAIM)
    assert (answer.finished, [job.id for job in answer.jobs]) == (ids(first, second), ids(ready))
