"""Tasks whose failed jobs are sent again."""

from __future__ import annotations

from pgonly_django import task


@task
def screen(project_id, model="default"):
    return [project_id, model]


@task
def by_keyword(project_id, *, model):
    return [project_id, model]


@task
def any_keyword(*numbers, **options):
    return [numbers, options]


@task(unique=True, concurrency_key="account:{number}")
def unique(number): ...
