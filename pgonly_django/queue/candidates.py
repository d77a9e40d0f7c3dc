"""Conditions, querysets and changes of jobs in Django's ORM, compiled into the text of statements.

A claim locks its candidates with `select_for_update(skip_locked=True)` and updates them in the same statement, which
the ORM cannot say. So the queryset is compiled once, with its values as literals, and stands inside that statement.
"""

from __future__ import annotations

import re
from typing import Any

from django.db.backends.postgresql.base import DatabaseWrapper
from django.db.models import BooleanField, Field, Q, QuerySet
from django.db.models.expressions import RawSQL
from django.db.models.sql import Query, UpdateQuery
from psycopg.sql import quote

from pgonly_django.models import Job
from pgonly_django.models.job import JobQuerySet
from pgonly_django.models.job_rows import IS_LIMITED, IS_READY, IS_SUSPECT


class _Unconnected(DatabaseWrapper):
    """Compiles FOR UPDATE without a transaction. Django would open a connection to look for one."""

    def get_autocommit(self) -> bool:
        return False


_unconnected = _Unconnected({}, "pgonly_django")


def claimable(*conditions: Q | RawSQL, **columns: Any) -> JobQuerySet:
    """Returns the jobs that a claim may take, the oldest first. It passes over those that another claim has locked."""
    return (
        Job.objects.filter(*conditions, **columns)
        .order_by("ready_at", "id")
        .select_for_update(skip_locked=True)
    )


def of(column: str) -> RawSQL:
    """Returns a column of what stands before the LATERAL, such as "band.queue"."""
    return RawSQL(column, [], output_field=Field())  # noqa: S611 - our own text


def where(condition: str) -> RawSQL:
    """Returns a condition on pgonly_job that the ORM cannot say, with parameters as a Statement marks them."""
    return RawSQL(condition, [], output_field=BooleanField())  # noqa: S611 - our own text


def sql_of(rows: QuerySet[Any, Any]) -> str:
    """Returns the SELECT of a queryset."""
    return _with_literals(*rows.query.get_compiler(connection=_unconnected).as_sql())


def condition_of(rows: Q) -> str:
    """Returns the condition as Django writes that of an index, in which PostgreSQL recognizes it."""
    query = Query(Job, alias_cols=False)
    compiler = query.get_compiler(connection=_unconnected)
    return _with_literals(*query.build_where(rows).as_sql(compiler, _unconnected))


def changes_of(changes: dict[str, Any]) -> str:
    """Returns what stands after SET in an UPDATE of pgonly_job."""
    query = UpdateQuery(Job, alias_cols=False)
    query.add_update_values(changes)
    update = query.get_compiler(connection=_unconnected).as_sql()
    return _with_literals(*update).partition(" SET ")[2]


def _with_literals(sql: str, parameters: Any) -> str:
    values = iter(parameters)
    return re.sub("%s", lambda _: quote(next(values)), sql)


# The rows of pgonly_job_ready, pgonly_job_suspect and pgonly_job_limited. The values are literals in every statement:
# with a parameter the planner cannot use the partial index after the prepared plan is generic.
READY_ROW, SUSPECT_ROW, LIMITED_ROW = map(condition_of, (IS_READY, IS_SUSPECT, IS_LIMITED))
# Of one band of pgonly_job_limited.
FIRST_BY_KEY = "ORDER BY concurrency_key, ready_at, id LIMIT 1"
