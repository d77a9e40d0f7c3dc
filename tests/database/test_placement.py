"""Where the tables are and where they should be, and the move that docs/how-to/databases.md#move-the-tables shows.

DDL is rolled back like the rest, so most of these tests move the tables of the test database.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import psycopg
import pytest
from django.apps import apps
from django.core.management import CommandError, call_command
from django.db import connection

from pgonly_django.conf import schema
from pgonly_django.database import placement
from pgonly_django.database.connect import connection_params
from pgonly_django.tables import name_of
from tests import zygote
from tests.aliases import new_database
from tests.children import database_url, environment
from tests.sql import sql, value

pytestmark = pytest.mark.slow

HOME = schema() or "public"
OURS = {name_of(model._meta.db_table) for model in apps.get_app_config("pgonly_django").get_models()}


@pytest.fixture
def job_queue(monkeypatch):
    """From now on the setting says so."""
    monkeypatch.setattr(placement, "schema", lambda: "new home")


@pytest.mark.django_db
def test_tables_that_are_elsewhere_are_named_with_what_to_do(job_queue):
    message = (
        rf"In database 'default' tables of pgonly_django are in schema \"{HOME}\" \(pgonly_job, pgonly_step and "
        rf"\d+ more\), but PGONLY\[\"SCHEMA\"\] is \"new home\"\. Correct the setting, or move the tables: "
        r"docs/how-to/databases\.md#move-the-tables\."
    )
    (found,) = placement.check_placement(["default"])
    assert (found.id, found.hint) == ("pgonly_django.E050", "See docs/how-to/databases.md#move-the-tables.")
    with pytest.raises(CommandError, match=message):
        call_command("migrate", verbosity=0)


@pytest.mark.django_db(transaction=True)
def test_a_worker_does_not_start_where_the_tables_are_elsewhere(job_queue):
    with pytest.raises(CommandError, match="move the tables"):
        call_command("runworker", "--burst")


@pytest.mark.django_db
def test_tables_at_their_place_pass_the_check():
    assert set(placement.find(connection).at_place) == OURS
    assert placement.check_placement(["default"]) == []
    assert placement.check_placement(None) == []


@pytest.mark.django_db
def test_another_installation_in_the_same_database_is_none_of_our_tables():
    """It may be of a newer version, and have tables that this one gets by its next migration."""
    sql("CREATE SCHEMA staging; CREATE TABLE staging.pgonly_job (id int)")
    assert placement.check_placement(["default"]) == []
    for name in OURS:
        sql(f'DROP TABLE "{HOME}"."{name}" CASCADE')
    sql("DELETE FROM django_migrations WHERE app = 'pgonly_django'")
    assert placement.check_placement(["default"]) == []


@pytest.mark.django_db
def test_a_move_that_stopped_halfway_is_found_again():
    sql(f'CREATE SCHEMA elsewhere; ALTER TABLE "{HOME}".pgonly_job SET SCHEMA elsewhere')
    (found,) = placement.check_placement(["default"])
    assert 'in schema "elsewhere" (pgonly_job)' in found.msg


@pytest.mark.django_db
def test_a_database_that_a_router_keeps_the_tables_out_of_misses_none(job_queue, settings):
    settings.DATABASE_ROUTERS = [f"{__name__}.NoTables"]
    assert placement.check_placement(["default"]) == []
    settings.DATABASE_ROUTERS = []
    assert placement.check_placement(["default"]) != []


class NoTables:
    def allow_migrate(self, db, app_label, model_name=None, **hints):
        return False


@pytest.fixture
def role(db):
    """It may read Django's table of migrations, which is in another schema than ours, where ours have one."""
    name = f"mover_{os.getpid()}"
    sql(f"CREATE ROLE {name}; GRANT SELECT ON django_migrations TO {name}")
    return name


def test_a_role_that_may_not_create_the_schema_is_told_what_its_owner_does(job_queue, role):
    database = value("SELECT current_database()")
    sql(f"SET LOCAL ROLE {role}")
    with pytest.raises(CommandError) as raised:
        placement.create_schema(connection)
    assert f'role "{role}" may not create that schema. As the owner of database "{database}": CREATE' in str(
        raised.value
    )
    assert f'CREATE SCHEMA "new home" AUTHORIZATION "{role}";' in str(raised.value)


def test_a_role_that_may_create_nothing_in_the_schema_is_told_the_grant(job_queue, role):
    sql(f'CREATE SCHEMA "new home"; SET LOCAL ROLE {role}')
    with pytest.raises(CommandError, match=f'GRANT USAGE, CREATE ON SCHEMA "new home" TO "{role}";'):
        placement.create_schema(connection)


def test_a_role_that_may_not_use_the_schema_is_told_the_grant(job_queue, role):
    sql('CREATE SCHEMA "new home"')
    for name in OURS:
        sql(f'ALTER TABLE "{HOME}"."{name}" SET SCHEMA "new home"')
    assert placement.check_placement(["default"]) == []
    sql(f"SET LOCAL ROLE {role}")
    (found,) = placement.check_placement(["default"])
    assert f'GRANT USAGE ON SCHEMA "new home" TO "{role}";' in found.msg


ROOT = Path(__file__).resolve().parents[2]
ENQUEUE = "from tests.tasks.calls import add; print(add.enqueue(20, b=22).id)"
COUNT = "from pgonly_django.models import Job; print(sorted(Job.objects.values_list('state', flat=True)))"


@pytest.fixture
def installation(transactional_db):
    """Runs manage.py of the tests' settings on a database of its own, with and without the schema; and the database."""
    with new_database("installation") as name:

        def manage(schema, *arguments):
            env = environment(TEST_SCHEMA=schema, DATABASE_URL=database_url(NAME=name))
            done = zygote.run(["-m", "django", *arguments], env=env)
            return done.returncode, done.stdout + done.stderr

        params = connection_params("default", application_name="tests")
        with psycopg.connect(**{**params, "dbname": name}, autocommit=True) as database:
            yield manage, database


def move_as_documented(database, source, target):
    """The statements of the page, as psql would send them, for a role that is here."""
    page = (ROOT / "docs/how-to/databases.md").read_text()
    (block,) = re.findall(r"```sql\n(   BEGIN;.*?)```", page, re.DOTALL)
    block = (
        block.replace("job_queue", target).replace("'public'", f"'{source}'").replace("TO app", "TO PUBLIC")
    )
    before, listing, after = re.split(r"(SELECT format\(.*?)\\gexec", block, flags=re.DOTALL)
    database.execute(before)
    for (statement,) in database.execute(listing).fetchall():
        database.execute(statement)
    database.execute(after)


@pytest.mark.process
def test_an_installation_moves_into_a_schema_and_back_and_its_jobs_run(installation):
    run, database = installation

    def manage(schema, *arguments):
        status, output = run(schema, *arguments)
        assert status == 0, output
        return output

    work = ("runworker", "--burst", "--database", "default")
    manage("", "migrate", "--verbosity=0")
    manage("", "shell", "--command", ENQUEUE)
    for refusing in (("migrate",), work):
        status, output = run("job_queue", *refusing)
        assert status == 1
        assert "move the tables" in output
    move_as_documented(database, "public", "job_queue")
    manage("job_queue", "migrate", "--check")  # fails where one is left
    manage("job_queue", "check", "--database", "default")
    manage("job_queue", *work)
    assert manage("job_queue", "shell", "--command", COUNT).endswith("['succeeded']\n")
    manage("job_queue", "shell", "--command", ENQUEUE)
    move_as_documented(database, "job_queue", "public")
    manage("", *work)
    assert manage("", "shell", "--command", COUNT).endswith("['succeeded', 'succeeded']\n")
