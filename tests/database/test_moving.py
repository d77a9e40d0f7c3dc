"""manage.py pgonly_schema: all tables move to another schema and back, or none does.

DDL is rolled back like the rest, so most of these tests move the tables of the test database.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from io import StringIO
from pathlib import Path

import psycopg
import pytest
from django.apps import apps
from django.core.management import CommandError, call_command
from django.db import connection
from model_bakery import baker

from pgonly_django.conf import schema
from pgonly_django.database import moving, placement
from pgonly_django.database.connect import connection_params
from pgonly_django.models import Step, Worker
from pgonly_django.tables import name_of
from tests import zygote
from tests.tasks.calls import add
from tests.waiting import wait_for

pytestmark = pytest.mark.slow

HOME = schema() or "public"
OURS = {name_of(model._meta.db_table) for model in apps.get_app_config("pgonly_django").get_models()}


@pytest.fixture
def job_queue(monkeypatch):
    """From now on the setting says so."""
    say(monkeypatch, "new home")
    return "new home"


def say(monkeypatch, name):
    for module in (moving, placement):
        monkeypatch.setattr(module, "schema", lambda: name)


def pgonly_schema(*arguments):
    out = StringIO()
    call_command("pgonly_schema", *arguments, stdout=out)
    return out.getvalue()


def sql(query, *parameters):
    with connection.cursor() as cursor:
        cursor.execute(query, parameters)
        return cursor.fetchall() if cursor.description else None


def relations(place):
    """Tables, indexes and sequences in a schema."""
    query = "SELECT relname FROM pg_class WHERE relnamespace = to_regnamespace(quote_ident(%s)) AND relname LIKE %s"
    return {name for (name,) in sql(query, place, "pgonly%")}


@pytest.mark.django_db
def test_all_tables_move_with_their_rows_indexes_and_sequences_and_back(job_queue, monkeypatch):
    result = add.enqueue(1)
    Step.objects.create(job_id=result.id, name="first")
    before = relations(HOME)
    assert {"pgonly_job_ready", "pgonly_step_once", "pgonly_cache_lock_token", *OURS} <= before
    told = pgonly_schema("move")
    assert told.startswith(
        f'Created schema "new home".\nMoved {len(OURS)} tables from "{HOME}" to "new home": pgonly'
    )
    assert relations("new home") == before
    assert relations(HOME) == set()
    assert sql('SELECT id::text FROM "new home".pgonly_job') == [(result.id,)]
    sql('INSERT INTO "new home".pgonly_step (job_id, name) SELECT id, \'second\' FROM "new home".pgonly_job')
    assert pgonly_schema("move") == f"Nothing to move: {len(OURS)} tables are at their place.\n"
    say(monkeypatch, schema())
    assert f'tables from "new home" to "{HOME}": pgonly' in pgonly_schema("move")
    assert relations(HOME) == before
    assert [step.name for step in Step.objects.order_by("id")] == ["first", "second"]


@pytest.mark.django_db
def test_tables_that_are_elsewhere_are_named_with_what_to_do(job_queue):
    message = (
        rf"In database 'default' tables of pgonly_django are in schema \"{HOME}\" \(pgonly_job, pgonly_step and "
        rf"\d+ more\), but PGONLY\[\"SCHEMA\"\] is \"new home\"\. Stop the workers and the site and run "
        rf"`manage\.py pgonly_schema move --database default`, or correct the setting\."
    )
    (found,) = placement.check_placement(["default"])
    assert (found.id, found.hint) == ("pgonly_django.E050", "See docs/how-to/schema.md#move-the-tables.")
    for refusing in (pgonly_schema, lambda: call_command("migrate", verbosity=0)):
        with pytest.raises(CommandError, match=message):
            refusing()


@pytest.mark.django_db(transaction=True)
def test_a_worker_does_not_start_where_the_tables_are_elsewhere(job_queue):
    with pytest.raises(CommandError, match="pgonly_schema move"):
        call_command("runworker", "--burst")


@pytest.mark.django_db
def test_tables_at_their_place_are_counted_and_pass_the_check():
    assert pgonly_schema().endswith(f"Tables at their place: {len(OURS)}.\n")
    assert placement.check_placement(["default"]) == []
    assert placement.check_placement(None) == []


@pytest.mark.django_db
def test_nothing_moves_while_workers_run_unless_it_is_told_so(job_queue):
    now = sql("SELECT clock_timestamp()")[0][0]
    baker.make(Worker, name="alive", heartbeat_at=now, running=1, queues=[])
    baker.make(Worker, name="idle", heartbeat_at=now - timedelta(seconds=20), queues=[])
    baker.make(Worker, name="stopped", heartbeat_at=now, stopped_at=now, queues=[])
    with pytest.raises(
        CommandError, match=r"workers are running \(alive, idle\)\. They would lose their jobs"
    ):
        pgonly_schema("move")
    assert "Moved" in pgonly_schema("move", "--while-running")


@pytest.mark.django_db
def test_workers_that_stopped_or_died_hold_up_no_move(job_queue):
    now = sql("SELECT clock_timestamp()")[0][0]
    baker.make(Worker, heartbeat_at=now, stopped_at=now, queues=[])
    baker.make(Worker, heartbeat_at=now - timedelta(seconds=61), running=1, queues=[])
    baker.make(Worker, heartbeat_at="2020-01-01T00:00Z", queues=[])
    assert "Moved" in pgonly_schema("move")


def test_a_table_that_is_in_use_is_waited_for_a_short_time_only(job_queue, other):
    with (
        other.transaction(),
        pytest.raises(CommandError, match=r"Nothing was moved: another .* for more than 0\.1 s"),
    ):
        other.execute("SELECT FROM pgonly_session")
        pgonly_schema("move", "--lock-timeout", "0.1")
    assert relations("new home") == set()
    assert "pgonly_job" in relations(HOME)


@pytest.mark.django_db
def test_tables_on_both_sides_are_left_to_a_person_who_is_told_which_have_rows(job_queue):
    add.enqueue(1)
    sql('CREATE SCHEMA "new home"; CREATE TABLE "new home".pgonly_job (id int)')
    with pytest.raises(CommandError) as raised:
        pgonly_schema("move")
    assert f'schema "new home" has tables of the same names as schema "{HOME}"' in str(raised.value)
    assert f'  pgonly_job: in "{HOME}" with rows; in "new home" empty\nDrop those' in str(raised.value)


@pytest.mark.django_db
def test_half_a_move_is_not_completed_without_a_person_who_is_told_how(job_queue):
    sql(f'CREATE SCHEMA "new home"; ALTER TABLE "{HOME}".pgonly_session SET SCHEMA "new home"')
    with pytest.raises(CommandError) as raised:
        pgonly_schema("move")
    assert f'pgonly_session are in schema "new home" already, the others are in "{HOME}"' in str(raised.value)
    assert f'ALTER TABLE "{HOME}"."pgonly_job" SET SCHEMA "new home";' in str(raised.value)
    for line in str(raised.value).splitlines():
        if "ALTER TABLE" in line:
            sql(line)
    assert pgonly_schema("move").startswith("Nothing to move")


@pytest.mark.django_db
def test_of_several_schemas_the_one_to_move_from_is_named(job_queue):
    sql("CREATE SCHEMA tenant; CREATE TABLE tenant.pgonly_job (id int)")
    with pytest.raises(
        CommandError, match=f'in schema "tenant" .*Say which to move: --from {min(HOME, "tenant")}'
    ):
        pgonly_schema("move")
    with pytest.raises(CommandError, match='--from "nowhere" has none of the tables'):
        pgonly_schema("move", "--from", "nowhere")
    assert f'from "{HOME}"' in pgonly_schema("move", "--from", HOME)
    assert relations("tenant") == {"pgonly_job"}
    assert pgonly_schema("move", "--from", HOME).startswith("Nothing to move")


@pytest.mark.django_db
def test_another_installation_in_the_same_database_is_none_of_our_tables(monkeypatch):
    """It may be of a newer version, and have tables that this one gets by its next migration."""
    sql(
        "CREATE SCHEMA staging; CREATE TABLE staging.pgonly_job (id int); CREATE TABLE staging.pgonly_tick (id int)"
    )
    sql(f'DROP TABLE "{HOME}".pgonly_tick')
    sql("DELETE FROM django_migrations WHERE app = 'pgonly_django'")
    assert placement.check_placement(["default"]) == []
    assert 'Tables elsewhere: in schema "staging" (pgonly_job, pgonly_tick).' in pgonly_schema()
    assert pgonly_schema("move").startswith("Nothing to move")
    say(monkeypatch, "staging")
    with pytest.raises(CommandError, match=f'tables of the same names as schema "{HOME}"'):
        pgonly_schema("move", "--from", HOME)


@pytest.mark.django_db
def test_a_table_that_a_router_keeps_out_of_this_database_is_not_missed(settings):
    settings.DATABASE_ROUTERS = [f"{__name__}.NoTicks"]
    sql(f'CREATE SCHEMA staging; ALTER TABLE "{HOME}".pgonly_tick SET SCHEMA staging')
    assert placement.check_placement(["default"]) == []
    settings.DATABASE_ROUTERS = []
    assert "staging" in placement.check_placement(["default"])[0].msg


class NoTicks:
    def allow_migrate(self, db, app_label, model_name=None, **hints):
        return model_name != "tick"


@pytest.fixture
def role(db):
    """It may read Django's table of migrations, which is in another schema than ours, where ours have one."""
    name = f"mover_{os.getpid()}"
    sql(f"CREATE ROLE {name}; GRANT SELECT ON django_migrations TO {name}")
    return name


def test_a_role_that_may_not_create_the_schema_is_told_what_its_owner_does(job_queue, role):
    database = sql("SELECT current_database()")[0][0]
    sql(f'GRANT USAGE ON SCHEMA "{HOME}" TO {role}; GRANT SELECT ON ALL TABLES IN SCHEMA "{HOME}" TO {role}')
    sql(f"SET LOCAL ROLE {role}")
    with pytest.raises(CommandError) as raised:
        pgonly_schema("move")
    assert f'role "{role}" may not create that schema. As the owner of database "{database}": CREATE' in str(
        raised.value
    )
    assert f'CREATE SCHEMA "new home" AUTHORIZATION "{role}";' in str(raised.value)


def test_a_role_that_may_create_nothing_in_the_schema_is_told_the_grant(job_queue, role):
    sql(f'CREATE SCHEMA "new home"; GRANT USAGE ON SCHEMA "{HOME}" TO {role}')
    sql(f'GRANT SELECT ON ALL TABLES IN SCHEMA "{HOME}" TO {role}; SET LOCAL ROLE {role}')
    with pytest.raises(CommandError, match=f'GRANT USAGE, CREATE ON SCHEMA "new home" TO "{role}";'):
        pgonly_schema("move")


def test_a_role_that_does_not_own_the_tables_moves_nothing(job_queue, role):
    sql(f'CREATE SCHEMA "new home" AUTHORIZATION {role}; GRANT USAGE ON SCHEMA "{HOME}" TO {role}')
    sql(f'GRANT ALL ON ALL TABLES IN SCHEMA "{HOME}" TO {role}; SET LOCAL ROLE {role}')
    with pytest.raises(
        CommandError, match=r"must be owner of table pgonly_\w+\. Run it as the role that owns"
    ):
        pgonly_schema("move")


def test_a_role_that_may_use_the_tables_may_use_them_after_the_move(job_queue, role, monkeypatch):
    sql(f'GRANT SELECT ON "{HOME}".pgonly_job TO {role}')
    assert f'Granted USAGE on schema "new home" to {role}.' in pgonly_schema("move")
    sql(f'SET LOCAL ROLE {role}; SELECT FROM "new home".pgonly_job')
    assert placement.check_placement(["default"]) == []
    sql(f'RESET ROLE; REVOKE USAGE ON SCHEMA "new home" FROM {role}; SET LOCAL ROLE {role}')
    (found,) = placement.check_placement(["default"])
    assert f'GRANT USAGE ON SCHEMA "new home" TO "{role}";' in found.msg


def test_another_database_than_postgresql_and_an_unknown_alias_are_refused(settings):
    with pytest.raises(CommandError, match="--database 'missing' is not in DATABASES"):
        pgonly_schema("--database", "missing", "move")


ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def installation(transactional_db):
    """Runs manage.py of the tests' settings on a database of its own, with and without the schema."""
    name = f"installation_{os.getpid()}"
    params = {**connection_params("default", application_name="tests"), "dbname": "postgres"}
    with psycopg.connect(**params, autocommit=True) as server:
        server.execute(f"CREATE DATABASE {name}")

        def manage(schema, *arguments):
            environment = {**os.environ, "TEST_SCHEMA": schema, "SAMPLE_DATABASE": name}
            environment["DJANGO_SETTINGS_MODULE"] = "tests.process.installation_settings"
            done = zygote.run(["-m", "django", *arguments], env=environment)
            return done.returncode, done.stdout + done.stderr

        yield manage
        server.execute(f"DROP DATABASE {name} WITH (FORCE)")


ENQUEUE = "from tests.tasks.calls import add; print(add.enqueue(20, b=22).id)"
COUNT = "from pgonly_django.models import Job; print(sorted(Job.objects.values_list('state', flat=True)))"
WORK = ("runworker", "--burst", "--database", "default")


@pytest.mark.process
def test_an_installation_moves_into_a_schema_and_back_and_its_jobs_run(installation):
    def manage(schema, *arguments):
        status, output = installation(schema, *arguments)
        assert status == 0, output
        return output

    manage("", "migrate", "--verbosity=0")
    manage("", "shell", "--command", ENQUEUE)
    status, output = installation("job_queue", "migrate")
    assert status == 1
    assert "pgonly_schema move" in output
    status, output = installation("job_queue", *WORK)
    assert status == 1
    assert "pgonly_schema move" in output
    assert "Moved" in manage("job_queue", "pgonly_schema", "move")
    assert "No migrations to apply" in manage("job_queue", "migrate")
    manage("job_queue", "check", "--database", "default")
    manage("job_queue", *WORK)
    assert manage("job_queue", "shell", "--command", COUNT).endswith("['succeeded']\n")
    manage("job_queue", "shell", "--command", ENQUEUE)
    assert 'to "public"' in manage("", "pgonly_schema", "move")
    manage("", *WORK)
    assert manage("", "shell", "--command", COUNT).endswith("['succeeded', 'succeeded']\n")


@pytest.mark.process
def test_workers_whose_search_path_has_both_places_go_on_through_a_move(installation, monkeypatch):
    def manage(schema, *arguments):
        status, output = installation(schema, *arguments)
        assert status == 0, output
        return output

    monkeypatch.setenv("PGOPTIONS", "-c search_path=public,job_queue")
    manage("", "migrate", "--verbosity=0")
    manage("", "shell", "--command", ENQUEUE)
    with ThreadPoolExecutor(1) as thread:
        working = thread.submit(manage, "", "runworker", "--max-jobs", "2", "--max-idle-seconds", "100")
        wait_for(lambda: "succeeded" in manage("", "shell", "--command", COUNT))
        assert "workers are running" in installation("job_queue", "pgonly_schema", "move")[1]
        assert "Moved" in manage("job_queue", "pgonly_schema", "move", "--while-running")
        manage("job_queue", "shell", "--command", ENQUEUE)
    assert working.result()
    assert manage("job_queue", "shell", "--command", COUNT).endswith("['succeeded', 'succeeded']\n")
