"""Migrations that are not one transaction: killed in the middle, they are run again."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from django.db import DatabaseError, OperationalError, connection, migrations, models, transaction
from django.db.migrations.state import ProjectState

from pgonly_django.database.connect import connect
from pgonly_django.migrations import _operations
from pgonly_django.migrations._operations import AddIndexBesideWriters, InOneTransaction

pytestmark = pytest.mark.django_db(transaction=True)

COLOUR = migrations.CreateModel(
    "Colour",
    [("name", models.IntegerField(primary_key=True)), ("code", models.IntegerField())],
    {"db_table": "tests_colour"},
)
BY_CODE = AddIndexBesideWriters("colour", models.Index("code", name="tests_colour_code"))
BROKEN = migrations.RunSQL("SELECT 1 / 0")


@pytest.fixture
def apply():
    """Applies operations one after the other, each on what those before it have left. The table goes at the end."""
    state = ProjectState()

    def apply(*operations, atomic=False):
        migration = migrations.Migration("0001", "pgonly_django")
        migration.operations, migration.atomic = list(operations), atomic
        nonlocal state
        with connection.schema_editor(atomic=atomic) as editor:
            state = migration.apply(state.clone(), editor)

    yield apply
    with connection.cursor() as cursor:
        cursor.execute("DROP TABLE IF EXISTS tests_colour")


def indexes() -> dict[str, bool]:
    """Of the table, and whether they are valid."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT indexrelid::regclass::text, indisvalid FROM pg_index"
            " WHERE indrelid = to_regclass('tests_colour') AND NOT indisprimary"
        )
        return dict(cursor.fetchall())


def test_an_index_that_was_left_invalid_is_built_again(apply):
    apply(COLOUR)
    apply(BY_CODE)
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'tests_colour_code'::regclass"
        )
    assert indexes() == {"tests_colour_code": False}
    apply(BY_CODE)
    assert indexes() == {"tests_colour_code": True}


def test_inside_a_transaction_the_index_is_built_as_any_other(apply):
    apply(COLOUR)
    with transaction.atomic():
        apply(BY_CODE)
    assert indexes() == {"tests_colour_code": True}


def test_operations_in_one_transaction_leave_nothing_when_the_last_fails(apply):
    together = [COLOUR, migrations.AddIndex("colour", BY_CODE.index)]
    with pytest.raises(DatabaseError):
        apply(InOneTransaction([*together, BROKEN]))
    assert "tests_colour" not in connection.introspection.table_names()
    apply(InOneTransaction(together))
    assert indexes() == {"tests_colour_code": True}


def test_what_django_puts_off_is_done_in_the_same_transaction(apply):
    indexed = migrations.CreateModel(
        "Colour",
        [("name", models.IntegerField(primary_key=True))],
        {"db_table": "tests_colour", "indexes": [models.Index(models.F("name"), name="tests_colour_name")]},
    )
    twice = models.Index(models.F("name"), name="tests_colour_name")  # fails: it is there by then
    with pytest.raises(DatabaseError):
        apply(InOneTransaction([indexed, migrations.AddIndex("colour", twice)]))
    assert indexes() == {}
    apply(InOneTransaction([indexed]))
    assert indexes() == {"tests_colour_name": True}


@pytest.fixture
def reader(transactional_db):
    """Another connection, whose transaction has read the table."""
    with connect("default", application_name="pgonly tests, a reader") as other:
        yield other
        other.rollback()


WITH_A_SHADE = [migrations.AddField("colour", "shade", models.IntegerField(null=True))]


def columns():
    with connection.cursor() as cursor:
        return [each.name for each in connection.introspection.get_table_description(cursor, "tests_colour")]


def test_a_column_waits_for_a_reader_and_lets_others_through_meanwhile(apply, reader, other, monkeypatch):
    monkeypatch.setattr(_operations, "LOCK_WAIT", "100ms")
    apply(COLOUR)
    reader.execute("BEGIN")
    reader.execute("SELECT FROM tests_colour")
    passed = []

    def pause(_):
        """Between two tries: no lock is held or waited for."""
        other.execute("SET lock_timeout = '1ms'")
        other.execute("SELECT FROM tests_colour")
        passed.append(columns())
        if len(passed) == 2:
            reader.execute("ROLLBACK")

    monkeypatch.setattr(_operations, "time", SimpleNamespace(sleep=pause))
    apply(InOneTransaction(WITH_A_SHADE))
    assert passed == [["name", "code"]] * 2
    assert columns() == ["name", "code", "shade"]


def test_a_table_that_stays_locked_ends_the_migration_with_what_to_do(apply, reader, monkeypatch):
    monkeypatch.setattr(_operations, "LOCK_WAIT", "50ms")
    monkeypatch.setattr(_operations, "TRIES", 1)
    apply(COLOUR)
    reader.execute("BEGIN")
    reader.execute("SELECT FROM tests_colour")
    with pytest.raises(OperationalError) as raised:
        apply(InOneTransaction(WITH_A_SHADE))
    assert "run migrate again" in raised.value.__notes__[0]
    assert columns() == ["name", "code"]
    reader.execute("ROLLBACK")
    apply(InOneTransaction(WITH_A_SHADE))
    assert columns() == ["name", "code", "shade"]
