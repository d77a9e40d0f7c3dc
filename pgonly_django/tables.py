"""The place of our tables: the schema that PGONLY["SCHEMA"] names, or where the connection's search_path leads.

SQL is written with plain names, `FROM pgonly_job`, and passed through `qualified()` once, where the constant stands:
`CLAIMED = qualified("SELECT ... FROM pgonly_job")`. Models and migrations name their table by `table()`.
`tests/test_tables.py` finds what was forgotten.
"""

from __future__ import annotations

import re

from pgonly_django.conf import schema

# Every table. pgonly_job comes first: where it is, the others belong.
TABLES = (
    "pgonly_job",
    "pgonly_step",
    "pgonly_checkpoint",
    "pgonly_job_output",
    "pgonly_event",
    "pgonly_wait",
    "pgonly_batch",
    "pgonly_worker",
    "pgonly_job_stats",
    "pgonly_queue",
    "pgonly_queue_tokens",
    "pgonly_limiter",
    "pgonly_limiter_slot",
    "pgonly_limiter_waiter",
    "pgonly_budget",
    "pgonly_reservation",
    "pgonly_cost",
    "pgonly_schedule",
    "pgonly_tick",
    "pgonly_cache",
    "pgonly_cache_durable",
    "pgonly_cache_usage",
    "pgonly_cache_lock",
    "pgonly_session",
)
# Sequences that statements name. All belong to a column of a table, and move with it.
SEQUENCES = ("pgonly_cache_lock_token",)
NAMED_INDEXES = ("pgonly_job_pkey",)  # that statements name

_names = "|".join((*TABLES, *SEQUENCES, *NAMED_INDEXES))
# A whole name that is not qualified yet. FOR UPDATE OF and RENAME TO take no schema. In quotes it is a value, unless it
# is cast to regclass: pg_notify('pgonly_cache', ...) names a channel.
_NAME = re.compile(
    rf"""(?<![\w."'])(?<!\bOF )(?<!\bRENAME TO )({_names})\b(?!["'])|(?<=')({_names})(?='::regclass)"""
)


def table(name: str) -> str:
    """Returns the name for Meta.db_table and migrations: with the schema, in quotes, which Django leaves unchanged."""
    if name not in TABLES:
        raise ValueError(f"{name!r} is not in TABLES of pgonly_django/tables.py. Add it there.")
    return f'"{schema()}"."{name}"' if schema() else name


def name_of(db_table: str) -> str:
    """Returns the plain name of what table() returned."""
    return db_table.rpartition(".")[2].strip('"')


def qualified(sql: str) -> str:
    """Returns `sql` with the schema before each of our tables. Only for texts without values: a value that reads like a
    table would be changed too. Doing it twice changes nothing more."""
    if not schema():
        return sql
    return _NAME.sub(rf'"{schema()}".\g<0>', sql)
