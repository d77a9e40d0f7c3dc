"""Every table and every statement of ours is asked about here: a new one does not pass without a plan.

The statements of the queue are in statements.py. Those of sessions and cache are planned for any parameters (the
generic plan) on tables of 20,000 rows.
"""

from __future__ import annotations

import re

import psycopg
import pytest

from pgonly_django.cache.entry import CACHE_TABLES as CACHE_TABLES
from pgonly_django.models import State
from tests.guards import refuse
from tests.plans.found import TABLES, found, positional, shown, sql_of, where
from tests.plans.statements import INSERTS, PARTS, STATEMENTS, asked
from tests.plans.table import WORKER, filled, rows_before_indexes
from tests.plans.test_plans import numbered, walk
from tests.queue.rows import insert_jobs

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
LIMITERS = """
INSERT INTO pgonly_limiter (name, concurrent) SELECT 'limiter ' || n, 1000 FROM generate_series(1, 200) AS n;
INSERT INTO pgonly_limiter_slot (limiter, number, holder, who, expires_at)
SELECT 'limiter ' || l, n, gen_random_uuid(), '', clock_timestamp()
FROM generate_series(1, 200) AS l, generate_series(1, 1000) AS n;
INSERT INTO pgonly_limiter_waiter (limiter, id, who, tokens, expires_at)
SELECT 'limiter ' || n % 20, gen_random_uuid(), '', 0, clock_timestamp() FROM generate_series(1, 200000) AS n
"""
BUDGETS = """
INSERT INTO pgonly_budget (name, usd, per, timezone)
SELECT 'p' || n, 1, 'day', 'UTC' FROM generate_series(1, 200000) AS n;
INSERT INTO pgonly_reservation (id, budget, usd, expires_at, is_expired)
SELECT gen_random_uuid(), 'p' || n % 100, 1, clock_timestamp() + interval '1 day', n % 2 = 0
FROM generate_series(1, 200000) AS n;
INSERT INTO pgonly_cost (usd, at) SELECT 1, clock_timestamp() FROM generate_series(1, 200000) AS n
"""
HELD_JOBS = insert_jobs("generate_series(1, 200000) AS n", state="'held'", held_by="'budget:p' || n % 20")

FOUND = found()
SESSION_ROOMS = "sessions.", "management.commands.pgonly_encrypt_sessions."
CACHE_ROOMS = "cache.", "throttling."
OF_SESSIONS = [
    name for name in FOUND if name.startswith(SESSION_ROOMS) and name != "sessions.previous_engine.INSERT_ALL"
]
OF_LIMITS = [name for name in FOUND if name.startswith("limits.")]
OF_CACHE = [name for name in FOUND if name.startswith(CACHE_ROOMS)]
ELSEWHERE = (
    *SESSION_ROOMS,
    *CACHE_ROOMS,
    "limits.",
    "admin.",
    "monitoring.",
    "queue.known_names.",
)  # below, in tests/admin/jobs/test_plans.py, in tests/monitoring/test_plans.py and in test_plans.py


@pytest.fixture(scope="module")
def server(django_db_setup, django_db_blocker):
    """A connection to tables of sessions and entries that are known to the planner."""
    limits = ["pgonly_limiter", "pgonly_limiter_slot", "pgonly_limiter_waiter"]
    limits += ["pgonly_budget", "pgonly_reservation", "pgonly_cost", "pgonly_job"]
    tables = ["pgonly_session", *CACHE_TABLES, *limits]

    def fill(cursor):
        entries = [ENTRIES.format(table) for table in CACHE_TABLES]
        with rows_before_indexes(cursor, *tables):
            for statement in (SESSIONS, LIMITERS, BUDGETS, HELD_JOBS, *entries):
                cursor.execute(statement)
        cursor.execute(f"ANALYZE {', '.join(tables)}")

    with filled(django_db_blocker, tables, fill) as server:
        yield server


def planned(server, sql):
    """The plan for any parameters."""
    count = len(set(re.findall(r"\$\d+", sql)))
    nothing = f"({', '.join(['NULL'] * count)})" if count else ""
    with server.transaction(force_rollback=True), psycopg.ClientCursor(server) as cursor:
        cursor.execute("SET LOCAL plan_cache_mode = force_generic_plan")
        cursor.execute(f"PREPARE planned AS {sql}")
        cursor.execute(f"EXPLAIN (FORMAT JSON) EXECUTE planned {nothing}")
        (((plan,),),) = cursor.fetchall()
        cursor.execute("DEALLOCATE planned")
    return list(walk(plan["Plan"]))


def refuse_whole_reads(name, nodes, allowed=frozenset()):
    tables = {node["Relation Name"] for node in nodes if node["Node Type"] == "Seq Scan"} - allowed
    refuse(
        [*(f"{where(name)} reads the whole of {table}" for table in tables), shown(nodes)] if tables else [],
        "Give the statement a condition that an index answers, or an index to the model in pgonly_django/models/. A "
        "table that stays small is allowed in tests/plans/test_tables.py, with the reason.",
    )


def of_one_table(server, name):
    return planned(server, positional(sql_of(FOUND[name]))[0])


def of_cache(server, name, table):
    sql = sql_of(FOUND[name], CACHE_TABLES.index(table)).replace("{table}", table)
    return planned(server, positional(sql)[0])


@pytest.mark.parametrize("name", OF_SESSIONS)
def test_a_statement_of_the_sessions_reads_no_whole_table(server, name):
    refuse_whole_reads(name, of_one_table(server, name))


@pytest.mark.parametrize("name", OF_LIMITS)
def test_a_statement_of_the_limits_reads_no_whole_table(server, name):
    # The names of all limiters, when an unknown one is asked for.
    allowed = {"pgonly_limiter"} if name == "limits.declarations.NAMES" else set()
    refuse_whole_reads(name, of_one_table(server, name), allowed)


# Locks are few, and freed ones are deleted: their table has no index but its key. A cache has one row of usage.
MAY_BE_READ_WHOLE = {
    "cache.lock.Lock.PRUNE": {"pgonly_cache_lock"},
    "cache.lock.PRUNE_LOCKS": {"pgonly_cache_lock"},
    "cache.prune.PRUNE_EXPIRED": {"pgonly_cache_usage"},
}


@pytest.mark.parametrize("name", OF_CACHE)
def test_a_statement_of_the_cache_reads_no_whole_table(server, name):
    for table in CACHE_TABLES:
        refuse_whole_reads(name, of_cache(server, name, table), MAY_BE_READ_WHOLE.get(name, set()))


def of_queue(server, name):
    return planned(server, numbered(*asked(name, [str(WORKER)]))[0])


def test_every_table_is_asked_about(server):
    """A new one fails here until its statements are among those above."""
    plans = [
        *(of_queue(server, name) for name in STATEMENTS),
        *(of_one_table(server, name) for name in (*OF_SESSIONS, *OF_LIMITS)),
        *(of_cache(server, name, table) for name in OF_CACHE for table in CACHE_TABLES),
    ]
    asked = {node["Relation Name"] for nodes in plans for node in nodes if "Relation Name" in node}
    refuse(
        [f"No statement that is planned here reads {table}" for table in sorted(TABLES - asked)],
        "Add the statements of the table, with the indexes that they use, to tests/plans/statements.py.",
    )
    assert asked == TABLES


STATES = re.compile(r"\bstate(?: \|\| '')? (?:=|<>|IN) ('\w+'|\(['\w, ]+\))")


def test_statements_name_only_states_that_exist():
    named = {
        (state, name)
        for name, each in FOUND.items()
        for condition in STATES.findall(sql_of(each))
        for state in re.findall(r"\w+", condition)
    }
    refuse(
        [f"{where(name)} asks for the state {state!r}" for state, name in named if state not in State.values],
        f"A job is {', '.join(State.values)}: the constants in pgonly_django/models/job_rows.py have them.",
    )
    assert {state for state, _ in named} == set(State.values)


def test_every_statement_is_asked_about():
    """A new one of the queue is named here until it is in statements.py; those of sessions and cache are found."""
    planned = {asked(name, ["id"])[0] for name in STATEMENTS}
    left = {
        name for name, each in FOUND.items() if sql_of(each) not in planned and not name.startswith(ELSEWHERE)
    }
    refuse(
        [
            *(f"{where(name)} has no plan" for name in sorted(left - INSERTS - PARTS)),
            *(
                f"{name}, of INSERTS or PARTS, is no statement, or has a plan"
                for name in (INSERTS | PARTS) - left
            ),
        ],
        "Add it to STATEMENTS in tests/plans/statements.py, with parameters as a worker gives them and the indexes "
        "that it must use. Only what has no WHERE goes into INSERTS there, and what is a part of another text into "
        "PARTS.",
    )
