"""Migrations after 0006, the first released schema, only add: workers and sites of the version before go on over the
new tables. tests/process/test_versions.py runs a released version over them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models
from django.db.migrations.loader import MigrationLoader
from django.db.models.functions import Now

from tests.guards import refuse

FIRST_RELEASED = "0006_limits"
# Operations that the rules below do not let through, by the migration's name and their number in it, each with the
# reason why the version before runs on over it, and why it holds no lock for long.
REVIEWED: dict[tuple[str, int], str] = {
    ("0011_ready_again", 1): "Another help text, which is no SQL.",
    ("0011_ready_again", 2): "Another default of Python's, which is no SQL.",
}
# They change Django's state alone.
WITHOUT_SQL = (migrations.AlterModelOptions, migrations.AlterModelManagers)


def later_migrations() -> list[migrations.Migration]:
    loader = MigrationLoader(None)
    own = {name: each for (app, name), each in loader.disk_migrations.items() if app == "pgonly_django"}
    return [own[name] for name in sorted(own) if name > FIRST_RELEASED]


def not_additive(later: Sequence[migrations.Migration]) -> list[str]:
    """What is wrong with each operation that the version before might notice."""
    new_models: set[str] = set()
    found = []
    for migration in later:
        for number, operation in enumerate(migration.operations):
            if (migration.name, number) in REVIEWED:
                continue
            place = f"{migration.name}, operation {number} ({named(operation)})"
            found += [f"{place}: {reason}" for reason in problems(operation, migration, new_models)]
    return found


def named(operation) -> str:
    """ "AddField job.colour"."""
    parts = [getattr(operation, "model_name", None), getattr(operation, "name", None)]
    return f"{type(operation).__name__} {'.'.join(filter(None, parts))}".strip()


def problems(operation, migration, new_models) -> Iterator[str]:
    if isinstance(operation, migrations.CreateModel):
        new_models.add(operation.name_lower)
    elif isinstance(operation, migrations.SeparateDatabaseAndState):
        for each in operation.database_operations:
            yield from problems(each, migration, new_models)
    elif isinstance(operation, WITHOUT_SQL) or getattr(operation, "model_name_lower", None) in new_models:
        return
    elif isinstance(operation, migrations.AddField):
        yield from problems_of_field(operation.field)
    elif isinstance(operation, AddIndexConcurrently):
        if migration.atomic:
            yield "an index is built concurrently outside of transactions only: atomic = False"
    elif isinstance(operation, migrations.AddIndex):
        yield "it locks the table while it is built: use AddIndexConcurrently"
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


def test_migrations_after_the_first_released_one_only_add():
    refuse(
        (f"pgonly_django/migrations/{problem}" for problem in not_additive(later_migrations())),
        "The version before runs on over these tables, so change the migration: add a column with null=True or a "
        "constant db_default, and take the operations of pgonly_django/migrations/_additive.py. What is harmless all "
        "the same goes into REVIEWED of tests/test_additive_migrations.py, with its reason.",
    )


def test_what_was_reviewed_exists():
    names = {(each.name, number) for each in later_migrations() for number in range(len(each.operations))}
    refuse(
        (f"REVIEWED names {name}, operation {number}" for name, number in sorted(set(REVIEWED) - names)),
        "There is no such operation: take the entry out of tests/test_additive_migrations.py, or correct its number.",
    )


def later(*operations, atomic=True) -> migrations.Migration:
    migration = migrations.Migration("0007_next", "pgonly_django")
    migration.operations, migration.atomic = list(operations), atomic
    return migration


def add(field) -> migrations.AddField:
    return migrations.AddField("job", "colour", field)


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
    assert not_additive([later(AddIndexConcurrently("job", INDEX), atomic=False)]) == []
    (within_transaction,) = not_additive([later(AddIndexConcurrently("job", INDEX))])
    assert "atomic = False" in within_transaction
    (locking,) = not_additive([later(migrations.AddIndex("job", INDEX))])
    assert "use AddIndexConcurrently" in locking


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
    assert problem.startswith("0007_next, operation 0 (AddField job.colour): ")
    assert reason in problem


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
    monkeypatch.setitem(REVIEWED, ("0007_next", 0), "of a test")
    assert not_additive([later(operation)]) == []
