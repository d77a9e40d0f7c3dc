"""Every table of ours is asked about here: a new one whose statements lack an index does not pass unseen.

The queue's statements are in statements.py. Those of sessions and cache are found by their type, planned for any
parameters (the generic plan) on tables of 20,000 rows.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil

import psycopg
import pytest
from django.apps import apps
from django.db import connection

from pgonly_django import cache, sessions
from pgonly_django.cache.entry import TABLES as CACHE_TABLES
from pgonly_django.cache.statement import Statement as CacheStatement
from pgonly_django.database.connect import connect
from pgonly_django.database.libpq import Statement
from tests.plans.statements import STATEMENTS
from tests.plans.test_plans import numbered, walk

pytestmark = pytest.mark.django_db

SESSIONS = """
INSERT INTO pgonly_session (key_hash, data, user_id, expires_at)
SELECT sha256(n::text::bytea), '{}', n % 1000, statement_timestamp() + n * interval '1 minute'
FROM generate_series(1, 20000) AS n
"""
ENTRIES = """
INSERT INTO {} (key, value, codec, expires_at, prune_minute)
SELECT 'key ' || n, 'value', 0, clock_timestamp() + n * interval '1 minute', n FROM generate_series(1, 20000) AS n
"""


def statements_of(package, kind):
    """All of that kind in the modules of a package, by the places where they stand."""
    found = {}
    for info in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"{package.__name__}.{info.name}")
        owners = [module, *(each for _, each in inspect.getmembers(module, inspect.isclass))]
        for owner in owners:
            if owner is module or owner.__module__ == module.__name__:
                named = {n: each for n, each in vars(owner).items() if isinstance(each, kind)}
                found |= {f"{info.name}.{owner.__name__.rpartition('.')[2]}.{n}": s for n, s in named.items()}
    return found


OF_SESSIONS = statements_of(sessions, Statement)
OF_CACHE = statements_of(cache, CacheStatement)


@pytest.fixture(scope="module")
def server(django_db_setup, django_db_blocker):
    """A connection to tables of sessions and entries that are known to the planner."""
    tables = ["pgonly_session", *CACHE_TABLES]
    with django_db_blocker.unblock():
        with connection.cursor() as cursor:
            for statement in (SESSIONS, *(ENTRIES.format(table) for table in CACHE_TABLES)):
                cursor.execute(statement)
            cursor.execute(f"ANALYZE {', '.join(tables)}")
        with connect("default", application_name="tables") as raw:
            yield raw
        with connection.cursor() as cursor:
            cursor.execute(f"TRUNCATE {', '.join(tables)}")


def planned(server, sql, types, count):
    """The plan for any parameters."""
    nothing = f"({', '.join(['NULL'] * count)})" if count else ""
    with server.transaction(force_rollback=True), psycopg.ClientCursor(server) as cursor:
        cursor.execute("SET LOCAL plan_cache_mode = force_generic_plan")
        cursor.execute(f"PREPARE planned {types} AS {sql}")
        cursor.execute(f"EXPLAIN (FORMAT JSON) EXECUTE planned {nothing}")
        (((plan,),),) = cursor.fetchall()
        cursor.execute("DEALLOCATE planned")
    return list(walk(plan["Plan"]))


def read_whole(nodes):
    return {node["Relation Name"] for node in nodes if node["Node Type"] == "Seq Scan"}


def of_sessions(server, name):
    statement = OF_SESSIONS[name]
    return planned(server, statement.positional.decode(), "", len(statement._order))


def of_cache(server, name, table):
    statement = OF_CACHE[name]
    types = statement.types.split()
    sql = statement.sql.replace("{table}", table)
    return planned(server, sql, f"({', '.join(types)})" if types else "", len(types))


@pytest.mark.parametrize("name", OF_SESSIONS)
def test_a_statement_of_the_sessions_reads_no_whole_table(server, name):
    assert read_whole(of_sessions(server, name)) == set()


# Locks are few, and freed ones are deleted: their table has no index but its key.
MAY_BE_READ_WHOLE = {"lock.Lock.PRUNE": {"pgonly_cache_lock"}}


@pytest.mark.parametrize("name", OF_CACHE)
def test_a_statement_of_the_cache_reads_no_whole_table(server, name):
    for table in CACHE_TABLES:
        assert read_whole(of_cache(server, name, table)) <= MAY_BE_READ_WHOLE.get(name, set())


def of_queue(server, name):
    positional, values = numbered(*STATEMENTS[name][0](["00000000-0000-7000-8000-000000000001"]))
    return planned(server, positional, "", len(values))


def test_every_table_is_asked_about(server):
    """A new one fails here until its statements are among those above."""
    plans = [
        *(of_queue(server, name) for name in STATEMENTS),
        *(of_sessions(server, name) for name in OF_SESSIONS),
        *(of_cache(server, name, table) for name in OF_CACHE for table in CACHE_TABLES),
    ]
    asked = {node["Relation Name"] for nodes in plans for node in nodes if "Relation Name" in node}
    assert asked == {model._meta.db_table for model in apps.get_app_config("pgonly_django").get_models()}
