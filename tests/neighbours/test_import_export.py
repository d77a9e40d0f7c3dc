"""django-import-export: jobs as a table, and a project's import that a job does."""

from __future__ import annotations

import json

import pytest
from import_export.resources import modelresource_factory

from pgonly_django import task
from pgonly_django.models import Job
from tests.jobs import add
from tests.neighbours.library.models import Paper

pytestmark = pytest.mark.slow


@task(atomic=True)
def import_papers(rows):
    import tablib

    data = tablib.Dataset(*rows, headers=["id", "title"])
    return modelresource_factory(Paper)().import_data(data, raise_errors=True).totals["new"]


def test_jobs_are_exported(transactional_db):
    result = add.enqueue(1, b=2)
    (row,) = json.loads(modelresource_factory(Job)().export().json)
    assert (row["id"], row["state"]) == (str(result.id), "ready")


def test_a_job_imports(work):
    result = import_papers.enqueue([["", "On rivers"], ["", "On lakes"]])
    work()
    result.refresh()
    assert (result.return_value, Paper.objects.count()) == (2, 2)
