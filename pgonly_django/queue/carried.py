"""The values that a job carries beside its arguments: columns of pgonly_job that no worker changes, each declared once.

The INSERTs, the claim, `using()`, results, the dead letter, "Run again" and the admin read this table. What else a new
one needs: a field of the model with its migration; a field of ClaimedJob (claim.py) if its job reads it; a parameter of
`using()` (tasks/task.py); and if it is shown a property of the job context and of results.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pgonly_django.queue.values import to_json


@dataclass(frozen=True, slots=True)
class Carried:
    """A value that a job carries. A retry and a redrive keep each: its row stays."""

    column: str
    option: str = ""  # of .using(), for the calls made through it
    is_json: bool = False  # claimed with the job, which fails if it cannot be read
    is_shown: bool = False  # by the job context, by results, and to people who may see the data of jobs
    runs_again: bool = False  # is in the job that a person runs again as a new one
    in_dead_letter: bool = False
    is_latest: bool = False  # the last call of a debounced job sets it, otherwise the first


CARRIED = (
    Carried("metadata", "metadata", is_json=True, is_shown=True, runs_again=True, in_dead_letter=True),
    Carried("then_job", "then", is_json=True, runs_again=True, is_latest=True),  # see tasks/bound.py
    Carried("batch_id"),
    Carried("enqueued_by"),  # see OF_JOB in enqueue.py
)
CARRIED_COLUMNS = tuple(each.column for each in CARRIED)
CARRIED_OPTIONS = tuple(each.option for each in CARRIED if each.option)
JSON_CARRIED = tuple(each.column for each in CARRIED if each.is_json)
SHOWN = tuple(each.column for each in CARRIED if each.is_shown)
RUNS_AGAIN = tuple(each.column for each in CARRIED if each.runs_again)
IN_DEAD_LETTER = tuple(each.column for each in CARRIED if each.in_dead_letter)
LATEST = tuple(each.column for each in CARRIED if each.is_latest)


def texts_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns those values of a row that are not empty as another row takes them: JSON as text."""
    return {n: to_json(v, f"The {n}") if n in JSON_CARRIED else v for n, v in values.items() if v}


def values_of(texts: Mapping[str, Any] | None) -> dict[str, Any]:
    """Does the inverse of texts_of()."""
    return {n: json.loads(v) if v and n in JSON_CARRIED else v for n, v in (texts or {}).items()}


def shown_of(job: Any) -> dict[str, Any]:
    """Returns what the context and the result of a job show, by column."""
    return {name: getattr(job, name) for name in SHOWN}
