"""Tasks whose failed jobs are sent again."""

from __future__ import annotations

from datetime import timedelta

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


@task(unique_for=timedelta(hours=1))
def hourly(number): ...


@task
def by_place(number, text="default", model="old", /): ...


def _of_user(user, **_):
    return None if user == "staff" else user


@task(unique=_of_user, concurrency_key=_of_user, concurrency_limit=3)
def by_user(user, note=""): ...
