"""A NOTIFY that travels with the INSERT it is about, outside of transactions."""

from __future__ import annotations

import contextlib
import logging
import tempfile
import threading

import pytest
from django.db import DataError, IntegrityError, OperationalError, connection, connections, transaction
from psycopg.pq import PipelineStatus

from pgonly_django.database import libpq, notify
from pgonly_django.database.on_django import FollowUp, first_row
from pgonly_django.database.statement import Statement
from pgonly_django.models import Job
from tests.interruptions import interrupted_in
from tests.jobs import add

pytestmark = pytest.mark.django_db(transaction=True)
NUMBER = Statement("SELECT %(number)s::int::text, pg_current_xact_id()::text, pg_sleep(%(seconds)s)::text")
NOTE = Statement(
    "SELECT set_config('pgonly.note', %(text)s || pg_current_xact_id(), false), pg_sleep(%(seconds)s)"
)


@pytest.fixture(autouse=True)
def prepared():
    """On a connection that knows both statements, as after the first few uses; no worker was woken lately."""
    for _ in range(7):
        ask()
        first_row("default", NOTE, {"text": "", "seconds": 0})
        notify._last_sent.clear(), notify._last_asked.clear()
        add.enqueue(1)
    notify._last_sent.clear(), notify._last_asked.clear()
    yield
    connections.close_all()


def ask(number=1, seconds=0, follow_up=None):
    row = first_row("default", NUMBER, {"number": number, "seconds": seconds}, follow_up)
    return None if row is None else (int(row[0]), row[1])


def note(text="", seconds=0):
    return FollowUp(NOTE, {"text": text, "seconds": seconds})


def noted():
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_setting('pgonly.note')")
        return cursor.fetchone()[0]


def test_both_are_done_each_in_a_transaction_of_its_own():
    follow_up = note("done in ")
    number, transaction_id = ask(5, follow_up=follow_up)
    assert (number, follow_up.is_done) == (5, True)
    assert noted().startswith("done in ")
    assert noted() != f"done in {transaction_id}"


def test_in_a_transaction_the_follow_up_is_left_for_later():
    follow_up = note("never")
    with transaction.atomic():
        assert ask(5, follow_up=follow_up)[0] == 5
    assert not follow_up.is_done
    assert "never" not in noted()


def test_a_follow_up_that_fails_does_no_harm():
    follow_up = note("x\0")
    with pytest.raises(DataError):
        ask(5, follow_up=follow_up)
    follow_up = note(seconds="no number")
    assert ask(5, follow_up=follow_up)[0] == 5
    assert not follow_up.is_done
    assert ask(6)[0] == 6


def test_a_statement_that_fails_raises_and_the_connection_goes_on():
    with pytest.raises(DataError):
        ask(2**40, follow_up=note("all the same "))
    assert noted().startswith("all the same ")
    assert ask(6)[0] == 6


@pytest.mark.slow
@pytest.mark.parametrize(("first", "second"), [(5.0, 0), (0, 5.0)])
def test_an_exception_while_waiting_leaves_no_answer_behind(first, second):
    with pytest.raises(KeyboardInterrupt), interrupted_in(0.3):
        ask(5, first, note(seconds=second))
    assert not connection.connection.closed
    assert ask(7)[0] == 7
    assert ask(8, follow_up=note())[0] == 8


def test_a_connection_that_dies_meanwhile_is_an_error_and_no_hang(server):
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        (pid,) = cursor.fetchone()
    with pytest.raises(OperationalError), terminated_in(server, pid, 0.3):
        ask(5, 20.0, note())
    connection.close()
    assert ask(7)[0] == 7


def test_a_connection_that_dies_behind_the_commit_costs_the_follow_up_only(server):
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        (pid,) = cursor.fetchone()
    follow_up = note(seconds=20.0)
    with terminated_in(server, pid, 0.3):
        assert ask(5, follow_up=follow_up)[0] == 5
    assert not follow_up.is_done
    connection.close()


class Treacherous(Statement):
    """While it is armed, its sending raises."""

    is_armed = False

    @property
    def formats(self):
        if self.is_armed:
            raise KeyboardInterrupt
        return self._formats

    @formats.setter
    def formats(self, formats):
        self._formats = formats


def raising_after(function, nth):
    """`function`, which raises after its `nth` call."""
    calls = iter(range(1, nth + 1))

    def call(*args, **kwargs):
        answer = function(*args, **kwargs)
        if next(calls, None) == nth:
            raise KeyboardInterrupt
        return answer

    return call


def still_works():
    raw = connection.connection
    assert not raw.closed
    assert raw.pgconn.pipeline_status == PipelineStatus.OFF
    assert ask(7)[0] == 7
    with transaction.atomic():
        assert ask(8)[0] == 8
    assert ask(9, follow_up=note())[0] == 9


@pytest.mark.parametrize("is_first", [True, False])
def test_an_exception_while_sending_arrives_and_leaves_the_connection_as_it_was(is_first):
    statement, other = Treacherous(NOTE.sql), NUMBER
    params, other_params = {"text": "", "seconds": 0}, {"number": 1, "seconds": 0}
    for _ in range(7):
        first_row("default", statement, params)
    statement.is_armed = True
    with pytest.raises(KeyboardInterrupt):
        if is_first:
            first_row("default", statement, params, FollowUp(other, other_params))
        else:
            first_row("default", other, other_params, FollowUp(statement, params))
    still_works()


def test_a_statement_that_was_sent_without_its_mark_is_answered_too():
    raw = connection.connection
    raw.pgconn.enter_pipeline_mode()
    raw.pgconn.send_query_prepared(NUMBER.name, NUMBER.values({"number": 1, "seconds": 0}), NUMBER.formats)
    libpq._leave_clean(raw)
    still_works()


@pytest.mark.parametrize("nth", range(1, 6))
def test_an_exception_between_two_answers_arrives_and_leaves_the_connection_as_it_was(nth, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(libpq.generators, "fetch_many", raising_after(libpq.generators.fetch_many, nth))
        ask(5, follow_up=note())
    still_works()


@contextlib.contextmanager
def terminated_in(server, pid, seconds):
    timer = threading.Timer(seconds, lambda: server.execute("SELECT pg_terminate_backend(%s)", [pid]))
    timer.start()
    try:
        yield
    finally:
        timer.join()


@contextlib.contextmanager
def traced():
    """The messages of the protocol, as libpq writes them down: direction and kind."""
    pgconn, messages = connection.connection.pgconn, []
    with tempfile.TemporaryFile("w+") as file:
        pgconn.trace(file.fileno())
        try:
            yield messages
        finally:
            pgconn.untrace()
        file.seek(0)
        messages += [(line.split("\t")[1], line.split("\t")[3].strip()) for line in file]


def test_a_lone_enqueue_tells_the_workers_without_asking_once_more():
    with traced() as messages:
        add.enqueue(1)
    directions = [direction for direction, _ in messages]
    assert [kind for direction, kind in messages if direction == "F" and kind in ("Bind", "Query")] == [
        "Bind"
    ] * 2
    assert directions == sorted(directions, reverse=True)  # all are sent before the first answer


def test_one_in_a_transaction_tells_them_after_the_commit():
    notify._last_sent.clear()
    with transaction.atomic():
        add.enqueue(1)
        hook = connection.run_on_commit.pop()[1]
    with traced() as messages:
        hook()
    assert [kind for _, kind in messages].count("Bind") == 1


def test_workers_hear_of_it_after_the_row_is_there(server):
    server.execute(f"LISTEN {notify.CHANNEL}")
    result = add.enqueue(1)
    notifies = list(server.notifies(timeout=5, stop_after=1))
    assert [notify.payload for notify in notifies] == ["ready default"]
    assert server.execute("SELECT state FROM pgonly_job WHERE id = %s", [result.id]).fetchone() == ("ready",)


def test_a_refused_notify_is_tried_once_more_and_costs_a_warning(monkeypatch, caplog):
    monkeypatch.setattr(notify, "CHANNEL", "x" * 100)  # longer than PostgreSQL takes
    with caplog.at_level(logging.WARNING):
        result = add.enqueue(1)
    assert "Could not wake the workers" in caplog.text
    assert Job.objects.filter(pk=result.id, state="ready").exists()


@pytest.fixture
def always_in_close_succession(monkeypatch):
    monkeypatch.setattr(notify, "DENSE_SECONDS", 3600.0)
    monkeypatch.setattr(notify, "COALESCE_SECONDS", 3600.0)


@contextlib.contextmanager
def inserting(does):
    """Every INSERT of a job `does` something first."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"CREATE FUNCTION tests_first() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN {does}; RETURN new; END';"
            "CREATE TRIGGER tests_first BEFORE INSERT ON pgonly_job FOR EACH ROW EXECUTE FUNCTION tests_first()"
        )
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DROP FUNCTION tests_first() CASCADE")


def heard(listening, count):
    return [notify.payload for notify in listening.notifies(timeout=5, stop_after=count)]


def test_a_row_that_is_held_back_is_told_of_when_its_insert_was_slow(
    server, always_in_close_succession, monkeypatch
):
    """What was decided before the INSERT would be over when a slow one commits."""
    server.execute(f"LISTEN {notify.CHANNEL}")
    monkeypatch.setattr(notify, "COALESCE_SECONDS", 0.5)
    add.enqueue(1)
    with inserting("PERFORM pg_sleep(0.6)"):
        add.enqueue(2)
    assert heard(server, 2) == ["ready default"] * 2


def test_a_row_refused_by_the_database_wakes_but_is_not_taken_for_told(server, always_in_close_succession):
    server.execute(f"LISTEN {notify.CHANNEL}")
    add.enqueue(1)
    notify._last_sent.clear()
    with inserting("RAISE unique_violation"), pytest.raises(IntegrityError):
        add.enqueue(2)
    add.enqueue(3)
    assert heard(server, 3) == ["ready default"] * 3
