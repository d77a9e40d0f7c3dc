"""The tests of a project never reach its real data: tests/sample_project is one, and its tests are run here."""

from __future__ import annotations

import os
import re
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg
import pytest
from psycopg import sql

from pgonly_django.conf import schema
from pgonly_django.database.connect import connection_params
from tests import zygote
from tests.testing.entry_point import with_entry_point

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "tests.sample_project"
PYTEST = ["-m", "pytest", "-q", "--noconftest", "-o", "python_files=suite_*.py"]
PYTEST += ["-p", "no:cacheprovider", "-p", "no:randomly", "-n", "2", "tests/sample_project"]
ONE_PROCESS = ["-n", "0"]


@pytest.fixture(scope="module")
def real_data():
    """Reads what there is in the project's real databases."""
    name = f"sample_{os.getpid()}"
    names = [name, f"{name}_other"]
    with to("postgres") as server:
        for each in names:
            server.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(each)))
        try:
            run(name, "-m", f"{PACKAGE}.write_real_data")
            yield lambda: {each: rows_of(each) for each in names}
        finally:
            made = server.execute("SELECT datname FROM pg_database WHERE datname LIKE %s", [f"%{name}%"])
            for (each,) in made.fetchall():
                server.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(each)))


def to(database):
    return psycopg.connect(
        **{**connection_params("default", application_name="tests"), "dbname": database}, autocommit=True
    )


def rows_of(database):
    with to(database) as connection:
        tables = connection.execute(
            "SELECT relname FROM pg_class WHERE relname LIKE 'pgonly%' AND relkind = 'r'"
        )
        return {table: rows_in(connection, table) for (table,) in tables.fetchall()}


def rows_in(connection, table):
    query = sql.SQL("SELECT whole::text FROM {} AS whole ORDER BY 1").format(
        sql.Identifier(*filter(None, [schema(), table]))
    )
    return [row for (row,) in connection.execute(query)]


def run(database, *arguments):
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": f"{PACKAGE}.settings", "SAMPLE_DATABASE": database}
    with TemporaryDirectory() as folder:
        environment["PYTHONPATH"] = with_entry_point(Path(folder))
        done = zygote.run(list(arguments), env=environment)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    return done.stdout + done.stderr


def number_of_tests(output):
    return int(re.search(r"(\d+) (?:tests in|passed)", output).group(1))


DJANGO = ["-m", "django", "test", "--noinput"]
ALL = [f"{PACKAGE}.{suite}" for suite in ("suite_django", "suite_drain", "suite_resumable")]


@pytest.mark.process
@pytest.mark.parametrize(
    ("least", "command"),
    [
        pytest.param(
            28, [*DJANGO, *ALL], id="Django's runner, also with tests that drain and that kill jobs"
        ),
        pytest.param(17, [*DJANGO, "--parallel=2", f"{PACKAGE}.suite_django"], id="its processes"),
        pytest.param(
            5, [*DJANGO, f"{PACKAGE}.suite_django.InSimpleTestCase"], id="without any test database"
        ),
        pytest.param(17, [*DJANGO, "--keepdb", f"{PACKAGE}.suite_django"], id="keeping the test databases"),
        pytest.param(90, PYTEST, id="pytest"),
        pytest.param(5, [*PYTEST, *ONE_PROCESS, "-k", "without_the_mark"], id="pytest without any"),
    ],
)
def test_tests_of_every_kind_leave_the_real_databases_as_they_were(real_data, command, least):
    before = real_data()
    assert all(rows["pgonly_cache"] for rows in before.values())
    name = next(iter(before))
    assert number_of_tests(run(name, *command)) >= least
    assert real_data() == before
