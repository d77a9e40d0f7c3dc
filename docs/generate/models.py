"""reference/models.md"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from django.apps import apps
from django.db import connection, models

from docs.generate import permissions
from docs.generate.api import is_public, shown
from docs.generate.columns import WORDS
from docs.generate.markdown import comments, described, documentation, paragraphs, table
from pgonly_django.models import State
from pgonly_django.outcomes import Outcome
from pgonly_django.tables import name_of

# What other modules of the package call.
INTERNAL = {"declare", "follow_from", "with_free_keys"}
# PostgreSQL's own short names of types.
ALIASES = {
    "timestamp with time zone": "timestamptz",
    "character varying": "varchar",
    "double precision": "float8",
}
SAME_COLUMNS = {"DurableCacheEntry": "CacheEntry"}
TEXT = """
# Tables and models

The tables and their models, such as `from pgonly_django.models import Job`. With
`PGONLY["SCHEMA"]` they are in that schema. You may read all of them. Change rows only with the
verbs below, which allow only valid changes of state and wake workers. An `update()` of your own
does neither.

States of a job: {states}.
"""
OUTCOMES = """
## Outcomes of a run

An outcome is the `outcome` of an entry in the job's `errors`, and of log records, hooks and spans.
A run that succeeds or waits leaves no entry.
*Counted as* is the column of the [statistics](#jobstats). *Error* says whether a job that fails in
this way has an error: at ERROR in the log, and in traces and Sentry. Other ends of a job, such as
`discarded`, are at WARNING, and are not sent to Sentry.
"""


# Said of a model below its docstring.
NOTES = {
    "JobStats": """
Workers count the runs that end, and write the counts every 15 s, before they sleep, and when they stop. A worker that
is killed loses those of its last 15 s, and one whose connection breaks at the wrong moment may write them twice. The
table has one row for each queue and task in each minute of the last three hours, and in each hour of the last 35 days,
by the database's clock. The rows stay when the jobs are pruned.

`failed` includes discarded jobs and those that a death of their worker ended; such a death counts as `crashed`, too. A
run counts as its [outcome](#outcomes-of-a-run) says. Runs of `drain()` and of the immediate backend do not count.

`waiting_times` and `run_times` are histograms: number `i`, from 0 on, counts the times up to 1 ms * 2^(i/2) that are
longer than the bound before. `run_times` has the runs that succeeded, failed or are retried.

In a project with thousands of queues or tasks a worker writes 500 rows at a time; the rest counts under an empty task.
""",
}


def page() -> str:
    parts = [TEXT.strip().format(states=", ".join(f"`{state.value}`" for state in State))]
    parts += [OUTCOMES.strip(), table(["outcome", "", "counted as", "error"], map(outcome_row, Outcome))]
    for model in apps.get_app_config("pgonly_django").get_models():
        parts += () if model._meta.proxy else section(model)
    return "\n\n".join([*(part for part in parts if part), permissions.chapter()])


def outcome_row(outcome: Outcome) -> tuple[str, str, str, str]:
    counts = f"`{outcome.counts}`" if outcome.counts else ""
    if counts == "`retried`":
        counts += ", or `failed` where it ends the job"
    return f"`{outcome}`", comments(Outcome)[outcome.name], counts, "yes" if outcome.is_error else ""


def section(model: type[models.Model]) -> Iterator[str]:
    meta = model._meta
    yield f"## {model.__name__}"
    yield documentation(model)
    if model.__name__ in NOTES:
        yield paragraphs(NOTES[model.__name__])
    yield f"Table `{name_of(meta.db_table)}`:"
    if same := SAME_COLUMNS.get(model.__name__):
        yield f"Its columns are those of [{same}](#{same.lower()})."
    else:
        yield table(["column", "type", ""], map(row, meta.concrete_fields))
    yield verbs(type(model._default_manager.all()))


def row(field: models.Field[Any, Any]) -> tuple[str, str, str]:
    target = f"To `{field.remote_field.model.__name__}`." if field.remote_field else ""
    key = "The primary key." if field.primary_key else ""
    says = " ".join(part for part in (key, target, words(field)) if part)
    kind = str(field.db_type(connection))
    for name, alias in ALIASES.items():
        kind = kind.replace(name, alias)
    return f"`{field.column}`", f"`{kind}`" + ", or NULL" * field.null, says


def words(field: models.Field[Any, Any]) -> str:
    return str(field.help_text) or WORDS.get(field.model.__name__, {}).get(field.name, "")


def verbs(kind: type) -> str:
    """The methods that this package adds to the querysets of a model."""
    found = {
        name: value
        for base in reversed(inspect.getmro(kind))
        if base.__module__.startswith("pgonly_django.models")
        for name, value in vars(base).items()
        if is_public(name, value) and name not in INTERNAL
    }
    return described("`.objects.`", [(shown(name, value), value) for name, value in found.items()])
