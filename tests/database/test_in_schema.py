"""Django with our tables in a schema that no search_path has. These run with TEST_SCHEMA=job_queue."""

from __future__ import annotations

import json
from io import StringIO

import pytest
from django.apps import apps
from django.core.management import call_command
from django.db import connection, connections, transaction
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.recorder import MigrationRecorder
from django.test.utils import CaptureQueriesContext
from model_bakery import baker

from pgonly_django.conf import schema
from pgonly_django.models import CacheEntry, Checkpoint, Job, Session, Step
from pgonly_django.tables import table
from tests.aliases import alias, new_database
from tests.sql import sql
from tests.tasks.calls import add

if not schema():
    pytest.skip("runs with TEST_SCHEMA=job_queue", allow_module_level=True)

pytestmark = pytest.mark.django_db


def test_no_search_path_leads_to_the_tables():
    assert sql("SELECT to_regclass('pgonly' || '_job')") == [(None,)]
    assert schema() not in sql("SHOW search_path")[0][0]
    assert {
        place for (place,) in sql("SELECT schemaname FROM pg_tables WHERE tablename LIKE 'pgonly%%'")
    } == {schema()}


def test_a_job_belongs_to_the_transaction_of_its_caller():
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        add.enqueue(1)
        raise ZeroDivisionError
    assert not Job.objects.exists()


@pytest.mark.parametrize("of", [("self",), ("job",), ("self", "job")])
def test_select_for_update_locks_the_tables_it_names(of):
    step = baker.make(Step, job=baker.make(Job), result=1)
    with transaction.atomic(), CaptureQueriesContext(connection) as queries:
        assert Step.objects.select_related("job").select_for_update(of=of).get() == step
    names = {"self": '"pgonly_step"', "job": '"pgonly_job"'}
    locking = [query["sql"] for query in queries if query["sql"].startswith("SELECT")]
    assert locking[0].endswith(f"FOR UPDATE OF {', '.join(names[each] for each in of)}")


def test_flush_knows_every_table_of_ours():
    known = connection.introspection.django_table_names(only_existing=True, include_views=False)
    assert {model._meta.db_table for model in apps.get_app_config("pgonly_django").get_models()} <= set(known)
    add.enqueue(1)
    out = StringIO()
    call_command("sqlflush", stdout=out)
    assert table("pgonly_job") in out.getvalue()


@pytest.mark.parametrize("turn", [1, 2])
@pytest.mark.django_db(transaction=True)
def test_no_row_stays_after_a_test_that_commits(turn):
    for model in (Job, Step, Session, CacheEntry, Checkpoint):
        assert not model.objects.exists(), f"{model.__name__} has rows of the test before"
    baker.make(Step, job=baker.make(Job))
    baker.make(Checkpoint, job=Job.objects.get())
    Session.objects.create(key_hash="00" * 32, data={}, expires_at="2100-01-01T00:00Z")
    CacheEntry.objects.create(key="a:1:b", codec=0, value=b"")


@pytest.mark.parametrize("turn", [1, 2])
@pytest.mark.django_db(transaction=True, reset_sequences=True)
def test_sequences_begin_again_where_a_test_asks_for_it(turn):
    assert baker.make(Step, job=baker.make(Job)).pk == 1


@pytest.mark.django_db(transaction=True)
def test_rows_that_a_test_case_serialized_come_back():
    step = baker.make(Step, job=baker.make(Job), name="kept", result={"a": 1})
    text = connection.creation.serialize_db_to_string()
    assert {"pgonly_django.job", "pgonly_django.step"} <= {row["model"] for row in json.loads(text)}
    call_command("flush", interactive=False, verbosity=0, inhibit_post_migrate=True)
    assert not Job.objects.exists()
    connection.creation.deserialize_db_from_string(text)
    assert Step.objects.get().result == step.result


@pytest.mark.django_db(transaction=True)
def test_dumped_rows_are_loaded_and_new_ones_get_other_keys(tmp_path):
    job = baker.make(Job)
    Step.objects.create(pk=50, job=job, name="dumped")
    file = tmp_path / "rows.json"
    call_command("dumpdata", "pgonly_django.job", "pgonly_django.step", output=str(file), verbosity=0)
    call_command("flush", interactive=False, verbosity=0, reset_sequences=True)
    call_command("loaddata", str(file), verbosity=0)
    assert Step.objects.get().pk == 50
    assert Step.objects.create(job_id=job.pk, name="new").pk == 51


def test_the_connection_describes_our_tables_and_leaves_the_search_path_alone():
    before = sql("SHOW search_path")
    with connection.cursor() as cursor:
        describe = connection.introspection
        columns = {column.name for column in describe.get_table_description(cursor, table("pgonly_step"))}
        constraints = describe.get_constraints(cursor, table("pgonly_step"))
        sequences = describe.get_sequences(cursor, table("pgonly_step"))
        assert describe.get_table_description(cursor, "auth_user")
    assert {"id", "job_id", "name"} <= columns
    assert constraints["pgonly_step_once"]["unique"]
    assert sequences == [{"name": "pgonly_step_id_seq", "table": table("pgonly_step"), "column": "id"}]
    assert sql("SHOW search_path") == before


def test_inspectdb_shows_the_tables_of_the_project():
    out = StringIO()
    call_command("inspectdb", stdout=out)
    assert "class AuthUser(models.Model):" in out.getvalue()
    assert "Unable to inspect" not in out.getvalue()


def test_sql_of_migrations_names_the_schema():
    out = StringIO()
    call_command("sqlmigrate", "pgonly_django", "0001", stdout=out)
    assert f'CREATE SCHEMA IF NOT EXISTS "{schema()}"' in out.getvalue()
    assert f'CREATE INDEX "pgonly_job_ready" ON "{schema()}"."pgonly_job"' in out.getvalue()


@pytest.fixture
def empty(any_database):
    """An alias with a database of its own, without tables."""
    with new_database("empty") as name, alias("empty", NAME=name):
        yield connections["empty"]


def migrate(empty, name):
    executor = MigrationExecutor(empty)
    targets = (
        [("pgonly_django", name)] if name != "newest" else executor.loader.graph.leaf_nodes("pgonly_django")
    )
    executor.migrate(targets)


def indexes(empty):
    return dict(
        sql("SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = %s", schema(), using=empty.alias)
    )


def test_migrations_make_and_drop_everything_in_the_schema_forwards_and_backwards(empty):
    migrate(empty, "newest")
    assert {"pgonly_job_ready", "pgonly_job_unique"} <= set(indexes(empty))
    migrate(empty, None)
    assert indexes(empty) == {}
    migrate(empty, "newest")
    others = sql("SELECT relname FROM pg_class WHERE relname LIKE 'pgonly%%' AND relnamespace <> to_regnamespace(%s)",
                 schema(), using=empty.alias)  # fmt: skip
    assert others == []


def test_a_first_migration_whose_tables_are_there_counts_as_applied(empty):
    migrate(empty, "0001_initial")
    MigrationRecorder(empty).record_unapplied("pgonly_django", "0001_initial")
    executor = MigrationExecutor(empty)
    executor.migrate([("pgonly_django", "0001_initial")], fake_initial=True)
    assert ("pgonly_django", "0001_initial") in MigrationRecorder(empty).applied_migrations()


def test_a_database_that_gets_none_of_our_tables_gets_no_schema(empty, settings):
    settings.DATABASE_ROUTERS = [f"{__name__}.NothingOfOurs"]
    migrate(empty, "newest")
    assert sql("SELECT 1 FROM pg_namespace WHERE nspname = %s", schema(), using=empty.alias) == []


class NothingOfOurs:
    def allow_migrate(self, db, app_label, **hints):
        return app_label != "pgonly_django"


def test_an_index_is_renamed_and_a_unique_index_dropped_where_they_are():
    with connection.schema_editor() as editor:
        (ready,) = [index for index in Job._meta.indexes if index.name == "pgonly_job_failed"]
        renamed = ready.clone()
        renamed.name = "pgonly_job_renamed"
        editor.rename_index(Job, ready, renamed)
        (unique,) = [each for each in Job._meta.constraints if each.name == "pgonly_job_unique"]
        editor.remove_constraint(Job, unique)
    found = indexes(connection)
    assert "pgonly_job_renamed" in found
    assert "pgonly_job_failed" not in found
    assert "pgonly_job_unique" not in found
