"""Migrations after the initial one only add: workers and sites of the version before continue on the new tables, and
no table is locked for long."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models
from django.db.migrations.loader import MigrationLoader
from django.db.models.functions import Now

from pgonly_django.migrations._operations import InOneTransaction
from tests.guards import refuse

INITIAL = "0001_initial"
# Operations that the rules below do not let through, by the migration's name and their number in it, each with the
# reason why the version before runs on over it, and why it holds no lock for long.
REVIEWED: dict[tuple[str, int], str] = {}
# They change Django's state alone.
WITHOUT_SQL = (migrations.AlterModelOptions, migrations.AlterModelManagers)


def later_migrations() -> list[migrations.Migration]:
    """Those of the package."""
    loader = MigrationLoader(None)
    own = {name: each for (app, name), each in loader.disk_migrations.items() if app == "pgonly_django"}
    return [own[name] for name in sorted(own) if name > INITIAL]


def not_additive(later: Sequence[migrations.Migration]) -> list[str]:
    """What is wrong with each operation that the version before might notice."""
    new_models: set[str] = set()
    found = []
    for migration in later:
        for number, operation in enumerate(migration.operations):
            if (migration.name, number) not in REVIEWED:
                place = f"{migration.name}, operation {number} ({named(operation)})"
                found += [f"{place}: {reason}" for reason in problems(operation, migration, new_models)]
    return found


def named(operation) -> str:
    """ "AddField job.colour"."""
    parts = [getattr(operation, "model_name", None), getattr(operation, "name", None)]
    return f"{type(operation).__name__} {'.'.join(filter(None, parts))}".strip()


def problems(operation, migration, new_models, *, waits_briefly=False) -> Iterator[str]:
    """`waits_briefly`: it stands in an InOneTransaction, whose locks end with it (atomic = False)."""
    if isinstance(operation, migrations.CreateModel):
        new_models.add(operation.name_lower)
    elif isinstance(operation, migrations.SeparateDatabaseAndState):
        is_short = isinstance(operation, InOneTransaction) and not migration.atomic
        for each in operation.database_operations:
            yield from problems(each, migration, new_models, waits_briefly=is_short)
    elif isinstance(operation, WITHOUT_SQL) or getattr(operation, "model_name_lower", None) in new_models:
        return
    elif isinstance(operation, migrations.AddField):
        if not waits_briefly:
            yield "it makes all others wait for its table: InOneTransaction, and atomic = False"
        yield from problems_of_field(operation.field)
    elif isinstance(operation, AddIndexConcurrently):
        if migration.atomic:
            yield "an index is built concurrently outside of transactions only: atomic = False"
    elif isinstance(operation, migrations.AddIndex):
        yield "it locks the table while it is built: use AddIndexBesideWriters"
    else:
        yield "it does not only add. If the version before can live with it, name it in REVIEWED"


def problems_of_field(field) -> Iterator[str]:
    """The version before inserts rows without the column, and no row is rewritten while the table is locked."""
    if field.remote_field is not None or field.unique or field.db_index:
        yield "its constraint or index locks the table while it is made"
    if not (field.null or field.has_db_default()):
        yield "rows of the version before have no value for it: null=True or db_default"
    is_expression = hasattr(field.db_default, "resolve_expression")
    if field.has_db_default() and is_expression and not isinstance(field.db_default, models.Value):
        yield "PostgreSQL writes all rows anew for a default that is no constant"


def test_migrations_after_the_initial_one_only_add():
    refuse(
        (f"pgonly_django/migrations/{problem}" for problem in not_additive(later_migrations())),
        "The version before runs on over these tables, so change the migration: add a column with null=True or a "
        "constant db_default, and take the operations of pgonly_django/migrations/_operations.py. What is harmless all "
        "the same goes into REVIEWED of tests/test_additive_migrations.py, with its reason.",
    )


def test_what_was_reviewed_exists():
    names = {(each.name, number) for each in later_migrations() for number in range(len(each.operations))}
    refuse(
        (f"REVIEWED names {name}, operation {number}" for name, number in sorted(set(REVIEWED) - names)),
        "There is no such operation: take the entry out of tests/test_additive_migrations.py, or correct its number.",
    )


def later(*operations, atomic=False) -> migrations.Migration:
    migration = migrations.Migration("0002_next", "pgonly_django")
    migration.operations, migration.atomic = list(operations), atomic
    return migration


def add(field) -> InOneTransaction:
    return InOneTransaction([migrations.AddField("job", "colour", field)])


INDEX = models.Index("queue", name="new")
NEW_TABLE = migrations.CreateModel("Colour", [("name", models.TextField(primary_key=True))])


@pytest.mark.parametrize(
    "operations",
    [
        [add(models.TextField(null=True))],
        [add(models.IntegerField(db_default=0))],
        [add(models.IntegerField(db_default=models.Value(0)))],
        [NEW_TABLE, migrations.AddIndex("colour", models.Index("name", name="new"))],
        [NEW_TABLE, migrations.AddField("colour", "code", models.TextField(default="", unique=True))],
        [migrations.AlterModelOptions("job", {"verbose_name": "task"})],
        [migrations.SeparateDatabaseAndState(state_operations=[migrations.RemoveField("job", "log")])],
    ],
)
def test_what_only_adds_is_let_through(operations):
    assert not_additive([later(*operations)]) == []


def test_an_index_on_a_table_that_exists_is_built_concurrently():
    assert not_additive([later(AddIndexConcurrently("job", INDEX))]) == []
    (within_transaction,) = not_additive([later(AddIndexConcurrently("job", INDEX), atomic=True)])
    assert "atomic = False" in within_transaction
    (locking,) = not_additive([later(migrations.AddIndex("job", INDEX))])
    assert "use AddIndexBesideWriters" in locking


@pytest.mark.parametrize(
    ("field", "reason"),
    [
        (models.TextField(), "have no value for it"),
        (models.TextField(default=""), "have no value for it"),
        (models.TextField(null=True, unique=True), "locks the table"),
        (models.TextField(null=True, db_index=True), "locks the table"),
        (models.ForeignKey("self", models.CASCADE, null=True), "locks the table"),
        (models.DateTimeField(db_default=Now()), "writes all rows anew"),
    ],
)
def test_a_column_that_the_version_before_would_notice_is_found(field, reason):
    (problem,) = not_additive([later(add(field))])
    assert problem.startswith("0002_next, operation 0 (InOneTransaction): ")
    assert reason in problem


def test_a_column_that_waits_for_its_table_before_all_others_is_refused(monkeypatch):
    locking = later(migrations.AddField("job", "colour", models.TextField(null=True)), atomic=True)
    load_disk = MigrationLoader.load_disk

    def load_disk_and_planted(loader):
        load_disk(loader)
        loader.disk_migrations["pgonly_django", locking.name] = locking

    monkeypatch.setattr(MigrationLoader, "load_disk", load_disk_and_planted)
    with pytest.raises(
        pytest.fail.Exception,
        match=r"0002_next, operation 0 \(AddField job.colour\): it makes all others wait",
    ):
        test_migrations_after_the_initial_one_only_add()


@pytest.mark.parametrize(
    "operation",
    [
        migrations.RemoveField("job", "log"),
        migrations.RenameField("job", "log", "lines"),
        migrations.AlterField("job", "task", models.TextField()),
        migrations.DeleteModel("Tick"),
        migrations.AddConstraint(
            "job", models.CheckConstraint(condition=models.Q(attempt__gte=0), name="new")
        ),
        migrations.RunSQL("ALTER TABLE pgonly_job ADD COLUMN colour text NOT NULL"),
        migrations.RunPython(migrations.RunPython.noop),
    ],
)
def test_everything_else_needs_a_reason(operation, monkeypatch):
    (problem,) = not_additive([later(operation)])
    assert "name it in REVIEWED" in problem
    monkeypatch.setitem(REVIEWED, ("0002_next", 0), "of a test")
    assert not_additive([later(operation)]) == []
