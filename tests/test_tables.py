"""Names of tables in SQL, with and without PGONLY["SCHEMA"]."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.apps import apps

from pgonly_django import tables
from pgonly_django.tables import SEQUENCES, TABLES, name_of, qualified, table
from tests.guards import place, refuse

PACKAGE = Path(tables.__file__).parent
# A table of ours where SQL has a table, or as a regclass.
NAMED = re.compile(
    r"(\b(FROM|INTO|UPDATE|JOIN|USING|COPY|TABLE|INDEX \S+ ON|VACUUM|ONLY)\s+|,\s*|\w\(')"
    rf"({'|'.join((*TABLES, *SEQUENCES))})\b"
)
QUALIFYING = {"qualified", "for_both_tables"}


@pytest.fixture
def schema(monkeypatch):
    monkeypatch.setattr(tables, "schema", lambda: "job_queue")


@pytest.mark.parametrize(
    ("plain", "expected"),
    [
        ("SELECT FROM pgonly_job", 'SELECT FROM "job_queue".pgonly_job'),
        ("pgonly_job.id, pgonly_jobs, x_pgonly_job", '"job_queue".pgonly_job.id, pgonly_jobs, x_pgonly_job'),
        ("CREATE INDEX pgonly_job_ready ON pgonly_job", 'CREATE INDEX pgonly_job_ready ON "job_queue".pgonly_job'),
        ("FROM pgonly_cache_lock, pgonly_cache", 'FROM "job_queue".pgonly_cache_lock, "job_queue".pgonly_cache'),
        ("'pgonly_cache'::regclass", "'\"job_queue\".pgonly_cache'::regclass"),
        ("nextval('pgonly_cache_lock_token'::regclass)", "nextval('\"job_queue\".pgonly_cache_lock_token'::regclass)"),
        ("pg_notify('pgonly_cache', 'x')", "pg_notify('pgonly_cache', 'x')"),
        ("'pgonly_cache:pages'", "'pgonly_cache:pages'"),
        ("FOR UPDATE OF pgonly_job", "FOR UPDATE OF pgonly_job"),
        ("RENAME TO pgonly_job", "RENAME TO pgonly_job"),
        ('"tenant".pgonly_job, public.pgonly_job', '"tenant".pgonly_job, public.pgonly_job'),
    ],
)  # fmt: skip
def test_a_name_gets_the_schema_where_it_is_a_table(schema, plain, expected):
    assert qualified(plain) == expected
    assert qualified(expected) == expected


def test_without_a_schema_texts_stay_as_they_are(monkeypatch):
    monkeypatch.setattr(tables, "schema", lambda: "")
    sql = "SELECT FROM pgonly_job"
    assert qualified(sql) is sql
    assert table("pgonly_job") == "pgonly_job"


def test_a_table_of_a_model_has_its_schema_in_quotes(schema):
    assert table("pgonly_job") == '"job_queue"."pgonly_job"'
    assert name_of(table("pgonly_job")) == name_of("pgonly_job") == "pgonly_job"


def test_a_table_must_be_in_the_list():
    with pytest.raises(ValueError, match=r"'pgonly_jobs' is not in TABLES of pgonly_django/tables\.py"):
        table("pgonly_jobs")


def test_every_model_names_its_table_by_this_module_and_every_table_has_a_model():
    models = list(apps.get_app_config("pgonly_django").get_models())
    named = {model.__name__: model._meta.db_table for model in models}
    found = {name_of(db_table) for db_table in named.values()}
    refuse(
        [
            *(
                f"The model {model}: its db_table {db_table!r} is not made by table()"
                for model, db_table in named.items()
                if name_of(db_table) not in TABLES or db_table != table(name_of(db_table))
            ),
            *(f"The table {name} of TABLES has no model" for name in TABLES if name not in found),
        ],
        'A model in pgonly_django/models/ says `db_table = table("pgonly_...")`, and TABLES of '
        "pgonly_django/tables.py has the same name.",
    )


def texts_outside_of_qualified(node: ast.AST) -> Iterator[tuple[int, str]]:
    """String literals with their lines, but not docstrings, and nothing inside a call of qualified()."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in QUALIFYING:
        return
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.lineno, node.value
    for child in ast.iter_child_nodes(node):
        yield from texts_outside_of_qualified(child)


def test_every_sql_text_passes_through_qualified():
    refuse(
        [
            f"{place(file, line)}: the text with {found.group()!r} is not inside of qualified()"
            for file in sorted(PACKAGE.rglob("*.py"))
            for line, text in texts_outside_of_qualified(ast.parse(file.read_text()))
            if (found := NAMED.search(text))
        ],
        'Write `NAME = qualified("...")`, from pgonly_django/tables.py: it puts PGONLY["SCHEMA"] before the table.',
    )
