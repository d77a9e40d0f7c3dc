"""No statement of the queue reads the whole of any table, whatever the statistics and the kind of plan."""

from __future__ import annotations

import json
import re
from itertools import count

import psycopg
import pytest

from pgonly_django.models import Job
from pgonly_django.models.job_rows import UNIQUE_ROW
from pgonly_django.queue.known_names import SETTINGS, STORED_CALLS
from pgonly_django.tables import qualified
from tests.guards import refuse
from tests.plans.found import OF_THE_QUEUE, positional, shown, where_is
from tests.plans.statements import STATEMENTS, asked
from tests.plans.table import fill, filled

# Of each table: a batch is 1,000 rows at most, found and updated; a few thousand are due. All ready jobs are 20,000.
ROWS_READ_AT_MOST = 6000

# As many rows as there were workers lately, asked once a rescue; and one row for each queue.
OF_WORKERS = (
    "rescue",
    "idle beat",
    "end transactions",
    "forget workers",
    "forget stopped workers",
    "first of its name",
    "known dead, rescue",
    "known dead, stop",
)
MAY_BE_READ_WHOLE = {
    **{name: {"pgonly_worker"} for name in OF_WORKERS},
    **{name: {"pgonly_queue"} for name in STATEMENTS if name.startswith("claim, ")},
    **{name: {"pgonly_queue"} for name in STATEMENTS if name.startswith("health, oldest")},
    "limited, gates": {"pgonly_queue", "pgonly_queue_tokens", "pgonly_limiter"},
    # Whether another worker lives, once for each claim.
    **{name: {"pgonly_queue", "pgonly_worker"} for name in STATEMENTS if name.endswith("beside others")},
    **{
        name: {"pgonly_worker"}
        for name in STATEMENTS
        if re.match("limited, (candidates|suspects|look)", name)
    },
}

pytestmark = pytest.mark.django_db
number = count(1)

ALL = ", ".join(OF_THE_QUEUE)
REGCLASSES = qualified(", ".join(f"'{name}'::regclass" for name in OF_THE_QUEUE))
# The planner knows no more of the tables than their size, as after a restore without ANALYZE.
FORGET_STATISTICS = f"""
DELETE FROM pg_statistic WHERE starelid = ANY (ARRAY[{REGCLASSES}])
"""
# ... or not even that, as after CREATE TABLE and a first big COPY.
FORGET_SIZE = f"""
UPDATE pg_class SET reltuples = -1, relpages = 0, relallvisible = 0
WHERE oid = ANY (ARRAY[{REGCLASSES}])
    OR oid IN (SELECT indexrelid FROM pg_index WHERE indrelid = ANY (ARRAY[{REGCLASSES}]))
"""


@pytest.fixture(scope="module")
def big_table(django_db_setup, django_db_blocker):
    with filled(django_db_blocker, sorted(OF_THE_QUEUE), fill) as server:
        yield server


# Of the six passes the first ring runs the hardest one: a plan that is made once, of tables never analyzed.
slow = pytest.mark.slow
STATISTICS = [pytest.param("warm", marks=slow), pytest.param("cold", marks=slow), "never analyzed"]
KINDS = [pytest.param("force_custom_plan", marks=slow), "force_generic_plan"]


@pytest.fixture(scope="module", params=STATISTICS)
def server(request, big_table):
    """A connection to the big table with good statistics, with none, or with not even a row count."""
    big_table.execute(f"ANALYZE {ALL}")
    if request.param != "warm":
        big_table.execute(FORGET_STATISTICS)
    if request.param == "never analyzed":
        big_table.execute(FORGET_SIZE)
    return big_table


@pytest.mark.parametrize("kind", KINDS)
def test_each_statement_uses_its_index(server: psycopg.Connection, kind):
    """One test for all of them, since the tables take longer to fill than the statements to be asked about."""
    held = [
        row[0] for row in server.execute("SELECT id::text FROM pgonly_job WHERE state = 'running' LIMIT 20")
    ]
    refuse(
        (line for name in STATEMENTS for line in wrong_with(server, name, held, kind)),
        "Change the statement, or the index in pgonly_django/models/, so that it reads few rows. STATEMENTS[its name] "
        "in tests/plans/statements.py names its constant and the indexes that it must use, and may use: where this "
        "plan is as good, add the index there. Tables that stay small are in MAY_BE_READ_WHOLE of "
        "tests/plans/test_plans.py.",
    )


def wrong_with(server, name, held, kind):
    _, required, optional, _ = STATEMENTS[name]
    sql, parameters = asked(name, held)
    nodes = list(walk(explain(server, sql, parameters, kind)))
    used = {node["Index Name"] for node in nodes if "Index Name" in node}
    read_whole = {node["Relation Name"] for node in nodes if node["Node Type"] == "Seq Scan"}
    required_here = required - {f"{table}_pkey" for table in read_whole}
    read = {
        table: sum(rows_read(node) for node in nodes if node.get("Relation Name") == table)
        for table in OF_THE_QUEUE
    }
    wrong = [
        *(f"    reads the whole of {table}" for table in read_whole - MAY_BE_READ_WHOLE.get(name, set())),
        *(f"    does not use the index {index}" for index in required_here - used),
        *(f"    uses the index {index}" for index in used.difference(required, optional)),
        *(
            f"    reads {rows:.0f} rows of {table}"
            for table, rows in read.items()
            if rows >= ROWS_READ_AT_MOST
        ),
    ]
    return [f"{where_is(sql, 'The statement')}, {name!r},", *wrong, shown(nodes)] if wrong else []


@pytest.mark.parametrize(
    ("jobs", "indexes"),
    [
        (lambda held: Job.objects.filter(UNIQUE_ROW, unique_key__in=KEYS), {"pgonly_job_unique"}),
        # retry()
        (
            lambda held: Job.objects.filter(pk__in=held).with_free_keys(),
            {"pgonly_job_unique", "pgonly_job_pkey"},
        ),
    ],
)
def test_a_unique_key_is_found_by_its_index(server, jobs, indexes):
    held = [row[0] for row in server.execute("SELECT id FROM pgonly_job WHERE state = 'running' LIMIT 20")]
    (plan,) = json.loads(jobs(held).explain(format="json", analyze=True))
    nodes = list(walk(plan["Plan"]))
    used = {node["Index Name"] for node in nodes if "Index Name" in node}
    assert indexes <= used <= indexes | {"pgonly_job_finished"}
    assert sum(map(rows_read, nodes)) < 200


UNFINISHED_INDEXES = {
    f"pgonly_job_{name}" for name in ("ready", "suspect", "limited", "scheduled", "running", "held")
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("limit", [None, 1000])
def test_the_calls_of_unfinished_jobs_are_counted_without_the_finished_ones(server, limit, kind):
    """For `check --deploy`; each unfinished job is read once at most."""
    ((unfinished,),) = server.execute(
        "SELECT count(*) FROM pgonly_job WHERE state IN ('scheduled', 'ready', 'running', 'held')"
    )
    with server.transaction(force_rollback=True):
        server.execute(SETTINGS, {"timeout": "10s"})
        nodes = list(walk(explain(server, STORED_CALLS, {"limit": limit, "kinds": 100}, kind)))
    assert {node["Index Name"] for node in nodes if "Index Name" in node} == UNFINISHED_INDEXES
    assert sum(map(rows_read, nodes)) <= unfinished + len(UNFINISHED_INDEXES)


KEYS = ["unfinished 10", "retained 20", "new"]


def explain(server, sql, parameters, kind):
    """The plan of a statement that was prepared on the server, as psycopg prepares it."""
    positional, values = numbered(sql, parameters)
    name = f"plan_{next(number)}"
    with server.transaction(force_rollback=True), psycopg.ClientCursor(server) as cursor:
        cursor.execute(f"SET LOCAL plan_cache_mode = {kind}")
        cursor.execute(f"PREPARE {name} AS {positional}")
        marks = f"({', '.join(['%s'] * len(values))})" if values else ""
        cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE {name} {marks}", values)
        (((plan,),),) = cursor.fetchall()
    return plan["Plan"]


def numbered(sql, parameters):
    """The statement with `$1` and so on, and their values."""
    text, names = positional(sql)
    return text, [parameters[name] for name in names]


def walk(node):
    yield node
    for child in node.get("Plans", ()):
        yield from walk(child)


def rows_read(node):
    if "Scan" not in node["Node Type"] or node["Node Type"] == "Bitmap Index Scan":
        return 0
    return (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"]
