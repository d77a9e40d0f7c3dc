"""What jobs emit reaches readers while they run, and in the end it is the text of one run."""

from __future__ import annotations

import logging
import time

import pytest
from asgiref.sync import async_to_sync
from django.db import connection

from pgonly_django.context.memory import text_of
from pgonly_django.database import notify
from pgonly_django.database.connect import connect
from pgonly_django.exceptions import WrongArgumentsError
from pgonly_django.models import Job, JobOutput, State
from pgonly_django.queue import output as statements
from pgonly_django.worker import reports as writer
from pgonly_django.worker.in_flight import LOCKED_RETRY_SECONDS
from tests import jobs
from tests.elsewhere import missing
from tests.gate import Gate
from tests.jobs import emitting, watched
from tests.queue.rows import lock, make_running
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


@pytest.fixture
def gate(monkeypatch):
    gate = Gate()
    monkeypatch.setattr(emitting, "GATE", gate)
    yield gate
    gate.opened.set()


@pytest.fixture
def saying(background_worker, gate):
    """A worker whose job has said "Hello" and says the rest once the gate is open; with the job's result."""
    worker = background_worker()
    result = emitting.say_and_wait.enqueue("Hello", ", world")
    assert gate.reached.wait(10)
    return worker, result


def test_output_can_be_read_from_any_offset(ran):
    result = ran(emitting.say, "One, ", "two, ", "three.")
    answer = result.output()
    assert (answer.text, answer.keep) == ("One, two, three.", 0)
    nothing_new = result.output(after=answer.offset)
    assert (nothing_new.text, nothing_new.keep, nothing_new.offset) == ("", None, answer.offset)
    assert nothing_new.applied_to(answer.text) == "One, two, three."


def test_an_async_job_emits_and_its_output_is_read_without_blocking(ran):
    result = ran(emitting.asay, "One, ", "two.")
    assert async_to_sync(result.aoutput)().text == "One, two."


def test_output_is_visible_while_the_job_runs_inside_of_a_transaction(background_worker, gate):
    background_worker()
    result = emitting.say_and_wait_inside.enqueue("Hello", ", world")
    assert gate.reached.wait(10)
    answer = wait_for(lambda: (seen := result.output()).text and seen, what="output")
    assert answer.text == "Hello"
    gate.opened.set()
    result.wait(10)
    assert result.output(after=answer.offset).applied_to("Hello") == "Hello, world"


def test_an_end_waits_until_all_output_is_written(saying, gate, server):
    worker, result = saying
    wait_for(lambda: result.output().text, what="output")
    run = worker.in_flight.runs[result.id]
    with server.transaction():
        lock(server, result.job)
        gate.opened.set()
        wait_for(
            lambda: result.id in worker.in_flight.ended and run.unwritten.output.is_closed, what="the end"
        )
    result.wait(10)
    assert result.output().text == "Hello, world"


@pytest.fixture
def written(monkeypatch):
    """The ids of the jobs of each statement that writes output."""
    seen = []

    def write(connection, rows):
        seen.append([row.id for row in rows])
        return statements.write_output(connection, rows)

    monkeypatch.setattr(writer, "write_output", write)
    return seen


def test_an_end_whose_output_cannot_be_written_is_tried_again_after_pauses(saying, gate, server, written):
    worker, result = saying
    with server.transaction():
        lock(server, result.job)
        gate.opened.set()
        wait_for(lambda: result.id in worker.in_flight.ended, what="the end")
        written.clear()
        began = time.monotonic()
        for number in range(30):  # each of them makes the main loop turn
            jobs.add.enqueue(number, 1).wait(10)
        pauses = (time.monotonic() - began) / LOCKED_RETRY_SECONDS[0]
        assert sum(result.id in ids for ids in written) <= pauses + 2
    result.wait(10)
    assert result.output().text == "Hello, world"


def test_the_worker_looks_at_runs_that_have_emitted_and_at_no_others(background_worker, gate):
    worker = background_worker()
    assert jobs.add.enqueue(1, 1).wait(10).is_finished
    assert worker.in_flight.emitting == set()
    result = emitting.say_and_wait.enqueue("Hello", ", world")
    assert gate.reached.wait(10)
    assert [run.job.id for run in worker.in_flight.emitting] == [result.id]
    gate.opened.set()
    result.wait(10)
    jobs.add.enqueue(1, 2).wait(10)  # the main loop turns
    wait_for(lambda: not worker.in_flight.emitting, what="the run to be forgotten")


def test_a_run_that_has_lost_its_job_is_not_looked_at(saying, gate, server):
    worker, result = saying
    Job.objects.filter(pk=result.id).update(
        lease_epoch=5, state=State.HELD, held_by="a test", lease_expires_at=None
    )
    gate.opened.set()
    wait_for(lambda: result.id not in worker.in_flight.runs, what="the end of the run")
    jobs.add.enqueue(1, 2).wait(10)
    wait_for(lambda: not worker.in_flight.emitting, what="the run to be forgotten")


def test_output_that_is_too_much_for_one_statement_goes_out_in_several(server, written, monkeypatch):
    monkeypatch.setattr(writer, "CHARACTERS_AT_ONCE", 5)
    running = [make_running() for _ in range(3)]
    rows = [statements.SeenRow(str(job.pk), 1, statements.place(1, 1), 0, "four") for job in running]
    assert writer.written_of(server, rows) == {row.id for row in rows}
    assert [len(ids) for ids in written] == [1, 1, 1]


def test_a_failed_attempt_leaves_nothing_in_the_output_of_the_next(ran):
    result = ran(emitting.say_until_the_third_attempt)
    assert (result.job.attempt, result.output().text) == (3, "Attempt 3")


def test_an_atomic_job_has_its_output_with_its_end(ran):
    result = ran(emitting.say_in_a_transaction, "a", "b")
    assert (result.job.state, result.output().text) == (State.SUCCEEDED, "a2 b2 ")


def test_each_run_of_a_job_that_snoozes_begins_its_output_again(work):
    result = emitting.count_snoozes.enqueue()
    work()
    wait_for(lambda: work() and result.job.state == State.SUCCEEDED, what="the last look")
    assert result.output().text == "Look 3"


def test_a_job_that_is_retried_by_a_person_says_again_what_it_does_again(run_jobs):
    result = emitting.tell_a_story.enqueue()
    run_jobs()
    Job.objects.filter(pk=result.id).update(state=State.FAILED)
    assert result.retry()
    run_jobs()
    assert result.output().text == emitting.STORY


def test_output_beyond_the_limit_is_dropped_and_the_log_says_so_once(ran, settings):
    settings.PGONLY = {"OUTPUT_LIMIT": 1000}
    result = ran(emitting.say, "a" * 999, "bb", "c", "d")
    assert (result.job.state, result.output().text) == (State.SUCCEEDED, "a" * 999 + "b")
    (line,) = result.job.log
    assert line["text"] == (
        'The output is longer than PGONLY["OUTPUT_LIMIT"], 1,000 characters. The rest is not kept.'
    )


def test_what_text_of_postgresql_cannot_hold_is_made_visible(ran):
    result = ran(emitting.say, "a", "")
    assert result.output().text == "a"
    assert text_of("nul \x00 and half \ud83d") == "nul \\x00 and half \\ud83d"


@pytest.mark.parametrize("chunk", [b"bytes", 1, None, ["a"]])
def test_what_is_no_text_is_refused(chunk):
    with pytest.raises(TypeError, match="takes text, got"):
        text_of(chunk)


@pytest.mark.parametrize("after", [-1, "1", 1.0, True, None, 2**63])
def test_an_offset_that_no_answer_gave_is_refused(transactional_db, after):
    with pytest.raises(WrongArgumentsError, match="after must be the offset"):
        emitting.say.enqueue().output(after=after)


def test_a_job_that_does_not_emit_costs_no_statement_and_no_row(ran, monkeypatch):
    def refuse(*_):
        pytest.fail("a statement for output")

    for name in ("write_output", "load_output", "keep"):
        monkeypatch.setattr(statements, name, refuse)
    assert ran(jobs.count_to, 3).job.state == State.SUCCEEDED
    assert not JobOutput.objects.exists()


def test_output_that_postgresql_refuses_harms_no_other_job(work, monkeypatch, caplog):
    caplog.set_level(logging.WARNING, "pgonly_django")
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE pgonly_job_output ADD CONSTRAINT no_b CHECK (text <> 'b')")
    try:
        results = [emitting.say.enqueue(each) for each in ("a", "b", "c")]
        work()
    finally:
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE pgonly_job_output DROP CONSTRAINT no_b")
    assert [each.job.state for each in results] == [State.SUCCEEDED] * 3
    assert [each.output().text for each in results] == ["a", "", "c"]
    assert f"Output of {results[1].id} not stored" in caplog.text


def test_where_output_may_not_be_written_jobs_end_all_the_same(saying, gate, server, caplog):
    worker, result = saying
    # As for a worker whose role got no rights on a table that a migration of another role has made.
    with missing(server.execute, "pgonly_job_output"):
        gate.opened.set()
        assert result.wait(10).is_finished
    assert not worker.database.is_away
    assert f"Output of {result.id} not stored" in caplog.text


def test_output_goes_with_its_job(ran):
    result = ran(emitting.say, "a")
    assert JobOutput.objects.exists()
    Job.objects.filter(pk=result.id).delete()
    assert not JobOutput.objects.exists()
