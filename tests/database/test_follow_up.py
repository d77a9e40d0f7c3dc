"""A NOTIFY that travels with the INSERT it is about, outside of transactions."""

from __future__ import annotations

import contextlib
import logging
import threading
from unittest import mock

import pytest
from django.db import DataError, IntegrityError, OperationalError, connection, connections, transaction
from psycopg.pq import PipelineStatus

from pgonly_django.database import notify
from pgonly_django.database.on_django import FollowUp, first_row
from pgonly_django.database.statement import Statement
from pgonly_django.models import Job
from tests.interruptions import interrupted_in
from tests.jobs import add
from tests.sql import setting, sql, value

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
    return setting("pgonly.note")


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
    pid = value("SELECT pg_backend_pid()")
    with pytest.raises(OperationalError), terminated_in(server, pid, 0.3):
        ask(5, 20.0, note())
    connection.close()
    assert ask(7)[0] == 7


def test_a_connection_that_dies_behind_the_commit_costs_the_follow_up_only(server):
    pid = value("SELECT pg_backend_pid()")
    follow_up = note(seconds=20.0)
    with terminated_in(server, pid, 0.3):
        assert ask(5, follow_up=follow_up)[0] == 5
    assert not follow_up.is_done
    connection.close()


class Treacherous:
    """A libpq connection that raises after the `nth` call of one method."""

    def __init__(self, pgconn, method, nth):
        self.pgconn, self.method, self.left = pgconn, method, nth

    def __getattr__(self, name):
        found = getattr(self.pgconn, name)
        if name != self.method:
            return found

        def call(*args, **kwargs):
            answer = found(*args, **kwargs)
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt
            return answer

        return call


# How often each is called at least, whenever the answers arrive.
CALLS = {
    "enter_pipeline_mode": 1, "send_query_prepared": 2, "pipeline_sync": 2, "flush": 1, "is_busy": 6,
    "consume_input": 1, "get_result": 6, "exit_pipeline_mode": 1,
}  # fmt: skip
STEPS = [(method, nth) for method, times in CALLS.items() for nth in range(1, times + 1)]


@pytest.mark.sample(2)
@pytest.mark.parametrize(("method", "nth"), STEPS)
def test_an_exception_at_any_step_arrives_and_leaves_the_connection_as_it_was(method, nth):
    raw = connection.connection
    pgconn = raw.pgconn
    with mock.patch.object(raw, "pgconn", Treacherous(pgconn, method, nth)), pytest.raises(KeyboardInterrupt):
        ask(5, follow_up=note())
    assert not raw.closed
    assert pgconn.pipeline_status == PipelineStatus.OFF
    assert ask(7)[0] == 7
    with transaction.atomic():
        assert ask(8)[0] == 8
    assert ask(9, follow_up=note())[0] == 9


@contextlib.contextmanager
def terminated_in(server, pid, seconds):
    timer = threading.Timer(seconds, lambda: server.execute("SELECT pg_terminate_backend(%s)", [pid]))
    timer.start()
    try:
        yield
    finally:
        timer.join()


class Counting:
    """A libpq connection that notes what is sent over it."""

    SENDS = ("enter_pipeline_mode", "send_query", "send_query_params", "send_query_prepared", "send_prepare")

    def __init__(self, pgconn):
        self.pgconn, self.sent = pgconn, []

    def __getattr__(self, name):
        if name in self.SENDS:
            self.sent.append(name)
        return getattr(self.pgconn, name)


@contextlib.contextmanager
def counted():
    """What is sent to the server, by the names of libpq."""
    raw = connection.connection
    with mock.patch.object(raw, "pgconn", Counting(raw.pgconn)):
        yield raw.pgconn.sent


def test_a_lone_enqueue_tells_the_workers_without_asking_once_more():
    with counted() as sent:
        add.enqueue(1)
    assert sent == ["enter_pipeline_mode", "send_query_prepared", "send_query_prepared"]


def test_one_in_a_transaction_tells_them_after_the_commit():
    notify._last_sent.clear()
    with transaction.atomic():
        add.enqueue(1)
        hook = connection.run_on_commit.pop()[1]
    with counted() as sent:
        hook()
    assert sent == ["send_query_prepared"]


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
    sql(
        f"CREATE FUNCTION tests_first() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN {does}; RETURN new; END';"
        "CREATE TRIGGER tests_first BEFORE INSERT ON pgonly_job FOR EACH ROW EXECUTE FUNCTION tests_first()"
    )
    try:
        yield
    finally:
        sql("DROP FUNCTION tests_first() CASCADE")


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


def test_a_notify_that_will_be_due_when_the_insert_ends_goes_out_with_it(always_in_close_succession):
    add.enqueue(1)
    with counted() as sent:
        add.enqueue(2)
    assert sent == ["send_query_prepared"]
    notify._took["default", "ready default"] = 7200.0
    with counted() as sent:
        add.enqueue(3)
    assert sent == ["enter_pipeline_mode", "send_query_prepared", "send_query_prepared"]


def test_a_row_refused_by_the_database_wakes_but_is_not_taken_for_told(server, always_in_close_succession):
    server.execute(f"LISTEN {notify.CHANNEL}")
    add.enqueue(1)
    notify._last_sent.clear()
    with inserting("RAISE unique_violation"), pytest.raises(IntegrityError):
        add.enqueue(2)
    add.enqueue(3)
    assert heard(server, 3) == ["ready default"] * 3
