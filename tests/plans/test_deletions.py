"""A deletion evaluates each part of its statement once, also where the planner knows nothing of the table."""

from __future__ import annotations

import pytest

from pgonly_django.cache.deletion import DELETE_MANY, DELETE_PATTERN, DELETE_RANGE, DELETE_TAGS
from pgonly_django.cache.entry import CACHE_TABLES
from tests.plans.found import sql_of
from tests.plans.table import filled
from tests.plans.test_plans import explain, walk

ROWS = 1000
ENTRIES = f"""
INSERT INTO {{}} (key, value, codec, tags) SELECT 'key ' || n, 'value', 0, ARRAY['tag']
FROM generate_series(1, {ROWS}) AS n
"""
SPAN = {"start": "key", "end": "kez"}
DELETIONS = {
    "delete_tags": (DELETE_TAGS, {"tags": ["tag"]}),
    "delete_many": (DELETE_MANY, {"keys": [f"key {number + 1}" for number in range(ROWS)]}),
    "delete_pattern": (DELETE_PATTERN, {**SPAN, "regex": "^key"}),
    "clear": (DELETE_RANGE, SPAN),
}

pytestmark = pytest.mark.django_db


@pytest.fixture(scope="module")
def server(django_db_setup, django_db_blocker):
    """A connection to tables of entries that were never analyzed."""

    def fill(cursor):
        for table in CACHE_TABLES:
            cursor.execute(f"TRUNCATE {table}")
            cursor.execute(f"DELETE FROM pg_statistic WHERE starelid = '{table}'::regclass")
            cursor.execute(ENTRIES.format(table))

    with filled(django_db_blocker, CACHE_TABLES, fill) as server:
        yield server


@pytest.mark.parametrize("kind", ["force_custom_plan", "force_generic_plan"])
@pytest.mark.parametrize("number", range(len(CACHE_TABLES)), ids=CACHE_TABLES)
@pytest.mark.parametrize("name", DELETIONS)
def test_nothing_is_evaluated_again_for_each_entry(server, name, number, kind):
    statements, parameters = DELETIONS[name]
    everything = {**parameters, "after": "", "limit": 10 * ROWS}
    nodes = list(walk(explain(server, sql_of(statements, number), everything, kind)))
    assert max(node["Actual Rows"] for node in nodes) == ROWS
    assert max(node["Actual Loops"] for node in nodes) == 1
