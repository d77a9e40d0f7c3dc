"""A rollback takes back what the context has reached, in memory as in the row, whichever way it comes."""

from __future__ import annotations

import contextlib

import pytest
from django.db import IntegrityError, connection, connections, transaction

from pgonly_django.exceptions import LoopNameError
from pgonly_django.models import Checkpoint
from tests.aliases import alias
from tests.sql import sql


class UndoError(Exception):
    pass


@pytest.fixture
def twin(context, any_database):
    """A second connection, under an alias that is not the jobs'."""
    with alias("twin"):
        yield connections["twin"]


def loop(context, name="rows"):
    for _ in context.iterate(range(5), name=name):
        pass


def positions_after_a_note(context):
    """What the row says of the loops once the job has saved something else."""
    context.save_checkpoint("note")
    return Checkpoint.objects.get(job=context.job_id).positions


def in_atomic(context):
    with contextlib.suppress(UndoError), transaction.atomic():
        loop(context)
        raise UndoError


def in_a_nested_atomic(context):
    with transaction.atomic():
        loop(context, "kept")
        with contextlib.suppress(UndoError), transaction.atomic():
            loop(context)
            raise UndoError


def in_an_atomic_without_savepoint(context):
    with transaction.atomic(), contextlib.suppress(UndoError), transaction.atomic(savepoint=False):
        loop(context)
        raise UndoError


def in_a_durable_atomic(context):
    with contextlib.suppress(UndoError), transaction.atomic(durable=True):
        loop(context)
        raise UndoError


def to_a_savepoint_by_hand(context):
    with transaction.atomic():
        loop(context, "kept")
        savepoint = connection.savepoint()
        loop(context)
        connection.savepoint_rollback(savepoint)


def to_a_savepoint_older_than_the_first_loop(context):
    with transaction.atomic():
        savepoint = connection.savepoint()
        loop(context)
        connection.savepoint_rollback(savepoint)


def to_a_savepoint_in_sql(context):
    with transaction.atomic():
        loop(context, "kept")
        sql("SAVEPOINT mine")
        loop(context)
        sql("ROLLBACK TO mine")


def twice_to_the_same_savepoint(context):
    with transaction.atomic():
        loop(context, "kept")
        savepoint = connection.savepoint()
        for _ in range(2):
            loop(context)
            connection.savepoint_rollback(savepoint)


def on_request(context):
    with transaction.atomic():
        loop(context)
        transaction.set_rollback(True)


def after_an_error_that_was_caught(context):
    """PostgreSQL answers COMMIT with a rollback here, and Django takes it for a commit."""
    with transaction.atomic():
        loop(context)
        with contextlib.suppress(IntegrityError):
            sql("INSERT INTO tests_mark (key) VALUES (NULL)")


def with_the_connection(context):
    with contextlib.suppress(Exception), transaction.atomic():
        loop(context)
        connection.close()
        raise UndoError


def at_a_commit_that_fails(context):
    sql("CREATE TEMP TABLE once (id int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
    with contextlib.suppress(IntegrityError), transaction.atomic():
        loop(context)
        sql("INSERT INTO once VALUES (1), (1)")


@pytest.mark.parametrize(
    "roll_back",
    [
        in_atomic,
        in_a_nested_atomic,
        in_an_atomic_without_savepoint,
        in_a_durable_atomic,
        to_a_savepoint_by_hand,
        to_a_savepoint_older_than_the_first_loop,
        to_a_savepoint_in_sql,
        twice_to_the_same_savepoint,
        on_request,
        after_an_error_that_was_caught,
        with_the_connection,
        at_a_commit_that_fails,
    ],
)
def test_what_is_rolled_back_is_not_written_later(context, roll_back):
    roll_back(context)
    positions = positions_after_a_note(context)
    assert "rows" not in positions
    assert positions.get("kept", 5) == 5
    assert len(connection.execute_wrappers) == 0
    loop(context)  # and its name is free again
    context.flush()
    assert Checkpoint.objects.get(job=context.job_id).positions["rows"] == 5


def test_a_checkpoint_that_was_rolled_back_is_not_shown(context):
    context.save_checkpoint("before")
    with contextlib.suppress(UndoError), transaction.atomic():
        context.save_checkpoint("inside")
        assert context.checkpoint == "inside"
        raise UndoError
    assert context.checkpoint == "before"


def test_a_checkpoint_that_could_not_be_written_is_not_shown(context):
    with transaction.atomic():
        transaction.set_rollback(True)
        with pytest.raises(transaction.TransactionManagementError):
            context.save_checkpoint("inside")
    assert context.checkpoint is None


def test_savepoints_that_were_rolled_back_inside_a_loop_leave_its_position(context):
    with transaction.atomic():
        for i in context.iterate(range(5), name="rows"):
            with contextlib.suppress(UndoError), transaction.atomic():
                if i % 2:
                    raise UndoError
    assert positions_after_a_note(context) == {"rows": 5}
    assert connection.execute_wrappers == []


def test_what_was_reached_before_the_transaction_stays(context):
    for i in context.iterate(range(5), name="rows"):
        if i == 3:
            break
    in_atomic_with_another = contextlib.suppress(UndoError)
    with in_atomic_with_another, transaction.atomic():
        loop(context, "other")
        raise UndoError
    context._memory.close_failed()
    assert Checkpoint.objects.get(job=context.job_id).positions == {"rows": 3}


def test_a_position_waits_for_the_transaction_of_another_database(context, twin):
    with transaction.atomic(using="twin"):
        loop(context)
        assert positions_after_a_note(context) == {}
    context.flush()
    assert Checkpoint.objects.get(job=context.job_id).positions == {"rows": 5}


def test_a_position_follows_the_rollback_of_another_database(context, twin):
    with contextlib.suppress(UndoError), transaction.atomic(), transaction.atomic(using="twin"):
        loop(context, "kept not")
        raise UndoError
    with contextlib.suppress(UndoError), transaction.atomic(using="twin"):
        loop(context)
        raise UndoError
    assert positions_after_a_note(context) == {}


def test_the_row_has_what_was_committed_though_another_database_rolled_back_later(context, twin):
    with contextlib.suppress(UndoError), transaction.atomic(using="twin"):
        context.save_checkpoint("paid")
        raise UndoError
    assert context.checkpoint == "paid"


def test_a_loop_inside_another_of_its_name_is_refused(context):
    with pytest.raises(LoopNameError, match="begun a loop named 'items' already"):
        for _ in context.iterate("ab"):
            for _ in context.iterate("cd"):
                pass


def test_a_loop_after_one_of_its_name_that_was_left_is_refused(context):
    for _ in context.iterate("ab"):
        break
    with pytest.raises(LoopNameError):
        list(context.iterate("cd"))


def test_loops_side_by_side_have_names_of_their_own(context):
    with pytest.raises(LoopNameError):
        list(zip(context.iterate("ab"), context.iterate("cd"), strict=True))
    assert list(zip(context.iterate("ab", name="a"), context.iterate("cd", name="b"), strict=True))
