"""Migrations that are not one transaction: killed in the middle, they are run again."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from django.db import DatabaseError, OperationalError, connection, migrations, models, transaction
from django.db.migrations.state import ProjectState

from pgonly_django.migrations import _operations
from pgonly_django.migrations._operations import AddIndexBesideWriters, InOneTransaction
from tests.sql import sql

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
    sql("DROP TABLE IF EXISTS tests_colour")


def indexes() -> dict[str, bool]:
    """Of the table, and whether they are valid."""
    query = "SELECT indexrelid::regclass::text, indisvalid FROM pg_index"
    return dict(sql(f"{query} WHERE indrelid = to_regclass('tests_colour') AND NOT indisprimary"))


def test_an_index_that_was_left_invalid_is_built_again(apply):
    apply(COLOUR)
    apply(BY_CODE)
    sql("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'tests_colour_code'::regclass")
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


def begin_to_read(server):
    """Its transaction locks the table."""
    server.execute("BEGIN")
    server.execute("SELECT FROM tests_colour")


WITH_A_SHADE = [migrations.AddField("colour", "shade", models.IntegerField(null=True))]


def columns():
    with connection.cursor() as cursor:
        return [each.name for each in connection.introspection.get_table_description(cursor, "tests_colour")]


def test_a_column_waits_for_a_reader_and_lets_others_through_meanwhile(apply, server, other, monkeypatch):
    monkeypatch.setattr(_operations, "LOCK_WAIT", "100ms")
    apply(COLOUR)
    begin_to_read(server)
    passed = []

    def pause(_):
        """Between two tries: no lock is held or waited for."""
        other.execute("SET lock_timeout = '1ms'")
        other.execute("SELECT FROM tests_colour")
        passed.append(columns())
        if len(passed) == 2:
            server.execute("ROLLBACK")

    monkeypatch.setattr(_operations, "time", SimpleNamespace(sleep=pause))
    apply(InOneTransaction(WITH_A_SHADE))
    assert passed == [["name", "code"]] * 2
    assert columns() == ["name", "code", "shade"]


def test_a_table_that_stays_locked_ends_the_migration_with_what_to_do(apply, server, monkeypatch):
    monkeypatch.setattr(_operations, "LOCK_WAIT", "50ms")
    monkeypatch.setattr(_operations, "TRIES", 1)
    apply(COLOUR)
    begin_to_read(server)
    with pytest.raises(OperationalError) as raised:
        apply(InOneTransaction(WITH_A_SHADE))
    assert "run migrate again" in raised.value.__notes__[0]
    assert columns() == ["name", "code"]
    server.execute("ROLLBACK")
    apply(InOneTransaction(WITH_A_SHADE))
    assert columns() == ["name", "code", "shade"]
